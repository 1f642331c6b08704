"""Sparse rows: slices of them, the order of their entries, and matrices that are damaged."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import sparse_rows
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse

import xpnet.utils.sparse
from xpnet.backend import Backend
from xpnet.errors import DataError
from xpnet.utils.inputs import as_samples
from xpnet.utils.sparse import Diagonals, SparseRows, is_sparse, rows_of

DENSE = np.array([[0.0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 4], [0, 5, 0, 0]])


def as_dense(rows: SparseRows) -> np.ndarray:
    assert np.array_equal(rows.starts[[0, -1]], [0, len(rows.values)])
    matrix = np.zeros(rows.shape)
    row = np.repeat(np.arange(len(rows)), np.diff(rows.starts))
    np.add.at(matrix, (row, rows.indices), rows.values)
    return matrix


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize(
    "key",
    [
        slice(None),
        slice(1, 3),
        slice(2, 2),
        slice(3, 1),
        slice(1, None, 2),
        np.array([3, 0, 0, 2]),
        np.array([1]),
        np.array([], int),
    ],
    ids=str,
)
def test_parts_are_those_of_the_dense_matrix(index: str, key: Any) -> None:
    csr = sparse.csr_array(DENSE)
    rows = SparseRows(csr.indptr.astype(index), csr.indices.astype(index), csr.data, 4)
    part = rows[key]
    np.testing.assert_array_equal(as_dense(part), DENSE[key])
    assert (len(part), part.shape, part.ndim) == (len(DENSE[key]), DENSE[key].shape, 2)
    # And of a part.
    np.testing.assert_array_equal(as_dense(rows[1:][:2]), DENSE[1:3])


def test_slices_share_their_memory_and_dtypes_are_converted_once() -> None:
    rows = rows_of(sparse.csr_array(DENSE), "x")
    assert np.shares_memory(rows[1:3].values, rows.values)
    assert rows.astype("float64").values is rows.values
    assert rows.astype("float32").dtype == np.float32
    assert [rows.position(entry) for entry in range(5)] == [(0, 1), (0, 3), (2, 0), (2, 3), (3, 1)]


def entries_of(sums: tuple[Diagonals, ...]) -> dict[int, list[tuple[int, float]]]:
    """The `(index, value)` of each target, in the order in which they are added."""
    (found,) = sums
    made: dict[int, list[tuple[int, float]]] = {}
    offsets = found.offsets.tolist()
    assert offsets[0] == 0
    assert offsets[-1] == len(found.indices) == len(found.values)
    for start, stop in zip(offsets, offsets[1:], strict=False):
        assert stop > start
        for s in range(stop - start):
            entry = int(found.indices[start + s]), float(found.values[start + s])
            made.setdefault(int(found.targets[s]), []).append(entry)
    assert len(made) == len(found.targets)
    sizes = [len(made[target]) for target in found.targets.tolist()]
    assert sizes == sorted(sizes, reverse=True)
    assert all(a.dtype == np.int64 for a in (found.targets, found.offsets, found.indices))
    return made


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 9),
    features=st.integers(1, 9),
    share=st.floats(0, 1),
)
@example(seed=0, rows=1, features=1, share=0)
def test_entries_come_row_by_row_and_column_by_column_in_their_order(
    seed: int, rows: int, features: int, share: float
) -> None:
    made = sparse_rows(np.random.default_rng(seed), rows, features, share)
    by_row: dict[int, list[tuple[int, float]]] = {}
    by_column: dict[int, list[tuple[int, float]]] = {}
    for entry, value in enumerate(made.values.tolist()):
        row, column = made.position(entry)
        by_row.setdefault(row, []).append((column, value))
        by_column.setdefault(column, []).append((row, value))
    assert entries_of(made.by_row) == by_row
    assert entries_of(made.by_column) == by_column
    assert made.by_row[0].shape == (rows, features)
    assert made.by_column[0].shape == (features, rows)


def as_matrix(one: Diagonals) -> np.ndarray:
    matrix = np.zeros(one.shape)
    for target, entries in entries_of((one,)).items():
        for index, value in entries:
            matrix[target, index] += value
    return matrix


@pytest.mark.parametrize(
    ("size", "diagonals"),
    [(256, [256]), (257, [64, 5]), (64 * 256, [64, 256]), (64 * 256 + 1, [64, 64, 5])],
)
def test_long_rows_are_added_up_in_pieces(size: int, diagonals: list[int]) -> None:
    starts = np.array([0, 3, 3, 3 + size, 10 + size])
    rows = SparseRows(starts, np.arange(10 + size) % 7, np.ones(10 + size), 7)
    for name, shape in (("by_row", (4, 7)), ("by_column", (7, 4))):
        sums = getattr(rows, name)
        assert (sums[-1].shape[0], sums[0].shape[1]) == shape
        if name == "by_row":
            assert [len(one.offsets) - 1 for one in sums] == diagonals
    product = np.eye(7)
    for one in rows.by_row:
        product = as_matrix(one) @ product
    np.testing.assert_array_equal(product, as_dense(rows))


def test_pieces_of_several_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xpnet.utils.sparse, "LONGEST", 3)
    monkeypatch.setattr(xpnet.utils.sparse, "PIECE", 2)
    for seed in range(9):
        rows = sparse_rows(np.random.default_rng(seed), 12, 15, 0.5)
        for sums, expected in ((rows.by_row, as_dense(rows)), (rows.by_column, as_dense(rows).T)):
            assert len(sums) > 2
            assert all(len(one.offsets) - 1 <= 3 for one in sums)
            product = np.eye(expected.shape[1])
            for one in sums:
                product = as_matrix(one) @ product
            np.testing.assert_allclose(product, expected, rtol=0, atol=1e-14)


def test_columns_are_sorted_also_where_numbers_have_no_room_for_them() -> None:
    indices = np.array([5, 2**61, 5, 0])
    for features in (2**61 + 1, 2**62 - 1, 2**62):
        rows = SparseRows(np.array([0, 2, 4]), indices, np.arange(4.0), features)
        expected = {0: [(1, 3.0)], 5: [(0, 0.0), (1, 2.0)], 2**61: [(0, 1.0)]}
        assert entries_of(rows.by_column) == expected


def test_rows_without_entries_have_no_diagonals() -> None:
    rows = rows_of(sparse.csr_array((3, 5)), "x")
    for found in (rows.by_row, rows.by_column):
        assert entries_of(found) == {}


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
def test_every_format_of_scipy_is_taken(kind: str) -> None:
    for made in (f"{kind}_array", f"{kind}_matrix"):
        matrix = getattr(sparse, made)(DENSE)
        assert is_sparse(matrix)
        np.testing.assert_array_equal(as_dense(rows_of(matrix, "x")), DENSE)


def test_of_csr_nothing_is_copied() -> None:
    csr = sparse.csr_array(DENSE)
    rows = rows_of(csr, "x")
    assert np.shares_memory(rows.values, csr.data)
    assert np.shares_memory(rows.indices, csr.indices)
    assert np.shares_memory(rows.starts, csr.indptr)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bool", "uint8"), ("int8", "int8"), ("longdouble", "float64"), ("float32", "float32")],
)
def test_values_have_a_dtype_that_networks_take(dtype: str, expected: str) -> None:
    csr = sparse.csr_array(DENSE).astype(dtype)
    found = as_samples(csr, backend=Backend(), features=4)
    assert found.dtype == expected
    np.testing.assert_array_equal(as_dense(found), csr.toarray())
    # What has been checked is returned.
    assert as_samples(found, backend=Backend(), features=4) is found


class OfAnotherLibrary:
    shape = (3, 4)

    def toarray(self) -> Any:
        raise AssertionError("nothing is made dense")

    def tocsr(self) -> Any:
        return self


def test_of_other_libraries_only_what_has_arrays_of_numpy() -> None:
    other: Any = OfAnotherLibrary()
    with pytest.raises(DataError, match=r"^x is a OfAnotherLibrary of shape \(3, 4\): give .*"):
        rows_of(other, "x")
    with pytest.raises(DataError, match=r"^x is a coo_array of shape \(4,\): give a matrix"):
        rows_of(sparse.coo_array(DENSE[0]), "x")
    assert not is_sparse(DENSE)


def damaged(part: str, place: int, value: int) -> Any:
    csr = sparse.csr_array(DENSE)
    getattr(csr, part)[place] = value
    return csr


@pytest.mark.parametrize(
    "matrix",
    [
        damaged("indices", 2, 4),
        damaged("indices", 0, -1),
        damaged("indptr", 0, 1),
        damaged("indptr", 1, 3),
        damaged("indptr", -1, 6),
    ],
    ids=["column", "negative column", "start", "order", "end"],
)
def test_a_damaged_matrix_is_refused(matrix: Any) -> None:
    """A kernel would read, and write, outside of the arrays."""
    with pytest.raises(DataError, match=r"^x is a damaged csr_array: its indptr or indices"):
        rows_of(matrix, "x")


def test_arrays_may_be_longer_than_their_entries() -> None:
    csr = sparse.csr_array(DENSE)
    csr.indptr[-1] = 4
    np.testing.assert_array_equal(as_dense(rows_of(csr, "x"))[:3], DENSE[:3])


def test_scipy_is_not_imported() -> None:
    program = "import sys, xpnet.utils.sparse, xpnet; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.strip() == b"False"
