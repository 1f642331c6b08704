"""The CUDA kernels: over what each of those of `cuda_kernels.cu` is launched.

A function here has the name and the arguments of a formula marked `@accelerated`, and computes
on CuPy's arrays what the formula does. Nothing here waits for the device or allocates on it.

Not yet run on a GPU. Tested without one: NVRTC compiles each kernel for all architectures that
xpnet names, and the tests run the source of each kernel on the CPU. Those of images are in
`cuda_windows.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from xpnet.accel.cuda_launch import (
    KERNELS,
    THREADS,
    Alike,
    Launch,
    Real,
    bind,
    each,
    each_row,
    launch,
    launches_of,
    one_each,
    rows_in_blocks,
)
from xpnet.accel.cuda_windows import (
    add_entries,
    average_pool,
    average_pool_backward,
    gather_windows,
    max_pool,
    max_pool_backward,
)
from xpnet.backend import Array

__all__ = ["KERNELS", "add_entries", "average_pool", "average_pool_backward", "bind"]
__all__ += ["gather_windows", "max_pool", "max_pool_backward"]


@launches_of
def relu(x: Alike, y: Alike) -> Iterator[Launch]:
    """`ReLU.forward`."""
    yield launch("relu", (y,), each(y.size), x, y, y.size)


@launches_of
def add_relu(y: Alike, bias: Real, r: Alike) -> Iterator[Launch]:
    """The end of `Linear.forward` and the `ReLU.forward` after it: `y += b`, `r = max(y, 0)`."""
    yield launch("add_relu", (y,), one_each(*y.shape), y, bias, r, *y.shape)


@launches_of
def relu_backward(dy: Alike, x: Alike, dx: Alike) -> Iterator[Launch]:
    """`ReLU.backward`."""
    yield launch("relu_backward", (dx,), each(dx.size), dy, x, dx, dx.size)


@launches_of
def leaky_relu_backward(dy: Alike, x: Alike, slope: float, dx: Alike) -> Iterator[Launch]:
    """`LeakyReLU.backward`."""
    yield launch("leaky_relu_backward", (dx,), each(dx.size), dy, x, slope, dx, dx.size)


@launches_of
def tanh_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Tanh.backward`."""
    yield launch("tanh_backward", (dx,), each(dx.size), dy, y, dx, dx.size)


@launches_of
def sigmoid_forward(x: Alike, y: Alike) -> Iterator[Launch]:
    """`Sigmoid.forward`."""
    yield launch("sigmoid", (y,), each(y.size), x, y, y.size)


