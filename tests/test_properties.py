"""What has to hold for every network, batch and loss, whatever its numbers: Hypothesis tries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

import xpnet as xn
from xpnet import layers
from xpnet.backend import Array, Backend
from xpnet.initializers import Uniform
from xpnet.layers import activations
from xpnet.layers.activations import softmax
from xpnet.layers.base import Layer
from xpnet.losses import Loss, SoftmaxCrossEntropy
from xpnet.network import Sequential

few = settings(max_examples=20, deadline=None)
LOSS_CASES = pytest.mark.parametrize("case", cases.LOSSES, ids=lambda case: case.id)
# Layers that take each row for itself and draw nothing.
BETWEEN = (
    activations.ReLU,
    activations.LeakyReLU,
    activations.Sigmoid,
    activations.Tanh,
    activations.GELU,
)


@dataclass(frozen=True)
class Task:
    """A network's widths and what lies between them, and a batch for it."""

    widths: tuple[int, ...]
    between: tuple[type[Layer], ...]
    rows: int
    seed: int

    def network(self, backend: Backend, *more: Layer) -> Sequential:
        made: list[Layer] = []
        for position, (before, after) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            if position:
                made.append(self.between[position % len(self.between)]())
            made.append(layers.Linear(before, after, Uniform(1.0), Uniform(0.5)))
        return Sequential([*made, *more], backend=backend, dtype="float64", seed=self.seed)

    @property
    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        x = self.random.standard_normal((self.rows, self.widths[0]))
        return x, self.random.integers(0, self.widths[-1], self.rows)


TASKS = st.builds(
    Task,
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=4).map(lambda w: (*w, len(w) + 1)),
    between=st.lists(st.sampled_from(BETWEEN), min_size=1, max_size=3).map(tuple),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)


def gradient(
    network: Sequential,
    loss: Loss,
    x: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray | None = None,
    scale: float = 1.0,
) -> tuple[float, np.ndarray]:
    """The mean loss of a batch and `scale` times its gradient by all parameters."""
    place = network.backend.asarray
    logits = network.forward(place(x), training=True)
    value = loss.forward(logits, place(target), None if weights is None else place(weights))
    network.backward(loss.backward(scale))
    return float(network.backend.to_host(value)), network.backend.to_host(
        network.flat_gradients
    ).copy()


