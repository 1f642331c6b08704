"""Common behaviour of the commands: output, error messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

import numpy

from xpnet.backend.device_errors import explained
from xpnet.cli.parser import Parser as Parser
from xpnet.cli.parser import count as count
from xpnet.distributed.launcher import require_alone
from xpnet.errors import NO_READER, XpnetError, exit_code, printable, truncate


def run(action: Callable[[], int], alone: str = "") -> int:
    """The exit code of `action()`, or of its error.

    `alone`: the name of a command that several processes cannot run together.

    An `XpnetError` is printed as one line on stderr and gives its own code (2, or 3 for
    divergence); out of memory and operating system errors give one line and exit code 2; Ctrl-C is
    130; a closed pipe (`| head`) is 141 without a message. Characters that the encoding of the
    terminal lacks are printed as escapes. NumPy's overflow warnings are silenced: the results are
    checked where it matters.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if alone:
            require_alone(alone)
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
        return exit_code(error)
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
        if (device_error := explained(error)) is None:
            raise
        return print_error(device_error)


def _close_stdout() -> None:
    """Discard further output: Python flushes stdout when it exits, which would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: XpnetError) -> int:
    """Print the error in one line; returns its exit code."""
    say(f"xpnet: error: {error}", file=sys.stderr)
    return error.exit_code


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each of `lines` as one line of printable text: see `xpnet.errors.printable`.

    All output of the commands goes through this function.
    """
    print("\n".join(map(printable, lines)), file=file, flush=True)
