"""CPU kernels, compiled by numba: each is a loop that computes the same as a formula on `xp`.

The formula and its derivation are where the decorator `@accelerated` marks it, under the same
name. Operations are done in the same order and dtype as in the formula, so that results are
bit-identical, except for `exp`, `log`, sums, noise and smoothed labels. Numbers are therefore
converted to that dtype: numba would compute `1 - y` of a float32 in float64. The kernels for images
are in `numba_windows.py`; windows are gathered by NumPy's copy, which is as fast. Those with random
numbers are in `numba_random.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numba
import numpy as np

from xpnet.accel.numba_random import dropout, gaussian_noise
from xpnet.accel.numba_windows import (
    OTHER_SHAPE,
    add_entries,
    average_pool,
    average_pool_backward,
    compiled,
    max_pool,
    max_pool_backward,
)
from xpnet.backend import Array

_OF_POOLS = max_pool, max_pool_backward, average_pool, average_pool_backward
_IMPORTED = add_entries, *_OF_POOLS, dropout, gaussian_noise

KERNELS: dict[str, Any] = {kernel.__name__: kernel for kernel in _IMPORTED}
"""All kernels, by name."""


def _inlined(function: Callable[..., Any]) -> Any:
    """`function` compiled when it is first called, as a part of its callers."""
    return compiled(function)


def _kernel(function: Callable[..., None]) -> Any:
    """`function` compiled when it is first called, and registered."""
    KERNELS[function.__name__] = kernel = compiled(function)
    return kernel


def bind(name: str, arguments: Sequence[Any]) -> Callable[[], Any]:
    """The kernel `name` for these arguments, compiled for their types: a call without arguments."""
    kernel, typeof = KERNELS[name], cast("Callable[[Any], Any]", numba.typeof)
    types = tuple(map(typeof, arguments))
    # `compile` takes numba's lock, also to find what is compiled already. Ctrl-C at that moment
    # leaves it locked, and all other threads wait for it for ever.
    known = kernel.overloads.get(types)
    return partial(kernel.compile(types) if known is None else known.entry_point, *arguments)


@_inlined
def _rectified(x: Any) -> Any:
    # NaN stays NaN, and -0 becomes 0, as in `maximum`.
    return x if x > 0 or x != x else type(x)(0)


@_inlined
def _rectified_gradient(dy: Any, x: Any, slope: Any) -> Any:
    """`dy` where `x > 0`, else `slope dy`: also with a slope of 0 a NaN in `dy` stays."""
    return dy if x > type(x)(0) else dy * slope


@_inlined
def _tanh_gradient(dy: Any, y: Any) -> Any:
    return (type(y)(1) - y * y) * dy


@_inlined
def _sigmoid_gradient(dy: Any, y: Any) -> Any:
    return (type(y)(1) - y) * y * dy


@_kernel
def relu(x: Array, y: Array) -> None:
    """`ReLU.forward`."""
    x, y = x.ravel(), y.ravel()
    for i in range(y.size):
        y[i] = _rectified(x[i])


@_kernel
def add_relu(y: Array, bias: Array, r: Array) -> None:
    """The end of `Linear.forward` and the `ReLU.forward` after it: `y += b`, `r = max(y, 0)`."""
    for n in range(y.shape[0]):
        for j in range(bias.size):
            total = y[n, j] + bias[j]
            y[n, j] = total
            r[n, j] = _rectified(total)


@_kernel
def relu_backward(dy: Array, x: Array, dx: Array) -> None:
    """`ReLU.backward`."""
    if dy.shape != x.shape:
        raise ValueError(OTHER_SHAPE)
    dy, x, dx = dy.ravel(), x.ravel(), dx.ravel()
    zero = dx.dtype.type(0)
    for i in range(dx.size):
        dx[i] = _rectified_gradient(dy[i], x[i], zero)


@_kernel
def leaky_relu_backward(dy: Array, x: Array, slope: float, dx: Array) -> None:
    """`LeakyReLU.backward`."""
    if dy.shape != x.shape:
        raise ValueError(OTHER_SHAPE)
    dy, x, dx = dy.ravel(), x.ravel(), dx.ravel()
    slope = dx.dtype.type(slope)
    for i in range(dx.size):
        dx[i] = _rectified_gradient(dy[i], x[i], slope)


@_kernel
def tanh_backward(dy: Array, y: Array, dx: Array) -> None:
    """`Tanh.backward`."""
    if dy.shape != y.shape:
        raise ValueError(OTHER_SHAPE)
    dy, y, dx = dy.ravel(), y.ravel(), dx.ravel()
    for i in range(dx.size):
        dx[i] = _tanh_gradient(dy[i], y[i])


@_kernel
def sigmoid_backward(dy: Array, y: Array, dx: Array) -> None:
    """`Sigmoid.backward`."""
    if dy.shape != y.shape:
        raise ValueError(OTHER_SHAPE)
    dy, y, dx = dy.ravel(), y.ravel(), dx.ravel()
    for i in range(dx.size):
        dx[i] = _sigmoid_gradient(dy[i], y[i])


@_kernel
def shift_logits(logits: Array, shifted: Array) -> None:
    """`SoftmaxCrossEntropy.forward`, `s = z − max z`: `(N, C)` to `(C, N)`."""
    count, classes = logits.shape
    for n in range(count):
        row = logits[n]
        largest = row[0]
        for k in range(1, classes):
            # NaN propagates, as in `max`.
            if row[k] > largest or row[k] != row[k]:
                largest = row[k]
        for k in range(classes):
            shifted[k, n] = row[k] - largest


@_inlined
def _sample_loss(shifted: Any, label: int, smoothing: float, p: Any) -> Any:
    """`p ← p / Σ_k p_k`, which held `exp(s)`, and one sample's loss; `p`, `shifted`: `(C,)`."""
    classes = shifted.size
    total = p[0]
    for k in range(1, classes):
        total += p[k]
    for k in range(classes):
        p[k] /= total
    expected = shifted[label]
    if smoothing > 0:
        sum_shifted = shifted[0]
        for k in range(1, classes):
            sum_shifted += shifted[k]
        expected = (1 - smoothing) * expected + smoothing / classes * sum_shifted
    return math.log(total) - expected