def close(found: Any, expected: Any) -> None:
    """Equal but for the rounding of float64 sums in another order."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    size = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * size)


@few
@given(task=TASKS)
def test_permuting_a_batch_permutes_the_output(task: Task, backend: Backend) -> None:
    network, (x, _) = task.network(backend), task.batch()
    order = task.random.permutation(task.rows)
    for training in (False, True):
        y = backend.to_host(network.forward(backend.asarray(x), training=training)).copy()
        permuted = network.forward(backend.asarray(x[order]), training=training)
        close(backend.to_host(permuted), y[order])


@few
@given(task=TASKS)
def test_a_gradient_does_not_ask_for_the_order_of_a_batch(task: Task, backend: Backend) -> None:
    # The batch's statistics do not ask either, so BatchNorm may take part.
    network = task.network(backend, layers.BatchNorm(task.widths[-1]))
    x, labels = Task(task.widths, task.between, task.rows + 1, task.seed).batch()
    order = task.random.permutation(len(x))
    value, there = gradient(network, SoftmaxCrossEntropy(), x, labels)
    again, permuted = gradient(network, SoftmaxCrossEntropy(), x[order], labels[order])
    close(again, value)
    # Two rows that nearly agree make the gradient of BatchNorm as steep as 1 / epsilon.
    np.testing.assert_allclose(permuted, there, rtol=0, atol=1e-8 * max(1, np.abs(there).max()))


@LOSS_CASES
@few
@given(task=TASKS, power=st.integers(-20, 20), scale=st.floats(-1e3, 1e3))
def test_scaling_the_loss_scales_all_gradients(
    case: cases.LossCase, task: Task, power: int, scale: float, backend: Backend
) -> None:
    network, (x, _) = task.network(backend), task.batch()
    target = case.target(task.random, (task.rows, task.widths[-1]))
    value, once = gradient(network, case.make(), x, target)
    same, scaled = gradient(network, case.make(), x, target, scale=scale)
    assert same == value
    close(scaled, scale * once)
    # A power of two moves no rounding at all.
    _, doubled = gradient(network, case.make(), x, target, scale=2.0**power)
    assert np.array_equal(doubled, 2.0**power * once)


@LOSS_CASES
@few
@given(task=TASKS, cut=st.integers(0, 8))
def test_two_batches_accumulate_to_one(
    case: cases.LossCase, task: Task, cut: int, backend: Backend
) -> None:
    task = Task(task.widths, task.between, task.rows + 1, task.seed)
    network, (x, _) = task.network(backend), task.batch()
    target = case.target(task.random, (task.rows, task.widths[-1]))
    value, whole = gradient(network, case.make(), x, target)
    cut = 1 + cut % (task.rows - 1)
    values, parts = zip(
        *(gradient(network, case.make(), x[rows], target[rows])
          for rows in (slice(None, cut), slice(cut, None))),
        strict=True,
    )  # fmt: skip
    shares = np.array([cut, task.rows - cut]) / task.rows
    close(shares @ values, value)
    close(shares @ parts, whole)


@LOSS_CASES
@few
@given(task=TASKS, data=st.data())
def test_a_whole_weight_is_a_count(
    case: cases.LossCase, task: Task, data: st.DataObject, backend: Backend
) -> None:
    network, (x, _) = task.network(backend), task.batch()
    target = case.target(task.random, (task.rows, task.widths[-1]))
    counts = data.draw(hn.arrays(int, task.rows, elements=st.integers(0, 3)).filter(np.any))
    value, weighted = gradient(network, case.make(), x, target, counts.astype(float))
    same, repeated = gradient(network, case.make(), x.repeat(counts, 0), target.repeat(counts, 0))
    close(value, same)
    close(weighted, repeated)


@few
@given(task=TASKS)
def test_a_dead_relu_has_zero_gradient(task: Task, backend: Backend) -> None:
    width = task.widths[-1]
    below, above = layers.Linear(width, 4, Uniform(), Uniform()), layers.Linear(4, 3, Uniform())
    network = task.network(backend, below, activations.ReLU(), above)
    x, labels = task.batch()[0], task.random.integers(0, 3, task.rows)
    gradient(network, SoftmaxCrossEntropy(), x, labels)
    # Units 1 and 3 are now below 0 whatever comes in.
    dead = np.array([False, True, False, True])
    below.values["bias"][...] = backend.asarray(np.where(dead, -1e6, 1.0))
    gradient(network, SoftmaxCrossEntropy(), x, labels)
    of = {name: backend.to_host(g) for name, g in network.parameter_gradients().items()}
    last = len(network.layers) - 3
    assert not of[f"{last}.weight"][dead].any()
    assert not of[f"{last}.bias"][dead].any()
    assert not of[f"{last + 2}.weight"][:, dead].any()
    assert of[f"{last + 2}.bias"].any()
    # With all of them dead nothing below learns.
    below.values["bias"][...] = backend.asarray(np.full(4, -1e6))
    gradient(network, SoftmaxCrossEntropy(), x, labels)
    gradients = network.parameter_gradients()
    for name, values in gradients.items():
        if int(name.partition(".")[0]) <= last:
            assert not backend.to_host(values).any(), name


LOGITS = hn.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 1e4, 0.0]),
)


@few
@given(logits=LOGITS)
def test_softmax_rows_sum_to_one_at_large_logits(logits: np.ndarray, backend: Backend) -> None:
    xp, z = backend.xp, backend.asarray(logits)
    p = xp.empty(logits.shape, dtype=xp.float32)
    total = xp.empty((len(logits), 1), dtype=xp.float32)
    found = backend.to_host(softmax(xp, z, axis=1, shifted=p, total=total, out=p))
    network = Sequential(
        [layers.Linear(logits.shape[1], logits.shape[1]), activations.Softmax()], backend=backend
    )
    network.load_state_dict(
        {"0.weight": np.eye(logits.shape[1]), "0.bias": np.zeros(logits.shape[1])}
    )
    layered = backend.to_host(network.forward(z))
    for rows in (found, layered):
        assert rows.dtype == np.float32
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-6)
        # The order of the logits is that of the probabilities.
        assert (np.take_along_axis(rows, logits.argmax(1)[:, None], 1)[:, 0] == rows.max(1)).all()


@few
@given(logits=LOGITS, data=st.data())
def test_cross_entropy_is_finite_at_large_logits(
    logits: np.ndarray, data: st.DataObject, backend: Backend
) -> None:
    count, classes = logits.shape
    labels = data.draw(hn.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    loss = SoftmaxCrossEntropy(smoothing)
    value = backend.to_host(loss.forward(backend.asarray(logits), backend.asarray(labels)))
    dlogits = backend.to_host(loss.backward()).astype(np.float64)
    assert np.isfinite(value)
    assert value >= 0
    assert (np.abs(dlogits) <= (1 + 1e-6) / count).all()
    # Probabilities and targets both sum to 1.
    np.testing.assert_allclose(dlogits.sum(axis=1), 0, rtol=0, atol=1e-6)


@few
@given(task=TASKS, shift=st.floats(-1e3, 1e3))
def test_a_shift_of_all_logits_changes_nothing(task: Task, shift: float, backend: Backend) -> None:
    logits = task.random.standard_normal((task.rows, task.widths[-1]))
    _, labels = task.batch()
    found = []
    for z in (logits, logits + shift):
        loss = SoftmaxCrossEntropy()
        value = loss.forward(backend.asarray(z), backend.asarray(labels))
        found.append((backend.to_host(value).copy(), backend.to_host(loss.backward()).copy()))
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * max(1, abs(shift)))


@few
@given(task=TASKS, cut=st.integers(0, 9))
def test_a_prediction_does_not_ask_for_its_neighbours(
    task: Task, cut: int, backend: Backend
) -> None:
    more = (layers.BatchNorm(task.widths[-1]), layers.Dropout(0.5), layers.GaussianNoise(1.0))
    network, (x, _) = task.network(backend, *more), task.batch()
    whole = backend.to_host(network.forward(backend.asarray(x)))
    parts = [
        backend.to_host(network.forward(backend.asarray(part)))
        for part in (x[:cut], x[cut:])
        if len(part)
    ]
    close(np.concatenate(parts), whole)


@few
@given(task=TASKS)
def test_the_order_of_hidden_units_is_a_matter_of_taste(task: Task, backend: Backend) -> None:
    network, (x, labels) = task.network(backend), task.batch()
    names = [name for name in network.parameters() if name.endswith("weight")]
    state = {name: backend.to_host(v).copy() for name, v in network.state_dict().items()}
    value, _ = gradient(network, SoftmaxCrossEntropy(), x, labels)
    for here, there in zip(names, names[1:], strict=False):
        order = task.random.permutation(len(state[here]))
        bias = here.replace("weight", "bias")
        state[here], state[bias] = state[here][order], state[bias][order]
        state[there] = state[there][:, order]
    network.load_state_dict(state)
    close(gradient(network, SoftmaxCrossEntropy(), x, labels)[0], value)


@settings(few, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=TASKS, dtype=st.sampled_from(["float32", "float64"]))
def test_any_network_comes_back_from_its_file_bit_by_bit(
    task: Task, dtype: str, tmp_path: Path
) -> None:
    drawn = task.network(Backend("cpu"), layers.BatchNorm(task.widths[-1]), layers.Dropout(0.25))
    network = Sequential.from_architecture(drawn.architecture(), dtype=dtype)
    network.load_state_dict(drawn.state_dict())
    first, second = tmp_path / "first", tmp_path / "second"
    xn.save(network, first)
    read = xn.load(first)
    xn.save(read, second)
    assert first.read_bytes() == second.read_bytes()
    x: Array = task.batch()[0].astype(dtype)
    assert read.forward(x).tobytes() == network.forward(x).tobytes()
