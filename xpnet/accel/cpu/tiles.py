"""Matrix products in float32 by register tiles, for x86-64 processors with AVX2 or AVX-512.

A tile (`strips.py`) is a few rows times a few vectors of C. Each element of C is one chain of fused
multiply-adds over k in order, `fma(a[k], b[k], ... fma(a[0], b[0], 0))`, whichever tile computes
it. So the bits do not depend on how a product is cut into rows and columns, nor on the width of the
vectors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding

from xpnet.accel.cpu.compiled import compiled
from xpnet.accel.cpu.layout import TILE_ROWS
from xpnet.accel.cpu.llvm import real_pointer
from xpnet.accel.cpu.strips import CACHE_LINE, LINES, NARROW, strip
from xpnet.accel.cpu.vectors import BYTES, copy, copy_some, stack, transpose

SHAPES = {8: (TILE_ROWS, 2, 8, 256), 16: (TILE_ROWS, 4, 8, 512)}
"""By lanes: rows and vectors of a tile, rows of a narrower tile, and the values of k for which a
panel of B is copied at a time. With AVX-512 a panel lies in the second-level cache: a tile reads it
in order, so that this is fast enough, and C is read and written less often."""

MOST_ROWS, MANY_COLUMNS = 192, 256
"""A transposed A of at most `MOST_ROWS` rows, a multiple of those of a tile, is copied, so that a
tile reads it in order, if C has at least `MANY_COLUMNS` columns: then the copy is read often."""


def lanes() -> int | None:
    """Floats in a vector of this processor; None if it has neither AVX-512 nor AVX2 with FMA."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else None


def panels() -> tuple[int, int, int] | None:
    """Columns of a panel of B, rows of A from which on one is copied, and its rows at a time."""
    found = lanes()
    if found is None:
        return None
    height, width, _, depth = SHAPES[found]
    return width * found, COPIED_FROM * height, depth


COPIED_FROM = 4
"""Tiles, one below the other, that read a panel of B, from which on it is copied."""

LARGE, LARGE_A = 2**15, 2**17
"""Numbers of C from which on they are prefetched: fewer are still in the second-level cache. And
numbers of A that fill a good part of that cache."""


@cache
def product(lanes: int) -> Any:
    """C (+)= A B for vectors of `lanes` floats, 8 or 16, compiled.

    The arguments are address, row and column in bytes of A, of B, and of C, then rows, columns, k,
    1 to add to C instead of replacing it, and 0, or the bytes from panel to panel of a B that is a
    list of panels already. The floats of a row of C lie side by side, and so do those of a row of
    B, or those of a column. C overlaps neither A nor B.
    """
    height, width, tall, depth = SHAPES[lanes]
    panel, side, bits = width * lanes, BYTES, 32
    wider, row_bytes = NARROW[lanes], LINES[lanes] * CACHE_LINE
    narrow = wider * lanes
    size, space = depth * panel * BYTES, (MOST_ROWS * depth + lanes) * BYTES

    def tiles_product(p, step):
        a, a_row, a_column, b, b_row, b_column = p[0], p[1], p[2], p[3], p[4], p[5]
        c, c_row, rows, columns, inner = p[6], p[7], p[9], p[10], p[11]
        b_panel = p[13] if p[13] != 0 else panel * b_column
        panel_at, packed = stack(size), stack(space)
        # A narrow B lies as densely as its copy would.
        is_copied = b_column != side or (rows >= COPIED_FROM * height and b_row > panel * side)
        is_split = is_copied or p[13] != 0
        is_packed = a_row == side and columns >= MANY_COLUMNS
        is_packed = is_packed and rows <= MOST_ROWS and (is_split or inner <= depth)
        is_large = 1 if is_split and rows * columns >= LARGE else 0
        blocks = max(1, (inner + depth - 1) // depth) if is_split else 1
        most = max(1, (inner + blocks - 1) // blocks)
        count = (columns + panel - 1) // panel
        # Of a large A, all panels read one range of k before the next, while it is in a cache.
        is_by_k = is_packed or rows * inner >= LARGE_A
        per_first, per_panel = (count, 1) if is_by_k else (1, blocks)
        for number in range(count * blocks):
            first, j = number // per_first % blocks * most, number // per_panel % count * panel
            k, add = max(0, min(most, inner - first)), p[12] != 0 or first > 0
            a_first = a + first * a_column
            if is_packed and j == 0:
                for t in range(0, rows, height):
                    for r in range(k):
                        at, to = t * side + r * a_column, (t * k + r * height) * side
                        copy_some(lanes, min(height, rows - t), a_first + at, packed + to)
            wide = min(panel, columns - j)
            b_at, b_step = b + first * b_row + j // panel * b_panel, b_row
            if is_copied:
                if b_column == side:
                    for r in range(k):
                        source, to = b_at + r * b_row, panel_at + r * panel * side
                        if wide == panel:
                            copy(lanes, width, source, to)
                        else:
                            for v in range(0, wide, lanes):
                                at, some = v * side, min(lanes, wide - v)
                                copy_some(lanes, some, source + at, to + at)
                else:
                    done_columns = wide // lanes * lanes if b_row == side else 0
                    done_k = k // lanes * lanes
                    for q in range(0, done_columns, lanes):
                        for r in range(0, done_k, lanes):
                            transpose(
                                lanes,
                                b_at + q * b_column + r * side,
                                b_column,
                                panel_at + (r * panel + q) * side,
                                panel * side,
                            )
                    for q in range(wide):
                        for r in range(done_k if q < done_columns else 0, k):
                            source = real_pointer(b_at + q * b_column + r * b_row, bits)
                            target = real_pointer(panel_at + (r * panel + q) * side, bits)
                            target[0] = source[0]
                b_at, b_step = panel_at, panel * side
            ahead = nothing = (b_at, 0, 0, 0, is_large)
            if is_large or (is_copied and b_column == side):
                # After the last panel, the next columns, which may be another part's.
                after = number + 1
                down, right = after // per_first % blocks * most, after // per_panel % count
                if after == count * blocks:
                    right = count
                at = b + down * b_row + right * b_panel
                # Each tile has some of the k rows, or, where columns lie densely, one of them.
                tiles = (rows + height - 1) // height
                each = max(1, (k + tiles - 1) // tiles)
                ahead = (at, each * b_row, b_row, (k + each - 1) // each, is_large)
                if b_column != side:
                    ahead = (at, b_column, row_bytes, panel, is_large)
            c_now = c + j * side
            if wide == panel:
                a_now = (a_first, a_row, a_column, a_row * height)
                if is_packed:
                    a_now = (packed, side, height * side, height * k * side)
                at_b, at_c, sizes = (b_at, b_step), (c_now, c_row), (rows, wide, k)
                strip(lanes, height, width, a_now, at_b, at_c, sizes, ahead, add)
            else:
                a_now = (a_first, a_row, a_column, a_row * tall)
                for v in range(0, wide, narrow):
                    some, at = min(narrow, wide - v), v * side
                    at_b, at_c = (b_at + at, b_step), (c_now + at, c_row)
                    sizes = (rows, some, k)
                    if some > lanes:
                        strip(lanes, tall, wider, a_now, at_b, at_c, sizes, ahead, add)
                    else:
                        strip(lanes, tall, 1, a_now, at_b, at_c, sizes, ahead, add)
                    ahead = nothing

    return compiled(tiles_product)
