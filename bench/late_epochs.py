"""`python -m bench late-epochs`: W4 on MNIST, CPU seconds of epochs 5 to 10 beside epochs 2 to 4.

784-512-256-10, ReLU, Adam at 1e-3, batches of 128, on the 50,000 images that `xpnet.train` trains
on. Some pixels of MNIST are always 0, so the moments of their weights decay until they are
subnormal numbers, and on many CPUs each further step takes longer (`Optimizer.count_step`). With
random data every pixel is used, and the timed steps of the other workloads are the first ones.

Each contender trains in a process of its own, one after the other, with one thread. The time is
CPU time, so that other processes disturb it little. PyTorch and scikit-learn also classify the
test images in each epoch, early and late ones alike. Epoch 1 is left out: xpnet loads kernels
in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from bench import machine
from bench.end_to_end import QUICK, Task, read_splits
from bench.pages import publish
from bench.processes import Failed
from bench.processes import run as run_process
from xpnet.backend import Backend, context
from xpnet.errors import ConfigError
from xpnet.runs import factory
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.history import History, Record

CONTENDERS = ("xpnet", "xpnet-fast", "torch", "sklearn")
EPOCHS = 10
EARLY, LATE = slice(1, 4), slice(4, EPOCHS)


def run(options: argparse.Namespace) -> int:
    """The command."""
    if options.device != "cpu":
        raise ConfigError(
            f"late-epochs measures CPU time: --device {options.device} has none, use cpu"
        )
    if unknown := set(options.peer) - set(CONTENDERS):
        raise ConfigError(
            f"no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}"
        )
    task = replace(QUICK if options.quick else Task(), threads=1)
    # If the data set is missing, one line says so before any process runs.
    read_splits(task, seed=0, epochs=EPOCHS)
    found: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for name in CONTENDERS:
        if options.peer and name not in {*options.peer, "xpnet"}:
            continue
        words = ["-m", "bench.late_epochs", name, "quick" if options.quick else "whole"]
        try:
            found[name] = json.loads(run_process(words, 1).output.splitlines()[-1])
        except Failed as error:
            if name == "xpnet":
                raise
            missing[name] = str(error)
            continue
        print(f"{name}: {', '.join(f'{s:.2f}' for s in found[name])} CPU s", flush=True)
    about = machine.describe(options.device)
    figures = {"machine": about, "cpu_seconds": found, "missing": missing}
    publish(options, "late-epochs", table(task, found, missing), figures)
    return 0


def table(task: Task, found: dict[str, list[float]], missing: dict[str, str]) -> str:
    """Markdown: a row per contender."""
    net = "-".join(map(str, task.hidden))
    lines = [
        f"# CPU seconds per epoch, early and late: {task.dataset}, hidden layers {net}, one thread",
        "",
        "| | epochs 2 to 4, median | epochs 5 to 10, median | late / early | each epoch |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, seconds in found.items():
        early, late = statistics.median(seconds[EARLY]), statistics.median(seconds[LATE])
        each = ", ".join(f"{s:.2f}" for s in seconds)
        lines.append(f"| {name} | {early:.2f} | {late:.2f} | {late / early:.2f} | {each} |")
    lines += [f"| {name} | missing: {why} | | | |" for name, why in missing.items()]
    return "\n".join(lines) + "\n"


def contend(name: str, task: Task) -> list[float]:
    """What runs in a contender's process: the CPU seconds of each epoch."""
    if name.startswith("xpnet"):
        return _xpnet(task, is_fast=name == "xpnet-fast")
    from bench import mnist_peers

    _, splits = read_splits(task, seed=0, epochs=EPOCHS)
    epochs = mnist_peers.TRAINERS[name](splits, task.hidden, 0, "cpu")
    return list(_timed(islice(epochs, EPOCHS)))


def _timed(epochs: Iterator[float]) -> Iterator[float]:
    """The CPU seconds that each item takes."""
    began = time.process_time()
    for _ in epochs:
        ended = time.process_time()
        yield ended - began
        began = ended


class _Clock(Callback):
    """The CPU time at which each epoch ended."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Called once per epoch."""
        self.times.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """CPU seconds of each epoch."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def _xpnet(task: Task, *, is_fast: bool) -> list[float]:
    """Training without validation."""
    if is_fast:
        import numba  # noqa: F401

    context.change(kernels_enabled=is_fast)
    config, splits = read_splits(task, seed=0, epochs=EPOCHS)
    network = factory.build_network(config, splits.train, Backend("cpu"))
    how, clock = factory.fit_normalisation(config, splits.train), _Clock()
    factory.train_from_config(
        config, network, splits.train, None, how, callbacks=[clock], history=History()
    )
    return clock.seconds


def main(argv: Sequence[str]) -> int:
    """A contender's process: its name and task; prints its CPU seconds as JSON."""
    name, size = argv
    print(json.dumps(contend(name, QUICK if size == "quick" else Task(threads=1))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
