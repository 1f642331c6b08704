"""A limit for a call that no thread of Python and no signal handler can end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WATCH = """
import os, select, signal, sys
seconds, watched, message = sys.argv[1:]
if not select.select([0], [], [], float(seconds))[0]:
    print(message, file=sys.stderr, flush=True)
    os.kill(int(watched), signal.SIGKILL)
"""


@contextmanager
def killed_after(seconds: float, message: str) -> Iterator[None]:
    """In the block this process is killed after so many seconds, with a line on standard error.

    By a process of its own: `MPI_Init` waits for all processes that mpiexec has started, also for
    those that have ended already, and mpi4py calls it with the lock of the interpreter. The pipe
    closes at the end of the block, and when this process ends. Not on Windows, where a pipe cannot
    be waited for like that.
    """
    if os.name == "nt":
        yield
        return
    words = [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), str(os.getpid()), message]
    with subprocess.Popen(words, stdin=subprocess.PIPE):
        yield
