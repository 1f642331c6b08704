"""When a fit ends: the convergence check of `MLPClassifier`, as a callback."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from xpnet.network import Sequential
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.history import Record


class ConvergenceCheck(Callback):
    """Stops training that no longer improves, by the rule of `MLPClassifier`.

    `score`: computes the score of a network on the held-out samples; None without such samples.
    `by_score`: the score decides instead of the training loss, and the weights with the best
    score are restored at the end. Training stops after more than `patience` epochs in a row in
    which the score (or minus the loss) was not at least `tol` above the best one before.
    `samples_seen`: the training samples of earlier calls.
    """

    def __init__(
        self,
        score: Callable[[Sequential], float] | None,
        *,
        by_score: bool,
        tol: float,
        patience: float,
        samples_seen: int,
    ) -> None:
        self.score, self.by_score, self.tol, self.patience = score, by_score, tol, patience
        self.samples_seen = samples_seen
        self.best, self.waited, self.scores = -math.inf, 0, list[float]()
        self.best_weights: list[tuple[Any, Any]] = []

    def on_train_begin(self, run: TrainingState) -> None:
        """Continue the random numbers of dropout where an earlier call ended."""
        run.network.set_sample_counter(self.samples_seen)

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Compare with the best value so far."""
        if self.score is not None:
            self.scores.append(self.score(run.network))
        value = self.scores[-1] if self.by_score else -record.loss
        self.waited = 0 if value >= self.best + self.tol else self.waited + 1
        if value > self.best:
            self.best = value
            if self.by_score:
                arrays = (run.network.flat_parameters, run.network.flat_buffers)
                self.best_weights = [(array, array.copy()) for array in arrays]
        run.stop = run.stop or self.has_stopped

    @property
    def has_stopped(self) -> bool:
        """Whether training has gone without improvement for more than `patience` epochs."""
        return self.waited > self.patience

    def on_train_end(self, run: TrainingState) -> None:
        """Restore the weights with the best score."""
        for array, best in self.best_weights:
            array[...] = best
