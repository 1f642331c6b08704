"""A recorded step as one CUDA graph: launched at once, not call by call.

The calls that `xpnet.accel.recording` recorded are run once more, on a stream of their own, then
captured there, and from then on launched. Whatever changes between steps lies in arrays on the
device, so a graph once made stays right for as long as the recording does. A short last batch has a
recording, and so a graph, of its own.

CuPy refuses its own matrix products while a stream is captured (its issue 6290). In a graph they
are made by a cuBLAS handle of our own: `xpnet.accel.cublas`. Where its bindings are missing, or a
call cannot be captured, steps are replayed call by call, and one warning says why.

Not yet run on a GPU. What is shown without one: who is called when, with what, and what becomes
of a step when something fails, on the test double with a pretended capture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from xpnet.accel.cublas import Products, precision_of
from xpnet.backend.context import current

Call: TypeAlias = Callable[[], Any]


class Graphs:
    """Makes graphs of the steps of one training; `xp` is its array module."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.are_possible = current().graphs_enabled and hasattr(
            getattr(xp, "cuda", None), "Stream"
        )
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
        self.products = Products(xp, self.stream, precision_of(xp))

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
