"""The CUDA kernels: how those of `cuda_kernels.cu` are built, and over what each is launched.

A function here has the name and the arguments of a formula marked `@accelerated`, and computes
on CuPy's arrays what the formula does. A kernel is compiled by NVRTC when it is first needed for
its types, and cached. Nothing here waits for the device or allocates on it.

Not yet run on a GPU. Tested without one: NVRTC compiles each kernel for all architectures that
xpnet names, and the tests run the source of each kernel on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial, wraps
from importlib.resources import files
from inspect import signature
from typing import Any, TypeAlias

from xpnet.backend import Array
from xpnet.errors import KernelDeclined

Launch: TypeAlias = Callable[[], Any]

Real: TypeAlias = Array
"""An array of the dtype in which a kernel computes."""

Alike: TypeAlias = Array
"""The same, and all arrays that are `Alike` have one shape."""

OPTIONS = ("-std=c++17", "--fmad=false")
"""For NVRTC. A fused multiply-add would round once where the formula rounds twice."""

KERNELS: dict[str, Any] = {}
"""All kernels, by the names of their formulas."""

_WARP = 32
_THREADS = 256
_MOST_BLOCKS = 2048
"""Enough to fill any card; beyond them each thread does more."""

_ROWS_OF_ONE_BLOCK = 512
"""Of up to so many rows one block computes the loss, and no second launch adds up the blocks."""

_TYPES = {
    "b1": "bool",
    "i1": "signed char",
    "u1": "unsigned char",
    "i2": "short",
    "u2": "unsigned short",
    "i4": "int",
    "u4": "unsigned int",
    "i8": "long long",
    "u8": "unsigned long long",
    "f4": "float",
    "f8": "double",
}
"""What a dtype is called in CUDA, by its kind and bytes."""


@cache
def source() -> str:
    """The text of `cuda_kernels.cu`."""
    return (files("xpnet.accel") / "cuda_kernels.cu").read_text("ascii")


@cache
def kernel(expression: str) -> Any:
    """A kernel for its types, as `relu_backward<float>`: called with grid, block, arguments.

    CuPy loads it again on each device that is the current one when it is called.
    """
    import cupy

    module = cupy.RawModule(code=source(), options=OPTIONS, name_expressions=(expression,))
    return module.get_function(expression)


def bind(name: str, arguments: tuple[Any, ...]) -> Launch:
    """The kernel `name` on these arguments: a call without arguments, which only launches."""
    launches = tuple(KERNELS[name].launches(*arguments))
    return launches[0] if len(launches) == 1 else partial(_run, launches)


def _run(launches: tuple[Launch, ...]) -> None:
    for launch in launches:
        launch()


def _kernel(launches: Callable[..., Iterator[Launch]]) -> Any:
    """A function that does the launches of `launches`, registered; it checks its arguments.

    CUDA checks nothing. So arrays annotated `Real` or `Alike` must be of one dtype, those
    annotated `Alike` of one shape too, and numbers annotated `float`, whole ones as well, are
    given to the kernel in that dtype. Raises `KernelDeclined` for other arrays.
    """
    kinds = [parameter.annotation for parameter in signature(launches).parameters.values()]

    def checked(*arguments: Any) -> Iterator[Launch]:
        pairs = list(zip(arguments, kinds, strict=True))
        dtypes = {array.dtype for array, kind in pairs if kind in ("Real", "Alike")}
        shapes = {array.shape for array, kind in pairs if kind == "Alike"}
        if len(dtypes) > 1 or len(shapes) > 1:
            raise KernelDeclined
        number = dtypes.pop().type
        return launches(*(number(a) if kind == "float" else a for a, kind in pairs))

    @wraps(launches)
    def launch(*arguments: Any) -> None:
        _run(tuple(checked(*arguments)))

    launch.launches = checked  # type: ignore[attr-defined]
    KERNELS[launches.__name__] = launch
    return launch


def _launch(name: str, types: tuple[Array, ...], over: tuple[int, int], *arguments: Any) -> Launch:
    """One launch of `name` for the dtypes of `types`, `over` so many blocks and threads."""
    inside = ", ".join(_TYPES[array.dtype.str[1:]] for array in types)
    blocks, threads = over
    function = kernel(f"{name}<{inside}>" if types else name)
    return partial(function, (blocks,), (threads,), arguments)


def _each(size: int) -> tuple[int, int]:
    """A thread for each of `size` elements, or for several."""
    return min(-(-size // _THREADS), _MOST_BLOCKS), _THREADS


def _each_row(count: int) -> tuple[int, int]:
    """A block for each of `count` rows, or for several."""
    return min(count, _MOST_BLOCKS), _THREADS


def _one_each(count: int, width: int) -> tuple[int, int]:
    """The same, with few threads for short rows: a power of two, as `sum_of_block` needs."""
    threads = 1 << (width - 1).bit_length()
    return min(count, _MOST_BLOCKS), max(_WARP, min(threads, _THREADS))


def _rows_in_blocks(count: int, blocks: int) -> tuple[int, int]:
    """A thread for each of `count` rows, whose sums a block adds up: few rows in one block."""
    if count <= _ROWS_OF_ONE_BLOCK:
        return 1, max(_WARP, min(1 << (count - 1).bit_length(), _THREADS))
    return blocks, _THREADS


@_kernel
def relu(x: Alike, y: Alike) -> Iterator[Launch]:
    """`ReLU.forward`."""
    yield _launch("relu", (y,), _each(y.size), x, y, y.size)


@_kernel
def add_relu(y: Alike, bias: Real, r: Alike) -> Iterator[Launch]:
    """The end of `Linear.forward` and the `ReLU.forward` after it: `y += b`, `r = max(y, 0)`."""
    yield _launch("add_relu", (y,), _one_each(*y.shape), y, bias, r, *y.shape)


@_kernel
def relu_backward(dy: Alike, x: Alike, dx: Alike) -> Iterator[Launch]:
    """`ReLU.backward`."""
    yield _launch("relu_backward", (dx,), _each(dx.size), dy, x, dx, dx.size)


@_kernel
def leaky_relu_backward(dy: Alike, x: Alike, slope: float, dx: Alike) -> Iterator[Launch]:
    """`LeakyReLU.backward`."""
    yield _launch("leaky_relu_backward", (dx,), _each(dx.size), dy, x, slope, dx, dx.size)


@_kernel
def tanh_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Tanh.backward`."""
    yield _launch("tanh_backward", (dx,), _each(dx.size), dy, y, dx, dx.size)


