"""`fit()`: the training loop, and when the device is asked for numbers.

A step never touches the host. Loss and hits accumulate on the device and are read once per
record (an epoch, unless `log_every` says otherwise); that read is also where training that
left the finite numbers is noticed. Steps in which nothing changes but the samples are recorded
once and replayed: see `xpnet.replay`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from xpnet import random
from xpnet.backend import Array, HostArray, array_module
from xpnet.callbacks import Callback, Run
from xpnet.data.augmentation import Augmentation
from xpnet.data.batches import DeviceData
from xpnet.errors import ConfigError, DataError, DivergenceError
from xpnet.history import History, Record, parse_log_every
from xpnet.losses import L2Penalty, Loss, SoftmaxCrossEntropy
from xpnet.metrics import Accuracy, ConfusionMatrix, MeanLoss
from xpnet.network import PREDICTION_ROWS, Sequential
from xpnet.optimizers import Optimizer
from xpnet.replay import Replay, is_own
from xpnet.workspace import Workspace

TRAIN_METRICS = ("running", "evaluated")
"""How the training loss and accuracy of a record may be measured."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, accuracy and confusion counts `(C, C)` of a network on labelled data."""

    loss: float
    accuracy: float
    confusion: HostArray


def train_step(
    network: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    x: Array,
    target: Array,
    *,
    penalty: L2Penalty | None = None,
    scalars: Array | None = None,
) -> tuple[Array, Array]:
    """One forward pass, one backward pass, one update; returns `(loss (), logits (N, C))`.

    Both are buffers on the device. In a steady state nothing here allocates, transfers or
    waits.
    """
    logits = network.forward(x, training=True)
    value = loss.forward(logits, target)
    network.backward(loss.backward())
    if penalty is not None:
        matrices = network.values[: network.decays]
        array_module(value).add(value, penalty.forward(matrices), out=value)
        penalty.backward(matrices, network.gradients[: network.decays])
    optimizer.step(network.values, network.gradients, decays=network.decays, scalars=scalars)
    return value, logits


