"""Processes that train the trials of a search; they print and store nothing.

A worker receives the training and validation sets once, then one configuration after another. It
sends every record of its training and waits for the answer, continue or stop, so that pruning does
not depend on the speed of the processes. At the end of a trial it sends an `Outcome`.
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
    """The outcome of a trial.

    `kept`: the record of the final weights, as `train_from_config` returns it, or None if training
    failed for `reason`. `epochs`: the number of epochs that were started; `seconds`: the time
    taken, including building the network.
    """

    kept: Record | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""


class Pool:
    """Up to `jobs` processes with one trial each, as a context manager.

    The processes end at once at the end of the `with` statement, and when the process that made
    the pool ends in any way.
    """

    def __init__(self, jobs: int, train: Dataset, validation: Dataset) -> None:
        self.jobs = jobs
        self._parts = (train, validation)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        # All are started first, since sending waits until the process has started.
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
        """The number of running trials."""
        return sum(worker.trial is not None for worker in self._workers)

    @property
    def has_capacity(self) -> bool:
        """Whether another trial can start."""
        return self.running < self.jobs

    def begin(self, trial: int, config: TrainConfig) -> None:
        """Start to train `config` as the trial with this number."""
        idle = (worker for worker in self._workers if worker.trial is None)
        worker = next((worker for worker in idle if worker.process.is_alive()), None)
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
            worker.send(self._parts)
        worker.trial = trial
        worker.send(config)

    def answer(self, trial: int, stop: bool) -> None:
        """Let a trial that has sent a record continue, or stop it."""
        next(worker for worker in self._workers if worker.trial == trial).send(stop)

    def messages(self, seconds: float) -> Iterator[tuple[int, Record | Outcome]]:
        """The messages of the trials, after waiting up to `seconds` for the first one."""
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
    """One process, as seen by the main process."""

    def __init__(self) -> None:
        # A fork would copy the locks of BLAS and CUDA in any state.
        context = multiprocessing.get_context("spawn")
        orders, self.orders = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        self.trial: int | None = None
        self.process = context.Process(target=_work, args=(orders, results), daemon=True)
        with _without_interrupts():
            self.process.start()
        # So that the pipes close when either process ends.
        orders.close()
        results.close()

    def send(self, message: Any) -> None:
        try:
            self.orders.send(message)
        except OSError:
            # The process has ended, which `messages` reports.
            return

    def close(self) -> str:
        """Wait for the end of the process; returns how it ended, as text."""
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
def _without_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which a terminal sends to all processes."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Its start would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(orders: Connection, results: Connection) -> None:
    """The main function of a worker: receives the data, then trains one trial after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(orders, inbox), daemon=True).start()

    def send(message: Record | Outcome) -> None:
        try:
            results.send(message)
        except OSError:
            os._exit(1)

    train, validation = inbox.get()
    while True:
        send(train_trial(inbox.get(), train, validation, _Report(send, inbox.get)))


def _receive(orders: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(orders.recv())
    finally:
        # The pipe is closed, so the main process has ended.
        os._exit(1)


class _Report(Callback):
    """Sends each record, and stops the training if the answer is to stop."""

    def __init__(self, send: Callable[[Record], None], receive: Callable[[], bool]) -> None:
        self.send, self.receive = send, receive

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Wait for the answer."""
        self.send(record)
        run.stop = self.receive() or run.stop


def train_trial(
    config: TrainConfig, train: Dataset, validation: Dataset, callback: Callback
) -> Outcome:
    """Train exactly as `xpnet.train` does, and catch every error."""
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
