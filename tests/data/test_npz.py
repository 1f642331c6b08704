"""`.npz` archives: both layouts, and one clear line for each thing that does not fit."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from xpnet.data import read_npz
from xpnet.data.npz import read_npz_samples
from xpnet.errors import DataError

X = numpy.arange(24, dtype=numpy.uint8).reshape(4, 2, 3)
Y = numpy.array([0, 2, 1, 2])


def save(path: Path, **arrays: Any) -> Path:
    numpy.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("npz")


def test_kerass_layout_gives_both_parts(tmp_path: Path) -> None:
    path = save(tmp_path / "mnist.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2] + 2)
    source = read_npz(path)
    assert source.name == "mnist.npz"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.test is not None
    assert source.test.labels is not None
    assert source.train.x.tolist() == X.reshape(4, 6).tolist()
    assert source.test.labels.tolist() == [2, 4]
    assert source.train.classes == source.test.classes == tuple("01234")
    assert source.train.image_shape == (2, 3)


def test_colour_images_become_rows_of_planes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x_train=COLOUR, y_train=Y, x_test=COLOUR[:2], y_test=Y[:2])
    source = read_npz(path)
    assert source.test is not None
    assert source.train.image_shape == source.test.image_shape == (5, 6, 3)
    planes = COLOUR.transpose(0, 3, 1, 2).reshape(4, -1)
    assert source.train.x.tolist() == planes.tolist()
    assert read_npz_samples(path).x.tolist() == planes[:2].tolist()
    one = read_npz(save(tmp_path / "b.npz", x=COLOUR[..., :1], y=Y)).train
    assert one.image_shape == (5, 6)
    assert one.x.tolist() == COLOUR[..., 0].reshape(4, -1).tolist()


def test_flat_rows_beside_colour_images_are_refused(tmp_path: Path) -> None:
    flat = COLOUR.reshape(4, -1)
    path = save(tmp_path / "a.npz", x_train=COLOUR, y_train=Y, x_test=flat, y_test=Y)
    message = "test set holds no images, the training set images of 5 x 6 pixels of 3 chann"
    with pytest.raises(DataError, match=message):
        read_npz(path)


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train")])
def test_one_part_alone_is_the_training_part(tmp_path: Path, names: tuple[str, str]) -> None:
    source = read_npz(save(tmp_path / "a.npz", **{names[0]: X.reshape(4, 6), names[1]: Y}))
    assert source.test is None
    assert len(source.train) == 4
    assert source.train.image_shape is None


@given(
    x=st.sampled_from([numpy.uint8, numpy.float32, numpy.float64]).flatmap(
        lambda dtype: hn.arrays(
            dtype,
            hn.array_shapes(min_dims=2, max_dims=3, max_side=4),
            elements=None
            if dtype is numpy.uint8
            else st.floats(
                width=64 if dtype is numpy.float64 else 32, allow_nan=False, allow_infinity=False
            ),
        )
    ),
    swapped=st.booleans(),
)
def test_what_was_written_is_read_back(workdir: Path, x: numpy.ndarray, swapped: bool) -> None:
    stored = x.astype(x.dtype.newbyteorder()) if swapped else x
    back = read_npz(save(workdir / "a.npz", x=stored, y=numpy.zeros(len(x), numpy.uint8))).train
    assert back.x.dtype == x.dtype
    numpy.testing.assert_array_equal(back.x, x.reshape(len(x), -1))


def test_other_types_are_brought_to_ours(tmp_path: Path) -> None:
    assert read_npz(save(tmp_path / "a.npz", x=X.astype(int), y=Y)).train.x.dtype == numpy.uint8
    half = read_npz(save(tmp_path / "a.npz", x=X.astype(numpy.float16), y=Y)).train.x
    assert half.dtype == numpy.float32
    square = read_npz(save(tmp_path / "a.npz", x=X.reshape(6, 4), y=numpy.zeros(6, int))).train
    assert square.image_shape == (2, 2)


COLOUR = numpy.arange(4 * 5 * 6 * 3, dtype=numpy.uint8).reshape(4, 5, 6, 3)
HUGE = numpy.array([0, 2, 1, 10**9])
NAN = X.astype(float)
NAN[1, 0, 2] = numpy.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"holds x: it must hold x_train, y_train .*; or x, y"),
        ({"x": X, "y": Y, "z": Y}, "holds x, y, z"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "holds x_test, x_train, y_train"),
        ({}, "holds nothing"),
        ({"x": X[0, 0], "y": Y}, r"x has shape \(3,\)"),
        ({"x": X[..., None, None], "y": Y}, r"x has shape \(4, 2, 3, 1, 1\)"),
        ({"x": COLOUR.transpose(0, 3, 1, 2), "y": Y}, r"x has the shape .* is \(N, channels, hei"),
        (
            {"x": numpy.zeros((4, 1, 28, 28)), "y": Y},
            r"x has the shape .* is \(N, channels, height",
        ),
        ({"x": numpy.zeros((4, 6, 6, 5)), "y": Y}, r"x has shape \(4, 6, 6, 5\): .* 4 channels"),
        ({"x": COLOUR.astype(int) + 256, "y": Y}, r"x\[0, 0, 0, 0\] is 256: integers are pixels"),
        ({"x": X[:0], "y": Y[:0]}, "y is empty"),
        ({"x": X[:, :0], "y": Y}, r"x has shape \(4, 0, 3\)"),
        ({"x": X, "y": Y[:3]}, "x holds 4 samples and y 3 labels"),
        ({"x": X, "y": Y[:, None]}, r"y is int64 of shape \(4, 1\)"),
        ({"x": X, "y": Y.astype(float)}, "y is float64"),
        ({"x": X, "y": Y - 1}, r"y\[0\] is -1: labels count from 0"),
        ({"x": X, "y": HUGE}, "label 1000000000 is larger"),
        ({"x": X.astype(int) + 250, "y": Y}, r"x\[1, 0, 0\] is 256: integers are pixels"),
        ({"x": X.astype(int) - 1, "y": Y}, r"x\[0, 0, 0\] is -1"),
        ({"x": X > 3, "y": Y}, "x is bool"),
        ({"x": X.astype(str), "y": Y}, "x is <U3"),
        ({"x": X.astype(complex), "y": Y}, "x is complex128"),
        ({"x": NAN, "y": Y}, r"x\[1, 0, 2\] is nan"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
            "a test sample has 3 features, a training sample 6",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arrays: dict[str, numpy.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_npz(save(tmp_path / "a.npz", **arrays))
    assert "a.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    array = numpy.empty(1, dtype=object)
    array[0] = Trap()
    path = save(tmp_path / "a.npz", x=array, y=Y[:1])
    with pytest.raises(DataError, match=r"a\.npz cannot be read as an \.npz archive: Object array"):
        read_npz(path)
    path.write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(DataError, match=r"a\.npz is no \.npz archive"):
        read_npz(path)
    assert not (tmp_path / "sprung").exists()


def raw_member(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


def npy(shape: str, values: int) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text", "is no .npz archive"),
        (b"PK\x03\x04", "is a ZIP archive that cannot be read"),
        (raw_member(b"text"), "x is no array"),
        (raw_member(npy("(4, 6)", 10)), "cannot be read as an .npz archive"),
        (raw_member(npy("(4, -6)", 24)), "cannot be read as an .npz archive"),
        (raw_member(npy("(1099511627776, 1099511627776)", 24)), "cannot be read|does not fit"),
        (raw_member(npy("(1 +", 24)), "cannot be read as an .npz archive"),
        (None, "there is no such file"),
    ],
)
def test_a_damaged_archive_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(position=st.integers(0, 2000), value=st.integers(0, 255))
def test_one_wrong_byte_is_told_or_harmless(workdir: Path, position: int, value: int) -> None:
    path = save(workdir / "b.npz", x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    refusal = ""
    try:
        source = read_npz(path)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
    else:
        numpy.testing.assert_array_equal(source.train.x, X.reshape(4, 6))


def test_samples_to_predict_need_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert read_npz_samples(save(path, x=X)).labels is None
    both = read_npz_samples(save(path, x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2]))
    assert both.labels is not None
    assert both.labels.tolist() == [0, 2]
    assert both.classes == ("0", "1", "2")
    assert len(read_npz_samples(save(path, x_train=X))) == 4
    with pytest.raises(DataError, match=r"holds z: it must hold an array x, x_test or x_train"):
        read_npz_samples(save(path, z=X))
