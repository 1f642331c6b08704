"""Layers and activations: gradients, PyTorch, parity, dtypes, and what each promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
import strict_cupy
import torch
from cases import ROWS, LayerCase, as_written, error, place, tensor
from hypothesis import given
from hypothesis import strategies as st

from xpnet import (
    BatchNorm,
    Dropout,
    Dropout2d,
    GaussianNoise,
    LayerNorm,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    random,
)
from xpnet.backend import Array, Backend
from xpnet.errors import ConfigError, DeviceMismatch, ShapeError
from xpnet.gradcheck import check_network, numerical_gradient, relative_error
from xpnet.initializers import GlorotNormal, Uniform
from xpnet.layers.base import Layer
from xpnet.losses import MeanSquaredError


def mixed(word: int, bits: int, steps: list[tuple[int, int]]) -> int:
    for shift, factor in steps:
        word = (word ^ (word >> shift)) * factor % 2**bits
    return word


def row_word(counter: int) -> int:
    steps = [(30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)]
    return mixed(counter * 0x9E3779B97F4A7C15 % 2**64, 64, steps) >> 32


FIRST, SECOND = 0x7FEB352D, 0x846CA68B


def unit_word(word: int) -> int:
    return mixed(word, 32, [(16, FIRST), (15, SECOND), (16, 1)])


def unmixed(bits: int) -> int:
    """The `word` of which `unit_word` makes `bits`: all of its steps can be undone."""
    word = (bits ^ (bits >> 16)) * pow(SECOND, -1, 2**32) % 2**32
    word = (word ^ (word >> 15) ^ (word >> 30)) * pow(FIRST, -1, 2**32) % 2**32
    return word ^ (word >> 16)


def words(seed: int, purpose: str, first: int, rows: int, units: int) -> np.ndarray:
    """The random bits of a layer that draws, from the formula, in whole numbers."""
    start = random.key(seed, purpose) + first
    keys = random.unit_keys(seed, f"{purpose} units", units).tolist()
    return np.array([[unit_word(row_word(start + r) ^ key) for key in keys] for r in range(rows)])


def normal(seed: int, position: int, first: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise of a `GaussianNoise` of deviation 1, from its formula."""
    rows, features = shape
    bits = words(seed, f"noise {position}", first, rows, -(-features // 2))
    radius = np.sqrt(-2 * np.log(((bits >> 16) + 1) / 65536))
    angle = (bits & 65535) * (2 * np.pi / 65536)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :features]


every_layer = pytest.mark.parametrize("case", **cases.by_id(cases.LAYERS))


class Alone:
    """One layer with random parameters and statistics of its own, outside any network."""

    def __init__(self, case: LayerCase, backend: Backend, dtype: str = "float64") -> None:
        self.backend, self.dtype = backend, dtype
        self.layer: Layer = case.make()
        self.layer.set_seed(3, 1)
        rng = np.random.default_rng(7)
        self.host = {n: rng.standard_normal(p.shape) for n, p in self.layer.parameters().items()}
        self.host |= {n: rng.random(p.shape) + 0.5 for n, p in self.layer.buffers().items()}
        values = {n: self.laid(n, self.host[n]) for n in self.layer.parameters()}
        self.statistics = {n: place(backend, self.host[n], dtype) for n in self.layer.buffers()}
        self.gradients = {n: self.laid(n, np.full_like(self.host[n], 7)) for n in values}
        self.layer.bind(values, self.gradients, self.statistics)

    def laid(self, name: str, array: np.ndarray) -> Array:
        """As the network would lay the parameter `name` in memory."""
        order = self.layer.parameters()[name].order
        if order == "F":
            return place(self.backend, array.T, self.dtype).T
        if isinstance(order, tuple):
            return place(self.backend, array.transpose(order), self.dtype).transpose(
                tuple(np.argsort(order))
            )
        return place(self.backend, array, self.dtype)

    def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        y = self.layer.forward(place(self.backend, x, self.dtype), training=training)
        assert y.dtype == np.dtype(self.dtype)
        return self.backend.to_host(y).copy()

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = self.layer.backward(place(self.backend, dy, self.dtype))
        assert dx.dtype == np.dtype(self.dtype)
        return self.backend.to_host(dx).copy()

    def torch_peer(self, case: LayerCase) -> Callable[[torch.Tensor], torch.Tensor]:
        if isinstance(self.layer, Dropout2d):
            mask = tensor(self.backend.to_host(self.layer.by_channel))
            return lambda x: x * mask
        if isinstance(self.layer, Dropout):
            mask = tensor(self.backend.to_host(self.layer.mask))
            return lambda x: x * mask.reshape(x.shape)
        if isinstance(self.layer, GaussianNoise):
            layer = self.layer

            def noisy(x: torch.Tensor) -> torch.Tensor:
                noise = tensor(normal(3, 1, 0, (len(x), case.features)))
                return x + noise.reshape(x.shape) * layer.std

            return noisy
        peer = case.torch().double()
        peer.load_state_dict({n: tensor(v) for n, v in self.host.items()}, strict=False)
        return peer


def sample(seed: int, *shape: int, scale: float = 1.5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * scale


@every_layer
def test_nothing_depends_on_what_lay_in_the_buffers(case: LayerCase, backend: Backend) -> None:
    found = []
    x, dy = sample(1, ROWS, *case.shape), sample(2, ROWS, *case.out_shape)
    for garbage in (0, 2**31):  # random bits that drop a unit, and that keep it
        alone = Alone(case, backend)
        alone.forward(x)
        alone.backward(dy)
        for (_, name), memory in alone.layer.workspace._memory.items():
            if name not in ("zeros", "ones", "numbers"):
                memory.fill(min(garbage, 2**31 - 1) if memory.dtype == "int32" else garbage)
        found.append((alone.forward(x), alone.backward(dy)))
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second)


@every_layer
@pytest.mark.parametrize("rows", [2, ROWS, 33])
def test_forward_and_backward_agree_with_torch(
    case: LayerCase, rows: int, backend: Backend, compared: Callable[[str], None]
) -> None:
    alone = Alone(case, backend)
    x, dy = sample(1, rows, *case.shape), sample(2, rows, *case.out_shape)
    y, dx = alone.forward(x), alone.backward(dy)
    peer = alone.torch_peer(case)
    tx = tensor(x).requires_grad_()
    ty = peer(tx)
    ty.backward(tensor(dy))
    assert error(y, ty.detach()) <= 1e-13
    assert error(dx, tx.grad) <= 1e-12
    if isinstance(peer, torch.nn.Module):
        for name, parameter in peer.named_parameters():
            assert error(backend.to_host(alone.gradients[name]), parameter.grad) <= 1e-12
        for name, array in alone.statistics.items():
            assert error(backend.to_host(array), peer.state_dict()[name]) <= 1e-13
    compared(f"{case.id}.forward")
    compared(f"{case.id}.backward")


@every_layer
def test_prediction_agrees_with_torch(case: LayerCase, backend: Backend) -> None:
    alone, x = Alone(case, backend), sample(1, ROWS, *case.shape)
    y = alone.forward(x, training=False)
    if case.torch is None:
        assert np.array_equal(y, x)
        return
    peer = case.torch().double()
    peer.load_state_dict({n: tensor(v) for n, v in alone.host.items()}, strict=False)
    peer.eval()
    assert error(y, peer(tensor(x)).detach()) <= 1e-13
    for name, array in alone.statistics.items():
        assert np.array_equal(backend.to_host(array), alone.host[name]), "prediction moved them"


@every_layer
def test_gradients_are_the_derivatives(case: LayerCase, backend: Backend) -> None:
    network = Sequential(
        [*case.among_rows(), Linear(math.prod(case.out_shape), 2)],
        backend=backend,
        dtype="float64",
        seed=11,
    )
    rng = np.random.default_rng(5)
    for array in network.parameters().values():
        array[...] = place(backend, rng.standard_normal(array.shape))
    x, target = place(backend, sample(3, ROWS, case.features)), place(backend, sample(4, ROWS, 2))
    errors = check_network(network, MeanSquaredError(), x, target)
    assert set(errors) == {*network.parameters(), "input"}
    assert max(errors.values()) <= 1e-7, errors


@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept_and_backends_agree(case: LayerCase, dtype: str, backend: Backend) -> None:
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    here, there = Alone(case, backend, dtype), Alone(case, Backend("cpu"), dtype)
    for step in range(3):
        rows = ROWS - step
        x, dy = sample(step, rows, *case.shape), sample(9 + step, rows, *case.out_shape)
        with as_written():
            y, dx = there.forward(x), there.backward(dy)
        assert error(here.forward(x), y) <= tolerance
        assert error(here.backward(dy), dx) <= tolerance
    for name in here.gradients:
        found, wanted = here.gradients[name], there.gradients[name]
        assert found.dtype == np.dtype(dtype)
        assert error(backend.to_host(found), wanted) <= tolerance
    for name in here.statistics:
        assert here.statistics[name].dtype == np.dtype(dtype)


@every_layer
def test_a_steady_step_touches_neither_host_nor_allocator(case: LayerCase, double: Backend) -> None:
    alone = Alone(case, double, "float32")
    x = place(double, sample(1, ROWS, *case.shape), "float32")
    dy = place(double, sample(2, ROWS, *case.out_shape), "float32")
    short_x, short_dy = x[: ROWS - 2], dy[: ROWS - 2]
    for _ in range(2):
        alone.layer.forward(x, training=True)
        alone.layer.backward(dy)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        for batch, gradient in ((x, dy), (short_x, short_dy), (x, dy)):
            alone.layer.forward(batch, training=True)
            alone.layer.backward(gradient)


@every_layer
def test_backward_can_be_repeated(case: LayerCase, backend: Backend) -> None:
    alone = Alone(case, backend)
    alone.forward(sample(1, ROWS, *case.shape))
    dy = sample(2, ROWS, *case.out_shape)
    first = alone.backward(dy)
    kept = {n: backend.to_host(g).copy() for n, g in alone.gradients.items()}
    assert np.array_equal(alone.backward(dy), first)
    for name, gradient in alone.gradients.items():
        assert np.array_equal(backend.to_host(gradient), kept[name]), "gradients accumulated"


def test_linear_by_hand(backend: Backend) -> None:
    network = Sequential([Linear(2, 1)], backend=backend, dtype="float64")
    network.load_state_dict({"0.weight": np.array([[2.0, -1.0]]), "0.bias": np.array([0.5])})
    x = backend.asarray(np.array([[1.0, 3.0], [0.0, 2.0]]))
    y = network.forward(x, training=True)
    assert backend.to_host(y).tolist() == [[-0.5], [-1.5]]
    dx = network.backward(backend.asarray(np.array([[1.0], [10.0]])), input_gradient=True)
    assert backend.to_host(dx).tolist() == [[2.0, -1.0], [20.0, -10.0]]
    gradients = network.parameter_gradients()
    assert backend.to_host(gradients["0.weight"]).tolist() == [[1.0, 23.0]]
    assert backend.to_host(gradients["0.bias"]).tolist() == [11.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case", **cases.by_id([c for c in cases.LAYERS if not c.id.startswith("Dropout")])
)
def test_nothing_overflows_at_extreme_inputs(case: LayerCase, dtype: str, backend: Backend) -> None:
    alone = Alone(case, backend, dtype)
    x = np.array([[1e4, -1e4, 0.0, 88.0, -104.0], [-1e4, 1e4, 745.0, -745.0, 1.0]])
    x = np.resize(x, (2, *case.shape))
    assert np.isfinite(alone.forward(x)).all()
    assert np.isfinite(alone.backward(np.ones((2, *case.out_shape)))).all()


def test_sigmoid_keeps_its_digits_far_out(backend: Backend) -> None:
    y = Alone(next(c for c in cases.LAYERS if c.id == "Sigmoid"), backend).forward(
        np.array([[-30.0, -700.0, 40.0]])
    )
    assert y[0, 0] == pytest.approx(9.357622968840175e-14, rel=1e-14)
    assert y[0, 1] == pytest.approx(9.85967654375977e-305, rel=1e-13)
    assert y[0, 2] == 1.0


def test_relu_is_flat_at_its_kink_and_below(backend: Backend) -> None:
    alone = Alone(next(c for c in cases.LAYERS if c.id == "ReLU"), backend)
    assert alone.forward(np.array([[-1.0, 0.0, 2.0]])).tolist() == [[0, 0, 2]]
    assert alone.backward(np.array([[5.0, 5.0, 5.0]])).tolist() == [[0, 0, 5]]


def test_leaky_relu_has_its_slope_at_its_kink_and_below(backend: Backend) -> None:
    alone = Alone(next(c for c in cases.LAYERS if c.id == "LeakyReLU"), backend)
    assert alone.forward(np.array([[-1.0, 0.0, 2.0]])).tolist() == [[-0.2, 0, 2]]
    assert alone.backward(np.array([[5.0, 5.0, 5.0]])).tolist() == [[1, 1, 5]]


def masks(layer: Dropout, backend: Backend, rows: int, features: int = 64) -> np.ndarray:
    ones = place(backend, np.ones((rows, features)), "float32")
    return backend.to_host(layer.forward(ones, training=True)).copy()


def seeded(rate: float = 0.25, seed: int = 0, position: int = 0) -> Dropout:
    layer = Dropout(rate)
    layer.set_seed(seed, position)
    return layer


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate: float, backend: Backend) -> None:
    y = masks(seeded(rate), backend, 400, 250)
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / y.size) ** 0.5
    assert np.unique(y[y != 0]).tolist() == [np.float32(1 / (1 - rate))]
    for counts in ((y == 0).mean(axis=0), (y == 0).mean(axis=1)):
        assert (
            abs(counts.std() * (y.size / counts.size) ** 0.5 / (rate * (1 - rate)) ** 0.5 - 1) < 0.2
        )


