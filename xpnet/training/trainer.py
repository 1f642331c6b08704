"""`fit()`: the training loop, and when the device is asked for numbers.

A step never touches the host. Loss and hits accumulate on the device and are read once per
record (an epoch, unless `log_every` says otherwise); that read is also where training that
left the finite numbers is noticed. Steps in which nothing changes but the samples are recorded
once and replayed: see `xpnet.accel.recording`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy

from xpnet import random
from xpnet.accel import cublas, dispatch, small_gemm
from xpnet.accel.recording import Replay
from xpnet.backend import Array, array_module, device_errors, on_its_device
from xpnet.clipping import ClipNorm
from xpnet.errors import ConfigError, short_repr
from xpnet.layers.activations import Softmax
from xpnet.layers.base import walk
from xpnet.losses import L2Penalty, Loss, SoftmaxCrossEntropy
from xpnet.metrics import ClassCounts, Confusion, MeanLoss, confusion_counter
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.training import microbatch, options
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, CallbackList, Interrupted, TrainingState
from xpnet.training.checkpoints import CheckpointManager, Checkpoints, training_fingerprint
from xpnet.training.device_data import DeviceData
from xpnet.training.fit_data import Part, fitted, on_device, prediction_of
from xpnet.training.history import History, parse_log_every
from xpnet.training.running_metrics import RunningMetrics
from xpnet.training.sample_weights import SampleWeights
from xpnet.utils.arguments import instance, real, seed_of, whole
from xpnet.utils.exclusive import ExclusiveUse
from xpnet.utils.introspection import is_own

TRAIN_METRICS = ("running", "evaluated")
"""How the training loss and accuracy of a record may be measured."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, accuracy and confusion counts of a network on labelled data.

    `confusion`: `(C, C)` int64, row = true, column = predicted; of more than
    `metrics.MOST_CLASSES` classes the `ConfusedPairs`, which take no memory for C² pairs.
    `metrics.class_scores` takes both.
    """

    loss: float
    accuracy: float
    confusion: Confusion


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
    if weights is None and microbatch.can_split(network, loss, len(x)):
        value, logits = microbatch.forward_backward(network, loss, x, target)
    else:
        with small_gemm.if_few(x, network.flat_parameters):
            logits = network.forward(x, training=True)
            value = loss.forward(logits, target, weights)
            network.backward(loss.backward())
    if not is_own(type(loss)):
        value = network.backend.asarray(value, dtype=network.dtype)  # it may give a plain number
    if penalty is not None:
        matrices = network.flat_parameters[: network.decay_size]
        array_module(value).add(value, penalty.forward(matrices), out=value)
        penalty.backward(matrices, network.flat_gradients[: network.decay_size])
    if clip is not None:
        clip(network.flat_gradients)
    optimizer.step(network, scalars=scalars)
    return value, logits


@on_its_device
def fit(
    network: Sequential,
    train: Part,
    validation: Part | None = None,
    *,
    optimizer: Optimizer | str,
    loss: Loss | str | None = None,
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
    callbacks: Callback | Iterable[Callback] | None = (),
    history: History | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train `network` in place and return its `History`.

    `train`, `validation`: `DeviceData`; a `Dataset`; or a pair of samples `x (N, features)`, or
    pictures `(N, height, width)`, and targets `y`, each an array, nested lists, a DataFrame or a
    Series. Labels are whole numbers `(N,)`; a loss of values takes `(N, outputs)`, or `(N,)` for
    one output. The values of a pair and of a `Dataset` are taken as they are, pixels too, as
    `Sequential.predict` takes them: scale them first, or give `DeviceData` a `Normalisation`.
    Arrays of other libraries are shared, not copied, where they offer DLPack.
    `optimizer`, `loss`: an object, or its name, which stands for its defaults: `"sgd"`,
    `"rmsprop"`, `"adam"`, `"adamw"`; `"cross_entropy"` (also without a loss), `"mse"`,
    `"binary_cross_entropy"`.
    `sample_weight`: `(N,)` numbers above 0. The loss of a batch is then `Σ wℓ / Σ w`
    over its samples; accuracies, and what is evaluated, go on counting every sample once.
    `batch_size`: samples per update, None for all of them (full batch); the last batch of an
    epoch may be short. `l2`: λ of `losses.L2Penalty`, N being the number of training samples.
    `clip_norm`: the most that the norm of all gradients together may be, see `ClipNorm`.
    `augmentation`: distorts the pictures of every training batch anew.
    `seed`: of the order in which samples come, and of their distortions.
    `precision`: on a GPU products of two matrices may be less exact than `"float32"`, and faster:
    `"tf32"`, `"bfloat16"`. The weights stay float32; see `xpnet.accel.cublas`. `log_every`: a
    record every so many epochs (`1`, `"50 epochs"`) or updates (`"500 iterations"`), and at the
    end. `train_metrics`: the training loss and accuracy of a record are `"running"` means over the
    batches since the last one, each measured before its update, distorted and with dropout on,
    or are `"evaluated"` afterwards, by one more pass over the training part as it is.
    `callbacks`: one, or several. `history`: to go on with, so that the records survive an
    exception.
    `checkpoints`: where checkpoints are written. If the folder holds one of this training, it
    continues from there, to the same weights and records as if it had never ended; on the CPU to
    the same bits.

    Several threads may train at once, also on one `DeviceData`, loss or augmentation of xpnet's;
    a network, an optimizer, a history or a callback of xpnet's serves one `fit()` at a time.

    Raises, before anything is trained, `ConfigError`, `DataError`, `ShapeError` or
    `DeviceMismatch` for what cannot be trained on, naming the argument, and row and column of a
    value that is no finite number; for BatchNorm where a batch has one row, for `EarlyStopping`
    without validation, and for what another `fit()` is using; `CheckpointError` for a checkpoint
    of another training. Raises `DivergenceError` at the first record or checkpoint where a loss,
    or a weight, is not finite.
    """
    instance("network", network, Sequential, "a Sequential")
    optimizer, loss = options.optimizer_of(optimizer), options.loss_of(loss)
    epochs, seed = whole("epochs", epochs), seed_of("seed", seed)
    if batch_size is not None:
        batch_size = whole("batch_size", batch_size)
    l2, clip = real("l2", l2), None
    if clip_norm is not None:
        clip = ClipNorm(clip_norm)
        clip_norm = clip.limit
    augmentation = options.augmentation_of(augmentation)
    every, by_step = parse_log_every(log_every)
    if not isinstance(train_metrics, str) or train_metrics not in TRAIN_METRICS:
        raise ConfigError(
            f"train_metrics must be {' or '.join(TRAIN_METRICS)}, found {short_repr(train_metrics)}"
        )
    callbacks, history = options.callbacks_of(callbacks), options.history_of(history)
    checkpoints = options.checkpoints_of(checkpoints)
    options.require_validation(callbacks, validation is not None)

    given, held_out = on_device(network, train, "train"), None
    data = fitted(given, network, loss, "train")
    if validation is not None:
        held_out = on_device(network, validation, "validation")
        held_out = fitted(held_out, network, loss, "validation")
    weights = None
    if sample_weight is not None:
        backend, dtype = network.backend, network.dtype
        weights = SampleWeights(sample_weight, len(data), backend=backend, dtype=dtype)
    size = min(batch_size or len(data), len(data))
    options.require_rows(network, len(data), size)

    with ExclusiveUse() as use:
        use.alone(
            options.exclusive_parts(network, optimizer, loss, augmentation, callbacks, history)
        )
        options.require_trainable(network, optimizer, loss)
        data, loss = use.or_copy(data), use.or_copy(loss)
        if held_out is not None:
            held_out = use.or_copy(held_out)
        if augmentation is not None:
            augmentation = use.or_copy(augmentation)
            data.begin(augmentation, seed)
        penalty = L2Penalty(l2, len(data)) if l2 else None
        run = TrainingState(network, optimizer, history, epochs, -(-len(data) // size))
        again = data if train_metrics == "evaluated" else None
        meter = RunningMetrics(run, loss, penalty, again, held_out)
        told = CallbackList(callbacks, network.backend)
        xp = cublas.chosen(precision, network.backend, network.dtype)
        update = _Update(run, data, weights, loss, penalty, clip, augmentation, meter, told, xp)
        plan = partial(
            training_fingerprint,
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
        keeper = CheckpointManager(checkpoints, run, meter, callbacks, plan)
        target_shape = tuple(given.target.shape[1:])
        with keeper.at_work():
            network.prediction = prediction_of(loss, data.target, network)
            is_known = target_shape in ((), (network.out_features,))
            network.target_shape = target_shape if is_known else None
            _train(run, update, keeper, size, seed, (every, by_step))
    # A signal that came when all was done already is not forgotten.
    if run.interrupted:
        raise Interrupted(run.interrupted)
    return history


def _train(
    run: TrainingState,
    update: _Update,
    keeper: CheckpointManager,
    size: int,
    seed: int,
    log_every: tuple[int, bool],
) -> None:
    """All epochs still to come."""
    network, data, told, meter = run.network, update.data, update.told, update.meter
    every, by_step = log_every
    epochs_seen, steps_seen = divmod(run.step, run.steps_per_epoch)
    samples = epochs_seen * len(data) + steps_seen * size
    network.set_sample_counter(samples)
    if update.augmentation is not None:
        update.augmentation.set_sample_counter(samples)
    told("on_train_begin", run)
    try:
        keeper.restore_callbacks()
        batches = _batches(run, data, size, seed, told)
        with (
            # Of the whole training, wherever it goes on: it decides about the last digit.
            dispatch.used(run.epochs * run.steps_per_epoch, data.backend.xp),
            cublas.used(update.xp),
            small_gemm.kept(),
            device_errors.in_training(network, update.loss, data, size),
            numpy.errstate(over="ignore", invalid="ignore", divide="ignore"),
        ):
            while not run.stop and (batch := next(batches, None)) is not None:
                update(*batch)
                run.step += 1
                ends_epoch = run.step == run.epoch * run.steps_per_epoch
                last = ends_epoch and run.epoch == run.epochs
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


def _batches(
    run: TrainingState,
    data: DeviceData,
    size: int,
    seed: int,
    told: CallbackList,
) -> Iterator[tuple[Array, Array]]:
    """The samples of every batch still to come and the optimizer's scalars, on the device."""
    backend, optimizer, steps = data.backend, run.optimizer, run.steps_per_epoch
    every = backend.asarray(numpy.arange(len(data))) if steps == 1 else None
    for epoch in range(run.step // steps + 1, run.epochs + 1):
        run.epoch = epoch
        told("on_epoch_begin", run)
        done = run.step % steps
        first = optimizer.steps - done
        table = optimizer.table(range(first, first + steps), backend, run.network.dtype)
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
        run: TrainingState,
        data: DeviceData,
        weights: SampleWeights | None,
        loss: Loss,
        penalty: L2Penalty | None,
        clip: ClipNorm | None,
        augmentation: Augmentation | None,
        meter: RunningMetrics,
        told: CallbackList,
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
        self.told, self.xp = told, xp
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
        parts = [self.network, *walk(self.network.layers), self.loss, self.optimizer, self.data]
        return parts if self.augmentation is None else [*parts, self.augmentation]


@on_its_device
def evaluate(network: Sequential, data: Part) -> Evaluation:
    """Loss, accuracy and confusion counts of a classifier on labelled data.

    `data`: as `fit()` takes it, with labels `(N,)`, whole numbers. Raises as `fit()` does, and
    `ConfigError` for targets of another kind, or a network that was not trained to give classes.
    """
    instance("network", network, Sequential, "a Sequential")
    data = on_device(network, data, "data").view()
    mean, loss = MeanLoss(network.backend), SoftmaxCrossEntropy()
    if data.target.dtype.kind == "f" or network.prediction in ("labels", "values"):
        raise ConfigError(
            f"evaluate() measures a classifier by its labels (N,), whole numbers, and data has "
            f"targets of {data.target.dtype} and shape {tuple(data.target.shape)} for a network "
            f"that predicts {network.prediction or 'classes'}: compare network.predict(x) with the "
            f"targets"
        )
    last = network.last_active()
    if isinstance(network.layers[last], Softmax) and last:
        network = network[:last]  # whose outputs are the logits
    options.require_logits(network, loss)
    data = fitted(data, network, loss, "data")
    confusion = confusion_counter(network.backend, network.out_features)
    for x, labels in data.blocks(microbatch.prediction_rows(network.out_features)):
        logits = network.forward(x, training=False)
        mean.update(loss.forward(logits, labels), len(labels))
        confusion.update(logits, labels)
    counts = confusion.result()
    hits = int(ClassCounts.of(counts).hits.sum())
    return Evaluation(mean.result(), hits / len(data), counts)
