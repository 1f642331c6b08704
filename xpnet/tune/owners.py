"""Processes that share a search: which of them are alive, and who may take a trial.

Each process touches a file of its own in the folder of the search every few seconds. One whose file
is old has died, and others train its trials again. Times are compared with that of one's own file,
so that only the clock of the file server counts. A short lock lets one process at a time choose a
trial.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xpnet.errors import ConfigError

FOLDER, LOCK = ".processes", ".claim"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0
"""A process that has not touched its file for so long has died, or its machine stands still."""
_LOCK_SECONDS = 120.0


class Owners:
    """This process among those that share the search in `folder`, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._file = folder / FOLDER / self.name
        self._ends = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Owners:
        self._file.parent.mkdir(exist_ok=True)
        self._file.touch()
        self._beating.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._beating.join()
        self._file.unlink(missing_ok=True)

    def alive(self) -> set[str]:
        """The names of the processes that are alive, this one among them."""
        self._file.touch()
        return living(self._folder, self._file.stat().st_mtime) | {self.name}

    @contextmanager
    def claim(self) -> Iterator[None]:
        """In the block no other process chooses a trial."""
        from filelock import FileLock, Timeout

        path = self._folder / LOCK
        try:
            with FileLock(path, timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise ConfigError(
                f"folder: {path} has been locked by another process for {_LOCK_SECONDS:g} "
                f"seconds: end that process"
            ) from None

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_SECONDS):
            with suppress(OSError):  # the next one may be possible again
                self._file.touch()


def living(folder: Path, now: float) -> set[str]:
    """The processes that share the search in `folder` and have touched their files recently.

    `now`: the present time by the clock of the file server.
    """
    found = set()
    for path in (folder / FOLDER).glob("*"):
        with suppress(OSError):  # it may have ended meanwhile
            # The clock of the file server may have been set back meanwhile.
            if abs(now - path.stat().st_mtime) < DEAD_SECONDS:
                found.add(path.name)
    return found
