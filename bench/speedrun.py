"""`python -m bench speedrun`: the least time to 98 % on the whole of MNIST, process start to exit.

`python -m xpnet.train --config examples/speedrun_98.toml` beside programs in PyTorch and in JAX
(`bench/speedruns/`) that train the same network with the same settings, each in a process of its
own, in turns, with the seeds 0 to 4. Every process has to reach the goal on the 10,000 test digits.
`python -m bench speedrun-99` does the same to 99 %, with convolutions and without JAX, whose
convolutions on a CPU are many times slower than those of the others (`bench/results/cpu.md`, W7).

xpnet (by numba) and JAX keep compiled code on disk. These caches are empty at first; the first
process of each program, which fills them, is reported apart from the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine
from bench.pages import publish
from bench.processes import run as run_process
from bench.timing import ROOT
from bench.worker import THREADS
from xpnet.errors import ConfigError

SEEDS = (0, 1, 2, 3, 4)
XPNET = {
    "xpnet": (),
    "xpnet, with figures and report": ("--report",),
}
PEERS = {"PyTorch": "with_torch", "JAX": "with_jax"}
JAX_ROWS = "JAX leaves out the rows that do not fill a batch: 468 steps an epoch, the others 469. "
PACKAGES = {"PyTorch": ("torch",), "JAX": ("jax", "jaxlib")}


@dataclass(frozen=True)
class Speedrun:
    """A test accuracy to reach, the settings that reach it, and the peers beside xpnet."""

    name: str
    goal: float
    peers: Sequence[str]

    @property
    def settings(self) -> Path:
        """The file of settings of `python -m xpnet.train`."""
        return ROOT / f"examples/speedrun_{100 * self.goal:.0f}.toml"

    def packages(self) -> list[str]:
        """The names of the packages that compute, where they are installed."""
        names = ["numba", *(package for peer in self.peers for package in PACKAGES[peer])]
        return [name for name in names if find_spec(name) is not None]


SPEEDRUNS = {
    one.name: one
    for one in (
        Speedrun("speedrun", 0.98, ("PyTorch", "JAX")),
        Speedrun("speedrun-99", 0.99, ("PyTorch",)),
    )
}


def run(options: argparse.Namespace) -> int:
    """The command."""
    if options.device != "cpu":
        raise ConfigError(f"speedrun measures a CPU, found --device {options.device}")
    data = Path(os.environ.get("XPNET_DATA", "")).expanduser().resolve() / "mnist"
    if not (data / "train-images-idx3-ubyte.gz").exists():
        raise ConfigError(
            f"speedrun reads the four .gz files of MNIST in {data}: set XPNET_DATA to the folder "
            f"that holds mnist/"
        )
    task = SPEEDRUNS[options.what]
    found: dict[str, Any] = {"machine": machine.describe("cpu"), "goal": task.goal, "runs": {}}
    found |= {"first": {}, "missing": {}}
    found["versions"] = {package: version(package) for package in task.packages()}
    for name in task.peers:
        if find_spec(PACKAGES[name][0]) is None:
            found["missing"][name] = f"{PACKAGES[name][0]} is not installed"
    with tempfile.TemporaryDirectory() as place:
        for seed in SEEDS[:1] if options.quick else (SEEDS[0], *SEEDS):
            for name in (*XPNET, *task.peers):
                if name in found["missing"]:
                    continue
                one = whole_process(task, name, seed, data, Path(place))
                is_first = name not in found["first"]
                if is_first:
                    found["first"][name] = one
                if options.quick or not is_first:
                    found["runs"].setdefault(name, []).append(one)
                print(f"{name}, seed {seed}: {one}", flush=True)
    publish(options, task.name, table(task, found), found)
    runs = [one for runs in found["runs"].values() for one in runs]
    return 0 if all(one["test_accuracy"] >= task.goal for one in runs) else 1


def whole_process(
    task: Speedrun, name: str, seed: int, data: Path, place: Path
) -> dict[str, float]:
    """Seconds and test accuracy of a process. Raises `Failed`."""
    if name in PEERS:
        words = ["-m", f"bench.speedruns.{PEERS[name]}", str(task.settings), str(seed), str(data)]
        done = run_process([*words, str(place / "compiled")])
        return {"seconds": done.seconds, "test_accuracy": float(done.output.split()[-1])}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        words = ["-m", "xpnet.train", f"--config={task.settings}", f"--seed={seed}", *XPNET[name]]
        cache = {"NUMBA_CACHE_DIR": str(place / f"compiled {name}")}
        done = run_process([*words, f"--run={folder}/run"], variables=cache)
        metrics = json.loads(Path(folder, "run/metrics.json").read_text())
        return {"seconds": done.seconds, "test_accuracy": metrics["test_accuracy"]}


def table(task: Speedrun, found: dict[str, Any]) -> str:
    """Markdown: a row per program; an accuracy below the goal is marked."""
    lines = [
        f"# Process start to exit, {100 * found['goal']:g} % on MNIST",
        "",
        f"`examples/{task.settings.name}`, a process for each of the seeds 0 to 4, in turns, "
        f"{THREADS} threads. "
        + JAX_ROWS * ("JAX" in task.peers)
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        + ".",
        "",
        "| | s, median | s, each seed | test accuracy, % | s, first process of an installation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in found["runs"].items():
        each = ", ".join(f"{one['seconds']:.2f}" for one in runs)
        right = ", ".join(
            f"{100 * one['test_accuracy']:.2f}"
            + ("" if one["test_accuracy"] >= found["goal"] else " (missed)")
            for one in runs
        )
        middle = statistics.median(one["seconds"] for one in runs)
        first = found["first"][name]["seconds"]
        lines.append(f"| {name} | {middle:.2f} | {each} | {right} | {first:.1f} |")
    lines += [f"| {name} | missing: {why} | | | |" for name, why in found["missing"].items()]
    return "\n".join(lines) + "\n"