def test_dropout_masks_follow_the_sample_not_the_batch(backend: Backend) -> None:
    whole = masks(seeded(), backend, 12)
    parts = seeded()
    cut = [masks(parts, backend, rows) for rows in (5, 1, 6)]
    assert np.array_equal(np.concatenate(cut), whole)
    parts.set_sample_counter(5)
    assert np.array_equal(masks(parts, backend, 7), whole[5:])


@pytest.mark.parametrize("make", [lambda: Dropout(0.25), lambda: GaussianNoise(0.5)])
def test_a_part_of_a_batch_has_the_random_numbers_of_its_samples(
    make: Callable[[], Any], backend: Backend
) -> None:
    ones = place(backend, np.ones((12, 8)), "float32")

    def drawn(layer: Any, rows: slice) -> np.ndarray:
        return backend.to_host(layer.forward(ones[rows], training=True)).copy()

    layer, part, after = make(), make(), make()
    layer.set_seed(3, 1)
    part._begin_part(layer, 5, backend)
    rest = drawn(part, slice(5, 12))
    whole = drawn(layer, slice(0, 12))
    assert np.array_equal(rest, whole[5:])
    after.set_seed(3, 1)
    after._skip_samples(5, backend)
    assert np.array_equal(drawn(after, slice(5, 12)), whole[5:])


