"""What all commands share: their flags, what they print, how they end when something goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

import numpy

from xpnet.backend.device_errors import explained
from xpnet.cli.parser import Parser as Parser
from xpnet.cli.parser import count as count
from xpnet.errors import XpnetError, plain, truncate

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def run(action: Callable[[], int]) -> int:
    """The exit code of `action()`, or of the way in which it failed.

    An `XpnetError` is one line on stderr and its own code (2, or 3 for divergence); want of
    memory, or what else the system refuses, is one line and 2; Ctrl-C is 130; a closed pipe
    (`| head`) is 141 without a word.
    What the terminal's encoding cannot show is printed as an escape. NumPy's warnings of numbers
    that are too large are silent: what follows from them is looked for where it matters.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with numpy.errstate(all="ignore"):
            return action()
    except XpnetError as error:
        return print_error(error)
    except MemoryError as error:
        return print_error(
            XpnetError(
                f"not enough memory ({error}): use smaller layers, a smaller batch_size or less "
                f"data"
            )
        )
    except KeyboardInterrupt as error:
        say(f"xpnet: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        return NO_READER
    except UnicodeEncodeError as error:
        return print_error(
            XpnetError(f"{truncate(error.object, 200)}: is no text in UTF-8: rename it")
        )
    except OSError as error:
        _close_stdout()
        named = f"{error.filename}: " if error.filename else ""
        return print_error(XpnetError(f"{named}{error.strerror or error}"))
    except Exception as error:
        if (plain := explained(error)) is None:
            raise
        return print_error(plain)


def _close_stdout() -> None:
    """Python flushes once more on its way out, and what failed would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: XpnetError) -> int:
    """Print the error's one line; returns its exit code."""
    say(f"xpnet: error: {error}", file=sys.stderr)
    return error.exit_code


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each of `lines` as one line, in which nothing but text reaches the terminal.

    All that a command prints goes through here: see `xpnet.errors.plain`.
    """
    print("\n".join(map(plain, lines)), file=file, flush=True)
