"""Losses: worked numbers, gradients, PyTorch, extreme logits, weights, bad shapes."""

from __future__ import annotations

from collections.abc import Callable

import cases
import numpy as np
import pytest
import strict_cupy
import torch
from cases import LossCase, as_written, error, place, tensor

from xpnet.backend import Backend
from xpnet.errors import ConfigError, DataError, ShapeError
from xpnet.gradcheck import numerical_gradient, relative_error
from xpnet.losses import (
    Huber,
    L2Penalty,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SigmoidBinaryCrossEntropy,
    SoftmaxCrossEntropy,
)

every_loss = pytest.mark.parametrize("case", **cases.by_id(cases.LOSSES))
SHAPES = [(1, 4), (7, 4), (33, 2)]


def draw(case: LossCase, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(shape[0])
    logits = rng.standard_normal(shape) * 3
    return logits, case.target(rng, shape), rng.random(shape[0]) + 0.1


def value(backend: Backend, loss: Loss, *arguments: object) -> float:
    return float(backend.to_host(loss.forward(*arguments)))


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_depends_on_what_lay_in_the_buffers(
    case: LossCase, weighted: bool, backend: Backend
) -> None:
    found = []
    logits, target, weights = draw(case, (5, 3))
    z, t = place(backend, logits), place(backend, target)
    w = place(backend, weights) if weighted else None
    for garbage in (0, 1):
        loss = case.make()
        loss.forward(z, t, w)
        loss.backward()
        for (_, name), memory in loss.workspace._memory.items():
            if name not in ("ones", "numbers"):
                memory.fill(garbage)
        found.append((value(backend, loss, z, t, w), backend.to_host(loss.backward()).copy()))
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second)


@every_loss
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_agree_with_torch(
    case: LossCase,
    shape: tuple[int, int],
    weighted: bool,
    backend: Backend,
    compared: Callable[[str], None],
) -> None:
    logits, target, weights = draw(case, shape)
    loss = case.make()
    w = place(backend, weights) if weighted else None
    found = value(backend, loss, place(backend, logits), place(backend, target), w)
    gradient = backend.to_host(loss.backward()).copy()

    z = tensor(logits).requires_grad_()
    elements = case.torch(z, tensor(target))
    samples = elements if elements.ndim == 1 else elements.mean(dim=1)
    share = (
        tensor(weights) / weights.sum()
        if weighted
        else torch.full((len(z),), 1 / len(z), dtype=torch.float64)
    )
    expected = (samples * share).sum()
    expected.backward()
    assert error(found, expected.detach()) <= 1e-12
    assert error(gradient, z.grad) <= 1e-12
    compared(f"{case.id}.forward")
    compared(f"{case.id}.backward")


@every_loss
def test_many_random_batches_agree_with_torch(case: LossCase, backend: Backend) -> None:
    loss, rng = case.make(), np.random.default_rng(8)
    for step in range(60):
        shape = (int(rng.integers(1, 20)), int(rng.integers(2, 9)))
        logits = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)
        target, weights = case.target(rng, shape), rng.random(shape[0]) + 0.01
        w = None if step % 2 else place(backend, weights)
        found = value(backend, loss, place(backend, logits), place(backend, target), w)
        gradient = backend.to_host(loss.backward())
        z = tensor(logits).requires_grad_()
        elements = case.torch(z, tensor(target))
        samples = elements if elements.ndim == 1 else elements.mean(dim=1)
        expected = (
            samples.mean() if w is None else (samples * tensor(weights)).sum() / weights.sum()
        )
        expected.backward()
        assert error(found, expected.detach()) <= 1e-12, f"step {step}"
        assert error(gradient, z.grad) <= 1e-12, f"step {step}"


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_the_derivative(case: LossCase, weighted: bool, backend: Backend) -> None:
    logits, target, weights = draw(case, (6, 3))
    z, t = place(backend, logits), place(backend, target)
    w = place(backend, weights) if weighted else None
    loss = case.make()
    numeric = numerical_gradient(lambda: value(backend, loss, z, t, w), z)
    loss.forward(z, t, w)
    assert relative_error(loss.backward(), numeric) <= 1e-7


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_scale_multiplies_the_gradient_and_backward_can_be_repeated(
    case: LossCase, weighted: bool, backend: Backend
) -> None:
    logits, target, weights = draw(case, (5, 3))
    loss = case.make()
    w = place(backend, weights) if weighted else None
    loss.forward(place(backend, logits), place(backend, target), w)
    once = backend.to_host(loss.backward()).copy()
    assert np.array_equal(backend.to_host(loss.backward()), once)
    assert error(backend.to_host(loss.backward(scale=-0.25)), -0.25 * once) <= 1e-15


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        SigmoidBinaryCrossEntropy,
        MeanSquaredError,
        MeanAbsoluteError,
        Huber,
        Poisson,
        lambda: Quantile(0.9),
    ],
)
def test_a_vector_of_outputs_is_a_matrix_of_one_column(
    make: Callable[[], Loss], weighted: bool, backend: Backend
) -> None:
    rng = np.random.default_rng(8)
    logits, target, weights = rng.standard_normal(5), rng.random(5), rng.random(5) + 0.1
    vector, column = make(), make()
    w = place(backend, weights) if weighted else None
    found = value(backend, vector, place(backend, logits), place(backend, target), w)
    z, t = place(backend, logits[:, None]), place(backend, target[:, None])
    assert found == pytest.approx(value(backend, column, z, t, w), rel=1e-15)
    assert error(backend.to_host(vector.backward()), backend.to_host(column.backward())[:, 0]) == 0


