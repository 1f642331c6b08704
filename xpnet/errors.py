"""The exceptions of xpnet, and helpers for error messages.

Each message is one line that names the argument, file or field, what was found and what to do.
The commands print that line and exit with `exit_code`; users of the library catch `XpnetError`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from types import FrameType


class XpnetError(Exception):
    """Base class of all exceptions of xpnet."""

    exit_code = 2


class BackendUnavailable(XpnetError):
    """The requested device cannot be used on this machine."""


class OutOfDeviceMemory(XpnetError, MemoryError):
    """The computation does not fit into the memory of the GPU."""


class DeviceMismatch(XpnetError):
    """Arrays on different devices were used in one operation."""


class ShapeError(XpnetError, ValueError):
    """The shapes of arrays or layers do not match."""


class DataError(XpnetError, ValueError):
    """Data, or a file of data, is missing, damaged or invalid."""


class ConfigError(XpnetError, ValueError):
    """A setting is unknown, out of its range, or contradicts another."""


class CheckpointError(XpnetError, ValueError):
    """A saved model or another file cannot be read, or cannot be written."""


class DivergenceError(XpnetError, ArithmeticError):
    """Training diverged: a value is not finite."""

    exit_code = 3
    on_all_ranks = True
    """Of several ranks that train together, each raises it."""


class RankError(XpnetError):
    """Another rank of a training by several processes has failed, or does not answer.

    `reported`: whether that rank itself reports why; `exit_code`: that of its error.
    """

    def __init__(self, message: str, reported: bool = False, exit_code: int = 2) -> None:
        super().__init__(message)
        self.reported, self.exit_code = reported, exit_code


class KernelDeclined(Exception):
    """A kernel does not take these arguments, so the formula computes instead. Internal."""


INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends by `error`; 1 for an error that is not expected."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    kinds = {KeyboardInterrupt: INTERRUPTED, BrokenPipeError: NO_READER, OSError: 2, MemoryError: 2}
    known = [code for kind, code in kinds.items() if isinstance(error, kind)]
    return int(getattr(error, "exit_code", (known or [1])[0]))


def short_repr(value: object, longest: int = 60) -> str:
    """`repr(value)` for a message: one line of at most `longest` characters."""
    try:
        text = repr(value)
    # For integers of thousands of digits, and for deeply nested lists.
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return truncate(" ".join(text.split()) if "\n" in text else text, longest)


def join_names(names: Iterable[str]) -> str:
    """Names from a file, for a message: `a, b, c`, or "nothing"."""
    return one_line(", ".join(names)) or "nothing"


def one_line(found: object, longest: int = 200) -> str:
    """Text of a file, or an error of a library, for a message: its first line, printable."""
    text = str(found).strip()
    if not text and isinstance(found, Exception):
        text = type(found).__name__
    text = truncate(text.partition("\n")[0], longest)
    return text if text.isprintable() else short_repr(text, longest)


def truncate(text: str, longest: int) -> str:
    """`text`, shortened to `longest` characters with `...` at the end."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def deprecated(old: str, new: str) -> None:
    """Warn that `old` has a new name; the warning is about the first caller outside xpnet."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "xpnet"


def printable(text: object) -> str:
    """`text` as one line that is safe for a terminal: other characters become escapes.

    The name of a file, and names in a file, may contain line breaks, control sequences of the
    terminal, or bytes that are not text.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else _escape(c) for c in line)


def _escape(character: str) -> str:
    # Python represents bytes of a file name that are not UTF-8 so.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
