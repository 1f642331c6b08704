"""What numba lacks for loops on memory given by addresses: views, bit casts, atomics, calls.

Addresses are int64. A dtype is given as the number of bits of its floats, 32 or 64, a constant of
the function that is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.lib.stride_tricks import as_strided

INT, INT32 = ir.IntType(64), ir.IntType(32)
_REALS: dict[int, Any] = {32: types.float32, 64: types.float64}


def code_of(function: Callable[..., Any]) -> Any:
    """Decorator of a function that returns a signature and what writes the LLVM code."""
    return intrinsic(prefer_literal=True)(function)


def _pointer(builder: Any, address: Any, pointed: Any) -> Any:
    return builder.inttoptr(address, pointed.as_pointer())


@code_of
def real_pointer(typing: Any, address: Any, bits: Any) -> Any:
    """The floats of `bits` bits at `address`."""
    real = _REALS[bits.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _pointer(builder, arguments[0], context.get_value_type(real))

    return types.CPointer(real)(types.int64, bits), code


def _argument(builder: Any, block: Any, place: Any) -> tuple[Any, Any]:
    """The two numbers of argument `place` of a block."""
    first = builder.add(builder.mul(place, ir.Constant(INT, 2)), ir.Constant(INT, 2))
    second = builder.add(first, ir.Constant(INT, 1))
    return tuple(builder.load(builder.gep(block, [index])) for index in (first, second))


def _as_array(pointer: Any, size: int) -> Any:
    return carray(pointer, size)


def _array_at(context: Any, builder: Any, address: Any, size: Any, item: Any) -> Any:
    """The array of `size` items at `address`: it owns nothing."""
    pointer = _pointer(builder, address, context.get_data_type(item))
    signature = types.Array(item, 1, "C")(types.CPointer(item), types.int64)
    return context.compile_internal(builder, _as_array, signature, (pointer, size))


def _as_matrix(pointer: Any, rows: int, columns: int, step: int, item: int) -> Any:
    return as_strided(carray(pointer, (1, 1)), (rows, columns), (step, item))


@code_of
def matrix(typing: Any, block: Any, place: Any, rows: Any, columns: Any, bits: Any) -> Any:
    """The matrix of floats that is argument `place` of a block, `rows` times `columns`."""
    real = _REALS[bits.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, place, rows, columns, _ = arguments
        address, step = _argument(builder, block, place)
        pointer = _pointer(builder, address, context.get_data_type(real))
        kinds = (types.CPointer(real), *[types.int64] * 4)
        item = ir.Constant(INT, bits.literal_value // 8)
        given = (pointer, rows, columns, step, item)
        return context.compile_internal(
            builder, _as_matrix, types.Array(real, 2, "A")(*kinds), given
        )

    kinds = (types.CPointer(types.int64), *[types.int64] * 3, bits)
    return types.Array(real, 2, "A")(*kinds), code


@code_of
def reals_at(typing: Any, address: Any, size: Any, bits: Any) -> Any:
    """The array of `size` floats of `bits` bits at `address`."""
    real = _REALS[bits.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _array_at(context, builder, arguments[0], arguments[1], real)

    return types.Array(real, 1, "C")(types.int64, types.int64, bits), code


@code_of
def row(typing: Any, block: Any, place: Any, number: Any, bits: Any) -> Any:
    """Row `number` of the matrix of floats that is argument `place` of a block (`blocks.py`)."""
    real = _REALS[bits.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, place, number, _ = arguments
        start, step = _argument(builder, block, place)
        address = builder.add(start, builder.mul(number, step))
        columns = builder.load(builder.gep(block, [ir.Constant(INT, 1)]))
        return _array_at(context, builder, address, columns, real)

    kinds = (types.CPointer(types.int64), types.int64, types.int64, bits)
    return types.Array(real, 1, "C")(*kinds), code


@code_of
def real_of(typing: Any, pattern: Any, bits: Any) -> Any:
    """The float of `bits` bits whose bit pattern is `pattern`."""
    real = _REALS[bits.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = builder.trunc(arguments[0], INT32) if real is types.float32 else arguments[0]
        return builder.bitcast(integer, context.get_value_type(real))

    return real(types.int64, bits), code


def _pointer_to(item: Any) -> Any:
    @code_of
    def pointer(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _pointer(builder, arguments[0], context.get_data_type(item))

        return types.CPointer(item)(types.int64), code

    return pointer


int64_pointer = _pointer_to(types.int64)
uint64_pointer = _pointer_to(types.uint64)
uint32_pointer = _pointer_to(types.uint32)
uint8_pointer = _pointer_to(types.uint8)


@code_of
def bits_of(typing: Any, number: Any) -> Any:
    """The bit pattern of a float32 as an int32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], INT32)

    return types.int32(types.float32), code


@code_of
def atomic_load(typing: Any, address: Any) -> Any:
    """The int64 at `address`, and what its writer wrote before it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0], INT), "seq_cst", 8)

    return types.int64(types.int64), code


@code_of
def atomic_add(typing: Any, address: Any, number: Any) -> Any:
    """Add `number` to the int64 at `address`; returns what it was before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(builder, arguments[0], INT)
        return builder.atomic_rmw("add", pointer, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@code_of
def atomic_exchange_if(typing: Any, address: Any, expected: Any, number: Any) -> Any:
    """Replace the int64 at `address` by `number` if it is `expected`; returns whether it was."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, expected, number = arguments
        pointer = _pointer(builder, address, INT)
        found = builder.cmpxchg(pointer, expected, number, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), code


@code_of
def pause(typing: Any) -> Any:
    """Say to the processor that this thread is waiting in a loop."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        processor = builder.module.triple.partition("-")[0]
        if processor == "x86_64":
            kind, given, name = [], [], "llvm.x86.sse2.pause"
        elif processor in ("aarch64", "arm64"):
            kind, given, name = [INT32], [ir.Constant(INT32, 1)], "llvm.aarch64.hint"  # yield
        else:
            return context.get_dummy_value()
        signature = ir.FunctionType(ir.VoidType(), kind)
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), given)
        return context.get_dummy_value()

    return types.void(), code


@code_of
def call_loop(typing: Any, address: Any, arguments_address: Any, step: Any) -> Any:
    """Call `void loop(int64 *arguments, int64 step)` by its address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [INT.as_pointer(), INT])
        function = _pointer(builder, arguments[0], kind)
        builder.call(function, [_pointer(builder, arguments[1], INT), arguments[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@code_of
def call_integers(typing: Any, address: Any, integers: Any) -> Any:
    """Call a C function `long f(long, ...)` by its address with a tuple of int64."""
    count = len(integers)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(INT, [INT] * count)
        given = cgutils.unpack_tuple(builder, arguments[1], count)
        return builder.call(_pointer(builder, arguments[0], kind), given)

    return types.int64(types.int64, types.UniTuple(types.int64, count)), code
