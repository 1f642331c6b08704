"""Operations that no loop may take, since it would read or write what it should not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpnet.accel.cpu.executor import CompiledSteps
from xpnet.accel.cpu.layout import LINE
from xpnet.accel.cpu.lower_base import NotLowered
from xpnet.accel.cpu.lowering import Lowering
from xpnet.accel.cpu.phases import phases
from xpnet.accel.program import Op, operation
from xpnet.workspace import Workspace

ROWS, COLUMNS = 6, 40


def real(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def taken(source: np.ndarray, indices: np.ndarray, **options: Any) -> Op:
    out = np.zeros((len(indices), *source.shape[1:]), source.dtype)
    return operation(np, "take", (source, indices), {"out": out, "mode": "clip"} | options)


ORDER = np.zeros((3, ROWS), np.int64)
SQUARE = np.zeros((5, 5), np.float32)
MEMORY = np.zeros((4, 5), np.float32)
STEPS = np.zeros((3, 2), np.float32)


def calls(op: Op) -> list[str]:
    lowering = Lowering([ORDER, STEPS])
    lowering.add(op)
    assert len(lowering.end()) == 1
    return [called.name for ops in lowering.calls for called in ops]


def test_samples_of_the_step_are_gathered_by_a_loop() -> None:
    assert calls(taken(real(50, COLUMNS), ORDER[0], axis=0)) == []
    assert calls(taken(np.zeros(50, np.int64), ORDER[0], axis=0)) == []


@pytest.mark.parametrize(
    "op",
    [
        taken(np.zeros((50, COLUMNS), np.uint8), ORDER[0], axis=0),
        taken(np.zeros((50, COLUMNS), np.float64), ORDER[0], axis=0),
        taken(np.zeros(50, np.int32), ORDER[0], axis=0),
        taken(np.zeros(50, np.float32), ORDER[0], axis=0),
        taken(real(50, COLUMNS)[:, ::2], ORDER[0], axis=0),
        taken(real(50, COLUMNS), np.arange(ROWS), axis=0),
        taken(real(ROWS, ROWS), ORDER[0], axis=1),
        operation(np, "take", (real(ROWS, ROWS), ORDER[0], 1), {"out": real(ROWS, ROWS)}),
        operation(np, "take", (real(9, 4), [0, 1]), {"out": real(2, 4), "axis": 0}),
        operation(np, "add", ([[1.0]], real(1, 1)), {"out": real(1, 1)}),
        operation(np, "multiply", ([1.0], [2.0]), {"out": real(1)}),
        operation(np, "add", (real(3, 4), real(3, 1)), {"out": real(3, 4)}),
        operation(np, "multiply", (real(3, 1), real(3, 4)), {"out": real(3, 4)}),
        operation(np, "multiply", (real(4), real(3, 1)), {"out": real(3, 4)}),
        operation(np, "multiply", (real(3, 4), real(2, 1)), {"out": real(3, 4)}),
        operation(np, "multiply", (real(3, 4), real(6, 1)[::2]), {"out": real(3, 4)}),
        operation(np, "multiply", (real(3, 4), np.zeros((3, 1))), {"out": real(3, 4)}),
        operation(np, "multiply", (real(4), real(4, 1)), {"out": real(4)}),
        operation(np, "multiply", (MEMORY, MEMORY.ravel()[:4].reshape(4, 1)), {"out": MEMORY}),
        operation(np, "multiply", (real(2, 4), STEPS[0].reshape(2, 1)), {"out": real(2, 4)}),
        operation(np, "mean", (real(3, 4),), {"axis": 0, "out": real(4)}),
        operation(np, "mean", (real(3, 4), 1), {"out": real(3)}),
        operation(np, "mean", (real(3, 4),), {"out": real()}),
        operation(np, "mean", (real(3, 4),), {"axis": 1, "out": real(2)}),
        operation(np, "mean", (real(3, 4),), {"axis": 1, "keepdims": True, "out": real(3)}),
        operation(np, "mean", (real(3, 4),), {"axis": 1, "out": real(3, 1)}),
        operation(np, "mean", (real(3, 4),), {"axis": 1, "out": np.zeros(3)}),
        operation(np, "mean", (real(3, 4),), {"axis": 1, "dtype": float, "out": real(3)}),
        operation(np, "mean", (np.zeros((3, 4)),), {"axis": 1, "out": real(3)}),
        operation(np, "mean", (real(2, 3, 4),), {"axis": 1, "out": real(2, 4)}),
        operation(np, "mean", (real(3, 0),), {"axis": 1, "out": real(3)}),
        operation(np, "sum", (MEMORY,), {"axis": 1, "out": MEMORY[0, :4]}),
        operation(np, "max", (real(4, 3).T,), {"axis": 1, "out": real(3)}),
        operation(np, "add", (real(3, 4), np.float64(2)), {"out": real(3, 4)}),
        operation(np, "add", (real(4), real(4)), {"out": real(3, 4)}),
        operation(np, "add", (1.0, 2.0), {"out": real(3, 4)}),
        operation(np, "add", (real(3, 4), real(1)), {"out": real(3, 4)}),
        operation(np, "add", (real(3, 4), real()), {"out": real(3, 4)}),
        operation(np, "add", (real(2, 3, 4), 2.0), {"out": real(2, 3, 4)}),
        operation(np, "sqrt", (real(2, 3, 4),), {"out": real(2, 3, 4)}),
        operation(np, "add", (real(3, 4), real(3, 4)), {"out": real(3, 4), "where": True}),
        operation(np, "add", (real(3, 4), real(3, 4)), {"out": real(4, 3).T}),
        operation(np, "multiply", (real(9), STEPS[0].astype(np.float64)[:1]), {"out": real(9)}),
        operation(np, "add", (MEMORY[:3], MEMORY[:3]), {"out": MEMORY[1:]}),
        operation(np, "add", (MEMORY, MEMORY[0]), {"out": MEMORY}),
        operation(np, "exp", (MEMORY[:2],), {"out": MEMORY.ravel()[5:15].reshape(2, 5)}),
        operation(np, "multiply", (MEMORY[0], MEMORY[0, :1]), {"out": MEMORY[0]}),
        operation(np, "exp", (np.zeros((3, 4)),), {"out": np.zeros((3, 4))}),
        operation(np, "sinh", (real(3, 4),), {"out": real(3, 4)}),
        operation(np, "copyto", (real(4), 1.0), {}),
        operation(np, "copyto", (real(4), np.zeros(4)), {}),
        operation(np, "copyto", (real(3, 4), real(4)), {}),
        operation(np, "copyto", (MEMORY[1:], MEMORY[:3]), {}),
        # What differs between steps is read from the row of the step.
        operation(np, "copyto", (real(2), STEPS[0]), {}),
        operation(np, "multiply", (real(), STEPS[0, 1:2].reshape(())), {"out": real()}),
        operation(np, "multiply", (real(2), STEPS[0]), {"out": real(2)}),
        Op("relu", (np.zeros((3, 4)), np.zeros((3, 4))), None, lambda: None, is_kernel=True),
        Op("new kernel", (real(3, 4),), None, lambda: None, is_kernel=True),
    ],
    ids=str,
)
def test_others_are_called_in_python(op: Op) -> None:
    assert calls(op) == [op.name]


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
@pytest.mark.parametrize("shape", [(3, 4), (40, 300), (5,), (700,), ()])
def test_loops_take_numbers_and_vectors(name: str, shape: tuple[int, ...]) -> None:
    a, out = real(*shape), real(*shape)
    for inputs in ((a, a), (a, 2), (1.5, a), (a, real(*shape[-1:])), (real(*shape[-1:]), a)):
        assert calls(operation(np, name, inputs, {"out": out})) == []


@pytest.mark.parametrize("shape", [(3, 4), (40, 300), (4, 1), (1, 700)])
def test_loops_take_columns_and_make_them(shape: tuple[int, ...]) -> None:
    a, column, vector = real(*shape), real(shape[0], 1), real(shape[0])
    for name in ("subtract", "multiply", "divide"):
        assert calls(operation(np, name, (a, column), {"out": real(*shape)})) == []
        assert calls(operation(np, name, (a, column), {"out": a})) == []
    for name in ("sum", "mean", "max"):
        kept = {"axis": 1, "keepdims": True, "out": column}
        assert calls(operation(np, name, (a,), kept)) == []
        assert calls(operation(np, name, (a,), {"axis": 1, "out": vector})) == []


def noise_op(x: Any, y: Any, counter: Any = "uint64", units: Any = "uint32", size: int = 3) -> Op:
    given = x, np.zeros(1, counter), np.zeros(size, units), -0.02, y
    return Op("gaussian_noise", given, None, lambda: None, is_kernel=True)


def test_noise_is_a_loop_for_arrays_that_it_knows() -> None:
    x, y = real(ROWS, 5), real(ROWS, 5)
    lowering = Lowering()
    lowering.add(noise_op(x, y))
    assert lowering.calls == []
    assert [{w.loop for part in parts for w in part} for parts in lowering.end()] == [
        {"gaussian_noise"},
        {"advance"},
    ]
    for other in (
        noise_op(x.astype(float), y.astype(float)),
        noise_op(x, real(ROWS, 6)),
        noise_op(x, y, counter="int64"),
        noise_op(x, y, units="uint64"),
        noise_op(x, y, size=2),
    ):
        assert calls(other) == ["gaussian_noise"]


@pytest.mark.parametrize("shape", [(), (5,), (700,), (3, 4)])
def test_a_loop_copies(shape: tuple[int, ...]) -> None:
    assert calls(operation(np, "copyto", (real(*shape), real(*shape)), {})) == []


def test_the_scalars_of_a_step_are_read_from_its_row() -> None:
    assert calls(operation(np, "multiply", (real(9), STEPS[0, 1:2]), {"out": real(9)})) == []


@pytest.mark.parametrize("name", ["dot", "matmul"])
def test_no_product_is_left_to_blas(name: str) -> None:
    """Its bits depend on the number of threads."""
    ones, kept = np.ones(ROWS, np.float32), Workspace().ones(np, ROWS, np.float32)
    matrix, double = real(ROWS, COLUMNS), np.zeros((ROWS, COLUMNS))
    for inputs, out in [
        ((ones, matrix), real(COLUMNS)),  # its values may change until the next step
        ((double, double.T), np.zeros((ROWS, ROWS))),
        ((matrix[:, ::2], matrix[:, ::2].T), real(ROWS, ROWS)),
        ((matrix, real(COLUMNS)), real(ROWS)),
        (([[1.0]], [[1.0]]), real(1, 1)),
        ((SQUARE, real(5, 5)), SQUARE),  # the factor would change under the product
        ((SQUARE.T, SQUARE), SQUARE),
        ((real(5, 5)[::-1], SQUARE), real(5, 5)),
    ]:
        with pytest.raises(NotLowered):
            calls(operation(np, name, inputs, {"out": out}))
    assert calls(operation(np, name, (kept, matrix), {"out": real(COLUMNS)})) == []
    assert calls(operation(np, name, (matrix, matrix.T), {"out": real(ROWS, ROWS)})) == []


@pytest.mark.parametrize("sizes", [(700, 20, 9), (12, 80, 300)], ids=["gradient", "groups"])
def test_a_product_whose_columns_lie_side_by_side(sizes: tuple[int, int, int]) -> None:
    inner, rows, columns = sizes
    rng = np.random.default_rng(0)
    if inner > rows:
        a = rng.standard_normal((inner, rows)).astype(np.float32).T
    else:
        a, inner = rng.standard_normal((inner, rows)).astype(np.float32), rows
    b = rng.standard_normal((inner, columns)).astype(np.float32)
    out = np.zeros((columns, len(a)), np.float32).T
    program = [operation(np, "matmul", (a, b), {"out": out})]
    CompiledSteps(program, [])(1)
    # Sums of `inner` terms, rounded to float32 as often (Higham, as in test_tiles.py).
    gamma = inner * 2.0**-24 / (1 - inner * 2.0**-24)
    bound = gamma * (abs(a).astype(float) @ abs(b).astype(float))
    assert (abs(out - a.astype(float) @ b.astype(float)) <= bound).all()


def test_what_differs_between_steps_cannot_be_written_within_one() -> None:
    with pytest.raises(NotLowered):
        calls(operation(np, "multiply", (STEPS[0], 2.0), {"out": STEPS[0]}))


def test_no_part_writes_what_another_one_reads_before_it() -> None:
    """The order of phases holds for scalars too, which a loop finds by their address."""
    lowering = Lowering([ORDER, STEPS])
    values, square = real(4000), real(1)
    lowering.add(operation(np, "dot", (values, values), {"out": square.reshape(())}))
    lowering.add(operation(np, "multiply", (values, square), {"out": values}))
    names = [{w.loop for part in p.parts for w in part} for p in phases(lowering.end())]
    assert names == [{"dot"}, {"total"}, {"scale"}]


def test_two_matrices_at_one_address_have_cells_of_their_own() -> None:
    memory = real(64 * 80)
    wide, tall = memory.reshape(64, 80), memory[: 64 * 20].reshape(64, 20)
    lowering = Lowering()
    for matrix in (wide, tall, wide):
        lowering.add(operation(np, "exp", (matrix,), {"out": matrix}))
    for matrix, parts in zip((wide, tall, wide), lowering.end(), strict=True):
        covered = np.zeros(matrix.shape, np.int64)
        for part in parts:
            for work in part:
                (region,) = work.writes
                first = (region.start - matrix.ctypes.data) // 4
                row, column = divmod(first, matrix.shape[1])
                covered[row : row + region.rows, column : column + region.width // 4] += 1
        assert (covered == 1).all()


def test_an_update_of_a_part_of_a_gradient_is_called_in_python() -> None:
    lowering = Lowering([ORDER, STEPS])
    flat = real(3600)
    gradient = flat[100:3600].reshape(70, 50)
    lowering.add(operation(np, "dot", (real(30, 70).T, real(30, 50)), {"out": gradient}))
    arguments = (real(2000), flat[:2000], STEPS[0])
    lowering.add(Op("descend", arguments, None, lambda: None, is_kernel=True))
    assert [[op.name for op in ops] for ops in lowering.calls] == [["descend"]]


def test_an_update_changes_every_value_once() -> None:
    values, flat = real(4000), real(4000)
    x, dy = real(30, 70), real(30, 50)
    gradient, bias = flat[100:3600].reshape(70, 50), flat[3600:3650]
    lowering = Lowering([ORDER, STEPS])
    ones = Workspace().ones(np, 30, np.float32)
    lowering.add(operation(np, "dot", (x.T, dy), {"out": gradient}))
    lowering.add(operation(np, "dot", (ones, dy), {"out": bias}))
    arguments = (values, flat, STEPS[0])
    lowering.add(Op("descend", arguments, None, lambda: None, is_kernel=True))
    counts = np.zeros(4000, np.int64)
    works = [work for parts in lowering.end() for part in parts for work in part]
    for work in works:
        if work.loop == "descend":
            (region,) = work.writes
            start = (region.start - values.ctypes.data) // 4
            for row in range(region.rows):
                at = start + row * region.step // 4
                counts[at : at + region.width // 4] += 1
    assert (counts == 1).all()


@pytest.mark.parametrize("reads_gradients", [False, True])
def test_an_update_follows_in_the_phase_that_computes_its_gradient(reads_gradients: bool) -> None:
    rows, columns, samples = 16 * LINE + 40, 50, 300
    values, flat = real(rows * columns + 7), real(rows * columns + 7)
    w, gradient = (a[:-7].reshape(rows, columns) for a in (values, flat))
    x, dy = real(samples, rows), real(samples, columns)
    lowering = Lowering([ORDER, STEPS])
    lowering.add(operation(np, "dot", (x.T, dy), {"out": gradient}))
    lowering.add(operation(np, "dot", (dy, w.T), {"out": real(samples, rows)}))
    if reads_gradients:
        # As `clip_norm` does: now all gradients are needed before the first update.
        lowering.add(operation(np, "dot", (flat, flat), {"out": np.zeros((), np.float32)}))
        lowering.add(operation(np, "multiply", (flat, real(1)), {"out": flat}))
    arguments = (values, flat, STEPS[0])
    lowering.add(Op("descend", arguments, None, lambda: None, is_kernel=True))
    found = phases(lowering.end())
    loops = [{work.loop for part in phase.parts for work in part} for phase in found]
    updates = [number for number, names in enumerate(loops) if "descend" in names]
    products = [number for number, names in enumerate(loops) if "product" in names]
    assert (min(updates) == max(products)) is not reads_gradients
