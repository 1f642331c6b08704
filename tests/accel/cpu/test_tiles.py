"""Matrix products by register tiles: every edge, bits that do not depend on the cut, errors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import llvmlite.binding
import numpy as np
import pytest

from xpnet.accel.cpu import tiles
from xpnet.accel.cpu.blocks import product_block

HEIGHTS = {8: 6, 16: 6}
PANELS = {8: 16, 16: 64}
UNIT = 2.0**-24
"""The largest relative error of one rounding in float32."""


@pytest.fixture(params=[8, 16])
def lanes(request: pytest.FixtureRequest) -> int:
    """LLVM makes two instructions of one for 16 lanes where the processor has 8."""
    if tiles.lanes() is None:
        pytest.skip("this processor has neither AVX2 nor AVX-512: xpnet does not offer tiles on it")
    width: int = request.param
    return width


def multiply(
    lanes: int,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    add: bool = False,
    panels: np.ndarray | None = None,
) -> None:
    # Not by `product_block` where `c` is transposed for it: the tiles take any strides.
    views = [number for x in (a, b, c) for number in (x.ctypes.data, *x.strides)]
    block = np.array([*views, *c.shape, a.shape[1], add, 0], np.int64)
    if panels is not None:
        block = product_block(a, b, c, add, panels)
    pointer = block.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
    tiles.product(lanes).ctypes(pointer, 0)


def matrix(rng: Any, rows: int, columns: int, by_columns: bool) -> np.ndarray:
    """`(rows, columns)` with some numbers between the rows (or columns) that belong to another."""
    shape = (columns, rows + 3) if by_columns else (rows, columns + 5)
    whole = rng.standard_normal(shape).astype(np.float32)
    part: np.ndarray = whole[:, :rows].T if by_columns else whole[:, :columns]
    return part


def edges(lanes: int) -> Iterator[tuple[int, int]]:
    """Rows and columns: 1 to one more than two tiles, for one size of the other."""
    height, panel = HEIGHTS[lanes], PANELS[lanes]
    for rows in range(1, 2 * 2 * height + 2):
        yield from ((rows, 3), (rows, panel + lanes + 1))
    for columns in range(1, 2 * panel + 2):
        yield from ((2, columns), (4 * height + 5, columns))


def copied(lanes: int) -> Iterator[tuple[int, int]]:
    """Rows and columns around those from which on a transposed A is copied."""
    most, many = tiles.MOST_ROWS, tiles.MANY_COLUMNS
    for rows in (1, 5, 6, 49, most, most + 1):
        yield from ((rows, many - 1), (rows, many), (rows, many + lanes + 3))


@pytest.mark.parametrize("k", [0, 1, 2, 31, 129, 784])
def test_every_edge_agrees_with_float64(lanes: int, k: int) -> None:
    rng = np.random.default_rng(k)
    cases = [(*sizes, int(rng.integers(4))) for sizes in edges(lanes)]
    cases += [(*sizes, kind) for sizes in copied(lanes) for kind in (1, 3)]
    for rows, columns, kind in cases:
        a = matrix(rng, rows, k, by_columns=kind % 2 == 1)
        b = matrix(rng, k, columns, by_columns=kind >= 2)
        start = rng.standard_normal((rows, columns + 2)).astype(np.float32)
        exact = a.astype(float) @ b.astype(float)
        # |error| <= ((1 + u)^k - 1) |A||B| for a chain of k fused multiply-adds (Higham, "Accuracy
        # and Stability of Numerical Algorithms", section 3.1), and k u / (1 - k u) bounds that.
        gamma = k * UNIT / (1 - k * UNIT)
        bound = gamma * (abs(a).astype(float) @ abs(b).astype(float))
        c = start.copy()
        multiply(lanes, a, b, c[:, :columns])
        assert (abs(c[:, :columns] - exact) <= bound).all(), (rows, columns, kind)
        # With a start, that is one more term of the sum.
        added = start.copy()
        multiply(lanes, a, b, added[:, :columns], add=True)
        before = start[:, :columns].astype(float)
        bound += gamma * abs(before)
        assert (abs(added[:, :columns] - (exact + before)) <= bound).all(), (rows, columns, kind)
        for found in (c, added):
            np.testing.assert_array_equal(found[:, columns:], start[:, columns:])


def test_an_element_is_a_chain_of_fused_multiply_adds_whatever_the_cut(lanes: int) -> None:
    rng = np.random.default_rng(1)
    rows, columns, k = 61, 150, 300
    for by_columns in (False, True):
        a, b = matrix(rng, rows, k, by_columns), matrix(rng, k, columns, by_columns)
        whole = np.empty((rows, columns), np.float32)
        multiply(lanes, a, b, whole)
        chain = np.zeros((rows, columns), np.float32)
        for i in range(k):
            # A product of two float32 is exact in float64, and so is this fma, but for a double
            # rounding: longdouble, with 64 bits, would not be exact either.
            chain = fma(a[:, i : i + 1], b[i : i + 1], chain)
        np.testing.assert_array_equal(whole, chain)
        for _ in range(8):
            r, c = np.sort(rng.integers(0, rows + 1, 3)), np.sort(rng.integers(0, columns + 1, 3))
            cut = np.full_like(whole, np.nan)
            for top, bottom in zip([0, *r], [*r, rows], strict=True):
                for left, right in zip([0, *c], [*c, columns], strict=True):
                    part = cut[top:bottom, left:right]
                    multiply(lanes, a[top:bottom], b[:, left:right], part)
            np.testing.assert_array_equal(cut, whole)
            # A sum cut at some k continues what C holds: the same chain.
            at = int(rng.integers(0, k))
            multiply(lanes, a[:, :at], b[:at], cut)
            multiply(lanes, a[:, at:], b[at:], cut, add=True)
            np.testing.assert_array_equal(cut, whole)


def test_panels_that_are_given_change_no_bit(lanes: int) -> None:
    rng = np.random.default_rng(2)
    width = tiles.SHAPES[lanes][1] * lanes
    sizes = [(49, 16, 2 * width), (30, 128, 3 * width + 5), (7, 300, width + 1)]
    for rows, k, columns in [*sizes, (50, 530, tiles.MANY_COLUMNS + width + 9)]:
        a, b = matrix(rng, rows, k, by_columns=True), matrix(rng, k, columns, by_columns=False)
        panels = np.full((-(-columns // width), k, width), np.nan, np.float32)
        for left in range(0, columns, width):
            piece = b[:, left : left + width]
            panels[left // width, :, : piece.shape[1]] = piece
        found, expected = (rng.standard_normal((rows, columns)).astype(np.float32) for _ in "ab")
        multiply(lanes, a, b, expected)
        multiply(lanes, a, b, found, panels=panels)
        np.testing.assert_array_equal(found, expected)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """`a b + c` rounded once to float32."""
    product, addend = a.astype(float) * b.astype(float), c.astype(float)
    total = product + addend
    # The rounding error of that sum (Knuth's TwoSum); rounded to odd, `total` rounds right.
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    is_even = total.view(np.int64) % 2 == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & is_even, np.nextafter(total, towards), total)
    rounded: np.ndarray = odd.astype(np.float32)
    return rounded


def test_special_values(lanes: int) -> None:
    a = np.array([[1, np.nan, 0], [np.inf, 1, 0], [-np.inf, np.inf, 1]], np.float32)
    b = np.eye(3, dtype=np.float32)
    c = np.full((3, 3), np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        multiply(lanes, a, b, c)
        np.testing.assert_array_equal(c, (a.astype(float) @ b.astype(float)).astype(np.float32))
    multiply(lanes, a[:, :0], b[:0], c)
    np.testing.assert_array_equal(c, np.zeros((3, 3), np.float32))


def test_lanes_are_those_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**features: bool) -> int | None:
        monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
        return tiles.lanes()

    assert found(avx512f=True, avx2=True, fma=True) == 16
    assert found(avx512f=False, avx2=True, fma=True) == 8
    assert found(avx2=True, fma=False) is None
    assert found(neon=True) is None
