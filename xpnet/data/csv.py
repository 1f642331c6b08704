"""Comma-separated values: Kaggle's digits (`label,pixel0,…`), and tables like them."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import (
    MAX_CLASSES,
    Dataset,
    Source,
    numbered_classes,
    square_shape,
)
from xpnet.data.files import read_content
from xpnet.errors import DataError, cut, quoted

if TYPE_CHECKING:
    import pandas

# Rows are parsed and narrowed block by block: 64-bit integers take eight times the room.
_CELLS_AT_ONCE = 2_000_000
# float32's largest as it is written; a Python float, for NumPy compares a float32 in float32.
_LARGEST = 3.4028235e38
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_PIXEL = re.compile(r"pixel(\d+)", re.ASCII)
_GRID = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)
_LONGEST_LINE = 2**22
_MOST_COLUMNS = 256 * 256 + 1


def read_csv(path: str | Path, *, classes: int | None = None) -> Dataset:
    """A CSV file: plain, `.gz`, or a `.zip` that holds one file; UTF-8.

    With a header, the label is the column named `label` (in any case), wherever it stands,
    or there is none. Pixel columns are named `pixel0, pixel1, …` (or from 1), or `1x1, 1x2,
    …` by row and column, in that order; a table whose columns have other names is no
    picture. Without a header the number of columns decides: a perfect square is unlabelled
    pixels, one more is a label and then the pixels. A first line in which no cell is a
    number, or one cell is `label`, is a header.

    Samples become uint8 when all of them are written as integers, which then have to be in
    0..255; else float32. `classes`, where given, is how many classes there are; otherwise
    they are numbered up to the largest label (see `numbered_classes`).

    Raises `DataError`, naming the file and, where one cell is to blame, the line of the file
    and the column, both counted from 1.
    """
    path = Path(path)
    return _parse(read_content(path), path, classes)


def read_csv_source(path: str | Path) -> Source:
    """`read_csv` as a `Source` with no test part; `sha256` is of the decompressed bytes."""
    path = Path(path)
    raw = read_content(path)
    return Source(path.name, _parse(raw, path, None), None, hashlib.sha256(raw).hexdigest())


@dataclass(frozen=True)
class _Layout:
    """What the first line says of the file."""

    header_lines: int
    names: tuple[str, ...]
    columns: int
    label: int | None
    image_shape: tuple[int, int] | None


def _parse(raw: bytes, path: Path, classes: int | None) -> Dataset:
    _check_lines(raw, path)
    layout = _layout(raw, path)
    # No more rows than there is room for their separators: memory that is not written to is not
    # taken, where a list of blocks and their concatenation would be twice the samples.
    most = 1 + sum(map(raw.count, (b",", b"\n", b"\r")))
    features = layout.columns - (layout.label is not None)
    x = numpy.empty((most // layout.columns, features), numpy.uint8)
    labels: list[HostArray] = []
    as_pixels = True
    outside: tuple[int, int] | None = None
    rows = 0
    try:
        for frame in _frames(raw, layout):
            table = _numbers(frame, layout)
            if table is None:
                _blame(raw, path, layout, rows)
            if layout.label is not None:
                labels.append(_labels(table[:, layout.label], raw, path, layout, rows, classes))
            block = table if layout.label is None else numpy.delete(table, layout.label, axis=1)
            kinds = {dtype.kind for i, dtype in enumerate(frame.dtypes) if i != layout.label}
            if kinds != {"i"}:
                as_pixels = False
            elif outside is None:
                wrong = (block < 0) | (block > 255)
                if wrong.any():
                    row, column = (int(place) for place in numpy.argwhere(wrong)[0])
                    skipped = layout.label is not None and column >= layout.label
                    outside = (rows + row, column + skipped)
            if x.dtype == numpy.uint8 and not (as_pixels and outside is None):
                pixels, x = x, numpy.empty(x.shape, numpy.float32)
                x[:rows] = pixels[:rows]
            x[rows : rows + len(block)] = block
            rows += len(block)
        if as_pixels and outside is not None:
            cell = _row(raw, outside[0], layout)[1][outside[1]].strip()
            raise DataError(
                f"{_place(raw, path, layout, *outside)}: found {_shown(cell)}, integers are pixels "
                f"and have to be in 0..255: write other values with a decimal point"
            )
        if not rows:
            _blame(raw, path, layout, 0, "no rows")
    except DataError:
        raise
    # pandas' parser errors, and that of an undecodable byte, are kinds of ValueError; the two
    # parsers may also see different cells in one file.
    except (ValueError, LookupError, csv.Error, StopIteration) as error:
        _blame(raw, path, layout, 0, quoted(error))
    x = x[:rows]
    marks = numpy.concatenate(labels) if labels else None
    names = numbered_classes(marks) if classes is None else tuple(map(str, range(classes)))
    return Dataset(x, marks, names, layout.image_shape)


def _frames(raw: bytes, layout: _Layout) -> Iterator[pandas.DataFrame]:
    import pandas

    with pandas.read_csv(
        io.BytesIO(raw),
        header=None,
        skiprows=layout.header_lines,
        encoding="utf-8-sig",
        low_memory=False,
        chunksize=max(1, _CELLS_AT_ONCE // layout.columns),
    ) as reader:
        yield from reader


def _numbers(frame: pandas.DataFrame, layout: _Layout) -> HostArray | None:
    """The frame as int64 or float64; None where a cell is at fault."""
    kinds = {dtype.kind for dtype in frame.dtypes}
    if frame.shape[1] != layout.columns or not kinds <= set("iuf"):
        return None
    table = frame.to_numpy(numpy.int64 if kinds == {"i"} else numpy.float64)
    # Not a number fails both comparisons too.
    return table if table.min() >= -_LARGEST and table.max() <= _LARGEST else None


def _labels(
    column: HostArray, raw: bytes, path: Path, layout: _Layout, rows: int, classes: int | None
) -> HostArray:
    limit = MAX_CLASSES if classes is None else classes
    wrong = (column < 0) | (column >= limit) | (column != numpy.floor(column))
    if wrong.any():
        assert layout.label is not None
        row = rows + int(wrong.argmax())
        cell = _row(raw, row, layout)[1][layout.label].strip()
        raise DataError(
            f"{_place(raw, path, layout, row, layout.label)}: found {_shown(cell)}, a label has to "
            f"be an integer in 0..{limit - 1}"
        )
    return column.astype(numpy.int64)


def _layout(raw: bytes, path: Path) -> _Layout:
    records = _records(raw)
    try:
        line, cells = next(records, (0, []))
        second = next(records, None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({quoted(error)})") from error
    if not cells:
        raise DataError(f"{path} is empty")
    if len(cells) > _MOST_COLUMNS:
        raise DataError(
            f"{path}: line {line} has {len(cells)} columns, more than the {_MOST_COLUMNS} of a "
            f"label and 256 x 256 pixels"
        )
    names = tuple(cell.strip() for cell in cells)
    lowered = [name.lower() for name in names]
    if "label" not in lowered and any(_NUMBER.fullmatch(name) for name in names):
        return _headless(path, len(cells))
    if second is None:
        raise DataError(f"{path} has a header (line {line}) and no rows")
    seen: set[str] = set()
    for column, name in enumerate(names):
        if not name:
            raise DataError(
                f"{path}: line {line}, column {column + 1} has no name: remove that column "
                f"(pandas writes one unless told index=False), or name it"
            )
        if lowered[column] in seen:
            raise DataError(
                f"{path}: line {line}, column {column + 1}: {_shown(name)} stands there twice"
            )
        seen.add(lowered[column])
    label = lowered.index("label") if "label" in lowered else None
    if len(names) == 1 and label is not None:
        raise DataError(f"{path} has a label column and no other")
    rest = [(i, name) for i, name in enumerate(lowered) if i != label]
    return _Layout(line, names, len(names), label, _image_shape(path, line, names, rest))


def _headless(path: Path, columns: int) -> _Layout:
    if square_shape(columns) is not None:
        return _Layout(0, (), columns, None, square_shape(columns))
    if square_shape(columns - 1) is not None:
        return _Layout(0, (), columns, 0, square_shape(columns - 1))
    raise DataError(
        f"{path} has no header, and {columns} columns are neither the pixels of a square image "
        f"nor a label and such pixels: add a header that names the column 'label'"
    )


def _image_shape(
    path: Path, line: int, names: tuple[str, ...], rest: list[tuple[int, str]]
) -> tuple[int, int] | None:
    """Check that columns named as pixels are those of one image, in order; its shape."""
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
        return None
    for (column, name), expected in zip(rest, wanted, strict=True):
        if name != expected:
            raise DataError(
                f"{path}: line {line}, column {column + 1} is named {_shown(names[column])}, "
                f"expected '{expected}' (or 'label'): the other columns are pixels, in order"
            )
    return shape


def _check_lines(raw: bytes, path: Path) -> None:
    """Raise `DataError` for a line that is too long to be one sample, before it is taken apart."""
    start = 0
    while len(raw) - start > _LONGEST_LINE:
        end = start + _LONGEST_LINE
        found = max(raw.rfind(b"\n", start, end), raw.rfind(b"\r", start, end))
        if found < 0:
            raise DataError(
                f"{path} has a line of more than {_LONGEST_LINE} bytes: write a sample a line"
            )
        start = found + 1


def _records(raw: bytes) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank: the line of the file it ends on, and its cells."""
    text = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig", newline="")
    reader = csv.reader(text)
    for cells in reader:
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield reader.line_num, cells


