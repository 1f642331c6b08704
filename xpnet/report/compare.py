"""Comparison of runs: the table, and the page with table and curves.

The table is printed; a page of one file has it too, with the curves over one another. All that is
read are the `config.toml`, `history.csv` and `metrics.json` of each folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xpnet.config import TrainConfig
from xpnet.errors import printable, truncate
from xpnet.figures.curves import Curve, drawable_points
from xpnet.figures.plots import horizontal
from xpnet.report.diagrams import Diagram, curves_diagram
from xpnet.report.rendering import render
from xpnet.runs.run_reader import RunRecord
from xpnet.training.history import loss_text
from xpnet.utils.text import percent
from xpnet.utils.toml import toml_value

_LONGEST = 30
_CURVES = {
    "Training loss": ("loss", None),
    "Training accuracy": ("accuracy", None),
    "Validation loss": ("val_loss", min),
    "Validation accuracy": ("val_accuracy", max),
}


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, a text for each run, and which of these are the best."""

    name: str
    texts: list[str]
    best: frozenset[int] = frozenset()


def rows(runs: Sequence[RunRecord]) -> list[Row]:
    """The settings in which the runs differ, and their metrics.

    The best accuracy is the highest; the best loss, calibration error and time are the lowest.
    Only finished runs are compared. No value is marked as the best where all are equal, or where
    they were measured on different samples.
    """
    found = [*_settings([run.config for run in runs])]
    found.append(Row("state", ["finished" if run.metrics else "not finished" for run in runs]))
    figures = [_figures(run) for run in runs]
    finished = [run.metrics is not None for run in runs]
    apart = set(_PARTS) if _of_different_data(runs) else _different_parts(runs)
    for name, (show, pick) in _SHOWN.items():
        values = [figure.get(name) for figure in figures]
        texts = ["–" if value is None else show(value) for value in values]
        is_fair = _PARTS_OF.get(name) not in apart and not _of_different_data(runs)
        found.append(Row(name, texts, _best(values, finished, pick) if is_fair else frozenset()))
    return found


def _settings(configs: Sequence[TrainConfig]) -> Iterator[Row]:
    for name in TrainConfig.model_fields:
        if name == "report":  # it changes nothing in what is compared
            continue
        values = [getattr(config, name) for config in configs]
        if any(value != values[0] for value in values):
            yield Row(name, ["–" if v is None else _plain(toml_value(v)) for v in values])


def _plain(text: str) -> str:
    """Text from a file or the name of a folder, without control characters for the terminal."""
    return truncate(printable(text), _LONGEST)


def _figures(run: RunRecord) -> dict[str, float | None]:
    """The metrics of a run, by the names of `_SHOWN`; those of its last record if unfinished."""
    if (m := run.metrics) is not None:
        return {
            "epochs done": m.epochs,
            "seconds": m.seconds,
            "parameters": m.parameters,
            "train accuracy": m.train_accuracy,
            "train loss": m.train_loss,
            "validation accuracy": m.validation_accuracy,
            "validation loss": m.validation_loss,
            "test accuracy": m.test_accuracy,
            "test loss": m.test_loss,
            "calibration error": m.test_calibration_error,
        }
    if not run.history.records:
        return {}
    last = run.history.records[-1]
    return {
        "epochs done": last.epoch,
        "seconds": sum(run.history.column("seconds")),
        "train accuracy": last.accuracy,
        "train loss": last.loss,
        "validation accuracy": last.val_accuracy,
        "validation loss": last.val_loss,
    }


_SHOWN: dict[str, tuple[Any, Any]] = {
    "epochs done": ("{:,}".format, None),
    "seconds": ("{:,.1f}".format, min),
    "parameters": ("{:,}".format, None),
    "train accuracy": (percent, max),
    "train loss": (loss_text, min),
    "validation accuracy": (percent, max),
    "validation loss": (loss_text, min),
    "test accuracy": (percent, max),
    "test loss": (loss_text, min),
    "calibration error": (percent, min),
}
"""The format of each metric, and how the best of several is chosen."""

_PARTS = ("test", "validation", "train")
_PARTS_OF = {name: part for name in _SHOWN for part in _PARTS if name.startswith(f"{part} ")}
_PARTS_OF["calibration error"] = "test"
"""The part of the data on which a metric is measured."""


def _best(values: Sequence[float | None], comparable: Sequence[bool], pick: Any) -> frozenset[int]:
    some = {
        number: value
        for number, (value, counts) in enumerate(zip(values, comparable, strict=True))
        if counts and value is not None and math.isfinite(value)
    }
    if pick is None or len(set(some.values())) < 2:
        return frozenset()
    best = pick(some.values())
    return frozenset(number for number, value in some.items() if value == best)


