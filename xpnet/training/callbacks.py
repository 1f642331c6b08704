"""Callbacks of `fit()`: progress, early stopping, and the base class for your own."""

from __future__ import annotations

import math
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TextIO

from xpnet.backend import Array, Backend
from xpnet.errors import ConfigError, join_names, short_repr
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.training.history import History, Record
from xpnet.utils import notebook
from xpnet.utils.arguments import whole
from xpnet.utils.former_names import former_name, take_former_names
from xpnet.utils.introspection import is_own


class Interrupted(KeyboardInterrupt):
    """Training was interrupted by the signal `number`; the last update was completed."""

    on_all_ranks = True
    """Of several ranks that train together, each raises it."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated" if number == signal.SIGTERM else "interrupted")
        self.exit_code = 128 + number  # as a shell reports a signal


@dataclass
class TrainingState:
    """The state of a training, which a callback may read; it may also set `stop`.

    `interrupted`: the number of the signal that asks training to end after this update, or 0.
    """

    network: Sequential
    optimizer: Optimizer
    history: History
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    stop: bool = False
    interrupted: int = 0


class Callback:
    """Base class of callbacks: five hooks, which do nothing. `run.stop = True` stops training.

    A callback whose state affects training saves it to checkpoints in `state` and restores it in
    `restore`.
    """

    def on_train_begin(self, run: TrainingState) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, run: TrainingState) -> None:
        """Before the first batch of an epoch."""

    def on_step_end(self, run: TrainingState) -> None:
        """After each update; reading an array here synchronises with the device."""

    def on_log(self, run: TrainingState, record: Record) -> None:
        """After each new record of the history."""

    def on_record(self, run: TrainingState, record: Record) -> None:
        """The former name of `on_log()`, deprecated."""
        former_name(Callback, self, "on_record", "on_log")(run, record)

    def on_train_end(self, run: TrainingState) -> None:
        """After training, even if it ended early or with an exception."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_former_names(cls, {"on_record": "on_log"})
        hooks = [name for name in vars(Callback) if name.startswith("on_") and name != "on_record"]
        for name in vars(cls):
            if name.startswith("on_") and not hasattr(Callback, name):
                warnings.warn(
                    f"{cls.__name__}.{name}() is never called: the hooks are {join_names(hooks)}",
                    stacklevel=2,
                )

    def state(self, run: TrainingState) -> dict[str, Any]:
        """The state to save in a checkpoint, by name: JSON values and arrays."""
        return {}

    def restore(self, run: TrainingState, state: dict[str, Any]) -> None:
        """Resume from what `state()` gave, arrays being on the network's device; before a step."""


