"""Plans of uses of a small model on TPUs that are not here."""

import dataclasses

import jax
import pytest
from small import SMALL

pytest.importorskip("libtpu")

from sam2refiner_jax import build_model
from sam2refiner_jax.hardware.compiled_cost import OutOfMemory
from sam2refiner_jax.hardware.operations import costliest
from sam2refiner_jax.serving import plan
from sam2refiner_jax.serving.plan import PlannedProgram, model_to_plan, plan_everything, plan_segment, plan_track


@pytest.fixture(scope="module")
def model():
    return model_to_plan(SMALL.name, image_size=256)


# With little effort the compiler is done in half the time, and leaves more in main memory.
@pytest.fixture(scope="module", params=["quick", pytest.param("usual", marks=pytest.mark.slow)])
def effort(request):
    name, before = "jax_exec_time_optimization_effort", jax.config.jax_exec_time_optimization_effort
    jax.config.update(name, {"quick": -1.0, "usual": 0.0}[request.param])
    yield request.param
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def tracked(model, effort):
    return plan_track(model, "v5e:2x2", batch=2, objects=3)


def test_a_model_to_plan_is_stored_as_a_loaded_one(model):
    made = build_model(SMALL.name, image_size=256)
    shapes = [x.shape for x in jax.tree.leaves(made)]
    assert [x.shape for x in jax.tree.leaves(model)] == shapes
    assert {str(x.dtype) for x in jax.tree.leaves(model)} == {"bfloat16", "float32"}


def test_a_plan_of_tracking_adds_up(tracked):
    encode, track = tracked.programs
    assert (encode.name, track.name) == ("encode", "track")
    assert encode.cost is not None
    assert track.cost is not None
    assert tracked.roofline_seconds == encode.cost.roofline_seconds + track.cost.roofline_seconds
    lines = costliest(tracked.operations, 5)
    assert [line.seconds for line in lines] == sorted((line.seconds for line in lines), reverse=True)
    assert sum(line.seconds for line in costliest(tracked.operations, 10_000)) == pytest.approx(
        tracked.estimated_seconds
    )
    report = tracked.report(lines=5)
    assert "4 x v5e, 2 frames at a time on a chip" in report
    assert f"{4 * 2 / tracked.roofline_seconds:.0f} frames a second" in report
    assert all(line.source in report for line in lines)


# FLOPs, bytes that operations read and write, those of them off the chip, and the compiler's estimate in seconds, of
# `tracked`. What doubles one of them has made a program slower: mend it, or say why and store it here.
COSTS = {
    "encode": {
        "quick": (3.392e9, 141.6e6, 96.603e6, 1.002e-3),
        "usual": (3.392e9, 154.3e6, 4.094e6, 0.297e-3),
    },
    "track": {
        "quick": (14.168e9, 362.7e6, 223.791e6, 2.582e-3),
        "usual": (14.167e9, 434.5e6, 19.424e6, 1.082e-3),
    },
}


@pytest.mark.parametrize("index", range(2), ids=COSTS)
def test_costs_are_those_that_were_stored(tracked, effort, index):
    program = tracked.programs[index]
    cost = program.cost
    found = cost.flops, cost.bytes_accessed, float(cost.off_chip_bytes), cost.estimated_seconds
    assert found == pytest.approx(COSTS[program.name][effort], rel=0.2)
    assert cost.collectives == ()


def test_kernels_are_used(tracked):
    """Windows' and the memory's attention; the rest of what a TPU runs is XLA's."""
    used = [
        {line.source.split(":")[0] for line in p.cost.operations if line.kind == "custom-call"}
        for p in tracked.programs
    ]
    assert "nn/attention_tpu.py" in used[0]
    assert "nn/memory_attention_tpu.py" in used[1]


def test_the_decoder_of_everything_runs_for_every_batch_of_points(model, tracked, monkeypatch):
    """Its programs are not compiled here: the costs are those of `tracked`."""
    costs = {"encode": tracked.programs[0].cost, "decode": tracked.programs[1].cost}

    def compiled(program, model, mesh, chip):
        return PlannedProgram(program.name, program.runs, 1.0, costs[program.name])

    monkeypatch.setattr(plan, "_compile", compiled)
    found = plan_everything(model, "v5e:1x1", points_per_side=9)
    assert [program.runs for program in found.programs] == [1, 2]
    encode, decode = costs.values()
    assert found.roofline_seconds == pytest.approx(encode.roofline_seconds + 2 * decode.roofline_seconds)
    assert sum(operation.count for operation in found.operations) == sum(
        runs * operation.count for cost, runs in ((encode, 1), (decode, 2)) for operation in cost.operations
    )


def test_what_does_not_fit_is_said(tracked):
    short = OutOfMemory(20.0 * 2**30, 16.0 * 2**30)
    first = dataclasses.replace(tracked.programs[0], cost=None, shortage=short)
    large = dataclasses.replace(tracked, programs=(first, *tracked.programs[1:]))
    assert not large.fits
    assert "DOES NOT FIT: a chip would need 20.00 GiB of the 16.00 GiB it has" in large.report()
    assert "a second" not in large.report()


def test_bad_numbers_and_topologies(model):
    with pytest.raises(ValueError, match="objects must be at least 1, got 0"):
        plan_segment(model, "v5e:1x1", objects=0)
    with pytest.raises(ValueError, match="topology must be like v5e:4x4, got 'v5e:4'"):
        plan_segment(model, "v5e:4")
