"""What compiled programs say of themselves: instructions, loops, matrix products and collectives of XLA's HLO text."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

__all__ = ["Instruction", "Program", "matmul_flops", "parse_program"]

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}  # other types have their width in their name
SHAPE = re.compile(r"\b(pred|bf16|[sfuc]\d+)(?:e\w+)?\[([\d,]*)\]")
# A shape with its layout, which of TPUs names the memory space unless it is the main memory.
PLACED = re.compile(SHAPE.pattern + r"(\{[^}]*\})?")
ON_CHIP = "S("
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
NAME = re.compile(r"%([\w.\-]+)")
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def shapes_in(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Types and dimensions in a shape, of which a tuple has several."""
    return [(kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims in SHAPE.findall(text)]


def bytes_of(text: str) -> int:
    """Bytes of a shape."""
    sizes = ((BITS.get(kind) or int(kind.lstrip("sfuc")), math.prod(dims)) for kind, dims in shapes_in(text))
    return sum(bits * count for bits, count in sizes) // 8


def off_chip_bytes_of(text: str) -> int:
    """Bytes of the parts of a shape that lie in the chips' main memory, by the memory space that their layout names."""
    return sum(bytes_of(part) for part in parts_of(text) if ON_CHIP not in part)


def parts_of(text: str) -> list[str]:
    """The shapes in a shape, of which a tuple has several, with their layouts."""
    return [part[0] for part in PLACED.finditer(text)]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: the instructions of each; what is called comes before its callers.
      entry: the name of the one that runs.
      runs: how often each computation runs in one run of the program.
      unrolled: the same where every loop runs once.
      fused: names of the computations inside fusions, whose intermediate values are never stored.
      unknown_loops: names of loops whose trip count could not be told; they count as running once.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    runs: dict[str, int]
    unrolled: dict[str, int]
    fused: frozenset[str]
    unknown_loops: tuple[str, ...]

    def shapes(self, computation: str) -> dict[str, str]:
        """Shapes of a computation's values by name."""
        return {instruction.name: instruction.shape for instruction in self.computations[computation]}

    def matmul_flops(self, computation: str) -> int:
        """FLOPs of the matrix products and convolutions directly in a computation."""
        shapes = self.shapes(computation)
        return sum(matmul_flops(instruction, shapes) for instruction in self.computations[computation])


def parse_program(text: str) -> Program:
    """Reads the text of a compiled module (`jax.stages.Compiled.as_text`).

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry = {}, None
    for name, is_entry, lines in _computations(text):
        computations[name] = tuple(filter(None, map(_instruction, lines)))
        entry = name if is_entry else entry
    if entry is None:
        raise ValueError(f"text must be a compiled HLO module with an entry computation, got {text[:80]!r}")
    runs: dict[str, int] = defaultdict(int, {entry: 1})
    unrolled: dict[str, int] = defaultdict(int, {entry: 1})
    fused, unknown = set(), []
    for name in reversed(computations):
        for instruction in computations[name]:
            trips: int | None = 1
            if instruction.opcode == "while":
                trips = _trip_count(instruction, computations)
                if trips is None and runs[name]:
                    unknown.append(instruction.name)
            for called in called_by(instruction):
                runs[called] += runs[name] * (1 if trips is None else trips)
                unrolled[called] += unrolled[name]
                if instruction.opcode == "fusion" or name in fused:
                    fused.add(called)
    return Program(computations, entry, dict(runs), dict(unrolled), frozenset(fused), tuple(unknown))


def _computations(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    name, is_entry = None, False
    lines: list[str] = []
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name, is_entry, lines = header[2], bool(header[1]), []
        elif line.startswith("}") and name is not None:
            yield name, is_entry, lines
            name = None
        elif name is not None:
            lines.append(line)


def _instruction(line: str) -> Instruction | None:
    match = INSTRUCTION.match(line)
    if match is None:
        return None
    _, name, shape, opcode, rest = match.groups()
    operands, _, attributes = rest.partition(")")
    if opcode in ("constant", "parameter"):
        return Instruction(name, shape, opcode, (), operands)
    # Shapes of a tuple's operands may stand before their names, with brackets of their own.
    if operands.count("(") > operands.count(")"):
        operands, _, attributes = rest.partition("), ")
    return Instruction(name, shape, opcode, tuple(NAME.findall(operands)), attributes)


def called_by(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    if instruction.opcode in ("reduce", "sort", "scatter", "map", "reduce-window", "select-and-scatter"):
        return []
    lists = CALLED_LISTS.findall(instruction.attributes)
    return CALLED.findall(instruction.attributes) + [name for names in lists for name in NAME.findall(names)]


def _trip_count(loop: Instruction, computations: dict[str, tuple[Instruction, ...]]) -> int | None:
    """From the compiler where it says; else the one number that the loop's index is compared with."""
    if known := TRIP_COUNT.search(loop.attributes):
        return int(known[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", loop.attributes)
    instructions = computations.get(condition[1], ()) if condition else ()
    limits = [i.attributes for i in instructions if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.shape)]
    return int(limits[0]) if len(limits) == 1 and limits[0].isdecimal() else None


def matmul_flops(instruction: Instruction, shapes: dict[str, str]) -> int:
    """FLOPs of a `dot` or `convolution`, counting no products with padding; 0 for anything else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    (_, out), *_ = shapes_in(instruction.shape)
    (_, lhs), *_ = shapes_in(shapes[instruction.operands[0]])
    (_, rhs), *_ = shapes_in(shapes[instruction.operands[1]])
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
        return 2 * math.prod(out) * math.prod(lhs[d] for d in dims)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None
    lhs_labels, rhs_labels, out_labels = labels.groups()
    window = dict(
        re.findall(r"(\w+)=([\d\-_x]+)", (re.search(r"window=\{([^}]*)\}", instruction.attributes) or " 0")[0])
    )
    products = 2 * out[out_labels.index("f")] * out[out_labels.index("b")] * rhs[rhs_labels.index("i")]
    for axis in sorted(set(out_labels) - set("bf")):
        taps = {key: value.split("x")[int(axis)] for key, value in window.items()}
        products *= _valid_taps(lhs[lhs_labels.index(axis)], out[out_labels.index(axis)], taps)
    return products


def _valid_taps(size_in: int, size_out: int, taps: dict[str, str]) -> int:
    """Pairs of output position and kernel tap along one axis that meet an element of the input.

    Batched products come as convolutions whose dilated input leaves one valid tap in thousands.
    """
    stride, dilation, spacing = (int(taps.get(key, 1)) for key in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(taps.get("pad", "0").split("_")[0])
    common = math.gcd(stride, dilation)
    period = dilation // common
    total = 0
    for offset in range(-low, int(taps["size"]) * spacing - low, spacing):
        # Output o meets place o * stride + offset of the dilated input: inside it, and a multiple of the dilation.
        first = max(0, -(offset // stride))
        last = min(size_out - 1, ((size_in - 1) * dilation - offset) // stride)
        if last >= first and offset % common == 0:
            start = -(offset // common) * pow(stride // common, -1, period) % period
            total += (last - start) // period - (first - 1 - start) // period
    return total
