"""`Trainer`: the training loop.

A step does not transfer data to the host. Loss and accuracy are accumulated on the device and read
once per record (an epoch, unless `log_every` says otherwise); a loss that is not finite is detected
then. Steps that differ only in their samples are recorded once and replayed: see
`xpnet.accel.recording`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy

from xpnet import random
from xpnet.accel import cublas, dispatch, small_gemm
from xpnet.backend import Array
from xpnet.backend.context import changed
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import ConfigError, short_repr
from xpnet.losses import L2Penalty, Loss
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.optimizers.clipping import ClipNorm
from xpnet.training import device_memory, options
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, CallbackList, Interrupted, TrainingState
from xpnet.training.checkpoints import CheckpointManager, Checkpoints, training_fingerprint
from xpnet.training.device_data import DeviceData
from xpnet.training.evaluation import mean_loss
from xpnet.training.fit_data import Part, fitted, on_device, set_prediction
from xpnet.training.history import History
from xpnet.training.ranks import RankBatch
from xpnet.training.running_metrics import RunningMetrics
from xpnet.training.sample_weights import SampleWeights
from xpnet.training.step import train_step
from xpnet.training.update import Update, require_pair
from xpnet.utils.arguments import as_float, instance, real, seed_of, whole
from xpnet.utils.exclusive import ExclusiveUse
from xpnet.utils.intervals import parse_log_every
from xpnet.utils.introspection import parameters_of

TRAIN_METRICS = ("running", "evaluated")
"""How the training loss and accuracy of a record may be measured."""


class Trainer:
    """Trains a network: what `fit()` does, with methods that a subclass may override.

    The constructor takes the arguments of `fit()` that define how to train; `Trainer.fit` takes the
    others. Override `train_step` or `evaluate`:

        class Smoothed(xn.Trainer):
            def train_step(self, x, target, *, weights=None, scalars=None):
                ...                                # your own forward, backward, update
                return value, outputs

    The step of a subclass is not recorded, unless the class sets `replayable = True`: then its
    operations are recorded once and replayed, which requires that every array of the step is
    written by an `xp` call with `out=`.

    Raises `ConfigError` for the arguments, as `fit()` does.
    """

    def __init__(
        self,
        network: Sequential,
        *,
        optimizer: Optimizer | str,
        loss: Loss | str | None = None,
        l2: float = 0.0,
        clip_norm: float | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        precision: str = "float32",
        callbacks: Callback | Iterable[Callback] | None = (),
        distributed: Group | None = None,
        reproducible_parts: int = 0,
    ) -> None:
        self.network = instance("network", network, Sequential, "a Sequential")
        self.optimizer, self.loss = options.optimizer_of(optimizer), options.loss_of(loss)
        self.l2 = real("l2", l2)
        self.clip = None if clip_norm is None else ClipNorm(clip_norm)
        self.augmentation = options.augmentation_of(augmentation)
        self.seed, self.precision = seed_of("seed", seed), precision
        self.callbacks = options.callbacks_of(callbacks)
        self.penalty: L2Penalty | None = None
        self.ranks = options.ranks_of(distributed, reproducible_parts)

    def train_step(
        self,
        x: Array,
        target: Array,
        *,
        weights: Array | None = None,
        scalars: Array | None = None,
        batch: RankBatch | None = None,
    ) -> tuple[Array, Array]:
        """Train on one batch: returns the mean loss `()` and the outputs `(N, C)`.

        `x`: `(N, F)`; `target`: `(N,)` or `(N, C)`; `weights`: `(N,)` or None; `scalars`: what
        `self.optimizer.step(self.network, scalars=scalars)` takes. All are on the device. `batch`
        is given where several ranks train together: see `RankBatch`.
        """
        return train_step(
            self.network,
            self.loss,
            self.optimizer,
            x,
            target,
            weights=weights,
            penalty=self.penalty,
            clip=self.clip,
            scalars=scalars,
            batch=batch,
        )

    def evaluate(self, data: DeviceData, loss: Loss) -> tuple[float, float | None]:
        """The mean loss and the accuracy (None unless targets are classes) on `data`.

        `loss`: `self.loss` for evaluation, without label smoothing. If several ranks train
        together, all of them call it, and each evaluates a slice of the samples.
        """
        # A sum over slices would depend on the number of ranks.
        is_exact = self.ranks is not None and self.ranks.parts > 0
        return mean_loss(self.network, data, loss, ALONE if is_exact else self.group)

    @contextmanager
    def _same_bits_on_all_ranks(self) -> Iterator[None]:
        """With `reproducible_parts`: leave out what rounds differently on fewer or more ranks.

        These are the threads of BLAS, of which each rank may have another number, and compiled
        loops, which depend on how many operations a rank has.
        """
        if self.ranks is None or not self.ranks.parts:
            yield
            return
        with small_gemm.on_one_thread(), changed(compiled_enabled=False):
            yield

    @property
    def group(self) -> Group:
        """The processes that train together."""
        return ALONE if self.ranks is None else self.ranks.group

    def _evaluated(self, data: DeviceData, loss: Loss) -> tuple[float, float | None]:
        made = self.evaluate(data, loss)
        value, accuracy = require_pair(made, self, "evaluate", "(loss, accuracy)")
        numbers = as_float(value), None if accuracy is None else as_float(accuracy)
        if numbers[0] is None or (numbers[1] is None) != (accuracy is None):
            raise ConfigError(
                f"{type(self).__name__}.evaluate() must return the loss as a number and the "
                f"accuracy as a number or None, found {short_repr(made)}"
            )
        return numbers[0], numbers[1]

    def _described(self) -> tuple[str, dict[str, Any]] | None:
        """For checkpoints: the name of a subclass and the attributes that it adds."""
        kind = type(self)
        if kind is Trainer:
            return None
        known = parameters_of(Trainer).keys() | {"clip", "penalty", "ranks"}
        return kind.__name__, {n: value for n, value in vars(self).items() if n not in known}

    def fit(
        self,
        train: Part,
        validation: Part | None = None,
        *,
        sample_weight: Any = None,
        epochs: int,
        batch_size: int | None = 128,
        log_every: int | str = 1,
        train_metrics: str = "running",
        history: History | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> History:
        """Train the network in place and return its `History`; arguments as for `fit()`."""
        with self.network.backend.current(), self.group.training():
            return self._fit(
                train,
                validation,
                sample_weight,
                whole("epochs", epochs),
                batch_size if batch_size is None else whole("batch_size", batch_size),
                log_every,
                train_metrics,
                options.history_of(history),
                options.checkpoints_of(checkpoints),
            )

    def _fit(
        self,
        train: Part,
        validation: Part | None,
        sample_weight: Any,
        epochs: int,
        batch_size: int | None,
        log_every: int | str,
        train_metrics: str,
        history: History,
        checkpoints: Checkpoints | None,
    ) -> History:
        network, optimizer = self.network, self.optimizer
        every, by_step = parse_log_every(log_every)
        if not isinstance(train_metrics, str) or train_metrics not in TRAIN_METRICS:
            raise ConfigError(
                f"train_metrics must be {' or '.join(TRAIN_METRICS)}, found "
                f"{short_repr(train_metrics)}"
            )
        options.require_validation(self.callbacks, validation is not None)

        given, held_out = on_device(network, train, "train"), None
        data = fitted(given, network, self.loss, "train")
        if validation is not None:
            held_out = on_device(network, validation, "validation")
            held_out = fitted(held_out, network, self.loss, "validation")
        weights = None
        if sample_weight is not None:
            backend, dtype = network.backend, network.dtype
            weights = SampleWeights(sample_weight, len(data), backend=backend, dtype=dtype)
        size = min(batch_size or len(data), len(data))
        options.require_rows(network, len(data), size)
        options.require_ranks(self, len(data), size)
        group = self.group
        group.connect(network.backend)

        with ExclusiveUse() as use:
            use.acquire(
                options.exclusive_parts(
                    network, optimizer, self.loss, self.augmentation, self.callbacks, history
                )
            )
            options.require_trainable(network, optimizer, self.loss)
            data, self.loss = use.acquire_or_copy(data), use.acquire_or_copy(self.loss)
            if held_out is not None:
                held_out = use.acquire_or_copy(held_out)
            if self.augmentation is not None:
                self.augmentation = use.acquire_or_copy(self.augmentation)
                data.begin(self.augmentation, self.seed, self.network.image_shape)
            self.penalty = L2Penalty(self.l2, len(data)) if self.l2 else None
            run = TrainingState(network, optimizer, history, epochs, -(-len(data) // size))
            metrics = RunningMetrics(
                run,
                self.loss,
                self.penalty,
                data if train_metrics == "evaluated" else None,
                held_out,
                self._evaluated,
                group,
            )
            products = cublas.chosen(self.precision, network.backend, network.dtype)
            hooks = CallbackList(self.callbacks, network.backend)
            update = Update(self, run, data, weights, metrics, hooks)
            if checkpoints is not None and checkpoints.by_seconds:
                update.longest = min(update.longest, float(checkpoints.every))
            parts = 0 if self.ranks is None else self.ranks.parts
            # Of all data a digest, so once.
            fingerprint = cache(
                partial(
                    training_fingerprint,
                    run,
                    data,
                    held_out,
                    self.loss,
                    self.callbacks,
                    self._described(),
                    sample_weight=weights,
                    batch_size=size,
                    l2=self.l2,
                    clip_norm=self.clip and self.clip.limit,
                    augmentation=self.augmentation,
                    seed=self.seed,
                    precision=self.precision,
                    log_every=(every, "iterations" if by_step else "epochs"),
                    train_metrics=train_metrics,
                    **({"reproducible_parts": parts} if parts else {}),
                )
            )
            if self.ranks is not None:
                self.ranks.require_same(network, optimizer, fingerprint(), checkpoints is not None)
            manager = CheckpointManager(
                checkpoints, run, metrics, self.callbacks, fingerprint, group
            )
            target_shape = tuple(given.target.shape[1:])
            with manager.at_work():
                set_prediction(network, self.loss, data.target, target_shape)
                self._train(run, update, manager, products, size, (every, by_step))
        # A signal that came after the last step must not be lost.
        if run.interrupted:
            raise Interrupted(run.interrupted)
        return history

    def _train(
        self,
        run: TrainingState,
        update: Update,
        manager: CheckpointManager,
        products: cublas.Products | None,
        size: int,
        log_every: tuple[int, bool],
    ) -> None:
        """All epochs still to come."""
        network, data, hooks, metrics = run.network, update.data, update.hooks, update.metrics
        every, by_step = log_every
        epochs_seen, steps_seen = divmod(run.step, run.steps_per_epoch)
        samples = epochs_seen * len(data) + steps_seen * size
        network.set_sample_counter(samples)
        if self.augmentation is not None:
            self.augmentation.set_sample_counter(samples)
        hooks("on_train_begin", run)
        try:
            manager.restore_callbacks()
            run.stop = any(self.group.all_gather(run.stop))
            batches = self._batches(run, update, size, every if by_step else None)
            with (
                # The total number of steps, even if training is resumed: the choice of kernels
                # decides about the last digit.
                dispatch.use_kernels(run.epochs * run.steps_per_epoch, data.backend.xp),
                cublas.used(products),
                small_gemm.kept(),
                device_memory.in_training(network, self.loss, data, size),
                numpy.errstate(over="ignore", invalid="ignore", divide="ignore"),
                self._same_bits_on_all_ranks(),
            ):
                while not run.stop and (batch := next(batches, None)) is not None:
                    before = run.step
                    update(*batch)
                    ends_epoch = run.step == run.epoch * run.steps_per_epoch
                    last = ends_epoch and run.epoch == run.epochs
                    count = run.step if by_step else run.epoch
                    logs = last or ((by_step or ends_epoch) and count % every == 0)
                    if logs or ends_epoch or hooks.watches_steps:
                        self.group.wait_for_device()  # what follows may read arrays
                    if logs:
                        hooks("on_log", run, metrics.record())
                    for _ in range(run.step - before):
                        hooks("on_step_end", run)
                    if interrupted := manager.after_step():
                        run.interrupted = interrupted
                        raise Interrupted(interrupted)
        except KeyboardInterrupt:
            metrics.record_partial()
            raise
        finally:
            hooks("on_train_end", run)

    def _batches(
        self, run: TrainingState, update: Update, size: int, log_every: int | None
    ) -> Iterator[tuple[Array, Array]]:
        """The samples of all batches to come and the optimizer's scalars, on the device."""
        data, optimizer, steps = update.data, run.optimizer, run.steps_per_epoch
        backend = data.backend
        # Sparse batches are sliced on the host.
        place = numpy.asarray if data.is_sparse else backend.asarray
        every = place(numpy.arange(len(data))) if steps == 1 else None
        for epoch in range(run.step // steps + 1, run.epochs + 1):
            run.epoch = epoch
            update.hooks("on_epoch_begin", run)
            done = run.step % steps
            first = optimizer.steps - done
            table = optimizer.table(range(first, first + steps), backend, run.network.dtype)
            order = every
            if order is None:
                order = place(random.permutation(self.seed, run.epoch, len(data)))
            yield from update.batches(order, table, size, log_every)