@_kernel
def sigmoid_forward(x: Alike, y: Alike) -> Iterator[Launch]:
    """`Sigmoid.forward`."""
    yield _launch("sigmoid", (y,), _each(y.size), x, y, y.size)


@_kernel
def sigmoid_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Sigmoid.backward`."""
    yield _launch("sigmoid_backward", (dx,), _each(dx.size), dy, y, dx, dx.size)


@_kernel
def gelu(x: Alike, cubic: float, scale: float, t: Alike, y: Alike) -> Iterator[Launch]:
    """`GELU.forward`; `t` is kept for the backward pass."""
    yield _launch("gelu", (y,), _each(y.size), x, cubic, scale, t, y, y.size)


@_kernel
def gelu_backward(
    dy: Alike, x: Alike, t: Alike, cubic: float, scale: float, dx: Alike
) -> Iterator[Launch]:
    """`GELU.backward`; `cubic` is three times that of the forward pass."""
    over = _each(dx.size)
    yield _launch("gelu_backward", (dx,), over, dy, x, t, cubic, scale, dx, dx.size)


@_kernel
def softmax_forward(x: Alike, y: Alike) -> Iterator[Launch]:
    """`Softmax.forward`."""
    yield _launch("softmax", (y,), _one_each(*y.shape), x, y, *y.shape)


@_kernel
def softmax_backward(dy: Alike, y: Alike, dx: Alike) -> Iterator[Launch]:
    """`Softmax.backward`."""
    yield _launch("softmax_backward", (dx,), _one_each(*dx.shape), dy, y, dx, *dx.shape)


@_kernel
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
    over = _one_each(*y.shape[::-1])
    statistics = (epsilon, momentum, running_mean, running_var)
    arguments = (x, weight, bias, *statistics, normal, scale, y, *y.shape)
    yield _launch("batch_norm", (y,), over, *arguments)


@_kernel
def batch_norm_backward(
    dy: Alike, normal: Alike, scale: Real, weight: Real, dweight: Real, dbias: Real, dx: Alike
) -> Iterator[Launch]:
    """`BatchNorm.backward`, with the gradients of its parameters."""
    arguments = (dy, normal, scale, weight, dweight, dbias, dx, *dx.shape)
    yield _launch("batch_norm_backward", (dx,), _one_each(*dx.shape[::-1]), *arguments)


@_kernel
def layer_norm(
    x: Alike, weight: Real, bias: Real, epsilon: float, normal: Alike, scale: Real, y: Alike
) -> Iterator[Launch]:
    """`LayerNorm.forward`."""
    arguments = (x, weight, bias, epsilon, normal, scale, y, *y.shape)
    yield _launch("layer_norm", (y,), _one_each(*y.shape), *arguments)


@_kernel
def layer_norm_backward(
    dy: Alike, normal: Alike, scale: Real, weight: Real, dx: Alike
) -> Iterator[Launch]:
    """`LayerNorm.backward`, without the gradients of its parameters."""
    arguments = (dy, normal, scale, weight, dx, *dx.shape)
    yield _launch("layer_norm_backward", (dx,), _one_each(*dx.shape), *arguments)


@_kernel
def cross_entropy(
    logits: Real, labels: Array, smoothing: float, sums: Array, p: Real, value: Real
) -> Iterator[Launch]:
    """`SoftmaxCrossEntropy.forward`: `p` `(C, N)` and the mean loss, summed in one fixed order.

    Several blocks leave their sums in `sums`, which a second launch adds up.
    """
    count, classes = logits.shape
    blocks, threads = _rows_in_blocks(count, sums.size)
    arguments = (logits, labels, smoothing, sums, p, value, count, classes)
    yield _launch("cross_entropy", (logits, labels), (blocks, threads), *arguments)
    if blocks > 1:
        yield _launch("mean_of_sums", (value,), (1, _THREADS), sums, value, blocks, count)


@_kernel
def softmax_cross_entropy_backward(
    p: Real, labels: Array, smoothing: float, scale: float, dlogits: Real
) -> Iterator[Launch]:
    """`SoftmaxCrossEntropy.backward`; `scale` holds `1 / N` already."""
    arguments = (p, labels, smoothing, scale, dlogits, *dlogits.shape)
    over = _each(dlogits.size)
    yield _launch("softmax_cross_entropy_backward", (p, labels), over, *arguments)


@_kernel
def add_loss(loss: Real, samples: int, total: Array) -> Iterator[Launch]:
    """`MeanLoss.update`."""
    yield _launch("add_loss", (loss,), (1, 1), loss, samples, total)


@_kernel
def count_hits(logits: Real, labels: Array, hits: Array) -> Iterator[Launch]:
    """`Accuracy.update`, for the largest logit."""
    arguments = (logits, labels, hits, *logits.shape)
    yield _launch("count_hits", (logits, labels), _each(len(logits)), *arguments)


@_kernel
def add_loss_and_hits(
    loss: Real, logits: Real, labels: Array, total: Array, hits: Array
) -> Iterator[Launch]:
    """`RunningMetrics.update` of a classifier."""
    arguments = (loss, logits, labels, total, hits, *logits.shape)
    yield _launch("add_loss_and_hits", (logits, labels), _each(len(logits)), *arguments)


@_kernel
def descend(values: Alike, gradients: Alike, scalars: Real) -> Iterator[Launch]:
    """`SGD.update` without momentum."""
    size = values.size
    yield _launch("descend", (values,), _each(size), values, gradients, scalars, size)


@_kernel
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
    yield _launch("descend_with_momentum", (values,), _each(size), *arguments)


@_kernel
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
    yield _launch("rmsprop", (values,), _each(size), *arguments)


@_kernel
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
    yield _launch("rmsprop_with_momentum", (values,), _each(size), *arguments)


@_kernel
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
    yield _launch("adam", (values,), _each(size), *arguments)


@_kernel
def dropout(
    x: Alike, counter: Array, units: Array, threshold: int, scale: float, mask: Alike, y: Alike
) -> Iterator[Launch]:
    """`Dropout.forward`; a second launch advances the counter, when all have read it."""
    arguments = (x, counter, units, threshold, scale, mask, y, *x.shape)
    yield _launch("dropout", (x,), _each_row(len(x)), *arguments)
    yield _launch("advance", (), (1, 1), counter, len(x))


@_kernel
def gaussian_noise(
    x: Alike, counter: Array, units: Array, factor: float, y: Alike
) -> Iterator[Launch]:
    """`GaussianNoise.forward`; the counter advances as in `dropout`."""
    arguments = (x, counter, units, factor, y, *x.shape)
    yield _launch("gaussian_noise", (x,), _each_row(len(x)), *arguments)
    yield _launch("advance", (), (1, 1), counter, len(x))


@_kernel
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
    yield _launch("gather_batch", types, _each_row(len(x)), *arguments, *sizes)
