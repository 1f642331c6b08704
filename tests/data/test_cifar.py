"""CIFAR's binary files: what is read, and one clear line for each file that is not as it should be.

The files are made here, with few records.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy
import pytest

from xpnet.data import load_dataset, read_cifar_folder, read_samples
from xpnet.errors import DataError

RECORDS = 4
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def records(seed: int, labels: int = 1, classes: int = 10) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The labels `(4, labels)` and images `(4, 32, 32, 3)` of a file."""
    draw = numpy.random.default_rng(seed)
    images = draw.integers(0, 256, (RECORDS, 32, 32, 3), dtype=numpy.uint8)
    return draw.integers(0, classes, (RECORDS, labels), dtype=numpy.uint8), images


def content(labels: numpy.ndarray, images: numpy.ndarray) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return numpy.concatenate([labels, planes], axis=1).tobytes()


def fill(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(FILES):
        (folder / name).write_bytes(content(*records(seed)))
    return folder


def test_the_files_of_cifar_10_give_colour_images(tmp_path: Path) -> None:
    source = load_dataset(fill(tmp_path / "cifar-10-batches-bin"))
    assert source.name == "cifar-10-batches-bin"
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (5 * RECORDS, RECORDS)
    assert source.train.classes == source.test.classes == NAMES
    assert source.train.image_shape == (32, 32, 3)
    assert source.train.x.dtype == numpy.uint8
    labels, images = records(2)
    assert source.train.labels is not None
    assert source.train.labels[8:12].tolist() == labels[:, 0].tolist()
    rows = source.train.x[8:12].reshape(-1, 3, 32, 32)
    numpy.testing.assert_array_equal(rows.transpose(0, 2, 3, 1), images)


def test_the_digest_is_that_of_content_and_class_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a")
    first = read_cifar_folder(folder).sha256
    assert read_cifar_folder(fill(tmp_path / "b")).sha256 == first
    moved = fill(tmp_path / "c")
    last, test = (moved / name for name in FILES[-2:])
    kept, record = last.read_bytes()[:-3073], last.read_bytes()[-3073:]
    last.write_bytes(kept)
    test.write_bytes(record + test.read_bytes())
    assert read_cifar_folder(moved).sha256 != first
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    assert read_cifar_folder(folder).sha256 == first
    names = "0123456789"
    (folder / "batches.meta.txt").write_text("\n".join(names))
    assert read_cifar_folder(folder).train.classes == tuple(names)
    assert read_cifar_folder(folder).sha256 != first
    (folder / "batches.meta.txt").unlink()
    (folder / FILES[-1]).write_bytes(content(*records(9)))
    assert read_cifar_folder(folder).sha256 != first


def test_the_test_file_may_be_absent(tmp_path: Path) -> None:
    (fill(tmp_path) / "test_batch.bin").unlink()
    assert read_cifar_folder(tmp_path).test is None


def test_cifar_100_has_two_labels_of_which_the_fine_one_is_read(tmp_path: Path) -> None:
    for seed, name in enumerate(("train.bin", "test.bin")):
        (tmp_path / name).write_bytes(content(*records(seed, labels=2, classes=20)))
    source = load_dataset(tmp_path)
    labels, images = records(0, labels=2, classes=20)
    assert source.train.labels is not None
    assert source.train.labels.tolist() == labels[:, 1].tolist()
    assert source.train.classes == tuple(map(str, range(100)))
    rows = source.train.x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    numpy.testing.assert_array_equal(rows, images)
    names = tuple(f"class {number}" for number in range(100))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names))
    assert load_dataset(tmp_path).train.classes == names
    samples = read_samples(tmp_path / "test.bin")
    assert samples.classes == names
    assert len(samples) == RECORDS


def test_one_file_gives_samples_to_predict(tmp_path: Path) -> None:
    samples = read_samples(fill(tmp_path) / "test_batch.bin")
    labels, _ = records(5)
    assert samples.labels is not None
    assert samples.labels.tolist() == labels[:, 0].tolist()
    assert (samples.image_shape, samples.classes) == ((32, 32, 3), NAMES)


RECORD = content(*records(0))[:3073]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_3.bin", b"", r"data_batch_3\.bin is empty"),
        ("data_batch_3.bin", None, r"holds no file data_batch_3\.bin: CIFAR-10 is data_batch_1"),
        ("data_batch_5.bin", RECORD[:-1], r"_5\.bin is truncated or .*: its 3072 bytes .* 3073 b"),
        ("test_batch.bin", RECORD + b"\0", r"test_batch\.bin is truncated or .*: its 3074 bytes"),
        ("data_batch_1.bin", RECORD + b"\x0a" + RECORD[1:], r"_1\.bin: record 2 of 2 has the la"),
        ("batches.meta.txt", b"", r"batches\.meta\.txt holds 0 different class names in 0 lines"),
        ("batches.meta.txt", b"cat\n" * 10, r"meta\.txt holds 1 different class names in 10 l"),
        ("batches.meta.txt", b"a\nb\nc\nd\ne\nf\ng\nh\ni\n\x1b[1m", r"'\\x1b\[1m' is no class na"),
    ],
    ids=["empty", "missing", "cut", "long", "label", "no names", "same names", "control"],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    fill(tmp_path)
    if data is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (fill(tmp_path) / "data_batch_2.bin").unlink()
    (tmp_path / "data_batch_2.bin").mkdir()
    with pytest.raises(DataError, match=r"data_batch_2\.bin is a folder, expected a file of CIFAR"):
        read_cifar_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "title"),
    [(("data_batch_1", "batches.meta"), "CIFAR-10"), (("train", "test", "meta"), "CIFAR-100")],
    ids=["10", "100"],
)
def test_the_python_version_is_refused_and_not_unpickled(
    tmp_path: Path, files: tuple[str, ...], title: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    message = (
        rf"{files[0]} is of the Python version of {title}, .* never loaded.*"
        rf"\({title.lower()}-binary\.tar\.gz\)"
    )
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)
    assert not (tmp_path / "touched").exists()


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_folder_of_neither_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file of CIFAR-10 \(data_batch_1\.bin, "):
        read_cifar_folder(tmp_path)
    with pytest.raises(DataError, match="gone: there is no such folder"):
        read_cifar_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no data: give a folder with .* CIFAR-10 .* class"):
        load_dataset(tmp_path)
