"""`python -m bench contended`: the step of W2, W3 and W4 with 0, 1, 2 and 4 busy processes beside.

A busy process computes without pause, as another training on the same machine would. All run on
the same `c` cores, and each contender has `c` threads. Beside `n` busy processes a fair share of
`c` cores is `c / (c + n)`, so a step may take `(c + n) / c` times as long; a contender that uses
one thread may take less.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bench import machine
from bench.choices import choose_competitors, choose_workloads
from bench.pages import publish
from bench.peers import BY_NAME
from bench.timing import ROOT, Workers, measure
from bench.worker import THREADS
from bench.workloads import Workload, quick
from xpnet.errors import ConfigError

BESIDE = (0, 1, 2, 4)
NAMES = ("W2", "W3", "W4")
PEERS = ("torch", "torch-fused", "jax-scan", "sklearn")
BUSY = "from bench.worker import pin; pin(); exec('while True: pass')"

STEPS = 300
"""Steps of a repeat: fewer than elsewhere, since some contenders take a hundred times as long."""

STARTING = 0.5
"""Seconds in which the busy processes start."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """In the block, `count` other processes compute without pause."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT) for _ in range(count)]
    try:
        time.sleep(STARTING if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(options: argparse.Namespace) -> int:
    """The command."""
    if options.device != "cpu":
        raise ConfigError(f"contended measures a CPU, found --device {options.device}")
    able = choose_competitors(options.peer or PEERS, options.device)
    given = choose_workloads(options.workload or NAMES)
    found: list[dict[str, Any]] = []
    with Workers(able, options.device, 1 if options.quick else THREADS) as workers:
        for workload in map(quick if options.quick else shortened, given):
            one: dict[str, Any] = {"workload": workload.name, "us": {}, "absent": {}}
            for count in BESIDE:
                with busy(count):
                    timed = measure(workers.all, workload, 1 if options.quick else options.repeats)
                for name, seconds in timed.seconds.items():
                    one["us"].setdefault(name, {})[str(count)] = 1e6 * statistics.median(seconds)
                one["absent"] |= timed.missing | timed.left_out
            found.append(one)
            # After each workload, since a whole run takes an hour where contenders are slowed down.
            described = machine.describe(options.device)
            figures = {"machine": described, "cores": THREADS, "workloads": found}
            publish(options, "contended", table(found, THREADS), figures)
    return 0


def shortened(workload: Workload) -> Workload:
    """The same steps, `STEPS` of them."""
    return replace(workload, rows=STEPS * workload.batch, passes=1)


def table(found: list[dict[str, Any]], cores: int) -> str:
    """Markdown: for each workload a row per contender, with the times that a step takes longer."""
    lines = [f"# A step beside busy processes, {cores} cores", ""]
    shares = ", ".join(f"{(cores + n) / cores:g} beside {n}" for n in BESIDE[1:])
    lines += [f"A fair share of all cores makes a step take {shares} times as long.", ""]
    for one in found:
        beside = [f"beside {count}" for count in BESIDE[1:]]
        lines.append(f"| {one['workload']} | µs, nothing beside | {' | '.join(beside)} |")
        lines.append(f"| --- | {' | '.join(['---:'] * len(BESIDE))} |")
        for name, us in one["us"].items():
            quiet = us["0"]
            ratios = [f"×{us[str(n)] / quiet:.2f}" if str(n) in us else "—" for n in BESIDE[1:]]
            lines.append(f"| {BY_NAME[name].title} | {quiet:,.0f} | {' | '.join(ratios)} |")
        lines += [
            f"| {BY_NAME[name].title}: {why} | | | | |" for name, why in one["absent"].items()
        ]
        lines.append("")
    return "\n".join(lines)