@launches_of
def sigmoid_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Sigmoid.backward`."""
    yield launch("sigmoid_backward", (dx,), each(dx.size), dy, y, dx, dx.size)


@launches_of
def gelu(x: Alike, cubic: float, scale: float, t: Alike, y: Alike) -> Iterator[Launch]:
    """`GELU.forward`; `t` is kept for the backward pass."""
    yield launch("gelu", (y,), each(y.size), x, cubic, scale, t, y, y.size)


@launches_of
def gelu_backward(
    dy: Alike, x: Alike, t: Alike, cubic: float, scale: float, dx: Alike
) -> Iterator[Launch]:
    """`GELU.backward`; `cubic` is three times that of the forward pass."""
    over = each(dx.size)
    yield launch("gelu_backward", (dx,), over, dy, x, t, cubic, scale, dx, dx.size)


@launches_of
def softmax_forward(x: Alike, y: Alike) -> Iterator[Launch]:
    """`Softmax.forward`."""
    yield launch("softmax", (y,), one_each(*y.shape), x, y, *y.shape)


@launches_of
def softmax_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Softmax.backward`."""
    yield launch("softmax_backward", (dx,), one_each(*dx.shape), dy, y, dx, *dx.shape)


@launches_of
def batch_norm(
    x: Alike,
    weight: Real,
    bias: Real,
    epsilon: float,
    momentum: float,
    running_mean: Real,
    running_var: Real,
    normal: Alike,
    scale: Real,
    y: Alike,
) -> Iterator[Launch]:
    """`BatchNorm.forward` in training; moves the running statistics."""
    over = one_each(*y.shape[::-1])
    statistics = (epsilon, momentum, running_mean, running_var)
    arguments = (x, weight, bias, *statistics, normal, scale, y, *y.shape)
    yield launch("batch_norm", (y,), over, *arguments)


@launches_of
def batch_norm_backward(
    dy: Alike, normal: Alike, scale: Real, weight: Real, dweight: Real, dbias: Real, dx: Alike
) -> Iterator[Launch]:
    """`BatchNorm.backward`, with the gradients of its parameters."""
    arguments = (dy, normal, scale, weight, dweight, dbias, dx, *dx.shape)
    yield launch("batch_norm_backward", (dx,), one_each(*dx.shape[::-1]), *arguments)


@launches_of
def layer_norm(
    x: Alike, weight: Real, bias: Real, epsilon: float, normal: Alike, scale: Real, y: Alike
) -> Iterator[Launch]:
    """`LayerNorm.forward`."""
    arguments = (x, weight, bias, epsilon, normal, scale, y, *y.shape)
    yield launch("layer_norm", (y,), one_each(*y.shape), *arguments)


@launches_of
def layer_norm_backward(
    dy: Alike, normal: Alike, scale: Real, weight: Real, dx: Alike
) -> Iterator[Launch]:
    """`LayerNorm.backward`, without the gradients of its parameters."""
    arguments = (dy, normal, scale, weight, dx, *dx.shape)
    yield launch("layer_norm_backward", (dx,), one_each(*dx.shape), *arguments)


@launches_of
def cross_entropy(
    logits: Real, labels: Array, smoothing: float, sums: Array, p: Real, value: Real
) -> Iterator[Launch]:
    """`SoftmaxCrossEntropy.forward`: `p` `(C, N)` and the mean loss, summed in one fixed order.

    Several blocks leave their sums in `sums`, which a second launch adds up.
    """
    arguments = (logits, labels, smoothing, sums, p, value, *logits.shape)
    over = rows_in_blocks(len(logits), sums.size)
    yield launch("cross_entropy", (logits, labels), over, *arguments)
    yield from _mean_of_sums(sums, value, over[0], len(logits))


@launches_of
def cross_entropy_and_gradient(
    logits: Real,
    labels: Array,
    smoothing: float,
    scale: float,
    sums: Array,
    p: Real,
    value: Real,
    dlogits: Real,
) -> Iterator[Launch]:
    """`SoftmaxCrossEntropy.forward` and the `backward` after it."""
    arguments = (logits, labels, smoothing, scale, sums, p, value, dlogits, *logits.shape)
    over = rows_in_blocks(len(logits), sums.size)
    yield launch("cross_entropy_and_gradient", (logits, labels), over, *arguments)
    yield from _mean_of_sums(sums, value, over[0], len(logits))


def _mean_of_sums(sums: Array, value: Array, blocks: int, count: int) -> Iterator[Launch]:
    """Where several blocks have left their sums."""
    if blocks > 1:
        yield launch("mean_of_sums", (value,), (1, THREADS), sums, value, blocks, count)


@launches_of
def softmax_cross_entropy_backward(
    p: Real, labels: Array, smoothing: float, scale: float, dlogits: Real
) -> Iterator[Launch]:
    """`SoftmaxCrossEntropy.backward`; `scale` holds `1 / N` already."""
    arguments = (p, labels, smoothing, scale, dlogits, *dlogits.shape)
    over = each(dlogits.size)
    yield launch("softmax_cross_entropy_backward", (p, labels), over, *arguments)


@launches_of
def add_loss(loss: Real, samples: int, total: Array) -> Iterator[Launch]:
    """`MeanLoss.update`."""
    yield launch("add_loss", (loss,), (1, 1), loss, samples, total)


@launches_of
def count_hits(logits: Real, labels: Array, hits: Array) -> Iterator[Launch]:
    """`Accuracy.update`, for the largest logit."""
    arguments = (logits, labels, hits, *logits.shape)
    yield launch("count_hits", (logits, labels), each(len(logits)), *arguments)


@launches_of
def add_loss_and_hits(
    loss: Real, logits: Real, labels: Array, total: Array, hits: Array
) -> Iterator[Launch]:
    """`RunningMetrics.update` of a classifier."""
    arguments = (loss, logits, labels, total, hits, *logits.shape)
    yield launch("add_loss_and_hits", (logits, labels), each(len(logits)), *arguments)


@launches_of
def descend(values: Alike, gradients: Alike, scalars: Real) -> Iterator[Launch]:
    """`SGD.update` without momentum."""
    size = values.size
    yield launch("descend", (values,), each(size), values, gradients, scalars, size)


@launches_of
def descend_with_momentum(
    values: Alike,
    gradients: Alike,
    velocity: Alike,
    scalars: Real,
    momentum: float,
    nesterov: bool,
) -> Iterator[Launch]:
    """`SGD.update` with momentum."""
    size = values.size
    arguments = (values, gradients, velocity, scalars, momentum, nesterov, size)
    yield launch("descend_with_momentum", (values,), each(size), *arguments)


@launches_of
def rmsprop(
    values: Alike,
    gradients: Alike,
    square: Alike,
    scalars: Real,
    decay_rate: float,
    rest: float,
    epsilon: float,
) -> Iterator[Launch]:
    """`RMSprop.update` without momentum."""
    size = values.size
    arguments = (values, gradients, square, scalars, decay_rate, rest, epsilon, size)
    yield launch("rmsprop", (values,), each(size), *arguments)


@launches_of
def rmsprop_with_momentum(
    values: Alike,
    gradients: Alike,
    square: Alike,
    velocity: Alike,
    scalars: Real,
    decay_rate: float,
    rest: float,
    epsilon: float,
    momentum: float,
) -> Iterator[Launch]:
    """`RMSprop.update` with momentum."""
    size, factors = values.size, (decay_rate, rest, epsilon, momentum)
    arguments = (values, gradients, square, velocity, scalars, *factors, size)
    yield launch("rmsprop_with_momentum", (values,), each(size), *arguments)


@launches_of
def adam(
    values: Alike,
    gradients: Alike,
    first: Alike,
    second: Alike,
    scalars: Real,
    beta1: float,
    beta2: float,
) -> Iterator[Launch]:
    """`Adam.update`."""
    size = values.size
    arguments = (values, gradients, first, second, scalars, beta1, beta2, size)
    yield launch("adam", (values,), each(size), *arguments)


@launches_of
def dropout(
    x: Alike, counter: Array, units: Array, threshold: int, scale: float, mask: Alike, y: Alike
) -> Iterator[Launch]:
    """`Dropout.forward`; a second launch advances the counter, when all have read it."""
    arguments = (x, counter, units, threshold, scale, mask, y, *x.shape)
    yield launch("dropout", (x,), each_row(len(x)), *arguments)
    yield launch("advance", (), (1, 1), counter, len(x))


@launches_of
def gaussian_noise(
    x: Alike, counter: Array, units: Array, factor: float, y: Alike
) -> Iterator[Launch]:
    """`GaussianNoise.forward`; the counter advances as in `dropout`."""
    arguments = (x, counter, units, factor, y, *x.shape)
    yield launch("gaussian_noise", (x,), each_row(len(x)), *arguments)
    yield launch("advance", (), (1, 1), counter, len(x))


@launches_of
def gather_batch(
    source: Array,
    targets: Array,
    indices: Array,
    scale: float,
    shift: float,
    target: Array,
    x: Real,
) -> Iterator[Launch]:
    """`DeviceData.batch`: rows `indices` of `source`, times `scale`, plus `shift`; and targets."""
    # Targets are only copied: by their size, so that not each dtype needs a kernel of its own.
    targets, target = (array.view(f"u{array.itemsize}") for array in (targets, target))
    arguments = (source, targets, indices, scale, shift, target, x)
    sizes = (*x.shape, target.size // len(x))
    types = (source, indices, x, target)
    yield launch("gather_batch", types, each_row(len(x)), *arguments, *sizes)


@launches_of
def weighted_sums(
    targets: Array, offsets: Array, indices: Array, values: Real, source: Real, out: Real
) -> Iterator[Launch]:
    """The products of `Linear` with sparse rows: see `Diagonals`."""
    arguments = (targets, offsets, indices, values, source, out)
    rows, diagonals, width = targets.size, offsets.size - 1, out.shape[1]
    over = one_each(rows, width)
    yield launch("weighted_sums", (out,), over, *arguments, rows, diagonals, width)
