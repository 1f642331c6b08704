"""How a process has a folder to itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

from xpnet.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows, where folders go unlocked
    fcntl = None  # type: ignore[assignment]

MODEL = "model.safetensors"
"""The trained network in the folder of a run."""

LOCK = ".lock"
# What `write_atomically` leaves of a file where a process is killed at it.
_CUT_OFF = re.compile(r"\.[\w-]+\.(toml|csv|html|json|png|safetensors)\.\d+")
_held: set[tuple[Path, int]] = set()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Within the block nobody else is in `folder`, which is made if need be.

    The system's lock on the file `.lock` says so; it ends with the process that holds it, however
    that ends, so a file that was left behind keeps nobody out. Who is in already may enter again.
    Raises `ConfigError` while another process (or thread) is in, and for a folder that cannot be
    made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise impossible(folder, "made", error) from None
    key = folder.resolve(), get_ident()
    if key in _held:
        yield
        return
    handle = _locked(folder) if fcntl else None
    _held.add(key)
    try:
        for path in folder.iterdir():
            if _CUT_OFF.fullmatch(path.name):
                path.unlink()
        yield
    finally:
        _held.remove(key)
        if handle is not None:
            # While it is held: who has opened it in between sees that it is another, or gone.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(handle)


def _locked(folder: Path) -> int:
    path = folder / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise impossible(folder, "locked", error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise ConfigError(
                f"run: {folder} is in use by another process: wait for its end, or name another "
                f"folder"
            ) from None
        except OSError as error:
            os.close(handle)
            raise impossible(folder, "locked", error) from None
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def impossible(folder: Path, what: str, error: OSError) -> ConfigError:
    """The error for a `folder` that cannot be `what`."""
    return ConfigError(
        f"run: {folder} cannot be {what} ({error.strerror or error}): name another with --run"
    )
