"""`exp`, `tanh`, `log`, `cos` and `sin` of compiled loops: in float32 without calls, for vectors.

With n = round(x / ln 2) and r = x − n ln 2, `exp(x) = 2ⁿ exp(r)`, |r| ≤ ½ ln 2 (1 + 2⁻²⁰). There
the Taylor polynomial of degree 7 misses `exp(r)` by at most |r|⁸ / 8! · 1.05 < 6e-9, a tenth of the
rounding of a float32 (2⁻²⁴ = 6e-8). n ln 2 is subtracted in two parts; the first, 355 / 512, has
so few bits that its product with n is exact.

With x = 2ⁿ (1 + f), √½ ≤ 1 + f < √2, and s = f / (2 + f), |s| ≤ 0.172, `log(1 + f)` is
`2 artanh s = 2s + s R`, R = ⅔ s² + ⅖ s⁴ + ..., and 2s = f − s f. The terms of R beyond s⁸ are less
than s¹⁰ / 11 · 1.03 < 3e-9 of the result. Of angles up to π / 4 the Taylor polynomials miss sine
and cosine by less than 3e-9 of their values.
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
_R2, _R4, _R6, _R8 = (_REAL(2 / k) for k in (3, 5, 7, 9))
_ROOT_BITS, _MANTISSA = np.int32(_REAL(math.sqrt(0.5)).view(np.int32)), np.int32(2**23 - 1)
_S3, _S5, _S7, _S9 = (_REAL((-1) ** (k // 2) / math.factorial(k)) for k in (3, 5, 7, 9))
_D4, _D6, _D8, _D10 = (_REAL((-1) ** (k // 2) / math.factorial(k)) for k in (4, 6, 8, 10))
_HALF, _STEP = _REAL(0.5), math.tau / 2**16
_STEP32 = _REAL(_STEP)

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


@inlined
def _log32(x: Any) -> Any:
    pattern = np.int32(bits_of(x) - _ROOT_BITS)
    n = _REAL(np.int32(pattern >> np.int32(23)))
    f = real_of(np.int64(np.int32((pattern & _MANTISSA) + _ROOT_BITS)), 32) - _ONE
    s = f / (f + _TWO)
    z = s * s
    rest = (((_R8 * z + _R6) * z + _R4) * z + _R2) * z
    return n * _LN2_HIGH + (f - (s * (f - rest) - n * _LN2_LOW))


@inlined
def _circle32(place: Any) -> Any:
    """The angle is `quarter` right angles and `a`, from −π / 4 to π / 4."""
    quarter = np.int32(np.int32(place + np.int32(2**13)) >> np.int32(14))
    a = _REAL(np.int32(place - np.int32(quarter << np.int32(14)))) * _STEP32
    z = a * a
    sine = (((_S9 * z + _S7) * z + _S5) * z + _S3) * (z * a) + a
    cosine = ((((_D10 * z + _D8) * z + _D6) * z + _D4) * z - _HALF) * z + _ONE
    is_odd = (quarter & np.int32(1)) != 0
    x, y = (sine, cosine) if is_odd else (cosine, sine)
    x = -x if (np.int32(quarter + np.int32(1)) & np.int32(2)) != 0 else x
    return x, -y if (quarter & np.int32(2)) != 0 else y


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


def log(x: Any) -> Any:
    """`log(x)` in the dtype of `x`, positive and no subnormal number, in compiled functions."""
    raise NotImplementedError("compiled functions only")


def circle(place: Any, like: Any) -> Any:
    """`cos a, sin a` in the dtype of `like`, in compiled functions: `a = 2π place / 2¹⁶`.

    `place`: int32, from 0 to 2¹⁶ − 1.
    """
    raise NotImplementedError("compiled functions only")


@overload(log)
def _log(x):
    return (lambda x: _log32(x)) if x == types.float32 else (lambda x: math.log(x))


@overload(circle)
def _circle(place, like):
    if like == types.float32:
        return lambda place, like: _circle32(place)
    return lambda place, like: (math.cos(place * _STEP), math.sin(place * _STEP))
