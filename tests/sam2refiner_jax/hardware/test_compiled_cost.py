import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

pytest.importorskip("libtpu")

from sam2refiner_jax.hardware.chips import CHIPS, topology_mesh
from sam2refiner_jax.hardware.compiled_cost import OutOfMemory, analyse, compile_uncached, group_size, out_of_memory
from sam2refiner_jax.hardware.hlo import Instruction, parse_program
from sam2refiner_jax.hardware.operations import costliest

V5E = CHIPS["v5e"]
STEPS, ROWS, WIDTH = 4, 1024, 2048


def described(mesh, shape, *spec, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))


@functools.cache
def one_chip():
    return topology_mesh("v5e:1x1", {"data": 1})


def train(weights, batches):
    """Steps of gradient descent: two matrix products and an all-reduce each."""

    def step(weights, batch):
        gradient = jax.grad(lambda w: jnp.sum(jnp.tanh(batch @ w).astype(jnp.float32) ** 2))(weights)
        return weights - gradient, None

    return jax.lax.scan(step, weights, batches)[0]


@functools.cache
def trained():
    mesh = topology_mesh("v5e:4x4", {"data": 8, "model": 2})
    arguments = described(mesh, (WIDTH, WIDTH), None, "model"), described(mesh, (STEPS, ROWS, WIDTH), None, "data")
    return analyse(compile_uncached(jax.jit(train, donate_argnums=0).lower(*arguments)), V5E)


def test_a_loop_costs_its_rounds():
    products = STEPS * 2 * 2 * (ROWS // 8) * WIDTH * (WIDTH // 2)
    assert products < trained().flops < 1.1 * products
    weights, batch = 2 * WIDTH * WIDTH // 2, 2 * ROWS // 8 * WIDTH
    # Each round reads the weights and writes them, twice where the gradient is a step of its own, and reads its batch.
    least = STEPS * (4 * weights + 2 * batch)
    assert least < trained().bytes_accessed < 4 * least


def test_traffic_is_of_what_is_not_kept_on_the_chip():
    n = 8192
    large, vector = described(one_chip(), (n, n)), described(one_chip(), (n,))
    cost = analyse(compile_uncached(jax.jit(lambda m, v: jnp.tanh(m @ v) @ m).lower(large, vector)), V5E)
    # The matrix, twice as it is too large to keep; the two products' vectors are never off the chip.
    assert 2 * 2 * n * n <= cost.off_chip_bytes < 1.01 * 2 * 2 * n * n
    assert cost.memory_seconds == cost.off_chip_bytes / V5E.hbm_bandwidth
    assert cost.bound_by == "memory traffic"


def test_what_a_loop_keeps_moves_once():
    """A round takes a slice of an array and writes one into another's place, forwards and for the gradient."""
    rounds, n = 16, 2048
    rows = described(one_chip(), (rounds, n, n))

    def squares(rows):
        return jax.lax.scan(lambda carry, row: (carry, jnp.tanh(row)), 0, rows)[1]

    def gradient(rows, cotangents):
        return jax.vjp(squares, rows)[1](cotangents)[0]

    array = 2 * rounds * n * n
    cost = analyse(compile_uncached(jax.jit(squares).lower(rows)), V5E)
    assert cost.off_chip_bytes == pytest.approx(2 * array, rel=1e-3)  # read and written
    # Two arrays are kept; they, the cotangents and the gradient move once more, and three may be filled with zeros.
    cost = analyse(compile_uncached(jax.jit(gradient).lower(rows, rows)), V5E)
    assert 7 * array <= cost.off_chip_bytes < 10.01 * array


def test_the_compiler_estimates_and_names_lines_of_source():
    n = 4096
    a, b = (described(one_chip(), (n, n)) for _ in range(2))
    cost = analyse(compile_uncached(jax.jit(lambda a, b: jnp.sin(a @ b)).lower(a, b)), V5E)
    assert 2 * n**3 / V5E.peak_flops < cost.estimated_seconds < 1.5 * 2 * n**3 / V5E.peak_flops
    (product, *_) = costliest(cost.operations, 3)
    line = 1 + next(i for i, text in enumerate(Path(__file__).read_text().splitlines()) if "jnp.sin(a @ b)" in text)
    assert product.source == f"hardware/test_compiled_cost.py:{line}"
    assert (product.kind, product.count) == ("fusion", 1)
    assert sum(operation.seconds for operation in costliest(trained().operations, 1000)) == pytest.approx(
        trained().estimated_seconds
    )
    assert {operation.count % STEPS for operation in costliest(trained().operations, 1)} == {0}


def test_a_loop_communicates_in_every_round():
    (gradients,) = trained().collectives
    assert (gradients.kind, gradients.group_size, gradients.count) == ("all-reduce", 8, STEPS)
    assert gradients.bytes == STEPS * 2 * WIDTH * WIDTH // 2
    assert gradients.sent_bytes == 2 * 7 / 8 * gradients.bytes
    assert trained().collective_seconds == gradients.sent_bytes / V5E.ici_bandwidth


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", 2),
        ("channel_id=1", 8),
    ],
)
def test_sizes_of_groups(groups, size):
    assert (
        group_size(Instruction("x", "f32[2]{0}", "all-reduce", (), f", {groups}, use_global_device_ids=true"), 8)
        == size
    )


