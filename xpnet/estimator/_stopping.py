"""When a fit ends: the convergence check of `MLPClassifier`, as a callback, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xpnet.backend import HostArray
from xpnet.estimator._optimizer import change_rate
from xpnet.losses import L2Penalty, Loss
from xpnet.network import Sequential
from xpnet.network.inputs import taken
from xpnet.training.callbacks import Callback, Progress, TrainingState
from xpnet.training.history import Record
from xpnet.utils.sparse import is_sparse

LEAST_RATE = 1e-6
"""With `learning_rate="adaptive"` training stops when the rate is no longer above this."""


class HeldOut:
    """Held-out samples on the device of `network`, which measure it after each epoch.

    `x (n, features)`, `target`, `weights (n,)` or None as the loss takes them, on the host, where
    a sparse `x` stays.
    `score`: of the outputs `(n, outputs)` on the host. `penalty`: that of the training loss.
    """

    def __init__(
        self,
        network: Sequential,
        x: Any,
        target: HostArray,
        weights: HostArray | None,
        *,
        loss: Loss,
        penalty: L2Penalty,
        score: Callable[[HostArray], float],
    ) -> None:
        backend, dtype = network.backend, network.dtype
        if is_sparse(x):
            self.x = taken(network, x, check=False)
        else:
            self.x = backend.asarray(x, dtype=dtype)
        is_float = target.dtype.kind == "f"
        self.target = backend.asarray(target, dtype=dtype if is_float else None)
        # Only the ratios matter, and small weights would be 0 in float32.
        ratios = None if weights is None else weights / weights.max()
        self.weights = None if ratios is None else backend.asarray(ratios, dtype=dtype)
        self.loss, self.penalty, self.score = loss.for_evaluation(), penalty, score

    def measure(self, network: Sequential) -> tuple[float, float]:
        """The score, and the loss with L2, as the loss of the training samples has it."""
        to_host = network.backend.to_host
        outputs = network.forward(self.x)
        score = self.score(to_host(outputs))
        loss = float(to_host(self.loss.forward(outputs, self.target, self.weights)))
        decayed = network.flat_parameters[: network.decay_size]
        return score, loss + float(to_host(self.penalty.forward(decayed)))


class ConvergenceCheck(Callback):
    """Stops training that no longer improves, by the rule of `MLPClassifier`.

    `held_out`: measures a network, whose `scores` and `losses` are kept; None without such samples.
    `by_score`: the score decides instead of the training loss, and the weights with the best
    score are restored at the end. Training stops after more than `patience` epochs in a row in
    which the score (or minus the loss) was not at least `tol` above the best one before.
    `lowers_rate`: then the learning rate is divided by 5 instead, unless it is `LEAST_RATE` or
    less. `samples_seen`: the training samples of earlier calls. `best`, `waited`: the best value of
    earlier calls, and how many epochs in a row did not improve on it.
    """

    def __init__(
        self,
        held_out: HeldOut | None,
        *,
        by_score: bool,
        tol: float,
        patience: float,
        lowers_rate: bool,
        samples_seen: int,
        best: float,
        waited: int,
    ) -> None:
        self.held_out, self.by_score, self.tol, self.patience = held_out, by_score, tol, patience
        self.lowers_rate, self.samples_seen = lowers_rate, samples_seen
        self.best, self.waited = best, waited
        self.scores, self.losses = list[float](), list[float]()
        self.best_weights: list[tuple[Any, Any]] = []
        self.was_stopped = False

    def on_train_begin(self, run: TrainingState) -> None:
        """Continue the random numbers of dropout where an earlier call ended."""
        run.network.set_sample_counter(self.samples_seen)

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Compare with the best value so far."""
        if self.held_out is not None:
            score, loss = self.held_out.measure(run.network)
            self.scores.append(score)
            self.losses.append(loss)
        value = self.scores[-1] if self.by_score else -record.loss
        self.waited = 0 if value >= self.best + self.tol else self.waited + 1
        if value > self.best:
            self.best = value
            if self.by_score:
                arrays = (run.network.flat_parameters, run.network.flat_buffers)
                self.best_weights = [(array, array.copy()) for array in arrays]
        if self.waited <= self.patience:
            return
        rate = run.optimizer.learning_rate(run.optimizer.steps)
        if self.lowers_rate and rate > LEAST_RATE:
            change_rate(run.optimizer, rate / 5)
            self.waited = 0
        else:
            run.stop = True

    def on_train_end(self, run: TrainingState) -> None:
        """Restore the weights with the best score; `was_stopped`: by this or another callback."""
        self.was_stopped = run.stop
        for array, best in self.best_weights:
            array[...] = best


class HeldOutProgress(Progress):
    """`Progress` that also prints what `check` has measured on held-out samples in this epoch."""

    def __init__(self, check: ConvergenceCheck) -> None:
        super().__init__()
        self.check = check

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Print the line."""
        if self.check.losses:
            accuracy = None if record.accuracy is None else self.check.scores[-1]
            record = replace(record, val_loss=self.check.losses[-1], val_accuracy=accuracy)
        super().on_log(run, record)
