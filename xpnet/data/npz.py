"""NumPy's `.npz` archives, in the layout of Keras's `mnist.npz` or with plain `x` and `y`."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy
from numpy.lib import format as npy_format

from xpnet._files import reading
from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, check_finite, numbered_classes, square_shape
from xpnet.data.files import check_members
from xpnet.errors import DataError, ShapeError, join_names, one_line, truncate
from xpnet.utils.channels import MOST_CHANNELS, as_rows, require_channels_last
from xpnet.utils.quiet import without_warnings

# NumPy parses the header of an array as Python; a damaged header raises many kinds of errors.
HEADER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    ArithmeticError,
    tokenize.TokenError,
    struct.error,
)
_LAYOUTS = "x_train, y_train and perhaps x_test, y_test; or x, y"
_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test")
_MOST_HEADER = 2**14


def read_npz(path: str | Path) -> Source:
    """The arrays `x_train, y_train[, x_test, y_test]`, or `x, y`, of an `.npz` file.

    Samples are `(N, features)`, `(N, height, width)` or `(N, height, width, channels)` with at most
    4 channels, which become rows in the order channels, height, width: uint8, other integers within
    0..255 (which become uint8), float32, float64, or float16 (which becomes float32). Labels are
    `(N,)` integers from 0; classes are numbered up to the largest (see `numbered_classes`).
    `sha256` is that of the file's bytes. Pickled objects are never loaded.

    Raises `DataError`, naming the file and the array.
    """
    path = Path(path)
    arrays, names, digest = _read(path)
    if names not in (
        {"x", "y"},
        {"x_train", "y_train"},
        {"x_train", "y_train", "x_test", "y_test"},
    ):
        raise DataError(f"{path} holds {join_names(sorted(names))}: it must hold {_LAYOUTS}")
    suffixes = [suffix for suffix in ("", "_train", "_test") if f"x{suffix}" in arrays]
    labels = [check_labels(f"{path}: y{end}", arrays[f"y{end}"]) for end in suffixes]
    try:
        classes = numbered_classes(*labels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    shape = shared_image_shape([arrays[f"x{suffix}"] for suffix in suffixes])
    parts = [
        _dataset(path, f"x{suffix}", arrays[f"x{suffix}"], found_labels, classes, shape)
        for suffix, found_labels in zip(suffixes, labels, strict=True)
    ]
    return Source(path.name, parts[0], parts[1] if len(parts) == 2 else None, digest)


def read_npz_samples(path: str | Path) -> Dataset:
    """The samples to predict in an `.npz` file: `x`, else `x_test`, else `x_train`.

    With their labels, `y…` of the same ending, where the file has them.
    """
    path = Path(path)
    arrays, names, _ = _read(path)
    for suffix in ("", "_test", "_train"):
        if f"x{suffix}" in arrays:
            found_labels = arrays.get(f"y{suffix}")
            labels = (
                None if found_labels is None else check_labels(f"{path}: y{suffix}", found_labels)
            )
            return _dataset(path, f"x{suffix}", arrays[f"x{suffix}"], labels, None)
    raise DataError(
        f"{path} holds {join_names(sorted(names))}: it must hold an array x, x_test or x_train"
    )


def _read(path: Path) -> tuple[dict[str, HostArray], set[str], str]:
    """The arrays with known names, the names of all arrays, and the digest of the file."""
    with reading(path), path.open("rb") as file:
        magic = file.read(2)
        if not magic:
            raise DataError(f"{path} is empty")
        if magic != b"PK":
            raise DataError(f"{path} is no .npz archive: make it with numpy.savez")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        try:
            with without_warnings(), numpy.load(file, allow_pickle=False) as archive:
                names = set(archive.files)
                known = [name for name in _NAMES if name in names]
                _check_sizes(archive.zip, known, path)
                arrays = {name: archive[name] for name in known}
        except HEADER_ERRORS as error:
            raise DataError(
                f"{path} cannot be read as an .npz archive: {one_line(error)}"
            ) from error
    return arrays, names, digest


def _check_sizes(archive: zipfile.ZipFile, known: list[str], path: Path) -> None:
    """Compare the sizes of the archive's members with its size, and the arrays with both.

    Raises `DataError` and `ValueError`.
    """
    inside = set(archive.namelist())
    members = [archive.getinfo(n if n in inside else f"{n}.npy") for n in known]
    check_members(members, path, path.stat().st_size)
    for name, member in zip(known, members, strict=True):
        with archive.open(member) as opened:
            stream: Any = opened  # a ZipExtFile, which can peek
            if not stream.peek(6).startswith(npy_format.MAGIC_PREFIX):
                raise DataError(f"{path}: {name} is no array: make the archive with numpy.savez")
            shape, _, dtype, offset = array_header(stream)
        wanted, found = math.prod(shape) * dtype.itemsize, member.file_size - offset
        if wanted != found and not dtype.hasobject:
            raise ValueError(
                f"{name} should have {wanted} bytes ({truncate(str(shape), 60)} of "
                f"{truncate(str(dtype), 60)}), found {found}"
            )


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, numpy.dtype[Any], int]:
    """The header of an `.npy` file: shape, whether in Fortran order, dtype, and its length.

    Raises any of `HEADER_ERRORS`.
    """
    head = io.BytesIO(file.read(_MOST_HEADER))
    with without_warnings():  # NumPy warns of headers by Python 2, and reads them
        # Version 3 is the same for arrays of numbers.
        if npy_format.read_magic(head) == (1, 0):
            header = npy_format.read_array_header_1_0(head)
        else:
            header = npy_format.read_array_header_2_0(head)
    return (*header, head.tell())


def check_labels(name: str, labels: HostArray) -> HostArray:
    """Return `labels`; raises `DataError`, naming them, unless they are `(N,)` integers from 0."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} is {truncate(str(labels.dtype), 60)} of shape "
            f"{truncate(str(labels.shape), 60)}: labels "
            f"must be integers of shape (N,)"
        )
    if not labels.size:
        raise DataError(f"{name} is empty")
    if labels.min() < 0:
        row = int((labels < 0).argmax())
        raise DataError(f"{name}[{row}] is {labels[row]}: labels count from 0")
    return labels


