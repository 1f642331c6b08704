"""A large batch in blocks of rows: the step in one piece, but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import strict_cupy
from cases import error, place

import xpnet as xn
from xpnet.backend import Array, Backend, array_module
from xpnet.layers.base import Layer
from xpnet.losses import L2Penalty, Loss, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.metrics import Accuracy
from xpnet.network import Sequential
from xpnet.training import gradients, microbatch, train_step

FEATURES, CLASSES, ROWS = 12, 4, 250
NEVER = 10**9


def data(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((rows, FEATURES)), rng.integers(0, CLASSES, rows)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`cut(rows)`: from now on blocks have so many rows."""
    return lambda rows: monkeypatch.setattr(microbatch, "MICROBATCH_ROWS", rows)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every forward pass, of any class."""
    rows: list[int] = []
    through = Sequential._through

    def counting(self: Sequential, x: Array, training: bool) -> Array:
        rows.append(len(x))
        return through(self, x, training)

    monkeypatch.setattr(Sequential, "_through", counting)
    return rows


def dropout() -> list[Layer]:
    return [
        xn.Linear(FEATURES, 9),
        xn.ReLU(),
        xn.Dropout(0.4),
        xn.Linear(9, 7),
        xn.Tanh(),
        xn.Dropout(0.2),
        xn.Linear(7, CLASSES),
    ]


def noise() -> list[Layer]:
    return [xn.GaussianNoise(0.3), xn.Linear(FEATURES, 5), xn.LeakyReLU(), xn.Linear(5, CLASSES)]


def norm() -> list[Layer]:
    return [
        xn.Linear(FEATURES, 8),
        xn.LayerNorm(8),
        xn.GELU(),
        xn.Linear(8, 6),
        xn.Sigmoid(),
        xn.Linear(6, 5),
        xn.Softmax(),
        xn.Linear(5, CLASSES),
    ]


class Step:
    """One training step, of which everything is kept."""

    def __init__(
        self,
        backend: Backend,
        make: Callable[[], list[Layer]],
        loss: Loss,
        *,
        rows: int = ROWS,
        targets: bool = False,
        l2: float = 0.0,
        dtype: str = "float64",
    ) -> None:
        x, labels = data(rows)
        target = np.eye(CLASSES)[labels] if targets else labels
        network = Sequential(make(), backend=backend, dtype=dtype, seed=2)
        value, logits = train_step(
            network,
            loss,
            xn.SGD(0.1),
            place(backend, x, dtype),
            place(backend, target, dtype if targets else None),
            penalty=L2Penalty(l2, rows) if l2 else None,
        )
        accuracy = Accuracy(backend)
        accuracy.update(logits, place(backend, labels))
        assert value.shape == ()
        assert logits.shape == (rows, CLASSES)
        assert value.dtype == logits.dtype == np.dtype(dtype)
        self.hits = accuracy.result()
        found = value, logits, network.flat_gradients, network.flat_parameters
        self.value, self.logits, self.gradients, self.values = map(backend.to_host, found)


LOSSES = [
    pytest.param(SoftmaxCrossEntropy, False, 0.0, id="plain"),
    pytest.param(lambda: SoftmaxCrossEntropy(0.1), False, 0.0, id="smoothed"),
    pytest.param(SoftmaxCrossEntropy, False, 3.0, id="L2"),
    pytest.param(MeanSquaredError, True, 0.0, id="squares"),
    pytest.param(xn.SigmoidBinaryCrossEntropy, True, 3.0, id="sigmoid"),
]


@pytest.mark.parametrize(("loss", "targets", "l2"), LOSSES)
@pytest.mark.parametrize("make", [dropout, noise, norm])
@pytest.mark.parametrize("rows", [32, 83, 125])
def test_blocks_give_the_gradient_of_the_whole(
    rows: int,
    make: Callable[[], list[Layer]],
    loss: Callable[[], Loss],
    targets: bool,
    l2: float,
    cut: Callable[[int], None],
    seen: list[int],
    backend: Backend,
    compared: Callable[[str], None],
) -> None:
    cut(NEVER)
    whole = Step(backend, make, loss(), targets=targets, l2=l2)
    assert seen == [ROWS]
    seen.clear()
    cut(rows)
    parts = Step(backend, make, loss(), targets=targets, l2=l2)
    pieces = [len(range(ROWS)[i : i + rows]) for i in range(0, ROWS, rows)]
    assert seen == ([ROWS] if backend.xp.__name__ == "cupy" else pieces)
    for name in ("value", "logits", "gradients", "values"):
        assert error(getattr(parts, name), getattr(whole, name)) <= 1e-14, name
    assert parts.hits == whole.hits
    compared("a batch in blocks")


def test_float32_loses_no_digits_by_blocks(cut: Callable[[int], None], reference: Backend) -> None:
    """Each is as far from float64's gradient as the other."""
    cut(NEVER)
    truth = Step(reference, dropout, SoftmaxCrossEntropy(), rows=2500)
    whole = Step(reference, dropout, SoftmaxCrossEntropy(), rows=2500, dtype="float32")
    cut(100)
    parts = Step(reference, dropout, SoftmaxCrossEntropy(), rows=2500, dtype="float32")
    for step in (whole, parts):
        assert error(step.gradients, truth.gradients) <= 2e-6
        assert error(step.value, truth.value) <= 1e-6


