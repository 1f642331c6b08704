"""Output in notebooks: a table as HTML, a figure in it, and a line that can be replaced.

Jupyter is not needed: the functions for HTML return strings.
"""

from __future__ import annotations

import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import Any

PAUSE = 1.0
"""Seconds between two states of a bar; none is shown in the first second."""

_LEFT, _RIGHT = (f' style="text-align: {side}"' for side in ("left", "right"))
_BAR_WIDTH = 80


def table(rows: Sequence[Sequence[str]], *, left: int, note: str, foot: bool = False) -> str:
    """An HTML table of texts: `rows[0]` is its head, the last row its foot if `foot`.

    `left`: so many columns are flush left, the others right. `note`: the text above it.
    """
    head, *body = rows
    total = [body.pop()] if foot else []
    parts = ["<table>", f"<caption{_LEFT}>{escape(note)}</caption>"]
    parts.append(f"<thead>{_row(head, left, 'th')}</thead><tbody>")
    parts += [_row(row, left, "td") for row in body]
    parts.append("</tbody>")
    parts += [f"<tfoot>{_row(row, left, 'th')}</tfoot>" for row in total]
    return "\n".join([*parts, "</table>"])


def _row(cells: Sequence[str], left: int, tag: str) -> str:
    sides = [_LEFT if place < left else _RIGHT for place in range(len(cells))]
    parts = [f"<{tag}{s}>{escape(c)}</{tag}>" for s, c in zip(sides, cells, strict=True)]
    return f"<tr>{''.join(parts)}</tr>"


def figure(png: bytes, text: str) -> str:
    """A PNG file within the HTML; `text` is its alternative text."""
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return f'<img alt="{escape(text)}" src="{source}" style="max-width: 48em; width: 100%">'


def is_kernel() -> bool:
    """Whether Python runs for a notebook (Jupyter, VS Code, Colab), which keeps what it shows."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Line:
    """One line of output that can be replaced; there is no output before the first `show()`.

    It is a display of IPython with an id: the notebook keeps only its last state, and neither
    ipywidgets nor control characters are needed.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Replace the text of the line."""
        # By name: IPython is only partly typed, and often not installed.
        display = import_module("IPython.display")
        what = {"text/plain": text}
        if self._handle is None:
            self._handle = display.DisplayHandle()
            self._handle.display(what, raw=True)
        else:
            self._handle.update(what, raw=True)

    def close(self) -> None:
        """Make the line empty, if it exists."""
        if self._handle is not None:
            self.show("")


class Bar:
    """The bar of an epoch on a `Line`, as tqdm writes it, at most once in `PAUSE` seconds."""

    def __init__(self, line: Line, total: int, initial: int, desc: str) -> None:
        self.line, self.total, self.desc = line, total, desc
        self.initial = self.done = initial
        self.began = self.shown = time.perf_counter()

    def update(self) -> None:
        """Count one more batch."""
        self.done += 1
        now = time.perf_counter()
        if now - self.shown < PAUSE:
            return
        from tqdm import tqdm

        self.shown = now
        self.line.show(
            tqdm.format_meter(
                self.done,
                self.total,
                now - self.began,
                ncols=_BAR_WIDTH,
                prefix=self.desc,
                unit="batch",
                initial=self.initial,
            )
        )

    def clear(self) -> None:
        """Nothing to clear: the next line is printed below."""

    def close(self) -> None:
        """Keep the line for the next epoch."""
