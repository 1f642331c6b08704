"""`Sequential`: the store, whole networks against PyTorch, prediction, copies, bad input."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy
import torch
from cases import as_written, error, place, tensor

import xpnet as xn
from xpnet import (
    GELU,
    BatchNorm,
    Dropout,
    GaussianNoise,
    LayerNorm,
    LeakyReLU,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)
from xpnet.backend import Backend
from xpnet.errors import CheckpointError, ConfigError, DataError, ShapeError
from xpnet.gradcheck import check_network, numerical_gradient
from xpnet.initializers import GlorotNormal, HeNormal, Ones, Uniform
from xpnet.layers.base import Layer, Parameter
from xpnet.losses import L2Penalty, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.training import train_step


def mixed(backend: Backend | str = "cpu", dtype: str = "float64", **options: Any) -> Sequential:
    layers = [
        Linear(12, 9),
        ReLU(),
        BatchNorm(9),
        Linear(9, 8, GlorotNormal()),
        LayerNorm(8),
        Tanh(),
        Linear(8, 7),
        LeakyReLU(0.1),
        Linear(7, 6),
        Sigmoid(),
        Linear(6, 5),
        GELU(),
        Linear(5, 4),
    ]
    return Sequential(layers, backend=backend, dtype=dtype, **options)


def torch_mixed() -> torch.nn.Sequential:
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(12, 9),
        nn.ReLU(),
        nn.BatchNorm1d(9),
        nn.Linear(9, 8),
        nn.LayerNorm(8),
        nn.Tanh(),
        nn.Linear(8, 7),
        nn.LeakyReLU(0.1),
        nn.Linear(7, 6),
        nn.Sigmoid(),
        nn.Linear(6, 5),
        nn.GELU(approximate="tanh"),
        nn.Linear(5, 4),
    ).double()


def batch(step: int, rows: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    return rng.standard_normal((rows, 12)), rng.integers(0, 4, rows)


PAIRS = [
    pytest.param(
        lambda: xn.SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, 0.9), id="SGD"
    ),
    pytest.param(lambda: xn.RMSprop(1e-3), lambda p: torch.optim.RMSprop(p, 1e-3), id="RMSprop"),
    pytest.param(lambda: xn.Adam(1e-2), lambda p: torch.optim.Adam(p, 1e-2), id="Adam"),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_trained_network_agrees_with_torch(
    ours: Callable[[], Any],
    theirs: Callable[..., Any],
    backend: Backend,
    compared: Callable[[str], None],
    request: pytest.FixtureRequest,
) -> None:
    network, peer = mixed(backend, seed=4), torch_mixed()
    peer.load_state_dict(
        {n: tensor(backend.to_host(v)) for n, v in network.state_dict().items()}, strict=False
    )
    optimizer, peer_optimizer = ours(), theirs(peer.parameters())
    loss, criterion = SoftmaxCrossEntropy(), torch.nn.CrossEntropyLoss()
    penalty = L2Penalty(0.5, samples=100)
    for step in range(30):
        x, labels = batch(step, rows=16 if step % 3 else 11)
        value, _ = train_step(
            network, loss, optimizer, place(backend, x), place(backend, labels), penalty=penalty
        )
        peer_optimizer.zero_grad()
        expected = criterion(peer(tensor(x)), tensor(labels))
        weights = [p for n, p in peer.named_parameters() if p.ndim == 2]
        expected = expected + 0.5 / 200 * sum((w**2).sum() for w in weights)
        expected.backward()
        peer_optimizer.step()
        assert error(backend.to_host(value), expected.detach()) <= 1e-10
    for name, value in network.state_dict().items():
        assert error(backend.to_host(value), peer.state_dict()[name]) <= 1e-9, name
    x, _ = batch(99)
    peer.eval()
    assert (
        error(backend.to_host(network.forward(place(backend, x))), peer(tensor(x)).detach()) <= 1e-9
    )
    compared(f"network trained 30 steps by {request.node.callspec.id.split('-')[-1]}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_is_the_same_on_all_backends(
    dtype: str, backend: Backend, compared: Callable[[str], None]
) -> None:
    def trained(where: Backend) -> Sequential:
        layers = [
            Linear(12, 9),
            ReLU(),
            Dropout(0.3),
            Linear(9, 6),
            Tanh(),
            Dropout(0.2),
            Linear(6, 4),
        ]
        network = Sequential(layers, backend=where, dtype=dtype, seed=2)
        loss, optimizer = SoftmaxCrossEntropy(), xn.Adam(5e-3)
        for step in range(25):
            x, labels = batch(step)
            train_step(network, loss, optimizer, place(where, x, dtype), place(where, labels))
        assert network.flat_parameters.dtype == network.flat_gradients.dtype == np.dtype(dtype)
        return network

    with as_written():
        there = trained(Backend("cpu"))
    here = trained(backend)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    assert error(backend.to_host(here.flat_parameters), there.flat_parameters) <= tolerance
    compared(f"network with dropout trained 25 steps in {dtype}")


def test_gradients_of_a_whole_network(backend: Backend) -> None:
    layers = [Linear(12, 7), LayerNorm(7), Tanh(), Dropout(0.3), Linear(7, 5), GELU(), Linear(5, 4)]
    network = Sequential(layers, backend=backend, dtype="float64", seed=1)
    x, labels = batch(0)
    errors = check_network(
        network, SoftmaxCrossEntropy(), place(backend, x), place(backend, labels)
    )
    assert max(errors.values()) <= 1e-7, errors


def test_a_steady_training_step_touches_neither_host_nor_allocator(double: Backend) -> None:
    layers = [Linear(12, 9), BatchNorm(9), ReLU(), Dropout(0.3), Linear(9, 4)]
    network = Sequential(layers, backend=double, dtype="float32")
    x, labels = batch(0)
    x, labels = place(double, x, "float32"), place(double, labels)
    loss, optimizer, penalty = SoftmaxCrossEntropy(), xn.Adam(), L2Penalty(0.1, 16)
    for _ in range(2):
        train_step(network, loss, optimizer, x, labels, penalty=penalty)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        for rows in (16, 5, 16):
            train_step(network, loss, optimizer, x[:rows], labels[:rows], penalty=penalty)


def test_the_store_is_one_aligned_array_with_matrices_first(backend: Backend) -> None:
    network = mixed(backend, dtype="float32")
    values = backend.to_host(network.flat_parameters)
    matrices = [v for v in network.parameters().values() if v.ndim == 2]
    assert network.decay_size == sum(v.size for v in matrices)
    total = sum(v.size for v in network.parameters().values())
    assert network.flat_parameters.shape == network.flat_gradients.shape == (total,)
    expected = np.concatenate([backend.to_host(v.T).ravel() for v in matrices])
    assert np.array_equal(values[: network.decay_size], expected)
    if backend.device == "cpu":
        assert (
            network.flat_parameters.ctypes.data % 64 == network.flat_gradients.ctypes.data % 64 == 0
        )
    network.flat_parameters.fill(3)
    assert all((backend.to_host(v) == 3).all() for v in network.parameters().values())
    assert backend.to_host(network.flat_buffers).sum() == 9.0, "means begin at 0, variances at 1"


def test_parameters_are_views_whatever_their_order_in_memory(backend: Backend) -> None:
    network = Sequential([Linear(3, 2), ReLU(), Linear(2, 4)], backend=backend, dtype="float64")
    weight = network.parameters()["0.weight"]
    assert weight.shape == (2, 3)
    weight[...] = place(backend, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert backend.to_host(network.flat_parameters)[:6].tolist() == [1, 4, 2, 5, 3, 6]
    weight[1:2, 2:3] = place(backend, [[60.0]])
    network.parameters()["0.bias"][...] = place(backend, [0.5, -0.5])
    x = place(backend, [[1.0, 10.0, 100.0]])
    y = network.layers[0].forward(x, training=False)
    assert backend.to_host(y).tolist() == [[321.5, 6053.5]]
    assert backend.to_host(network.state_dict()["0.weight"]).tolist() == [[1, 2, 3], [4, 5, 60]]
    network.flat_parameters.fill(2)
    assert backend.to_host(weight).tolist() == [[2, 2, 2], [2, 2, 2]]


def test_gradients_are_views_in_the_order_of_the_values(backend: Backend) -> None:
    network = Sequential([Linear(3, 2), Linear(2, 4)], backend=backend, dtype="float64")
    x, labels = place(backend, batch(0)[0][:, :3]), place(backend, batch(0)[1])
    loss = SoftmaxCrossEntropy()
    loss.forward(network.forward(x, training=True), labels)
    network.backward(loss.backward())
    gradients = network.parameter_gradients()
    for name, parameter in network.parameters().items():
        assert gradients[name].shape == parameter.shape
        assert gradients[name].strides == parameter.strides
    flat = [backend.to_host(gradients[name].T).ravel() for name in ("0.weight", "1.weight")]
    flat += [backend.to_host(gradients[name]) for name in ("0.bias", "1.bias")]
    assert np.array_equal(backend.to_host(network.flat_gradients), np.concatenate(flat))


def test_a_layer_of_ones_own_chooses_the_order_of_its_parameters(backend: Backend) -> None:
    class Own(Layer):
        def parameters(self) -> dict[str, Parameter]:
            kept = {"rows": Parameter((2, 3), Ones()), "columns": Parameter((2, 3), Ones(), True)}
            return kept | {
                "columns": dataclasses.replace(kept["columns"], order="F"),
                "cube": Parameter((2, 3, 4), Ones(), order="F"),
                "plain": Parameter((2, 3, 4), Ones()),
            }

    network = Sequential([Linear(3, 2), Own()], backend=backend)
    views = {name.removeprefix("1."): view for name, view in network.parameters().items()}
    assert [views[n].flags.c_contiguous for n in ("rows", "plain")] == [True, True]
    assert [views[n].flags.f_contiguous for n in ("columns", "cube")] == [True, True]
    assert [views[n].shape for n in ("columns", "cube")] == [(2, 3), (2, 3, 4)]
    assert network.decay_size == 6 + 6


@pytest.mark.parametrize(
    "lay",
    [
        lambda a: a,
        lambda a: a.T.copy().T,
        lambda a: a.repeat(2, axis=1)[:, ::2],
        lambda a: a[0],
        lambda a: a.reshape(2, 1, 3).transpose((2, 1, 0)),
    ],
    ids=["rows", "columns", "apart", "vector", "cube"],
)
def test_numerical_gradients_reach_every_entry_in_any_order(
    lay: Callable[[Any], Any], backend: Backend
) -> None:
    array = lay(place(backend, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    before = backend.to_host(array).copy()

    def value() -> float:
        host = backend.to_host(array)
        return float((host**2 * np.arange(1.0, host.size + 1).reshape(host.shape)).sum())

    found = backend.to_host(numerical_gradient(value, array))
    assert np.array_equal(backend.to_host(array), before)
    expected = 2 * before * np.arange(1.0, before.size + 1).reshape(before.shape)
    assert found.shape == before.shape
    assert error(found, expected) <= 1e-9


def test_gradients_of_weights_that_are_not_square(backend: Backend) -> None:
    network = Sequential([Linear(5, 2), Linear(2, 3)], backend=backend, dtype="float64")
    assert network.parameters()["0.weight"].flags.f_contiguous
    x, target = batch(0)[0][:, :5], batch(1)[0][:, :3]
    errors = check_network(network, MeanSquaredError(), place(backend, x), place(backend, target))
    assert set(errors) == {"0.weight", "0.bias", "1.weight", "1.bias", "input"}
    assert max(errors.values()) <= 1e-7, errors


def test_names_and_shapes_are_those_of_torch() -> None:
    ours = {n: v.shape for n, v in mixed().state_dict().items()}
    theirs = {n: tuple(v.shape) for n, v in torch_mixed().state_dict().items()}
    assert ours == {n: s for n, s in theirs.items() if not n.endswith("num_batches_tracked")}


def test_prediction_gives_arrays_of_its_own_in_blocks(backend: Backend) -> None:
    network = mixed(backend)
    x = place(backend, np.random.default_rng(0).standard_normal((2500, 12)))
    first = network.forward(x)
    kept = backend.to_host(first).copy()
    network.forward(place(backend, np.zeros((2500, 12))))
    assert np.array_equal(backend.to_host(first), kept)
    one_by_one = np.concatenate(
        [backend.to_host(network.forward(x[i : i + 1])) for i in (0, 1500, 2499)]
    )
    assert error(one_by_one, kept[[0, 1500, 2499]]) <= 1e-13
    assert np.array_equal(backend.to_host(network.predict(x)), kept.argmax(axis=1))
    p = backend.to_host(network.predict_proba(x))
    assert error(p, torch.softmax(tensor(kept), dim=1)) <= 1e-13


def test_other_dtypes_are_converted(backend: Backend) -> None:
    network = mixed(backend, dtype="float32")
    x = np.random.default_rng(0).integers(0, 9, (3, 12))
    expected = backend.to_host(network.forward(place(backend, x, "float32")))
    for dtype in ("uint8", "float64", "int64"):
        logits = network.forward(place(backend, x, dtype))
        assert logits.dtype == np.float32
        assert np.array_equal(backend.to_host(logits), expected)


def test_no_gradient_goes_further_back_than_needed(reference: Backend) -> None:
    network = Sequential([Dropout(0.5), Linear(3, 3), ReLU(), Linear(3, 2)])

    def refuse(dy: Any) -> Any:
        raise AssertionError("dx of the first trainable layer was worked out")

    network.layers[0].backward = network.layers[1].backward = refuse  # type: ignore[method-assign]
    network.forward(np.ones((2, 3), np.float32), training=True)
    assert network.backward(np.ones((2, 2), np.float32)) is None
    with pytest.raises(AssertionError, match="was worked out"):
        network.backward(np.ones((2, 2), np.float32), input_gradient=True)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_whole_and_independent(duplicate: Callable[[Any], Any]) -> None:
    network = mixed(seed=3)
    network.metadata = {"classes": ["a"]}
    x, labels = batch(0)
    train_step(network, SoftmaxCrossEntropy(), xn.SGD(0.1), x, labels)
    copied = duplicate(network)
    assert np.array_equal(copied.forward(x), network.forward(x))
    assert copied.metadata == network.metadata
    before = network.flat_parameters.copy()
    train_step(copied, SoftmaxCrossEntropy(), xn.SGD(0.1), x, labels)
    assert np.array_equal(network.flat_parameters, before)
    assert not np.array_equal(copied.parameters()["0.weight"], network.parameters()["0.weight"])


def test_summary_counts_parameters() -> None:
    text = Sequential([Linear(784, 128), ReLU(), Dropout(0.25), Linear(128, 10)]).summary()
    assert "Linear(784, 128)" in text
    assert "100,480" in text
    assert "Dropout(0.25)" in text
    assert text.splitlines()[-1].split()[-2:] == ["101,770", "101,632"]


def test_summary_counts_multiply_adds() -> None:
    inside = xn.Residual(xn.Conv2d(16, 3, padding=1, groups=4), ReLU())
    network = Sequential((28, 28), xn.Conv2d(16, 5), xn.MaxPool2d(2), inside, xn.Flatten(), 10)
    rows = [line.split()[-1] for line in network.summary().splitlines()]
    first, block, last = 24 * 24 * 25 * 16, 12 * 12 * 9 * 4 * 16, 12 * 12 * 16 * 10
    expected = [0, first, 0, block, 0, last]  # Unflatten first
    assert rows[2:-2] == [f"{count:,}" for count in expected]
    assert rows[-1] == f"{first + block + last:,}"
    outer = Sequential([network.copy(), ReLU(), Linear(10, 2)])
    assert outer.summary().split()[-1] == f"{first + block + last + 20:,}"


def test_a_network_without_parameters_in_front(backend: Backend) -> None:
    network = Sequential([ReLU(), Linear(3, 2), Sigmoid()], backend=backend, dtype="float64")
    assert (network.in_features, network.out_features) == (3, 2)
    x, target = place(backend, batch(0)[0][:, :3]), place(backend, np.ones((16, 2)))
    assert max(check_network(network, MeanSquaredError(), x, target).values()) <= 1e-7


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Sequential([]), ConfigError, "at least one layer"),
        (lambda: Sequential([ReLU()]), ConfigError, "says how many features"),
        (lambda: Sequential([ReLU(), Linear(2, 2)] * 2), ConfigError, "same layer object twice"),
        (lambda: mixed(dtype="float16"), ConfigError, "float32 or float64, found 'float16'"),
        (lambda: mixed("gpu"), ConfigError, "unknown device 'gpu'"),
        (
            lambda: Sequential([Linear(2, 3), BatchNorm(4)]),
            ShapeError,
            "takes 4 features and is given 3",
        ),
        (lambda: Sequential([Linear(2, 3), LayerNorm(4)]), ShapeError, "layer 1: LayerNorm"),
        (lambda: mixed().forward(np.ones((3, 11))), ShapeError, r"\(N, 12\), found \(3, 11\)"),
        (lambda: mixed().forward(np.ones(12)), ShapeError, r"found \(12,\)"),
        (lambda: mixed().forward([[1.0] * 11]), ShapeError, r"\(N, 12\), found \(1, 11\)"),
        (lambda: mixed().forward([["a"] * 12]), DataError, r"x\[0, 0\] is the text 'a'"),
        (lambda: Sequential.from_architecture([{"type": "Conv"}]), CheckpointError, "layer 0"),
        (lambda: Sequential.from_architecture([{"type": "Layer"}]), CheckpointError, "layer 0"),
        (
            lambda: Sequential.from_architecture([{"type": "_Normalising", "features": 3}]),
            CheckpointError,
            "layer 0",
        ),
        (
            lambda: Sequential.from_architecture([{"type": "Linear", "in_features": 2}]),
            CheckpointError,
            "layer 0",
        ),
        (lambda: mixed().load_state_dict({}), CheckpointError, "missing .*0.bias"),
        (
            lambda: mixed().load_state_dict(mixed().state_dict() | {"0.bias": np.ones(3)}),
            CheckpointError,
            r"0.bias has shape \(3,\), this network's is \(9,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    make: Callable[[], Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        make()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    network = mixed()
    before = network.flat_parameters.copy()
    state = {n: np.zeros(v.shape) for n, v in network.state_dict().items()}
    with pytest.raises(CheckpointError):
        network.load_state_dict(state | {"12.weight": np.ones((2, 2))})
    assert np.array_equal(network.flat_parameters, before)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("utf-8", "─"), ("ascii", "-"), ("cp1252", "-"), (None, "-"), ("no", "-")],
)
def test_the_summary_can_be_printed_in_any_encoding(
    encoding: str | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", types.SimpleNamespace(encoding=encoding))
    text = Sequential(4, 3, "relu", 2).summary()
    assert text.splitlines()[1] == line * len(text.splitlines()[0])
    assert line == "─" or text.isascii()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianNoise(1e308), r"std of GaussianNoise must be a number in \[0, 1e\+19\)"),
        (lambda: Uniform(1e308), r"bound of Uniform must be a number in \(0, 3e\+38\)"),
        (lambda: Dropout("0.5"), r"rate of Dropout must be a number in \[0, 1\), found '0.5'"),
        (
            lambda: Linear("4", 3),
            r"in_features of Linear must be a whole number above 0, found '4'",
        ),
        (lambda: Linear(4, 3, "he_normal"), r"weight_initializer of Linear must be an initializer"),
        (lambda: Linear(4, 3, HeNormal), r"weight_initializer of Linear .* found <class"),
        (lambda: BatchNorm(4, momentum="x"), r"momentum of BatchNorm must be a number"),
        (lambda: LayerNorm(4, epsilon=None), r"epsilon of LayerNorm must be a number"),
        (lambda: Sequential(4, 3, backend=3), r"backend must be a name such as 'cpu', found 3"),
        (lambda: Sequential(4, 3, backend=Backend), r"backend must be a name such as 'cpu'"),
        (lambda: Sequential(4, 3, dtype="int8"), r"dtype must be float32 or float64, found 'int8'"),
        (lambda: Sequential(4, 3, seed="0"), r"seed of Sequential must be a whole number"),
    ],
)
def test_arguments_of_another_kind_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
