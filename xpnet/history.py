"""What a training run measured: a `Record` a line, a `History` of them."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from xpnet.checkpoint import write_atomically
from xpnet.data.files import reading
from xpnet.errors import ConfigError, DataError, shown

_MOST_CHARACTERS = 2**25


@dataclass(frozen=True)
class Record:
    """One line of the history.

    `loss` (L2 included) and `accuracy` are of the training part: running means over the batches
    since the line before (each measured before its own update, dropout on), or, as
    `train_metrics` asks, evaluated at this moment. `val_loss` and `val_accuracy` are of the whole
    validation part at this moment, None without one. What is evaluated is measured without label
    smoothing.
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


@dataclass
class History:
    """The records of a training run, oldest first."""

    records: list[Record] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def column(self, name: str) -> list[Any]:
        """One field of all records."""
        return [getattr(record, name) for record in self.records]

    def to_csv(self, path: str | Path) -> None:
        """Write one line a record, full precision, empty where there is no value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [item.name for item in fields(Record)]
        writer.writerow(names)
        writer.writerows([getattr(record, name) for name in names] for record in self.records)
        write_atomically(Path(path), text.getvalue().encode())

    @classmethod
    def from_csv(cls, path: str | Path) -> History:
        """What `to_csv` wrote. Raises `DataError`, naming the file and the line."""
        path = Path(path)
        names = [item.name for item in fields(Record)]
        try:
            with reading(path), path.open(encoding="utf-8", newline="") as file:
                text = file.read(_MOST_CHARACTERS + 1)
            if len(text) > _MOST_CHARACTERS:
                raise DataError(f"{path} has more than {_MOST_CHARACTERS} characters")
            lines = csv.reader(io.StringIO(text, newline=""), strict=True)
            if (found := next(lines, [])) != names:
                raise DataError(
                    f"{path} begins with {shown(','.join(found))}, a history with {','.join(names)}"
                )
            return cls([_record(path, lines.line_num, cells) for cells in lines])
        except UnicodeDecodeError:
            raise DataError(f"{path} is no text in UTF-8, so no history") from None
        except csv.Error as error:
            raise DataError(f"{path} is not valid CSV ({error})") from None


def _record(path: Path, line: int, cells: list[str]) -> Record:
    where, types = f"{path}: line {line}", fields(Record)
    if len(cells) != len(types):
        raise DataError(f"{where} has {len(cells)} values, expected {len(types)}")
    values: dict[str, Any] = {}
    for item, cell in zip(types, cells, strict=True):
        kind, value = str(item.type), math.nan
        if cell == "" and kind.endswith("None"):
            values[item.name] = None
            continue
        # Python would take long for a number of many digits, or refuse it.
        if len(cell) < 40 and cell.isascii():
            with contextlib.suppress(ValueError):
                value = int(cell) if kind == "int" else float(cell)
        if not 0 <= value < (2**53 + 1 if kind == "int" else math.inf):
            raise DataError(f"{where}: {item.name} is {shown(cell)}, expected a number")
        values[item.name] = value
    return Record(**values)


def parse_checkpoint_every(value: int | str) -> tuple[float, bool]:
    """`(count, True if it counts seconds)` of `5`, `"5 epochs"` or `"30 seconds"`."""
    number, _, unit = str(value).strip().partition(" ")
    unit = unit.strip()
    if unit in ("", "epoch", "epochs") and number.isdecimal() and int(number) > 0:
        return int(number), False
    is_number = number.replace(".", "", 1).isdecimal()
    if unit in ("second", "seconds") and is_number and float(number) > 0:
        return float(number), True
    raise ConfigError(
        f"checkpoint_every must be a number of epochs or of seconds, such as 1, '5 epochs' or "
        f"'30 seconds', found {value!r}"
    )


def parse_log_every(value: int | str) -> tuple[int, bool]:
    """`(count, True if it counts iterations)` of `5`, `"5 epochs"` or `"500 iterations"`."""
    number, _, unit = str(value).strip().partition(" ")
    units = {"": False, "epoch": False, "epochs": False, "iteration": True, "iterations": True}
    if number.isdecimal() and int(number) > 0 and unit.strip() in units:
        return int(number), units[unit.strip()]
    raise ConfigError(
        f"log_every must be a number of epochs or of iterations, such as 10, '10 epochs' or "
        f"'500 iterations', found {value!r}"
    )
