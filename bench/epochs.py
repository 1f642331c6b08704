"""`python -m bench epochs`: how long 60,000 digits take, by the size of the batch.

784-512-256-10, Adam, in whole batches: the time of one sample, multiplied by 60,000.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from bench import machine
from bench.pages import publish
from bench.peers import BY_NAME
from bench.timing import Workers, measure
from bench.worker import THREADS
from bench.workloads import Workload, quick
from xpnet.backend import Backend

SAMPLES = 60_000
BATCHES = (64, 128, 1024, 8192)
PEERS = ("launch", "torch-fused", "torch-graph", "jax-scan")
REPEATS = 3


def workload(batch: int) -> Workload:
    """The number of whole batches that is nearest to all digits."""
    rows = batch * round(SAMPLES / batch)
    return Workload(f"batch {batch}", (784, 512, 256, 10), ("relu",) * 2, batch, rows, "adam", 1e-3)


def run(options: argparse.Namespace) -> int:
    """The command."""
    Backend(options.device)
    kind = options.device.partition(":")[0]
    wanted = {"floor", "xpnet", "xpnet-fast", *(options.peer or PEERS)}
    able = [c for c in BY_NAME.values() if kind in c.devices and c.name in wanted]
    found: list[dict[str, Any]] = []
    with Workers(able, options.device, 1 if options.quick else THREADS) as workers:
        for batch in BATCHES:
            given = quick(workload(batch)) if options.quick else workload(batch)
            one = measure(workers.all, given, 1 if options.quick else REPEATS)
            seconds = {
                name: SAMPLES * statistics.median(times) / given.batch
                for name, times in one.seconds.items()
            }
            absent = one.missing | one.left_out
            found.append({"batch": batch, "seconds": seconds, "absent": absent})
            line = "  ".join(f"{name} {s:.3g}" for name, s in seconds.items())
            print(f"batch {batch}: {line} s", flush=True)
    figures = {"machine": machine.describe(options.device), "batches": found}
    publish(options, f"epochs-{kind}", table(found), figures)
    return 0


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row per competitor, a column per batch size; below it what is missing."""
    names = dict.fromkeys(name for one in found for name in one["seconds"])
    head = ["ms for 60,000 digits", *(f"batch {one['batch']:,}" for one in found)]
    rows = [head, ["---", *["---:"] * len(found)]]
    for name in names:
        cells = [one["seconds"].get(name) for one in found]
        texts = [f"{1e3 * s:,.1f}" if s is not None else "—" for s in cells]
        rows.append([BY_NAME[name].title, *texts])
    absent = {name: why for one in found for name, why in one["absent"].items()}
    lines = [f"- {BY_NAME[name].title}: {why}" for name, why in absent.items()]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *lines, ""])
