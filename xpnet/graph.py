"""A recorded step as one CUDA graph: launched at once, not call by call.

The calls that `xpnet.replay` recorded are run once more, on a stream of their own, then captured
there, and from then on launched. Whatever changes between steps lies in arrays on the device, so
a graph once made stays right for as long as the recording does. A short last batch has a
recording, and so a graph, of its own.

CuPy refuses its own matrix products while a stream is captured (its issue 6290). In a graph they
are made with NVIDIA's cuBLAS bindings (`nvmath-python`, in the extras `cuda12` and `cuda13`), by
a handle bound to the stream, with a workspace that no other work uses. Where that is missing, or
a call cannot be captured, steps are replayed call by call, and one warning says why.

Not yet run on a GPU. What is shown without one: who is called when, with what, and what becomes
of a step when something fails, on the test double with a pretended capture.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy

from xpnet.backend import Array

Call: TypeAlias = Callable[[], Any]

ENABLED = True
"""False replays every step call by call: for tests and measurements, which compare the two."""

_WORKSPACE = {True: 32 * 2**20, False: 4 * 2**20}
"""Bytes that NVIDIA advises for cuBLAS: since Hopper, and before."""

_KINDS = {"float32": (0, 68), "float64": (1, 70)}
"""CUDA_R_32F and CUBLAS_COMPUTE_32F, without TF32, and the same for 64."""


class Graphs:
    """Makes graphs of the steps of one training; `xp` is its array module."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.are_possible = ENABLED and hasattr(getattr(xp, "cuda", None), "Stream")
        self._stage: _Stage | None = None

    def of(self, calls: tuple[Call, ...]) -> tuple[Call, ...]:
        """One call in place of `calls`, or `calls` where there can be no graph."""
        if not self.are_possible:
            return calls
        try:
            if self._stage is None:
                self._stage = _Stage(self.xp)
            return (_Step(self, self._stage, calls),)
        except Exception as error:
            self.refuse(error)
            return calls

    def refuse(self, error: Exception) -> None:
        """Make no more graphs, and say why, once."""
        if self.are_possible:
            self.are_possible = False
            why = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(
                f"training goes on without CUDA graphs, slower, because of this: {why}",
                RuntimeWarning,
                stacklevel=2,
            )


