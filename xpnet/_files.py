"""Files and folders: reading with clear errors, atomic writing, and a lock on a folder."""

from __future__ import annotations

import errno
import gzip
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xpnet.errors import CheckpointError, ConfigError, DataError, one_line

LOCK = ".lock"
"""The lock file of a folder; it exists while a process holds the lock."""

# What `write_atomically` leaves behind where its process is killed.
_TEMPORARY = re.compile(r"\.[\w-]+\.(toml|csv|html|json|png|safetensors)\.\d+(\.[0-9a-f]{8})?")
# The lock file may vanish between opening and locking it, and is then opened again.
_LOCK_TIMEOUT = 0.2


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of the file system and of decompressors into a `DataError`."""
    try:
        refuse_special(path)
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} is damaged and cannot be decompressed ({one_line(error)}): fetch it again"
        ) from error
    # zipfile raises RuntimeError for a password, NotImplementedError for an unknown method.
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(
            f"{path} is a ZIP archive that cannot be read ({one_line(error)})"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory") from error


def refuse_special(path: Path) -> None:
    """Raise `DataError` for a pipe or a device, which may block a reader or never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is a pipe or a device, not a file: copy it into a file first")


def write_atomically(path: Path, content: bytes | Iterator[bytes]) -> None:
    """Replace `path` by `content` in one step; a reader sees the old file or the new one.

    When this returns, the new file is on the disk and survives a crash of the machine. Raises
    `CheckpointError` where the file cannot be written.
    """
    # In the same folder, since a rename is atomic only within one file system.
    # Processes on two machines, or in two containers, may have the same id.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            with temporary.open("xb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error


def _sync_folder(folder: Path) -> None:
    """Write the folder to the disk, and with it a rename, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # on Windows, for every folder
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def lock(
    folder: Path, setting: str = "run", holder: str = "process", tidy: bool = True
) -> Iterator[None]:
    """Lock `folder` for this thread during the block; the folder is made if it does not exist.

    It is an operating system lock on the file `.lock`, released when the process ends in any way: a
    lock file that is left behind does not block. The same thread may lock the folder again within
    the block. Temporary files of killed processes are removed, unless `tidy` is False.

    `setting` is the setting that names the folder, and `holder` what else may hold the lock, for
    messages. Raises `ConfigError` while another process or thread holds the lock, and for a folder
    that cannot be made or locked.
    """
    # Here, as it takes a quarter of the time that `import xpnet` takes.
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise folder_error(folder, "made", error, setting) from None
    path = folder.resolve() / LOCK
    # Of each path one object, which knows the thread that holds the lock.
    held = FileLock(path, timeout=_LOCK_TIMEOUT, mode=0o644, is_singleton=True)
    if held.is_locked:
        yield
        return
    try:
        held.acquire()
    except Timeout:
        raise ConfigError(
            f"{setting}: {folder} is in use by another {holder}: wait for its end, or name "
            f"another folder"
        ) from None
    except OSError as error:
        raise folder_error(folder, "locked", error, setting) from None
    try:
        if tidy:
            remove_temporary(folder)
        yield
    finally:
        # Before the release, so that nobody else has locked it; Windows removes it at the release.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        held.release()


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of killed processes; nobody may be writing to `folder`."""
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            entry.unlink()


def folder_error(folder: Path, action: str, error: OSError, setting: str = "run") -> ConfigError:
    """The error for a `folder` of a setting that cannot be made, or locked: the `action`."""
    return ConfigError(
        f"{setting}: {folder} cannot be {action} ({error.strerror or error}): name another with "
        f"--{setting}"
    )
