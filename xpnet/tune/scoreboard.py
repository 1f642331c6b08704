"""The table of trials that a search prints, and the results that it writes to its folder."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from xpnet._files import write_atomically
from xpnet.cli.console import say
from xpnet.errors import ConfigError, printable
from xpnet.training.history import Record, loss_text
from xpnet.tune.search import OBJECTIVES, Search, Trial
from xpnet.tune.space import Range, Space, Values, configure
from xpnet.utils.shell import shell_command
from xpnet.utils.toml import toml_value

TOP = 20
"""Trials in the ranked table."""
_REDRAW = 0.2  # seconds


class Scoreboard:
    """A line for each finished trial; on a terminal, lines of the running trials below them."""

    def __init__(self, space: Space, stream: TextIO | None = None) -> None:
        self.out = sys.stdout if stream is None else stream
        self.live = self.out.isatty()
        self.widths = {key: _width(key, axis) for key, axis in space.items()}
        self.running: dict[int, _Running] = {}
        self.drawn, self.drawn_at = 0, 0.0

    def head(self, first: str = "trial") -> str:
        """The names of the columns."""
        names = [f"{key:>{width}}" for key, width in self.widths.items()]
        return "  ".join([first, *names, " epochs", "val acc", "val loss", "seconds"])

    def line(self, trial: Trial) -> str:
        """A finished trial as a row of the table."""
        outcome = trial.outcome
        assert outcome is not None
        cells = self._cells(trial, f"{outcome.epochs}" if outcome.epochs else "", outcome.kept)
        cells.append(f"{outcome.seconds:7.1f}")
        if trial.state != "complete":
            cells.append(trial.state)
        if outcome.reason:
            cells.append(printable(outcome.reason))
        return "  ".join(cells)

    def table(self, ranked: Sequence[Trial]) -> str:
        """The best `TOP` trials in a table; without those that still run."""
        ranked = [trial for trial in ranked if trial.outcome]
        lines = [f"rank  {self.head()}"]
        for rank, trial in enumerate(ranked[:TOP], start=1):
            place = f"{rank}" if trial.state == "complete" else "-"
            lines.append(f"{place:>4}  {self.line(trial)}")
        if len(ranked) > TOP:
            lines.append(f"      and {len(ranked) - TOP} more in trials.csv")
        return "\n".join(lines)

    def begin(self, trial: Trial, epochs: int) -> None:
        """Start to show a running trial."""
        self.running[trial.number] = _Running(trial, epochs, time.monotonic())

    def progress(self, number: int, record: Record) -> None:
        """Update a running trial by its new record."""
        self.running[number].record = record

    def end(self, trial: Trial) -> None:
        """Print the line of a finished trial."""
        self.running.pop(trial.number, None)
        self.erase()
        say(self.line(trial), file=self.out)

    def draw(self) -> None:
        """Redraw the lines of the running trials on a terminal, every `_REDRAW` seconds at most."""
        now = time.monotonic()
        if not self.live or (self.drawn and now < self.drawn_at + _REDRAW):
            return
        # Lines that wrap or scroll away could not be erased.
        columns, rows = shutil.get_terminal_size()
        shown = list(self.running.values())[: max(rows - 2, 1)]
        lines = [self._running(item, now)[: columns - 1] for item in shown]
        self.erase()
        if lines:
            say(*lines, file=self.out)
        self.drawn, self.drawn_at = len(lines), now

    def erase(self) -> None:
        """Erase the lines of the running trials."""
        if self.drawn:
            print(f"\x1b[{self.drawn}F\x1b[J", end="", file=self.out, flush=True)
            self.drawn = 0

    def _running(self, item: _Running, now: float) -> str:
        done = f"{item.record.epoch if item.record else 0}/{item.epochs}"
        cells = self._cells(item.trial, done, item.record)
        return "  ".join([*cells, f"{now - item.began:7.1f}", "…"])

    def _cells(self, trial: Trial, epochs: str, record: Record | None) -> list[str]:
        values = [f"{show(trial.point[key]):>{width}}" for key, width in self.widths.items()]
        accuracy, loss = (record.val_accuracy, record.val_loss) if record else (None, None)
        return [
            f"{trial.number:>5}",
            *values,
            f"{epochs:>7}",
            f"{100 * accuracy:5.2f} %" if accuracy is not None else " " * 7,
            f"{loss_text(loss):>8}" if loss is not None else " " * 8,
        ]


@dataclass
class _Running:
    trial: Trial
    epochs: int
    began: float
    record: Record | None = None


def _width(key: str, axis: Any) -> int:
    widest = max(len(show(value)) for value in axis.values) if isinstance(axis, Values) else 9
    return max(len(key), widest)


def show(value: Any) -> str:
    """The value of a setting as short text for a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else toml_value(value)


