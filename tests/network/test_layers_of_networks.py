"""Which network a layer belongs to: copies, slices, `append`, transfer learning."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import place

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import ConfigError, ShapeError

X = np.random.default_rng(0).standard_normal((30, 6))


def trained(backend: Backend | str = "cpu", **options: Any) -> xn.Sequential:
    layers = [xn.Linear(6, 8), xn.BatchNorm(8), xn.ReLU(), xn.Dropout(0.3), xn.Linear(8, 3)]
    network = xn.Sequential(layers, backend=backend, seed=5, **options)
    data = xn.DeviceData(X, np.arange(30) % 3, backend=network.backend, dtype=str(network.dtype))
    xn.fit(network, data, optimizer=xn.Adam(0.01), epochs=3, batch_size=10)
    return network


def values(network: xn.Sequential) -> dict[str, bytes]:
    to_host = network.backend.to_host
    return {name: to_host(array).tobytes() for name, array in network.state_dict().items()}


def test_layers_cannot_be_changed_behind_the_networks_back() -> None:
    network = trained()
    assert isinstance(network.layers, tuple)
    with pytest.raises(AttributeError):
        network.layers = []  # type: ignore[misc]
    assert list(network) == list(network.layers)
    assert len(network) == 5
    assert network[0] is network.layers[0]
    assert network[-1] is network.layers[4]


@pytest.mark.parametrize(
    "taken",
    [
        lambda layers: layers,
        lambda layers: [*layers[:-1], xn.Linear(8, 5)],
        lambda layers: [xn.Linear(6, 6), layers[0]],
    ],
)
def test_a_layer_of_another_network_is_refused_and_that_one_stays(
    taken: Callable[[Any], Any],
) -> None:
    network = trained()
    before = values(network)
    with pytest.raises(
        ConfigError, match=r"Linear.6, 8. belongs to another network: give layer.copy"
    ):
        xn.Sequential(taken(network.layers), seed=9)
    assert values(network) == before
    network.forward(X)


def test_a_network_that_cannot_be_made_leaves_its_layers_free() -> None:
    layers = [xn.Linear(6, 8), xn.Linear(7, 3)]
    with pytest.raises(ShapeError):
        xn.Sequential(layers)
    assert xn.Sequential(layers[:1]).out_features == 8


@pytest.mark.parametrize(
    "copied",
    [xn.Linear.copy, copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "copy.copy", "deepcopy", "pickle"],
)
def test_a_copy_begins_with_the_values_of_now(copied: Callable[[Any], Any]) -> None:
    network = trained()
    other = xn.Sequential([*map(copied, network.layers[:-1]), xn.Linear(8, 5)], seed=7)
    kept = {n: v for n, v in values(network).items() if n[0] != "4"}
    assert {n: v for n, v in values(other).items() if n[0] != "4"} == kept
    fresh = xn.Sequential(6, 8, xn.BatchNorm(8), "relu", xn.Dropout(0.3), 5, seed=7)
    assert values(other)["4.weight"] == values(fresh)["4.weight"]
    other.flat_parameters *= 2
    assert {n: v for n, v in values(network).items() if n[0] != "4"} == kept


def test_a_copy_goes_to_another_device_and_dtype(backend: Backend) -> None:
    network = trained(backend)
    other = xn.Sequential([layer.copy() for layer in network], dtype="float64")
    x = place(backend, X, "float32")
    assert np.allclose(other.forward(X), backend.to_host(network.forward(x)), atol=1e-5)
    back = xn.Sequential([layer.copy() for layer in other], backend=backend)
    assert values(back) == values(network)


def test_a_copy_of_a_layer_without_values_draws_its_own() -> None:
    one, other = xn.Linear(4, 3), xn.Linear(4, 3).copy()
    assert values(xn.Sequential([one], seed=3)) == values(xn.Sequential([other], seed=3))


@pytest.mark.parametrize("part", [slice(None, -1), slice(2), slice(None), slice(0, 3)])
def test_a_slice_is_a_network_of_copies(part: slice, backend: Backend) -> None:
    network = trained(backend, dtype="float64")
    network.metadata = {"classes": ["a", "b", "c"], "image_shape": [2, 3]}
    cut, x = network[part], place(backend, X)
    expected = network.layers[0].forward(x, training=False).copy()
    for layer in network.layers[part][1:]:
        expected = layer.forward(expected, training=False)
    assert np.array_equal(backend.to_host(cut.forward(x)), backend.to_host(expected))
    is_whole = part == slice(None)
    assert cut.metadata == {
        **({"classes": ["a", "b", "c"]} if is_whole else {}),
        "image_shape": [2, 3],
    }
    assert cut.prediction == ("class" if is_whole else None)
    before = values(network)
    cut.flat_parameters.fill(0)
    assert values(network) == before


def test_the_end_of_a_network_knows_its_classes() -> None:
    network = trained()
    network.metadata = {"classes": ["a", "b", "c"], "image_shape": [2, 3]}
    assert network[4:].metadata == {"classes": ["a", "b", "c"]}
    assert network[4:].prediction == "class"
    assert network[4:].in_features == 8
    with pytest.raises(ConfigError, match=r"network\[9:None\] has no layer"):
        network[9:]
    with pytest.raises(IndexError):
        network[5]


def test_appended_layers_are_those_of_a_network_made_at_once(backend: Backend) -> None:
    once = xn.Sequential(6, 8, "relu", xn.Dropout(0.5), 4, backend=backend, seed=6)
    grown = xn.Sequential(6, 8, backend=backend, seed=6)
    assert grown.append("relu").append(xn.Dropout(0.5)).append(4) is grown
    assert grown.architecture() == once.architecture()
    assert values(grown) == values(once)
    x = place(backend, X, "float32")
    found = [backend.to_host(n.forward(x, training=True)).copy() for n in (grown, once)]
    assert np.array_equal(*found)


def test_append_keeps_what_was_trained_and_forgets_what_the_outputs_were() -> None:
    network = trained()
    network.metadata = {"classes": ["a", "b", "c"], "pixels": False}
    before = values(network)
    network.append("relu")
    assert network.metadata["classes"] == ["a", "b", "c"]
    network.append(np.int64(5))
    assert {n: v for n, v in values(network).items() if n in before} == before
    assert network.metadata == {"pixels": False}
    assert network.prediction is None
    assert network.predict(X).max() <= 4


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("reluu", ConfigError, "no activation is called 'reluu'"),
        (xn.Linear(4, 3), ShapeError, "layer 5: Linear.4, 3. takes 4 features and is given 3"),
        (0, ConfigError, "whole numbers above 0"),
        ([xn.Linear(3, 3)], ConfigError, "takes one layer"),
        (xn.ReLU, ConfigError, "found <class"),
    ],
)
def test_what_cannot_be_appended_leaves_the_network_as_it_was(
    what: Any, kind: type[Exception], words: str
) -> None:
    network = trained()
    before, layers = values(network), network.layers
    with pytest.raises(kind, match=words):
        network.append(what)
    assert network.layers is layers
    assert values(network) == before
    bound = trained().layers[2]
    with pytest.raises(ConfigError, match="belongs to another network"):
        network.append(bound)
    with pytest.raises(ConfigError, match="twice"):
        network.append(network.layers[2])
    assert network.layers is layers
    network.forward(X)


def test_transfer_learning(backend: Backend) -> None:
    """Trained layers, frozen, under a new last layer, which learns another task."""
    old = trained(backend)
    before, x = values(old), place(backend, X, "float32")
    new = old[:-1]
    for layer in new:
        layer.trainable = False
    new.append(2)
    labels = (X[:, 0] > 0).astype(int)
    data = xn.DeviceData(X, labels, backend=backend, dtype="float32")
    history = xn.fit(new, data, optimizer=xn.Adam(0.05), epochs=30, batch_size=10)
    assert history.records[-1].loss < history.records[0].loss
    assert values(old) == before
    assert {n: v for n, v in values(new).items() if n[0] != "4"} == (
        {n: v for n, v in before.items() if n[0] != "4"}
    )
    assert backend.to_host(new.predict(x)).max() <= 1


def test_values_are_assigned_into_the_store() -> None:
    network = trained()
    kept = network.flat_parameters
    network.flat_parameters = np.zeros(network.flat_parameters.size)
    network.flat_gradients = 1
    network.flat_buffers = network.flat_buffers * 2
    assert network.flat_parameters is kept
    assert not network.parameters()["0.weight"].any()
    assert (network.parameter_gradients()["4.bias"] == 1).all()
    assert not network.forward(X).any() or network.parameters()["1.bias"].any()
    with pytest.raises(ValueError, match="broadcast"):
        network.flat_parameters = np.zeros(3)


def test_all_layers_of_a_network_are_frozen_at_once() -> None:
    network = trained()
    network.trainable = False
    assert not network.trainable
    assert not any(layer.trainable for layer in network)
    assert network.append(2).trainable
    network.trainable = True
    assert all(layer.trainable for layer in network)
