"""What all commands share: how they end when something goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from xpnet.errors import XpnetError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def run(action: Callable[[], int]) -> int:
    """The exit code of `action()`, or of the way in which it failed.

    An `XpnetError` is one line on stderr and its own code (2, or 3 for divergence); want of
    memory is one line and 2; Ctrl-C is 130; a closed pipe (`| head`) is 141 without a word.
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
    except KeyboardInterrupt:
        print("xpnet: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def complain(error: XpnetError) -> int:
    """Print the error's one line; returns its exit code."""
    print(f"xpnet: error: {error}", file=sys.stderr)
    return error.exit_code
