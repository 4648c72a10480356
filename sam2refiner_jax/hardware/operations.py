"""The operations of a compiled program with what each costs and the line of source that asked for it."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath

from .hlo import Instruction, Program, off_chip_bytes_of
from .traffic import FREE, moved_bytes

__all__ = ["Operation", "costliest", "describe_costliest", "operations_of"]

CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
KERNEL_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
SOURCE = re.compile(r"\bstack_frame_id=(\d+)")
FIELD = re.compile(r"(\w+)=(\d+)")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of a program, or several of one kind that one line of source asked for.

    Attributes:
      kind: what it is, such as "fusion", "copy" or "custom-call", which is a kernel of ours.
      source: file and line, such as "nn/attention.py:93"; "" where the compiler made it up.
      count: how often it runs.
      off_chip_bytes: what it reads and writes of the chip's main memory, in all runs.
      seconds: the compiler's own estimate of all runs; of a kernel, its arithmetic at the chip's peak.
    """

    kind: str
    source: str
    count: int
    off_chip_bytes: int
    seconds: float


def operations_of(program: Program, text: str, *, clock: float, peak_flops: float) -> list[Operation]:
    """What a compiled program runs, in the order of its text; empty for compilers that estimate nothing.

    Args:
      program: read from `text`.
      text: of the program (`jax.stages.Compiled.as_text`).
      clock: the chip's cycles a second.
      peak_flops: its FLOP/s.
    """
    found, sources = [], _sources(text)
    for name, runs in program.runs.items():
        if name in program.fused or not runs:
            continue
        shapes = program.shapes(name)
        for instruction in program.computations[name]:
            seconds = _seconds(instruction, clock, peak_flops)
            if instruction.opcode in FREE or seconds is None:
                continue
            moved = moved_bytes(program, instruction, shapes, off_chip_bytes_of)
            frame = SOURCE.search(instruction.attributes)
            source = sources.get(int(frame[1]), "") if frame else ""
            found.append(Operation(instruction.opcode, source, runs, runs * moved, runs * seconds))
    return found


def costliest(operations: Iterable[Operation], count: int) -> list[Operation]:
    """The lines of source that take the longest, operations of one kind and line added up."""
    groups: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in operations:
        groups[operation.kind, operation.source].append(operation)
    sums = [
        Operation(
            *key,
            sum(operation.count for operation in group),
            sum(operation.off_chip_bytes for operation in group),
            sum(operation.seconds for operation in group),
        )
        for key, group in groups.items()
    ]
    return sorted(sums, key=lambda operation: -operation.seconds)[:count]


def describe_costliest(operations: Iterable[Operation], count: int) -> list[str]:
    """A heading and a line of text for each of the lines of source that take the longest; none without estimates."""
    found = costliest(operations, count)
    rows = [
        f"{1e3 * o.seconds:9.3f} ms  {o.off_chip_bytes / 1e6:9.1f} MB  {o.count:5d} x  {o.kind:<14} {o.source}"
        for o in found
    ]
    return ["costliest lines of source, by the compiler's estimate, with their traffic", *rows] if rows else []


def _seconds(instruction: Instruction, clock: float, peak_flops: float) -> float | None:
    if cycles := CYCLES.search(instruction.attributes):
        return int(cycles[1]) / clock
    if flops := KERNEL_FLOPS.search(instruction.attributes):
        return int(flops[1]) / peak_flops
    return None


def _sources(text: str) -> dict[int, str]:
    """File and line of each stack frame, from the tables at the head of a program's text."""
    files = {int(number): name.strip('"') for number, name in _table(text, "FileNames")}
    places = {int(number): _fields(rest) for number, rest in _table(text, "FileLocations")}
    sources = {}
    for number, rest in _table(text, "StackFrames"):
        place = places.get(_fields(rest).get("file_location_id", 0))
        if place is not None:
            file = "/".join(PurePath(files[place["file_name_id"]]).parts[-2:])
            sources[int(number)] = f"{file}:{place['line']}"
    return sources


def _table(text: str, name: str) -> list[list[str]]:
    found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    return [line.split(" ", 1) for line in found[1].splitlines()] if found else []


def _fields(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in FIELD.findall(text)}
