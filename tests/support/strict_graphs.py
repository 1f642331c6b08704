"""Streams, captures, graphs and cuBLAS for the strict double, so that CUDA graphs can be tested.

As on a card, a call on a stream that is captured is kept and not run; CuPy's own products, and
whatever waits, moves or allocates, are refused; a capture that went wrong ends with an error.
`log` tells in which order things happened.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy
import pytest
import strict_cupy
from strict_cupy import capture

log: list[str] = []
_numbers = itertools.count(1)


class Event(str):
    """An event by its name; it has been reached, unless a device that waits holds it up."""

    unreached: ClassVar[list[str]] = []
    """What all streams wait for without end, if anything: see `nccl_double`."""

    @property
    def ptr(self) -> int:
        return id(self)


class _Runtime:
    """What `xpnet.distributed` asks `cupy.cuda.runtime` for: each process has a GPU of its own."""

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        return {"uuid": f"{os.getpid()} {device}".encode()}

    def eventQuery(self, event: int) -> int:
        return 600 if Event.unreached else 0  # cudaErrorNotReady


class Stream:
    """A stream, as far as `xpnet.accel.cuda_graph` knows it."""

    def __init__(self, *, non_blocking: bool = False, ptr: int | None = None) -> None:
        self.ptr = next(_numbers) if ptr is None else ptr
        self.is_default = ptr == 0
        assert self.is_default or non_blocking, "a blocking stream would wait for the default one"

    def __enter__(self) -> Stream:
        _current.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        assert _current.pop() is self

    def __repr__(self) -> str:
        return "default" if self.is_default else "own"

    def synchronize(self) -> None:
        strict_cupy.ledger.record_all("synchronize", "sync")

    def record(self) -> Event:
        log.append(f"record {self}")
        return Event(f"event of {self}")

    def wait_event(self, event: Event) -> None:
        log.append(f"{self} waits for {event}")

    def begin_capture(self) -> None:
        assert not self.is_default, "the default stream cannot be captured"
        assert _current[-1] is self, "captured is what runs on the stream"
        assert capture.calls is None
        capture.calls, capture.is_broken = [], False
        log.append("begin")

    def end_capture(self) -> Graph:
        assert capture.calls is not None
        calls, capture.calls = capture.calls, None
        log.append("broken" if capture.is_broken else "end")
        if capture.is_broken:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return Graph(calls)


_default = Stream(ptr=0)
_current = [_default]


class Graph:
    """What was captured."""

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self.calls = calls

    def launch(self) -> None:
        assert capture.calls is None
        log.append("launch")
        for call in self.calls:
            call()


class MemoryPool:
    def free_all_blocks(self) -> None:
        """As `cudaFree`."""
        _wait_for_the_device()

    def malloc(self, size: int) -> Any:
        raise AssertionError("the double takes no memory from pools")


_allocators: list[Any] = []


@contextmanager
def using_allocator(malloc: Callable[[int], Any]) -> Iterator[None]:
    _allocators.append(malloc)
    try:
        yield
    finally:
        _allocators.pop()


class Cublas(types.ModuleType):
    """The functions of `nvmath.bindings.cublas` that `xpnet.accel.cublas` calls, on addresses."""

    def __init__(self) -> None:
        super().__init__("nvmath.bindings.cublas")
        self.handles: dict[int, dict[str, Any]] = {}
        self.computed: Counter[tuple[int, bool]] = Counter()
        """Products by compute type, and whether they are of two matrices."""

    def create(self) -> int:
        handle = next(_numbers)
        self.handles[handle] = {}
        return handle

    def destroy(self, handle: int) -> None:
        _wait_for_the_device()
        del self.handles[handle]

    def set_stream(self, handle: int, stream_id: int) -> None:
        self.handles[handle] = {"stream": stream_id}  # the workspace is the default one again

    def set_workspace(self, handle: int, workspace: int, workspace_size_in_bytes: int) -> None:
        self.handles[handle] |= {"address": workspace, "bytes": workspace_size_in_bytes}

    def set_pointer_mode(self, handle: int, mode: int) -> None:
        self.handles[handle]["mode"] = mode

    def gemm_ex(
        self,
        handle: int,
        transa: int,
        transb: int,
        m: int,
        n: int,
        k: int,
        alpha: int,
        a: int,
        atype: int,
        lda: int,
        b: int,
        btype: int,
        ldb: int,
        beta: int,
        c: int,
        ctype: int,
        ldc: int,
        compute_type: int,
        algo: int,
    ) -> None:
        head = (handle, transa, transb, m, n, k, alpha)
        first, second, out = (a, atype, lda, 0), (b, btype, ldb, 0), (c, ctype, ldc, 0)
        args = (*head, *first, *second, beta, *out, 1, compute_type, algo)
        self.gemm_strided_batched_ex(*args)

    def gemm_strided_batched_ex(
        self,
        handle: int,
        transa: int,
        transb: int,
        m: int,
        n: int,
        k: int,
        alpha: int,
        a: int,
        atype: int,
        lda: int,
        stride_a: int,
        b: int,
        btype: int,
        ldb: int,
        stride_b: int,
        beta: int,
        c: int,
        ctype: int,
        ldc: int,
        stride_c: int,
        batch_count: int,
        compute_type: int,
        algo: int,
    ) -> None:
        real = self._check(handle, 0, atype, btype, ctype)
        assert compute_type in {0: (68, 75, 77), 1: (70,)}[ctype]
        assert algo == -1
        # The factors are read when the call is made, everything else when it is run.
        first, second = (real.from_address(place).value for place in (alpha, beta))

        def multiply() -> None:
            strict_cupy.ledger.record("op", "gemm")
            self.computed[compute_type, n > 1 and m > 1 and batch_count == 1] += 1
            for n_th in range(batch_count):
                x, y, z = (
                    place + n_th * stride * ctypes.sizeof(real)
                    for place, stride in ((a, stride_a), (b, stride_b), (c, stride_c))
                )
                left = _columns(real, x, lda, transa, m, k)
                right = _columns(real, y, ldb, transb, k, n)
                out = _columns(real, z, ldc, 0, m, n)
                out[...] = first * (left @ right) + (second * out if second else 0)

        _now_or_later("gemm", multiply, c)

    def dot_ex(
        self,
        handle: int,
        n: int,
        x: int,
        x_type: int,
        incx: int,
        y: int,
        y_type: int,
        incy: int,
        result: int,
        result_type: int,
        execution_type: int,
    ) -> None:
        real = self._check(handle, 1, x_type, y_type, result_type, execution_type)
        assert incx == incy == 1

        def multiply() -> None:
            strict_cupy.ledger.record("op", "dot_ex")
            one, other = (_columns(real, place, n, 0, n, 1)[:, 0] for place in (x, y))
            real.from_address(result).value = numpy.dot(one, other)

        _now_or_later("dot_ex", multiply, result)

    def _check(self, handle: int, mode: int, *kinds: int) -> Any:
        """Whether the handle is ready, and the results are where it looks for them."""
        options = self.handles[handle]
        assert options["bytes"] >= 4 * 2**20, "no workspace of its own"
        assert options["stream"] == _current[-1].ptr, "not on the stream of the handle"
        assert options.get("mode", 0) == mode, "results and factors on the wrong side"
        assert len(set(kinds)) == 1
        return (ctypes.c_float, ctypes.c_double)[kinds[0]]


def _wait_for_the_device() -> None:
    """What spoils a capture, in whichever thread and stream it runs."""
    if capture.calls is not None:
        capture.is_broken = True


def _now_or_later(name: str, call: Callable[[], None], out: Any) -> None:
    if capture.calls is None:
        call()
    else:
        capture.keep(name, call, out)


def _columns(real: Any, address: int, step: int, turned: int, rows: int, columns: int) -> Any:
    """The matrix `(rows, columns)` at `address`, column after column, or turned, row after row."""
    inner, outer = (columns, rows) if turned else (rows, columns)
    assert step >= inner, "columns that overlap"
    size = step * (outer - 1) + inner
    flat = numpy.ctypeslib.as_array((real * size).from_address(address))
    bytes_ = ctypes.sizeof(real)
    strides = (step * bytes_, bytes_) if turned else (bytes_, step * bytes_)
    return numpy.lib.stride_tricks.as_strided(flat, (rows, columns), strides)


@contextmanager
def graphs_on_the_double(*, bindings: bool = True, capability: str = "90") -> Iterator[Cublas]:
    """Within the block the double has streams and graphs, and `bindings` for their products."""
    cuda = types.SimpleNamespace(
        get_current_stream=lambda: _current[-1],
        Stream=Stream,
        MemoryPool=MemoryPool,
        runtime=_Runtime(),
        using_allocator=using_allocator,
        Device=type("Device", (strict_cupy.Device,), {"compute_capability": capability}),
    )
    cublas = Cublas()
    modules: dict[str, Any] = {"nvmath": types.ModuleType("nvmath")}
    modules["nvmath.bindings"] = types.ModuleType("nvmath.bindings") if bindings else None
    if bindings:
        modules["nvmath.bindings"].cublas = cublas  # type: ignore[attr-defined]
    log.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_cupy.xp, "cuda", cuda)
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield cublas
    assert _current == [_default]
    assert capture.calls is None
    assert _allocators == []
