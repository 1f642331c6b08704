"""`Sequential(784, 128, "relu", 10)` is another spelling of the list form, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xpnet as xn
from xpnet import Linear, Sequential
from xpnet.config import TrainConfig, make_config
from xpnet.errors import ConfigError, ShapeError
from xpnet.layers.activations import ACTIVATIONS

names = st.sampled_from(sorted(ACTIVATIONS))
layers = st.builds(xn.Dropout, st.floats(0, 0.9)) | st.builds(xn.GaussianNoise, st.floats(0, 2))
parts = st.lists(st.integers(1, 9) | names | layers, max_size=6)


def in_full(first: int, rest: list[Any]) -> list[xn.layers.Layer]:
    """The list that a person would write for `Sequential(first, *rest)`."""
    made, features = [], first
    for part in rest:
        if isinstance(part, int):
            made.append(Linear(features, part))
            features = part
        else:
            made.append(ACTIVATIONS[part]() if isinstance(part, str) else type(part)(*values(part)))
    return made


def values(layer: Any) -> tuple[float, ...]:
    return tuple(layer.get_config().values())


@given(first=st.integers(1, 9), rest=parts, last=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_the_brief_form_is_the_list_form_to_the_bit(
    first: int, rest: list[Any], last: int, seed: int
) -> None:
    brief = Sequential(first, *rest, last, seed=seed, dtype="float64")
    full = Sequential(in_full(first, [*rest, last]), seed=seed, dtype="float64")
    assert brief.architecture() == full.architecture()
    assert brief.flat_parameters.tobytes() == full.flat_parameters.tobytes()
    x = np.random.default_rng(0).normal(size=(4, first))
    outputs = [network.forward(x, training=True).tobytes() for network in (brief, full)]
    assert outputs[0] == outputs[1]


def test_it_trains_to_the_same_bits() -> None:
    x, labels = np.random.default_rng(0).normal(size=(60, 8)), np.arange(60) % 3
    full = [Linear(8, 16), xn.Tanh(), xn.BatchNorm(16), xn.Dropout(0.3), Linear(16, 3)]
    networks = [
        Sequential(8, 16, "tanh", xn.BatchNorm(16), xn.Dropout(0.3), 3, seed=5),
        Sequential(full, seed=5),
    ]
    for network in networks:
        xn.fit(network, (x, labels), optimizer=xn.Adam(), epochs=3, batch_size=16)
    brief, full = (network.flat_parameters.tobytes() for network in networks)
    assert brief == full


def test_a_layer_may_begin_and_may_stand_alone() -> None:
    assert Sequential(Linear(4, 3), "relu", 2).architecture() == (
        Sequential([Linear(4, 3), xn.ReLU(), Linear(3, 2)]).architecture()
    )
    assert Sequential(Linear(4, 3)).out_features == 3


def test_names_are_those_of_the_settings() -> None:
    for name in ACTIVATIONS:
        assert make_config({"activation": [name]}) == TrainConfig(activation=(name,))
        assert type(Sequential(2, name, 2).layers[0]) is ACTIVATIONS[name]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: Sequential(4, 3, "softmax", 2),
            ConfigError,
            "no activation is called 'softmax': there are relu, leaky_relu, sigmoid, tanh, gelu$",
        ),
        (lambda: Sequential("relu"), ConfigError, "says how many features"),
        (lambda: Sequential("relu", 4, 2), ConfigError, "comes first.*found ReLU.. before 4$"),
        (lambda: Sequential(xn.Dropout(0.5), 4, 2), ConfigError, "found Dropout.0.5. before 4$"),
        (lambda: Sequential(), ConfigError, "at least one layer: Sequential"),
        (lambda: Sequential(784), ConfigError, "at least one layer: Sequential"),
        (lambda: Sequential(4, True), ConfigError, "whole numbers above 0.*found True$"),
        (lambda: Sequential(4, 0), ConfigError, "whole numbers above 0.*found 0$"),
        (lambda: Sequential(4, 2.0), ConfigError, "whole numbers above 0.*found 2.0$"),
        (lambda: Sequential(4, xn.ReLU), ConfigError, "and layers, found <class"),
        (lambda: Sequential(None), ConfigError, "and layers, found None$"),
        (lambda: Sequential([Linear(4, 2)], 3), ConfigError, "and layers, found .Linear"),
        (
            lambda: Sequential([784, 10]),
            ConfigError,
            "layer 0 is 784: a list holds layers; numbers and names go without the brackets",
        ),
        (
            lambda: Sequential(4, 3, xn.BatchNorm(5), 2),
            ShapeError,
            "layer 1: BatchNorm.* takes 5 features and is given 3",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    make: Callable[[], Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)
