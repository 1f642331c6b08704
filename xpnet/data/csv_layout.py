"""The layout of a CSV file, from its first lines: separator, header, label column, pixels."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from xpnet.data.csv_records import (
    COMMA_NUMBER,
    NUMBER,
    Lines,
    cell_error,
    comment_error,
    detect_separator,
    is_missing,
    quote_cell,
    read_records,
)
from xpnet.data.dataset import square_shape
from xpnet.errors import DataError, join_names, one_line, truncate

TARGET_NAMES = ("class", "target", "y", "species", "labels", "classes", "category", "outcome")
"""Columns that often hold the classes: they are suggested, but used only if asked for."""

_PIXEL = re.compile(r"pixel(\d+)", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_GRID = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)
_MOST_COLUMNS = 256 * 256 + 1
_LEAST_PIXELS = 64
_POSITIONS = "first, last or the number of the column"


@dataclass(frozen=True)
class Layout:
    """How the samples of one file are read.

    `separator`: one character; `start`: the byte of the decompressed content at which the
    samples begin; `names`: the names of all columns, empty without a header; `columns`: the
    number of columns; `label`: the index of the label column, None without labels;
    `image_shape`: of a sample. `is_pixels`: True: integers are pixels and must be in 0..255;
    None: they are pixels if all of them are in 0..255; False: they are numbers.
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
        """The label column, to be printed; "" without labels."""
        if self.label is None:
            return ""
        if not self.names:
            return f"column {self.label + 1} (no header)"
        return f"column {quote_cell(self.names[self.label])}"


def suggestion(columns: tuple[str, ...]) -> str:
    """What to do where no column is named `label`, for the message about unlabelled data."""
    likely = [name for known in TARGET_NAMES for name in columns if name.lower() == known]
    if likely:
        return f"found column {quote_cell(likely[0])}: use --target {quote_argument(likely[0])}"
    if columns:
        return f"use --target NAME with one of its columns ({_first_names(columns)})"
    return f"use --target with {_POSITIONS}"


def quote_argument(name: str) -> str:
    """The name of a column as a command-line argument."""
    return name if re.fullmatch(r"[\w.-]+", name) else repr(name)


def _first_names(names: tuple[str, ...]) -> str:
    """The names of columns, or the first six of them and the last."""
    few = [truncate(name, 20) for name in names[:6]]
    if len(names) <= 7:
        return join_names(truncate(name, 20) for name in names)
    return f"{join_names(few)}, ... {one_line(truncate(names[-1], 20))}"


def read_layout(
    raw: bytes, path: Path, target: str | None, features: int | None, pixels: bool | None
) -> Layout:
    """The layout of the content `raw`. Raises `DataError`, naming `path`."""
    try:
        separator = detect_separator(raw, path)
        lines = Lines(raw)
        found = read_records(lines, separator)
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
    if comment := comment_error(cells):
        raise DataError(f"{path}: line {line}{comment}")
    # A name may have a line break in it, to make the column narrow.
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
            if COMMA_NUMBER.fullmatch(cell):
                raise DataError(f"{path}: line {line}, column {column + 1}: {cell_error(cell)}")
        return _layout_without_header(path, separator, len(cells), target, features)
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
    """Whether the first line is a header; None where it may be a header or a sample."""
    lowered, wanted = [name.lower() for name in names], (target or "label").lower()
    numbers = [name for name in names if _is_number(name)]
    if not numbers or "label" in lowered:
        return True
    label, is_named = _position(target, len(names)), wanted in lowered
    # A missing value of a sample is no name. pandas leaves the name of its index empty.
    is_sample = names[0] != "" and all(_is_number(name) or is_missing(name) for name in names)
    # An integer may be the number of a column, also a wrong one such as 0 or -1, and samples
    # contain integers.
    if is_named and not (_INTEGER.fullmatch(wanted) and (is_sample or label is not None)):
        return True
    counts = _is_counting(numbers)
    values = [name for column, name in enumerate(names) if column != (label or 0)]
    if "" in names or not all(map(_is_number, values)):
        return counts or (is_named and not is_sample)
    # The line may be a sample: only 0, 1, 2, ... counts as a header.
    if not counts:
        return False
    if (features is None and (is_named or label is None)) or (pixels and len(numbers) > 256):
        return True
    return None


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell) or COMMA_NUMBER.fullmatch(cell))


