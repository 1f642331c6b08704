"""The content of a CSV file, and the place of an error in it."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from xpnet.data.csv_layout import quote_argument, read_layout
from xpnet.data.csv_records import (
    Lines,
    cell_error,
    check_lines,
    comment_error,
    is_missing,
    quote_cell,
    read_records,
)
from xpnet.errors import DataError, one_line


class Table:
    """The decompressed content of a CSV file; finds the line and column of a row or cell."""

    def __init__(
        self,
        raw: bytes,
        path: Path,
        target: str | None = None,
        features: int | None = None,
        pixels: bool | None = None,
    ) -> None:
        check_lines(raw, path)
        self.raw, self.path = raw, path
        self.layout = read_layout(raw, path, target, features, pixels)

    def row(self, row: int) -> tuple[int, list[str]]:
        """Line and cells of data row `row`, which counts from 0 below the header."""
        return next(itertools.islice(self._rows(), row, None))

    def place(self, row: int, column: int) -> str:
        """`FILE: line 3, column 2 ('a')`."""
        return f"{self.path}: line {self.row(row)[0]}, {self._column(column)}"

    def raise_error(self, valid_rows: int, reason: str = "") -> NoReturn:
        """Raise `DataError` for the first invalid cell below `valid_rows` rows of data.

        `reason` is for the message where no invalid cell is found.
        """
        path, layout, line = self.path, self.layout, 0
        try:
            for line, cells in itertools.islice(self._rows(), valid_rows, None):
                if len(cells) != layout.columns:
                    comment = comment_error(cells)
                    hint = f"; it{comment}" if comment else _separator_hint(cells, layout.columns)
                    raise DataError(
                        f"{path}: line {line} has {len(cells)} columns where the first has "
                        f"{layout.columns}{hint}"
                    )
                for column, cell in enumerate(cells):
                    error = "" if column == layout.label else cell_error(cell)
                    if error:
                        hint = self._hint(cells, column) or _cell_hint(cells[column], error)
                        place = f"{path}: line {line}, {self._column(column)}"
                        raise DataError(f"{place}: {error}{hint}")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no CSV file in UTF-8 ({one_line(error)})") from error
        except csv.Error as error:
            raise DataError(f"{path}: below line {line}: {one_line(error)}") from error
        raise DataError(f"{path} cannot be read as a table of numbers: {reason or 'unknown cell'}")

    def _column(self, column: int) -> str:
        """`column 2 ('a')`, counted from 1."""
        names = self.layout.names
        name = f" ({quote_cell(names[column])})" if names else ""
        return f"column {column + 1}{name}"

    def _hint(self, cells: list[str], column: int) -> str:
        """What may have caused the error in a cell."""
        names, is_text = self.layout.names, bool(cells[column].strip())
        if names and self.layout.label is None and is_text:
            argument = quote_argument(names[column])
            return f": if the column holds the classes, use --target {argument}"
        if names or column != len(cells) - 1 or self.layout.label != 0:
            return ""
        if any(cell_error(cell) for cell in cells[:-1]):
            return ""
        return ": without a header the first column is taken for the label, use --target last"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The records below the header, each with the line of the file on which it ends."""
        # A line ends with \n, \r or \r\n.
        above = len(re.findall(rb"\r\n|\r|\n", self.raw[: self.layout.start]))
        below = read_records(Lines(self.raw, self.layout.start), self.layout.separator)
        return ((above + line, cells) for line, cells in below)


def _cell_hint(cell: str, error: str) -> str:
    """What to do about a cell that should be a number."""
    if is_missing(cell):
        return ": fill it in, or remove the row"
    if not error.endswith("expected a number"):
        return ""
    return ": turn the column into numbers (categories by pandas.get_dummies), or remove it"


def _separator_hint(cells: list[str], columns: int) -> str:
    is_trailing = len(cells) == columns + 1 and not cells[-1].strip()
    return ": remove the separator at its end" if is_trailing else ""
