"""`python -m bench footprint`: what `import` costs, and how much memory training needs.

The growth is that of a separate process that does what `python -m xpnet.train` does with its
defaults for one epoch (read, split, train, validate, test), without its files and figures: the
peak of the process minus what it had after its imports. Compiled kernels count as imports: where
they are used, a training of one batch has loaded them before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

import numpy
import numpy.random  # which NumPy itself imports when it is first asked for

from bench.pages import publish
from bench.processes import Failed, memory
from bench.processes import run as run_process
from xpnet.accel import dispatch
from xpnet.backend import Backend, context
from xpnet.config import TrainConfig
from xpnet.data import Dataset, Splits
from xpnet.runs import factory
from xpnet.training import evaluate
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.history import History, Record

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
# Plain Python, because reading the figure must import nothing.
TELL = "print(next(int(s.split()[1]) for s in open('/proc/self/status') if 'VmHWM' in s) * 1024)"
KINDS = {"formulas": "xpnet", "compiled": "xpnet with compiled kernels"}


def run(options: argparse.Namespace) -> int:
    """The command: interleaved, without the first round, whose disk cache is cold."""
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
    dataset = "digits" if options.quick else "mnist"
    growth: dict[str, dict[str, int]] = {}
    for kind, name in KINDS.items():
        try:
            growth[name] = grown(dataset, kind)
        except Failed as error:
            missing[name] = str(error).partition(": ")[2]
    page = table(times, resident, missing) + "\n" + growth_table(dataset, growth, missing)
    figures = {
        "seconds": times,
        "resident_bytes": resident,
        "growth": growth,
        "missing": missing,
    }
    publish(options, "footprint", page, figures)
    return 0


def table(times: dict[str, list[float]], resident: dict[str, int], missing: dict[str, str]) -> str:
    """Markdown: seconds from process start to exit, and the difference to Python alone."""
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


def growth_table(dataset: str, growth: dict[str, dict[str, int]], missing: dict[str, str]) -> str:
    """Markdown: the memory that training adds to the imports, and its ratio to the pixels."""
    lines = [
        f"# Training on {dataset}, default network",
        "",
        "| | memory grows by, MB | pixels, MB | times the pixels |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in KINDS.values():
        if name in missing:
            lines.append(f"| {name} | missing: {missing[name]} | | |")
            continue
        size, pixels = growth[name]["grown"], growth[name]["pixels"]
        lines.append(f"| {name} | {size / 1e6:.1f} | {pixels / 1e6:.1f} | {size / pixels:.2f} |")
    return "\n".join(lines) + "\n"


def grown(dataset: str, kind: str, steps: int = 0) -> dict[str, int]:
    """Growth of a training process at its peak, and the size of all pixels, in bytes.

    `dataset`: a name or a path; `kind`: one of `KINDS`; `steps`: fewer than an epoch has.
    Raises `Failed`.
    """
    done = run_process(["-m", "bench.footprint", dataset, kind, str(steps)])
    result: dict[str, int] = json.loads(done.output.splitlines()[-1])
    return result


class Stop(Callback):
    """Ends training at the first record."""

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Stop."""
        run.stop = True


def train(dataset: str, steps: int) -> Splits:
    """Read, train for an epoch or for `steps`, validate and test, with all defaults."""
    config = TrainConfig(dataset=dataset, log_every=f"{steps} iterations" if steps else "1 epoch")
    _, splits = factory.read_splits(config)
    fit_and_test(config, splits)
    return splits


def fit_and_test(config: TrainConfig, splits: Splits) -> None:
    """The network of `config`, trained on `splits` until its first record, then tested."""
    network = factory.build_network(config, splits.train, Backend())
    how = factory.fit_normalisation(config, splits.train)
    factory.train_from_config(
        config,
        network,
        splits.train,
        splits.validation,
        how,
        callbacks=[Stop()],
        history=History(),
    )
    evaluate(network, factory.to_device(network, splits.test, how))


def load_kernels() -> None:
    """Load every kernel that the default training uses. Raises `Failed` without numba."""
    context.change(kernels_enabled=True)
    dispatch.ENOUGH_STEPS = 0
    if dispatch.numba_kernels() is None:
        raise Failed("compiled: needs numba, which is not installed")
    # Several batches, whose rows are gathered, with as many features as a product needs to be
    # computed in groups.
    pixels = numpy.eye(512, dtype=numpy.uint8)
    few = Dataset(pixels, numpy.arange(512) % 10, tuple("0123456789"))
    fit_and_test(TrainConfig(hidden=(32,)), Splits(few, few, few))


def main(argv: Sequence[str]) -> int:
    """The process that is measured, with what `grown` is given; prints its result."""
    dataset, kind, steps = argv
    context.change(kernels_enabled=False)
    if kind == "compiled":
        load_kernels()
    imported = memory("VmRSS")
    splits = train(dataset, int(steps))
    parts = [part.x for part in (splits.train, splits.validation, splits.test) if part is not None]
    pixels = sum(x.size * x.dtype.itemsize for x in parts)
    print(json.dumps({"grown": memory("VmHWM") - imported, "pixels": pixels}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
