"""`from_sklearn`: a fitted multi-layer perceptron of scikit-learn as a network."""

from __future__ import annotations

from typing import Any

import numpy

from xpnet.backend import Backend, HostArray
from xpnet.errors import ConfigError
from xpnet.interop.peers import imported, kind_of
from xpnet.layers import Linear
from xpnet.layers.activations import ReLU, Sigmoid, Tanh
from xpnet.layers.base import Layer
from xpnet.network import Sequential

_ACTIVATIONS: dict[str, type[Layer] | None] = {
    "relu": ReLU,
    "tanh": Tanh,
    "logistic": Sigmoid,
    "identity": None,
}

_PREDICTIONS = {"identity": "values", "exp": "rates"}
"""What a regressor predicts, by its output activation."""

_METHODS = ("predict", "predict_proba", "_predict", "_forward_pass", "_forward_pass_fast")
"""The output functions of a model that are known."""


def from_sklearn(model: Any, *, device: str | Backend = "cpu") -> Sequential:
    """A fitted `MLPClassifier` or `MLPRegressor` as a network of its dtype on `device`.

    For a classifier, `predict_proba(x)`: `(N, C)` equals the model's `predict_proba(x)`, and
    `metadata["classes"]` holds the names of its `classes_`, in order. The network ends, as all of
    xpnet's do, in logits. A model of two classes has one output `z` and the probability `σ(z)`; its
    network has the outputs `(0, z)`, of which the softmax is `(1 − σ(z), σ(z))`. For a regressor,
    `forward(x)`: `(N, outputs)` equals the model's `predict(x)`, with an axis for the outputs even
    if there is only one; `predict(x)` leaves it out as the model does. With `loss="poisson"`
    `forward(x)` is the logarithm of that, and `predict(x)` the rate.

    Raises `ConfigError` for a model that is not fitted, is of another class (such as a subclass
    with its own `predict`), is a multilabel classifier, or has another output activation.

        model = MLPClassifier((128,)).fit(x, y)
        network = xn.from_sklearn(model)
        p = network.predict_proba(x)             # (N, C), as model.predict_proba(x)
    """
    neural = imported("sklearn.neural_network", "from_sklearn()", "scikit-learn")
    if not isinstance(model, neural.MLPClassifier | neural.MLPRegressor):
        raise ConfigError(
            f"from_sklearn() takes a fitted MLPClassifier or MLPRegressor, found {kind_of(model)}"
        )
    name = type(model).__name__
    kind = next(k for k in (neural.MLPClassifier, neural.MLPRegressor) if isinstance(model, k))
    for method in _METHODS:
        own = getattr(type(model), method, None) is not getattr(kind, method, None)
        if own or method in vars(model):
            raise ConfigError(
                f"the {name} has a {method}() that is not {kind.__name__}'s, and from_sklearn() "
                f"would leave it out: give a plain {kind.__name__}"
            )
    if not hasattr(model, "coefs_"):
        raise ConfigError(f"the {name} is not fitted, so it has no weights: call fit() first")
    classes = _classes(model) if isinstance(model, neural.MLPClassifier) else None
    if classes is None and model.out_activation_ not in _PREDICTIONS:
        raise ConfigError(
            f"the {name} ends in {model.out_activation_!r}, xpnet's networks end in a linear "
            f"layer: fit it with loss 'squared_error' or 'poisson'"
        )
    weights = [coefficients.T for coefficients in model.coefs_]
    biases = list(model.intercepts_)
    if classes is not None and model.out_activation_ == "logistic":
        weights[-1] = numpy.vstack([numpy.zeros_like(weights[-1]), weights[-1]])
        biases[-1] = numpy.append(numpy.zeros_like(biases[-1]), biases[-1])
    activation = _ACTIVATIONS[model.activation]
    made: list[Layer] = []
    state: dict[str, HostArray] = {}
    for weight, bias in zip(weights, biases, strict=True):
        if made and activation is not None:
            made.append(activation())
        state |= {f"{len(made)}.weight": weight, f"{len(made)}.bias": bias}
        made.append(Linear(weight.shape[1], weight.shape[0]))
    network = Sequential(made, backend=device, dtype=str(weights[0].dtype))
    network.load_state_dict(state)
    network.prediction = "class" if classes else _PREDICTIONS[model.out_activation_]
    is_flat = classes is not None or model.n_outputs_ == 1
    network.target_shape = () if is_flat else (model.n_outputs_,)
    if classes is not None:
        network.metadata["classes"] = classes
    return network


def _classes(model: Any) -> list[str]:
    end, outputs, classes = model.out_activation_, model.n_outputs_, len(model.classes_)
    if end != "softmax" and (end, outputs, classes) != ("logistic", 1, 2):
        raise ConfigError(
            f"the {type(model).__name__} gives {outputs} outputs through {end!r} for {classes} "
            f"classes: only a model that predicts one of two or more classes can be converted"
        )
    return [str(label) for label in model.classes_]
