"""The metrics of a training run: a `History` of `Record`s."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from xpnet._files import reading, write_atomically
from xpnet.errors import ConfigError, DataError, one_line, short_repr
from xpnet.utils import notebook
from xpnet.utils.arguments import as_path as checked_path
from xpnet.utils.arguments import instance

_MOST_ROWS = 10


@dataclass(frozen=True)
class Record:
    """One entry of the history, usually one epoch.

    `loss` (L2 included) and `accuracy` are of the training set: means over the batches since the
    previous record (each measured before its update, with dropout), or, with
    `train_metrics="evaluated"`, evaluated at this point. `val_loss` and `val_accuracy` are of the
    whole validation set at this point, None without one. Evaluation does not use label smoothing.
    `learning_rate` is that of the last step; `seconds` is the time since the line before.
    """

    epoch: int
    step: int
    learning_rate: float
    loss: float
    accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float

    def figures(self) -> list[str]:
        """What was measured, as a line of progress says it: `["loss 0.21", "acc 93.90 %"]`."""
        return [f"{name} {text}" for name, text in _texts(self).items() if text]


@dataclass
class History:
    """The records of a training run, oldest first; a notebook shows it as table and curves.

    Raises `ConfigError` unless `records` is a list of records.
    """

    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        instance("records", self.records, list, "a list of records")
        for number, record in enumerate(self.records):
            instance(f"records[{number}]", record, Record, "a Record")

    def __len__(self) -> int:
        return len(self.records)

    def column(self, name: str) -> list[Any]:
        """One field of all records. Raises `ConfigError` for an unknown name."""
        names = [item.name for item in fields(Record)]
        if not isinstance(name, str) or name not in names:
            raise ConfigError(f"a record has no {short_repr(name)}: it has {', '.join(names)}")
        return [getattr(record, name) for record in self.records]

    def best(self) -> Record:
        """The record with the lowest validation loss, or, without validation, with the lowest loss.

        The first, if there are several. Raises `ConfigError` where there is no record.
        """
        if not self.records:
            raise ConfigError("no record is the best, the history is empty")
        validated = [record for record in self.records if record.val_loss is not None]
        return min(validated or self.records, key=_judged)

    def __repr__(self) -> str:
        if not self.records:
            return "History(no record yet)"
        last = self.records[-1]
        return f"History({self._count()}; epoch {last.epoch}: {', '.join(last.figures())})"

    def _count(self) -> str:
        return f"{len(self):,} record{'s' * (len(self) > 1)}"

    def _repr_html_(self) -> str:
        if not self.records:
            return "<p>no record yet</p>"
        from xpnet.figures.plots import training_metrics_png

        curves = notebook.figure(training_metrics_png(self), "loss and accuracy over the epochs")
        return f"{self._table()}\n{curves}"

    def _table(self) -> str:
        best, last = self.best(), self.records[-1]
        judged = "loss" if best.val_loss is None else "val loss"
        note, shown = self._count(), self.records
        if len(self) > _MOST_ROWS:
            note += ": the first, the best and the last"
            shown = [r for r in self.records if r is self.records[0] or r is best or r is last]
        names = [name for name in _texts(best) if any(_texts(r)[name] for r in shown)]
        rows = [["epoch", "step", *names, "learning rate", "seconds", ""]]
        for record in shown:
            texts, star = _texts(record), f"★ lowest {judged}" if record is best else ""
            measured = [texts[name] for name in names]
            rate, seconds = f"{record.learning_rate:.3g}", f"{record.seconds:.1f}"
            rows.append([f"{record.epoch}", f"{record.step:,}", *measured, rate, seconds, star])
        return notebook.table(rows, left=0, note=note)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per record, full precision, empty where there is no value."""
        target = checked_path("path", path)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [item.name for item in fields(Record)]
        writer.writerow(names)
        writer.writerows([getattr(record, name) for name in names] for record in self.records)
        write_atomically(target, text.getvalue().encode())

    @classmethod
    def from_csv(cls, path: str | Path) -> History:
        """What `to_csv` wrote. Raises `DataError`, naming the file and the line."""
        path = checked_path("path", path)
        names = [item.name for item in fields(Record)]
        try:
            with reading(path), path.open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file, strict=True)
                if (found := next(lines, [])) != names:
                    raise DataError(
                        f"{path} begins with {short_repr(','.join(found))}, a history with "
                        f"{','.join(names)}"
                    )
                return cls([_record(f"{path}: line {lines.line_num}", cells) for cells in lines])
        except UnicodeDecodeError:
            raise DataError(f"{path} is no text in UTF-8, so no history") from None
        except csv.Error as error:
            raise DataError(f"{path} is not valid CSV ({one_line(error)})") from None


def _record(where: str, cells: list[str]) -> Record:
    """One line of the file; `where` names it for messages."""
    types = fields(Record)
    if len(cells) != len(types):
        raise DataError(f"{where} has {len(cells)} values, expected {len(types)}")
    values: dict[str, Any] = {}
    for item, cell in zip(types, cells, strict=True):
        kind, value = str(item.type), math.nan
        if cell == "" and kind.endswith("None"):
            values[item.name] = None
            continue
        with contextlib.suppress(ValueError):
            value = int(cell) if kind == "int" else float(cell)
        if not 0 <= value < (2**53 + 1 if kind == "int" else math.inf):
            raise DataError(f"{where}: {item.name} is {short_repr(cell)}, expected a number")
        values[item.name] = value
    return Record(**values)


def loss_text(loss: float) -> str:
    """A loss as it is shown: four decimals or, of a million and more, four digits."""
    return f"{loss:.4f}" if abs(loss) < 1e6 else f"{loss:.4g}"


def _texts(record: Record) -> dict[str, str]:
    """The measured fields as text, by their short names; empty where there is no value."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:5.2f} %"

    return {
        "loss": loss_text(record.loss),
        "acc": percent(record.accuracy),
        "val loss": "" if record.val_loss is None else loss_text(record.val_loss),
        "val acc": percent(record.val_accuracy),
    }


def _judged(record: Record) -> float:
    return record.loss if record.val_loss is None else record.val_loss
