"""CSV files: layouts that are understood, and cells that are blamed by line and column."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from xpnet.data import Dataset, read_csv
from xpnet.data import csv as module
from xpnet.data.csv import read_csv_source
from xpnet.errors import DataError

KAGGLE = "label,pixel0,pixel1,pixel2,pixel3\n2,0,255,7,8\n0,1,2,3,4\n"


def read(folder: Path, text: str | bytes, **keywords: int) -> Dataset:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(path, **keywords)


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", KAGGLE.encode()),
        ("train.csv", KAGGLE.replace("\n", "\r\n").encode("utf-8-sig")),
        ("train.csv", KAGGLE.replace("\n", "\n\n").encode()),
        ("train.csv", KAGGLE.rstrip("\n").encode()),
        ("train.csv", KAGGLE.replace("label", '"Label"').encode()),
        ("train.csv.gz", gzip.compress(KAGGLE.encode(), mtime=0)),
        ("train.csv.zip", zipped({"train.csv": KAGGLE})),
        ("train.csv", zipped({"train.csv": KAGGLE})),
        ("train.csv.zip", zipped({"train.csv": KAGGLE, "__MACOSX/._train.csv": "x"})),
    ],
)
def test_kaggles_layout_is_read_however_it_is_packed(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    data = read_csv(tmp_path / name)
    assert data.x.dtype == numpy.uint8
    assert data.x.tolist() == [[0, 255, 7, 8], [1, 2, 3, 4]]
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0]
    assert data.classes == ("0", "1", "2")
    assert data.image_shape == (2, 2)


@pytest.mark.parametrize(
    ("text", "x", "labels", "shape"),
    [
        ("pixel0,pixel1,pixel2,pixel3\n1,2,3,4\n", [[1, 2, 3, 4]], None, (2, 2)),
        ("pixel1,pixel2,label\n1,2,1\n", [[1, 2]], [1], None),
        ("label,1x1,1x2,1x3,2x1,2x2,2x3\n0,1,2,3,4,5,6\n", [[1, 2, 3, 4, 5, 6]], [0], (2, 3)),
        ("0x0,0x1,1x0,1x1\n1,2,3,4\n", [[1, 2, 3, 4]], None, (2, 2)),
        ("height, LABEL ,width\n1.5,1,2\n", [[1.5, 2]], [1], None),
        ("1,2,3,4\n5,6,7,8\n", [[1, 2, 3, 4], [5, 6, 7, 8]], None, (2, 2)),
        ("1,2,3,4,5\n", [[2, 3, 4, 5]], [1], (2, 2)),
        ("0.5,2,3,4\n", [[0.5, 2, 3, 4]], None, (2, 2)),
        ("3.0,0.0,0.0,0.0,1e3\n", [[0, 0, 0, 1000]], [3], (2, 2)),
        ("a,b\n1,-7\n2,0.25\n", [[1, -7], [2, 0.25]], None, None),
    ],
)
def test_the_layout_follows_from_the_first_line(
    tmp_path: Path,
    text: str,
    x: list[list[float]],
    labels: list[int] | None,
    shape: tuple[int, int] | None,
) -> None:
    data = read(tmp_path, text)
    assert data.x.tolist() == x
    assert (None if data.labels is None else data.labels.tolist()) == labels
    assert data.image_shape == shape
    assert data.x.dtype == (numpy.float32 if "." in text else numpy.uint8)


@given(
    x=hn.arrays(numpy.uint8, st.tuples(st.integers(1, 6), st.sampled_from([1, 4, 9])))
    | hn.arrays(
        numpy.float32,
        st.tuples(st.integers(1, 6), st.sampled_from([1, 4, 9])),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    labelled=st.booleans(),
    header=st.booleans(),
    rows_at_once=st.sampled_from([1, 2, 5000]),
    data=st.data(),
)
def test_what_was_written_is_read_back(
    workdir: Path,
    x: numpy.ndarray,
    labelled: bool,
    header: bool,
    rows_at_once: int,
    data: st.DataObject,
) -> None:
    labels = data.draw(st.lists(st.integers(0, 9), min_size=len(x), max_size=len(x)))
    names = ["label"] * labelled + [f"pixel{i}" for i in range(x.shape[1])]
    lines = [",".join(names)] if header else []
    for label, row in zip(labels, x.tolist(), strict=True):
        lines.append(",".join(map(repr, [label] * labelled + row)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CELLS_AT_ONCE", rows_at_once * (labelled + x.shape[1]))
        back = read(workdir, "\n".join(lines))
    assert back.x.dtype == x.dtype
    numpy.testing.assert_array_equal(back.x, x)
    assert (None if back.labels is None else back.labels.tolist()) == (labels if labelled else None)


@given(
    text=st.text(st.sampled_from('0123,.-e"\n\r xNA\x00é'), max_size=40) | st.binary(max_size=40)
)
def test_whatever_the_bytes_there_is_a_dataset_or_a_data_error(
    workdir: Path, text: str | bytes
) -> None:
    refusal = ""
    try:
        data = read(workdir, text)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert "table.csv" in refusal
        assert "\n" not in refusal
    else:
        assert numpy.isfinite(data.x).all()


@pytest.mark.parametrize("cells_at_once", [1, 8, 4_000_000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        # cells
        ("label,a,b\n0,1,2\n1,x,3\n", r"line 3, column 2 \('a'\): found 'x', expected a number"),
        ("label,a,b\n0,1,2\n\n1,2,\n", r"line 4, column 3 \('b'\): the cell is empty"),
        ("label,a,b\n0,1,2\n\n1,2,\n", "expected a number: fill it in, or remove the row$"),
        ("label,a,b\n0,1,2\n1,2,NA\n", "found 'NA', .*: fill it in, or remove the row$"),
        ("label,a,b\n0,red,2\n", r"found 'red', .*: turn the column into numbers \(categories"),
        ("label,a,b\n0,1,1e39\n", "too large for float32$"),
        ("label,a,b\n0,1,2\n1,2,NA\n", r"line 3, column 3 \('b'\): found 'NA'"),
        ("label,a,b\n0,1,2\n1,nan,3\n", r"line 3, column 2 \('a'\): found 'nan'"),
        ("label,a,b\n0,1,inf\n", r"line 2, column 3 \('b'\): found 'inf'"),
        ("label,a,b\n0,1,2\n1,True,0\n", r"line 3, column 2 \('a'\): found 'True'"),
        ("label,a,b\n0,1,1e39\n", r"line 2, column 3 \('b'\): found '1e39', which is too large"),
        ("label,a,b\n0,1," + "9" * 50 + "\n", r"line 2, column 3 \('b'\): found '999.*too large"),
        ("label,a,b\n0,1,1_0\n", r"line 2, column 3 \('b'\): found '1_0'"),
        ("1,2,3,4\n1,2,?,4\n", r"line 2, column 3: found '\?', expected a number"),
        ("1,x,3,4\n", r"line 1, column 2: found 'x', expected a number"),
        # columns
        ("label,a,b\n0,1,2\n1,3\n", "line 3 has 2 columns where the first has 3"),
        ("label,a,b\n0,1,2\n1,3,4,5\n", "line 3 has 4 columns where the first has 3"),
        ("label,a,b\n0,1,2,3\n1,3,4,5\n", "line 2 has 4 columns where the first has 3"),
        ("label,a,b\n0,1\n1,3\n", "line 2 has 2 columns where the first has 3"),
        ("1,2,3,4\n1,2,3\n", "line 2 has 3 columns where the first has 4"),
        # labels
        ("label,a\n0,1\n0.5,1\n", r"line 3, column 1 \('label'\): found '0.5', a label must be"),
        ("label,a\n0,1\n0.5,1\n", "0..65535: the column must hold classes; for regression, read"),
        ("label,a\n0,1\n-1,1\n", r"in 0\.\.65535$"),
        ("label,a\n0,1\n-1,1\n", r"line 3, column 1 \('label'\): found '-1'"),
        ("label,a\n0,1\n70000,1\n", r"line 3, column 1 .*found '70000', .*in 0\.\.65535"),
        ("a,label\n1,0\n\n1,7.5\n", r"line 4, column 2 \('label'\): found '7.5'"),
        # pixels
        ("label,pixel0\n0,1\n0,256\n", r"line 3, column 2 \('pixel0'\): found '256', .*0\.\.255"),
        ("label,pixel0\n0,1\n0,-1\n", r"line 3, column 2 \('pixel0'\): found '-1'"),
        ("pixel0,label,pixel1\n1,0,300\n", r"line 2, column 3 \('pixel1'\): found '300'"),
        ("pixel0,label,pixel1\n300,0,1\n", r"line 2, column 1 \('pixel0'\): found '300'"),
        ("1,2,3,4\n1,2,300,4\n", r"line 2, column 3: found '300'"),
        # header
        ("label,pixel0,pixel0\n0,1,2\n", r"line 1, column 3: 'pixel0' occurs twice"),
        ("label,a,Label\n0,1,2\n", r"line 1, column 3: 'Label' occurs twice"),
        (",label,a\n0,1,2\n", r"line 1, column 1 has no name"),
        ("label,pixel0,id\n0,1,2\n", r"column 3 is named 'id', expected 'pixel1'"),
        ("id,label,pixel0\n0,1,2\n", r"column 1 is named 'id', expected 'pixel0'"),
        ("label,pixel0,pixel2\n0,1,2\n", r"column 3 is named 'pixel2', expected 'pixel1'"),
        ("label,pixel1,pixel0\n0,1,2\n", r"column 3 is named 'pixel0', expected 'pixel2'"),
        ("label,1x1,2x1,1x2,2x2\n0,1,2,3,4\n", r"column 3 is named '2x1', expected '1x2'"),
        ("label,1x1,pixel0\n0,1,2\n", r"column 2 is named '1x1', expected 'pixel0'"),
        ("1,2,3\n", "3 columns are neither the pixels of a square image nor a label"),
        ("label\n1\n", "has a label column and no other"),
        # whole files
        ("", "table.csv is empty"),
        ("\n \n", "table.csv is empty"),
        ("label,pixel0\n", r"has a header \(line 1\) and no rows"),
        (b"label,pixel0\n0,\xff\n", "is no CSV file in UTF-8"),
        (b"\xff\xfe1\x00", "is no CSV file in UTF-8"),
        ('1,2,3,4\n1,"2,3,4\n', "line 2 has 2 columns where the first has 4"),
    ],
)
def test_the_cell_at_fault_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | bytes,
    message: str,
    cells_at_once: int,
) -> None:
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells_at_once)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "table.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_float32_is_not_too_large(tmp_path: Path) -> None:
    largest = numpy.finfo(numpy.float32).max
    assert read(tmp_path, "a,b\n3.4028235e+38,-3.4028235e+38\n").x.tolist() == [[largest, -largest]]


def test_integers_beyond_a_byte_are_values_where_a_fraction_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, "a,b\n300,1\n-5,0.5\n").x.tolist() == [[300, 1], [-5, 0.5]]


def test_labels_written_with_a_point_leave_pixels_what_they_are(tmp_path: Path) -> None:
    data = read(tmp_path, "label,pixel0\n1.0,200\n0,7\n")
    assert data.x.dtype == numpy.uint8
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, KAGGLE, classes=5).classes == ("0", "1", "2", "3", "4")
    with pytest.raises(DataError, match=r"line 2, column 1 .*found '2', .* integer in 0\.\.1"):
        read(tmp_path, KAGGLE, classes=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.gz", b"label,pixel0\n", "damaged and cannot be decompressed"),
        (
            "a.csv.gz",
            gzip.compress(KAGGLE.encode(), mtime=0)[:-9],
            "damaged and cannot be decompressed",
        ),
        ("a.csv.zip", b"label,pixel0\n", "ZIP archive that cannot be read"),
        ("a.csv.zip", zipped({"a.csv": KAGGLE})[:-9], "ZIP archive that cannot be read"),
        (
            "a.csv.zip",
            zipped({"a.csv": KAGGLE, "b.csv": KAGGLE}),
            r"holds 2 files \(a.csv, b.csv\)",
        ),
        ("a.csv.zip", zipped({}), "holds 0 files"),
        ("a.csv.gz", b"", "is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("a.csv", None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_unpacked_is_told(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_source_is_hashed_by_its_decompressed_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(KAGGLE)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(KAGGLE.encode(), mtime=0))
    plain, packed = read_csv_source(tmp_path / "a.csv"), read_csv_source(tmp_path / "b.csv.gz")
    assert plain.sha256 == packed.sha256 == hashlib.sha256(KAGGLE.encode()).hexdigest()
    assert (plain.name, packed.name, plain.test) == ("a.csv", "b.csv.gz", None)