def test_multiply_adds_of_layers_within_a_layer_are_added(backend: Backend) -> None:
    block = Residual(Linear(3, 5), Linear(5, 3))
    Sequential([block], backend=backend)
    assert block.multiply_adds((3,)) == 3 * 5 + 5 * 3


def test_dropout_masks_are_the_same_on_every_backend(backend: Backend, reference: Backend) -> None:
    with as_written():
        expected = masks(seeded(), reference, 50)
    assert np.array_equal(masks(seeded(), backend, 50), expected)


def test_dropout_masks_differ_by_seed_layer_sample_and_unit(backend: Backend) -> None:
    base = masks(seeded(0.5), backend, 64) != 0
    for other in (
        masks(seeded(0.5, seed=1), backend, 64),
        masks(seeded(0.5, position=2), backend, 64),
    ):
        assert 0.45 < (base == (other != 0)).mean() < 0.55
    agreement = (base[1:] == base[:-1]).mean(), (base[:, 1:] == base[:, :-1]).mean()
    assert all(0.45 < share < 0.55 for share in agreement)


def test_dropout_at_its_ends(backend: Backend) -> None:
    assert (masks(seeded(0.0), backend, 9) == 1).all()
    assert (masks(seeded(1 - 1e-12), backend, 9) == 0).all()


