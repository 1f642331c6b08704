"""Names of the values of an array or a DataFrame, for messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from xpnet.errors import short_repr

Place: TypeAlias = Callable[[tuple[int, ...]], str]
"""A function that names the value at some indices, for a message."""


class FramePlace:
    """Names the values of a DataFrame by column and row: `column 'age', row 3 of x`."""

    def __init__(self, name: str, columns: Sequence[Any]) -> None:
        self.name, self.columns = name, columns

    def __call__(self, where: tuple[int, ...]) -> str:
        """The name of the value at `(row, column)`."""
        row, column = where
        return self.of_column(column)((row,))

    def of_column(self, number: int) -> Place:
        """Names the values of one column; without an index, the column itself."""
        column = f"column {short_repr(self.columns[number])}"
        return lambda where: f"{column}{f', row {where[0]}' if where else ''} of {self.name}"


def named(name: str, first: int = 0) -> Place:
    """Names the values of a part of the array `name` from row `first` on: `x[3, 2]`."""

    def place(where: tuple[int, ...]) -> str:
        if not where:
            return name
        return f"{name}[{', '.join(map(str, (where[0] + first, *where[1:])))}]"

    return place
