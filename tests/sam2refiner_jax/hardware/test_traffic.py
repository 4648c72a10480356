"""Bytes that instructions of a program's text move, counted by hand."""

import pytest

from sam2refiner_jax.hardware.hlo import parse_program
from sam2refiner_jax.hardware.traffic import traffic

# An array of 8 rows of 100 numbers of two bytes each, and one of a row; "S(1)" is the chip's own memory.
ARRAY, ROW = "bf16[8,100]{1,0}", "bf16[1,100]{1,0}"
ALL, ONE = 1600, 200

INSIDE = """
%inside (rows: bf16[8,100], row: bf16[1,100], at: s32[]) -> bf16[8,100] {{
  %rows = {array} parameter(0)
  %row = {row} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
{body}
}}
"""


def moved(line: str, body: str = "  ROOT %r = bf16[8,100]{1,0} negate(%rows)") -> tuple[int, int]:
    """All bytes that a line moves, and those in main memory; `body` is of a fusion that it may call."""
    text = INSIDE.format(array=ARRAY, row=ROW, body=body) + (
        f"\nENTRY %main (rows: bf16[8,100], row: bf16[1,100], at: s32[]) -> bf16[8,100] {{\n"
        f"  %rows = {ARRAY} parameter(0)\n  %row = {ROW} parameter(1)\n  %at = s32[]{{:S(6)}} parameter(2)\n"
        f"  {line}\n}}\n"
    )
    program = parse_program(text)
    return traffic(program, "main"), traffic(program, "main", off_chip=True)


FUSION = f"ROOT %f = {ARRAY} fusion(%rows, %row, %at), kind=kLoop, calls=%inside"
UPDATE = "dynamic-update-slice(%rows, %new, %at, %zero)"


def test_arrays_as_a_whole():
    assert moved(f"ROOT %n = {ARRAY} negate(%rows)") == (2 * ALL, 2 * ALL)
    assert moved("ROOT %n = bf16[8,100]{1,0:S(1)} negate(%rows)") == (2 * ALL, ALL)
    assert moved(f'ROOT %b = {ARRAY} custom-call(), custom_call_target="AllocateBuffer"') == (0, 0)


def test_slices():
    assert moved(f"ROOT %s = {ROW} dynamic-slice(%rows, %at, %at)") == (2 * ONE, 2 * ONE)
    assert moved("ROOT %s = bf16[1,100]{1,0:S(1)} dynamic-slice(%rows, %at, %at)") == (2 * ONE, ONE)
    started = "ROOT %s = ((bf16[8,100]{1,0}), bf16[1,100]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%rows), slice={[0:1]}"
    assert moved(started) == (2 * ONE, ONE)
    assert moved(f"ROOT %u = {ARRAY} dynamic-update-slice(%rows, %row, %at, %at)") == (2 * ONE, 2 * ONE)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # The array gets a row in its place.
        (f"  %new = {ROW} negate(%row)\n  ROOT %r = {ARRAY} {UPDATE}", 2 * ONE),
        # It lies there as eight arrays of a row.
        (
            f"  %new = {ROW} negate(%row)\n  %b = bf16[8,1,100]{{2,1,0}} bitcast(%rows)\n"
            f"  %u = bf16[8,1,100]{{2,1,0}} dynamic-update-slice(%b, %new, %at, %zero, %zero)\n"
            f"  ROOT %r = {ARRAY} bitcast(%u)",
            2 * ONE,
        ),
        # The row that is there is read as well.
        (
            f"  %old = {ROW} dynamic-slice(%rows, %at, %zero)\n  %new = {ROW} add(%row, %old)\n"
            f"  ROOT %r = {ARRAY} {UPDATE}",
            3 * ONE,
        ),
        # All of the array is read for the row: it is written in its place nevertheless.
        (f"  %new = {ROW} custom-call(%rows, %row)\n  ROOT %r = {ARRAY} {UPDATE}", ALL + 2 * ONE),
        # What is made of the array with the row is another array.
        (f"  %new = {ROW} negate(%row)\n  %u = {ARRAY} {UPDATE}\n  ROOT %r = {ARRAY} negate(%u)", 2 * ALL + ONE),
    ],
)
def test_slices_inside_of_fusions(body, expected):
    counter = 4  # of the chip's own memory
    assert moved(FUSION, body) == (expected + counter, expected)


def test_fusions_inside_of_fusions_and_several_results():
    text = f"""
%deep (x: bf16[8,100], i: s32[]) -> bf16[1,100] {{
  %x = {ARRAY} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = {ROW} dynamic-slice(%x, %i, %i)
}}

%inside (rows: bf16[8,100], others: bf16[8,100], i: s32[]) -> (bf16[8,100], bf16[1,100]) {{
  %rows = {ARRAY} parameter(0)
  %others = {ARRAY} parameter(1)
  %i = s32[] parameter(2)
  %row = {ROW} fusion(%others, %i), kind=kLoop, calls=%deep
  %u = {ARRAY} dynamic-update-slice(%rows, %row, %i, %i)
  ROOT %t = (bf16[8,100]{{1,0}}, bf16[1,100]{{1,0:S(1)}}) tuple(%u, %row)
}}

ENTRY %main (rows: bf16[8,100], others: bf16[8,100], i: s32[]) -> (bf16[8,100], bf16[1,100]) {{
  %rows = {ARRAY} parameter(0)
  %others = {ARRAY} parameter(1)
  %i = s32[]{{:S(6)}} parameter(2)
  ROOT %f = (bf16[8,100]{{1,0}}, bf16[1,100]{{1,0:S(1)}}) fusion(%rows, %others, %i), kind=kLoop, calls=%inside
}}
"""
    program = parse_program(text)
    # A row is read, written into the array, and returned on the chip.
    assert traffic(program, "main") == 3 * ONE + 4
    assert traffic(program, "main", off_chip=True) == 2 * ONE
