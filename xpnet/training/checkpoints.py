"""Checkpoints: writing the full state of a training to a file, and resuming from it.

An update is determined by the weights and running statistics, the optimizer's state and step count,
and the number of the first training sample. The sample number determines the order of samples,
masks, noise and distortions (`xpnet.random`); the step count determines the rate. A checkpoint
holds these, the sums since the last record, the history, and the state of callbacks. So training
resumes at any step, also within an epoch, bit-identical on the same kind of device.

The file is a model file with additional entries (`xpnet.serialization`): `xpnet.load()` also loads
the network from a checkpoint. The file contains no code.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy

from xpnet._files import lock
from xpnet.backend import Array, HostArray
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import CheckpointError, one_line, short_repr
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.schedules import Schedule
from xpnet.serialization import TRAINING, describe, read, write
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.device_data import DeviceData
from xpnet.training.history import Record
from xpnet.training.running_metrics import RunningMetrics
from xpnet.utils.arguments import as_path
from xpnet.utils.intervals import parse_checkpoint_every
from xpnet.utils.introspection import as_json

KEPT = 2
"""The number of checkpoints to keep: the last, and one more in case the last is damaged."""

_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
_HASHED_BYTES = 2**28
_MOST_DIFFERENCES = 4
_REMEDY = "remove it, and training resumes from the one before"


class Checkpoints:
    """The folder to which `fit()` writes checkpoints; it resumes from the last one there.

    `folder`: for one training only; created if it does not exist, and locked during `fit()`.
    `every`: `2` or `"2 epochs"`, or `"30 seconds"`; `StopAtInterrupt` causes one more at the end.
    The last two are kept (`KEPT`). Raises `ConfigError` for an invalid `folder` or `every`.
    """

    def __init__(self, folder: str | Path, every: int | str = "60 seconds") -> None:
        self.folder = as_path("folder", folder)
        self.every, self.by_seconds = parse_checkpoint_every(every, "every")

    def paths(self) -> list[Path]:
        """The existing checkpoints, oldest first."""
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("*.safetensors")]
        return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]


class CheckpointManager:
    """Writes and restores the checkpoints of a `fit()`; does nothing if there are none.

    `fingerprint()`: what is trained, and how, as `training_fingerprint` describes it. Of several
    ranks the first one writes and reads the files.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        run: TrainingState,
        metrics: RunningMetrics,
        callbacks: Sequence[Callback],
        fingerprint: Callable[[], dict[str, str]],
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.checkpoints, self.run, self.metrics = checkpoints, run, metrics
        self.callbacks = dict(_named(callbacks))
        self._fingerprint = fingerprint
        self._saved: _Saved | None = None
        self._written = time.monotonic()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lock the folder during the block, and restore the last checkpoint.

        Raises `CheckpointError`, before anything is changed, for a checkpoint of another
        training, naming the differences, or for a damaged one.
        """
        if self.checkpoints is None:
            yield
            return
        is_first = self.group.rank == 0
        with lock(self.checkpoints.folder) if is_first else nullcontext():
            self.fingerprint = self._fingerprint()
            saved = None
            if is_first and (paths := self.checkpoints.paths()):
                saved = _Saved.read(paths[-1])
                saved.require(self.fingerprint)
            self._saved = self._of_first_rank(saved)
            if self._saved is not None:
                self._saved.restore(self.run, self.metrics)
            yield

    def _of_first_rank(self, saved: _Saved | None) -> _Saved | None:
        """What rank 0 has read, on all ranks."""
        if self.group.size == 1:
            return saved
        about = None if saved is None else (str(saved.path), saved.training)
        about = self.group.broadcast(about)
        if about is None:
            return None
        tensors = self.group.broadcast_arrays({} if saved is None else saved.tensors)
        return _Saved(Path(about[0]), about[1], tensors)

    def restore_callbacks(self) -> None:
        """Restore the state of the callbacks, after `on_train_begin`."""
        if self._saved is not None:
            self._saved.restore_callbacks(self.run, self.callbacks)
            self._saved = None

    def after_step(self) -> int:
        """Write a checkpoint if one is due, or if training is about to end.

        Returns the number of the signal that ends the training now, or 0. Several ranks decide
        together: all end where one has to. Raises `DivergenceError` instead of overwriting a good
        checkpoint with values that are not finite, `CheckpointError` where the file cannot be
        written.
        """
        run, is_due = self.run, self.checkpoints is not None and self._is_due()
        interrupted = run.interrupted  # which a signal may change at any time
        if self.group.size > 1:
            found = self.group.all_gather((interrupted, run.stop, is_due))
            interrupted = max(number for number, _, _ in found)
            run.stop, is_due = any(stop for _, stop, _ in found), found[0][2]
        if self.checkpoints is not None and (interrupted or is_due):
            self.group.wait_for_device()
            self._write(self.checkpoints)
            self._written = time.monotonic()
        return interrupted

    def _is_due(self) -> bool:
        assert self.checkpoints is not None
        if self.checkpoints.by_seconds:
            return time.monotonic() - self._written >= self.checkpoints.every
        return self.run.step % (self.checkpoints.every * self.run.steps_per_epoch) == 0

    def _write(self, checkpoints: Checkpoints) -> None:
        run, network = self.run, self.run.network
        tensors, measured = _on_host(network, network.state_dict()), self.metrics.state()
        wrong = [name for name, tensor in tensors.items() if not numpy.isfinite(tensor).all()]
        if not math.isfinite(measured["loss"]):
            raise self.metrics.diverged("the loss is not finite")
        if wrong:
            raise self.metrics.diverged(f"{wrong[0]} is not finite")
        for part, flat in run.optimizer.state.items():
            tensors |= _prefixed(f"optimizer.{part}", _on_host(network, network.views(flat)))
        remembered: dict[str, Any] = {}
        for name, callback in self.callbacks.items():
            state = callback.state(run)
            arrays = {key: value for key, value in state.items() if _is_array(network, value)}
            tensors |= _prefixed(name, _on_host(network, arrays))
            remembered[name] = {key: v for key, v in state.items() if key not in arrays}
        training = {
            "plan": self.fingerprint,  # the name that files of version 0.1 have
            "epoch": run.epoch,
            "step": run.step,
            "stop": run.stop,
            "updates": run.optimizer.steps,
            "optimizer": list(run.optimizer.state),
            "measured": measured,
            "history": [astuple(record) for record in run.history.records],
            "callbacks": remembered,
        }
        if self.group.rank == 0:
            self._write_file(checkpoints, training, tensors)
        self.group.broadcast(None)  # the others wait until it is written

    def _write_file(
        self, checkpoints: Checkpoints, training: dict[str, Any], tensors: dict[str, HostArray]
    ) -> None:
        run, network = self.run, self.run.network
        training["sha256"] = _digest(training, tensors)
        path = checkpoints.folder / f"checkpoint-{run.step:09}.safetensors"
        write(path, tensors, describe(network) | {TRAINING: training})
        for old in checkpoints.paths()[:-KEPT]:
            old.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Saved:
    """A checkpoint that was read and verified."""

    path: Path
    training: dict[str, Any]
    tensors: dict[str, HostArray]

    @classmethod
    def read(cls, path: Path) -> _Saved:
        try:
            about, tensors = read(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}: {_REMEDY}") from None
        training = about.get(TRAINING)
        if not isinstance(training, dict):
            raise CheckpointError(
                f"{path}: is a model and no checkpoint, so training cannot resume"
            )
        if training.pop("sha256", None) != _digest(training, tensors):
            raise CheckpointError(
                f"{path}: is damaged, its SHA-256 is not that of its content: {_REMEDY}"
            )
        return cls(path, training, tensors)

    def require(self, fingerprint: dict[str, str]) -> None:
        there = self.training.get("plan")
        there = there if isinstance(there, dict) else {}
        wrong = [
            f"{one_line(name)} is {one_line(there.get(name, 'none'))} there and "
            f"{fingerprint.get(name, 'none')} here"
            for name in there | fingerprint
            if there.get(name) != fingerprint.get(name)
        ]
        if wrong:
            more = len(wrong) - _MOST_DIFFERENCES
            wrong = [*wrong[:_MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
            raise CheckpointError(
                f"{self.path}: is of another training: {'; '.join(wrong)}: train as before, or "
                f"with another folder"
            )

    def restore(self, run: TrainingState, metrics: RunningMetrics) -> None:
        """Restore everything except the callbacks' state; check for missing entries first."""
        training, network, backend = self.training, run.network, run.network.backend
        try:
            own = {name: self.tensors[name] for name in network.state_dict()}
            records = [_record(line) for line in training["history"]]
            updates, epoch, step = (int(training[name]) for name in ("updates", "epoch", "step"))
            state = {}
            for name in training["optimizer"]:
                state[name] = backend.zeros(network.flat_parameters.size, network.dtype)
                for parameter, view in network.views(state[name]).items():
                    tensor = self.tensors[f"{TRAINING}.optimizer.{name}.{parameter}"]
                    view[...] = backend.asarray(tensor, dtype=network.dtype)
            all_steps = run.epochs * run.steps_per_epoch
            if not (0 < step <= all_steps and step <= updates < 2**53):
                raise ValueError(f"step {step} of {all_steps}, update {updates}")
            if epoch != -(-step // run.steps_per_epoch):
                raise ValueError(f"step {step} in epoch {epoch}")
            metrics.restore(training["measured"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            found = short_repr(error, 200)
            raise CheckpointError(f"{self.path}: is no valid checkpoint ({found})") from None
        network.load_state_dict(own)
        run.optimizer.state, run.optimizer.steps = state, updates
        run.history.records[:] = records
        run.epoch, run.step, run.stop = epoch, step, training.get("stop") is True

    def restore_callbacks(self, run: TrainingState, callbacks: dict[str, Callback]) -> None:
        asarray = run.network.backend.asarray
        try:
            for name, callback in callbacks.items():
                prefix = f"{TRAINING}.{name}."
                arrays = {
                    key.removeprefix(prefix): asarray(tensor)
                    for key, tensor in self.tensors.items()
                    if key.startswith(prefix)
                }
                callback.restore(run, self.training["callbacks"][name] | arrays)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            found = short_repr(error, 200)
            raise CheckpointError(f"{self.path}: is no valid checkpoint ({found})") from None


def training_fingerprint(
    run: TrainingState,
    data: DeviceData,
    held_out: DeviceData | None,
    loss: Loss,
    callbacks: Sequence[Callback],
    trainer: tuple[str, dict[str, Any]] | None,
    **settings: object,
) -> dict[str, str]:
    """Everything that determines the result of a training, as text; equal for equal trainings.

    Data counts by its content: a digest of all of it, or of rows at equal distances where it is
    larger than 256 MiB. `trainer`: the name and the attributes of a subclass of `Trainer`, if it
    is one.
    """
    network = run.network
    layers = {
        f"layer {number}": _text(entry.pop("type").rpartition(".")[2], {}, entry)
        for number, entry in enumerate(network.architecture())
    }
    return {
        **layers,
        "dtype": str(network.dtype),
        "seed of the network": str(network.seed),
        "training data": _describe_data(data),
        "validation data": _describe_data(held_out) if held_out is not None else "none",
        "loss": _text(type(loss).__name__, vars(loss), loss.get_config()),
        "optimizer": _text(
            type(run.optimizer).__name__, vars(run.optimizer), run.optimizer.get_config()
        ),
        "epochs": str(run.epochs),
        **{name: str(value) for name, value in settings.items()},
        "callbacks": ", ".join(name for name, _ in _named(callbacks)) or "none",
        **({} if trainer is None else {"trainer": _text(*trainer)}),
    }


def _text(name: str, settings: dict[str, Any], config: dict[str, Any] | None = None) -> str:
    """`Adam(beta1=0.9, …)`: of the settings those that are plain values, or schedules.

    And all of `config`, which is to be plain too: what is not has to be said by `get_config()`.
    """
    plain = (bool, int, float, str, tuple, Schedule)
    # The number of updates is not a setting.
    kept = {k: v for k, v in settings.items() if isinstance(v, plain) and k != "steps"}
    for key, value in (config or {}).items():
        kept[key] = value if isinstance(value, Schedule) else as_json(name, {key: value})[key]
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in sorted(kept.items()))})"


