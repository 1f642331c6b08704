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
from xpnet.accel.cpu.llvm import INT, INT32, code_of, real_pointer

SHAPES = {8: (6, 2, 8, 256), 16: (6, 4, 12, 128)}
"""By lanes: rows and vectors of a tile, rows of a tile of one vector, and the values of k for which
a panel of B is copied at a time, few enough to stay in the first-level cache."""

MOST_ROWS = 96
"""Rows of A, a multiple of those of a tile, that are copied so that a tile reads floats in order."""

FLOAT, BYTES = ir.FloatType(), 4


def lanes() -> int | None:
    """Floats in a vector of this processor; None if it has neither AVX-512 nor AVX2 with FMA."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else None


class _Vectors:
    """Writes LLVM code of operations on vectors; with `columns`, of their first `columns` lanes."""

    def __init__(self, builder: Any, lanes: int, columns: Any = None) -> None:
        self.builder, self.lanes, self.mask = builder, lanes, None
        self.type = ir.VectorType(FLOAT, lanes)
        self.zero = ir.Constant(self.type, [0.0] * lanes)
        if columns is not None:
            numbers = ir.Constant(ir.VectorType(INT32, lanes), list(range(lanes)))
            count = self.splat(builder.trunc(columns, INT32))
            self.mask = builder.icmp_signed("<", numbers, count)

    def splat(self, value: Any) -> Any:
        """A vector of `value` in all lanes."""
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(INT32, 0))
        order = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, order)

    def load(self, address: Any) -> Any:
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        if self.mask is None:
            return self.builder.load(pointer, align=BYTES)
        given = [pointer, ir.Constant(INT32, BYTES), self.mask, self.zero]
        return self._call("llvm.masked.load", ".p0", self.type, given)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        if self.mask is None:
            self.builder.store(value, pointer, align=BYTES)
        else:
            given = [value, pointer, ir.Constant(INT32, BYTES), self.mask]
            self._call("llvm.masked.store", ".p0", ir.VoidType(), given)

    def _call(self, name: str, kind: str, result: Any, given: list[Any]) -> Any:
        signature = ir.FunctionType(result, [value.type for value in given])
        name = f"{name}.v{self.lanes}f32{kind}"
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, given)

    def prefetch(self, address: Any) -> None:
        """Fetch memory that is read soon into the second-level cache."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        given = [self.builder.inttoptr(address, byte), *(ir.Constant(INT32, n) for n in (0, 2, 1))]
        self.builder.call(function, given)

    def load_splat(self, address: Any) -> Any:
        """A vector of the float at `address` in all lanes."""
        pointer = self.builder.inttoptr(address, FLOAT.as_pointer())
        return self.splat(self.builder.load(pointer, align=BYTES))

    def hidden(self, flag: Any) -> Any:
        """`flag`, which LLVM then takes for a new value each time.

        Else it moves branches on it out of loops, and writes a copy of the loops for each case.
        """
        kind = ir.FunctionType(INT32, [INT32])
        value = self.builder.asm(kind, "", "=r,0", [self.builder.zext(flag, INT32)], True)
        return self.builder.trunc(value, ir.IntType(1))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """`a b + c`, rounded once."""
        return self._call("llvm.fma", "", self.type, [a, b, c])

    def zip(self, a: Any, b: Any, start: int) -> Any:
        """`a[start], b[start], a[start + 1], ...`: as many as fill a vector."""
        pairs = [(i, self.lanes + i) for i in range(start, start + self.lanes // 2)]
        order = ir.Constant(ir.VectorType(INT32, self.lanes), [i for pair in pairs for i in pair])
        return self.builder.shuffle_vector(a, b, order)


def _plus(builder: Any, address: Any, step: Any, count: int) -> Any:
    return builder.add(address, builder.mul(step, ir.Constant(INT, count)))


def _tile(
    vectors: _Vectors, rows: int, width: int, a: Any, b: Any, c: Any, k: Any, add: Any
) -> None:
    """C (+)= A B for `rows` rows and `width` vectors; `a`: address, row and column in bytes."""
    builder = vectors.builder
    (a_at, a_row, a_step), (b_at, b_step), (c_at, c_row) = a, b, c
    offsets = [ir.Constant(INT, v * vectors.lanes * BYTES) for v in range(width)]
    cells = [(m, v) for m in range(rows) for v in range(width)]
    c_rows = [_plus(builder, c_at, c_row, m) for m in range(rows)]
    sums = {cell: cgutils.alloca_once(builder, vectors.type) for cell in cells}
    for cell in cells:
        builder.store(vectors.zero, sums[cell])
    with builder.if_then(vectors.hidden(add)):
        for m, v in cells:
            builder.store(vectors.load(builder.add(c_rows[m], offsets[v])), sums[m, v])
    a_now = cgutils.alloca_once_value(builder, a_at)
    b_now = cgutils.alloca_once_value(builder, b_at)
    with cgutils.for_range(builder, k):
        a_k, b_k = builder.load(a_now), builder.load(b_now)
        b_vectors = [vectors.load(builder.add(b_k, offset)) for offset in offsets]
        for m in range(rows):
            a_vector = vectors.load_splat(_plus(builder, a_k, a_row, m))
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
    a_at, a_row, a_step, a_tile, *b, c_at, c_row, rows, columns, k, add = function.args
    vectors = _Vectors(builder, lanes, columns if width == 1 else None)
    for rows_of_tile in [height, *(h for h in (4, 2, 1) if h < height)]:
        size = ir.Constant(INT, rows_of_tile)
        tiles = builder.udiv(rows, size)
        start = a_tile if rows_of_tile == height else builder.mul(a_row, size)
        with cgutils.for_range(builder, tiles) as loop:
            row = builder.mul(loop.index, size)
            a_now = (builder.add(a_at, builder.mul(start, loop.index)), a_row, a_step)
            c_now = (builder.add(c_at, builder.mul(c_row, row)), c_row)
            _tile(vectors, rows_of_tile, width, a_now, b, c_now, k, add)
        done = builder.mul(tiles, size)
        rows = builder.sub(rows, done)
        a_at = builder.add(a_at, builder.mul(start, tiles))
        c_at = builder.add(c_at, builder.mul(c_row, done))
    builder.ret_void()


@code_of
def _strip(
    typing: Any, lanes: Any, height: Any, width: Any, a: Any, b: Any, c: Any, sizes: Any, add: Any
) -> Any:
    """C (+)= A B for `width` vectors of columns and any number of rows, in tiles of `height` rows.

    `a`: address, row, column, and tile to tile in bytes; `b`, `c`: address and row; `sizes`: rows,
    columns, k.
    With a width of one vector there may be fewer columns than lanes.
    """
    shape = [x.literal_value for x in (lanes, height, width)]
    kinds = [INT] * 11 + [ir.IntType(1)]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = [x for packed in arguments[3:7] for x in cgutils.unpack_tuple(builder, packed)]
        name = "strip_{}_{}_{}".format(*shape)
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
            _write_strip(function, *shape)
        builder.call(function, [*given, arguments[7]])
        return context.get_dummy_value()

    four, three, two = (types.UniTuple(types.int64, count) for count in (4, 3, 2))
    return types.void(lanes, height, width, four, two, two, three, types.boolean), code


@code_of
def _transpose(typing: Any, lanes: Any, source: Any, source_row: Any, to: Any, to_row: Any) -> Any:
    """Transpose `lanes` rows of `lanes` floats, from address to address."""
    n_lanes = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_row, to, to_row = arguments
        vectors, half = _Vectors(builder, n_lanes), n_lanes // 2
        rows = [vectors.load(_plus(builder, source, source_row, i)) for i in range(n_lanes)]
        for _ in range(n_lanes.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [vectors.zip(*pair, start) for pair in pairs for start in (0, half)]
        for i, row in enumerate(rows):
            vectors.store(row, _plus(builder, to, to_row, i))
        return context.get_dummy_value()

    return types.void(lanes, *[types.int64] * 4), code


@code_of
def _copy_some(typing: Any, lanes: Any, count: Any, source: Any, to: Any) -> Any:
    """Copy `count` floats, at most `lanes`, from address to address; `lanes` are written."""
    n_lanes = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, count, source, to = arguments
        _Vectors(builder, n_lanes).store(_Vectors(builder, n_lanes, count).load(source), to)
        return context.get_dummy_value()

    return types.void(lanes, *[types.int64] * 3), code


@code_of
def _copy(typing: Any, lanes: Any, count: Any, source: Any, to: Any) -> Any:
    """Copy `count` vectors, from address to address."""
    n_lanes, n_vectors = lanes.literal_value, count.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, source, to = arguments
        vectors, size = _Vectors(builder, n_lanes), ir.Constant(INT, n_lanes * BYTES)
        for i in range(n_vectors):
            vectors.store(vectors.load(_plus(builder, source, size, i)), _plus(builder, to, size, i))
        vectors.prefetch(_plus(builder, source, size, n_vectors))
        return context.get_dummy_value()

    return types.void(lanes, count, types.int64, types.int64), code


@code_of
def _stack(typing: Any, size: Any) -> Any:
    """The address of `size` bytes on the stack of the function, aligned to cache lines."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        space = ir.ArrayType(ir.IntType(8), size.literal_value)
        with builder.goto_entry_block():
            memory = builder.alloca(space)  # `cgutils.alloca_once` writes zeros into it
        memory.align = 64
        return builder.ptrtoint(memory, INT)

    return types.int64(size), code


@cache
def product(lanes: int) -> Any:
    """C (+)= A B for vectors of `lanes` floats, 8 or 16, compiled.

    The arguments are address, row and column in bytes of A, of B, and of C, then rows, columns, k,
    and 1 to add to C instead of replacing it. The columns of C, and either rows or columns of B,
    have their floats side by side. C overlaps neither A nor B.
    """
    height, width, tall, depth = SHAPES[lanes]
    panel, side, bits = width * lanes, BYTES, 32
    size, room = depth * panel * BYTES, (MOST_ROWS * depth + lanes) * BYTES

    def tiles_product(p, step):
        a, a_row, a_column, b, b_row, b_column = p[0], p[1], p[2], p[3], p[4], p[5]
        c, c_row, rows, columns, inner = p[6], p[7], p[9], p[10], p[11]
        copy, packed = _stack(size), _stack(room)
        # A narrow B lies as densely as its copy would.
        is_copied = b_column != side or (rows >= 4 * height and b_row > panel * side)
        a_tile = a_row * height
        is_packed = a_row == side and rows <= MOST_ROWS and inner <= depth and columns >= 256
        if is_packed:
            a_tile = height * inner * side
            for t in range(0, rows, height):
                for r in range(inner):
                    at, to = t * side + r * a_column, (t * inner + r * height) * side
                    _copy_some(lanes, min(height, rows - t), a + at, packed + to)
        most = depth if is_copied else max(inner, 1)
        for j in range(0, columns, panel):
            wide = min(panel, columns - j)
            for first in range(0, max(inner, 1), most):
                k, add = min(most, inner - first), p[12] != 0 or first > 0
                b_at, b_step = b + first * b_row + j * b_column, b_row
                if is_copied:
                    if b_column == side and wide == panel:
                        for r in range(k):
                            _copy(lanes, width, b_at + r * b_row, copy + r * panel * side)
                    elif b_column == side:
                        for r in range(k):
                            source = real_pointer(b_at + r * b_row, bits)
                            target = real_pointer(copy + r * panel * side, bits)
                            for i in range(wide):
                                target[i] = source[i]
                    else:
                        done_columns = wide // lanes * lanes if b_row == side else 0
                        done_k = k // lanes * lanes
                        for q in range(0, done_columns, lanes):
                            for r in range(0, done_k, lanes):
                                _transpose(
                                    lanes,
                                    b_at + q * b_column + r * side,
                                    b_column,
                                    copy + (r * panel + q) * side,
                                    panel * side,
                                )
                        for q in range(wide):
                            for r in range(done_k if q < done_columns else 0, k):
                                source = real_pointer(b_at + q * b_column + r * b_row, bits)
                                target = real_pointer(copy + (r * panel + q) * side, bits)
                                target[0] = source[0]
                    b_at, b_step = copy, panel * side
                c_now = c + j * side
                a_now = (a + first * a_column, a_row, a_column, a_row * height)
                if wide == panel and is_packed:
                    a_now = (packed, side, height * side, a_tile)
                if wide == panel:
                    sizes = (rows, wide, k)
                    _strip(lanes, height, width, a_now, (b_at, b_step), (c_now, c_row), sizes, add)
                else:
                    a_now = (a + first * a_column, a_row, a_column, a_row * tall)
                    for v in range(0, wide, lanes):
                        some, at = min(lanes, wide - v), v * side
                        at_b, at_c = (b_at + at, b_step), (c_now + at, c_row)
                        _strip(lanes, tall, 1, a_now, at_b, at_c, (rows, some, k), add)

    return compiled(tiles_product)
