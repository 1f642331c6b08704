"""Reading a file's bytes, with every way in which that fails told in one line."""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from xpnet.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK\x03\x04"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the file system or a decompressor raises into a `DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} is damaged and cannot be decompressed ({error}): fetch it again"
        ) from error
    # zipfile answers a password with RuntimeError, an unknown method with NotImplementedError.
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{path} is a ZIP archive that cannot be read ({error})") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory") from error


def read_content(path: Path) -> bytes:
    """The bytes of `path`, decompressed where its name or its first bytes say gzip or ZIP.

    A ZIP archive has to hold exactly one file. Raises `DataError`, naming `path`.
    """
    with reading(path):
        raw = path.read_bytes()
        if not raw:
            raise DataError(f"{path} is empty")
        suffix = path.suffix.lower()
        if suffix == ".gz" or raw.startswith(GZIP_MAGIC):
            return gzip.decompress(raw)
        if suffix == ".zip" or raw.startswith(_ZIP_MAGIC):
            return _only_member(raw, path)
        return raw


def _only_member(raw: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        # macOS puts a shadow of every file beside it.
        members = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            found = ", ".join(members[:5]) or "none"
            raise DataError(
                f"{path} holds {len(members)} files ({found}): a ZIP archive has to hold one, "
                f"unpack it and give the file"
            )
        return archive.read(members[0])
