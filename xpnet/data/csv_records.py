"""The records of a CSV file: its lines, the separator between their cells."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from xpnet.errors import DataError

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number as it has to be written."""

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 2**22


class Lines:
    """The lines of the content from byte `start` on, and how many bytes of it were `taken`."""

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


def records(lines: Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank: the line that it ends on, and its cells."""
    reader = csv.reader(lines, delimiter=separator)
    for cells in reader:
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield reader.line_num, cells


def separator_of(raw: bytes, path: Path) -> str:
    """The character between the cells of the first two records."""
    first, second = _first_two(raw, ",")
    for separator in (";", "\t"):
        found = _first_two(raw, separator)
        cells = [cell.strip() for record in found for cell in record]
        # A character within quotation marks, or beside the commas that do separate, is text.
        if any('"' in cell or cell[:1] == "," or cell[-1:] == "," for cell in cells):
            continue
        if len(found[0]) > 1 and len(found[1]) != 1:
            if cells[0].lower() == "sep=":
                raise DataError(
                    f"{path}: line 1 is 'sep={separator}', which only Excel knows: remove that line"
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
    """The cells of the first two records, of fewer records empty lists."""
    try:
        found = [cells for _, cells in itertools.islice(records(Lines(raw), separator), 2)]
    except csv.Error:
        if separator == ",":
            raise
        found = []
    return (found[0] if found else []), (found[1] if len(found) > 1 else [])


def check_lines(raw: bytes, path: Path) -> None:
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