@pytest.mark.parametrize(("rate", "first"), [(0.25, 2**30), (1 - 1e-12, 2**32 - 1)])
def test_dropout_keeps_what_lies_at_its_rate_or_above(
    rate: float, first: int, backend: Backend
) -> None:
    layer, x = seeded(rate), place(backend, np.ones((1, 4)))
    layer._place(x, 4)
    # What draws these very bits for the first sample.
    bits, row = [0, first - 1, first, 2**32 - 1], row_word(random.key(0, "dropout 0"))
    layer._units = place(backend, [unmixed(b) ^ row for b in bits], "uint32")
    y = layer.forward(x, training=True)
    assert (backend.to_host(y) != 0).tolist() == [[False, False, True, True]]


def test_dropout_masks_are_those_of_the_formula_in_whole_numbers(backend: Backend) -> None:
    drawn = words(5, "dropout 2", 40, 8, 6)
    layer = seeded(0.25, seed=5, position=2)
    layer.set_sample_counter(40)
    assert ((masks(layer, backend, 8, 6) != 0) == (drawn >= 2**30)).all()


def test_dropout_counts_samples_in_a_circle(backend: Backend) -> None:
    layer = seeded()
    start = masks(layer, backend, 7)
    layer.set_sample_counter(2**64)
    assert np.array_equal(masks(layer, backend, 7), start)