def fit(
    network: Sequential,
    train: DeviceData | tuple[Any, Any],
    validation: DeviceData | tuple[Any, Any] | None = None,
    *,
    optimizer: Optimizer,
    loss: Loss | None = None,
    epochs: int,
    batch_size: int | None = 128,
    l2: float = 0.0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    log_every: int | str = 1,
    train_metrics: str = "running",
    callbacks: Sequence[Callback] = (),
    history: History | None = None,
) -> History:
    """Train `network` in place and return its `History`.

    `train`, `validation`: `DeviceData`, or a pair of host arrays `x (N, features)`, labels `(N,)`,
    whose values are taken as they are (scale pixels first, or give `DeviceData` a
    `Normalisation`).
    `batch_size`: samples per update, None for all of them (full batch); the last batch of an
    epoch may be short. `l2`: λ of `losses.L2Penalty`, N being the number of training samples.
    `augmentation`: distorts the pictures of every training batch anew.
    `seed`: of the order in which samples come, and of their distortions. `log_every`: a record
    every so many epochs (`1`, `"50 epochs"`) or updates (`"500 iterations"`), and at the end.
    `train_metrics`: the training loss and accuracy of a record are `"running"` means over the
    batches since the last one, each measured before its update, distorted and with dropout on,
    or are `"evaluated"` afterwards, by one more pass over the training part as it is.
    `history`: a list to go on with, so that the records survive an exception.

    Raises `DivergenceError` at the first record whose loss is not finite, `ConfigError` and
    `DataError` for arguments that cannot be, before anything is trained.
    """
    loss = SoftmaxCrossEntropy() if loss is None else loss
    history = History() if history is None else history
    data, held_out = _on_device(network, train, "train"), None
    if validation is not None:
        held_out = _on_device(network, validation, "validation")
    every, by_step = parse_log_every(log_every)
    for name, value in (("epochs", epochs), ("batch_size", batch_size or 1)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number above 0, found {value!r}")
    if train_metrics not in TRAIN_METRICS:
        raise ConfigError(
            f"train_metrics must be {' or '.join(TRAIN_METRICS)}, found {train_metrics!r}"
        )
    size = min(batch_size or len(data), len(data))
    penalty = L2Penalty(l2, len(data)) if l2 else None
    run = Run(network, optimizer, history, epochs, -(-len(data) // size))
    again = data if train_metrics == "evaluated" else None
    meter = _Meter(run, loss, penalty, again, held_out)
    watched = not all(is_own(type(callback)) for callback in callbacks)
    update = _Update(run, data, loss, penalty, augmentation, meter, watched=watched)
    network.seek(0)
    if augmentation is not None:
        data.begin(augmentation, seed)
    _tell(callbacks, "on_train_begin", run)
    try:
        with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for rows, scalars in _batches(run, data, size, seed, callbacks):
                update(rows, scalars)
                run.step += 1
                ends_epoch = run.step == run.epoch * run.steps_per_epoch
                last = ends_epoch and run.epoch == epochs
                count = run.step if by_step else run.epoch
                if last or ((by_step or ends_epoch) and count % every == 0):
                    _tell(callbacks, "on_record", run, meter.record())
                _tell(callbacks, "on_step_end", run)
                if run.stop:
                    break
    except KeyboardInterrupt:
        meter.record_partial()
        raise
    finally:
        _tell(callbacks, "on_train_end", run)
    return history


def _batches(
    run: Run,
    data: DeviceData,
    size: int,
    seed: int,
    callbacks: Sequence[Callback],
) -> Iterator[tuple[Array, Array]]:
    """The samples of every batch of every epoch and the optimizer's scalars, on the device."""
    backend, optimizer, steps = data.backend, run.optimizer, run.steps_per_epoch
    every = backend.asarray(numpy.arange(len(data))) if steps == 1 else None
    for epoch in range(1, run.epochs + 1):
        run.epoch = epoch
        _tell(callbacks, "on_epoch_begin", run)
        first = optimizer.steps
        table = optimizer.table(range(first, first + steps), backend, data.dtype)
        order = every
        if order is None:
            order = backend.asarray(random.permutation(seed, run.epoch, len(data)))
        for step in range(steps):
            yield order[step * size : (step + 1) * size], table[step]


class _Update:
    """One update of the network and of the running means, as written or replayed.

    It reads what differs from one update to the next, which samples and the optimizer's scalars,
    from arrays that stay where they are.
    """

    def __init__(
        self,
        run: Run,
        data: DeviceData,
        loss: Loss,
        penalty: L2Penalty | None,
        augmentation: Augmentation | None,
        meter: _Meter,
        *,
        watched: bool,
    ) -> None:
        self.network, self.optimizer, self.loss = run.network, run.optimizer, loss
        self.data, self.penalty, self.augmentation, self.meter = data, penalty, augmentation, meter
        # Nothing of a full batch changes from one epoch to the next, unless it is distorted.
        self.is_fixed = run.steps_per_epoch == 1 and augmentation is None
        self.batch: tuple[Array, Array] | None = None
        # Of another dtype, each batch is converted into an array of its own.
        self.replay: Replay | None = None
        if data.dtype == self.network.dtype:
            self.replay = Replay(data.backend.xp, self._parts, watched=watched)
        self.workspace = Workspace()

    def __call__(self, rows: Array, scalars: Array) -> None:
        """An update by the samples `rows` `(B,)`, with `optimizer.scalars` `(S,)`."""
        rows, scalars = self._placed(f"{len(rows)} rows", rows), self._placed("scalars", scalars)

        def step() -> None:
            self._as_written(rows, scalars)

        if self.is_fixed and self.batch is None:
            self.batch = self.data.batch(rows)
        if self.replay is None:
            step()
        elif self.replay.run(len(rows), step):
            self.optimizer.steps += 1
            self.meter.count(len(rows))

    def _placed(self, name: str, array: Array) -> Array:
        xp = array_module(array)
        placed = self.workspace.array(xp, name, array.shape, array.dtype)
        xp.copyto(placed, array)
        return placed

    def _as_written(self, rows: Array, scalars: Array) -> None:
        x, target = self.batch or self.data.batch(rows, self.augmentation)
        value, logits = train_step(
            self.network,
            self.loss,
            self.optimizer,
            x,
            target,
            penalty=self.penalty,
            scalars=scalars,
        )
        self.meter.update(value, logits, target)

    def _parts(self) -> list[Any]:
        parts = [self.network, *self.network.layers, self.loss, self.optimizer, self.data]
        return parts if self.augmentation is None else [*parts, self.augmentation]


class _Meter:
    """Means since the last record, and the record made of them."""

    def __init__(
        self,
        run: Run,
        loss: Loss,
        penalty: L2Penalty | None,
        again: DeviceData | None,
        held_out: DeviceData | None,
    ) -> None:
        self.run, self.penalty, self.again, self.held_out = run, penalty, again, held_out
        self.mean = MeanLoss(run.network.backend)
        self.counts = isinstance(loss, SoftmaxCrossEntropy)
        self.accuracy = Accuracy(run.network.backend)
        self.began = time.perf_counter()
        self.loss = loss.for_evaluation()

    def update(self, value: Array, logits: Array, target: Array) -> None:
        self.mean.update(value, len(target))
        if self.counts:
            self.accuracy.update(logits, target)

    def count(self, samples: int) -> None:
        """`update()` was replayed, on the device: count the samples here."""
        self.mean.samples += samples
        self.accuracy.samples += samples

    def record(self) -> Record:
        run = self.run
        loss = self.mean.result()
        if not math.isfinite(loss):
            raise DivergenceError(
                f"training diverged in epoch {run.epoch} (by step {run.step}): the loss is "
                f"{loss} at learning rate {self._rate():g}: use a smaller learning_rate"
            )
        accuracy = self.accuracy.result() if self.counts else None
        if self.again is not None:
            loss, accuracy = self._evaluate(self.again)
            if self.penalty is not None:
                network = run.network
                penalty = self.penalty.forward(network.values[: network.decays])
                loss += float(network.backend.to_host(penalty))
        held_out: tuple[float | None, float | None] = (None, None)
        if self.held_out is not None:
            held_out = self._evaluate(self.held_out)
        return self._append(loss, accuracy, *held_out)

    def _evaluate(self, data: DeviceData) -> tuple[float, float | None]:
        return _mean_loss(self.run.network, data, self.loss, self.counts)

    def record_partial(self) -> None:
        """What an interrupted stretch has measured so far, without a validation pass."""
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
        run.history.records.append(record)
        self.mean.reset()
        self.accuracy.reset()
        self.began = now
        return record

    def _rate(self) -> float:
        return self.run.optimizer.learning_rate(max(self.run.optimizer.steps - 1, 0))


def _mean_loss(
    network: Sequential, data: DeviceData, loss: Loss, counts: bool
) -> tuple[float, float | None]:
    mean, accuracy = MeanLoss(network.backend), Accuracy(network.backend)
    for x, target in data.blocks(PREDICTION_ROWS):
        logits = network.forward(x, training=False)
        mean.update(loss.forward(logits, target), len(target))
        if counts:
            accuracy.update(logits, target)
    return mean.result(), accuracy.result() if counts else None


def evaluate(network: Sequential, data: DeviceData | tuple[Any, Any]) -> Evaluation:
    """Loss, accuracy and confusion counts of a classifier on labelled data."""
    data = _on_device(network, data, "data")
    mean, loss = MeanLoss(network.backend), SoftmaxCrossEntropy()
    confusion = ConfusionMatrix(network.backend, network.out_features)
    for x, labels in data.blocks(PREDICTION_ROWS):
        logits = network.forward(x, training=False)
        mean.update(loss.forward(logits, labels), len(labels))
        confusion.update(logits, labels)
    counts = confusion.result()
    return Evaluation(mean.result(), float(counts.trace() / counts.sum()), counts)


def _on_device(network: Sequential, data: DeviceData | tuple[Any, Any], name: str) -> DeviceData:
    """`data` on the network's device, its labels checked on the host where they come in."""
    if not isinstance(data, DeviceData):
        x, target = (numpy.asarray(part) for part in data)
        data = DeviceData(x, target, backend=network.backend, dtype=network.dtype)
    if data.x.shape[1] != network.in_features:
        raise DataError(
            f"{name} has {data.x.shape[1]} features a sample, the network takes "
            f"{network.in_features}"
        )
    if data.target.dtype.kind in "iu" and data.target.ndim == 1:
        labels = network.backend.to_host(data.target)
        if labels.min() < 0 or labels.max() >= network.out_features:
            raise DataError(
                f"{name} has labels {labels.min()} to {labels.max()}, the network gives "
                f"{network.out_features} classes, 0 to {network.out_features - 1}"
            )
    return data


def _tell(callbacks: Iterable[Callback], hook: str, *arguments: Any) -> None:
    for callback in callbacks:
        getattr(callback, hook)(*arguments)