def _row(raw: bytes, row: int, layout: _Layout) -> tuple[int, list[str]]:
    """Line and cells of data row `row`, which counts from 0 below the header."""
    records = _records(raw)
    return next(itertools.islice(records, row + bool(layout.header_lines), None))


def _place(raw: bytes, path: Path, layout: _Layout, row: int, column: int) -> str:
    return f"{path}: line {_row(raw, row, layout)[0]}, {_column(layout, column)}"


def _column(layout: _Layout, column: int) -> str:
    named = f" ({_shown(layout.names[column])})" if layout.names else ""
    return f"column {column + 1}{named}"


def _blame(raw: bytes, path: Path, layout: _Layout, good_rows: int, reason: str = "") -> NoReturn:
    """Raise `DataError` for the first cell at fault from data row `good_rows` on."""
    records = _records(raw)
    line = 0
    try:
        for line, cells in itertools.islice(records, good_rows + bool(layout.header_lines), None):
            if len(cells) != layout.columns:
                raise DataError(
                    f"{path}: line {line} has {len(cells)} columns where the first has "
                    f"{layout.columns}"
                )
            for column, cell in enumerate(cells):
                fault = _fault(cell)
                if fault:
                    raise DataError(f"{path}: line {line}, {_column(layout, column)}: {fault}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({quoted(error)})") from error
    except csv.Error as error:
        raise DataError(f"{path}: below line {line}: {quoted(error)}") from error
    raise DataError(f"{path} cannot be read as a table of numbers: {reason or 'unknown cell'}")


def _fault(cell: str) -> str | None:
    if not cell.strip():
        return "the cell is empty, expected a number"
    if not _NUMBER.fullmatch(cell):
        return f"found {_shown(cell)}, expected a number"
    # pandas has no type for integers of more than 64 bits.
    if abs(float(cell)) > _LARGEST:
        return f"found {_shown(cell)}, which is too large for float32"
    return None


def _shown(text: str) -> str:
    return repr(cut(text, 40))
