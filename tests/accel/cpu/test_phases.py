"""Regions of memory, and which operations may share a phase."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpnet.accel.cpu.phases import Work, phases
from xpnet.accel.cpu.regions import Region, region

MATRIX = np.zeros((6, 8), np.float32)
RANGES = [(0, 2), (1, 4), (3, 6), (5, 5)]


def touched(found: Region) -> set[int]:
    """The addresses of all its bytes."""
    rows = (found.start + row * found.step for row in range(found.rows))
    return {first + byte for first in rows for byte in range(found.width)}


def addresses(array: np.ndarray) -> set[int]:
    """Of all bytes of an array, one element after the other."""
    places = itertools.product(*map(range, array.shape))
    starts = [array.ctypes.data + int(np.dot(place, array.strides)) for place in places]
    return {start + byte for start in starts for byte in range(array.itemsize)}


@pytest.mark.parametrize("rows", RANGES)
@pytest.mark.parametrize("columns", RANGES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_region_is_the_bytes_of_rows_and_columns(
    rows: tuple[int, int], columns: tuple[int, int], order: str
) -> None:
    array = np.asarray(MATRIX, order=order)  # type: ignore[call-overload]
    part = array[slice(*rows), slice(*columns)]
    assert touched(region(array, rows, columns)) == addresses(part)


def test_a_region_of_a_vector_a_number_and_a_block() -> None:
    vector = np.zeros(7)
    assert touched(region(vector)) == addresses(vector)
    assert touched(region(vector, None, (2, 5))) == addresses(vector[2:5])
    assert touched(region(vector[0, ...])) == addresses(vector[:1])
    assert touched(region(MATRIX[:, 2:5])) == addresses(MATRIX[:, 2:5])
    with pytest.raises(ValueError, match=r"no region of an array of shape \(6, 4\)"):
        region(MATRIX[:, ::2])
    with pytest.raises(ValueError, match=r"no region of an array of shape \(2, 3, 8\)"):
        region(MATRIX.reshape(2, 3, 8))


blocks = st.builds(
    Region, st.integers(0, 60), st.integers(0, 4), st.integers(1, 24), st.integers(0, 9)
).filter(lambda r: r.width <= r.step)


@settings(max_examples=5 * settings.default.max_examples)
@given(blocks, blocks)
def test_regions_that_share_a_byte_overlap(one: Region, other: Region) -> None:
    shares = not touched(one).isdisjoint(touched(other))
    assert one.overlaps(other) == other.overlaps(one)
    assert one.overlaps(other) or not shares


@settings(max_examples=5 * settings.default.max_examples)
@given(blocks, st.integers(0, 60), st.integers(2, 4), st.integers(1, 9))
def test_blocks_of_one_matrix_overlap_only_if_they_share_a_byte(
    one: Region, start: int, rows: int, width: int
) -> None:
    """Rows of 24 bytes; blocks that end before the next row begins, and lie in the same rows."""
    left, right = sorted((start % 24, (start + width) % 24))
    a = Region(one.start % 24 % 12, rows, 24, min(one.width, 12))
    b = Region(left, rows, 24, right - left)
    assert a.overlaps(b) == (not touched(a).isdisjoint(touched(b)))


A, B, C, D, E = (np.zeros((8, 8), np.float32) for _ in range(5))


def by_rows(name: str, source: np.ndarray, target: np.ndarray, parts: int = 2) -> list[list[Work]]:
    cuts = [(8 * p // parts, 8 * (p + 1) // parts) for p in range(parts)]
    return [[Work(name, (), (region(source, cut),), (region(target, cut),))] for cut in cuts]


def by_columns(name: str, source: np.ndarray, target: np.ndarray) -> list[list[Work]]:
    cuts = [(0, 4), (4, 8)]
    return [
        [Work(name, (), (region(source, None, cut),), (region(target, None, cut),))] for cut in cuts
    ]


def names(*operations: list[list[Work]]) -> list[list[list[str]]]:
    return [[[work.loop for work in part] for part in phase.parts] for phase in phases(operations)]


def test_parts_that_meet_only_themselves_share_a_phase() -> None:
    assert names(by_rows("a", A, B), by_rows("b", B, C)) == [[["a", "b"], ["a", "b"]]]
    assert names(by_columns("a", A, B), by_columns("b", B, A)) == [[["a", "b"], ["a", "b"]]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (by_rows("a", A, B), by_columns("b", B, C)),  # reads what another part has written
        (by_rows("a", A, B), by_columns("b", C, B)),  # writes it again
        (by_rows("a", A, B), by_columns("b", C, A)),  # writes what another part has read
    ],
)
def test_a_part_that_meets_another_waits(first: list[list[Work]], second: list[list[Work]]) -> None:
    assert names(first, second) == [[["a"], ["a"]], [["b"], ["b"]]]


def test_a_phase_remembers_all_of_its_operations() -> None:
    middle = by_rows("b", C, C)
    assert names(by_rows("a", A, B), middle, by_columns("c", B, A)) == [
        [["a", "b"], ["a", "b"]],
        [["c"], ["c"]],
    ]
    assert names(by_rows("a", A, B), by_columns("b", C, C), by_columns("c", C, C)) == [
        [["a", "b", "c"], ["a", "b", "c"]]
    ]


def test_an_operation_joins_the_phase_that_it_needs_past_one_that_it_does_not_meet() -> None:
    first, apart = by_rows("a", A, B), by_columns("b", B, D)
    joined = [[["a", "c"], ["a", "c"]], [["b"], ["b"]]]
    assert names(first, apart, by_rows("c", B, C)) == joined
    assert names(first, apart, by_rows("c", A, A)) == joined
    # What that one reads may not be written before it, nor what it writes be read.
    for source, target in [(C, B), (D, C)]:
        waits = [[["a"], ["a"]], [["b"], ["b"]], [["c"], ["c"]]]
        assert names(first, apart, by_rows("c", source, target)) == waits
    # One that needs neither comes where it stands.
    alone = [[["a"], ["a"]], [["b", "c"], ["b", "c"]]]
    assert names(first, apart, by_rows("c", E, E)) == alone


def test_a_part_may_have_nothing_to_do() -> None:
    alone: list[list[Work]] = [[Work("b", (), (region(B),), (region(C),))], []]
    assert names(by_rows("a", A, B), alone) == [[["a"], ["a"]], [["b"], []]]
    assert names(alone, by_rows("a", A, A)) == [[["b", "a"], ["a"]]]
    assert names() == []
