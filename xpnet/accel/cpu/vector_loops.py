"""Adam's update by vectors of AVX-512, with the bits of the loop that it takes the place of.

A division takes as long as ten other operations. `m / d` is computed from an estimate of `1 / d`
with 14 bits, and fused multiply-adds, which round once. Two Newton iterations, r ← r + r (1 − d r),
give `1 / d`, correctly rounded, and q = m r is `m / d` up to 1.5 units of the last place. Then
`q + r (m − d q)` is `m / d`, correctly rounded (after P. Markstein, "Computation of elementary
functions on the IBM RISC System/6000 processor", IBM J. Res. Dev. 34, 1990): wherever `m / d` is so
near to the middle between two floats that it matters, the remainder m − d q is exact. The tests
have, for each d, quotients that are as near to a middle as there are.

No step may overflow, or lose bits to subnormal numbers, and d must not be just below a power of two
(there the iterations may miss `1 / d`): vectors with numbers beyond the limits below are divided by
the processor's instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from llvmlite import ir
from numba import types
from numba.core import cgutils

from xpnet.accel.cpu.llvm import INT, INT32, code_of, real_of, reals_at
from xpnet.accel.cpu.vectors import BYTES, FLOAT, Vectors

LANES = 16
D_LEAST, D_MOST = 2.0**-60, 2.0**40
"""Divisors whose reciprocals are estimated."""

M_LEAST, M_MOST = 2.0**-80, 2.0**60
"""Magnitudes of dividends, or 0: quotients are normal numbers, and remainders are exact."""


def _constant(vectors: Vectors, number: float) -> Any:
    return ir.Constant(vectors.type, [number] * vectors.lanes)


def _quotient(vectors: Vectors, m: Any, d: Any, is_nonzero: Any) -> Any:
    """`m / d`, correctly rounded, within the limits."""
    builder, everywhere = vectors.builder, ir.Constant(ir.IntType(LANES), -1)
    name, kind = "llvm.x86.avx512.rcp14.ps.512", vectors.type
    signature = ir.FunctionType(kind, [kind, kind, ir.IntType(LANES)])
    estimate = cgutils.get_or_insert_function(builder.module, signature, name)
    r = builder.call(estimate, [d, vectors.zero, everywhere])
    minus_d, one = builder.fneg(d), _constant(vectors, 1.0)
    for _ in range(2):
        r = vectors.fma(vectors.fma(minus_d, r, one), r, r)
    q = builder.fmul(m, r)
    q = vectors.fma(vectors.fma(minus_d, q, m), r, q)
    # A zero keeps its sign.
    return builder.select(is_nonzero, q, m)


def _are_within(vectors: Vectors, m: Any, d: Any, is_nonzero: Any) -> Any:
    """Whether all lanes are within the limits, if `d` is not below its own."""
    builder = vectors.builder
    integers = ir.VectorType(INT32, LANES)
    least, most = (int(numpy.float32(x).view(numpy.int32)) for x in (M_LEAST, M_MOST))
    # The bit patterns of positive floats are in the order of the floats; NaN is above all.
    pattern = builder.bitcast(vectors.absolute(m), integers)
    above = builder.sub(pattern, ir.Constant(integers, [least] * LANES))
    is_beyond = builder.icmp_unsigned(">", above, ir.Constant(integers, [most - least] * LANES))
    is_beyond = builder.and_(is_beyond, is_nonzero)
    more = builder.fcmp_unordered(">", d, _constant(vectors, D_MOST))
    is_beyond = builder.or_(is_beyond, more)
    # The mantissa of `d` is all ones: the one case in which the reciprocal is not rounded right.
    one, mantissa = (ir.Constant(integers, [number] * LANES) for number in (1, 2**23 - 1))
    fraction = builder.and_(builder.add(builder.bitcast(d, integers), one), mantissa)
    is_last = builder.icmp_unsigned("==", fraction, ir.Constant(integers, [0] * LANES))
    bits = builder.bitcast(builder.or_(is_beyond, is_last), ir.IntType(LANES))
    return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))


def _write_update(vectors: Vectors, addresses: Any, numbers: Any) -> None:
    """One vector of `Adam.update`: addresses of values, gradients and moments."""
    builder = vectors.builder
    rate, beta1, beta2, epsilon, is_large = numbers
    values, gradients, first, second = addresses
    g = vectors.load(gradients)
    m = builder.fadd(builder.fmul(vectors.load(first), beta1), g)
    v = builder.fadd(builder.fmul(vectors.load(second), beta2), builder.fmul(g, g))
    vectors.store(m, first)
    vectors.store(v, second)
    d = builder.fadd(vectors.sqrt(v), epsilon)
    is_nonzero = builder.fcmp_unordered("!=", m, vectors.zero)
    is_fast = builder.and_(is_large, _are_within(vectors, m, d, is_nonzero))
    with builder.if_else(is_fast, likely=True) as (then, otherwise):
        with then:
            fast, fast_block = _quotient(vectors, m, d, is_nonzero), builder.block
        with otherwise:
            exact, exact_block = builder.fdiv(m, d), builder.block
    change = builder.phi(vectors.type)
    change.add_incoming(fast, fast_block)
    change.add_incoming(exact, exact_block)
    change = builder.fmul(change, rate)
    vectors.store(builder.fsub(vectors.load(values), change), values)


@code_of
def _adam(typing: Any, addresses: Any, size: Any, numbers: Any) -> Any:
    """`Adam.update` of `size` floats at four addresses; `numbers`: rate, beta1, beta2, epsilon."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, count, given = arguments
        starts = cgutils.unpack_tuple(builder, at)
        vectors = Vectors(builder, LANES)
        scalars = cgutils.unpack_tuple(builder, given)
        # As `d` is at least `epsilon`.
        is_large = builder.fcmp_ordered(">=", scalars[3], ir.Constant(FLOAT, D_LEAST))
        numbers = [*(vectors.splat(x) for x in scalars), is_large]
        lanes = ir.Constant(INT, LANES)
        whole = builder.udiv(count, lanes)
        with cgutils.for_range(builder, whole) as loop:
            offset = builder.mul(loop.index, ir.Constant(INT, LANES * BYTES))
            _write_update(vectors, [builder.add(start, offset) for start in starts], numbers)
        rest = builder.urem(count, lanes)
        with builder.if_then(builder.icmp_unsigned("!=", rest, ir.Constant(INT, 0))):
            offset = builder.mul(whole, ir.Constant(INT, LANES * BYTES))
            some = Vectors(builder, LANES, rest)
            _write_update(some, [builder.add(start, offset) for start in starts], numbers)
        return context.get_dummy_value()

    four = types.UniTuple(types.int64, 4)
    return types.void(four, types.int64, types.UniTuple(types.float32, 4)), code


def _adam_loop() -> Callable[[Any, Any], None]:
    bits = 32

    def adam(p, step):
        scalars = reals_at(p[10] + step * p[11], 3, bits)
        numbers = (scalars[0], real_of(p[12], bits), real_of(p[14], bits), scalars[2])
        for n in range(p[0]):
            at = (p[2] + n * p[3], p[4] + n * p[5], p[6] + n * p[7], p[8] + n * p[9])
            _adam(at, p[1], numbers)

    return adam


def loops() -> dict[str, Callable[[Any, Any], None]]:
    """The loops on float32 for processors with AVX-512, by name, not compiled yet."""
    return {"adam": _adam_loop()}