def to_csv(trials: Sequence[Trial], space: Space) -> bytes:
    """One line per trial, by number, in full precision; empty where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = ("val_accuracy", "val_loss", "accuracy", "loss")
    writer.writerow(
        ["number", "state", *space, *measured, "kept_epoch", "epochs", "seconds", "reason"]
    )
    for trial in trials:
        outcome = trial.outcome
        kept = outcome.kept if outcome else None
        writer.writerow(
            [
                trial.number,
                trial.state,
                *map(_exact, trial.point.values()),
                *(getattr(kept, name) if kept else None for name in measured),
                kept.epoch if kept else None,
                *((outcome.epochs, outcome.seconds, outcome.reason) if outcome else (None,) * 3),
            ]
        )
    return text.getvalue().encode()


def _exact(value: Any) -> Any:
    return value if isinstance(value, str) else toml_value(value)


def plot_arguments(
    trials: Sequence[Trial], space: Space, best: Trial, objective: str
) -> Mapping[str, Any]:
    """The arguments of `plot.trials` for these trials."""
    kept = [trial.outcome.kept if trial.outcome else None for trial in trials]
    return {
        "values": [getattr(record, objective) if record else None for record in kept],
        "states": ["complete" if t.state == "repeated" else t.state for t in trials],
        "points": {key: [trial.point[key] for trial in trials] for key in space},
        "logarithmic": [key for key, axis in space.items() if isinstance(axis, Range) and axis.log],
        "best": best.number,
        "objective": objective,
    }


def write_results(search: Search, folder: Path) -> Trial:
    """Write `trials.csv`, `trials.png` and `best.toml`, print the table; returns the best trial."""
    from xpnet.tune.plot import trials as draw  # imports matplotlib

    ranked, trials = search.ranked(), search.trials()
    write_atomically(folder / "trials.csv", to_csv(trials, search.space))
    best = ranked[0]
    if best.state != "complete" or not best.outcome or not best.outcome.kept:
        reason = best.outcome.reason if best.outcome else ""
        raise ConfigError(
            f"none of {len(trials)} trials was completed; trial {best.number}: {reason} "
            f"(all reasons: {folder / 'trials.csv'})"
        )
    kept = best.outcome.kept
    figures = " and ".join(f"{name} {getattr(kept, name)!r}" for name in OBJECTIVES)
    origin = f"# Trial {best.number} of {printable(folder)}: {figures} at epoch {kept.epoch}.\n"
    config = configure(search.base, best.point)
    write_atomically(folder / "best.toml", (origin + config.to_toml()).encode())
    arguments = plot_arguments(trials, search.space, best, search.objective)
    draw(**arguments, path=folder / "trials.png")
    again = shell_command("python", "-m", "xpnet.train", "--config", folder / "best.toml")
    say("", *Scoreboard(search.space).table(ranked).split("\n"), "")
    say(f"best      trial {best.number}: {again}")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    say(f"results   {folder}/", *(f"          {name}" for name in names))
    return best
