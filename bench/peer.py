"""Base class of the competitors: one workload in one library, gated, then timed."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy

from bench.workloads import Workload
from xpnet.backend import HostArray


class Unsupported(Exception):
    """A library cannot do a workload; the message says what it lacks."""


class Peer:
    """A workload, ready to run: data in memory, weights set.

    A subclass trains (`losses`, `epoch`) and predicts (`predict`) with the same code for the
    gate and for the clock. `about` says in a line how the library is set up; `takes_images`: it has
    convolutions.
    """

    about: ClassVar[str] = ""
    gated: ClassVar[bool] = True
    takes_images: ClassVar[bool] = False

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """The part of `workload` that this library can do, and a note if it is not all.

        Raises `Unsupported`.
        """
        return workload, ""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device

    def losses(self, rows: HostArray) -> list[float]:
        """Train from the initial weights on `rows (steps, batch)`; the mean loss of each step.

        The loss of a step is that before its update.
        """
        raise NotImplementedError

    def epoch(self) -> None:
        """One pass over all rows in a new random order, with loss and accuracy; blocks."""
        raise NotImplementedError

    def predict(self, x: Any) -> Any:
        """Logits or probabilities `(N, 10)` of `x (N, features)`; finished on return."""
        raise NotImplementedError

    def samples(self, x: HostArray) -> Any:
        """`x` as `predict` takes it, on the device of the library; not timed."""
        return x

    def reset(self) -> None:
        """Back to the initial weights, so that every repeat does the same work."""

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""

    def probabilities(self, x: HostArray) -> HostArray:
        """Softmax of what `predict` gives, `(N, 10)`, on the host, for the gate."""
        logits = self.to_host(self.predict(self.samples(x))).astype(numpy.float64)
        e = numpy.exp(logits - logits.max(axis=1, keepdims=True))
        found: HostArray = e / e.sum(axis=1, keepdims=True)
        return found

    def to_host(self, outputs: Any) -> HostArray:
        """What `predict` returned as a NumPy array."""
        return numpy.asarray(outputs)

    def repeat(self) -> float:
        """Seconds per step (or call), timed after a warm-up of the same work."""
        if self.workload.predicts:
            return self._predictions()
        self.reset()
        for timed in (False, True):
            self.synchronise()
            began = time.perf_counter()
            for _ in range(self.workload.passes if timed else 1):
                self.epoch()
            self.synchronise()
        return (time.perf_counter() - began) / (self.workload.passes * self.workload.steps)

    def _predictions(self) -> float:
        batch, calls = self.workload.batch, self.workload.passes * self.workload.steps
        x, _ = self.workload.data()
        blocks = [self.samples(x[i : i + batch]) for i in range(0, min(len(x), 64 * batch), batch)]
        for _timed in (False, True):
            began = time.perf_counter()
            for call in range(calls):
                self.predict(blocks[call % len(blocks)])
        return (time.perf_counter() - began) / calls
