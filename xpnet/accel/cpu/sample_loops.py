"""Compiled loops over the samples of a batch: gathering, dropout, noise, the loss and metrics."""

from __future__ import annotations

import numpy as np
from numba.np.numpy_support import carray

from xpnet.accel import numba_kernels as kernels
from xpnet.accel import numba_random
from xpnet.accel.cpu.llvm import (
    atomic_add,
    int64_pointer,
    matrix,
    real_of,
    reals_at,
    row,
    uint8_pointer,
    uint32_pointer,
    uint64_pointer,
)
from xpnet.accel.cpu.loops import Loop


def loops(bits: int) -> dict[str, Loop]:
    """The loops on floats of `bits` bits, by name, not compiled yet."""
    made = (*_gathering(bits), *_drawing(bits), *_loss(bits), *_metrics(bits))
    return {loop.__name__: loop for loop in made}


def _gathering(bits: int) -> tuple[Loop, ...]:
    def gather(p, step):
        """`x = source[indices]`: source, indices of each step, x."""
        indices = int64_pointer(p[4] + step * p[5])
        for n in range(p[0]):
            source, x = row(p, 0, indices[n], bits), row(p, 2, n, bits)
            for j in range(x.size):
                x[j] = source[j]

    def gather_integers(p, step):
        """The same for int64 numbers, each a row of its own."""
        source, x = int64_pointer(p[2]), int64_pointer(p[6])
        indices = int64_pointer(p[4] + step * p[5])
        for n in range(p[0]):
            x[n] = source[indices[n]]

    def gather_scaled(p, step):
        """`source` `(samples, features)` is uint8."""
        indices = int64_pointer(p[4] + step * p[5])
        scale, shift = real_of(p[6], bits), real_of(p[8], bits)
        for n in range(p[0]):
            source = carray(uint8_pointer(p[2] + indices[n] * p[3]), p[1])
            kernels._scaled(source, scale, shift, row(p, 4, n, bits))

    return gather, gather_integers, gather_scaled


def _drawing(bits: int) -> tuple[Loop, ...]:
    def dropout(p, step):
        """Last argument: the number of the first row; `advance` ends the step."""
        counter = uint64_pointer(p[4])
        units = carray(uint32_pointer(p[6]), p[1])
        threshold, scale, first = p[8], real_of(p[10], bits), p[16]
        for n in range(p[0]):
            word = numba_random._sample_word(counter[0] + np.uint64(first + n))
            x, mask, y = row(p, 0, n, bits), row(p, 5, n, bits), row(p, 6, n, bits)
            numba_random._drop(x, word, units, threshold, scale, mask, y)

    def gaussian_noise(p, step):
        """Last argument: the number of the first row; `advance` ends the step."""
        counter = uint64_pointer(p[4])
        units = carray(uint32_pointer(p[6]), (p[1] + 1) // 2)
        factor, first = real_of(p[8], bits), p[12]
        for n in range(p[0]):
            word = numba_random._sample_word(counter[0] + np.uint64(first + n))
            numba_random._add_noise(row(p, 0, n, bits), word, units, factor, row(p, 4, n, bits))

    def advance(p, step):
        """`counter += count`."""
        counter = uint64_pointer(p[2])
        counter[0] += np.uint64(p[4])

    return dropout, gaussian_noise, advance


def _loss(bits: int) -> tuple[Loop, ...]:
    def shift_logits(p, step):
        kernels.shift_logits(matrix(p, 0, p[0], p[1], bits), matrix(p, 1, p[1], p[0], bits))

    def softmax_cross_entropy(p, step):
        """The last argument gets the loss of each sample in float64; `mean_loss` ends the step."""
        shifted, q = matrix(p, 0, p[1], p[0], bits), matrix(p, 3, p[1], p[0], bits)
        labels, smoothing = int64_pointer(p[4]), real_of(p[6], bits)
        losses = reals_at(p[10], p[0], 64)
        for n in range(p[0]):
            losses[n] = kernels._sample_loss(shifted[:, n], labels[n], smoothing, q[:, n])

    def mean_loss(p, step):
        """`value = Σ_n losses[n] / N`."""
        losses, summed = reals_at(p[2], p[0], 64), 0.0
        for n in range(p[0]):
            summed += losses[n]
        reals_at(p[4], 1, bits)[0] = summed / p[0]

    def softmax_cross_entropy_backward(p, step):
        kernels.softmax_cross_entropy_backward(
            matrix(p, 0, p[1], p[0], bits),
            carray(int64_pointer(p[4]), p[0]),
            real_of(p[6], bits),
            real_of(p[8], bits),
            matrix(p, 4, p[0], p[1], bits),
        )

    return shift_logits, softmax_cross_entropy, mean_loss, softmax_cross_entropy_backward


def _metrics(bits: int) -> tuple[Loop, ...]:
    def add_loss(p, step):
        total = reals_at(p[6], 1, 64)
        total[0] += np.float64(reals_at(p[2], 1, bits)[0]) * p[4]

    def count_hits(p, step):
        """`hits` is one int64, to which all parts add."""
        labels, found = int64_pointer(p[4]), 0
        for n in range(p[0]):
            if kernels._largest(row(p, 0, n, bits)) == labels[n]:
                found += 1
        atomic_add(p[6], found)

    return add_loss, count_hits
