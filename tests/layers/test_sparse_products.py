"""`Linear` on sparse rows: outputs and gradients of the dense rows, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import error, sparse_rows
from scipy.sparse import csr_array

from xpnet import Linear, Sequential
from xpnet.backend import Backend
from xpnet.errors import ShapeError
from xpnet.gradcheck import numerical_gradient, relative_error
from xpnet.layers.sparse_products import multiply
from xpnet.utils.sparse import SparseRows
from xpnet.workspace import Workspace

ROWS, FEATURES, OUTPUTS = 7, 11, 4


def rows_of(matrix: np.ndarray) -> SparseRows:
    csr = csr_array(matrix)
    return SparseRows(csr.indptr, csr.indices, csr.data, csr.shape[1])


def dense(rows: SparseRows) -> np.ndarray:
    matrix = np.zeros(rows.shape)
    row = np.repeat(np.arange(len(rows)), np.diff(rows.starts))
    np.add.at(matrix, (row, rows.indices), rows.values)
    return matrix


def random_rows(share: float) -> Callable[[], SparseRows]:
    return lambda: sparse_rows(np.random.default_rng(5), ROWS, FEATURES, share)


def in_one_place(row: int, column: int) -> Callable[[], SparseRows]:
    matrix = np.zeros((ROWS, FEATURES))
    matrix[row, column] = -2.5
    return lambda: rows_of(matrix)


KINDS = {
    "few": random_rows(0.1),
    "many": random_rows(0.6),
    "all": random_rows(1.1),
    "first": in_one_place(0, 0),
    "last": in_one_place(ROWS - 1, FEATURES - 1),
    "none": lambda: rows_of(np.zeros((ROWS, FEATURES))),
    "one row": lambda: random_rows(0.3)()[:1],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def network(backend: Backend, dtype: str) -> Sequential:
    made = Sequential([Linear(FEATURES, OUTPUTS)], backend=backend, dtype=dtype, seed=2)
    made.parameters()["0.bias"][...] = backend.asarray(np.arange(OUTPUTS), dtype=dtype)
    return made


@every_kind
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-14), ("float32", 1e-6)])
def test_outputs_and_gradients_are_those_of_the_dense_rows(
    backend: Backend, kind: str, dtype: str, limit: float
) -> None:
    """The sums are of at most 22 terms, in another order than in a product of matrices."""
    rows, other = KINDS[kind]().astype(dtype), random_rows(0.5)().astype(dtype)
    one, two = network(backend, dtype), network(backend, dtype)
    x = backend.asarray(dense(rows), dtype=dtype)
    dy = backend.asarray(np.random.default_rng(1).standard_normal((len(rows), OUTPUTS)), dtype)
    # The buffers of another batch come first.
    one.forward(other, training=True)
    one.backward(backend.asarray(np.ones((ROWS, OUTPUTS)), dtype))

    y, expected = one.forward(rows, training=True), two.forward(x, training=True)
    assert y.dtype == expected.dtype
    assert error(backend.to_host(y), backend.to_host(expected)) <= limit
    dx = one.backward(dy, input_gradient=True)
    assert dx.dtype == dy.dtype
    assert error(backend.to_host(dx), backend.to_host(two.backward(dy, input_gradient=True))) == 0
    found, wanted = (backend.to_host(n.flat_gradients) for n in (one, two))
    assert error(found, wanted) <= limit
    stored = np.isin(np.arange(FEATURES), rows.indices)
    gradient = backend.to_host(one.parameter_gradients()["0.weight"])
    assert not gradient[:, ~stored].any()

    y = backend.to_host(one.forward(rows))
    assert error(y, backend.to_host(two.forward(x))) <= limit


@pytest.mark.parametrize("shape", [(5, 700), (700, 5)])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-14), ("float32", 1e-6)])
def test_long_rows_and_columns(
    backend: Backend, shape: tuple[int, int], dtype: str, limit: float
) -> None:
    """They are added up in pieces; the other batch has other pieces, and fewer."""
    for seed, share in enumerate((0.9, 0.6)):
        rows = sparse_rows(np.random.default_rng(seed), *shape, share).astype(dtype)
        for sums, matrix in ((rows.by_row, dense(rows)), (rows.by_column, dense(rows).T)):
            count, width = matrix.shape
            assert len(sums) == 1 + (width == 700)
            source = np.random.default_rng(seed).standard_normal((width, 3)).astype(dtype)
            out = backend.asarray(np.full((count, 3), np.nan, dtype))
            workspace = Workspace()
            for _ in range(2):
                multiply(sums, backend.asarray(source), out, workspace)
                assert error(backend.to_host(out), matrix @ source) <= limit


def test_gradients_are_those_of_central_differences() -> None:
    rows, made = random_rows(0.4)(), network(Backend(), "float64")
    dy = np.random.default_rng(1).standard_normal((ROWS, OUTPUTS))

    def loss() -> float:
        return float((made.forward(rows) * dy).sum())

    made.forward(rows, training=True)
    made.backward(dy)
    expected = numerical_gradient(loss, made.flat_parameters)
    assert relative_error(made.flat_gradients, expected) <= 1e-7


def test_the_result_does_not_depend_on_the_other_rows(backend: Backend) -> None:
    """Each output is a sum over its own entries, in their order."""
    rows, made = random_rows(0.5)(), network(backend, "float64")
    together = backend.to_host(made.forward(rows))
    alone = [backend.to_host(made.forward(rows[n : n + 1]))[0] for n in range(ROWS)]
    np.testing.assert_array_equal(together, alone)


def test_other_shapes_are_refused(backend: Backend) -> None:
    rows = random_rows(0.5)()
    for source, out in [
        ((FEATURES + 1, 3), (ROWS, 3)),
        ((FEATURES, 3), (ROWS - 1, 3)),
        ((FEATURES, 3), (ROWS, 2)),
        ((FEATURES,), (ROWS, 3)),
    ]:
        arrays = (backend.xp.ones(shape) for shape in (source, out))
        with pytest.raises(ShapeError, match=r"^a sparse matrix \(7, 11\) times"):
            multiply(rows.by_row, *arrays, Workspace())
    made = network(backend, "float64")
    made.forward(rows, training=True)
    with pytest.raises(ShapeError, match=r"^a sparse matrix \(11, 7\) times \(8, 4\)"):
        made.backward(backend.xp.ones((ROWS + 1, OUTPUTS)))
