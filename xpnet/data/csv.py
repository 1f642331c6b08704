"""Comma-separated values: Kaggle's digits (`label,pixel0,…`), and tables like them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from xpnet.backend import HostArray
from xpnet.data.csv_labels import Labels
from xpnet.data.csv_layout import Layout, suggestion
from xpnet.data.csv_records import LARGEST, quote_cell
from xpnet.data.csv_table import Table
from xpnet.data.dataset import Dataset, Source
from xpnet.data.files import read_content
from xpnet.errors import DataError, one_line

if TYPE_CHECKING:
    import pandas

# Rows are parsed and converted in blocks: 64-bit integers take eight times the memory.
_CELLS_AT_ONCE = 2_000_000
_MOST_CLASSES_IN_A_COLUMN = 1000


def read_csv(
    path: str | Path,
    *,
    classes: int | Sequence[str] | None = None,
    target: str | None = None,
    features: int | None = None,
    pixels: bool | None = None,
) -> Dataset:
    """A CSV file: plain, `.gz`, or a `.zip` that holds one file; UTF-8.

    Cells are separated by commas, or all by semicolons or tabs. Numbers are written with a decimal
    point.

    **Header.** The first line is a header if none of its cells is a number, if one cell is the name
    of the label, or if the cells are 0, 1, 2, … as pandas writes them (or 1, 2, … in six columns or
    more). In any other line of numbers and missing values alone, an integer `target` is the number
    of a column and no name. If `target` is a position that is none of the cells, or `features` is
    given, a first line that may be a header or a sample is an error.

    **Label.** With a header, the label is the column named `target` (as written, else ignoring
    case), by default `label`, in any position. Without a column `label` the samples have no labels.
    Without a header, `target` is `first`, `last` or the number of a column. If it is not given, the
    number of columns decides: a perfect square means pixels without labels, one more means a label
    and then the pixels.

    **Pixels.** Pixel columns are named `pixel0, pixel1, …` (or from 1), or `1x1, 1x2, …` by row and
    column, in that order. Columns with other names are not pixels, unless they are numbered and
    their number is a perfect square of 64 or more. Pixels become uint8 if all values are written as
    integers, which must be in 0..255; this also holds for samples without a header. Other samples
    become float32, which rounds integers above 2**24.

    **Classes.** Labels that are integers are numbered up to the largest (see `numbered_classes`).
    If any label is not a number, the classes are the sorted names, numbers first.

    **Samples for a trained network**: `classes` are its classes, or their number, `features` the
    number of its inputs, and `pixels` whether it was trained on pixels. The target may then be
    missing.

    Raises `DataError`, naming the file and, for an invalid cell, the line of the file and the
    column, both counted from 1.
    """
    path = Path(path)
    return _parse(Table(read_content(path), path, target, features, pixels), classes, pixels)


def read_csv_source(path: str | Path, *, target: str | None = None) -> Source:
    """`read_csv` as a `Source` with no test set; `sha256` is of the decompressed bytes.

    Raises `DataError`, also where the label column was guessed, because the file has no header,
    and has one class in all rows.
    """
    path = Path(path)
    raw = read_content(path)
    table = Table(raw, path, target)
    data, layout = _parse(table, None, None), table.layout
    is_guess = not layout.names and len(data) > 1
    if is_guess and data.labels is not None and data.labels.min() == data.labels.max():
        found = data.classes[int(data.labels[0])]
        raise DataError(
            f"{path}: {layout.target} was taken for the label, and all {len(data)} rows are of one "
            f"class ({quote_cell(found)}): {_other_target(data, layout)}"
        )
    return Source(
        path.name,
        data,
        None,
        hashlib.sha256(raw).hexdigest(),
        label=layout.target,
        hint="" if layout.target else suggestion(layout.names),
    )


def _other_target(data: Dataset, layout: Layout) -> str:
    if layout.label == 0:
        last = data.x[:, -1]
        values = numpy.unique(last)
        is_likely = (values == numpy.floor(values)).all() and values[0] >= 0
        if is_likely and 1 < len(values) <= _MOST_CLASSES_IN_A_COLUMN:
            return (
                f"the last column has {len(values)} classes: if they are the labels, use --target "
                f"last"
            )
    return "name another column by --target last or its number"


def _parse(table: Table, classes: int | Sequence[str] | None, pixels: bool | None) -> Dataset:
    raw, layout = table.raw, table.layout
    # An upper bound of the number of rows, from the number of separators. Memory that is never
    # written to is not used; a list of blocks and their concatenation would take twice as much.
    most = 1 + sum(map(raw.count, (layout.separator.encode(), b"\n", b"\r")))
    features = layout.columns - (layout.label is not None)
    is_pixels, shape = layout.is_pixels, layout.image_shape
    # Columns named as pixels are pixels, even if the network was trained on other numbers.
    if pixels is False and not (is_pixels and layout.names):
        is_pixels = False
    elif pixels and is_pixels is False:
        is_pixels = None
    x = numpy.empty(
        (most // layout.columns, features), numpy.float32 if is_pixels is False else numpy.uint8
    )
    labels = Labels(table, classes) if layout.label is not None else None
    outside: tuple[int, int] | None = None
    as_pixels, rows = is_pixels is not False, 0
    try:
        for frame in _frames(raw, layout):
            if frame.shape[1] != layout.columns:
                table.raise_error(rows)
            if labels is not None and layout.label is not None:
                column = frame.columns[layout.label]
                labels.add(frame[column], rows)
                frame = frame.drop(columns=column)
            block = _numbers(frame)
            if block is None:
                table.raise_error(rows)
            if as_pixels and {dtype.kind for dtype in frame.dtypes} != {"i"}:
                as_pixels = False
            elif as_pixels and outside is None:
                outside = _outside(block, rows, layout.label)
            if x.dtype == numpy.uint8 and not (as_pixels and outside is None):
                before, x = x, numpy.empty(x.shape, numpy.float32)
                x[:rows] = before[:rows]
            x[rows : rows + len(block)] = block
            rows += len(block)
        if is_pixels and as_pixels and outside is not None:
            cell = table.row(outside[0])[1][outside[1]].strip()
            raise DataError(
                f"{table.place(*outside)}: found {quote_cell(cell)}, integers are pixels and must "
                f"be in 0..255: write other values with a decimal point, or rename the columns"
            )
        if not rows:
            table.raise_error(0, "no rows")
        found = labels.finish() if labels is not None else (None, ())
    except DataError:
        raise
    # The errors of pandas' parser, and of invalid UTF-8, are ValueErrors. The parser of pandas and
    # that of `csv` may also find different cells in one file.
    except (ValueError, LookupError, csv.Error, StopIteration) as error:
        table.raise_error(0, one_line(error))
    x = x[:rows]
    if layout.is_pixels is None and x.dtype != numpy.uint8:
        shape = None
    names = found[1]
    if labels is None and classes is not None:
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    return Dataset(x, found[0], names, shape)


def _frames(raw: bytes, layout: Layout) -> Iterator[pandas.DataFrame]:
    import pandas

    content = io.BytesIO(raw)
    content.seek(layout.start)
    with pandas.read_csv(
        content,
        header=None,
        sep=layout.separator,
        encoding="utf-8-sig",
        low_memory=False,
        na_filter=False,
        dtype={} if layout.label is None else {layout.label: object},
        chunksize=max(1, _CELLS_AT_ONCE // layout.columns),
    ) as reader:
        yield from reader


def _numbers(frame: pandas.DataFrame) -> HostArray | None:
    """The frame as int64 or float64; None where a cell is invalid."""
    kinds = {dtype.kind for dtype in frame.dtypes}
    if not kinds <= set("iuf"):
        return None
    table = frame.to_numpy(numpy.int64 if kinds == {"i"} else numpy.float64)
    # NaN fails both comparisons.
    return table if table.min() >= -LARGEST and table.max() <= LARGEST else None


def _outside(block: HostArray, rows: int, label: int | None) -> tuple[int, int] | None:
    """Row and column of the first value that is not a pixel."""
    wrong = (block < 0) | (block > 255)
    if not wrong.any():
        return None
    row, column = (int(place) for place in numpy.argwhere(wrong)[0])
    return rows + row, column + (label is not None and column >= label)
