"""What the first lines of a CSV file say: separator, header, label column, picture or table."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xpnet.data.csv_records import NUMBER, Lines, check_lines, records, separator_of
from xpnet.data.dataset import square_shape
from xpnet.errors import DataError, join_names, one_line, truncate

TARGET_NAMES = ("class", "target", "y", "species", "labels", "classes", "category", "outcome")
"""Columns that often hold the classes: they are suggested, never taken without being asked for."""

_COMMA = re.compile(r"\s*[+-]?\d[\d.]*,[\d,]+([eE][+-]?\d+)?\s*", re.ASCII)
_PIXEL = re.compile(r"pixel(\d+)", re.ASCII)
_GRID = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)
_MOST_COLUMNS = 256 * 256 + 1
_LEAST_PIXELS = 64
_PLACES = "first, last or the number of the column"


@dataclass(frozen=True)
class Layout:
    """How the samples of one file are to be read.

    `separator`: one character; `start`: the byte of the decompressed content at which the
    samples begin; `names`: of all columns, empty without a header; `columns`: how many;
    `label`: which of them holds the labels, None where they have none; `image_shape`: of a
    sample. `is_pixels`: True: integers are pixels, which have to be in 0..255; None: they are if
    all of them are in 0..255; False: they are numbers like others.
    """

    separator: str
    start: int
    names: tuple[str, ...]
    columns: int
    label: int | None
    image_shape: tuple[int, int] | None
    is_pixels: bool | None

    @property
    def target(self) -> str:
        """The label column for the reader of a run's output; "" where there is none."""
        if self.label is None:
            return ""
        if not self.names:
            return f"column {self.label + 1} (no header)"
        return f"column {shown_cell(self.names[self.label])}"


