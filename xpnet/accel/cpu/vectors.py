"""Vectors of float32 in LLVM code: loads, stores, and copies by them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from xpnet.accel.cpu.llvm import INT, INT32, code_of

FLOAT, BYTES = ir.FloatType(), 4


class Vectors:
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
        """The vector at `address`, which need not be aligned."""
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        if self.mask is None:
            return self.builder.load(pointer, align=BYTES)
        given = [pointer, ir.Constant(INT32, BYTES), self.mask, self.zero]
        return self._call("llvm.masked.load", ".p0", self.type, given)

    def store(self, value: Any, address: Any) -> None:
        """Write the vector `value` to `address`, which need not be aligned."""
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

    def load_splat(self, address: Any) -> Any:
        """A vector of the float at `address` in all lanes."""
        pointer = self.builder.inttoptr(address, FLOAT.as_pointer())
        return self.splat(self.builder.load(pointer, align=BYTES))

    def hidden(self, flag: Any) -> Any:
        """`flag`, which LLVM then takes for a new value each time.

        Otherwise LLVM would move branches on it out of loops, with a copy of them for each case.
        """
        kind = ir.FunctionType(INT32, [INT32])
        value = self.builder.asm(kind, "", "=r,0", [self.builder.zext(flag, INT32)], True)
        return self.builder.trunc(value, ir.IntType(1))

    def after(self, address: Any, vector: Any) -> Any:
        """`address`, which LLVM then takes for a result of `vector`.

        So it does not move loads from there before the operations that `vector` comes from, where
        they would take more registers than there are.
        """
        kind = ir.FunctionType(INT, [INT, FLOAT])
        first = self.builder.extract_element(vector, ir.Constant(INT32, 0))
        return self.builder.asm(kind, "", "=r,0,v", [address, first], False)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """`a b + c`, rounded once."""
        return self._call("llvm.fma", "", self.type, [a, b, c])

    def sqrt(self, x: Any) -> Any:
        """The square root, correctly rounded."""
        return self._call("llvm.sqrt", "", self.type, [x])

    def absolute(self, x: Any) -> Any:
        """`|x|`."""
        return self._call("llvm.fabs", "", self.type, [x])

    def zip(self, a: Any, b: Any, start: int) -> Any:
        """`a[start], b[start], a[start + 1], ...`: as many as fill a vector."""
        pairs = [(i, self.lanes + i) for i in range(start, start + self.lanes // 2)]
        order = ir.Constant(ir.VectorType(INT32, self.lanes), [i for pair in pairs for i in pair])
        return self.builder.shuffle_vector(a, b, order)


def plus(builder: Any, address: Any, step: Any, count: int) -> Any:
    """`address + step * count`."""
    return builder.add(address, builder.mul(step, ir.Constant(INT, count)))


@code_of
def transpose(typing: Any, lanes: Any, source: Any, source_row: Any, to: Any, to_row: Any) -> Any:
    """Transpose `lanes` rows of `lanes` floats, from address to address."""
    n_lanes = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_row, to, to_row = arguments
        vectors, half = Vectors(builder, n_lanes), n_lanes // 2
        rows = [vectors.load(plus(builder, source, source_row, i)) for i in range(n_lanes)]
        for _ in range(n_lanes.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [vectors.zip(*pair, start) for pair in pairs for start in (0, half)]
        for i, row in enumerate(rows):
            vectors.store(row, plus(builder, to, to_row, i))
        return context.get_dummy_value()

    return types.void(lanes, *[types.int64] * 4), code


@code_of
def copy(typing: Any, lanes: Any, count: Any, source: Any, to: Any) -> Any:
    """Copy `count` vectors, a constant, from address to address."""
    n_lanes, n_vectors = lanes.literal_value, count.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, source, to = arguments
        vectors, size = Vectors(builder, n_lanes), ir.Constant(INT, n_lanes * BYTES)
        for i in range(n_vectors):
            value = vectors.load(plus(builder, source, size, i))
            vectors.store(value, plus(builder, to, size, i))
        return context.get_dummy_value()

    return types.void(lanes, count, types.int64, types.int64), code


@code_of
def copy_some(typing: Any, lanes: Any, count: Any, source: Any, to: Any) -> Any:
    """Copy `count` floats, at most `lanes`, and zeros after them: `lanes` floats are written."""
    n_lanes = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, count, source, to = arguments
        Vectors(builder, n_lanes).store(Vectors(builder, n_lanes, count).load(source), to)
        return context.get_dummy_value()

    return types.void(lanes, *[types.int64] * 3), code


def fetch(builder: Any, address: Any) -> None:
    """Fetch the cache line at `address`, which will be read soon, into the second-level cache."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    options = [ir.Constant(INT32, number) for number in (0, 2, 1)]  # to read; L2; data
    builder.call(function, [builder.inttoptr(address, byte), *options])


@code_of
def stack(typing: Any, size: Any) -> Any:
    """The address of `size` bytes on the stack of the function, aligned to cache lines."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        space = ir.ArrayType(ir.IntType(8), size.literal_value)
        with builder.goto_entry_block():
            memory = builder.alloca(space)  # `cgutils.alloca_once` writes zeros into it
        memory.align = 64
        return builder.ptrtoint(memory, INT)

    return types.int64(size), code
