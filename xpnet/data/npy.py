"""NumPy's `.npy` files, memory-mapped: data that may be larger than memory."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy

from xpnet._files import reading
from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, numbered_classes, square_shape
from xpnet.data.npz import (
    HEADER_ERRORS,
    array_header,
    check_labels,
    check_samples,
    shared_image_shape,
)
from xpnet.errors import DataError, one_line, truncate

LAYOUTS = "x_train.npy, y_train.npy and perhaps x_test.npy, y_test.npy; or x.npy, y.npy"
_DTYPES = (numpy.uint8, numpy.float32, numpy.float64)
_MOST_DIMENSIONS = 32
_SAMPLED_ROWS = 100


def read_npy_folder(folder: str | Path) -> Source:
    """`x_train.npy, y_train.npy[, x_test.npy, y_test.npy]`, or `x.npy, y.npy`, of a folder.

    The files have the names of the arrays in an `.npz`, which is a ZIP archive of such files.
    Samples, `(N, features)`, `(N, height, width)` or `(N, height, width, 1)` of uint8, float32 or
    float64, C-ordered, stay in their file: it is mapped, and a batch reads the rows that it needs.
    Images of several channels would have to be reordered, so they are refused: `read_npz` takes
    them. Floats are read once, in blocks, to check that they are finite. Labels, `(N,)` integers
    from 0, are read into memory. Pickled objects are never loaded.

    Raises `DataError`, naming the file.
    """
    folder = Path(folder)
    pairs = {
        end: (folder / f"x{end}.npy", folder / f"y{end}.npy") for end in ("", "_train", "_test")
    }
    found = {path.name for pair in pairs.values() for path in pair if path.exists()}
    for ends in ([""], ["_train"], ["_train", "_test"]):
        if found == {path.name for end in ends for path in pairs[end]}:
            return _source(folder.resolve().name, [pairs[end] for end in ends])
    raise DataError(
        f"{folder} holds {', '.join(sorted(found)) or 'neither'}: it must hold {LAYOUTS}"
    )


def read_npy(path: str | Path) -> Source:
    """The samples in `NAME.npy`, mapped, and their labels in `NAME_labels.npy` in the same folder.

    As `read_npy_folder`, without a test set. Raises `DataError`, naming the file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    labels = _labels_path(path)
    if not labels.exists():
        raise DataError(
            f"{path} has no labels: put them into {labels.name} beside it, or give a folder that "
            f"holds {LAYOUTS}"
        )
    return _source(path.name, [(path, labels)])


def read_npy_samples(path: str | Path) -> Dataset:
    """The samples in `NAME.npy`, mapped, for prediction; labels where `NAME_labels.npy` exists."""
    path = Path(path)
    labels = _labels_path(path)
    labels_array = _labels(labels) if labels.exists() else None
    return _dataset(path, labels, open_npy(path), labels_array, numbered_classes(labels_array))


def open_npy(path: Path) -> numpy.memmap[Any, Any]:
    """The array in an `.npy` file, mapped for reading.

    The size of the file is compared with its header before it is mapped. Raises `DataError`,
    naming the file, when it is missing, empty, no `.npy`, damaged, shorter or longer than its
    header says, or holds Python objects.
    """
    with reading(path), path.open("rb") as file:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path} is empty")
        try:
            shape, is_fortran, dtype, offset = array_header(file)
        except HEADER_ERRORS as error:
            raise DataError(f"{path} cannot be read as an .npy file: {one_line(error)}") from error
        if dtype.hasobject:
            raise DataError(f"{path} holds Python objects, which are never loaded: save numbers")
        wanted = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 1 or wanted == 0 or len(shape) > _MOST_DIMENSIONS:
            raise DataError(
                f"{path} has shape {truncate(str(shape), 60)}: it holds no array of samples or "
                "labels"
            )
        if offset + wanted != stored:
            fault = "truncated" if offset + wanted > stored else "too long"
            raise DataError(
                f"{path} is {fault}: its header announces {wanted} bytes of values "
                f"({' x '.join(map(str, shape))} of {truncate(str(dtype), 60)}), found "
                f"{stored - offset}"
            )
        return numpy.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")


def _labels_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_labels.npy")


def _source(name: str, pairs: list[tuple[Path, Path]]) -> Source:
    labels_array = [_labels(path) for _, path in pairs]
    try:
        classes = numbered_classes(*labels_array)
    except DataError as error:
        raise DataError(f"{pairs[0][1]}: {error}") from None
    digest = hashlib.sha256()
    parts = []
    samples = [open_npy(path) for path, _ in pairs]
    shape = shared_image_shape(samples)
    for x, (path, labels), own in zip(samples, pairs, labels_array, strict=True):
        parts.append(_dataset(path, labels, x, own, classes, shape))
        digest.update(repr((x.shape, x.dtype.str)).encode())
        digest.update(own.tobytes())
        for row in x[:: -(-len(x) // _SAMPLED_ROWS)]:
            digest.update(row)
    test = parts[1] if len(parts) == 2 else None
    return Source(name, parts[0], test, f"sampled:{digest.hexdigest()}")


def _labels(path: Path) -> HostArray:
    return numpy.array(check_labels(str(path), open_npy(path)))


def _dataset(
    path: Path,
    labels: Path,
    x: numpy.memmap[Any, Any],
    labels_array: HostArray | None,
    classes: tuple[str, ...],
    image_shape: tuple[int, int] | None = None,
) -> Dataset:
    check_samples(str(path), x, str(labels), labels_array)
    if x.dtype not in _DTYPES:
        raise DataError(
            f"{path} is {truncate(str(x.dtype), 60)}: samples that stay in their file must be "
            f"uint8, float32 or float64 in this machine's byte order: convert them, or use an .npz "
            f"file"
        )
    try:
        shape = None if x.ndim > 2 else image_shape or square_shape(x.shape[1])
        return Dataset(x, labels_array, classes, shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