class Table:
    """The decompressed content of a CSV file, and where in it a row or a cell stands."""

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
        self.layout = _layout(raw, path, target, features, pixels)

    def row(self, row: int) -> tuple[int, list[str]]:
        """Line and cells of data row `row`, which counts from 0 below the header."""
        return next(itertools.islice(self._rows(), row, None))

    def place(self, row: int, column: int) -> str:
        """`FILE: line 3, column 2 ('a')`."""
        return f"{self.path}: line {self.row(row)[0]}, {named_column(self.layout, column)}"

    def blame(self, good_rows: int, reason: str = "") -> NoReturn:
        """Raise `DataError` for the first cell at fault from data row `good_rows` on."""
        path, layout, line = self.path, self.layout, 0
        try:
            for line, cells in itertools.islice(self._rows(), good_rows, None):
                if len(cells) != layout.columns:
                    what = _comment(cells) or _surplus(cells, layout.columns)
                    raise DataError(
                        f"{path}: line {line} has {len(cells)} columns where the first has "
                        f"{layout.columns}{what}"
                    )
                for column, cell in enumerate(cells):
                    fault = "" if column == layout.label else _fault(cell)
                    if fault:
                        hint = self._hint(cells, column)
                        place = f"{path}: line {line}, {named_column(layout, column)}"
                        raise DataError(f"{place}: {fault}{hint}")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no CSV file in UTF-8 ({one_line(error)})") from error
        except csv.Error as error:
            raise DataError(f"{path}: below line {line}: {one_line(error)}") from error
        raise DataError(f"{path} cannot be read as a table of numbers: {reason or 'unknown cell'}")

    def _hint(self, cells: list[str], column: int) -> str:
        """What the fault of a cell may come from."""
        names, is_text = self.layout.names, bool(cells[column].strip())
        if names and self.layout.label is None and is_text:
            return f": if the column holds the classes, say --target {_argument(names[column])}"
        if self.layout.names or column != len(cells) - 1 or self.layout.label != 0:
            return ""
        if any(_fault(cell) for cell in cells[:-1]):
            return ""
        return ": without a header the first column is taken for the label, say --target last"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The records below the header, with the line of the file on which each ends."""
        before = self.raw.count(b"\n", 0, self.layout.start)
        before += self.raw.count(b"\r", 0, self.layout.start)
        before -= self.raw.count(b"\r\n", 0, self.layout.start)
        below = records(Lines(self.raw, self.layout.start), self.layout.separator)
        return ((before + line, cells) for line, cells in below)


def named_column(layout: Layout, column: int) -> str:
    """`column 2 ('a')`, counted from 1."""
    named = f" ({shown_cell(layout.names[column])})" if layout.names else ""
    return f"column {column + 1}{named}"


def shown_cell(text: str) -> str:
    """What a cell holds, for a message."""
    return repr(truncate(text, 40))


def suggestion(columns: tuple[str, ...]) -> str:
    """What to do where no column is called `label`: for the message about unlabelled data."""
    likely = [name for known in TARGET_NAMES for name in columns if name.lower() == known]
    if likely:
        return f"found column {shown_cell(likely[0])}: say --target {_argument(likely[0])}"
    if columns:
        return f"say --target NAME with one of its columns ({_some(columns)})"
    return f"say --target with {_PLACES}"


def _argument(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else repr(name)


def _some(names: tuple[str, ...]) -> str:
    few = [truncate(name, 20) for name in names[:6]]
    if len(names) <= 7:
        return join_names(truncate(name, 20) for name in names)
    return f"{join_names(few)}, ... {one_line(truncate(names[-1], 20))}"


def _layout(
    raw: bytes, path: Path, target: str | None, features: int | None, pixels: bool | None
) -> Layout:
    try:
        separator = separator_of(raw, path)
        lines = Lines(raw)
        found = records(lines, separator)
        line, cells = next(found, (0, []))
        start = lines.taken
        second = next(found, None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({one_line(error)})") from error
    if not cells:
        raise DataError(f"{path} is empty")
    if len(cells) > _MOST_COLUMNS:
        raise DataError(
            f"{path}: line {line} has {len(cells)} columns, more than the {_MOST_COLUMNS} of a "
            f"label and 256 x 256 pixels"
        )
    if comment := _comment(cells):
        raise DataError(f"{path}: line {line}{comment}")
    # A line break within a name was put there to make the column narrow.
    names = tuple(" ".join(cell.split()) for cell in cells)
    lowered = [name.lower() for name in names]
    is_header = _is_header(names, target, features, pixels)
    if is_header is None:
        raise DataError(
            f"{path}: line {line} counts up ({names[0]}, {names[1]}, ...), so it may be a header "
            f"or a sample: if it is a header, remove it (pandas: header=False) or name the columns "
            f"otherwise; if it is a sample, write a header above it"
        )
    if not is_header:
        for column, cell in enumerate(cells):
            if _COMMA.fullmatch(cell):
                raise DataError(f"{path}: line {line}, column {column + 1}: {_fault(cell)}")
        return _headless(path, separator, len(cells), target, features)
    if second is None:
        raise DataError(f"{path} has a header (line {line}) and no rows")
    _check_names(path, line, names, len(second[1]))
    label = _label(path, names, target, features)
    if len(names) == 1 and label is not None:
        raise DataError(f"{path} has a label column and no other")
    rest = [(i, name) for i, name in enumerate(lowered) if i != label]
    shape, is_pixels = _image_shape(path, line, names, rest)
    return Layout(separator, start, names, len(names), label, shape, is_pixels)


def _is_header(
    names: tuple[str, ...], target: str | None, features: int | None, pixels: bool | None
) -> bool | None:
    """Whether the first line names the columns; None where it may be a sample as well."""
    lowered, wanted = [name.lower() for name in names], (target or "label").lower()
    numbers = [name for name in names if _is_number(name)]
    if not numbers or "label" in lowered:
        return True
    label, is_named = _place(target, len(names)), wanted in lowered
    if is_named and (label is None or not wanted.isdecimal()):
        return True
    counts = _is_counting(numbers)
    values = [name for column, name in enumerate(names) if column != (label or 0)]
    if "" in names or not all(map(_is_number, values)):
        return is_named or counts
    # It could be a sample, so that only 0, 1, 2, ... is taken for a header.
    if not counts:
        return False
    if (features is None and (is_named or label is None)) or (pixels and len(numbers) > 256):
        return True
    return None


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell) or _COMMA.fullmatch(cell))


def _is_counting(numbers: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... as pandas numbers columns, or 1, 2, ... and six or more."""
    return any(
        len(numbers) >= least and numbers == [str(first + i) for i in range(len(numbers))]
        for first, least in ((0, 3), (1, 6))
    )


def _check_names(path: Path, line: int, names: tuple[str, ...], below: int) -> None:
    seen: set[str] = set()
    for column, name in enumerate(names):
        if not name:
            is_last = column == len(names) - 1 and column > 0
            raise DataError(
                f"{path}: line {line}, column {column + 1} has no name: "
                + (
                    "remove the separator at the end of each line, or name the column"
                    if is_last
                    else "remove that column (pandas writes one unless told index=False), or "
                    "name it"
                )
            )
        known = "label" if name.lower() == "label" else name
        if known in seen:
            raise DataError(
                f"{path}: line {line}, column {column + 1}: {shown_cell(name)} occurs twice"
            )
        seen.add(known)
    if len(names) == 1 and below > 1:
        raise DataError(
            f"{path}: line {line} has one column and the next {below}: write the same separator "
            f"in all lines"
        )


def _label(
    path: Path, names: tuple[str, ...], target: str | None, features: int | None
) -> int | None:
    lowered = [name.lower() for name in names]
    wanted = "label" if target is None else " ".join(target.split())
    if wanted in names:
        return names.index(wanted)
    if wanted.lower() in lowered:
        if lowered.count(wanted.lower()) > 1:
            raise DataError(
                f"{path}: more than one column is called {shown_cell(wanted)} but for its case: "
                f"give the target as it is written"
            )
        return lowered.index(wanted.lower())
    # Samples to predict need no labels.
    if target is None or features is not None:
        return None
    raise DataError(
        f"{path}: target: there is no column {shown_cell(wanted)}, there are {_some(names)}"
    )