def shared_image_shape(arrays: Sequence[HostArray]) -> tuple[int, int] | None:
    """The shape of the images in one of two arrays, for the other one if it is flat.

    None for several channels: flat rows do not say in which order they hold them.
    """
    shapes = {array.shape[1:3] for array in arrays if array.ndim == 3 or array.shape[3:] == (1,)}
    flat = {array.shape[1:] for array in arrays if array.ndim == 2}
    if len(shapes) != 1 or not flat:
        return None
    height, width = shapes.pop()
    return (height, width) if (height * width,) in flat else None


def check_samples(name: str, x: HostArray, labels_name: str, labels: HostArray | None) -> None:
    """Raise `DataError`, naming the array, unless it has the shape of samples for `labels`."""
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise DataError(
            f"{name} has shape {truncate(str(x.shape), 60)}: samples must be (N, features), "
            f"(N, height, width) or (N, height, width, channels)"
        )
    if x.ndim == 4:
        try:
            require_channels_last(x.shape, None, name)
        except ShapeError as error:
            raise DataError(str(error)) from None
        if x.shape[3] > MOST_CHANNELS:
            raise DataError(
                f"{name} has shape {truncate(str(x.shape), 60)}: images must be (N, height, "
                f"width, channels) with at most {MOST_CHANNELS} channels"
            )
    if labels is not None and len(labels) != len(x):
        raise DataError(
            f"{name} holds {len(x)} samples and {labels_name} {len(labels)} labels: the two must "
            f"agree"
        )


def _dataset(
    path: Path,
    name: str,
    x: HostArray,
    labels: HostArray | None,
    classes: tuple[str, ...] | None,
    image_shape: tuple[int, int] | None = None,
) -> Dataset:
    check_samples(f"{path}: {name}", x, f"y{name[1:]}", labels)
    shape: tuple[int, ...] | None = image_shape or square_shape(x.shape[1])
    if x.ndim > 2:
        shape = x.shape[1:]
    x = as_rows(_values(path, name, x), None, f"{path}: {name}")
    try:
        return Dataset(x, labels, numbered_classes(labels) if classes is None else classes, shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _values(path: Path, name: str, x: HostArray) -> HostArray:
    if x.dtype.kind in "iu" and x.dtype != numpy.uint8:
        wrong = (x < 0) | (x > 255)
        if wrong.any():
            place = numpy.argwhere(wrong)[0]
            raise DataError(
                f"{path}: {name}[{', '.join(map(str, place))}] is {x[tuple(place)]}: integers are "
                f"pixels and must be in 0..255; give other values as floats"
            )
        return x.astype(numpy.uint8)
    if x.dtype == numpy.uint8:
        return x
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise DataError(
            f"{path}: {name} is {truncate(str(x.dtype), 60)}: samples must be integers, "
            f"float32 or float64"
        )
    check_finite(x, f"{path}: {name}")
    # Also converts the byte order.
    return x.astype(numpy.float64 if x.dtype.itemsize == 8 else numpy.float32, copy=False)