def _is_counting(numbers: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... as pandas writes, or 1, 2, ... in six columns or more."""
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
                    else "remove that column (pandas writes one unless index=False), or name it"
                )
            )
        known = "label" if name.lower() == "label" else name
        if known in seen:
            raise DataError(
                f"{path}: line {line}, column {column + 1}: {quote_cell(name)} occurs twice"
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
                f"{path}: several columns are named {quote_cell(wanted)} if case is ignored: "
                f"give the target as it is written"
            )
        return lowered.index(wanted.lower())
    # Samples to predict need no labels.
    if target is None or features is not None:
        return None
    raise DataError(
        f"{path}: target: there is no column {quote_cell(wanted)}, there are {_first_names(names)}"
    )


def _layout_without_header(
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
                f"or use --target with {_POSITIONS}"
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
    position = _position(target or "first", columns)
    if position is not None:
        return position
    if features == columns:
        return 0
    hint = ""
    if _INTEGER.fullmatch((target or "").strip()):
        hint = "; if line 1 is a header, give its columns names that are not numbers"
    raise DataError(
        f"{path}: target: the file has no header, so no column {quote_cell(target or '')}: give "
        f"{_POSITIONS} (1 to {columns}){hint}"
    )


def _position(target: str | None, columns: int) -> int | None:
    """The index of the column that `target` names by its position; None for a name."""
    wanted = (target or "").strip().lower()
    if wanted in ("first", "last"):
        return 0 if wanted == "first" else columns - 1
    if re.fullmatch(r"\d{1,6}", wanted, re.ASCII) and 1 <= int(wanted) <= columns:
        return int(wanted) - 1
    return None


def _image_shape(
    path: Path, line: int, names: tuple[str, ...], rest: list[tuple[int, str]]
) -> tuple[tuple[int, int] | None, bool | None]:
    """The shape of the image that the columns `rest` hold, and `Layout.is_pixels`.

    Raises `DataError` where columns are named as pixels and are not those of one image in order.
    """
    first = next((name for _, name in rest if _PIXEL.fullmatch(name)), None)
    grid = next((name for _, name in rest if _GRID.fullmatch(name)), None)
    if first is not None:
        start = 1 if rest[0][1] == "pixel1" else 0
        wanted = [f"pixel{start + i}" for i in range(len(rest))]
        shape = square_shape(len(rest))
    elif grid is not None:
        # Rows and columns count from those of the first pixel, row by row.
        cells = [[int(n) for n in name.split("x")] for _, name in rest if _GRID.fullmatch(name)]
        top, left = min(cell[0] for cell in cells), min(cell[1] for cell in cells)
        width = max(cell[1] for cell in cells) - left + 1
        wanted = [f"{top + i // width}x{left + i % width}" for i in range(len(rest))]
        shape = (len(rest) // width, width) if len(rest) % width == 0 else None
    else:
        # Pixels without names, which pandas has numbered.
        ordered = [name for _, name in rest]
        is_numbered = any(ordered == [str(i + j) for j in range(len(rest))] for i in (0, 1))
        shape = square_shape(len(rest)) if is_numbered and len(rest) >= _LEAST_PIXELS else None
        return shape, None if shape else False
    for (column, name), expected in zip(rest, wanted, strict=True):
        if name != expected:
            raise DataError(
                f"{path}: line {line}, column {column + 1} is named {quote_cell(names[column])}, "
                f"expected '{expected}' (or 'label'): the other columns are pixels, in order"
            )
    return shape, True