class Progress(Callback):
    """One line for each record; on a terminal and in a notebook also a live bar for each epoch.

    In a notebook the bar is one line that is replaced, shown only if an epoch takes longer than a
    second. `stream`: the text stream to print to, `sys.stdout` if None; `ConfigError` for anything
    else.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        is_stream = all(hasattr(stream, name) for name in ("write", "flush", "isatty"))
        if stream is not None and (isinstance(stream, type) or not is_stream):
            raise ConfigError(
                f"stream must be a file open for text, or None for sys.stdout, found "
                f"{short_repr(stream)}"
            )
        self.stream = stream
        self.bar: Any = None

    def on_train_begin(self, run: TrainingState) -> None:
        """Detect the kind of output, and print at which step training resumes."""
        self.out = sys.stdout if self.stream is None else self.stream
        self.live = self.out.isatty()
        shows = self.stream is None and not self.live and notebook.is_kernel()
        self.line = notebook.Line() if shows else None
        if run.step:
            all_steps = run.epochs * run.steps_per_epoch
            print(f"resumes after iteration {run.step}/{all_steps}", file=self.out, flush=True)

    def on_epoch_begin(self, run: TrainingState) -> None:
        """Start a progress bar, unless the epoch has only one step."""
        self._clear()
        if run.steps_per_epoch == 1:
            return
        total, desc = run.steps_per_epoch, f"epoch {run.epoch}/{run.epochs}"
        done = run.step % run.steps_per_epoch
        if self.line is not None:
            self.bar = notebook.Bar(self.line, total, done, desc)
        elif self.live:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=done,
                desc=desc,
                unit="batch",
                leave=False,
                file=self.out,
                dynamic_ncols=True,
            )

    def on_step_end(self, run: TrainingState) -> None:
        """Update the bar."""
        if self.bar is not None:
            self.bar.update()

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Print the line, above the bar if the epoch continues."""
        if record.step == run.epoch * run.steps_per_epoch:
            self._clear()
        if self.bar is not None:
            self.bar.clear()
        print(format_record(run, record), file=self.out, flush=True)

    def on_train_end(self, run: TrainingState) -> None:
        """Remove the bar."""
        self._clear()
        if self.line is not None:
            self.line.close()

    def _clear(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def format_record(run: TrainingState, record: Record) -> str:
    """`epoch 3/10  loss 0.21  acc 93.9 %  val loss 0.24  val acc 93.1 %  1.2 s`."""
    width = len(str(run.epochs))
    parts = [f"epoch {record.epoch:>{width}}/{run.epochs}"]
    if record.step != record.epoch * run.steps_per_epoch:
        parts.append(f"iteration {record.step}/{run.epochs * run.steps_per_epoch}")
    return "  ".join([*parts, *record.figures(), f"{record.seconds:.1f} s"])


class EarlyStopping(Callback):
    """Stop when the validation loss has not improved for `patience` records; restore the best
    weights.

    The best values and running statistics are copied on the device whenever the validation
    loss falls, and restored at the end, even after an error. `best`: that record, or None.
    Prechelt, "Early stopping — but when?", 1998. Raises `ConfigError` unless `patience` is a
    positive integer; `fit()` raises it before training if there is no validation set.
    """

    NEEDS: ClassVar[str] = "early stopping (patience) needs a validation set: set validation"

    def __init__(self, patience: int) -> None:
        self.patience = whole("patience", patience)
        self.best: Record | None = None

    def on_train_begin(self, run: TrainingState) -> None:
        """Reset the state of an earlier training."""
        self.best, self.waited = None, 0
        self._kept: dict[str, Array] = {}

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Compare with the best so far."""
        if record.val_loss is None:
            raise ConfigError(self.NEEDS)
        lowest = self.best.val_loss if self.best is not None else None
        if record.val_loss < (math.inf if lowest is None else lowest):
            self.best, self.waited = record, 0
            self._kept = {name: a.copy() for name, a in run.network.state_dict().items()}
        else:
            self.waited += 1
            run.stop = run.stop or self.waited >= self.patience

    def on_train_end(self, run: TrainingState) -> None:
        """Put the best weights back."""
        for name, array in run.network.state_dict().items():
            if name in self._kept:
                array[...] = self._kept[name]

    def state(self, run: TrainingState) -> dict[str, Any]:
        """The best record, the best weights, and the number of records since then."""
        if self.best is None:
            return {"best": None, "waited": self.waited}
        best = next(n for n, record in enumerate(run.history.records) if record is self.best)
        return {"best": best, "waited": self.waited, **self._kept}

    def restore(self, run: TrainingState, state: dict[str, Any]) -> None:
        """Restore the state."""
        best, self.waited = state["best"], int(state["waited"])
        if best is not None:
            self.best = run.history.records[best]
            self._kept = {name: state[name] for name in run.network.state_dict()}


class StopAtInterrupt(Callback):
    """Delay Ctrl-C (SIGINT) and SIGTERM until the current updates are complete, about 0.1 s.

    `fit()` then writes a checkpoint (if checkpoints are enabled) and raises `Interrupted`. Without
    this callback, Python may raise `KeyboardInterrupt` in the middle of an update, with part of the
    weights updated, and SIGTERM ends the process immediately, as a second signal does.
    """

    def on_train_begin(self, run: TrainingState) -> None:
        """Install signal handlers, in the main thread only, except for signals that are ignored."""
        self.run = run
        self.before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self.before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.run.interrupted:
            signal.signal(number, self.before[number])
            signal.raise_signal(number)
        self.run.interrupted = number

    def on_train_end(self, run: TrainingState) -> None:
        """Restore the previous signal handlers."""
        for number, before in self.before.items():
            signal.signal(number, before)
        self.before = {}


class CallbackList:
    """The callbacks, and whether one that is not xpnet's own has run since the last call.

    `has_others`: whether there are such callbacks. `watches_steps`: whether one of them does
    something after each step.
    """

    def __init__(self, callbacks: Sequence[Callback], backend: Backend) -> None:
        self.backend = backend
        self.callbacks = [(callback, _is_other(callback)) for callback in callbacks]
        self.has_others = any(is_other for _, is_other in self.callbacks)
        self.watches_steps = any(
            is_other and _method(callback, "on_step_end") is not Callback.on_step_end
            for callback, is_other in self.callbacks
        )
        self.disturbed = False

    def __call__(self, hook: str, *arguments: Any) -> None:
        """Call the method `hook` of each that has one of its own."""
        nothing = getattr(Callback, hook)
        for callback, is_other in self.callbacks:
            method = getattr(callback, hook)
            if _method(callback, hook) is not nothing:
                self.disturbed = self.disturbed or is_other
                # A callback may change the current device.
                with self.backend.current():
                    method(*arguments)


def _method(callback: Callback, hook: str) -> Any:
    return getattr(getattr(callback, hook), "__func__", None)


def _is_other(callback: Callback) -> bool:
    """Whether it runs code that is not xpnet's: its class, or a replaced hook."""
    return not is_own(type(callback)) or any(hasattr(Callback, name) for name in vars(callback))
