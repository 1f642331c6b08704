"""`python -m bench footprint`: what `import` costs, in seconds and in memory."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from bench.processes import Failed
from bench.processes import run as run_process
from xpnet.checkpoint import write_atomically

MODULES = {
    "Python alone": "",
    "NumPy": "import numpy",
    "xpnet": "import xpnet",
    "xpnet.train": "import xpnet.train",
    "PyTorch": "import torch",
    "JAX": "import jax, jax.numpy",
    "scikit-learn": "import sklearn.neural_network",
    "Keras on JAX": "import os; os.environ['KERAS_BACKEND'] = 'jax'; import keras",
    "Thinc": "import thinc.api",
}
RESULTS = Path(__file__).resolve().parent / "results"
# In plain Python: reading the figure must import nothing.
TELL = "print(next(int(s.split()[1]) for s in open('/proc/self/status') if 'VmHWM' in s) * 1024)"


def run(options: argparse.Namespace) -> int:
    """The command: interleaved, the first round (cold disk cache) left out."""
    wanted = {
        name: code
        for name, code in MODULES.items()
        if not options.quick or name in ("Python alone", "NumPy", "xpnet")
    }
    times: dict[str, list[float]] = {name: [] for name in wanted}
    resident: dict[str, int] = {}
    missing: dict[str, str] = {}
    for turn in range(1 + (1 if options.quick else options.repeats)):
        for name, code in wanted.items():
            if name in missing:
                continue
            try:
                done = run_process(["-c", f"{code}\n{TELL}"])
            except Failed as error:
                missing[name] = str(error).partition(": ")[2]
                continue
            resident[name] = int(done.output.splitlines()[-1])
            if turn:
                times[name].append(done.seconds)
    page = table(times, resident, missing)
    print(page)
    folder = options.folder or (None if options.quick else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found = {"seconds": times, "resident_bytes": resident, "missing": missing}
        write_atomically(folder / "footprint.json", (json.dumps(found, indent=1) + "\n").encode())
        write_atomically(folder / "footprint.md", page.encode())
    return 0


def table(times: dict[str, list[float]], resident: dict[str, int], missing: dict[str, str]) -> str:
    """Markdown: process start to exit, and what that is above Python alone."""
    base = statistics.median(times["Python alone"])
    lines = [
        "# Imports",
        "",
        "| | process, s | above Python alone, s | peak memory, MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in times.items():
        if name in missing:
            lines.append(f"| {name} | missing: {missing[name]} | | |")
            continue
        median = statistics.median(seconds)
        size = resident[name] / 1e6
        lines.append(f"| {name} | {median:.2f} | {median - base:.2f} | {size:.0f} |")
    return "\n".join(lines) + "\n"
