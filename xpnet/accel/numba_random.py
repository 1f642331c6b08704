"""CPU kernels of layers with random numbers: `Dropout` and `GaussianNoise`.

They belong to `numba_kernels.py`, which says what holds for all kernels. `log`, `cos` and `sin` are
written here, since vectors need loops without calls, and for float32 only.

With x = 2ⁿ (1 + f), √½ ≤ 1 + f < √2, and s = f / (2 + f), |s| ≤ 0.172, `log(1 + f)` is
`2 artanh s = 2s + s R`, R = ⅔ s² + ⅖ s⁴ + ..., and 2s = f − s f. The terms of R beyond s⁸ are less
than s¹⁰ / 11 · 1.03 < 3e-9 of the result. n ln 2 is added in two parts; the first, 355 / 512, has
so few bits that its product with n is exact. Of angles up to π / 4 the Taylor polynomials miss sine
and cosine by less than 3e-9 of their values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from xpnet.accel.cpu.llvm import bits_of, real_of
from xpnet.accel.numba_windows import compiled
from xpnet.backend import Array

_REAL = np.float32
_ONE, _TWO, _HALF = _REAL(1), _REAL(2), _REAL(0.5)
_LN2_HIGH, _LN2_LOW = _REAL(355 / 512), _REAL(math.log(2) - 355 / 512)
_R2, _R4, _R6, _R8 = (_REAL(2 / k) for k in (3, 5, 7, 9))
_ROOT_BITS, _MANTISSA = np.int32(_REAL(math.sqrt(0.5)).view(np.int32)), np.int32(2**23 - 1)
_S3, _S5, _S7, _S9 = (_REAL((-1) ** (k // 2) / math.factorial(k)) for k in (3, 5, 7, 9))
_D4, _D6, _D8, _D10 = (_REAL((-1) ** (k // 2) / math.factorial(k)) for k in (4, 6, 8, 10))
_STEP = math.tau / 2**16
_STEP32 = _REAL(_STEP)


def _log32(x: Any) -> Any:
    pattern = np.int32(bits_of(x) - _ROOT_BITS)
    n = _REAL(np.int32(pattern >> np.int32(23)))
    f = real_of(np.int64(np.int32((pattern & _MANTISSA) + _ROOT_BITS)), 32) - _ONE
    s = f / (f + _TWO)
    z = s * s
    rest = (((_R8 * z + _R6) * z + _R4) * z + _R2) * z
    return n * _LN2_HIGH + (f - (s * (f - rest) - n * _LN2_LOW))


@compiled
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


def log(x: Any) -> Any:
    """`log(x)` in the dtype of `x`, positive and no subnormal number, in compiled functions."""
    raise NotImplementedError("compiled functions only")


def circle(place: Any, like: Any) -> Any:
    """`cos a, sin a` in the dtype of `like`, in compiled functions: `a = 2π place / 2¹⁶`.

    `place`: int32, from 0 to 2¹⁶ − 1.
    """
    raise NotImplementedError("compiled functions only")


@overload(log)
def _log(x: Any) -> Any:
    def of_float64(x: Any) -> Any:
        return math.log(x)

    return _log32 if x == types.float32 else of_float64


@overload(circle)
def _circle(place: Any, like: Any) -> Any:
    def of_float32(place: Any, like: Any) -> Any:
        return _circle32(place)

    def of_float64(place: Any, like: Any) -> Any:
        return math.cos(place * _STEP), math.sin(place * _STEP)

    return of_float32 if like == types.float32 else of_float64


@compiled
def _sample_word(counter: Any) -> Any:
    """`random.sample_words`, for the sample of this 64-bit number."""
    word = counter * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return np.uint32(word >> np.uint64(32))


@compiled
def _unit_bits(word: Any, unit: Any) -> Any:
    """`random.hash_bits`, for one sample and one unit."""
    bits = word ^ unit
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@compiled
def _drop(x: Any, word: Any, units: Any, threshold: int, scale: float, mask: Any, y: Any) -> None:
    """`Dropout.forward` for one sample."""
    for j in range(x.size):
        kept = scale if _unit_bits(word, units[j]) >= threshold else scale * 0
        mask[j] = kept
        y[j] = x[j] * kept


@compiled
def dropout(
    x: Array, counter: Array, units: Array, threshold: int, scale: float, mask: Array, y: Array
) -> None:
    """`Dropout.forward`."""
    for n in range(x.shape[0]):
        word = _sample_word(counter[0] + np.uint64(n))
        _drop(x[n], word, units, threshold, scale, mask[n], y[n])
    counter[0] += np.uint64(x.shape[0])


@compiled
def _noise_of(bits: Any, factor: Any) -> Any:
    """Two draws of `GaussianNoise` from the bits of a unit."""
    real = type(factor)
    upper = real(np.int32(np.int32(bits >> np.uint32(16)) + np.int32(1)))
    radius = math.sqrt(log(upper * real(2**-16)) * factor)
    x, y = circle(np.int32(bits & np.uint32(2**16 - 1)), factor)
    return x * radius, y * radius


@compiled
def _add_noise(x: Any, word: Any, units: Any, factor: Any, y: Any) -> None:
    """`GaussianNoise.forward` for one sample."""
    half = units.size
    x_first, x_second, first, second = x[:half], x[half:], y[:half], y[half:]
    for j in range(second.size):
        one, other = _noise_of(_unit_bits(word, units[j]), factor)
        first[j] = one + x_first[j]
        second[j] = other + x_second[j]
    for j in range(second.size, half):  # of an odd number of units, the last
        first[j] = _noise_of(_unit_bits(word, units[j]), factor)[0] + x_first[j]


@compiled
def gaussian_noise(x: Array, counter: Array, units: Array, factor: float, y: Array) -> None:
    """`GaussianNoise.forward`."""
    factor = y.dtype.type(factor)
    for n in range(x.shape[0]):
        word = _sample_word(counter[0] + np.uint64(n))
        _add_noise(x[n], word, units, factor, y[n])
    counter[0] += np.uint64(x.shape[0])