def test_memory_of_a_chip():
    memory = trained().memory
    weights = 2 * WIDTH * WIDTH // 2
    assert memory.arguments == weights + 2 * STEPS * ROWS // 8 * WIDTH
    assert memory.outputs == memory.aliased == weights
    assert memory.total == memory.arguments + memory.temporaries + memory.code
    assert trained().num_chips == 16


def test_every_kind_of_collective():
    mesh = topology_mesh("v5e:4x4", {"data": 8, "model": 2})
    n = 2**20

    def communicate(x):
        return (
            jax.lax.all_gather(x, "data").sum(0)
            + jax.lax.all_to_all(x.reshape(8, -1), "data", 0, 0).reshape(-1)
            + jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])
            + jax.lax.psum(x, "model")
        )

    everywhere = ("data", "model")
    mapped = jax.shard_map(communicate, mesh=mesh, in_specs=P(everywhere), out_specs=P(everywhere))
    cost = analyse(compile_uncached(jax.jit(mapped).lower(described(mesh, (16 * n,), everywhere))), V5E)
    found = {(c.kind, c.bytes) for c in cost.collectives}
    assert found == {
        ("all-gather", 8 * 2 * n),
        *((k, 2 * n) for k in ("all-to-all", "collective-permute", "all-reduce")),
    }
    assert {c.kind: c.group_size for c in cost.collectives if c.kind != "collective-permute"} == {
        "all-gather": 8,
        "all-to-all": 8,
        "all-reduce": 2,
    }
    for line in ("all-gather of 8", "all-to-all of 8", "all-reduce of 2"):
        assert line in cost.table()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), [(32, 64, 4, 24), (32, 64, 4, 24)]),
        (lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), [(3, 33, 5, 72), (3, 65, 5, 72)]),
        (
            lambda x, kernel: jax.lax.conv_general_dilated(
                x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            [(2, 64, 64, 128), (3, 3, 128, 64)],
        ),
    ],
)
def test_products_in_the_text_are_those_that_the_compiler_counts(function, shapes):
    compiled = compile_uncached(jax.jit(function).lower(*(described(one_chip(), shape) for shape in shapes)))
    program = parse_program(compiled.as_text())
    ours = sum(program.matmul_flops(name) for name in program.runs)
    assert ours == pytest.approx(compiled.cost_analysis()["flops"], rel=0.03)


def test_programs_for_simulated_devices():
    mesh = Mesh(jax.devices(), ("data",))
    compiled = jax.jit(train).lower(described(mesh, (64, 64)), described(mesh, (STEPS, 32, 64))).compile()
    cost = analyse(compiled, V5E)
    products = STEPS * 2 * 2 * 32 * 64 * 64
    assert products < cost.flops < 1.2 * products
    assert (cost.num_chips, cost.unknown_loops) == (len(jax.devices()), ())


def test_loops_of_unknown_length_are_named():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)

    cost = analyse(compile_uncached(jax.jit(halve).lower(described(one_chip(), (64, 64)))), V5E)
    assert len(cost.unknown_loops) == 1
    assert f"loop {cost.unknown_loops[0]}, of unknown length" in cost.table()


def test_the_table_says_what_does_not_fit_and_what_bounds():
    small = dataclasses.replace(trained(), chip=dataclasses.replace(V5E, hbm_bytes=2**20))
    assert trained().fits
    assert not small.fits
    assert "0.001 GiB: DOES NOT FIT" in small.table()
    assert "bound by collectives" in trained().table()
    assert trained().roofline_seconds == trained().collective_seconds > trained().compute_seconds
    slow = dataclasses.replace(trained(), chip=dataclasses.replace(V5E, peak_flops=1e12))
    assert slow.bound_by == "arithmetic"


def test_the_compilation_cache_is_settings_come_back():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    compile_uncached(jax.jit(lambda x: x * 3).lower(described(one_chip(), (8, 128))))
    assert jax.config.values[name] == before


def test_what_the_compiler_says_when_memory_is_short():
    large = described(one_chip(), (60000, 60000))
    lowered = jax.jit(lambda x, y, z: (x @ y @ z, x @ x)).lower(large, large, large)
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        lowered.compile()
    said = out_of_memory(raised.value)
    assert said is not None
    assert said.needed > 5 * 2 * 60000**2 * 0.9
    assert 15 * 2**30 < said.available < 16 * 2**30
    loaded = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity"
    )
    assert out_of_memory(RuntimeError(loaded)) == OutOfMemory(20.5 * 2**30, 15.75 * 2**30)
    assert out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Used all 5 quotas")) is None


def test_text_without_a_program():
    with pytest.raises(ValueError, match="text must be a compiled HLO module"):
        parse_program("HloModule nothing")
