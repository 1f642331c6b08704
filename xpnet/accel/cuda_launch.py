"""How the CUDA kernels of `cuda_kernels.cu` are compiled, and over how many threads they run.

A kernel is compiled by NVRTC when it is first needed for its types, and cached, by CuPy also on
disk. `xpnet.accel.cuda_kernels` has the launches.
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
THREADS = 256
"""Of a block, unless there is less to do."""

_MOST_BLOCKS = 2048
"""Enough to fill any card; beyond them each thread does more."""

_ROWS_OF_ONE_BLOCK = 512
"""Of up to so many rows one block computes the loss, and no second launch adds up the blocks."""

TYPES = {
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


def launches_of(launches: Callable[..., Iterator[Launch]]) -> Any:
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
    def run(*arguments: Any) -> None:
        _run(tuple(checked(*arguments)))

    run.launches = checked  # type: ignore[attr-defined]
    KERNELS[launches.__name__] = run
    return run


def launch(name: str, types: tuple[Array, ...], over: tuple[int, int], *arguments: Any) -> Launch:
    """One launch of `name` for the dtypes of `types`, `over` so many blocks and threads."""
    inside = ", ".join(TYPES[array.dtype.str[1:]] for array in types)
    blocks, threads = over
    function = kernel(f"{name}<{inside}>" if types else name)
    return partial(function, (blocks,), (threads,), arguments)


def each(size: int) -> tuple[int, int]:
    """A thread for each of `size` elements, or for several."""
    return min(-(-size // THREADS), _MOST_BLOCKS), THREADS


def each_row(count: int) -> tuple[int, int]:
    """A block for each of `count` rows, or for several."""
    return min(count, _MOST_BLOCKS), THREADS


def one_each(count: int, width: int) -> tuple[int, int]:
    """The same, with few threads for short rows: a power of two, as `sum_of_block` needs."""
    threads = 1 << (width - 1).bit_length()
    return min(count, _MOST_BLOCKS), max(_WARP, min(threads, THREADS))


def rows_in_blocks(count: int, blocks: int) -> tuple[int, int]:
    """A thread for each of `count` rows, whose sums a block adds up: few rows in one block."""
    if count <= _ROWS_OF_ONE_BLOCK:
        return 1, max(_WARP, min(1 << (count - 1).bit_length(), THREADS))
    return blocks, THREADS
