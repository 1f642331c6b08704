"""Random numbers as a pure function of `(seed, purpose, counter)`, without generator state.

Initial weights and the order of samples are drawn on the host by Philox, a counter-based
generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Dropout
masks are drawn on the device itself by `hash_bits`, in unsigned integer arithmetic that
gives the same bits on NumPy and on CuPy.
"""

from __future__ import annotations

import hashlib

import numpy

from xpnet.backend import Array, HostArray, array_module
from xpnet.workspace import Workspace


def key(seed: int, purpose: str) -> int:
    """A 64-bit key that differs for every pair of seed and purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def generator(seed: int, purpose: str, counter: int = 0) -> numpy.random.Generator:
    """A generator whose draws depend on nothing but its three arguments."""
    return numpy.random.Generator(
        numpy.random.Philox(key=key(seed, purpose), counter=[0, 0, 0, counter])
    )


def permutation(seed: int, epoch: int, size: int) -> HostArray:
    """The shuffled order of `size` samples in epoch `epoch`: `(size,)` int64."""
    order: HostArray = generator(seed, "order of samples", epoch).permutation(size)
    return order


def hash_rows(positions: Array, out: Array, scratch: Array) -> Array:
    """Mix each 64-bit counter into 64 random-looking bits, in place in `out`.

    `positions`, `out`, `scratch`: `(N,)` uint64. The finaliser is that of SplitMix64
    (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    xp = array_module(positions, out, scratch)
    xp.multiply(positions, 0x9E3779B97F4A7C15, out=out)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        xp.right_shift(out, shift, out=scratch)
        xp.bitwise_xor(out, scratch, out=out)
        xp.multiply(out, factor, out=out)
    xp.right_shift(out, 31, out=scratch)
    return xp.bitwise_xor(out, scratch, out=out)


def hash_bits(rows: Array, units: Array, out: Array, scratch: Array) -> Array:
    """32 random-looking bits for every (row, unit): `out[n, j] = mix(rows[n] ^ units[j])`.

    `rows`: `(N, 1)` uint32, `units`: `(F,)` uint32, each well mixed; `out`, `scratch`:
    `(N, F)` uint32. Two multiply-xorshift rounds with the constants of C. Wellons' search
    ("Prospecting for hash functions", 2018: lowbias32).
    """
    xp = array_module(rows, units, out, scratch)
    xp.copyto(out, rows)
    xp.bitwise_xor(out, units, out=out)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        xp.right_shift(out, shift, out=scratch)
        xp.bitwise_xor(out, scratch, out=out)
        xp.multiply(out, factor, out=out)
    xp.right_shift(out, 16, out=scratch)
    return xp.bitwise_xor(out, scratch, out=out)


def first_counter(seed: int, purpose: str, samples: int) -> int:
    """The 64-bit counter for training sample number `samples`."""
    return (key(seed, purpose) + samples) % 2**64


def sample_words(workspace: Workspace, counter: Array, count: int) -> Array:
    """A well-mixed word for each of the next `count` training samples: `(count,)` uint32.

    `counter`: `(1,)` uint64, initialised by `first_counter`, advanced by `count`. The result is a
    buffer of `workspace`.
    """
    xp = array_module(counter)
    rows = workspace.array(xp, "rows", (count,), xp.uint64)
    spare = workspace.array(xp, "spare rows", (count,), xp.uint64)
    words = workspace.array(xp, "row words", (count,), xp.uint32)
    xp.add(workspace.numbers(xp, count, xp.uint64), counter, out=rows)
    hash_rows(rows, out=rows, scratch=spare)
    xp.right_shift(rows, 32, out=rows)
    xp.copyto(words, rows, casting="same_kind")
    xp.add(counter, count, out=counter)
    return words


def unit_keys(seed: int, purpose: str, size: int) -> HostArray:
    """One well-mixed 32-bit word per unit: `(size,)` uint32, drawn on the host."""
    draw: HostArray = generator(seed, purpose).integers(0, 2**32, size=size, dtype=numpy.uint32)
    return draw
