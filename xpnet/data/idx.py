"""IDX, the format of the MNIST files: a magic number, the dimensions, then the values.

The format is described on the MNIST page of Y. LeCun, C. Cortes and C. Burges: two zero
bytes, one byte for the element type, one for the number of dimensions, then each dimension
as a big-endian 32-bit integer, then the values in row-major order, big-endian.
"""

from __future__ import annotations

import gzip
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy

from xpnet._files import reading
from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, numbered_classes
from xpnet.data.files import GZIP_MAGIC, Unpacking, most_content
from xpnet.errors import DataError

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The names of the four files, in the order in which their content is hashed."""

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_DIMENSIONS = 16
_PIECE = 1 << 18


def read_idx(path: str | Path) -> HostArray:
    """The array in an IDX file, plain or gzipped, in this machine's byte order.

    The size in the header is compared with that of the file before any memory is allocated.
    Raises `DataError`, naming the file, when it is missing, empty, no IDX file, damaged, or
    shorter or longer than its header says.
    """
    array = _load(Path(path))[1]
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_idx_images(path: str | Path) -> Dataset:
    """One IDX file of images (magic number 0x00000803), unlabelled: `(N, H * W)` uint8."""
    path = Path(path)
    return _dataset(path, _load(path, IMAGES_MAGIC)[1], None, ())


def read_idx_folder(folder: str | Path, *, sha256: Mapping[str, str] | None = None) -> Source:
    """The images and labels in a folder of files with the names of MNIST's.

    Each of `IDX_FILES` may be plain or end in `.gz`, and may have a dot instead of the dash
    before `idx`. The two `t10k` files may both be absent: then `test` is None. `sha256` holds the
    expected digest of the decompressed content of each of the four files. Classes are numbered up
    to the largest label (see `numbered_classes`).

    Raises `DataError`, naming the file, what was found and what was expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    paths = [find_idx_file(folder, name) for name in IDX_FILES]
    if sha256 is None and paths[2] is None and paths[3] is None:
        paths = paths[:2]
    digest = hashlib.sha256()
    parts: list[tuple[Path, HostArray]] = []
    for name, path in zip(IDX_FILES, paths, strict=False):
        if path is None:
            raise DataError(f"{folder} holds no file {name} (or {name}.gz)")
        header, array = _load(path, IMAGES_MAGIC if "images" in name else LABELS_MAGIC)
        digest.update(header)
        digest.update(array.data)
        if sha256 is not None:
            check_sha256(path, header, array, sha256[name])
        parts.append((path, array))
    labels = [array for _, array in parts[1::2]]
    for (path, images), (labels_path, labels_array) in zip(parts[::2], parts[1::2], strict=True):
        if len(images) != len(labels_array):
            raise DataError(
                f"{path} holds {len(images)} images and {labels_path} {len(labels_array)} labels: "
                f"the two must agree"
            )
    classes = numbered_classes(*(labels_array for labels_array in labels if labels_array.size))
    datasets = [
        _dataset(path, images, labels_array, classes)
        for (path, images), labels_array in zip(parts[::2], labels, strict=True)
    ]
    test = datasets[1] if len(datasets) == 2 else None
    return Source(folder.resolve().name, datasets[0], test, digest.hexdigest())


def find_idx_file(folder: Path, name: str) -> Path | None:
    """The file in `folder` with this name, or a known variant of it; else None."""
    for stem in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = folder / (stem + suffix)
            if path.is_file():
                return path
    return None


def check_idx_file(path: Path, sha256: str) -> None:
    """Raise `DataError` unless the decompressed content of an IDX file has this digest."""
    check_sha256(path, *_load(path), sha256)


def check_sha256(path: Path, header: bytes, array: HostArray, expected: str) -> None:
    """Raise `DataError`, naming `path` and both digests, unless header and values match."""
    digest = hashlib.sha256(header)
    digest.update(array.data)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path}: SHA-256 of the decompressed content is {digest.hexdigest()}, expected "
            f"{expected}: the file is damaged or another one; delete it and fetch it again"
        )


def _load(path: Path, magic: int | None = None) -> tuple[bytes, HostArray]:
    """Header and values of one file; the values in the byte order of the file (big-endian)."""
    with reading(path), path.open("rb") as file:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path} is empty")
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not compressed:
            return _parse(path, file, magic, largest=stored)
        with gzip.GzipFile(fileobj=file) as stream:
            most = most_content(stored)
            note = f" (at most {most} are decompressed: if you trust the file, decompress it)"
            return _parse(path, Unpacking(stream, file, path), magic, most, note)


def _parse(
    path: Path, stream: IO[bytes] | Unpacking, magic: int | None, largest: int, note: str = ""
) -> tuple[bytes, HostArray]:
    header = stream.read(4)
    if len(header) < 4:
        raise DataError(f"{path} is truncated: it ends after {len(header)} bytes, in its header")
    found = int.from_bytes(header, "big")
    kind, dimensions = header[2], header[3]
    if magic is not None and found != magic:
        raise DataError(
            f"{path}: wrong magic number 0x{found:08x} ({found}), expected 0x{magic:08x} "
            f"({magic}) for {'images' if magic == IMAGES_MAGIC else 'labels'}"
        )
    if header[:2] != b"\0\0" or kind not in _TYPES or not 0 < dimensions <= _MOST_DIMENSIONS:
        raise DataError(
            f"{path}: wrong magic number 0x{found:08x} ({found}), expected an IDX file's, such "
            f"as 0x{IMAGES_MAGIC:08x} ({IMAGES_MAGIC})"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{path} is truncated: it ends in its header")
    header += sizes
    shape = tuple(int(size) for size in numpy.frombuffer(sizes, ">u4"))
    dtype = numpy.dtype(_TYPES[kind])
    wanted = math.prod(shape) * dtype.itemsize
    announced = f"its header announces {wanted} bytes of values ({' x '.join(map(str, shape))})"
    if len(header) + wanted > largest:
        raise DataError(f"{path} is truncated: {announced}, more than the file can hold{note}")
    values = numpy.empty(wanted, dtype=numpy.uint8)
    view = values.data
    count = 0
    while count < wanted:
        piece = stream.read(min(_PIECE, wanted - count))
        if not piece:
            raise DataError(f"{path} is truncated: {announced}, found {count}")
        view[count : count + len(piece)] = piece
        count += len(piece)
    # Reading past the end also makes gzip verify its checksum.
    if stream.read(1):
        raise DataError(f"{path} is too long: {announced}, and more follows")
    try:
        return header, values.view(dtype).reshape(shape)
    # If one size is 0, the others may be of any value.
    except ValueError:
        raise DataError(f"{path} is damaged: no array has the shape {shape}") from None


def _dataset(
    path: Path, images: HostArray, labels: HostArray | None, classes: tuple[str, ...]
) -> Dataset:
    count, height, width = images.shape
    if 0 in images.shape:
        raise DataError(f"{path} holds no image: {count} of {height} x {width} pixels")
    return Dataset(images.reshape(count, height * width), labels, classes, (height, width))
