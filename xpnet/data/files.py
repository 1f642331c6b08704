"""The bytes of a file, decompressed within a limit; every failure is a `DataError`."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from xpnet._files import reading
from xpnet.errors import DataError, join_names, short_repr

GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK\x03\x04"
_MOST_RATIO = 100
_LEAST_LIMIT = 2**26
_CHUNK = 2**20


def read_content(path: Path) -> bytes:
    """The bytes of `path`, decompressed if its name or its first bytes are those of gzip or ZIP.

    A ZIP archive must hold exactly one file. Raises `DataError`, naming `path`, also where the
    content is larger than `most_content`.
    """
    with reading(path):
        raw = path.read_bytes()
        if not raw:
            raise DataError(f"{path} is empty")
        suffix = path.suffix.lower()
        if suffix == ".gz" or raw.startswith(GZIP_MAGIC):
            packed = io.BytesIO(raw)
            with gzip.GzipFile(fileobj=packed) as stream:
                return _all_of(Unpacking(stream, packed, path))
        if suffix == ".zip" or raw.startswith(_ZIP_MAGIC):
            return _only_member(raw, path)
        return raw


def _only_member(raw: bytes, path: Path) -> bytes:
    try:
        return _unzipped(raw, path)
    except DataError:
        raise
    # zipfile raises these for a damaged directory or header.
    except (ValueError, LookupError, struct.error) as error:
        raise zipfile.BadZipFile(str(error)) from error


def _unzipped(raw: bytes, path: Path) -> bytes:
    packed = io.BytesIO(raw)
    with zipfile.ZipFile(packed) as archive:
        # macOS adds a second file with metadata for each file.
        members = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            raise DataError(
                f"{path} holds {len(members)} files ({join_names(members[:5])}): a ZIP archive "
                f"must hold one: unpack it and give the file"
            )
        check_members([archive.getinfo(members[0])], path, len(raw))
        with archive.open(members[0]) as stream:
            return _all_of(Unpacking(stream, packed, path))


def most_content(stored: int) -> int:
    """The largest accepted content, in bytes, of a compressed file of `stored` bytes.

    A hundred times as much, or 64 MiB if that is more. Images and tables shrink to a tenth or a
    fiftieth; a higher ratio means a decompression bomb (gzip reaches a thousandth).
    """
    return max(_LEAST_LIMIT, _MOST_RATIO * stored)


class Unpacking:
    """Reads the decompressor `stream` of the file `packed`, and counts the bytes."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, packed: IO[bytes], path: Path) -> None:
        self.stream, self.packed, self.path = stream, packed, path
        self.total = 0

    def read(self, size: int) -> bytes:
        """The next bytes. Raises `DataError` once there were more than `most_content`."""
        piece = self.stream.read(size)
        self.total += len(piece)
        if self.total > most_content(self.packed.tell()):
            raise _bomb(self.path, self.packed.tell())
        return piece


def check_members(members: Sequence[zipfile.ZipInfo], path: Path, stored: int) -> None:
    """Raise `DataError` unless these members of a ZIP archive may be unpacked."""
    for member in members:
        # Python's other decompressors have no limit of the output.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{path}: {short_repr(member.filename)} is compressed by method "
                f"{member.compress_type}: compress it by deflate, the default of zip"
            )
    if sum(member.file_size for member in members) > most_content(stored):
        raise _bomb(path, stored)


def _all_of(stream: Unpacking) -> bytes:
    content = io.BytesIO()
    while piece := stream.read(_CHUNK):
        content.write(piece)
    return content.getvalue()


def _bomb(path: Path, stored: int) -> DataError:
    return DataError(
        f"{path}: {stored} of its bytes hold more than {most_content(stored)}, as in a "
        f"decompression bomb: if you trust the file, decompress it and give the result"
    )