@pytest.mark.parametrize("kind", [xn.Dropout, xn.GaussianNoise])
def test_every_sample_draws_the_same(
    kind: type[Layer],
    cut: Callable[[int], None],
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a layer adds or multiplies belongs to the sample, not to the block; to the bit."""
    drawn: list[np.ndarray] = []
    forward = kind.forward

    def watching(self: Any, x: Array, *, training: bool) -> Array:
        y = forward(self, array_module(x).ones(x.shape, dtype=x.dtype), training=training)
        drawn.append(backend.to_host(y).copy())
        return y

    monkeypatch.setattr(kind, "forward", watching)
    found = []

    def layers() -> list[Layer]:
        return [xn.Linear(FEATURES, CLASSES), kind(0.3)]

    for rows in (NEVER, 32, 100):
        cut(rows)
        drawn.clear()
        for _ in range(2):
            Step(backend, layers, SoftmaxCrossEntropy())
        found.append(np.concatenate(drawn))
    assert len(found[0]) == 2 * ROWS
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_two_blocks_at_least(cut: Callable[[int], None], seen: list[int]) -> None:
    cut(100)
    for rows, expected in ((199, [199]), (200, [100, 100]), (201, [100, 100, 1]), (50, [50])):
        seen.clear()
        Step(Backend("cpu"), dropout, SoftmaxCrossEntropy(), rows=rows)
        assert seen == expected


def test_a_batch_of_2048_is_cut_and_one_of_2047_is_not(seen: list[int]) -> None:
    for rows, expected in ((2047, [2047]), (2048, [1024, 1024])):
        seen.clear()
        Step(Backend("cpu"), dropout, SoftmaxCrossEntropy(), rows=rows)
        assert seen == expected


# What must stay whole


def test_on_a_gpu_a_batch_is_never_cut(
    cut: Callable[[int], None],
    seen: list[int],
    double: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut(32)
    monkeypatch.setattr(double.xp, "__name__", "cupy")
    Step(double, dropout, SoftmaxCrossEntropy())
    assert seen == [ROWS]


def test_a_batch_on_a_gpu_is_never_cut(
    cut: Callable[[int], None], double: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(32)
    network, loss = Sequential(dropout(), backend=double), SoftmaxCrossEntropy()
    assert microbatch.can_split(network, loss, ROWS)
    monkeypatch.setattr(strict_cupy.xp, "__name__", "cupy")
    assert not microbatch.can_split(network, loss, ROWS)


class Centre(Layer):
    """`y = x − mean of the batch`: a layer of one's own, of which nobody knows."""

    def forward(self, x: Array, *, training: bool) -> Array:
        return x - x.mean(axis=0) if training else x

    def backward(self, dy: Array) -> Array:
        return dy - dy.mean(axis=0)


@dataclass(eq=False)
class Asking(Centre):
    """The same, which may be replayed, and says that it looks at other rows."""

    replayable = True
    batch_dependent = True


class Scale(Layer):
    """`y = 3 x`, which may be replayed and looks at no other row."""

    replayable = True

    def forward(self, x: Array, *, training: bool) -> Array:
        return array_module(x).multiply(x, 3.0, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        return array_module(dy).multiply(dy, 3.0, out=self.like(dy, "dx"))


class Sharper(SoftmaxCrossEntropy):
    """A loss of one's own."""


class Centred(Sequential):
    """A network of one's own, which looks at all rows at once."""

    def forward(self, x: Array, *, training: bool = False) -> Array:
        return super().forward(x - x.mean(axis=0) if training else x, training=training)


def wrapped() -> list[Layer]:
    layer = xn.ReLU()
    forward = layer.forward
    layer.forward = lambda x, *, training: forward(x - x.mean(axis=0), training=training)  # type: ignore[method-assign]
    return [xn.Linear(FEATURES, 5), layer, xn.Linear(5, CLASSES)]


def between(make: Callable[[], Layer]) -> Callable[[], list[Layer]]:
    return lambda: [xn.Linear(FEATURES, 5), make(), xn.Linear(5, CLASSES)]


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        pytest.param(between(lambda: xn.BatchNorm(5)), SoftmaxCrossEntropy, id="BatchNorm"),
        pytest.param(between(Centre), SoftmaxCrossEntropy, id="layer"),
        pytest.param(between(Asking), SoftmaxCrossEntropy, id="layer that mixes rows"),
        pytest.param(wrapped, SoftmaxCrossEntropy, id="wrapped method"),
        pytest.param(dropout, Sharper, id="loss"),
    ],
)
def test_what_may_look_at_other_rows_is_never_cut(
    make: Callable[[], list[Layer]],
    loss: Callable[[], Loss],
    cut: Callable[[int], None],
    seen: list[int],
    reference: Backend,
) -> None:
    cut(32)
    Step(reference, make, loss())
    assert seen == [ROWS]
    seen.clear()
    x, labels = data()
    network = Sequential(make(), dtype="float64")
    xn.fit(network, (x, labels), optimizer=xn.SGD(), loss=loss(), epochs=3, batch_size=None)
    assert set(seen) == {ROWS}