def _describe_data(data: DeviceData) -> str:
    to_host, how = data.backend.to_host, data.normalisation
    digest = hashlib.sha256(numpy.ascontiguousarray(to_host(data.target)).data)
    features = data.x.shape[1]
    apart = -(-len(data) * features * data.x.dtype.itemsize // _HASHED_BYTES)
    rows_at_once = 4096 * apart
    if data.is_sparse:
        for part in (data.x.starts, data.x.indices, data.x.values):
            digest.update(numpy.ascontiguousarray(part).data)
    for start in range(0, 0 if data.is_sparse else len(data), rows_at_once):
        rows = slice(start, min(start + rows_at_once, len(data)), apart)
        some = data.x[rows] if data.rows is None else data.x[data.rows[rows]]
        digest.update(numpy.ascontiguousarray(to_host(some)).data)
    return (
        f"{len(data)} samples of {features} {data.x.dtype} x {how}, "
        f"SHA-256 {digest.hexdigest()[:16]}"
    )


def _named(callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
    """The callbacks with a state, each under a unique name."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        if type(callback).state is not Callback.state:
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name} {seen[name]}"), callback


def _record(line: list[Any]) -> Record:
    """A line of the history, from JSON. Raises `TypeError` or `ValueError`."""
    whole = {"epoch", "step"}
    values = dict(zip((item.name for item in fields(Record)), line, strict=True))
    for name, value in values.items():
        if value is not None:
            values[name] = int(value) if name in whole else float(value)
    return Record(**values)


def _on_host(network: Sequential, arrays: dict[str, Array]) -> dict[str, HostArray]:
    to_host = network.backend.to_host
    return {name: to_host(array) for name, array in arrays.items()}


def _prefixed(name: str, tensors: dict[str, HostArray]) -> dict[str, HostArray]:
    return {f"{TRAINING}.{name}.{key}": tensor for key, tensor in tensors.items()}


def _is_array(network: Sequential, value: object) -> bool:
    return isinstance(value, (numpy.ndarray, type(network.flat_parameters)))


def _digest(training: dict[str, Any], tensors: dict[str, HostArray]) -> str:
    """SHA-256 of a checkpoint's content: safetensors itself notices only a file cut short."""
    # Through JSON once, as what is read back has been.
    plain = json.loads(json.dumps(training))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(numpy.asarray(tensor, order="C").data)
    return digest.hexdigest()
