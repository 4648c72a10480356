"""What a compiled program costs on a chip: memory, arithmetic, traffic, collectives, and the time they take at best."""

import dataclasses
import math
import re
from collections import defaultdict

import jax

from .chips import Chip
from .hlo import Instruction, Program, bytes_of, parse_program
from .operations import Operation, operations_of
from .traffic import traffic

__all__ = [
    "Collective",
    "CompiledCost",
    "Memory",
    "OutOfMemory",
    "analyse",
    "compile_uncached",
    "cost_or_shortage",
    "out_of_memory",
]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a chip's memory that a program needs.

    Attributes:
      arguments: what it is given, donated arguments included.
      outputs: what it returns.
      aliased: the part of the outputs that takes the place of donated arguments.
      temporaries: what it needs besides while it runs.
      code: the program itself.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind among groups of one size, in one run of the program.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
      group_size: chips that take part in each.
      count: how many there are.
      bytes: their payload on one chip, added up: what an all-reduce, reduce-scatter, all-to-all or collective-permute
        is given, what an all-gather returns.
    """

    kind: str
    group_size: int
    count: int
    bytes: int

    @property
    def sent_bytes(self) -> float:
        """Bytes that a chip sends when the group is a ring."""
        others = (self.group_size - 1) / self.group_size
        share = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)
        return share * self.bytes


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """What one run of a program costs each chip.

    Attributes:
      chip: the chip whose speed the times are for.
      num_chips: chips that run it together.
      memory: what it needs of a chip's memory.
      flops: arithmetic of one chip.
      bytes_accessed: what its operations read and write, as XLA counts it: every operation (a fusion is one) moves all
        of its operands and results, of buffers that the compiler keeps on the chip too.
      off_chip_bytes: the part of it that is in main memory, by the memory space that the program's text gives every
        buffer. Off TPUs nothing says where buffers are, and all of them count.
      operations: what the program runs, with the compiler's own estimate of the time; only the TPU's estimates.
      collectives: communication, the costliest first.
      unknown_loops: loops whose trip count could not be told and that count as running once.
    """

    chip: Chip
    num_chips: int
    memory: Memory
    flops: float
    bytes_accessed: float
    off_chip_bytes: int
    operations: tuple[Operation, ...]
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.chip.hbm_bytes

    @property
    def compute_seconds(self) -> float:
        return self.flops / self.chip.peak_flops

    @property
    def memory_seconds(self) -> float:
        return self.off_chip_bytes / self.chip.hbm_bandwidth

    @property
    def collective_seconds(self) -> float:
        """Each collective as a ring along one axis of the torus, one after the other."""
        return sum(collective.sent_bytes for collective in self.collectives) / self.chip.ici_bandwidth

    @property
    def roofline_seconds(self) -> float:
        """The time of the slowest of arithmetic, memory and communication: what perfect overlap would leave."""
        return max(self.compute_seconds, self.memory_seconds, self.collective_seconds)

    @property
    def bound_by(self) -> str:
        seconds = {
            "arithmetic": self.compute_seconds,
            "memory traffic": self.memory_seconds,
            "collectives": self.collective_seconds,
        }
        return max(seconds, key=lambda name: seconds[name])

    @property
    def estimated_seconds(self) -> float:
        """The operations one after the other, by the compiler's estimate; 0 where it makes none.

        Transfers that run beside them are not in it, and our own kernels count as their arithmetic at the chip's peak.
        """
        return sum(operation.seconds for operation in self.operations)

    def table(self) -> str:
        """All of it as lines of text."""
        memory, chip = self.memory, self.chip
        fit = "fits" if self.fits else "DOES NOT FIT"
        parts = ("arguments", memory.arguments), ("outputs", memory.outputs), ("of them in place", memory.aliased)
        rows = [
            ("chips", f"{self.num_chips} x {chip.name}"),
            ("memory per chip", f"{_gib(memory.total)} of {_gib(chip.hbm_bytes)}: {fit}"),
            *((f"  {name}", _gib(size)) for name, size in parts),
            ("  temporaries", _gib(memory.temporaries)),
            ("  program", _gib(memory.code)),
            ("arithmetic per chip", f"{self.flops / 1e12:.3f} TFLOP, {_ms(self.compute_seconds)}"),
            ("memory traffic per chip", f"{self.off_chip_bytes / 1e9:.2f} GB, {_ms(self.memory_seconds)}"),
            ("  on the chip as well", f"{self.bytes_accessed / 1e9:.2f} GB"),
            ("collectives per chip", f"{sum(c.count for c in self.collectives)}, {_ms(self.collective_seconds)}"),
            *(
                (f"  {c.kind} of {c.group_size}", f"{c.count} x, {c.bytes / 1e6:.3f} MB together")
                for c in self.collectives
            ),
            ("at best", f"{_ms(self.roofline_seconds)}, bound by {self.bound_by}"),
            *([("by the compiler's estimate", _ms(self.estimated_seconds))] if self.operations else []),
            *(("counted once", f"loop {name}, of unknown length") for name in self.unknown_loops),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3f} GiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def compile_uncached(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles past JAX's compilation cache, which stores programs for absent chips but cannot load them again."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, math.inf)
    try:
        return lowered.compile()
    finally:
        jax.config.update(name, before)


def analyse(compiled: jax.stages.Compiled, chip: Chip) -> CompiledCost:
    """Reads the cost of a compiled program.

    XLA's own counts take the bodies of loops as running once. Their further rounds are added from the program's text:
    the matrix products for the arithmetic, operands and results for the traffic.

    Args:
      compiled: for a topology's chips (`topology_mesh`), or for any other devices, whose program stands for the chips'.
      chip: the chip whose speed and memory to reckon with.

    Raises:
      ValueError: if the backend tells neither the program's text nor its memory.
    """
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if text is None or memory is None:
        raise ValueError("compiled must be of a backend that tells a program's text and memory")
    program = parse_program(text)
    counts = compiled.cost_analysis() or {}
    rounds = {name: program.runs[name] - program.unrolled[name] for name in program.runs}
    repeated = {name: count for name, count in rounds.items() if count}
    flops = sum(count * program.matmul_flops(name) for name, count in repeated.items())
    repeated_bytes = sum(
        count * traffic(program, name) for name, count in repeated.items() if name not in program.fused
    )
    stored = {name: count for name, count in program.runs.items() if name not in program.fused}
    off_chip = sum(count * traffic(program, name, off_chip=True) for name, count in stored.items())
    num_chips = max(len(sharding.device_set) for sharding in jax.tree.leaves(compiled.input_shardings))
    return CompiledCost(
        chip=chip,
        num_chips=num_chips,
        memory=Memory(
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
        ),
        flops=counts.get("flops", 0.0) + flops,
        bytes_accessed=counts.get("bytes accessed", 0.0) + repeated_bytes,
        off_chip_bytes=off_chip,
        operations=tuple(operations_of(program, text, clock=chip.clock, peak_flops=chip.peak_flops)),
        collectives=collectives_of(program, num_chips),
        unknown_loops=program.unknown_loops,
    )


def collectives_of(program: Program, num_chips: int) -> tuple[Collective, ...]:
    """The collectives of a program, loops counted in full; those among single chips, which do nothing, left out."""
    count: dict[tuple[str, int], int] = defaultdict(int)
    size: dict[tuple[str, int], int] = defaultdict(int)
    for name, runs in program.runs.items():
        shapes = program.shapes(name)
        for instruction in program.computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            group = group_size(instruction, num_chips)
            payload = sum(bytes_of(shapes[operand]) for operand in instruction.operands)
            count[kind, group] += runs
            size[kind, group] += runs * payload * (group if kind == "all-gather" else 1)
    found = [Collective(*key, count[key], size[key]) for key in count if key[1] > 1]
    return tuple(sorted(found, key=lambda collective: -collective.sent_bytes))


def group_size(instruction: Instruction, num_chips: int) -> int:
    """Chips that take part in a collective, whichever way it lists its groups."""
    text = instruction.attributes
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return num_chips


def cost_or_shortage(lowered: jax.stages.Lowered, chip: Chip) -> tuple[CompiledCost | None, "OutOfMemory | None"]:
    """What a program costs, compiled for chips that need not be there; or, if it does not fit, what it lacked."""
    try:
        return analyse(compile_uncached(lowered), chip), None
    except jax.errors.JaxRuntimeError as error:
        shortage = out_of_memory(error)
        if shortage is None:
            raise
        return None, shortage


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """Bytes of a chip's memory that a program wanted and could have had."""

    needed: float
    available: float


def out_of_memory(error: Exception) -> OutOfMemory | None:
    """What the TPU compiler said when a program did not fit; None if the error is another."""
    amount = r"([\d.]+)([KMGT]?)"
    said = re.search(f"Used {amount} of {amount} hbm|\\({amount}\\) exceeds available HBM \\({amount}\\)", str(error))
    if said is None:
        return None
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit, of_number, of_unit = (group for group in said.groups() if group is not None)
    return OutOfMemory(float(number) * units[unit], float(of_number) * units[of_unit])