@pytest.mark.parametrize("features", [1, 2, 7])
def test_noise_is_that_of_its_formula_however_batches_are_cut(
    features: int, backend: Backend
) -> None:
    layer = GaussianNoise(0.5)
    layer.set_seed(5, 2)
    layer.set_sample_counter(40)
    x = sample(1, 9, features)
    cut = [layer.forward(place(backend, part), training=True).copy() for part in (x[:4], x[4:])]
    y = np.concatenate([backend.to_host(part) for part in cut])
    assert error(y, x + 0.5 * normal(5, 2, 40, x.shape)) <= 1e-14


def test_noise_is_normal_and_independent(backend: Backend) -> None:
    layer = GaussianNoise(1.0)
    x = place(backend, np.zeros((500, 200)), "float32")
    n = backend.to_host(layer.forward(x, training=True)).astype(np.float64)
    assert abs(n.mean()) < 4 / n.size**0.5
    assert abs(n.var() - 1) < 4 * (2 / n.size) ** 0.5
    assert abs((n**3).mean()) < 4 * (15 / n.size) ** 0.5
    assert abs((n**4).mean() - 3) < 4 * (96 / n.size) ** 0.5
    for a, b in ((n[1:], n[:-1]), (n[:, 1:], n[:, :-1]), (n[:, :100], n[:, 100:])):
        assert abs((a * b).mean()) < 4 / a.size**0.5
        assert abs((a**2 * b**2).mean() - 1) < 4 * (8 / a.size) ** 0.5


