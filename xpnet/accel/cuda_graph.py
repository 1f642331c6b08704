"""A recorded step as one CUDA graph: one launch instead of one for each call.

The operations of a recorded step run once more, on a separate stream, are then
captured there, and from then on launched as a graph. Whatever changes between steps is stored in
arrays on the device, so a graph stays valid as long as the recording does. A short last batch has
a recording, and so a graph, of its own.

CuPy refuses its own matrix products while a stream is captured (its issue 6290). In a graph they
use xpnet's own cuBLAS handle: `xpnet.accel.cublas`. Where its bindings are missing, or a call
cannot be captured, steps are replayed call by call, and one warning says why.

Not yet run on a GPU. Tested without one: the order and arguments of calls and the behaviour after a
failure on the test double with a simulated capture, graphs on the stock CuPy wheel on a pretended
device (`tests/support/cupy_on_cpu`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xpnet.accel import capture, cublas
from xpnet.accel.cublas import Products
from xpnet.accel.part_threads import run_parts
from xpnet.accel.program import Call, Program, run
from xpnet.backend.context import current


def are_possible(xp: Any) -> bool:
    """Whether steps on `xp` may become graphs in this thread."""
    return current().graphs_enabled and hasattr(getattr(xp, "cuda", None), "Stream")


def workspace_bytes(xp: Any) -> int:
    """Bytes of device memory that the graphs of a training take besides the arrays of its steps."""
    are_made = current().recording_enabled and are_possible(xp)
    return cublas.workspace_bytes(xp) if are_made else 0


class Graphs:
    """Makes graphs of the steps of one training; `xp` is its array module."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.enabled = are_possible(xp)
        self._stream: _GraphStream | None = None

    def of(self, program: Program) -> Call:
        """One call that runs `program`: as a graph, or call by call if no graph is possible."""
        if self.enabled:
            try:
                if self._stream is None:
                    self._stream = _GraphStream(self.xp)
                return _Step(self, self._stream, program)
            except Exception as error:
                self.refuse(error)
        return run_parts(program)

    def refuse(self, error: Exception) -> None:
        """Make no more graphs, and warn once with the reason."""
        if self.enabled:
            self.enabled = False
            why = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(
                f"training continues without CUDA graphs, slower, because of this: {why}",
                RuntimeWarning,
                stacklevel=2,
            )


class _GraphStream:
    """Shared by the graphs of one training: a stream, a memory pool and matrix products.

    Memory that a call allocates and frees while it is captured stays with the graph, so it comes
    from a memory pool of its own.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.stream = xp.cuda.Stream(non_blocking=True)
        self.pool = xp.cuda.MemoryPool()
        # The finaliser holds the pool, which gives its memory back when it is gone itself.
        capture.free_with(self, self.pool.free_all_blocks)
        self.products = Products(xp, self.stream, current().precision)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.stream, self.xp.cuda.using_allocator(self.pool.malloc):
            yield

    def warm_up(self, calls: tuple[Call, ...]) -> None:
        """Run `calls` on the stream, in order with the work on the current stream."""
        outside = self.xp.cuda.get_current_stream()
        self.stream.wait_event(outside.record())
        with self.entered():
            for call in calls:
                call()
        outside.wait_event(self.stream.record())

    def capture(self, calls: tuple[Call, ...]) -> Any:
        """`calls` as a graph; none of them is run."""
        with capture.undisturbed(), self.entered():
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
    """A recorded step: the first call is the warm-up, the second captures it, others launch it."""

    def __init__(self, graphs: Graphs, stream: _GraphStream, program: Program) -> None:
        self.graphs, self.stream = graphs, stream
        # It holds the arrays, of which a graph knows only the addresses.
        self.program = program
        self.calls = tuple(map(stream.products.call_of, program))
        self.is_warm = False
        self.launch: Call | None = None

    def __call__(self) -> None:
        if self.launch is not None:
            self.launch()
        elif not self.is_warm:
            self.stream.warm_up(self.calls)
            self.is_warm = True
        else:
            self.launch = self._captured() or run(self.program)
            self.launch()

    def _captured(self) -> Call | None:
        """The launch of a graph of this step, or None where there can be none."""
        if not self.graphs.enabled:
            return None
        try:
            launch: Call = self.stream.capture(self.calls).launch
        except Exception as error:
            self.graphs.refuse(error)
            return None
        return launch
