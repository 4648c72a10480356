"""What a compiled program reads and writes: bytes of its buffers, by instruction and by where they lie.

Loops keep results of their rounds in one array, and read them from there: an instruction that writes a slice into an
array in its place moves the slice, and one that takes a slice moves no more either, inside a fusion too.
"""

from collections.abc import Callable

from .hlo import Instruction, Program, bytes_of, called_by, off_chip_bytes_of, parts_of

__all__ = ["FREE", "moved_bytes", "traffic"]

# Instructions that move nothing.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
SLICES = {"slice", "dynamic-slice", "gather"}
ALLOCATION = 'custom_call_target="AllocateBuffer"'  # what a loop fills, and nothing yet
UPDATE = "dynamic-update-slice"


def traffic(program: Program, computation: str, *, off_chip: bool = False) -> int:
    """Bytes that the instructions of a computation read and write; a fusion counts as one instruction.

    With `off_chip`, buffers that the compiler placed in the chip's own memory do not count.
    """
    size_of = off_chip_bytes_of if off_chip else bytes_of
    shapes = program.shapes(computation)
    return sum(moved_bytes(program, each, shapes, size_of) for each in program.computations[computation])


def moved_bytes(
    program: Program,
    instruction: Instruction,
    shapes: dict[str, str],
    size_of: Callable[[str], int] = bytes_of,
) -> int:
    """Bytes that one instruction reads and writes.

    Args:
      program: the instruction's.
      instruction: one of a computation that is not inside a fusion.
      shapes: of the values of its computation.
      size_of: bytes of a shape that count: all of them, or those in main memory.
    """
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or ALLOCATION in instruction.attributes:
        return 0
    written = size_of(instruction.shape)
    operands = [shapes.get(name, "") for name in instruction.operands]
    if opcode.removesuffix("-start") in SLICES:
        parts = parts_of(instruction.shape)  # of what is only started: the operand, the slice and a counter
        part = parts[-2] if opcode.endswith("-start") else parts[0]
        return size_of(part) + (bytes_of(part) if operands and size_of(operands[0]) else 0)
    if opcode.endswith("-start"):
        return written  # of operand and result together
    if opcode == UPDATE:
        return size_of(operands[1]) + (bytes_of(operands[1]) if written else 0)
    read = [size_of(operand) for operand in operands]
    if opcode == "fusion":
        inside = _Fusion(program, called_by(instruction)[0])
        read = [inside.read(i, size) if size else 0 for i, size in enumerate(read)]
        written = inside.written(instruction.shape, size_of)
    return written + sum(read)


class _Fusion:
    """What the computation inside a fusion reads of its parameters and writes."""

    def __init__(self, program: Program, name: str):
        self.program = program
        self.instructions = {each.name: each for each in program.computations[name]}
        *_, root = self.instructions.values()
        self.results = root.operands if root.opcode == "tuple" else (root.name,)

    def read(self, index: int, size: int) -> int:
        """Bytes of its parameter `index`, which has `size` of them."""
        parameter = next(
            each.name
            for each in self.instructions.values()
            if each.opcode == "parameter" and each.attributes == str(index)
        )
        return min(size, self._read(parameter, size, updated=False))

    def written(self, shape: str, size_of: Callable[[str], int]) -> int:
        """Bytes of its results, whose shape is given; of one that is a parameter with slices replaced, the slices."""
        parts = parts_of(shape)
        if len(parts) != len(self.results):
            return size_of(shape)
        sizes = [size_of(part) for part in parts]
        return sum(size and (self._replaced(name) or size) for size, name in zip(sizes, self.results, strict=True))

    def _read(self, name: str, size: int, updated: bool) -> int:
        """Of a value that is a parameter as it came, or with slices replaced (`updated`), which stays in its place."""
        read = size if name in self.results and not updated else 0
        for user in self.instructions.values():
            if name not in user.operands or user.opcode == "tuple":
                continue
            only_first = name not in user.operands[1:]
            if user.opcode == "bitcast":
                read += self._read(user.name, size, updated)
            elif user.opcode in SLICES and only_first:
                read += bytes_of(user.shape)
            elif user.opcode == UPDATE and only_first:
                read += self._read(user.name, size, updated=True)
            elif user.opcode == "fusion":
                inside = _Fusion(self.program, called_by(user)[0])
                read += sum(inside.read(i, size) for i, operand in enumerate(user.operands) if operand == name)
            else:
                read += size
        return read

    def _replaced(self, name: str) -> int | None:
        """Bytes of a value's slices that are not a parameter's; None if it is no parameter with slices replaced."""
        value = self.instructions[name]
        if value.opcode == "parameter":
            return 0
        if value.opcode == "bitcast":
            return self._replaced(value.operands[0])
        if value.opcode == UPDATE:
            before = self._replaced(value.operands[0])
            return None if before is None else before + bytes_of(self.instructions[value.operands[1]].shape)
        if value.opcode == "fusion":
            inside = _Fusion(self.program, called_by(value)[0])
            return inside._replaced(inside.results[0]) if len(inside.results) == 1 else None
        return None
