"""The layers of an estimator's network, from its parameters."""

from __future__ import annotations

import math
from typing import Any

from xpnet.errors import ConfigError, short_repr
from xpnet.estimator._parameters import ACTIVATIONS, per_hidden_layer, widths
from xpnet.initializers import Uniform
from xpnet.layers import BatchNorm, Dropout, Linear
from xpnet.layers.base import Layer, walk
from xpnet.network import Sequential

AUTO_BATCH = 200


def new_network(estimator: Any, features: int, outputs: int, dtype: str, seed: int) -> Sequential:
    """The untrained network for rows of `features` numbers, with as many outputs as asked for.

    Raises `ConfigError` where `estimator.network` gives no such network.
    """
    given = estimator.network
    options = {"backend": estimator.device, "dtype": dtype, "seed": seed}
    if given is None:
        return Sequential(_layers(estimator, features, outputs), **options)
    if not isinstance(given, Sequential):
        given = given(features, outputs)
    if isinstance(given, Sequential):
        given = [layer.copy() for layer in given.layers]
    if not isinstance(given, list | tuple):
        raise ConfigError(
            f"network must return a list of layers, or a Sequential, found {short_repr(given)}"
        )
    made = Sequential(*given, **options)
    if made.in_features != features or made.output_shape(None) != (outputs,):
        raise ConfigError(
            f"network takes {made.in_features} features and gives outputs of shape "
            f"{made.output_shape(None)}: X has {features} features, and y needs the shape "
            f"({outputs},)"
        )
    return made


def batch_size(estimator: Any, count: int) -> int:
    """The size of the batches of `count` samples."""
    if estimator.batch_size != "auto":
        return min(int(estimator.batch_size), count)
    size = min(AUTO_BATCH, count)
    if any(isinstance(layer, BatchNorm) for layer in walk(estimator.network_.layers)):
        # It cannot train on a last batch of one row.
        while size > 1 and count % size == 1:
            size += 1
    return size


def settings_of_network(estimator: Any) -> tuple[Any, ...]:
    """The parameters that a network is made from; training continues only with equal ones."""
    sizes = widths(estimator.hidden_layer_sizes)
    return (
        sizes,
        per_hidden_layer("activation", estimator.activation, len(sizes)),
        per_hidden_layer("dropout", estimator.dropout, len(sizes)),
        bool(estimator.batch_norm),
        estimator.network,
        estimator.device,
    )


def _layers(estimator: Any, features: int, outputs: int) -> list[Layer]:
    sizes = widths(estimator.hidden_layer_sizes)
    activations = per_hidden_layer("activation", estimator.activation, len(sizes))
    rates = per_hidden_layer("dropout", estimator.dropout, len(sizes))
    made: list[Layer] = []
    for width, activation, rate in zip(sizes, activations, rates, strict=True):
        kind = ACTIVATIONS[activation]
        made.append(_linear(features, width, activation))
        if estimator.batch_norm:
            made.append(BatchNorm(width))
        if kind is not None:
            made.append(kind())
        if rate:
            made.append(Dropout(float(rate)))
        features = width
    alone = estimator.activation if isinstance(estimator.activation, str) else "identity"
    last = activations[-1] if activations else alone
    return [*made, _linear(features, outputs, last)]


def _linear(features: int, outputs: int, activation: str) -> Linear:
    """A layer whose weights and biases are drawn as `MLPClassifier` draws them.

    Uniform on ±√(6 / (features + outputs)), or ±√(2 / ...) for the logistic function (Glorot,
    Bengio 2010). `python -m bench defaults` compares the scores with theirs.
    """
    draw = Uniform(math.sqrt((2 if activation == "logistic" else 6) / (features + outputs)))
    return Linear(features, outputs, draw, draw)
