"""`python -m bench speedrun`: the least time to 98 % on the whole of MNIST, process start to exit.

`python -m xpnet.train --config examples/speedrun_98.toml` beside programs in PyTorch and in JAX
(`bench/speedruns/`) that train the same network with the same settings, each in a process of its
own, in turns, with the seeds 0 to 4. Every process has to reach the goal on the 10,000 test digits.

xpnet (by numba) and JAX keep compiled code on disk. These caches are empty at first; the first
process of each program, which fills them, is reported apart from the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine
from bench.pages import publish
from bench.processes import run as run_process
from bench.timing import ROOT
from xpnet.errors import ConfigError

SETTINGS = ROOT / "examples/speedrun_98.toml"
GOAL = 0.98
SEEDS = (0, 1, 2, 3, 4)
XPNET = {
    "xpnet": (),
    "xpnet, with figures and report": ("--report",),
}
PEERS = {"PyTorch": "with_torch", "JAX": "with_jax"}
PACKAGES = {"PyTorch": ("torch",), "JAX": ("jax", "jaxlib")}


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
    found: dict[str, Any] = {"machine": machine.describe("cpu"), "goal": GOAL, "runs": {}}
    found |= {"first": {}, "missing": {}, "versions": versions()}
    for name, (package, *_) in PACKAGES.items():
        if find_spec(package) is None:
            found["missing"][name] = f"{package} is not installed"
    with tempfile.TemporaryDirectory() as place:
        for seed in SEEDS[:1] if options.quick else (SEEDS[0], *SEEDS):
            for name in (*XPNET, *PEERS):
                if name in found["missing"]:
                    continue
                one = whole_process(name, seed, data, Path(place))
                is_first = name not in found["first"]
                if is_first:
                    found["first"][name] = one
                if options.quick or not is_first:
                    found["runs"].setdefault(name, []).append(one)
                print(f"{name}, seed {seed}: {one}", flush=True)
    publish(options, "speedrun", table(found), found)
    runs = [one for runs in found["runs"].values() for one in runs]
    return 0 if all(one["test_accuracy"] >= GOAL for one in runs) else 1


def versions() -> dict[str, str]:
    """Of the packages that compute, where they are installed."""
    names = ["numba", *(package for packages in PACKAGES.values() for package in packages)]
    return {name: version(name) for name in names if find_spec(name) is not None}


def whole_process(name: str, seed: int, data: Path, place: Path) -> dict[str, float]:
    """Seconds and test accuracy of a process. Raises `Failed`."""
    if name in PEERS:
        words = ["-m", f"bench.speedruns.{PEERS[name]}", str(SETTINGS), str(seed), str(data)]
        done = run_process([*words, str(place / "compiled")])
        return {"seconds": done.seconds, "test_accuracy": float(done.output.split()[-1])}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        words = ["-m", "xpnet.train", f"--config={SETTINGS}", f"--seed={seed}", *XPNET[name]]
        cache = {"NUMBA_CACHE_DIR": str(place / f"compiled {name}")}
        done = run_process([*words, f"--run={folder}/run"], variables=cache)
        metrics = json.loads(Path(folder, "run/metrics.json").read_text())
        return {"seconds": done.seconds, "test_accuracy": metrics["test_accuracy"]}


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per program; an accuracy below the goal is marked."""
    lines = [
        f"# Process start to exit, {100 * found['goal']:g} % on MNIST",
        "",
        f"`examples/{SETTINGS.name}`, a process for each of the seeds 0 to 4, in turns, 2 threads. "
        "JAX leaves out the rows that do not fill a batch: 468 steps an epoch, the others 469. "
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