@_kernel
def softmax_cross_entropy(
    shifted: Array, labels: Array, smoothing: float, p: Array, value: Array
) -> None:
    """`SoftmaxCrossEntropy.forward`, the rest: `p` `(C, N)` from `exp(s)`, and the mean loss."""
    count = shifted.shape[1]
    summed = 0.0
    for n in range(count):
        summed += _sample_loss(shifted[:, n], labels[n], smoothing, p[:, n])
    value[()] = summed / count


@_kernel
def softmax_cross_entropy_backward(
    p: Array, labels: Array, smoothing: float, scale: float, dlogits: Array
) -> None:
    """`SoftmaxCrossEntropy.backward`; `scale` holds `1 / N` already."""
    classes, count = p.shape
    real = p.dtype.type
    uniform = real(smoothing / classes)
    certain = uniform + real(1 - smoothing)
    for n in range(count):
        label = labels[n]
        for k in range(classes):
            q = certain if k == label else uniform
            dlogits[n, k] = (p[k, n] - q) * scale


@_kernel
def add_loss(loss: Array, samples: int, total: Array) -> None:
    """`MeanLoss.update`."""
    total[0] += np.float64(loss[()]) * samples


@_inlined
def _largest(row: Any) -> int:
    """`argmax`: the first NaN counts as the largest."""
    best = 0
    for k in range(1, row.size):
        if row[k] > row[best] or (row[k] != row[k] and row[best] == row[best]):
            best = k
    return best


@_kernel
def count_hits(logits: Array, labels: Array, hits: Array) -> None:
    """`Accuracy.update`, for the largest logit."""
    found = 0
    for n in range(logits.shape[0]):
        if _largest(logits[n]) == labels[n]:
            found += 1
    hits[0] += found


@_kernel
def descend(values: Array, gradients: Array, scalars: Array) -> None:
    """`SGD.update` without momentum."""
    rate = scalars[0]
    for i in range(values.size):
        values[i] -= gradients[i] * rate


@_kernel
def descend_with_momentum(
    values: Array,
    gradients: Array,
    velocity: Array,
    scalars: Array,
    momentum: float,
    nesterov: bool,
) -> None:
    """`SGD.update` with momentum, `RMSprop.update`'s last step."""
    rate = scalars[0]
    if nesterov:
        for i in range(values.size):
            moving = velocity[i] * momentum + gradients[i]
            velocity[i] = moving
            values[i] -= (moving * momentum + gradients[i]) * rate
    else:
        for i in range(values.size):
            moving = velocity[i] * momentum + gradients[i]
            velocity[i] = moving
            values[i] -= moving * rate


@_kernel
def rmsprop_direction(
    gradients: Array,
    square: Array,
    direction: Array,
    decay_rate: float,
    rest: float,
    epsilon: float,
) -> None:
    """`RMSprop.update`, up to `g / (√s + ε)`."""
    real = square.dtype.type
    decay_rate, rest, epsilon = real(decay_rate), real(rest), real(epsilon)
    for i in range(gradients.size):
        g = gradients[i]
        s = square[i] * decay_rate + g * g * rest
        square[i] = s
        direction[i] = g / (math.sqrt(s) + epsilon)


@_kernel
def adam(
    values: Array,
    gradients: Array,
    first: Array,
    second: Array,
    scalars: Array,
    beta1: float,
    beta2: float,
) -> None:
    """`Adam.update`."""
    rate, epsilon = scalars[0], scalars[2]
    beta1, beta2 = first.dtype.type(beta1), first.dtype.type(beta2)
    for i in range(values.size):
        g = gradients[i]
        m = first[i] * beta1 + g
        v = second[i] * beta2 + g * g
        first[i] = m
        second[i] = v
        values[i] -= m / (math.sqrt(v) + epsilon) * rate


@_kernel
def weighted_sums(
    targets: Array, offsets: Array, indices: Array, values: Array, source: Array, out: Array
) -> None:
    """The products of `Linear` with sparse rows: see `Diagonals`."""
    for s in range(targets.size):
        sums = out[targets[s]]
        row, value = source[indices[s]], values[s]
        for j in range(sums.size):
            sums[j] = value * row[j]
        for k in range(1, offsets.size - 1):
            e = offsets[k] + s
            if e >= offsets[k + 1]:
                break
            row, value = source[indices[e]], values[e]
            for j in range(sums.size):
                sums[j] += value * row[j]


@_inlined
def _scaled(source: Any, scale: float, shift: float, x: Any) -> None:
    """One row of `gather_scaled`."""
    real = x.dtype.type
    # The formula leaves out a shift of 0; adding -0 changes nothing, not even -0.
    scale, shift = real(scale), real(shift) if shift else -real(0)
    for j in range(x.size):
        x[j] = real(source[j]) * scale + shift


@_kernel
def gather_scaled(source: Array, indices: Array, scale: float, shift: float, x: Array) -> None:
    """`DeviceData.batch`: rows `indices` of `source`, times `scale`, plus `shift`."""
    for n in range(indices.size):
        _scaled(source[indices[n]], scale, shift, x[n])
