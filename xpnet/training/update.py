"""One update in `fit()`: gathers a batch and runs or replays a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy

from xpnet.accel.recording import Replay
from xpnet.backend import Array
from xpnet.errors import ConfigError, short_repr
from xpnet.layers.base import walk
from xpnet.losses.base import with_inner
from xpnet.training.callbacks import CallbackList, TrainingState
from xpnet.training.device_data import DeviceData
from xpnet.training.ranks import RankBatch
from xpnet.training.running_metrics import RunningMetrics
from xpnet.training.sample_weights import SampleWeights
from xpnet.utils.arguments import as_float
from xpnet.utils.introspection import is_own


def require_pair(made: Any, trainer: object, method: str, what: str) -> tuple[Any, Any]:
    """The result of a trainer's method. Raises `ConfigError` unless it is a pair."""
    if isinstance(made, tuple) and len(made) == 2:
        return made
    raise ConfigError(
        f"{type(trainer).__name__}.{method}() must return {what}, found {short_repr(made)}"
    )


MOST_STEPS = 64
"""Updates that one call may make."""

MOST_INDICES = 2**18
"""Indices of samples that one call may take."""

SECONDS = 0.1
"""About the longest time of a call, after which checkpoints and signals have their turn."""


class Update:
    """One update of the network and of the running means, as written or replayed.

    The values that differ between updates (sample indices, optimizer scalars) are read from arrays
    at fixed addresses.
    """

    def __init__(
        self,
        trainer: Any,
        run: TrainingState,
        data: DeviceData,
        weights: SampleWeights | None,
        metrics: RunningMetrics,
        hooks: CallbackList,
    ) -> None:
        self.trainer, self.run, self.data, self.weights = trainer, run, data, weights
        self.metrics, self.hooks = metrics, hooks
        # Nothing of a full batch changes from one epoch to the next, unless it is distorted.
        self.is_fixed = run.steps_per_epoch == 1 and trainer.augmentation is None
        self.batch: tuple[Array, Array] | None = None
        self.is_own = is_own(type(trainer))
        # Of another dtype, each batch is converted into an array of its own.
        self.replay: Replay | None = None
        self.ranks, self.group = trainer.ranks, metrics.group
        is_recorded = self.group.size == 1 or self.group.is_recorded or data.backend.xp is numpy
        # Each sparse batch has another number of entries.
        is_recorded = is_recorded and not data.is_sparse
        if data.dtype == trainer.network.dtype and is_recorded:
            self.replay = Replay(
                data.backend.xp,
                self._parts,
                optimizer=trainer.optimizer,
                watched=hooks.has_others or not self.is_own,
            )
        self.placed: dict[int, tuple[Array, Array, Array, Array]] = {}
        self.seconds: dict[int, float] = {}
        self.longest = SECONDS
        self.copyto = data.backend.xp.copyto

    def most(self, size: int) -> int:
        """How many updates by batches of `size` the next call may make, on all ranks."""
        return self.group.smallest(self._most(size))

    def _most(self, size: int) -> int:
        replay = self.replay
        if replay is None or self.hooks.watches_steps or not self.is_own:
            return 1
        self._report_changes(replay)
        most = replay.most(size)
        # The first one is measured alone.
        return min(most, max(1, int(self.longest / self.seconds.get(size, self.longest))))

    def batches(
        self, order: Array, table: Array, size: int, log_every: int | None
    ) -> Iterator[tuple[Array, Array]]:
        """The rest of an epoch, for `__call__`: of one step, or of as many as it may make.

        `order`: `(N,)`, all samples of the epoch; `table`: `(steps, S)`, the scalars of all steps;
        a record comes after every `log_every` steps, or at the end.
        """
        run, steps, full = self.run, len(table), len(order) // size
        start = run.step - run.step % steps
        while (step := run.step - start) < steps:
            count = min(self.most(size), full - step) if step < full else 1
            if log_every:
                count = min(count, log_every - run.step % log_every)
            if count > 1:
                rows = order[step * size : (step + count) * size].reshape(count, size)
                yield rows, table[step : step + count]
            else:
                yield order[step * size : (step + 1) * size], table[step]

    def __call__(self, rows: Array, scalars: Array) -> None:
        """An update by the samples `rows` `(B,)`, with `optimizer.scalars` `(S,)`.

        Or `count` updates, by `(count, B)` and `(count, S)`. Of sparse data `rows` are on the host.
        Also after Ctrl-C, the steps of `run`, of the optimizer and of the metrics are those that
        were made.
        """
        if self.is_fixed and self.batch is None:
            self.batch = self.data.whole()
        if self.data.is_sparse:
            self._as_written(rows, scalars)
            self._count(len(rows), 1)
            return
        size, count = rows.shape[-1], len(rows) if rows.ndim == 2 else 1
        if size not in self.placed:
            self.placed[size] = self._place(size, len(scalars), scalars.dtype)
        order, table, own_rows, own_scalars = self.placed[size]
        if count > 1:
            order[:count], table[:count] = rows, scalars
        else:
            if not self.is_fixed:
                self.copyto(own_rows, rows)
            self.copyto(own_scalars, scalars)
        replay = self.replay
        if replay is None:
            self._as_written(own_rows, own_scalars)
            self._count(size, 1)
            return
        self._report_changes(replay)
        start = time.perf_counter()
        given = self._as_written, own_rows, own_scalars
        replay.completed = 0  # Ctrl-C may come before the call does it
        try:
            if not replay.run(size, *given, tables=(order, table), count=count):
                self._count(size, 1)
        finally:
            self._count(size, replay.completed)
        self.seconds[size] = (time.perf_counter() - start) / count

    def _report_changes(self, replay: Replay) -> None:
        """Say that code which is not xpnet's has run: a callback, or methods of a subclass."""
        if self.hooks.disturbed or not self.is_own:
            replay.disturbed, self.hooks.disturbed = True, False

    def _count(self, size: int, steps: int) -> None:
        own = size if self.ranks is None else self.ranks.batch(size).counted
        self.metrics.count(own * steps)
        self.run.step += steps

    def _place(self, size: int, scalars: int, dtype: Any) -> tuple[Array, Array, Array, Array]:
        """Indices and scalars of as many steps as one call may run, and those of the first one."""
        backend = self.data.backend
        most = max(1, min(MOST_STEPS, MOST_INDICES // size)) if backend.xp is numpy else 1
        order = backend.zeros(most * size, "int64").reshape(most, size)
        table = backend.zeros(most * scalars, dtype).reshape(most, scalars)
        return order, table, order[0], table[0]

    def _as_written(self, rows: Array, scalars: Array) -> None:
        trainer, weights = self.trainer, None
        if self.weights is not None:
            own = self.data.backend.asarray(rows) if self.data.is_sparse else rows
            weights = self.weights.whole if self.is_fixed else self.weights.batch(own)
        given: dict[str, Any] = {"weights": weights, "scalars": scalars}
        batch = None if self.ranks is None else self.ranks.batch(len(rows))
        if batch is None:
            x, target = self.batch or self.data.batch(rows, trainer.augmentation)
        else:
            x, target = self._rows_of(batch, rows)
            given["batch"] = batch
        made = trainer.train_step(x, target, **given)
        value, outputs = require_pair(made, trainer, "train_step", "(loss, outputs)")
        if not self.is_own:
            value = self._checked(value, outputs, len(target))
        if batch is not None and not batch.counted:
            outputs, target = outputs[:0], target[:0]
        self.metrics.update(value, outputs, target)

    def _rows_of(self, batch: RankBatch, rows: Array) -> tuple[Array, Array]:
        """This rank's samples of the batch `rows`."""
        own, augmentation = batch.rows, self.trainer.augmentation
        if self.batch is not None:
            x, target = self.batch
            return x[own], target[own]
        if augmentation is not None:
            augmentation._skip_samples(own.start, self.data.backend)
        x, target = self.data.batch(rows[own], augmentation)
        if augmentation is not None:
            augmentation._skip_samples(batch.count - own.stop, self.data.backend)
        return x, target

    def _checked(self, value: Any, outputs: Any, rows: int) -> Array:
        """The loss that a subclass's step returned as an array `()`. Raises `ConfigError`."""
        network, name = self.trainer.network, type(self.trainer).__name__
        # NumPy's arithmetic with arrays () returns scalars, which are no arrays.
        if not isinstance(value, network.backend.xp.ndarray):
            number = as_float(value)
            value = value if number is None else network.backend.asarray(number, network.dtype)
        if getattr(value, "shape", None) != ():
            raise ConfigError(
                f"{name}.train_step() must return the mean loss as a number or an array (), found "
                f"{short_repr(value)}"
            )
        if getattr(outputs, "shape", ())[:1] != (rows,):
            raise ConfigError(
                f"{name}.train_step() must return outputs with a row for each of the {rows} "
                f"samples, found {short_repr(outputs)}"
            )
        return value

    def _parts(self) -> list[Any]:
        trainer = self.trainer
        parts: list[Any] = [trainer.network, *walk(trainer.network.layers)]
        parts += [trainer, *with_inner(trainer.loss), trainer.optimizer, self.data]
        return parts if trainer.augmentation is None else [*parts, trainer.augmentation]
