"""What users give as samples and targets: taken as numbers, or refused by row and column."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import missing
import numpy as np
import pandas as pd
import pytest
import strict_cupy
import torch
from scipy.sparse import csr_matrix

from xpnet.backend import Backend
from xpnet.data.mapped import is_mapped
from xpnet.errors import DataError, DeviceMismatch, ShapeError, XpnetError
from xpnet.utils.inputs import as_samples, as_targets

NUMBERS = np.arange(12, dtype=np.float32).reshape(4, 3)
HOST = Backend("cpu")
SPARSE = r"^x is sparse \(csr_matrix\), .*: .toarray\(\)$"


def frame(dtype: str = "float32") -> pd.DataFrame:
    return pd.DataFrame(NUMBERS, columns=["age", "height", "mass"]).astype(dtype)


def samples(x: Any, **options: Any) -> np.ndarray:
    return as_samples(x, backend=HOST, **options)


def targets(y: Any, **options: Any) -> np.ndarray:
    return as_targets(y, backend=HOST, **options)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (NUMBERS, "float32"),
        (NUMBERS.astype(np.float64), "float64"),
        (NUMBERS.astype(np.float16), "float16"),
        (NUMBERS.astype(np.longdouble), "float64"),
        (NUMBERS.astype(">f4"), "float32"),
        (NUMBERS.astype(np.int8), "int8"),
        (NUMBERS.astype(">u2"), "uint16"),
        (np.asfortranarray(NUMBERS), "float32"),
        (np.repeat(NUMBERS, 2, axis=1)[:, ::2], "float32"),
        (NUMBERS.tolist(), "float64"),
        (tuple(map(tuple, NUMBERS)), "float32"),
        (list(NUMBERS), "float32"),
        (NUMBERS.view(np.matrix), "float32"),
        (np.ma.array(NUMBERS), "float32"),
        (NUMBERS.astype(object), "float64"),
        (NUMBERS.astype(int).astype(object), "int64"),
        *missing.cases("torch", 2, lambda: [(torch.from_numpy(NUMBERS), "float32")]),
        (frame(), "float32"),
        (frame("Float64"), "float64"),
        (frame("Int64"), "int64"),
        (frame("Sparse[float]"), "float64"),
        (frame().astype({"age": "int8", "mass": "Float32"}), "float32"),
        (frame().astype(object), "float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_numbers_of_any_kind_are_samples(x: Any, dtype: str) -> None:
    found = samples(x, features=3)
    assert type(found) is np.ndarray
    assert found.dtype == dtype
    assert found.dtype.isnative
    assert np.array_equal(found, NUMBERS)


def test_what_numpy_can_read_is_not_copied(tmp_path: Path) -> None:
    locked = NUMBERS.copy()
    locked.flags.writeable = False
    assert samples(locked) is locked
    tensor = torch.from_numpy(NUMBERS.copy())
    assert np.shares_memory(samples(tensor), tensor.numpy())
    np.save(tmp_path / "x.npy", NUMBERS)
    mapped = samples(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert is_mapped(mapped)
    assert np.array_equal(mapped, NUMBERS)


@pytest.mark.parametrize("kind", ["bool", "boolean"])
def test_bools_are_0_and_1(kind: str) -> None:
    table = frame().gt(4).astype(kind)
    expected = (NUMBERS > 4).astype(np.uint8)
    for x in (table, table.to_numpy(dtype=bool), table.to_numpy(dtype=bool).tolist()):
        found = samples(x)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)
    mixed = frame().assign(old=table["age"])
    assert samples(mixed).dtype == np.float32
    assert np.array_equal(samples(mixed)[:, 3], expected[:, 0])


def test_images_become_rows() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for features in (12, None):
        assert np.array_equal(samples(images, features=features), images.reshape(2, 12))
    with pytest.raises(ShapeError, match=r"takes x of shape \(N, 10\), found \(2, 3, 4\)$"):
        samples(images, features=10)
    nowhere = images.astype(np.float32)
    nowhere[1, 2, 0] = np.nan
    with pytest.raises(DataError, match=r"^x\[1, 2, 0\] is NaN"):
        samples(nowhere)


def changed(value: Any, kind: str) -> Any:
    """NUMBERS with `value` in row 3, column 1."""
    if kind == "frame":
        table = frame("float64")
        if not isinstance(value, float):
            table = table.astype({"height": object})
        table.iloc[3, 1] = value
        return table
    rows = NUMBERS.tolist()
    rows[3][1] = value
    return rows if kind == "list" else np.array(rows, dtype=kind)


PLACES = {"frame": "column 'height', row 3 of x", "other": r"x\[3, 1\]"}


@pytest.mark.parametrize("kind", ["list", "object", "float32", "float64", "frame"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "is NaN, a missing value"),
        (np.inf, "is inf: every value"),
        (-np.inf, "is -inf: every value"),
        (None, "a missing value"),
        (pd.NA, "is of type NAType, a missing value"),
        (pd.NaT, "is of type NaTType, a missing value"),
        ("red", "is the text 'red', and networks take numbers: turn text into numbers"),
        (1j, "is of type complex, and networks take real"),
        (datetime.date(2020, 1, 1), "is of type date, and networks take real"),
        (b"red", "is the text b'red', and networks take numbers"),
    ],
)
def test_what_is_no_finite_number_is_named_by_row_and_column(
    value: Any, words: str, kind: str
) -> None:
    if kind.startswith("float") and not isinstance(value, float):
        value, words = np.nan, "is NaN"
    where = PLACES.get(kind, PLACES["other"])
    if isinstance(value, complex) and kind == "list":  # NumPy makes all of them complex
        where, words = "x", "holds complex numbers"
    with pytest.raises(DataError, match=f"^{where} {words}|^{where} is None, {words}") as caught:
        samples(changed(value, kind))
    assert "\n" not in str(caught.value)


def nullable(dtype: str) -> pd.DataFrame:
    table = frame(dtype)
    table.iloc[2, 2] = pd.NA
    return table


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (None, DataError, "^x is None: give an array of numbers"),
        ("abc", DataError, "^x is the text 'abc': give"),
        (3.0, ShapeError, r"x must be \(N, features\) .*found \(\)"),
        (np.ndarray, DataError, "^x is the class ndarray"),
        ({"a": 1}, DataError, "^x is of type dict"),
        ((row for row in NUMBERS), DataError, "^x is of type generator, which .* only once"),
        (NUMBERS[0], ShapeError, r"found \(3,\): one sample is x.reshape\(1, -1\), several .*1\)$"),
        (frame()["age"], ShapeError, r"found \(4,\): one sample is"),
        (np.zeros((2, 2, 2, 2, 2)), ShapeError, r"found \(2, 2, 2, 2, 2\)$"),
        ([], ShapeError, r"found \(0,\)"),
        (NUMBERS[:0], DataError, r"^x is empty, shape \(0, 3\): .*N above 0"),
        (NUMBERS[:, :0], DataError, r"^x is empty, shape \(4, 0\)"),
        (frame()[[]], DataError, r"^x is empty, shape \(4, 0\)"),
        ([[1.0, 2], [3, 4], [5]], DataError, "^x is ragged: row 2 has 1 values, row 0 has 2"),
        ([1, [2, 3]], DataError, "^x is ragged: row 1 has 2"),
        ([["a", 1], ["b", 2]], DataError, r"^x\[0, 0\] is the text 'a'"),
        ([[1, "b"]], DataError, r"^x\[0, 1\] is the text 'b'"),
        (np.array([["a"]]), DataError, "^x holds text .*get_dummies"),
        (NUMBERS.astype(complex), DataError, "^x holds complex numbers"),
        ([[1j, 2]], DataError, "^x holds complex numbers"),
        (np.array([["2020-01-01"]], "M8[D]"), DataError, "^x holds dates"),
        (np.zeros((2, 2), [("a", int)]), DataError, "^x holds records"),
        (np.ma.masked_equal(NUMBERS, 4), DataError, r"^x\[1, 1\] is masked: fill it in .*filled"),
        (list(np.ma.masked_equal(NUMBERS, 4)), DataError, r"^x\[1, 1\] is masked"),
        *missing.cases(
            "scipy",
            3,
            lambda: [
                (csr_matrix(NUMBERS)[:0], DataError, r"^x is empty, shape \(0, 3\)"),
                (csr_matrix(NUMBERS.astype(complex)), DataError, "^x holds complex numbers"),
            ],
        ),
        (nullable("Float64"), DataError, "^column 'mass', row 2 of x is missing"),
        (nullable("Int64"), DataError, "^column 'mass', row 2 of x is missing"),
        (frame().astype({"age": "category"}), DataError, "^column 'age' of x is categorical"),
        (frame().astype({"age": "str"}), DataError, "^column 'age', row 0 of x is the text '0.0'"),
        (
            frame().assign(day=pd.Timestamp("2020-01-01")),
            DataError,
            "^column 'day' of x holds dates",
        ),
        (
            frame().assign(day=pd.Timestamp("2020-01-01", tz="UTC")),
            DataError,
            "^column 'day' of x holds dates",
        ),
        (
            [[1] * 8, [10**400] + [1] * 7],
            DataError,
            r"^x\[1, 0\] is 1000.*, too large a number: .*scale",
        ),
        (
            [[1], [10**5000]],
            DataError,
            r"^x\[1, 0\] is a very large int, too large a number: .*scale",
        ),
        *missing.cases(
            "torch",
            3,
            lambda: [
                (torch.zeros(2, 3, requires_grad=True), DataError, "does not share its memory")
            ],
        ),
        *missing.cases(
            "torch", 3, lambda: [(torch.nn.Linear(2, 3), DataError, "^x is of type Linear")]
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:20],
)
def test_what_is_no_table_of_numbers_is_refused_in_one_line(
    x: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        samples(x)
    assert isinstance(caught.value, XpnetError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.interval_range(0, 4), ", row 0 of x is of type Interval, .* real numbers$"),
        (pd.period_range("2020", periods=4, freq="D"), ", row 0 of x is of type Period, .* real"),
        (pd.Series(list("abcd"), dtype="string"), ", row 0 of x is the text 'a', .*get_dummies"),
        (pd.Series(list("abcd"), dtype=object), ", row 0 of x is the text 'a', .*get_dummies"),
        (pd.Series([1, 2, {}, 4], dtype=object), ", row 2 of x is of type dict, .* real numbers$"),
        (pd.date_range("2020", periods=4, tz="UTC"), r" of x holds dates \(datetime64.*UTC"),
        (pd.to_timedelta([1, 2, 3, 4]), r" of x holds durations \(timedelta64"),
        (np.array([1j] * 4), r" of x holds complex numbers \(complex128\)"),
        (pd.arrays.SparseArray([1j] * 4), ", row 0 of x is of type complex, .* real numbers$"),
        (pd.arrays.SparseArray(pd.to_datetime(["2020"] * 4)), " of x holds dates"),
        (pd.arrays.SparseArray([1.0, 0, np.nan, 0]), ", row 2 of x is missing"),
        (pd.Categorical([1, 2, 3, 4]), " of x is categorical"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_a_column_of_pandas_that_is_no_numbers_is_named(column: Any, words: str) -> None:
    table = frame().assign(other=column)
    with pytest.raises(DataError, match=f"^column 'other'{words}") as caught:
        samples(table)
    assert "\n" not in str(caught.value)


def test_another_number_of_features_is_refused() -> None:
    for x in (NUMBERS, NUMBERS.tolist(), frame()):
        with pytest.raises(ShapeError, match=r"^the network takes x of shape \(N, 5\), .*\(4, 3\)"):
            samples(x, features=5)
    with pytest.raises(ShapeError, match=r"one image is x.reshape\(1, -1\)$"):
        samples(NUMBERS, features=12)


@pytest.mark.parametrize("shape", [(4, 3), (3000, 500)])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_no_place_is_overlooked(shape: tuple[int, int], layout: str) -> None:
    x = np.array(np.random.default_rng(0).normal(size=shape), order=layout)
    assert samples(x) is x
    for place in ((0, 0), (shape[0] - 1, 2), (shape[0] // 2, 1)):
        for value in (np.nan, np.inf, -np.inf):
            wrong = x.copy(layout)
            wrong[place] = value
            with pytest.raises(DataError, match=rf"^x\[{place[0]}, {place[1]}\] is "):
                samples(wrong)
            assert samples(wrong, check=False) is wrong


def test_large_numbers_are_finite_and_too_large_for_float32() -> None:
    large = NUMBERS.astype(np.float64)
    large[2, 1] = -1e30
    assert samples(large, dtype="float32") is large
    assert samples(large.astype(np.float32))[2, 1] == np.float32(-1e30)
    large[2, 1] = -1e300
    assert samples(large) is large
    assert samples(large, dtype="float64") is large
    for x in (large, large.tolist(), pd.DataFrame(large)):
        with pytest.raises(DataError, match=r"is -1e\+300, and float32 holds no .*: scale"):
            samples(x, dtype=np.dtype("float32"))


def test_arrays_on_a_device_stay_there_unseen(double: Backend) -> None:
    x = double.asarray(NUMBERS)
    with strict_cupy.forbid("sync", "h2d", "d2h"):
        assert as_samples(x, backend=double, features=3) is x
        assert as_targets(x, backend=double) is x
        as_samples(double.xp.full((2, 3), np.nan), backend=double)
    with pytest.raises(ShapeError, match=r"found \(4, 3\)"):
        as_samples(x, backend=double, features=4)
    assert as_samples(x > 4, backend=double).dtype == np.uint8
    assert type(as_samples(NUMBERS, backend=double)) is np.ndarray
    with pytest.raises(DeviceMismatch, match=r"^x is an array of .*: move it"):
        samples(x)


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        ([0, 2, 1], "int64"),
        ((0, 2, 1), "int64"),
        (np.array([0, 2, 1], np.uint8), "uint8"),
        (pd.Series([0, 2, 1], dtype="Int64"), "int64"),
        (pd.Series([0, 2, 1], dtype="Int8").array, "int8"),
        (pd.Index([0, 2, 1]), "int64"),
        (pd.Series([0, 2, 1], dtype=object), "int64"),
        (pd.Series([0, 2, 1], dtype="category").cat.codes, "int8"),
        ([0.0, 2.0, 1.0], "float64"),
        *missing.cases("torch", 2, lambda: [(torch.tensor([0, 2, 1]), "int64")]),
        (np.ma.array([0, 2, 1]), "int64"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_numbers_of_any_kind_are_targets(y: Any, dtype: str) -> None:
    found = targets(y)
    assert type(found) is np.ndarray
    assert found.dtype == dtype
    assert found.tolist() == [0, 2, 1]


def test_targets_may_have_columns_or_be_bools() -> None:
    assert targets(frame()).shape == (4, 3)
    assert targets([[True], [False]]).dtype == np.uint8
    assert targets(pd.Series([True, False])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "^y is None"),
        (3, "^y is a single number"),
        ([], "^y is empty"),
        (["cat", "dog"], r"^y\[0\] is the text 'cat', .*: number the classes from 0: .*unique"),
        (np.array(["cat"]), "^y holds text .*number the classes"),
        (pd.Series(["cat", "dog"]), r"^y\[0\] is the text 'cat'"),
        (pd.Series(["cat", "dog"], dtype="category"), r"^y is categorical \(pandas\).*cat.codes"),
        (pd.Categorical([1, 2]), r"^y is categorical"),
        (pd.DataFrame({"kind": pd.Categorical([1, 2])}), "^column 'kind' of y is categorical"),
        (pd.Series([1, pd.NA], dtype="Int64"), r"^y\[1\] is missing"),
        ([1, None], r"^y\[1\] is None, a missing"),
        ([1.0, np.nan], r"^y\[1\] is NaN"),
        (np.array([1.0, 2, -np.inf]), r"^y\[2\] is -inf"),
        ([[1, 2], [3]], "^y is ragged"),
        (np.ma.masked_equal([1, 2], 2), r"^y\[1\] is masked"),
        *missing.cases("scipy", 2, lambda: [(csr_matrix(NUMBERS), "^y is sparse")]),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "^y holds dates"),
        (max, "^y is of type builtin"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:20],
)
def test_what_cannot_be_a_target_is_refused_by_row(y: Any, words: str) -> None:
    with pytest.raises(XpnetError, match=words) as caught:
        targets(y)
    assert "\n" not in str(caught.value)
