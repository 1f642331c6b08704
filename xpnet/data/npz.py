"""NumPy's `.npz` archives, in the layout of Keras's `mnist.npz` or with plain `x` and `y`."""

from __future__ import annotations

import hashlib
import io
import tokenize
from pathlib import Path

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, check_finite, numbered_classes, square_shape
from xpnet.data.files import reading
from xpnet.errors import DataError

# The header of an array is text that NumPy parses as Python; a damaged one fails in many ways.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    ArithmeticError,
    tokenize.TokenError,
)
_LAYOUTS = "x_train, y_train and perhaps x_test, y_test; or x, y"


def read_npz(path: str | Path) -> Source:
    """The arrays `x_train, y_train[, x_test, y_test]`, or `x, y`, of an `.npz` file.

    Samples are `(N, features)` or `(N, height, width)`: uint8, other integers within 0..255
    (which become uint8), float32, float64, or float16 (which becomes float32). Labels are
    `(N,)` integers from 0; classes are numbered up to the largest (see `numbered_classes`).
    `sha256` is that of the file's bytes. Pickled objects are never loaded.

    Raises `DataError`, naming the file and the array.
    """
    path = Path(path)
    arrays, digest = _read(path)
    names = set(arrays)
    if names not in (
        {"x", "y"},
        {"x_train", "y_train"},
        {"x_train", "y_train", "x_test", "y_test"},
    ):
        found = ", ".join(sorted(names)) or "nothing"
        raise DataError(f"{path} holds {found}: it has to hold {_LAYOUTS}")
    suffixes = [suffix for suffix in ("", "_train", "_test") if f"x{suffix}" in arrays]
    labels = [_labels(path, arrays, f"y{suffix}") for suffix in suffixes]
    try:
        classes = numbered_classes(*labels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    parts = [
        _dataset(path, f"x{suffix}", arrays[f"x{suffix}"], marks, classes)
        for suffix, marks in zip(suffixes, labels, strict=True)
    ]
    return Source(path.name, parts[0], parts[1] if len(parts) == 2 else None, digest)


def read_npz_samples(path: str | Path) -> Dataset:
    """What there is to predict in an `.npz` file: `x`, else `x_test`, else `x_train`.

    Its labels, `y…` of the same ending, come along where the file has them.
    """
    path = Path(path)
    arrays, _ = _read(path)
    for suffix in ("", "_test", "_train"):
        if f"x{suffix}" in arrays:
            labels = _labels(path, arrays, f"y{suffix}") if f"y{suffix}" in arrays else None
            return _dataset(path, f"x{suffix}", arrays[f"x{suffix}"], labels, None)
    found = ", ".join(sorted(arrays)) or "nothing"
    raise DataError(f"{path} holds {found}: it has to hold an array x, x_test or x_train")


def _read(path: Path) -> tuple[dict[str, HostArray], str]:
    with reading(path):
        raw = path.read_bytes()
        if not raw:
            raise DataError(f"{path} is empty")
        if not raw.startswith(b"PK"):
            raise DataError(f"{path} is no .npz archive: make it with numpy.savez")
        try:
            with numpy.load(io.BytesIO(raw), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except _DAMAGE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path} cannot be read as an .npz archive: {reason}") from error
    for name, array in arrays.items():
        # What does not begin as an array comes back as bytes.
        if not isinstance(array, numpy.ndarray):
            raise DataError(f"{path}: {name} is no array: make the archive with numpy.savez")
    return arrays, hashlib.sha256(raw).hexdigest()


def _labels(path: Path, arrays: dict[str, HostArray], name: str) -> HostArray:
    labels = arrays[name]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {name} is {labels.dtype} of shape {labels.shape}: labels have to be "
            f"integers of shape (N,)"
        )
    if labels.size and labels.min() < 0:
        row = int((labels < 0).argmax())
        raise DataError(f"{path}: {name}[{row}] is {labels[row]}: labels count from 0")
    if not labels.size:
        raise DataError(f"{path}: {name} is empty")
    return labels


def _dataset(
    path: Path,
    name: str,
    x: HostArray,
    labels: HostArray | None,
    classes: tuple[str, ...] | None,
) -> Dataset:
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise DataError(
            f"{path}: {name} has shape {x.shape}: samples have to be (N, features) or "
            f"(N, height, width)"
        )
    if labels is not None and len(labels) != len(x):
        raise DataError(
            f"{path}: {name} holds {len(x)} samples and y{name[1:]} {len(labels)} labels: the two "
            f"have to agree"
        )
    image_shape = (x.shape[1], x.shape[2]) if x.ndim == 3 else square_shape(x.shape[1])
    x = _values(path, name, x).reshape(len(x), -1)
    try:
        return Dataset(
            x, labels, numbered_classes(labels) if classes is None else classes, image_shape
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _values(path: Path, name: str, x: HostArray) -> HostArray:
    if x.dtype.kind in "iu" and x.dtype != numpy.uint8:
        wrong = (x < 0) | (x > 255)
        if wrong.any():
            place = numpy.argwhere(wrong)[0]
            raise DataError(
                f"{path}: {name}[{', '.join(map(str, place))}] is {x[tuple(place)]}: integers are "
                f"pixels and have to be in 0..255; give other values as floats"
            )
        return x.astype(numpy.uint8)
    if x.dtype == numpy.uint8:
        return x
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise DataError(
            f"{path}: {name} is {x.dtype}: samples have to be integers, float32 or float64"
        )
    check_finite(x, f"{path}: {name}")
    # Also brings the other byte order to this machine's.
    return x.astype(numpy.float64 if x.dtype.itemsize == 8 else numpy.float32, copy=False)