@every_loss
def test_equal_weights_are_no_weights(case: LossCase, backend: Backend) -> None:
    logits, target, _ = draw(case, (7, 4))
    loss, other = case.make(), case.make()
    z, t = place(backend, logits), place(backend, target)
    plain = value(backend, loss, z, t)
    assert value(backend, other, z, t, place(backend, np.full(7, 3.0))) == pytest.approx(plain)
    assert error(backend.to_host(other.backward()), backend.to_host(loss.backward())) <= 1e-14


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept_and_backends_agree(case: LossCase, dtype: str, backend: Backend) -> None:
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    here, there = case.make(), case.make()
    for rows in (7, 5, 7):
        logits, target, _ = draw(case, (rows, 4))
        kind = dtype if target.dtype.kind == "f" else None
        found = here.forward(place(backend, logits, dtype), place(backend, target, kind))
        with as_written():
            wanted = there.forward(logits.astype(dtype), target.astype(kind or target.dtype))
            slope = there.backward()
        assert found.shape == ()
        assert found.dtype == np.dtype(dtype)
        assert error(backend.to_host(found), wanted) <= tolerance
        gradient = here.backward()
        assert gradient.dtype == np.dtype(dtype)
        assert error(backend.to_host(gradient), slope) <= tolerance


@every_loss
def test_a_steady_step_touches_neither_host_nor_allocator(case: LossCase, double: Backend) -> None:
    logits, target, weights = draw(case, (7, 4))
    z, t, w = (place(double, part) for part in (logits, target, weights))
    loss = case.make()
    for weighting in (None, w):
        loss.forward(z, t, weighting)
        loss.backward()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        for weighting in (None, w):
            loss.forward(z, t, weighting)
            loss.backward()
            loss.forward(z[:5], t[:5], None)
            loss.backward()