class _Stage:
    """What the graphs of one training share: a stream, memory and matrix products.

    Memory that a call takes and gives back while it is captured belongs to the graph for good,
    so it comes from a pool that nobody else draws from.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.stream = xp.cuda.Stream(non_blocking=True)
        self.pool = xp.cuda.MemoryPool()
        self.products = Products(xp, self.stream)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.stream, self.xp.cuda.using_allocator(self.pool.malloc):
            yield

    def rehearse(self, calls: tuple[Call, ...]) -> None:
        """Run `calls` on the stream, after what was asked for before and before what comes."""
        outside = self.xp.cuda.get_current_stream()
        self.stream.wait_event(outside.record())
        with self.entered():
            for call in calls:
                call()
        outside.wait_event(self.stream.record())

    def capture(self, calls: tuple[Call, ...]) -> Any:
        """`calls` as a graph; none of them is run."""
        with self.entered():
            self.stream.begin_capture()
            try:
                for call in calls:
                    call()
            except BaseException:
                self._abandon()
                raise
            return self.stream.end_capture()

    def _abandon(self) -> None:
        try:
            self.stream.end_capture()
        except Exception:  # what went wrong was said already
            return


class _Step:
    """A recorded step: the first call rehearses it, the second captures it, all launch it."""

    def __init__(self, graphs: Graphs, stage: _Stage, calls: tuple[Call, ...]) -> None:
        self.graphs, self.stage = graphs, stage
        # They hold the arrays, of which a graph knows only the addresses.
        self.recorded = calls
        self.calls = tuple(map(stage.products.in_place_of, calls))
        self.is_rehearsed = False
        self.launch: Call | None = None

    def __call__(self) -> None:
        if self.launch is not None:
            self.launch()
        elif not self.is_rehearsed:
            self.stage.rehearse(self.calls)
            self.is_rehearsed = True
        else:
            self.launch = self._captured() if self.graphs.are_possible else self._call_by_call
            self.launch()

    def _captured(self) -> Call:
        try:
            launch: Call = self.stage.capture(self.calls).launch
        except Exception as error:
            self.graphs.refuse(error)
            return self._call_by_call
        return launch

    def _call_by_call(self) -> None:
        for call in self.recorded:
            call()


class Products:
    """Matrix products by a cuBLAS handle of our own, on `stream` and no other.

    Raises `RuntimeError` where the bindings are missing, and whatever cuBLAS raises.
    """

    def __init__(self, xp: Any, stream: Any) -> None:
        try:
            from nvmath.bindings import cublas
        except ImportError as error:
            raise RuntimeError(
                f"the cuBLAS bindings cannot be imported ({error}): pip install nvmath-python"
            ) from error
        self.xp, self._cublas = xp, cublas
        self._handle = cublas.create()
        weakref.finalize(self, cublas.destroy, self._handle).atexit = False
        major = int(str(xp.cuda.Device().compute_capability)[:-1])
        self._workspace = xp.empty(_WORKSPACE[major >= 9], dtype=xp.uint8)
        # In this order: a new stream brings the workspace of all streams back.
        cublas.set_stream(self._handle, stream.ptr)
        cublas.set_workspace(self._handle, self._workspace.data.ptr, self._workspace.nbytes)
        self._factors = {name: numpy.array([1, 0], name) for name in _KINDS}

    def in_place_of(self, call: Call) -> Call:
        """`call` itself, or if it is a product of `xp`, the same product by this handle."""
        if not isinstance(call, partial) or call.func not in (self.xp.dot, self.xp.matmul):
            return call
        if call.func is self.xp.dot and call.args[1].ndim > 2:
            raise TypeError("a dot product with several matrices")  # it is not a product of each
        return self.product(*call.args, **call.keywords)

    def product(self, a: Array, b: Array, out: Array) -> Call:
        """`out = a b`, of vectors, matrices or stacks of matrices: a call without arguments.

        Raises `TypeError` for other dtypes and for arrays that lie neither by rows nor by columns.
        """
        cublas, dtype = self._cublas, str(out.dtype)
        if not (a.dtype == b.dtype == out.dtype and dtype in _KINDS):
            raise TypeError(f"a product of {a.dtype} and {b.dtype} into {out.dtype}")
        if not out.flags.c_contiguous or max(a.ndim, b.ndim) > 3 or a.ndim < b.ndim - 1:
            raise TypeError(f"a product of {a.shape} and {b.shape} into {out.shape}")
        if a.ndim == b.ndim == 1:
            return partial(self._dot, a, b, out)
        count = len(b) if b.ndim == 3 else 1
        inner, columns = (*b.shape, 1)[:2] if b.ndim < 3 else b.shape[1:]
        rows = out.size // (count * columns)
        kind, compute = _KINDS[dtype]
        # cuBLAS counts by columns: to it `out` is `outᵀ = bᵀ aᵀ`.
        (turn_b, step_b), (turn_a, step_a) = _lies(b, inner, columns), _lies(a, rows, inner)
        one = self._factors[dtype].ctypes.data
        zero = one + out.itemsize
        head = (self._handle, turn_b, turn_a, columns, rows, inner)
        first, second = (b.data.ptr, kind, step_b), (a.data.ptr, kind, step_a)
        third, tail = (out.data.ptr, kind, columns), (compute, -1)  # CUBLAS_GEMM_DEFAULT
        if count == 1:
            return partial(cublas.gemm_ex, *head, one, *first, *second, zero, *third, *tail)
        apart = inner * columns, rows * inner if a.ndim == 3 else 0, rows * columns
        return partial(
            cublas.gemm_strided_batched_ex,
            *(*head, one, *first, apart[0], *second, apart[1]),
            *(zero, *third, apart[2], count, *tail),
        )

    def _dot(self, a: Array, b: Array, out: Array) -> None:
        """Of two vectors, with the result on the device: cuBLAS has to be told."""
        kind = _KINDS[str(out.dtype)][0]
        cublas, handle = self._cublas, self._handle
        cublas.set_pointer_mode(handle, 1)
        try:
            one, other = (a.data.ptr, kind, 1), (b.data.ptr, kind, 1)
            cublas.dot_ex(handle, a.size, *one, *other, out.data.ptr, kind, kind)
        finally:
            cublas.set_pointer_mode(handle, 0)


def _lies(array: Array, rows: int, columns: int) -> tuple[int, int]:
    """How cuBLAS is to take the transpose of `array` `(rows, columns)`: turned or not, its step."""
    if array.flags.c_contiguous:
        return 0, columns
    if array.flags.f_contiguous and array.ndim == 2:
        return 1, rows
    raise TypeError("a product of an array that lies neither row by row nor column by column")
