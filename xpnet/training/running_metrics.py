"""Running means of loss and accuracy during training, and the records made from them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import DivergenceError, RankError
from xpnet.losses import L2Penalty, Loss, SoftmaxCrossEntropy
from xpnet.metrics import Accuracy, MeanLoss, add_loss, count_hits
from xpnet.network import Sequential
from xpnet.training.callbacks import TrainingState
from xpnet.training.device_data import DeviceData
from xpnet.training.history import Record
from xpnet.workspace import Workspace


class RunningMetrics:
    """Loss and correct predictions since the last record, on the device; `record()` synchronises.

    `again`: the training set, where its figures are evaluated; `held_out`: the validation set;
    `evaluate`: gives the mean loss and the accuracy of a part; `group`: the ranks that train
    together, each of which adds the samples that it computes.
    """

    def __init__(
        self,
        run: TrainingState,
        loss: Loss,
        penalty: L2Penalty | None,
        again: DeviceData | None,
        held_out: DeviceData | None,
        evaluate: Callable[[DeviceData, Loss], tuple[float, float | None]],
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.run, self.penalty, self.again, self.held_out = run, penalty, again, held_out
        self.evaluate = evaluate
        self.mean = MeanLoss(run.network.backend)
        self.counts = isinstance(loss, SoftmaxCrossEntropy)
        self.accuracy = Accuracy(run.network.backend)
        self.began = time.perf_counter()
        self.loss = loss.for_evaluation()

    def update(self, value: Array, logits: Array, target: Array) -> None:
        """Add the loss and the hits of one batch, on the device; `count` counts its samples."""
        xp, workspace = array_module(value, logits, target), self.accuracy.workspace
        total, hits = self.mean.total, self.accuracy.hits
        if self.counts:
            add_loss_and_hits(xp, value, logits, target, total, hits, workspace=workspace)
        else:
            add_loss(xp, value, len(target), total, workspace=workspace)

    def count(self, samples: int) -> None:
        """Count the samples of batches that `update` has added, or its replay."""
        self.mean.samples += samples
        self.accuracy.samples += samples

    def state(self) -> dict[str, Any]:
        """The sums since the last record as plain numbers, and the seconds: for a checkpoint."""
        to_host = self.run.network.backend.to_host
        own = float(to_host(self.mean.total)[0]), int(to_host(self.accuracy.hits)[0])
        found = self.group.all_gather((*own, self.mean.samples))
        loss, hits, samples = map(sum, zip(*found, strict=True))
        seconds = time.perf_counter() - self.began
        return {"loss": loss, "hits": hits, "samples": samples, "seconds": seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the result of `state()`, of several ranks to the first of them."""
        keeps = self.group.rank == 0
        self.mean.total.fill(float(state["loss"]) if keeps else 0.0)
        self.accuracy.hits.fill(int(state["hits"]) if keeps else 0)
        self.mean.samples = self.accuracy.samples = int(state["samples"]) if keeps else 0
        self.began = time.perf_counter() - float(state["seconds"])

    def record(self) -> Record:
        """A new line of the history. Raises `DivergenceError` for a loss that is not finite."""
        run = self.run
        loss = self._finite("loss", self.mean.result(self.group))
        accuracy = self.accuracy.result(self.group) if self.counts else None
        if self.again is not None:
            loss, accuracy = self._evaluate(self.again)
            if self.penalty is not None:
                network = run.network
                penalty = self.penalty.forward(network.flat_parameters[: network.decay_size])
                loss += float(network.backend.to_host(penalty))
            self._finite("loss", loss)
        held_out: tuple[float | None, float | None] = (None, None)
        if self.held_out is not None:
            val_loss, val_accuracy = self._evaluate(self.held_out)
            held_out = self._finite("validation loss", val_loss), val_accuracy
        return self._append(loss, accuracy, *held_out)

    def _finite(self, what: str, value: float) -> float:
        if not math.isfinite(value):
            raise self.diverged(f"the {what} is {value}")
        return value

    def _evaluate(self, data: DeviceData) -> tuple[float, float | None]:
        return self.evaluate(data, self.loss)

    def record_partial(self) -> None:
        """A record of the metrics so far after an interrupt, without validation."""
        if self.group.size > 1:
            return  # the other ranks may have been interrupted elsewhere
        if self.mean.samples and math.isfinite(loss := self.mean.result()):
            accuracy = self.accuracy.result() if self.counts else None
            self._append(loss, accuracy, None, None)

    def _append(
        self,
        loss: float,
        accuracy: float | None,
        val_loss: float | None,
        val_accuracy: float | None,
    ) -> Record:
        run, now = self.run, time.perf_counter()
        record = Record(
            epoch=run.epoch,
            step=run.step,
            learning_rate=self._rate(),
            loss=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=now - self.began,
        )
        record = self._agreed(record)
        run.history.records.append(record)
        self.mean.reset()
        self.accuracy.reset()
        self.began = now
        return record

    def _agreed(self, record: Record) -> Record:
        """The record of rank 0, so that callbacks decide alike on all ranks.

        Raises `RankError` for a rank whose weights are not those of rank 0.
        """
        if self.group.size == 1:
            return record
        network = self.run.network
        weights = network.backend.to_host(network.flat_parameters)
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        found = self.group.all_gather((astuple(record), digest))
        for rank, (_, digest) in enumerate(found):
            if digest != found[0][1]:
                raise RankError(
                    f"rank {rank} has other weights than rank 0 after step {record.step}: a "
                    f"callback has changed them on one rank, or the sums of its MPI library are "
                    f"not the same on all ranks"
                )
        return Record(*found[0][0])

    def _rate(self) -> float:
        return self.run.optimizer.learning_rate(max(self.run.optimizer.steps - 1, 0))

    def diverged(self, what: str) -> DivergenceError:
        """The error that says `what` is not finite, where training stands, and what to do."""
        run = self.run
        return DivergenceError(
            f"training diverged in epoch {run.epoch} (by step {run.step}): {what} at learning rate "
            f"{self._rate():g}, and the largest gradient is that of {_largest(run.network)}: use a "
            f"smaller learning_rate, or clip_norm"
        )


@accelerated
def add_loss_and_hits(
    xp: Any,
    loss: Array,
    logits: Array,
    labels: Array,
    total: Array,
    hits: Array,
    *,
    workspace: Workspace,
) -> None:
    """`total ← total + N · loss`, `hits ← hits + Σ_n [argmax z_n = y_n]`."""
    add_loss(xp, loss, len(labels), total, workspace=workspace)
    count_hits(xp, logits, labels, hits, workspace=workspace)


def _largest(network: Sequential) -> str:
    """The layer with the largest gradient norm; if several are not finite, the last of them.

    The backward pass comes to the last layer first.
    """
    norms = [0.0] * len(network.layers)
    for name, gradient in network.parameter_gradients().items():
        host = network.backend.to_host(gradient).astype(numpy.float64)
        norm, position = float(numpy.linalg.norm(host)), int(name.partition(".")[0])
        norms[position] = math.hypot(norms[position], norm if norm < math.inf else math.inf)
    position = max(range(len(norms)), key=lambda p: (norms[p], p))
    norm = norms[position]
    size = f"of norm {norm:.3g}" if norm < math.inf else "which is not finite"
    return f"layer {position}, {network.layers[position]}, {size}"