def _headless(
    path: Path, separator: str, columns: int, target: str | None, features: int | None
) -> Layout:
    label: int | None = _numbered_label(path, columns, target, features)
    if features is not None and columns == features:
        label = None
    if features is None or columns not in (features, features + 1):
        is_labelled = square_shape(columns) is None
        if target is None and is_labelled and square_shape(columns - 1) is None:
            raise DataError(
                f"{path} has no header, and {columns} columns are neither the pixels of a square "
                f"image nor a label and such pixels: add a header that names the column 'label', "
                f"or say --target with {_PLACES}"
            )
        if target is None and not is_labelled:
            label = None
    rest = columns - (label is not None)
    if rest == 0:
        raise DataError(f"{path} has a label column and no other")
    shape = square_shape(rest)
    if target is None and shape is not None:
        return Layout(separator, 0, (), columns, label, shape, True)
    shape = shape if rest >= _LEAST_PIXELS else None
    return Layout(separator, 0, (), columns, label, shape, None if shape else False)


def _numbered_label(path: Path, columns: int, target: str | None, features: int | None) -> int:
    place = _place(target or "first", columns)
    if place is not None:
        return place
    if features == columns:
        return 0
    raise DataError(
        f"{path}: target: the file has no header, so no column {shown_cell(target or '')}: give "
        f"{_PLACES} of its {columns}"
    )


def _place(target: str | None, columns: int) -> int | None:
    """The column that `target` names by its place, counted from 0; None where it does not."""
    wanted = (target or "").strip().lower()
    if wanted in ("first", "last"):
        return 0 if wanted == "first" else columns - 1
    if re.fullmatch(r"\d{1,6}", wanted, re.ASCII) and 1 <= int(wanted) <= columns:
        return int(wanted) - 1
    return None


def _image_shape(
    path: Path, line: int, names: tuple[str, ...], rest: list[tuple[int, str]]
) -> tuple[tuple[int, int] | None, bool | None]:
    """Check that columns named as pixels are those of one image, in order; its shape.

    And whether their values have to be pixels: see `Layout.is_pixels`.
    """
    first = next((name for _, name in rest if _PIXEL.fullmatch(name)), None)
    grid = next((name for _, name in rest if _GRID.fullmatch(name)), None)
    if first is not None:
        start = 1 if rest[0][1] == "pixel1" else 0
        wanted = [f"pixel{start + i}" for i in range(len(rest))]
        shape = square_shape(len(rest))
    elif grid is not None:
        # Rows and columns count from wherever the first cell does, row by row.
        cells = [[int(n) for n in name.split("x")] for _, name in rest if _GRID.fullmatch(name)]
        top, left = min(cell[0] for cell in cells), min(cell[1] for cell in cells)
        width = max(cell[1] for cell in cells) - left + 1
        wanted = [f"{top + i // width}x{left + i % width}" for i in range(len(rest))]
        shape = (len(rest) // width, width) if len(rest) % width == 0 else None
    else:
        # Pixels that pandas has numbered for want of names.
        ordered = [name for _, name in rest]
        is_numbered = any(ordered == [str(i + j) for j in range(len(rest))] for i in (0, 1))
        shape = square_shape(len(rest)) if is_numbered and len(rest) >= _LEAST_PIXELS else None
        return shape, None if shape else False
    for (column, name), expected in zip(rest, wanted, strict=True):
        if name != expected:
            raise DataError(
                f"{path}: line {line}, column {column + 1} is named {shown_cell(names[column])}, "
                f"expected '{expected}' (or 'label'): the other columns are pixels, in order"
            )
    return shape, True


def _comment(cells: list[str]) -> str:
    if not cells[0].lstrip().startswith("#"):
        return ""
    return (
        f" begins with '#' ({shown_cell(cells[0].strip())}): remove comment lines, and the '#' "
        f"before names of columns"
    )


def _surplus(cells: list[str], columns: int) -> str:
    is_trailing = len(cells) == columns + 1 and not cells[-1].strip()
    return ": remove the separator at its end" if is_trailing else ""


def _fault(cell: str) -> str:
    """What is wrong with a cell that has to be a number; "" where nothing is."""
    if not cell.strip():
        return "the cell is empty, expected a number"
    if _COMMA.fullmatch(cell):
        return (
            f"found {shown_cell(cell)}, a number with a comma: write a decimal point, and no "
            f"separator between thousands"
        )
    if not NUMBER.fullmatch(cell):
        return f"found {shown_cell(cell)}, expected a number"
    # pandas has no type for integers of more than 64 bits.
    if abs(float(cell)) > LARGEST:
        return f"found {shown_cell(cell)}, which is too large for float32"
    return ""


LARGEST = 3.4028235e38
"""float32's largest as it is written; a Python float: NumPy compares a float32 in float32."""
