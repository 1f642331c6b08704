"""`python -m bench scaling`: µs per sample over width, depth, batch size and rows."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import machine
from bench.peers import BY_NAME, NO_PEERS
from bench.timing import Workers, measure
from bench.worker import THREADS
from bench.workloads import Workload, quick
from xpnet._files import write_atomically
from xpnet.backend import Backend
from xpnet.figures.style import BLUE, GREY, SMALL, TEXT, TITLE, VERMILION, new_figure, write

PEERS = ("torch-fused", "jax-scan")
RESULTS = Path(__file__).resolve().parent / "results"
COLOURS = {"floor": VERMILION, "xpnet": BLUE, "xpnet-fast": BLUE}
REPEATS = 3


def _net(hidden: tuple[int, ...], batch: int, rows: int) -> Workload:
    relu = ("relu",) * len(hidden)
    return Workload("scaling", (784, *hidden, 10), relu, batch, rows, "adam", 1e-3)


Axis = tuple[tuple[int, ...], Callable[[int], Workload]]
AXES: dict[str, Axis] = {
    "width": ((16, 64, 256, 1024, 4096), lambda n: _net((n, n), 128, 128 * (4 if n > 999 else 24))),
    "depth": ((1, 2, 4, 8, 16, 32), lambda n: _net((128,) * n, 128, 128 * 48)),
    "batch": ((1, 4, 16, 64, 256, 1024, 4096), lambda n: _net((128,), n, n * max(2, 4096 // n))),
    "rows": ((1_000, 4_000, 16_000, 64_000), lambda n: _net((128,), 100, n)),
}
"""What is varied, its values, and the workload with such a value."""


def run(options: argparse.Namespace) -> int:
    """The command."""
    Backend(options.device)
    able = [c for c in BY_NAME.values() if options.device.partition(":")[0] in c.devices]
    wanted = {*NO_PEERS, *(options.peer or PEERS)}
    points: list[dict[str, Any]] = []
    threads = 1 if options.quick else THREADS
    chosen = [c for c in able if c.name in wanted]
    with Workers(chosen, options.device, threads) as workers:
        for axis, (values, make) in AXES.items():
            for value in values[:2] if options.quick else values:
                workload = quick(make(value)) if options.quick else make(value)
                found = measure(workers.all, workload, 1 if options.quick else REPEATS)
                per_sample = {
                    name: 1e6 * statistics.median(times) / workload.batch
                    for name, times in found.seconds.items()
                }
                absent = found.missing | found.left_out
                points.append({"axis": axis, "value": value, "us": per_sample, "absent": absent})
                line = "  ".join(f"{name} {us:.3g}" for name, us in per_sample.items())
                print(f"{axis} {value}: {line} µs a sample", flush=True)
    folder = options.folder or (None if options.quick else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found_all = {"machine": machine.describe(options.device), "points": points}
        data = json.dumps(found_all, indent=1, ensure_ascii=False) + "\n"
        name = "scaling" if options.device == "cpu" else f"scaling-{options.device.split(':')[0]}"
        write_atomically(folder / f"{name}.json", data.encode())
        write(figure(points), folder / f"{name}.png")
    return 0


def figure(points: list[dict[str, Any]]) -> Figure:
    """A panel for each of `AXES`, both axes logarithmic."""
    whole = new_figure(13, 9)
    whole.suptitle("Training: µs a sample", fontsize=TITLE)
    styles = {"xpnet-fast": ("D", "-."), "torch-fused": ("s", "--"), "jax-scan": ("^", ":")}
    for axes, axis in zip(whole.subplots(2, 2).ravel(), AXES, strict=True):
        here = [point for point in points if point["axis"] == axis]
        names = dict.fromkeys(name for point in here for name in point["us"])
        for name in names:
            some = [(p["value"], p["us"][name]) for p in here if name in p["us"]]
            marker, line = styles.get(name, ("o", "-"))
            axes.loglog(
                *zip(*some, strict=True),
                marker=marker,
                linestyle=line,
                color=COLOURS.get(name, GREY),
                linewidth=2,
                label=BY_NAME[name].title,
            )
        axes.set_xlabel(LABELS[axis], fontsize=TEXT)
        axes.set_xticks(sorted({point["value"] for point in here}))
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            side.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axes.tick_params(labelsize=SMALL)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=SMALL)
    return whole


LABELS = {
    "width": "units of each of two hidden layers (batch 128, Adam)",
    "depth": "hidden layers of 128 (batch 128, Adam)",
    "batch": "samples a batch (784-128-10, Adam)",
    "rows": "rows in memory (784-128-10, batch 100, Adam)",
}
