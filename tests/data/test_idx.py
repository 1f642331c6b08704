"""IDX files: round trips, and one clear line for each way in which a file can be wrong."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from xpnet.data import read_idx, read_idx_folder
from xpnet.data.idx import IDX_FILES, find_idx_file, read_idx_images
from xpnet.errors import DataError

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
IMAGES = numpy.arange(24, dtype=numpy.uint8).reshape(4, 2, 3)
MARKS = numpy.array([0, 2, 1, 2], dtype=numpy.uint8)


def idx_bytes(array: numpy.ndarray) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
    sizes = numpy.array(array.shape, dtype=">u4").tobytes()
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path: Path, array: numpy.ndarray) -> Path:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_folder(folder: Path, *, test: bool = True, suffix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for name in IDX_FILES if test else IDX_FILES[:2]:
        write(folder / (name + suffix), IMAGES if "images" in name else MARKS)
    return folder


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Fail when what is inside allocates more than a few megabytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda dtype: hn.arrays(
            dtype,
            hn.array_shapes(max_dims=4, max_side=5),
            elements={"allow_nan": False} if dtype[0] == "f" else None,
        )
    ),
    name=st.sampled_from(["a.idx", "a.gz"]),
)
def test_what_was_written_is_read_back(workdir: Path, array: numpy.ndarray, name: str) -> None:
    back = read_idx(write(workdir / name, array))
    assert back.dtype == array.dtype
    numpy.testing.assert_array_equal(back, array)


@given(
    content=st.binary(max_size=60)
    | st.builds(lambda tail: bytes([0, 0, 8, 3]) + tail, st.binary(max_size=60)),
    packed=st.booleans(),
)
def test_whatever_the_bytes_there_is_an_array_or_a_data_error(
    workdir: Path, content: bytes, packed: bool
) -> None:
    path = workdir / "noise"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    refusal = ""
    try:
        array = read_idx(path)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
        assert "\n" not in refusal
    else:
        assert len(content) == 4 + 4 * array.ndim + array.nbytes


@given(position=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_gzip_is_told_or_harmless(workdir: Path, position: int, value: int) -> None:
    content = bytearray(gzip.compress(idx_bytes(IMAGES), mtime=0))
    content[position % len(content)] = value
    path = workdir / "damaged.gz"
    path.write_bytes(content)
    refusal = ""
    try:
        array = read_idx(path)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
    else:
        numpy.testing.assert_array_equal(array, IMAGES)


def content_with(header: list[int], sizes: list[int], values: int) -> bytes:
    return bytes(header) + numpy.array(sizes, dtype=">u4").tobytes() + bytes(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0\0\x08", "is truncated: it ends after 3 bytes, in its header"),
        (b"\0\0\x08\x03\0\0", "is truncated: it ends in its header"),
        (b"<!DOCTYPE html>", r"wrong magic number 0x3c21444f \(1008813135\), expected an IDX file"),
        (content_with([0, 0, 7, 1], [2], 2), "wrong magic number 0x00000701"),
        (content_with([0, 0, 8, 0], [], 1), "wrong magic number 0x00000800"),
        (content_with([0, 0, 8, 2], [2, 3], 5), r"announces 6 bytes of values \(2 x 3\)"),
        (content_with([0, 0, 8, 1], [2], 3), "is too long: its header announces 2 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_file_is_told_in_one_line(
    tmp_path: Path, content: bytes, message: str, packed: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed and content else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_promises_terabytes_takes_no_memory(tmp_path: Path, packed: bool) -> None:
    sizes = [2**32 - 1, 2**20, 2**20]
    content = content_with([0, 0, 8, 3], sizes, 100)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    with (
        little_memory(),
        pytest.raises(DataError, match=f"truncated: its header announces {math.prod(sizes)} bytes"),
    ):
        read_idx(path)


def test_a_gzip_that_unpacks_to_more_than_its_header_says_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(content_with([0, 0, 8, 1], [5], 50_000_000)))
    with little_memory(), pytest.raises(DataError, match="too long: its header announces 5 bytes"):
        read_idx(path)


def test_a_missing_file_and_a_folder_in_its_place_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: there is no such file"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"cannot be read: "):
        read_idx(tmp_path)


def test_a_cut_gzip_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.gz", IMAGES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cut\.gz is damaged and cannot be decompressed"):
        read_idx(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_a_folder_gives_both_parts(tmp_path: Path, suffix: str, dotted: bool) -> None:
    folder = write_folder(tmp_path / "four", suffix=suffix)
    if dotted:
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace("-idx", ".idx"))
    source = read_idx_folder(folder)
    assert source.name == "four"
    assert source.test is not None
    for part in (source.train, source.test):
        assert part.x.tolist() == IMAGES.reshape(4, 6).tolist()
        assert part.labels is not None
        assert part.labels.tolist() == MARKS.tolist()
        assert (part.classes, part.image_shape) == (("0", "1", "2"), (2, 3))
    # The digest is of the decompressed content, so compression does not enter it.
    content = (idx_bytes(IMAGES) + idx_bytes(MARKS)) * 2
    assert source.sha256 == hashlib.sha256(content).hexdigest()


def test_classes_come_from_both_parts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    write(folder / IDX_FILES[3], numpy.array([0, 0, 5, 0], dtype=numpy.uint8))
    assert read_idx_folder(folder).train.classes == tuple("012345")


def test_the_test_pair_may_be_absent(tmp_path: Path) -> None:
    source = read_idx_folder(write_folder(tmp_path, test=False))
    assert source.test is None
    assert source.sha256 == hashlib.sha256(idx_bytes(IMAGES) + idx_bytes(MARKS)).hexdigest()


@pytest.mark.parametrize("name", IDX_FILES)
def test_one_absent_file_of_four_is_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"holds no file {name}"):
        read_idx_folder(folder)


def test_a_plain_file_comes_before_a_compressed_one(tmp_path: Path) -> None:
    write_folder(tmp_path, suffix=".gz")
    plain = write(tmp_path / IDX_FILES[0], IMAGES)
    assert find_idx_file(tmp_path, IDX_FILES[0]) == plain
    assert find_idx_file(tmp_path, IDX_FILES[1]) == tmp_path / f"{IDX_FILES[1]}.gz"


def test_files_in_each_others_place_are_told_by_their_magic_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    write(folder / IDX_FILES[0], MARKS)
    with pytest.raises(
        DataError, match=r"images-idx3-ubyte: wrong magic number 0x00000801.*expected 0x00000803"
    ):
        read_idx_folder(folder)
    write(folder / IDX_FILES[0], IMAGES)
    write(folder / IDX_FILES[3], IMAGES)
    with pytest.raises(
        DataError, match=r"labels-idx1-ubyte: wrong magic number.*\(2049\) for labels"
    ):
        read_idx_folder(folder)


def test_counts_that_differ_are_told_with_both_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    write(folder / IDX_FILES[3], MARKS[:3])
    with pytest.raises(
        DataError, match=r"t10k-images.* holds 4 images and .*t10k-labels.* 3 label"
    ):
        read_idx_folder(folder)


def test_a_folder_without_images_in_its_files_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, test=False)
    write(folder / IDX_FILES[0], IMAGES[:0])
    write(folder / IDX_FILES[1], MARKS[:0])
    with pytest.raises(DataError, match=r"train-images.* holds no image"):
        read_idx_folder(folder)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: there is no such folder"):
        read_idx_folder(tmp_path / "gone")


def test_digests_are_compared_for_every_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, suffix=".gz")
    right = {
        name: hashlib.sha256(idx_bytes(IMAGES if "images" in name else MARKS)).hexdigest()
        for name in IDX_FILES
    }
    assert read_idx_folder(folder, sha256=right).test is not None
    for name in IDX_FILES:
        with pytest.raises(
            DataError, match=rf"{name}\.gz: SHA-256 .* is {right[name]}, expected {'0' * 64}"
        ):
            read_idx_folder(folder, sha256={**right, name: "0" * 64})
    (folder / f"{IDX_FILES[2]}.gz").unlink()
    (folder / f"{IDX_FILES[3]}.gz").unlink()
    with pytest.raises(DataError, match=f"holds no file {IDX_FILES[2]}"):
        read_idx_folder(folder, sha256=right)


def test_images_alone_are_unlabelled(tmp_path: Path) -> None:
    data = read_idx_images(write(tmp_path / "some-idx3-ubyte.gz", IMAGES))
    assert data.labels is None
    assert data.image_shape == (2, 3)
    with pytest.raises(DataError, match="expected 0x00000803"):
        read_idx_images(write(tmp_path / "labels", MARKS))
