"""The records and cells of a CSV file, and the separator between the cells."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from xpnet.errors import DataError, truncate

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number as it must be written."""

COMMA_NUMBER = re.compile(r"\s*[+-]?\d[\d.]*,[\d,]+([eE][+-]?\d+)?\s*", re.ASCII)
"""A number with a decimal comma or with commas between thousands."""

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>", "?")
"""How a missing value may be written."""

_MISSING_NUMBERS = {*map(str.lower, MISSING), "inf", "+inf", "-inf"}

LARGEST = 3.4028235e38
"""The largest float32, as a Python float: NumPy would compare a float32 in float32."""

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 2**22


class Lines:
    """Iterates over the lines from byte `start` on; `taken` is the byte after the last line."""

    def __init__(self, raw: bytes, start: int = 0) -> None:
        content = io.BytesIO(raw)
        self.taken = len(_BOM) if raw.startswith(_BOM) and start == 0 else start
        content.seek(self.taken)
        self.text = io.TextIOWrapper(content, encoding="utf-8", newline="")

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = next(self.text)
        self.taken += len(line.encode())
        return line


def read_records(lines: Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank: the line on which it ends, and its cells."""
    reader = csv.reader(lines, delimiter=separator)
    for cells in reader:
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield reader.line_num, cells


def detect_separator(raw: bytes, path: Path) -> str:
    """The character between the cells of the first two records."""
    first, second = _first_two(raw, ",")
    for separator in (";", "\t"):
        found = _first_two(raw, separator)
        cells = [cell.strip() for record in found for cell in record]
        # A character in quotation marks, or next to the commas that separate, is text.
        if any('"' in cell or cell[:1] == "," or cell[-1:] == "," for cell in cells):
            continue
        if len(found[0]) > 1 and len(found[1]) != 1:
            if cells[0].lower() == "sep=":
                raise DataError(
                    f"{path}: line 1 is 'sep={separator}', a line for Excel alone: remove it"
                )
            return separator
    if len(first) == 1 and (not second or len(second) == 1):
        bars = _first_two(raw, "|")
        if len(bars[0]) > 1 and len(bars[1]) != 1:
            _refuse_separator(path, "vertical bars (|)")
        words = [record[0].split() for record in (first, second) if record]
        numbers = [all(NUMBER.fullmatch(word) for word in line) for line in words]
        if numbers and numbers[-1] and len(words[-1]) > 1:
            _refuse_separator(path, "spaces")
    return ","


def _refuse_separator(path: Path, found: str) -> NoReturn:
    raise DataError(
        f"{path}: its columns are separated by {found}: separate them by commas, semicolons or tabs"
    )


def _first_two(raw: bytes, separator: str) -> tuple[list[str], list[str]]:
    """The cells of the first two records; empty lists for missing records."""
    try:
        found = [cells for _, cells in itertools.islice(read_records(Lines(raw), separator), 2)]
    except csv.Error:
        if separator == ",":
            raise
        found = []
    return (found[0] if found else []), (found[1] if len(found) > 1 else [])


def check_lines(raw: bytes, path: Path) -> None:
    """Raise `DataError` for a line that is too long to be one sample, before it is parsed."""
    start = 0
    while len(raw) - start > _LONGEST_LINE:
        end = start + _LONGEST_LINE
        found = max(raw.rfind(b"\n", start, end), raw.rfind(b"\r", start, end))
        if found < 0:
            raise DataError(
                f"{path} has a line of more than {_LONGEST_LINE} bytes: write one sample a line"
            )
        start = found + 1


def quote_cell(text: str) -> str:
    """The content of a cell, for a message."""
    return repr(truncate(text, 40))


def comment_error(cells: list[str]) -> str:
    """What is wrong with a record that begins with `#`; "" for any other record."""
    if not cells[0].lstrip().startswith("#"):
        return ""
    return (
        f" begins with '#' ({quote_cell(cells[0].strip())}): remove comment lines, and the '#' "
        f"before the names of columns"
    )


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a missing number: `MISSING` in any case, `inf`, or marks as `-`."""
    text = cell.strip()
    return text.lower() in _MISSING_NUMBERS or not any(map(str.isalnum, text))


def cell_error(cell: str) -> str:
    """What is wrong with a cell that must be a number; "" for a number."""
    if not cell.strip():
        return "the cell is empty, expected a number"
    if COMMA_NUMBER.fullmatch(cell):
        return (
            f"found {quote_cell(cell)}, a number with a comma: write a decimal point, and no "
            f"separator between thousands"
        )
    if not NUMBER.fullmatch(cell):
        return f"found {quote_cell(cell)}, expected a number"
    # pandas has no type for integers of more than 64 bits.
    if abs(float(cell)) > LARGEST:
        return f"found {quote_cell(cell)}, which is too large for float32"
    return ""
