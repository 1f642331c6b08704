"""The label column of a CSV file: integers, or the names of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy

from xpnet.backend import HostArray
from xpnet.data.csv_records import MISSING, NUMBER, quote_cell
from xpnet.data.csv_table import Table
from xpnet.data.dataset import MAX_CLASSES, numbered_classes
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pandas

_LONGEST_NAME = 100
# The same integer may be written in two ways, as 1 and 1.0.
_MOST_WRITTEN = 2 * MAX_CLASSES


class Labels:
    """Collects the cells of the label column, block by block, as codes of their text.

    `classes`: the names of the classes, or the number of numbered classes; None: the classes are
    those in the file.
    """

    def __init__(self, table: Table, classes: int | Sequence[str] | None) -> None:
        self.table = table
        self.count: int | None = None
        self.wanted: tuple[str, ...] | None = None
        if isinstance(classes, int) or classes is None:
            self.count = classes
        elif tuple(classes) == tuple(map(str, range(len(classes)))):
            self.count = len(classes)
        else:
            self.wanted = tuple(classes)
        self.limit = MAX_CLASSES if self.count is None else self.count
        self.first: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self.parts: list[HostArray] = []

    def add(self, column: pandas.Series, rows: int) -> None:
        """Add the cells of the rows from `rows` on."""
        import pandas

        places, written = pandas.factorize(column)
        if places.size and places.min() < 0:
            self.table.raise_error(rows)
        # `factorize` numbers the texts of a block from 0; this is the first row of each.
        firsts = numpy.unique(places, return_index=True)[1].tolist()
        is_too_many = len(written) > _MOST_WRITTEN
        if is_too_many:
            # The first of them are enough for the message.
            places, written = places[: firsts[_MOST_WRITTEN]], written[:_MOST_WRITTEN]
        own = numpy.empty(len(written), numpy.int64)
        for number, (text, first) in enumerate(zip(written, firsts, strict=False)):
            name = text.strip()
            if name not in self.codes:
                self.first[name] = rows + first
            own[number] = self.codes.setdefault(name, len(self.codes))
        self.parts.append(own[places].astype(numpy.int32))
        if is_too_many or len(self.codes) > _MOST_WRITTEN:
            self.finish()
            raise self._too_many()

    def finish(self) -> tuple[HostArray, tuple[str, ...]]:
        """The labels, `(N,)` int64, and the names of the classes. Raises `DataError`."""
        names = list(self.codes)
        if "" in self.codes:
            self._raise("", "the cell is empty, expected a label")
        is_numbered = all(NUMBER.fullmatch(name) for name in names) or self.count is not None
        if self.wanted is None and is_numbered:
            numbers = self._numbers(names)
            labels = numbers[numpy.concatenate(self.parts)]
            if self.count is not None:
                return labels, tuple(map(str, range(self.count)))
            return labels, numbered_classes(labels)
        known = self._named(names) if self.wanted is None else self.wanted
        places = {name: place for place, name in enumerate(known)}
        for name in names:
            if name not in places:
                self._raise(name, f"found {quote_cell(name)}, which is none of the classes")
        codes = numpy.array([places[name] for name in names], dtype=numpy.int64)
        return codes[numpy.concatenate(self.parts)], known

    def _numbers(self, names: list[str]) -> HostArray:
        numbers = numpy.zeros(len(names), dtype=numpy.int64)
        for place, name in enumerate(names):
            value = float(name) if NUMBER.fullmatch(name) else -1.0
            if not 0 <= value < self.limit or value != int(value):
                self._raise(
                    name,
                    f"found {quote_cell(name)}, a label must be an integer in "
                    f"0..{self.limit - 1}{self._hint() or _regression_hint(value)}",
                )
            numbers[place] = int(value)
        return numbers

    def _hint(self) -> str:
        layout = self.table.layout
        if layout.names or layout.label != 0:
            return ""
        return (
            " (without a header the first column is taken for it: use --target last if it is not)"
        )

    def _named(self, names: list[str]) -> tuple[str, ...]:
        if len(names) > MAX_CLASSES:
            raise self._too_many()
        for name in names:
            error = ""
            if name in MISSING:
                error = ", a missing value: remove the row, or name the class"
            elif not name.isprintable():
                error = ", a label must be printable text"
            elif len(name) > _LONGEST_NAME:
                error = f", a label must have {_LONGEST_NAME} characters or fewer"
            if error:
                self._raise(name, f"found {quote_cell(name)}{error}")
        return tuple(sorted(names, key=_order))

    def _too_many(self) -> DataError:
        return DataError(
            f"{self.table.path}: {self.table.layout.target} holds too many different labels: more "
            f"than {MAX_CLASSES} classes are not allowed"
        )

    def _raise(self, name: str, error: str) -> NoReturn:
        label = self.table.layout.label
        assert label is not None
        raise DataError(f"{self.table.place(self.first[name], label)}: {error}")


def _regression_hint(value: float) -> str:
    if value.is_integer() or not math.isfinite(value):
        return ""
    return (
        ": the column must hold classes; for regression, read the file with pandas, and call fit() "
        "with a loss such as 'mse'"
    )


def _order(name: str) -> tuple[bool, float, str]:
    """The sort key: numbers by value, then all other names by text."""
    is_number = NUMBER.fullmatch(name) is not None
    return not is_number, float(name) if is_number else 0.0, name