def test_a_network_of_ones_own_is_never_cut(
    cut: Callable[[int], None], seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(32)
    monkeypatch.setitem(globals(), "Sequential", Centred)
    Step(Backend("cpu"), dropout, SoftmaxCrossEntropy())
    assert seen == [ROWS]


def test_a_layer_that_says_it_may_be_replayed_is_cut(
    cut: Callable[[int], None], seen: list[int], reference: Backend
) -> None:
    cut(NEVER)
    whole = Step(reference, between(Scale), SoftmaxCrossEntropy())
    cut(100)
    seen.clear()
    parts = Step(reference, between(Scale), SoftmaxCrossEntropy())
    assert seen == [100, 100, 50]
    assert error(parts.gradients, whole.gradients) <= 1e-14


# Cost


def test_a_steady_step_in_blocks_touches_neither_host_nor_allocator(
    cut: Callable[[int], None], double: Backend
) -> None:
    cut(32)
    network = Sequential([*dropout(), xn.LayerNorm(CLASSES)], backend=double)
    x, labels = data()
    x, labels = place(double, x, "float32"), place(double, labels)
    loss, optimizer, penalty = SoftmaxCrossEntropy(0.1), xn.Adam(), L2Penalty(0.1, ROWS)
    for _ in range(2):
        train_step(network, loss, optimizer, x, labels, penalty=penalty)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        for rows in (ROWS, 100, ROWS, 20):
            train_step(network, loss, optimizer, x[:rows], labels[:rows], penalty=penalty)


def test_mini_batches_are_asked_once_and_stay_whole(
    seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(microbatch, "forward_backward")
    x, labels = data()
    xn.fit(Sequential(dropout()), (x, labels), optimizer=xn.SGD(), epochs=2, batch_size=64)
    assert set(seen) == {64, 58}
    assert gradients.microbatch is microbatch
