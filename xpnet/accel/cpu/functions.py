"""`exp` and `tanh` as compiled loops use them: in float32 without calls, as vectors need.

With n = round(x / ln 2) and r = x − n ln 2, `exp(x) = 2ⁿ exp(r)`, |r| ≤ ½ ln 2 (1 + 2⁻²⁰). There
the Taylor polynomial of degree 7 misses `exp(r)` by at most |r|⁸ / 8! · 1.05 < 6e-9, a tenth of the
rounding of a float32 (2⁻²⁴ = 6e-8). n ln 2 is subtracted in two parts; the first, 355 / 512, has
so few bits that its product with n is exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from xpnet.accel.cpu.compiled import inlined
from xpnet.accel.cpu.llvm import bits_of, real_of

_REAL = np.float32
_LOG2_E = _REAL(1 / math.log(2))
_LN2_HIGH, _LN2_LOW = _REAL(355 / 512), _REAL(math.log(2) - 355 / 512)
_C2, _C3, _C4, _C5, _C6, _C7 = (_REAL(1 / math.factorial(k)) for k in range(2, 8))
_ONE, _TWO = _REAL(1), _REAL(2)

_ROUNDER = _REAL(1.5 * 2**23)
"""A float32 of this size has no fraction: adding it rounds, and its last bits are the integer."""

_ROUNDER_BITS = np.int32(_ROUNDER.view(np.int32))
_LEAST, _MOST = _REAL(-104), _REAL(89)
"""Beyond these `exp` is 0 and infinity in float32."""

_LARGE = _REAL(20)
"""`tanh(x)` is 1 in float32 where 2x is larger."""


@inlined
def _power_of_two(exponent: Any) -> Any:
    return real_of(np.int64((exponent + np.int32(127)) << np.int32(23)), 32)


@inlined
def _reduced(x: Any) -> Any:
    """n, and `exp(r) - 1`."""
    shifted = x * _LOG2_E + _ROUNDER
    rounded = shifted - _ROUNDER
    r = (x - rounded * _LN2_HIGH) - rounded * _LN2_LOW
    q = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return np.int32(bits_of(shifted) - _ROUNDER_BITS), q * (r * r) + r


@inlined
def _exp32(x: Any) -> Any:
    x = _LEAST if x < _LEAST else x  # NaN is neither, and stays
    x = _MOST if x > _MOST else x
    n, rest = _reduced(x)
    # 2ⁿ in two factors, each a normal number.
    half = np.int32(n >> np.int32(1))
    return (rest + _ONE) * _power_of_two(half) * _power_of_two(np.int32(n - half))


@inlined
def _tanh32(x: Any) -> Any:
    """`e / (e + 2)` with `e = exp(2|x|) - 1 = 2ⁿ (exp(r) - 1) + (2ⁿ - 1)`, and the sign of `x`."""
    twice = abs(x) + abs(x)
    twice = _LARGE if twice > _LARGE else twice
    n, rest = _reduced(twice)
    power = _power_of_two(n)
    e = rest * power + (power - _ONE)
    return math.copysign(e / (e + _TWO), x)


def exp(x):
    """`exp(x)` in the dtype of `x`, in compiled functions."""
    raise NotImplementedError("compiled functions only")


def tanh(x):
    """`tanh(x)` in the dtype of `x`, in compiled functions."""
    raise NotImplementedError("compiled functions only")


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(tanh)
def _tanh(x):
    return (lambda x: _tanh32(x)) if x == types.float32 else (lambda x: math.tanh(x))
