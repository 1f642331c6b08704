"""Processes that train the trials of a search; they draw, print and store nothing.

A worker is given the training and validation parts once, then configurations one by one. It
sends every record of its training and waits for the answer, go on or stop, so that where a
trial is stopped does not depend on who is faster. At the end it sends an `Outcome`.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import threadpoolctl

from xpnet.backend import Backend
from xpnet.config import TrainConfig
from xpnet.data.dataset import Dataset
from xpnet.errors import XpnetError
from xpnet.runs.factory import build_network, fit_normalisation, train_from_config
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.history import History, Record


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    `kept`: the record that its weights belong to, as `fit_as_configured` returns it, or None
    where training failed; then `reason` says why. `epochs`: how many were begun; `seconds`:
    what they took, with building the network.
    """

    kept: Record | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""


class Pool:
    """Up to `jobs` processes, a trial each at a time. Use it in a `with` statement.

    Leaving the statement ends them at once, and so does the end, of whatever kind, of the
    process that made the pool.
    """

    def __init__(self, jobs: int, train: Dataset, validation: Dataset) -> None:
        self.jobs = jobs
        self._parts = (train, validation)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        # All begin before any is fed, since feeding waits until the other side has begun.
        self._workers = [_Worker() for _ in range(self.jobs)]
        for worker in self._workers:
            worker.send(self._parts)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.close()

    @property
    def running(self) -> int:
        """How many trials are being trained."""
        return sum(worker.trial is not None for worker in self._workers)

    @property
    def has_room(self) -> bool:
        """Whether another trial can begin."""
        return self.running < self.jobs

    def begin(self, trial: int, config: TrainConfig) -> None:
        """Train `config` as the trial of this number."""
        idle = (worker for worker in self._workers if worker.trial is None)
        worker = next((worker for worker in idle if worker.process.is_alive()), None)
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
            worker.send(self._parts)
        worker.trial = trial
        worker.send(config)

    def answer(self, trial: int, stop: bool) -> None:
        """Let a trial that has sent a record go on, or have it stop there."""
        next(worker for worker in self._workers if worker.trial == trial).send(stop)

    def messages(self, seconds: float) -> Iterator[tuple[int, Record | Outcome]]:
        """What trials have sent, after a wait of up to `seconds` for the first of it."""
        busy = {worker.results: worker for worker in self._workers if worker.trial is not None}
        for ready in wait(list(busy), seconds):
            worker = busy[ready]  # type: ignore[index]
            trial = worker.trial
            assert trial is not None
            try:
                message = worker.results.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                message = Outcome(reason=worker.close())
            if isinstance(message, Outcome):
                worker.trial = None
            yield trial, message


class _Worker:
    """The coordinator's end of one process."""

    def __init__(self) -> None:
        # Not a fork, which would copy the locks of BLAS and CUDA in whatever state they are.
        context = multiprocessing.get_context("spawn")
        orders, self.orders = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        self.trial: int | None = None
        self.process = context.Process(target=_work, args=(orders, results), daemon=True)
        with _deaf_to_interrupts():
            self.process.start()
        # So that the death of either side closes the pipes for the other.
        orders.close()
        results.close()

    def send(self, message: Any) -> None:
        try:
            self.orders.send(message)
        except OSError:
            # It is dead, which `messages` will find out and tell.
            return

    def close(self) -> str:
        """Wait for the end of the process; returns how it ended, in words."""
        self.process.join(5)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        self.orders.close()
        self.results.close()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes begun here never see Ctrl-C, which a terminal sends to all of a program's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Where it begins, it undoes what the next line does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(orders: Connection, results: Connection) -> None:
    """A worker's life: the parts of the data, then trial after trial."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, inbox), daemon=True).start()

    def send(message: Record | Outcome) -> None:
        try:
            results.send(message)
        except OSError:
            os._exit(1)

    train, validation = inbox.get()
    while True:
        send(train_trial(inbox.get(), train, validation, _Report(send, inbox.get)))


def _listen(orders: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(orders.recv())
    finally:
        # The pipe is closed, so the coordinator is gone, perhaps in the middle of an epoch.
        os._exit(1)


class _Report(Callback):
    """Send each record, and stop where the answer says so."""

    def __init__(self, send: Callable[[Record], None], receive: Callable[[], bool]) -> None:
        self.send, self.receive = send, receive

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Wait for the answer."""
        self.send(record)
        run.stop = self.receive() or run.stop


def train_trial(
    config: TrainConfig, train: Dataset, validation: Dataset, callback: Callback
) -> Outcome:
    """Train exactly as `xpnet.train` would, and catch whatever goes wrong."""
    began, history, kept, reason = time.perf_counter(), History(), None, ""
    try:
        with threadpoolctl.threadpool_limits(config.threads, user_api="blas"):
            network = build_network(config, train, Backend(config.device))
            normalisation = fit_normalisation(config, train)
            kept = train_from_config(
                config,
                network,
                train,
                validation,
                normalisation,
                callbacks=[callback],
                history=history,
            )
    except XpnetError as error:
        reason = str(error)
    except MemoryError as error:
        reason = f"not enough memory ({error})"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    epochs = history.records[-1].epoch if history.records else 0
    return Outcome(kept, epochs, time.perf_counter() - began, reason)
