"""What all commands share: how they end when something goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from xpnet.device_errors import explained
from xpnet.errors import XpnetError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def run(action: Callable[[], int]) -> int:
    """The exit code of `action()`, or of the way in which it failed.

    An `XpnetError` is one line on stderr and its own code (2, or 3 for divergence); want of
    memory, or what else the system refuses, is one line and 2; Ctrl-C is 130; a closed pipe
    (`| head`) is 141 without a word.
    What the terminal's encoding cannot show is printed as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return action()
    except XpnetError as error:
        return complain(error)
    except MemoryError as error:
        print(
            f"xpnet: error: not enough memory ({error}): use smaller layers, a smaller "
            f"batch_size or less data",
            file=sys.stderr,
        )
        return XpnetError.exit_code
    except KeyboardInterrupt as error:
        print(f"xpnet: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        return NO_READER
    except OSError as error:
        _close_stdout()
        named = f"{error.filename}: " if error.filename else ""
        return complain(XpnetError(f"{named}{error.strerror or error}"))
    except Exception as error:
        if (plain := explained(error)) is None:
            raise
        return complain(plain)


def _close_stdout() -> None:
    """Python flushes once more on its way out, and what failed would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: XpnetError) -> int:
    """Print the error's one line; returns its exit code."""
    print(f"xpnet: error: {error}", file=sys.stderr)
    return error.exit_code
