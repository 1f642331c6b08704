"""Runs the recipes of this folder (`*.toml`), and compares each with the figure of its source.

`python examples/reproduce.py [RECIPE ...]` runs the recipes (all, or those named), each with its
seeds, as `python -m xpnet.train` does, two at a time with one BLAS thread each, and writes
`examples/reproduced.md` and `examples/reproduced_cs419.md`. A run that is finished in
`runs/reproduce/` is not repeated, so the program may be interrupted and restarted.
`--quick` trains for two epochs on the digits that come with xpnet, once for each recipe, to check
that all of them run; it writes no table.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import make_kaggle_csv

from xpnet._files import write_atomically
from xpnet.cli import console
from xpnet.cli.options import from_command_line
from xpnet.errors import ConfigError, XpnetError

HERE = Path(__file__).resolve().parent
RUNS = Path("runs/reproduce")
QUICK = ["--dataset=digits", "--test=1000", "--validation=500", "--epochs=2"]
AT_ONCE = 2

Figures = dict[str, float]
"""Accuracies in %: `epoch 1` and `train` (training set), `dev` (validation), `test`; `seconds`."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a table: a recipe, what is changed in it, and what its source reports."""

    recipe: str
    what: str = ""
    flags: Mapping[str, object] = field(default_factory=dict)
    source: Figures = field(default_factory=dict)
    shown: tuple[str, ...] = ("test",)
    seeds: tuple[int, ...] = (0, 1, 2)
    closed_by: str = ""
    """The name of another line, which reaches the source's figure where this one does not."""
    average_of: tuple[Line, ...] = ()

    @property
    def name(self) -> str:
        """`recipe`, or `recipe, what`."""
        return f"`{self.recipe}`" + (f", {self.what}" if self.what else "")


PUBLISHED = "the source's arithmetic"
FASTER = "`ten_units_full_batch`, rate 0.14"
TEN = {"train": 87.7, "test": 85.8}
FOUR_DAYS = {"epoch 1": 85.45, "train": 94.73, "test": 94.78}
AS_42 = (42, 43, 44)
NO_AUGMENTATION = {
    "augment_shift": 0,
    "augment_rotation": 0,
    "augment_scale": 0,
    "augment_probability": 1,
}


def pairs(suffix: str = "", flags: Mapping[str, object] | None = None) -> list[Line]:
    """The nine pairs of activations; the source names the figure of relu+tanh."""
    return [
        Line(
            "cs419_activations",
            f"{first}+{second}{suffix}",
            {"activation": f"{first},{second}"} | dict(flags or {}),
            {"test": 97.72} if (first, second) == ("relu", "tanh") else {},
            seeds=AS_42,
            closed_by="" if suffix else "`cs419_activations`, relu+tanh, cosine schedule",
        )
        for first, second in product(("relu", "tanh", "sigmoid"), repeat=2)
    ]


PAIRS = pairs()
COSINE = pairs(", cosine schedule", {"schedule": "cosine"})
OPTIMIZERS = [
    Line(
        "cs419_optimizers", f"{name}, batches of {size}", flags | {"batch_size": size}, seeds=AS_42
    )
    for name, flags in (
        ("Adam", {"optimizer": "adam"}),
        ("RMSprop", {}),
        ("SGD 0.01, momentum 0.9", {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9}),
    )
    for size in (16, 32, 64)
]
MAIN = [
    Line("ten_units_full_batch", "", {}, TEN, ("train", "test"), closed_by=FASTER),
    Line("ten_units_full_batch", PUBLISHED, {}, TEN, ("train", "test"), closed_by=FASTER),
    Line("ten_units_full_batch", "rate 0.14", {"learning_rate": 0.14}, TEN, ("train", "test")),
    Line("ten_units_readme", shown=("train", "test")),
    Line("tuned_width_and_l2", source={"dev": 92, "test": 91}, shown=("dev", "test"), seeds=(0,)),
    Line("four_day_sgd", "He", {}, FOUR_DAYS, tuple(FOUR_DAYS)),
    Line("four_day_sgd", "Xavier", {"initializer": "xavier_normal"}, FOUR_DAYS, tuple(FOUR_DAYS)),
    *(line for line in [*PAIRS, *COSINE] if line.source),
    *(
        Line(
            "cs419_activations",
            f"average of the nine pairs{suffix}",
            source={"test": 97.36},
            seeds=AS_42,
            closed_by=closed_by,
            average_of=tuple(nine),
        )
        for nine, suffix, closed_by in (
            (PAIRS, "", "`cs419_activations`, average of the nine pairs, cosine schedule"),
            (COSINE, ", cosine schedule", ""),
        )
    ),
    Line(
        "cs419_regularisation",
        "standard",
        NO_AUGMENTATION | {"dropout": 0},
        {"test": 97.72},
        seeds=AS_42,
        closed_by="`cs419_activations`, relu+tanh, cosine schedule",
    ),
    Line("cs419_regularisation", "augmentation", {"dropout": 0}, {"test": 97.69}, seeds=AS_42),
    Line("cs419_regularisation", "dropout 0.1", NO_AUGMENTATION, {"test": 96.69}, seeds=AS_42),
    Line("cs419_regularisation", "both", {}, {"test": 96.15}, seeds=AS_42),
    Line("best_mlp"),
    Line("best_mlp_augmented"),
]