def test_softmax_cross_entropy_by_hand(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy()
    logits = backend.asarray(np.array([[0.0, np.log(3)], [1.0, 1.0]]))
    found = value(backend, loss, logits, backend.asarray(np.array([0, 1])))
    assert found == pytest.approx((np.log(4) + np.log(2)) / 2, rel=1e-15)
    gradient = backend.to_host(loss.backward())
    assert gradient == pytest.approx(np.array([[-0.75, 0.75], [0.5, -0.5]]) / 2, rel=1e-15)


def test_the_sums_of_blocks_of_rows_have_a_place_each(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy()
    labels = place(backend, np.zeros(600), "int64")
    loss.forward(place(backend, np.zeros((600, 3)), "float32"), labels)
    sizes = {name: array.size for (_, name), array in loss.workspace._memory.items()}
    assert sizes["sums"] == 3  # of 256, 256 and 88 rows


def test_softmax_cross_entropy_with_weights_by_hand(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy()
    logits = backend.asarray(np.array([[0.0, np.log(3)], [1.0, 1.0]]))
    weights = backend.asarray(np.array([3.0, 1.0]))
    found = value(backend, loss, logits, backend.asarray(np.array([0, 1])), weights)
    assert found == pytest.approx((3 * np.log(4) + np.log(2)) / 4, rel=1e-15)
    expected = np.array([[-0.75 * 3, 0.75 * 3], [0.5, -0.5]]) / 4
    assert backend.to_host(loss.backward()) == pytest.approx(expected, rel=1e-15)


def test_smoothed_labels_by_hand(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy(label_smoothing=0.1)
    logits = backend.asarray(np.array([[0.0, np.log(3)]]))
    labels = backend.asarray(np.array([0]))
    found = value(backend, loss, logits, labels)
    assert found == pytest.approx(np.log(4) - 0.05 * np.log(3), rel=1e-15)
    assert backend.to_host(loss.backward()) == pytest.approx(np.array([[-0.7, 0.7]]), rel=1e-14)
    plain = value(backend, loss.for_evaluation(), logits, labels)
    assert plain == value(backend, SoftmaxCrossEntropy(), logits, labels) != found


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range_is_named(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing must be a number in \[0, 1\), found"):
        SoftmaxCrossEntropy(epsilon)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_cross_entropy_at_extreme_logits(dtype: str, backend: Backend) -> None:
    loss = SoftmaxCrossEntropy()
    logits = place(backend, [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype)
    found = value(backend, loss, logits, backend.asarray(np.array([1, 2])))
    assert found == pytest.approx((2e4 + np.log(2)) / 2, rel=1e-6)
    gradient = backend.to_host(loss.backward())
    assert gradient == pytest.approx(np.array([[0.5, -0.5, 0.0], [0.0, 0.25, -0.25]]), abs=1e-7)
    assert gradient.sum(axis=1) == pytest.approx(0.0, abs=1e-7)


def test_sigmoid_binary_cross_entropy_by_hand_and_far_out(backend: Backend) -> None:
    loss = SigmoidBinaryCrossEntropy()
    logits, target = np.array([0.0, 50.0, -50.0, -1e4]), np.array([1.0, 1.0, 1.0, 0.0])
    found = value(backend, loss, place(backend, logits), place(backend, target))
    assert found == pytest.approx((np.log(2) + np.exp(-50.0) + 50.0 + 0.0) / 4, rel=1e-15)
    gradient = backend.to_host(loss.backward())
    assert gradient == pytest.approx(np.array([-0.5, 0.0, -1.0, 0.0]) / 4, abs=1e-15)
    one = value(backend, loss, place(backend, [[50.0]]), place(backend, [[1.0]]))
    assert one == pytest.approx(np.exp(-50.0), rel=1e-12), "the small loss of a sure hit is lost"


def test_mean_squared_error_by_hand(backend: Backend) -> None:
    loss = MeanSquaredError()
    found = value(backend, loss, place(backend, [1.0, 3.0]), place(backend, [0.0, 1.0]))
    assert found == 2.5
    assert backend.to_host(loss.backward()).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("loss", "outputs", "target", "expected", "slopes"),
    [
        (MeanAbsoluteError(), [1.0, 3.0], [0.0, 5.0], 1.5, [0.5, -0.5]),
        (Huber(), [0.5, 3.0], [0.0, 0.0], 1.3125, [0.25, 0.5]),
        (Huber(2), [-5.0, 1.0], [0.0, 0.0], 4.25, [-1.0, 0.5]),
        (Poisson(), [0.0, np.log(3)], [2.0, 1.0], (4 - np.log(3)) / 2, [-0.5, 1.0]),
        (Quantile(0.9), [1.0, 3.0], [0.0, 5.0], 0.95, [0.05, -0.45]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Loss) else "",
)
def test_losses_of_regression_by_hand(
    loss: Loss,
    outputs: list[float],
    target: list[float],
    expected: float,
    slopes: list[float],
    backend: Backend,
) -> None:
    found = value(backend, loss, place(backend, outputs), place(backend, target))
    assert found == pytest.approx(expected, rel=1e-15)
    assert backend.to_host(loss.backward()) == pytest.approx(np.array(slopes), rel=1e-15)


@every_loss
def test_at_ties_the_gradient_is_that_of_torch(case: LossCase, backend: Backend) -> None:
    """Where an output equals its target, and where the difference is `delta` of `Huber`."""
    target = case.target(np.random.default_rng(0), (6, 3))
    logits = np.zeros((6, 3)) if target.ndim == 1 else target.copy()
    logits[3:] += np.array([[1.0], [-1.0], [2.5]])
    loss = case.make()
    loss.forward(place(backend, logits), place(backend, target))
    z = tensor(logits).requires_grad_()
    case.torch(z, tensor(target)).mean().backward()
    assert error(backend.to_host(loss.backward()), z.grad) <= 1e-12


LEVELS = (0.05, 0.5, 0.9)


@pytest.mark.parametrize("weighted", [False, True])
def test_several_quantiles_agree_with_torch_and_with_the_derivative(
    weighted: bool, backend: Backend
) -> None:
    rng = np.random.default_rng(5)
    logits, target, weights = (
        rng.standard_normal((9, 3)),
        rng.standard_normal((9, 1)),
        rng.random(9),
    )
    logits[:4, 1] = target[:4, 0]  # ties
    loss, z, t = Quantile(LEVELS), place(backend, logits), place(backend, target)
    w = place(backend, weights) if weighted else None
    found = value(backend, loss, z, t, w)
    gradient = backend.to_host(loss.backward()).copy()
    outputs, goal = tensor(logits).requires_grad_(), tensor(target)
    columns = [cases.pinball(outputs[:, k], goal[:, 0], q) for k, q in enumerate(LEVELS)]
    samples = sum(columns) / 3
    share = tensor(weights) / weights.sum() if weighted else 1 / 9
    expected = (samples * share).sum()
    expected.backward()
    assert error(found, expected.detach()) <= 1e-12
    assert error(gradient, outputs.grad) <= 1e-12
    # The difference quotient at a tie is the mean of both slopes, as the gradient is.
    numeric = numerical_gradient(lambda: value(backend, loss, z, t, w), z)
    assert relative_error(loss.backward(), numeric) <= 1e-7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_quantiles_keep_dtype_and_memory(dtype: str, double: Backend) -> None:
    rng, loss = np.random.default_rng(5), Quantile(LEVELS)
    z, t = place(double, rng.random((7, 3)), dtype), place(double, rng.random((7, 1)), dtype)
    value, slopes = loss.forward(z, t), loss.backward()
    assert value.dtype == slopes.dtype == np.dtype(dtype)
    before = double.to_host(slopes).copy()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        loss.forward(z, t)
        loss.backward()
        loss.forward(z[:5], t[:5])
        loss.backward()
    for (_, name), memory in loss.workspace._memory.items():
        if name != "ones":
            memory.fill(1)
    loss.forward(z, t)
    assert np.array_equal(double.to_host(loss.backward()), before)


def test_several_quantiles_are_called_with_one_target_a_sample(backend: Backend) -> None:
    z, t = place(backend, np.zeros((5, 3))), place(backend, np.ones((5, 1)))
    assert Quantile(LEVELS)(z, t) == pytest.approx(sum(LEVELS) / 3, rel=1e-15)


def test_one_quantile_in_a_list_is_one_quantile(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    z, t = place(backend, rng.random((7, 1))), place(backend, rng.random((7, 1)))
    one, several = Quantile(0.3), Quantile([0.3])
    assert value(backend, one, z, t) == value(backend, several, z, t)
    assert np.array_equal(backend.to_host(one.backward()), backend.to_host(several.backward()))


@pytest.mark.parametrize("rows", [101, 1001])
def test_the_minimum_is_the_quantile_of_the_targets(rows: int) -> None:
    target = np.random.default_rng(rows).standard_normal((rows, 1))
    for loss, q in [(Quantile(0.9), 0.9), (Quantile(0.25), 0.25), (MeanAbsoluteError(), 0.5)]:
        # With an odd number of samples of this size the quantile is one of the targets.
        best = np.quantile(target, q, method="inverted_cdf")
        slopes = []
        for shift in (-1e-9, 1e-9):
            loss.forward(np.full((rows, 1), best + shift), target)
            slopes.append(loss.backward().sum())
        assert slopes[0] < 0 < slopes[1]


def test_the_minimum_of_poisson_is_the_logarithm_of_the_mean() -> None:
    target = np.random.default_rng(0).poisson(3, (100, 1)).astype(float)
    loss = Poisson()
    loss.forward(np.full((100, 1), np.log(target.mean())), target)
    # A sum of a hundred terms of about 3.
    assert abs(loss.backward().sum()) < 1e-13


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Huber(0), "delta must be a number above 0, found 0"),
        (lambda: Huber(float("inf")), "delta must be a number above 0, found inf"),
        (lambda: Quantile(1), r"quantile must be a number in \(0, 1\), found 1"),
        (lambda: Quantile((0.5, 0.0)), r"quantile must be a number in \(0, 1\), found 0.0"),
        (lambda: Quantile(np.array(1.5)), r"quantile must be a number in \(0, 1\), found"),
        (lambda: Quantile(()), r"one number between 0 and 1, or several, found \(\)"),
        (lambda: Quantile("0.5"), r"quantile must be a number in \(0, 1\), found '0.5'"),
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], Loss], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_l2_penalty_agrees_with_torch(backend: Backend, compared: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal(30), rng.standard_normal(30)
    penalty = L2Penalty(0.7, samples=50)
    values, gradients = place(backend, w), place(backend, g)
    found = float(backend.to_host(penalty.forward(values)))
    penalty.backward(values, gradients)
    t = tensor(w).requires_grad_()
    expected = 0.7 / (2 * 50) * (t**2).sum()
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=1e-14)
    assert error(backend.to_host(gradients), g + t.grad.numpy()) <= 1e-15
    numeric = numerical_gradient(lambda: float(backend.to_host(penalty.forward(values))), values)
    assert error(backend.to_host(numeric), t.grad) <= 1e-7
    compared("L2Penalty.forward")
    compared("L2Penalty.backward")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_l2_penalty_keeps_dtype_and_memory(dtype: str, double: Backend) -> None:
    values = place(double, np.ones(9), dtype)
    gradients, penalty = place(double, np.ones(9), dtype), L2Penalty(0.1, 3)
    penalty.backward(values, gradients)
    assert penalty.forward(values).dtype == np.dtype(dtype)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        penalty.forward(values)
        penalty.backward(values, gradients)


@pytest.mark.parametrize(
    ("loss", "logits", "target", "words"),
    [
        (SoftmaxCrossEntropy(), (3, 4), np.zeros(2, int), r"\(3, 4\) and \(2,\)"),
        (SoftmaxCrossEntropy(), (3,), np.zeros(3, int), r"\(3,\) and \(3,\)"),
        (
            SoftmaxCrossEntropy(),
            (3, 4),
            np.zeros(3),
            "labels must be integers, found dtype float64",
        ),
        (MeanSquaredError(), (3, 1), np.zeros(3), r"\(3, 1\) and \(3,\)"),
        (SigmoidBinaryCrossEntropy(), (3, 1), np.zeros((3, 2)), r"\(3, 1\) and \(3, 2\)"),
        (MeanAbsoluteError(), (3, 1), np.zeros(3), r"\(3, 1\) and \(3,\)"),
        (Huber(), (3, 1), np.zeros(3), r"\(3, 1\) and \(3,\)"),
        (Poisson(), (3, 1), np.zeros(3), r"\(3, 1\) and \(3,\)"),
        (Quantile(), (3, 1), np.zeros(3), r"\(3, 1\) and \(3,\)"),
        (
            Quantile(LEVELS),
            (3, 3),
            np.zeros((3, 3)),
            r"targets \(N, 1\), found \(3, 3\) and \(3, 3",
        ),
        (Quantile(LEVELS), (3, 2), np.zeros((3, 1)), r"outputs \(N, 3\) and targets"),
    ],
)
def test_wrong_shapes_are_named(
    loss: Loss, logits: tuple[int, ...], target: np.ndarray, words: str, backend: Backend
) -> None:
    with pytest.raises(ShapeError, match=words):
        loss.forward(place(backend, np.zeros(logits)), place(backend, target))


def test_wrong_weights_are_named(backend: Backend) -> None:
    z, t = place(backend, np.zeros((3, 2))), place(backend, np.zeros((3, 2)))
    with pytest.raises(
        ShapeError, match=r"one number per sample, shape \(3,\), found shape \(2,\)"
    ):
        MeanSquaredError().forward(z, t, place(backend, np.ones(2)))


def test_negative_l2_is_named() -> None:
    with pytest.raises(ConfigError, match="l2 must be a number of 0 or more, found -1"):
        L2Penalty(-1.0, 10)


def test_the_base_refuses_to_compute() -> None:
    with pytest.raises(NotImplementedError, match="no forward"):
        Loss().forward(np.zeros(1), np.zeros(1))
    with pytest.raises(NotImplementedError, match="no backward"):
        Loss().backward()


@every_loss
def test_a_loss_that_is_called_gives_the_mean_as_a_number(case: LossCase, backend: Backend) -> None:
    logits, target, weights = (place(backend, array) for array in draw(case, (7, 4)))
    loss = case.make()
    found = loss(logits, target)
    assert type(found) is float
    assert found == value(backend, case.make(), logits, target)
    assert loss(logits, target, weights) == value(backend, case.make(), logits, target, weights)


@pytest.mark.parametrize(
    ("loss", "target", "kind", "message"),
    [
        (SoftmaxCrossEntropy(), [0, 1, 4], DataError, "label 4 is in row 2"),
        (SoftmaxCrossEntropy(), [[0], [1], [2]], ShapeError, r"shape \(3, 1\).*one class"),
        (SigmoidBinaryCrossEntropy(), [[0, 1, 1.5]] * 3, ShapeError, r"shape \(N, 4\)"),
        (
            SigmoidBinaryCrossEntropy(),
            [[0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 0]],
            DataError,
            "^target has the target 1.5 in row 1, column 1, and Sigmoid.*numbers from 0 to 1$",
        ),
        (MeanSquaredError(), [[0.0]] * 3, ShapeError, r"shape \(N, 4\)"),
        (
            MeanSquaredError(),
            [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, np.nan]],
            DataError,
            "^target has the target nan in row 2, column 3, and Mean.*finite numbers$",
        ),
        *[
            (loss, target, kind, message)
            for loss in (MeanAbsoluteError(), Huber(), Poisson(), Quantile())
            for target, kind, message in (
                ([[0.0]] * 3, ShapeError, r"shape \(N, 4\)"),
                (
                    [[0.0, 0, 0, np.inf]] * 3,
                    DataError,
                    "inf in row 0, column 3, and .* takes finite",
                ),
            )
        ],
        (Poisson(), [[0, 0, -1, 0]] * 3, DataError, "-1 in row 0, column 2, and Poisson takes"),
        (Quantile((0.1, 0.2, 0.3, 0.4)), [[0.0] * 4] * 3, ShapeError, r"shape \(N, 1\)"),
        (Quantile((0.1, 0.2, 0.3, 0.4)), [[np.nan]] * 3, DataError, "nan in row 0, column 0"),
        (Quantile((0.1, 0.9)), [[0.0]] * 3, ShapeError, "2 quantiles and the network 4 outputs"),
    ],
)
def test_a_loss_that_is_called_checks_its_targets(
    loss: Loss, target: list[object], kind: type[Exception], message: str, backend: Backend
) -> None:
    with pytest.raises(kind, match=message):
        loss(place(backend, np.zeros((3, 4))), backend.asarray(target))


def test_a_loss_shows_how_it_was_made() -> None:
    class Own(Loss):
        def __init__(self, *given: float) -> None:
            super().__init__()

    losses = [Huber(delta=3), MeanSquaredError(), Quantile((0.1, 0.9)), Own(2.0)]
    shown = ["Huber(delta=3)", "MeanSquaredError()", "Quantile(quantile=(0.1, 0.9))", "Own(...)"]
    assert [repr(loss) for loss in losses] == shown
