"""Tiles and strips of a matrix product in LLVM code.

A tile is a few rows times a few vectors of C, kept in registers while k runs. A strip is tiles, one
below the other.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from xpnet.accel.cpu.llvm import INT, code_of
from xpnet.accel.cpu.vectors import BYTES, Vectors, fetch, plus

NARROW = {8: 1, 16: 2}
"""By lanes: vectors of a strip up to which the last one may have fewer columns than lanes."""

UNROLLED = 4
"""Values of k in one pass of the loop over k."""

FETCH_EVERY = {8: 16, 16: 8}
"""By lanes: values of k, a multiple of `UNROLLED`, after which a tile prefetches two cache lines.
Many at a time would leave no line buffers for what the tile reads."""

CACHE_LINE = 64
"""Bytes that a prefetch fetches."""

LINES = {8: 2, 16: 4}
"""By lanes: cache lines that hold a row of a panel."""


def _fetch(vectors: Vectors, rows: int, c: Any, ahead: Any, number: Any) -> None:
    """Prefetch number `number` of a tile: of what is read next, and of C two tiles below."""
    builder = vectors.builder
    lines = ir.Constant(INT, LINES[vectors.lanes])
    ahead_at, ahead_step, is_large = ahead
    offset = builder.mul(builder.urem(number, lines), ir.Constant(INT, CACHE_LINE))
    row = builder.mul(builder.udiv(number, lines), ahead_step)
    fetch(builder, builder.add(builder.add(ahead_at, row), offset))
    c_at, c_row = c
    row = builder.urem(builder.udiv(number, lines), ir.Constant(INT, rows))
    below = builder.mul(builder.add(row, ir.Constant(INT, 2 * rows)), c_row)
    below = builder.select(is_large, below, ir.Constant(INT, 0))
    fetch(builder, builder.add(builder.add(c_at, below), offset))


def _tile(
    vectors: Vectors,
    last: Vectors,
    rows: int,
    width: int,
    a: Any,
    b: Any,
    c: Any,
    k: Any,
    ahead: Any,
    add: Any,
) -> None:
    """C (+)= A B for `rows` rows and `width` vectors; `a`: address, row and column in bytes.

    `last`: loads and stores the last of the vectors, which may have fewer columns than lanes.
    `ahead`: address and step in bytes of what is prefetched, and whether C is prefetched as well.
    """
    builder = vectors.builder
    (a_at, a_row, a_step), (b_at, b_step), (c_at, c_row) = a, b, c
    offsets = [ir.Constant(INT, v * vectors.lanes * BYTES) for v in range(width)]
    each = [*[vectors] * (width - 1), last]
    cells = [(m, v) for m in range(rows) for v in range(width)]
    c_rows = [plus(builder, c_at, c_row, m) for m in range(rows)]
    sums = {cell: cgutils.alloca_once(builder, vectors.type) for cell in cells}
    for cell in cells:
        builder.store(vectors.zero, sums[cell])
    with builder.if_then(vectors.hidden(add)):
        for m, v in cells:
            builder.store(each[v].load(builder.add(c_rows[m], offsets[v])), sums[m, v])
    a_now = cgutils.alloca_once_value(builder, a_at)
    b_now = cgutils.alloca_once_value(builder, b_at)

    def add_products(count: Any, unrolled: int) -> None:
        with cgutils.for_range(builder, count):
            a_k, b_k = builder.load(a_now), builder.load(b_now)
            for _ in range(unrolled):
                b_vectors = [each[v].load(builder.add(b_k, offsets[v])) for v in range(width)]
                for m in range(rows):
                    a_vector = vectors.load_splat(plus(builder, a_k, a_row, m))
                    for v in range(width):
                        total = vectors.fma(a_vector, b_vectors[v], builder.load(sums[m, v]))
                        builder.store(total, sums[m, v])
                total = builder.load(sums[cells[-1]])
                a_k = vectors.after(builder.add(a_k, a_step), total)
                b_k = vectors.after(builder.add(b_k, b_step), total)
            builder.store(a_k, a_now)
            builder.store(b_k, b_now)

    steps = FETCH_EVERY[vectors.lanes]
    often, unrolled = ir.Constant(INT, steps), ir.Constant(INT, UNROLLED)
    with cgutils.for_range(builder, builder.udiv(k, often)) as loop:
        _fetch(vectors, rows, c, ahead, loop.index)
        add_products(ir.Constant(INT, steps // UNROLLED), UNROLLED)
    rest = builder.urem(k, often)
    add_products(builder.udiv(rest, unrolled), UNROLLED)
    add_products(builder.urem(rest, unrolled), 1)
    for m, v in cells:
        each[v].store(builder.load(sums[m, v]), builder.add(c_rows[m], offsets[v]))


def _write_strip(function: Any, lanes: int, height: int, width: int) -> None:
    """The body of the LLVM function that `strip` calls; inlined, it is compiled too often."""
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    a_at, a_row, a_step, a_tile, *b, c_at, c_row, rows, columns, k = function.args[:11]
    ahead_at, ahead_tile, ahead_step, ahead_tiles, is_large, add = function.args[11:]
    is_large = builder.icmp_unsigned("!=", is_large, ir.Constant(INT, 0))
    vectors = last = Vectors(builder, lanes)
    if width <= NARROW[lanes]:
        others = ir.Constant(INT, (width - 1) * lanes)
        last = Vectors(builder, lanes, builder.sub(columns, others))
    for rows_of_tile in [height, *(h for h in (4, 2, 1) if h < height)]:
        size = ir.Constant(INT, rows_of_tile)
        tiles = builder.udiv(rows, size)
        start = a_tile if rows_of_tile == height else builder.mul(a_row, size)
        with cgutils.for_range(builder, tiles) as loop:
            row = builder.mul(loop.index, size)
            a_now = (builder.add(a_at, builder.mul(start, loop.index)), a_row, a_step)
            c_now = (builder.add(c_at, builder.mul(c_row, row)), c_row)
            is_first = builder.icmp_unsigned("<", loop.index, ahead_tiles)
            ahead_now = builder.add(ahead_at, builder.mul(ahead_tile, loop.index))
            ahead = (
                builder.select(is_first, ahead_now, b[0]),
                builder.select(is_first, ahead_step, ir.Constant(INT, 0)),
                is_large,
            )
            _tile(vectors, last, rows_of_tile, width, a_now, b, c_now, k, ahead, add)
        done = builder.mul(tiles, size)
        rows = builder.sub(rows, done)
        a_at = builder.add(a_at, builder.mul(start, tiles))
        c_at = builder.add(c_at, builder.mul(c_row, done))
    builder.ret_void()


@code_of
def strip(
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
    address, and bytes from row to row; `sizes`: rows, columns, k; `ahead`: address, bytes from tile
    to tile and from row to row of what each of so many tiles prefetches, that number, and 1 if C is
    large. A narrow strip may have fewer columns than its vectors have lanes.
    """
    shape = [x.literal_value for x in (lanes, height, width)]
    kinds = [INT] * 16 + [ir.IntType(1)]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = [x for packed in arguments[3:8] for x in cgutils.unpack_tuple(builder, packed)]
        name = "strip_{}_{}_{}".format(*shape)
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
            _write_strip(function, *shape)
        builder.call(function, [*given, arguments[8]])
        return context.get_dummy_value()

    five, four, three, two = (types.UniTuple(types.int64, count) for count in (5, 4, 3, 2))
    return types.void(lanes, height, width, four, two, two, three, five, types.boolean), code