def test_batch_norm_refuses_a_batch_of_one(backend: Backend) -> None:
    network = Sequential([BatchNorm(3)], backend=backend)
    one = place(backend, np.ones((1, 3)), "float32")
    with pytest.raises(ConfigError, match="batch of 1 row"):
        network.forward(one, training=True)
    assert network.forward(one).shape == (1, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear(0, 3), "in_features of Linear"),
        (lambda: Linear(3, 2.5), "out_features of Linear"),
        (lambda: Linear(3, True), "out_features of Linear"),
        (lambda: Dropout(1.0), "rate of Dropout"),
        (lambda: Dropout(-0.1), "rate of Dropout"),
        (lambda: Dropout(float("nan")), "rate of Dropout"),
        (lambda: GaussianNoise(-0.1), "std of GaussianNoise"),
        (lambda: GaussianNoise(float("inf")), "std of GaussianNoise"),
        (lambda: GaussianNoise(float("nan")), "std of GaussianNoise"),
        (lambda: BatchNorm(0), "features of BatchNorm"),
        (lambda: BatchNorm(3, momentum=0.0), "momentum of BatchNorm"),
        (lambda: BatchNorm(3, epsilon=0.0), "epsilon of BatchNorm"),
        (lambda: LayerNorm(-1), "features of LayerNorm"),
        (lambda: LayerNorm(3, epsilon=-1.0), "epsilon of LayerNorm"),
        (lambda: cases.activations.LeakyReLU(1.0), "slope of LeakyReLU"),
        (lambda: Uniform(0.0), "bound"),
    ],
)
def test_hyperparameters_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_layer_on_arrays_of_two_backends_names_both(double: Backend) -> None:
    network = Sequential([Linear(2, 2), Sigmoid()], backend=double)
    with pytest.raises(DeviceMismatch, match=r"numpy.*strict_cupy|strict_cupy.*numpy"):
        network.layers[0].forward(np.ones((1, 2), np.float32), training=False)
    with pytest.raises(DeviceMismatch, match="numpy"):
        network.forward(np.ones((1, 2), np.float32), training=True)


def test_a_layer_that_does_not_fit_names_both_sizes() -> None:
    with pytest.raises(
        ShapeError, match=r"layer 2: Linear\(5, 2\) takes 5 features and is given 4"
    ):
        Sequential([Linear(3, 4), ReLU(), Linear(5, 2)])


def test_the_bases_refuse_to_compute() -> None:
    layer = Layer()
    with pytest.raises(NotImplementedError, match="no forward"):
        layer.forward(np.ones((1, 1)), training=True)
    with pytest.raises(NotImplementedError, match="no backward"):
        layer.backward(np.ones((1, 1)))


@given(rows=st.integers(1, 7), width=st.integers(1, 9), out=st.integers(1, 5))
def test_linear_of_any_shape_agrees_with_numpy(
    rows: int, width: int, out: int, backend: Backend
) -> None:
    network = Sequential([Linear(width, out, GlorotNormal(), Uniform())], backend=backend)
    x = sample(rows, rows, width).astype(np.float32)
    weight, bias = (backend.to_host(v) for v in network.parameters().values())
    assert error(backend.to_host(network.forward(place(backend, x))), x @ weight.T + bias) <= 1e-6


def test_the_gradient_checker_finds_a_wrong_gradient(reference: Backend) -> None:
    class Wrong(ReLU):
        def backward(self, dy: Any) -> Any:
            return super().backward(dy) * 1.001

    network = Sequential([Linear(3, 3), Wrong(), Linear(3, 1)], dtype="float64")
    errors = check_network(network, MeanSquaredError(), sample(0, 4, 3), sample(1, 4, 1))
    assert errors["2.weight"] <= 1e-7 < 1e-4 < errors["0.weight"]
    with pytest.raises(ConfigError, match="float64"):
        numerical_gradient(lambda: 0.0, np.ones(2, np.float32))
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0
