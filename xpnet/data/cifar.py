"""The binary files of CIFAR-10 and CIFAR-100: records of labels and 3 x 32 x 32 pixels.

The format is described on the CIFAR page of A. Krizhevsky: a file is a sequence of records without
a header. A record is one byte for the label (CIFAR-100: two, of the coarse and of the fine class),
then 3072 bytes of pixels: all red ones, row by row, then all green, then all blue ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy

from xpnet._files import reading
from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source
from xpnet.errors import DataError, join_names, one_line

_IMAGE_SHAPE = (32, 32, 3)
_PIXELS = 3072
_MOST_NAMES = 2**16
"""Bytes of a file of class names; the real ones have fewer than 2,000."""


@dataclass(frozen=True)
class _Layout:
    """`labels`: the bytes of labels in a record, of which the last one is read; `classes`: how
    many; `names`: the file of their names, and the names if it is missing; `pickles`: files of the
    Python version.
    """

    title: str
    train: tuple[str, ...]
    test: str
    labels: int
    classes: int
    names: tuple[str, tuple[str, ...] | None]
    pickles: tuple[str, ...]

    @property
    def record(self) -> int:
        """The bytes of a record."""
        return self.labels + _PIXELS


_KNOWN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10 = _Layout(
    "CIFAR-10",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    1,
    10,
    ("batches.meta.txt", _KNOWN),
    ("data_batch_1", "batches.meta"),
)
_CIFAR100 = _Layout(
    "CIFAR-100",
    ("train.bin",),
    "test.bin",
    2,
    100,
    ("fine_label_names.txt", None),
    ("train", "meta"),
)


def is_cifar_folder(folder: Path) -> bool:
    """Whether a folder holds a file with the name of one of CIFAR's, binary or pickled."""
    return _layout(folder) is not None


def read_cifar_folder(folder: str | Path) -> Source:
    """CIFAR-10 or CIFAR-100, the binary version, in a folder: colour images of 32 x 32.

    CIFAR-10: `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`, and the names of the ten
    classes in `batches.meta.txt`, or the known ones. CIFAR-100: `train.bin`, `test.bin`, and the
    names of the hundred fine classes in `fine_label_names.txt`, or their numbers; the coarse ones
    are not read. The test file may be absent: then `test` is None. Files may have any number of
    records, at least one. Samples are uint8 in the order of the files. `sha256`: of the files and
    of the names. The Python version of the data is pickled, and never loaded.

    Raises `DataError`, naming the file, for one that is missing, empty, of another size than whole
    records, or has a label that is no class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    layout = _layout(folder)
    if layout is None:
        raise DataError(
            f"{folder} holds no file of CIFAR-10 ({join_names(_CIFAR10.train)}, {_CIFAR10.test}) "
            f"or CIFAR-100 ({join_names(_CIFAR100.train)}, {_CIFAR100.test})"
        )
    missing = [name for name in layout.train if not (folder / name).exists()]
    if missing:
        pickle = folder / layout.pickles[0]
        if pickle.is_file() and len(missing) == len(layout.train):
            raise DataError(
                f"{pickle} is of the Python version of {layout.title}, which is "
                f"pickled, and pickles are never loaded, since they may run any code: download the "
                f"binary version ({layout.title.lower()}-binary.tar.gz) and give its folder"
            )
        raise DataError(
            f"{folder} holds no file {missing[0]}: {layout.title} is {join_names(layout.train)} "
            f"and perhaps {layout.test}"
        )
    classes = _class_names(folder, layout)
    digest = hashlib.sha256("\n".join(classes).encode())
    train = _read([folder / name for name in layout.train], layout, classes, digest)
    test = None
    if (folder / layout.test).exists():
        test = _read([folder / layout.test], layout, classes, digest)
    return Source(folder.resolve().name, train, test, digest.hexdigest())


def read_cifar_samples(path: str | Path) -> Dataset:
    """One binary file of CIFAR-10, or of CIFAR-100 if it has the name of one, for prediction.

    Raises `DataError` as `read_cifar_folder` does.
    """
    path = Path(path)
    is_100 = path.name in (*_CIFAR100.train, _CIFAR100.test)
    layout = _CIFAR100 if is_100 else _CIFAR10
    return _read([path], layout, _class_names(path.parent, layout), hashlib.sha256())


def _layout(folder: Path) -> _Layout | None:
    # Binary files first: a folder may hold both versions.
    if any((folder / name).is_file() for name in (*_CIFAR10.train, _CIFAR10.test)):
        return _CIFAR10
    # A file test.bin may be anything.
    if (folder / _CIFAR100.train[0]).is_file():
        return _CIFAR100
    for layout in (_CIFAR10, _CIFAR100):
        if all((folder / name).is_file() for name in layout.pickles):
            return layout
    return None


def _read(
    paths: list[Path], layout: _Layout, classes: tuple[str, ...], digest: hashlib._Hash
) -> Dataset:
    """The records of these files, in this order; adds their content to `digest`."""
    counts = [_count(path, layout) for path in paths]
    with reading(paths[0]):
        x = numpy.empty((sum(counts), _PIXELS), numpy.uint8)
        labels = numpy.empty(len(x), numpy.int64)
    start = 0
    for path, count in zip(paths, counts, strict=True):
        records = _records(path, count, layout)
        digest.update(f"{path.name}, {count} records:".encode())
        digest.update(records.data)
        rows = slice(start, start + count)
        found = records[:, layout.labels - 1]
        if found.max() >= layout.classes:
            row = int((found >= layout.classes).argmax())
            raise DataError(
                f"{path}: record {row + 1} of {count} has the label {found[row]}, expected 0 to "
                f"{layout.classes - 1}: the file is damaged or not of {layout.title}; fetch it "
                f"again"
            )
        labels[rows], x[rows] = found, records[:, layout.labels :]
        start += count
    return Dataset(x, labels, classes, _IMAGE_SHAPE)


def _count(path: Path, layout: _Layout) -> int:
    """The number of records of a file, from its size."""
    with reading(path):
        size = path.stat().st_size
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected a file of {layout.title}")
    if size == 0:
        raise DataError(f"{path} is empty")
    if size % layout.record:
        raise DataError(
            f"{path} is truncated or no file of {layout.title}: its {size} bytes are not a "
            f"whole number of records of {layout.record} bytes (labels and 3 x 32 x 32 pixels); "
            f"fetch it again, or give a file of CIFAR-100 its own name"
        )
    return size // layout.record


def _records(path: Path, count: int, layout: _Layout) -> HostArray:
    with reading(path):
        values = numpy.fromfile(path, numpy.uint8, count * layout.record)
    if values.size != count * layout.record:
        raise DataError(f"{path} became shorter while it was read: {values.size} bytes")
    return values.reshape(count, layout.record)


def _class_names(folder: Path, layout: _Layout) -> tuple[str, ...]:
    name, known = layout.names
    path = folder / name
    if not path.exists():
        return known or tuple(map(str, range(layout.classes)))
    with reading(path), path.open("rb") as file:
        text = file.read(_MOST_NAMES + 1).decode("utf-8-sig", errors="replace")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) != layout.classes or len(set(names)) != len(names):
        raise DataError(
            f"{path} holds {len(set(names))} different class names in {len(names)} lines, "
            f"expected {layout.classes}: fetch it again, or delete it"
        )
    wrong = next((n for n in names if not n.isprintable() or len(n) > 100), None)
    if wrong is not None:
        raise DataError(
            f"{path}: {one_line(wrong)} is no class name: it must be printable text of at most 100 "
            f"characters"
        )
    return tuple(names)