def names_of(runs: Sequence[RunRecord]) -> list[str]:
    """The name of each run: that of its folder or, where two are the same, its path."""
    short = [run.folder.resolve().name or str(run.folder) for run in runs]
    chosen = short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
    return [_plain(name) for name in chosen]


def _of_different_data(runs: Sequence[RunRecord]) -> bool:
    return len({run.metrics.dataset.sha256 for run in runs if run.metrics}) > 1


def _different_parts(runs: Sequence[RunRecord]) -> set[str]:
    """The parts of the data that are not the same samples in all finished runs."""
    done = [run for run in runs if run.metrics is not None]
    known = all(run.metrics.samples_sha256 is not None for run in done if run.metrics)
    parts = [_digests(run) if known else _by_settings(run) for run in done]
    return {part for part in _PARTS if len({one[part] for one in parts}) > 1}


def _digests(run: RunRecord) -> dict[str, Any]:
    assert run.metrics is not None
    assert run.metrics.samples_sha256 is not None
    return run.metrics.samples_sha256.model_dump()


def _by_settings(run: RunRecord) -> dict[str, Any]:
    """The settings that determine the samples of each part, for a run without digests of them."""
    assert run.metrics is not None
    counts, config, seed = run.metrics.samples, run.config, run.config.seed_of_split
    total = counts.train + counts.validation + counts.test
    # With its own test set, the seed divides only the rest.
    is_drawn = config.test is not None or counts.test == max(1, round(total / 5))
    target = getattr(config, "target", None)
    test = (run.metrics.dataset.sha256, target, counts.test, seed if is_drawn else None)
    validation = (test, counts.validation, seed if counts.validation else None)
    return {"test": test, "validation": validation, "train": validation}


def remarks(runs: Sequence[RunRecord]) -> list[str]:
    """Why the metrics of these runs cannot be compared, in sentences."""
    found = []
    if _of_different_data(runs):
        found.append("The runs are of different data: their figures cannot be compared.")
    elif apart := _different_parts(runs):
        names = {"test": "test", "validation": "validation", "train": "training"}
        *some, last = (names[part] for part in _PARTS if part in apart)
        which = f"{', '.join(some)} and {last}" if some else last
        found.append(
            f"The runs have different {which} samples, so the best of these figures is not marked: "
            f"with the same --split-seed, --test and --validation they would have the same."
        )
    if any(run.metrics is None for run in runs):
        found.append("A run that is not finished shows its last record, and is never the best.")
    return found


def text_table(names: Sequence[str], lines: Sequence[Row], width: int | None = None) -> str:
    """The table as plain text, with a * after the best value of each row.

    With a `width` in characters, the runs that do not fit beside the others come below them.
    """
    head = max(len(line.name) for line in lines)
    columns = [
        [f"{name}  ", *(line.texts[i] + (" *" if i in line.best else "  ") for line in lines)]
        for i, name in enumerate(names)
    ]
    blocks: list[list[list[str]]] = [[]]
    widest = free = width - head if width else sys.maxsize
    for column in columns:
        wide = 2 + max(map(len, column))
        if blocks[-1] and wide > free:
            blocks.append([])
            free = widest
        free -= wide
        blocks[-1].append([f"{cell:>{wide}}" for cell in column])
    first = ["", *(line.name for line in lines)]
    return "\n\n".join(
        "\n".join(
            f"{name:<{head}}{''.join(cells)}".rstrip()
            for name, *cells in zip(first, *block, strict=True)
        )
        for block in blocks
    )


def page(runs: Sequence[RunRecord]) -> bytes:
    """The table and the curves of runs as an HTML document."""
    names = names_of(runs)
    return render(
        "comparison.html",
        names=names,
        rows=rows(runs),
        remarks=remarks(runs),
        curves=list(_diagrams(runs, names)),
    )


def _diagrams(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Diagram]:
    drawn = [(i, run.history) for i, run in enumerate(runs) if run.history.records]
    places = {i: horizontal(history) for i, history in drawn}
    units = {unit for _, unit in places.values()}
    unit = "epoch" if units == {"epoch"} else "step"
    for title, (column, best) in _CURVES.items():
        curves = []
        for i, history in drawn:
            x = places[i][0] if unit == "epoch" else history.column("step")
            points = drawable_points(history, x, column)
            star = best(points, key=lambda point: point[1]) if best and points else None
            curves.append(Curve(names[i], points, colour=i, best=star))
        if any(curve.points for curve in curves):
            yield curves_diagram(title, curves, unit=unit, as_percent="accuracy" in column)
