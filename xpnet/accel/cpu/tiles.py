"""Matrix products in float32 by register tiles, for x86-64 processors with AVX2 or AVX-512.

A tile is a few rows times a few vectors of C, kept in registers while k runs. Each element of C is
one chain of fused multiply-adds over k in order, `fma(a[k], b[k], ... fma(a[0], b[0], 0))`,
whichever tile computes it. So the bits do not depend on how a product is cut into rows and columns,
nor on the width of the vectors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils

from xpnet.accel.cpu.compiled import compiled
from xpnet.accel.cpu.layout import TILE_ROWS
from xpnet.accel.cpu.llvm import INT, code_of, real_pointer
from xpnet.accel.cpu.vectors import (
    BYTES,
    Vectors,
    copy,
    copy_some,
    fetch,
    plus,
    stack,
    transpose,
)

SHAPES = {8: (TILE_ROWS, 2, 8, 256), 16: (TILE_ROWS, 4, 12, 144)}
"""By lanes: rows and vectors of a tile, rows of a narrower tile, and the values of k for which a
panel of B is copied at a time, few enough to stay in the first-level cache."""

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

CACHE_LINE = 64
"""Bytes that a prefetch fetches."""


def _tile(
    vectors: Vectors, rows: int, width: int, a: Any, b: Any, c: Any, k: Any, ahead: Any, add: Any
) -> None:
    """C (+)= A B for `rows` rows and `width` vectors; `a`: address, row and column in bytes.

    `ahead`: address and step in bytes of what each k prefetches, and whether the rows of C below,
    those of the next tile, are prefetched as well.
    """
    builder = vectors.builder
    (a_at, a_row, a_step), (b_at, b_step), (c_at, c_row) = a, b, c
    offsets = [ir.Constant(INT, v * vectors.lanes * BYTES) for v in range(width)]
    cells = [(m, v) for m in range(rows) for v in range(width)]
    c_rows = [plus(builder, c_at, c_row, m) for m in range(rows)]
    sums = {cell: cgutils.alloca_once(builder, vectors.type) for cell in cells}
    for cell in cells:
        builder.store(vectors.zero, sums[cell])
    with builder.if_then(vectors.hidden(add)):
        for m, v in cells:
            builder.store(vectors.load(builder.add(c_rows[m], offsets[v])), sums[m, v])
    with builder.if_then(ahead[2]):
        below = plus(builder, c_at, c_row, rows)
        for m, v in cells:
            fetch(builder, builder.add(plus(builder, below, c_row, m), offsets[v]))
    a_now = cgutils.alloca_once_value(builder, a_at)
    b_now = cgutils.alloca_once_value(builder, b_at)
    ahead_now = cgutils.alloca_once_value(builder, ahead[0])
    with cgutils.for_range(builder, k):
        a_k, b_k, ahead_k = (builder.load(now) for now in (a_now, b_now, ahead_now))
        fetch(builder, ahead_k)
        builder.store(builder.add(ahead_k, ahead[1]), ahead_now)
        b_vectors = [vectors.load(builder.add(b_k, offset)) for offset in offsets]
        for m in range(rows):
            a_vector = vectors.load_splat(plus(builder, a_k, a_row, m))
            for v in range(width):
                total = vectors.fma(a_vector, b_vectors[v], builder.load(sums[m, v]))
                builder.store(total, sums[m, v])
        builder.store(builder.add(a_k, a_step), a_now)
        builder.store(builder.add(b_k, b_step), b_now)
    for m, v in cells:
        vectors.store(builder.load(sums[m, v]), builder.add(c_rows[m], offsets[v]))


def _write_strip(function: Any, lanes: int, height: int, width: int) -> None:
    """The body of the LLVM function that `_strip` calls; inlined, it is compiled too often."""
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    a_at, a_row, a_step, a_tile, *b, c_at, c_row, rows, columns, k = function.args[:11]
    ahead_at, ahead_step, ahead_bytes, is_large, add = function.args[11:]
    is_large = builder.icmp_unsigned("!=", is_large, ir.Constant(INT, 0))
    vectors = Vectors(builder, lanes, columns if width == 1 else None)
    for rows_of_tile in [height, *(h for h in (4, 2, 1) if h < height)]:
        size = ir.Constant(INT, rows_of_tile)
        tiles = builder.udiv(rows, size)
        start = a_tile if rows_of_tile == height else builder.mul(a_row, size)
        with cgutils.for_range(builder, tiles) as loop:
            row = builder.mul(loop.index, size)
            a_now = (builder.add(a_at, builder.mul(start, loop.index)), a_row, a_step)
            c_now = (builder.add(c_at, builder.mul(c_row, row)), c_row)
            # Each of the first tiles prefetches a cache line of every row.
            line = builder.mul(loop.index, ir.Constant(INT, CACHE_LINE))
            is_first = builder.icmp_unsigned("<", line, ahead_bytes)
            ahead = (
                builder.select(is_first, builder.add(ahead_at, line), b[0]),
                builder.select(is_first, ahead_step, ir.Constant(INT, 0)),
                is_large,
            )
            _tile(vectors, rows_of_tile, width, a_now, b, c_now, k, ahead, add)
        done = builder.mul(tiles, size)
        rows = builder.sub(rows, done)
        a_at = builder.add(a_at, builder.mul(start, tiles))
        c_at = builder.add(c_at, builder.mul(c_row, done))
    builder.ret_void()


@code_of
def _strip(
    typing: Any,
    lanes: Any,
    height: Any,
    width: Any,
    a: Any,
    b: Any,
    c: Any,
    sizes: Any,
    ahead: Any,
    add: Any,
) -> Any:
    """C (+)= A B for `width` vectors of columns and any number of rows, in tiles of `height` rows.

    `a`: address, and bytes from row to row, from column to column, and from tile to tile; `b`, `c`:
    address, and bytes from row to row; `sizes`: rows, columns, k; `ahead`: address, bytes from row
    to row, and bytes of a row of `k` rows that are read next, and 1 if C is large. With a width of
    one vector there may be fewer columns than lanes.
    """
    shape = [x.literal_value for x in (lanes, height, width)]
    kinds = [INT] * 15 + [ir.IntType(1)]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = [x for packed in arguments[3:8] for x in cgutils.unpack_tuple(builder, packed)]
        name = "strip_{}_{}_{}".format(*shape)
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
            _write_strip(function, *shape)
        builder.call(function, [*given, arguments[8]])
        return context.get_dummy_value()

    four, three, two = (types.UniTuple(types.int64, count) for count in (4, 3, 2))
    return types.void(lanes, height, width, four, two, two, three, four, types.boolean), code


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
    pair = 2 * lanes if width > 2 else 0
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
            ahead = nothing = (b_at, 0, 0, is_large)
            if is_large or (is_copied and b_column == side):
                # After the last panel, the next columns, which may be another part's.
                after = number + 1
                down, right = after // per_first % blocks * most, after // per_panel % count
                if after == count * blocks:
                    right = count
                at = b + down * b_row + right * b_panel
                ahead = (at, b_row, panel * side, is_large)
                if b_column != side:
                    ahead = (at, b_column, k * side, is_large)
            c_now = c + j * side
            if wide == panel:
                a_now = (a_first, a_row, a_column, a_row * height)
                if is_packed:
                    a_now = (packed, side, height * side, height * k * side)
                at_b, at_c, sizes = (b_at, b_step), (c_now, c_row), (rows, wide, k)
                _strip(lanes, height, width, a_now, at_b, at_c, sizes, ahead, add)
            else:
                a_now = (a_first, a_row, a_column, a_row * tall)
                paired = 0
                if pair:
                    paired = wide // pair * pair
                    for v in range(0, paired, pair):
                        at_b, at_c = (b_at + v * side, b_step), (c_now + v * side, c_row)
                        sizes = (rows, pair, k)
                        _strip(lanes, tall, 2, a_now, at_b, at_c, sizes, ahead, add)
                        ahead = nothing
                for v in range(paired, wide, lanes):
                    some, at = min(lanes, wide - v), v * side
                    at_b, at_c = (b_at + at, b_step), (c_now + at, c_row)
                    sizes = (rows, some, k)
                    _strip(lanes, tall, 1, a_now, at_b, at_c, sizes, ahead, add)
                    ahead = nothing

    return compiled(tiles_product)
