"""`fit()`: the training loop, and when the device is asked for numbers.

A step never touches the host. Loss and hits accumulate on the device and are read once per
record (an epoch, unless `log_every` says otherwise); that read is also where training that
left the finite numbers is noticed. Steps in which nothing changes but the samples are recorded
once and replayed: see `xpnet.replay`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy

from xpnet import blocks, device_errors, one_core, products, random, twins
from xpnet.backend import Array, Backend, HostArray, array_module, on_its_device
from xpnet.callbacks import Callback, Interrupted, Run
from xpnet.clipping import ClipNorm
from xpnet.configuration import is_own
from xpnet.data.augmentation import Augmentation
from xpnet.data.batches import DeviceData
from xpnet.data.weights import SampleWeights
from xpnet.errors import ConfigError, DataError
from xpnet.history import History, parse_log_every
from xpnet.losses import L2Penalty, Loss, SoftmaxCrossEntropy
from xpnet.meter import Meter
from xpnet.metrics import ConfusionMatrix, MeanLoss
from xpnet.network import PREDICTION_ROWS, Sequential
from xpnet.optimizers import Optimizer
from xpnet.replay import Replay
from xpnet.resume import Checkpoints, Keeper, describe_training

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
    weights: Array | None = None,
    penalty: L2Penalty | None = None,
    clip: ClipNorm | None = None,
    scalars: Array | None = None,
) -> tuple[Array, Array]:
    """One forward pass, one backward pass, one update; returns `(loss (), logits (N, C))`.

    `weights`: `(N,)`, of the samples in the mean that the loss is; None: all alike.
    Both are buffers on the device. In a steady state nothing here allocates, transfers or
    waits.
    """
    if weights is None and blocks.are_possible(network, loss, len(x)):
        value, logits = blocks.forward_backward(network, loss, x, target)
    else:
        with one_core.if_few(x, network.values):
            logits = network.forward(x, training=True)
            value = loss.forward(logits, target, weights)
            network.backward(loss.backward())
    if penalty is not None:
        matrices = network.values[: network.decays]
        array_module(value).add(value, penalty.forward(matrices), out=value)
        penalty.backward(matrices, network.gradients[: network.decays])
    if clip is not None:
        clip(network.gradients)
    optimizer.step(network.values, network.gradients, decays=network.decays, scalars=scalars)
    return value, logits


@on_its_device
def fit(
    network: Sequential,
    train: DeviceData | tuple[Any, Any],
    validation: DeviceData | tuple[Any, Any] | None = None,
    *,
    optimizer: Optimizer,
    loss: Loss | None = None,
    sample_weight: Any = None,
    epochs: int,
    batch_size: int | None = 128,
    l2: float = 0.0,
    clip_norm: float | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    precision: str = "float32",
    log_every: int | str = 1,
    train_metrics: str = "running",
    callbacks: Sequence[Callback] = (),
    history: History | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train `network` in place and return its `History`.

    `train`, `validation`: `DeviceData`, or a pair of host arrays `x (N, features)`, labels `(N,)`,
    whose values are taken as they are (scale pixels first, or give `DeviceData` a
    `Normalisation`); arrays of other libraries are shared, not copied, where they offer DLPack.
    `sample_weight`: `(N,)` numbers above 0 on the host. The loss of a batch is then `Σ wℓ / Σ w`
    over its samples; accuracies, and what is evaluated, go on counting every sample once.
    `batch_size`: samples per update, None for all of them (full batch); the last batch of an
    epoch may be short. `l2`: λ of `losses.L2Penalty`, N being the number of training samples.
    `clip_norm`: the most that the norm of all gradients together may be, see `ClipNorm`.
    `augmentation`: distorts the pictures of every training batch anew.
    `seed`: of the order in which samples come, and of their distortions.
    `precision`: on a GPU products of two matrices may be less exact than `"float32"`, and faster:
    `"tf32"`, `"bfloat16"`. The weights stay float32; see `xpnet.products`. `log_every`: a record
    every so many epochs (`1`, `"50 epochs"`) or updates (`"500 iterations"`), and at the end.
    `train_metrics`: the training loss and accuracy of a record are `"running"` means over the
    batches since the last one, each measured before its update, distorted and with dropout on,
    or are `"evaluated"` afterwards, by one more pass over the training part as it is.
    `history`: a list to go on with, so that the records survive an exception.
    `checkpoints`: where to leave them. If there is one of this training, it goes on from there,
    to the same weights and records as if it had never ended; on the CPU to the same bits.

    Raises `DivergenceError` at the first record or checkpoint where a loss, or a weight, is not
    finite; `ConfigError` and `DataError` for arguments that cannot be, and `CheckpointError` for
    a checkpoint of another training, before anything is trained.
    """
    loss = SoftmaxCrossEntropy() if loss is None else loss
    history = History() if history is None else history
    data, held_out = _on_device(network, train, "train"), None
    if validation is not None:
        held_out = _on_device(network, validation, "validation")
    weights = None
    if sample_weight is not None:
        backend, dtype = network.backend, network.dtype
        weights = SampleWeights(sample_weight, len(data), backend=backend, dtype=dtype)
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
    clip = ClipNorm(clip_norm) if clip_norm is not None else None
    run = Run(network, optimizer, history, epochs, -(-len(data) // size))
    again = data if train_metrics == "evaluated" else None
    meter = Meter(run, loss, penalty, again, held_out)
    told = _Told(callbacks, network.backend)
    xp = products.chosen(precision, network.backend, network.dtype)
    update = _Update(run, data, weights, loss, penalty, clip, augmentation, meter, told, xp)
    plan = partial(
        describe_training,
        run,
        data,
        held_out,
        loss,
        callbacks,
        sample_weight=weights,
        batch_size=size,
        l2=l2,
        clip_norm=clip_norm,
        augmentation=augmentation,
        seed=seed,
        precision=precision,
        log_every=(every, "iterations" if by_step else "epochs"),
        train_metrics=train_metrics,
    )
    keeper = Keeper(checkpoints, run, meter, callbacks, plan)
    with keeper.at_work():
        epochs_seen, steps_seen = divmod(run.step, run.steps_per_epoch)
        samples = epochs_seen * len(data) + steps_seen * size
        network.seek(samples)
        if augmentation is not None:
            data.begin(augmentation, seed)
            augmentation.seek(samples)
        told("on_train_begin", run)
        try:
            keeper.restore_callbacks()
            batches = _batches(run, data, size, seed, told)
            with (
                # Of the whole training, wherever it goes on: it decides about the last digit.
                twins.used(epochs * run.steps_per_epoch, data.backend.xp),
                products.used(xp),
                one_core.kept(),
                device_errors.in_training(network, loss, data, size),
                numpy.errstate(over="ignore", invalid="ignore", divide="ignore"),
            ):
                while not run.stop and (batch := next(batches, None)) is not None:
                    update(*batch)
                    run.step += 1
                    ends_epoch = run.step == run.epoch * run.steps_per_epoch
                    last = ends_epoch and run.epoch == epochs
                    count = run.step if by_step else run.epoch
                    if last or ((by_step or ends_epoch) and count % every == 0):
                        told("on_record", run, meter.record())
                    told("on_step_end", run)
                    keeper.after_step()
                    if run.interrupted:
                        raise Interrupted(run.interrupted)
        except KeyboardInterrupt:
            meter.record_partial()
            raise
        finally:
            told("on_train_end", run)
    # A signal that came when all was done already is not forgotten.
    if run.interrupted:
        raise Interrupted(run.interrupted)
    return history


def _batches(
    run: Run,
    data: DeviceData,
    size: int,
    seed: int,
    told: _Told,
) -> Iterator[tuple[Array, Array]]:
    """The samples of every batch still to come and the optimizer's scalars, on the device."""
    backend, optimizer, steps = data.backend, run.optimizer, run.steps_per_epoch
    every = backend.asarray(numpy.arange(len(data))) if steps == 1 else None
    for epoch in range(run.step // steps + 1, run.epochs + 1):
        run.epoch = epoch
        told("on_epoch_begin", run)
        done = run.step % steps
        first = optimizer.steps - done
        table = optimizer.table(range(first, first + steps), backend, data.dtype)
        order = every
        if order is None:
            order = backend.asarray(random.permutation(seed, run.epoch, len(data)))
        for step in range(done, steps):
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
        weights: SampleWeights | None,
        loss: Loss,
        penalty: L2Penalty | None,
        clip: ClipNorm | None,
        augmentation: Augmentation | None,
        meter: Meter,
        told: _Told,
        xp: Any,
    ) -> None:
        self.network, self.optimizer, self.loss = run.network, run.optimizer, loss
        self.data, self.weights, self.penalty, self.clip = data, weights, penalty, clip
        self.augmentation, self.meter = augmentation, meter
        # Nothing of a full batch changes from one epoch to the next, unless it is distorted.
        self.is_fixed = run.steps_per_epoch == 1 and augmentation is None
        self.batch: tuple[Array, Array] | None = None
        # Of another dtype, each batch is converted into an array of its own.
        self.replay: Replay | None = None
        if data.dtype == self.network.dtype:
            self.replay = Replay(xp, self._parts, watched=told.has_others)
        self.told = told
        self.placed: dict[int, tuple[Array, Array]] = {}
        self.copyto = data.backend.xp.copyto

    def __call__(self, rows: Array, scalars: Array) -> None:
        """An update by the samples `rows` `(B,)`, with `optimizer.scalars` `(S,)`."""
        if self.is_fixed and self.batch is None:
            self.batch = self.data.whole()
        size, copyto, replay = len(rows), self.copyto, self.replay
        if size not in self.placed:
            self.placed[size] = rows.copy(), scalars.copy()
        own_rows, own_scalars = self.placed[size]
        if not self.is_fixed:
            copyto(own_rows, rows)
        copyto(own_scalars, scalars)
        if replay is None:
            self._as_written(own_rows, own_scalars)
            return
        if self.told.disturbed:
            replay.disturbed, self.told.disturbed = True, False
        if replay.run(size, self._as_written, own_rows, own_scalars):
            self.optimizer.steps += 1
            self.meter.count(size)

    def _as_written(self, rows: Array, scalars: Array) -> None:
        x, target = self.batch or self.data.batch(rows, self.augmentation)
        weights = None
        if self.weights is not None:
            weights = self.weights.whole if self.is_fixed else self.weights.batch(rows)
        value, logits = train_step(
            self.network,
            self.loss,
            self.optimizer,
            x,
            target,
            weights=weights,
            penalty=self.penalty,
            clip=self.clip,
            scalars=scalars,
        )
        self.meter.update(value, logits, target)

    def _parts(self) -> list[Any]:
        parts = [self.network, *self.network.layers, self.loss, self.optimizer, self.data]
        return parts if self.augmentation is None else [*parts, self.augmentation]


@on_its_device
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
        sparse = [type(part).__name__ for part in data if hasattr(part, "toarray")]
        if sparse:
            raise DataError(f"{name} is sparse ({sparse[0]}), networks take dense rows: .toarray()")
        x, target = (p if hasattr(p, "__dlpack__") else numpy.asarray(p) for p in data)
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


class _Told:
    """The callbacks, and whether one that is not xpnet's own has had a turn since last asked."""

    def __init__(self, callbacks: Sequence[Callback], backend: Backend) -> None:
        self.backend = backend
        self.callbacks = [(callback, _is_other(callback)) for callback in callbacks]
        self.has_others = any(is_other for _, is_other in self.callbacks)
        self.disturbed = False

    def __call__(self, hook: str, *arguments: Any) -> None:
        nothing = getattr(Callback, hook)
        for callback, is_other in self.callbacks:
            method = getattr(callback, hook)
            if getattr(method, "__func__", None) is not nothing:
                self.disturbed = self.disturbed or is_other
                # It may look at another device, and leave that the current one.
                with self.backend.current():
                    method(*arguments)


def _is_other(callback: Callback) -> bool:
    """Whether somebody else's code runs in it: by its class, or by a hook put into it."""
    return not is_own(type(callback)) or any(hasattr(Callback, name) for name in vars(callback))
