"""Every error that xpnet raises on purpose.

Each message is one line that names what was given, what was found and what to do.
The commands print that line and leave with `exit_code`; a library user catches `XpnetError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable


class XpnetError(Exception):
    """Base of all errors that xpnet raises on purpose."""

    exit_code = 2


class BackendUnavailable(XpnetError):
    """The device that was asked for cannot be used on this machine."""


class OutOfDeviceMemory(XpnetError, MemoryError):
    """What is to be computed does not fit into the memory of the GPU."""


class DeviceMismatch(XpnetError):
    """Arrays of two backends met in one operation."""


class ShapeError(XpnetError, ValueError):
    """An array or a layer does not fit the one beside it."""


class DataError(XpnetError, ValueError):
    """A file of data is missing, damaged or not what it should be."""


class ConfigError(XpnetError, ValueError):
    """A setting is unknown, out of its range, or contradicts another."""


class CheckpointError(XpnetError, ValueError):
    """A saved model cannot be read back, or cannot be written."""


class DivergenceError(XpnetError, ArithmeticError):
    """Training left the finite numbers."""

    exit_code = 3


def short_repr(value: object, longest: int = 60) -> str:
    """What was found, for a message: `repr(value)` in one line, cut to `longest` characters."""
    try:
        text = repr(value)
    # Python writes no number of thousands of digits, and follows brackets only so deep.
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return truncate(" ".join(text.split()) if "\n" in text else text, longest)


def join_names(names: Iterable[str]) -> str:
    """Names from a file, for a message: `a, b, c`, or "nothing"."""
    return one_line(", ".join(names)) or "nothing"


def one_line(found: object, longest: int = 200) -> str:
    """What a file holds, or a library says of it, for a message: a short line of plain text."""
    text = str(found).strip()
    if not text and isinstance(found, Exception):
        text = type(found).__name__
    text = truncate(text.partition("\n")[0], longest)
    return text if text.isprintable() else short_repr(text, longest)


def truncate(text: str, longest: int) -> str:
    """`text`, or the beginning of it that has `longest` characters with its dots."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def deprecated(old: str, new: str) -> None:
    """Warn that `old`, called two frames above, has another name now."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


def plain(text: object) -> str:
    """One line that any terminal may be given: what is not printable becomes an escape.

    A name from a file or of a file may hold a line break, a sequence that moves the cursor or
    changes colours, or bytes that are no text.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else _escape(c) for c in shown)


def _escape(character: str) -> str:
    # Python's way to have a byte of a name that is not UTF-8.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
