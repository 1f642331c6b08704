"""`python -m bench ranks`: a training step on one and on two ranks (extra `mpi`).

Both on this machine, with one thread a rank, started by mpiexec in turns. The last columns are the
sum of the gradients alone, and its share of a step on two ranks. A second table has the same steps
with `reproducible_parts`, in the same turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.choices import choose_workloads
from bench.pages import publish
from bench.timing import ROOT, environment
from bench.workloads import WORKLOADS, Workload, quick
from xpnet.distributed import Group, mpi
from xpnet.errors import ConfigError, XpnetError

NAMES = ("W2", "W4", "W5", "W7", "W8")
RANKS = (1, 2)
PARTS = (0, 4, 8)
SUMS = 200


def run(options: argparse.Namespace) -> int:
    """The command."""
    if options.device != "cpu":
        raise ConfigError(f"ranks measures a CPU, found --device {options.device}")
    mpiexec = Path(sysconfig.get_path("scripts"), "mpiexec")
    if not mpiexec.exists():
        raise ConfigError("ranks needs mpiexec beside Python: run pip install '.[mpi]'")
    workloads = choose_workloads(options.workload or list(NAMES))
    found: dict[str, Any] = {"machine": machine.describe("cpu"), "us": {}}
    for workload in workloads:
        kinds = [(ranks, parts) for ranks in RANKS for parts in PARTS]
        runs: dict[str, list[dict[str, float]]] = {key(*kind): [] for kind in kinds}
        for _ in range(1 if options.quick else options.repeats):
            for ranks, parts in kinds:
                words = [mpiexec, "-n", str(ranks), sys.executable, "-m", "bench.ranks"]
                words += [workload.name, str(parts), *(["quick"] if options.quick else [])]
                done = subprocess.run(
                    words, stdout=subprocess.PIPE, text=True, env=environment(1), cwd=ROOT
                )
                if done.returncode:
                    raise XpnetError(f"{workload.name} on {ranks} ranks ended with an error")
                runs[key(ranks, parts)].append(json.loads(done.stdout.splitlines()[-1]))
        found["us"][workload.name] = runs
        print(row(workload.name, runs), row_of_parts(workload.name, runs), sep="\n", flush=True)
    publish(options, "ranks", table(found), found)
    return 0


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per workload."""
    lines = [
        f"# Steps of several ranks, on {found['machine']['processor']}, "
        f"{found['machine']['cores']} cores",
        "",
        "xpnet with numba, one thread per rank; µs, medians; the same batch on one rank or two.",
        "",
        "| | 1 rank | 2 ranks | speedup | the sum alone | its share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [row(name, runs) for name, runs in found["us"].items()]
    lines += [
        "",
        "With `reproducible_parts`: µs, and how many times as long as the same ranks without.",
        "",
        "| | 1 rank, 4 parts | 1 rank, 8 parts | 2 ranks, 4 parts | 2 ranks, 8 parts |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [row_of_parts(name, runs) for name, runs in found["us"].items()]
    return "\n".join(lines) + "\n"


def key(ranks: int, parts: int) -> str:
    """The name of the runs on so many ranks, in so many parts."""
    return f"{ranks}, {parts} parts" if parts else str(ranks)


def row(name: str, runs: dict[str, list[dict[str, float]]]) -> str:
    """A row of the table."""
    one, two = (statistics.median(r["step"] for r in runs[ranks]) for ranks in ("1", "2"))
    alone = statistics.median(found["sum"] for found in runs["2"])
    return (
        f"| {name} | {one:,.0f} | {two:,.0f} | {one / two:.2f} | {alone:,.0f} | "
        f"{100 * alone / two:.0f} % |"
    )


def row_of_parts(name: str, runs: dict[str, list[dict[str, float]]]) -> str:
    """A row of the table of `reproducible_parts`."""
    cells = []
    for ranks in RANKS:
        plain, *others = (
            statistics.median(found["step"] for found in runs[key(ranks, parts)]) for parts in PARTS
        )
        cells += [f"{step:,.0f}, {step / plain:.2f}" for step in others]
    return f"| {name} | {' | '.join(cells)} |"


def measure(workload: Workload, group: Group, parts: int) -> dict[str, float]:
    """On each rank: µs of a step, and of the sum of its gradients alone."""
    from bench.peers.xpnet_peer import Fast

    peer = Fast(workload, "cpu")
    peer.how = {"distributed": group, "reproducible_parts": parts}
    peer.repeat()
    step = statistics.median(peer.repeat() for _ in range(3))
    gradients, seconds = peer.network.flat_gradients, []
    for _ in range(SUMS):
        start = time.perf_counter()
        group.all_reduce(gradients)
        seconds.append(time.perf_counter() - start)
    return {"step": 1e6 * step, "sum": 1e6 * statistics.median(seconds)}


def main(name: str, parts: str, *words: str) -> None:
    """Called on each rank; the first one prints."""
    (workload,) = (one for one in WORKLOADS if one.name == name)
    group = mpi()
    found = measure(quick(workload) if "quick" in words else workload, group, int(parts))
    if group.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