def measure(line: Line, seed: int, quick: bool) -> Figures:
    """Run a line with a seed, unless that was done before, and read what came out."""
    folder = RUNS / line.recipe / f"{slug(line.what)}{'quick' if quick else ''}{seed}"
    if line.what == PUBLISHED:
        return published(folder, seed)
    argv = [f"--config={HERE / line.recipe}.toml", f"--seed={seed}", "--threads=1"]
    argv += [f"--{key.replace('_', '-')}={value}" for key, value in line.flags.items()]
    argv += QUICK if quick else []
    space = HERE / f"{line.recipe}.search.toml"
    if space.exists():
        run(
            ["-m", "xpnet.tune", space, f"--folder={folder}", f"--jobs={AT_ONCE}", "--final", *argv]
        )
        return searched(folder)
    wanted = from_command_line(argv, "reproduce.py").to_toml()
    if not (folder / "metrics.json").exists() or (folder / "config.toml").read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run(["-m", "xpnet.train", f"--run={folder}", *argv])
    return trained(folder)


def run(argv: list[object]) -> str:
    """What a Python process of its own prints. Raises `XpnetError` with its words if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise XpnetError(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout}")
    return done.stdout


def trained(folder: Path) -> Figures:
    """The figures of a run folder."""
    metrics = json.loads((folder / "metrics.json").read_text())
    with (folder / "history.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    figures = {
        "epoch 1": first["accuracy"],
        "train": metrics["train_accuracy"],
        "dev": metrics["validation_accuracy"] or "nan",
        "test": metrics["test_accuracy"],
    }
    return {name: 100 * float(value) for name, value in figures.items()} | {
        "seconds": metrics["seconds"]
    }


def searched(folder: Path) -> Figures:
    """The figures of a search folder: the best trial's dev, the final test, all its seconds."""
    with (folder / "trials.csv").open(newline="") as file:
        trials = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    seconds = sum(float(row["seconds"]) for row in trials)
    dev = 100 * max(float(row["val_accuracy"]) for row in trials)
    final = trained(folder / "final")
    return final | {"dev": dev, "seconds": seconds + final["seconds"]}


def published(folder: Path, seed: int) -> Figures:
    """What `ten_units_as_published.py` prints."""
    out = folder / "printed.txt"
    if not out.exists():
        script, data = HERE / "ten_units_as_published.py", make_kaggle_csv.DEFAULT
        text = run([script, data, seed])
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    train, test, seconds = map(float, re.findall(r"[\d.]+", out.read_text()))
    return {"train": train, "test": test, "seconds": seconds}


def slug(what: str) -> str:
    """`what` as part of a folder's name."""
    return "".join(f"{word}-" for word in re.findall(r"[a-z0-9.]+", what.lower()))


def ranked(lines: list[Line], found: Mapping[Line, list[Figures]]) -> list[Line]:
    """The best on the test set first."""
    return sorted(lines, key=lambda line: -statistics.fmean(r["test"] for r in found[line]))


def averaged(pairs: Iterable[list[Figures]]) -> list[Figures]:
    """For each seed the mean of each figure over the pairs."""
    seeds = zip(*pairs, strict=True)
    return [{key: statistics.fmean(run[key] for run in runs) for key in runs[0]} for runs in seeds]


def describe(line: Line, runs: list[Figures]) -> str:
    """The line in Markdown."""

    def each(show: Callable[[str], str]) -> str:
        return "<br>".join(filter(None, map(show, line.shown)))

    def ours(name: str) -> str:
        values = [run[name] for run in runs]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{name} {statistics.fmean(values):.2f}{spread}"

    def source(name: str) -> str:
        return f"{name} {line.source[name]:g}" if name in line.source else ""

    def gap(name: str) -> str:
        return f"{difference(line, runs, name):+.2f}" if name in line.source else ""

    seconds = statistics.median(run["seconds"] for run in runs)
    return f"| {line.name} | {each(source)} | {each(ours)} | {each(gap)} | {seconds:.0f} |"


def difference(line: Line, runs: list[Figures], name: str) -> float:
    """Our mean less the source's figure."""
    return statistics.fmean(run[name] for run in runs) - line.source[name]


def table(lines: list[Line], found: Mapping[Line, list[Figures]]) -> str:
    """The lines in Markdown, and below them what is below its source, and what reaches it."""
    rows = [
        "| recipe | source, % | ours, %: mean ± deviation of 3 seeds | difference | median s |",
        "| --- | --- | --- | --- | --- |",
        *(describe(line, found[line]) for line in lines),
    ]
    notes = []
    for line in lines:
        gaps = {n: difference(line, found[line], n) for n in line.shown if n in line.source}
        short = [f"{n} by {-gap:.2f}" for n, gap in gaps.items() if gap < 0]
        if not short:
            continue
        note = f"- {line.name} is below its source: {', '.join(short)} points."
        if line.closed_by:
            note += f" The smallest change we found that reaches the source: {line.closed_by}."
        notes.append(note)
    return "\n".join([*rows, "", *notes]).strip() + "\n"


def main() -> int:
    """The command: 1 if a figure of a source is not reached, also with no other line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    everything = [*MAIN, *(x for x in [*PAIRS, *COSINE, *OPTIMIZERS] if x not in MAIN)]
    known = list(dict.fromkeys(line.recipe for line in everything))
    if unknown := set(options.recipes) - set(known):
        raise ConfigError(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    lines = [line for line in everything if line.recipe in (options.recipes or known)]
    if options.quick:
        firsts = {line.recipe: line for line in reversed(lines)}
        lines = [replace(firsts[r], seeds=firsts[r].seeds[:1]) for r in known if r in firsts]
    elif not make_kaggle_csv.DEFAULT.exists():
        make_kaggle_csv.make(make_kaggle_csv.DEFAULT)
    found = run_all([line for line in lines if not line.average_of], options.quick)
    if options.quick:
        return 0
    for line in lines:
        if line.average_of:
            found[line] = averaged(found[pair] for pair in line.average_of)
    shown = table([line for line in MAIN if line in found], found)
    print(f"\n{shown}")
    if not options.recipes:
        write_atomically(HERE / "reproduced.md", shown.encode())
        detail = "\n".join(table(ranked(x, found), found) for x in (PAIRS, COSINE, OPTIMIZERS))
        write_atomically(HERE / "reproduced_cs419.md", detail.encode())
    missed = [
        line.name
        for line in MAIN
        if line in found and not line.closed_by
        if any(difference(line, found[line], n) < 0 for n in line.shown if n in line.source)
    ]
    return 1 if missed else 0


def run_all(lines: list[Line], quick: bool) -> dict[Line, list[Figures]]:
    """Searches one after the other, because they use all cores; the others in parallel."""
    found: dict[Line, list[Figures]] = {}
    alone = [line for line in lines if (HERE / f"{line.recipe}.search.toml").exists()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in alone:
            found[line] = [measure_and_print(line, quick, seed) for seed in line.seeds]
        others = [line for line in lines if line not in alone]
        waiting = {
            x: [pool.submit(partial(measure_and_print, x, quick), s) for s in x.seeds]
            for x in others
        }
        for line, runs in waiting.items():
            found[line] = [run.result() for run in runs]
    return found


def measure_and_print(line: Line, quick: bool, seed: int) -> Figures:
    """`measure`, and print a line."""
    figures = measure(line, seed, quick)
    words = "  ".join(f"{name} {figures[name]:.2f}" for name in line.shown)
    print(f"{line.name}, seed {seed}: {words}  ({figures['seconds']:.0f} s)", flush=True)
    return figures


if __name__ == "__main__":
    raise SystemExit(console.run(main))
