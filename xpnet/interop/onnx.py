"""`export_onnx`: a network in prediction as a file for any ONNX runtime."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy

from xpnet import layers
from xpnet._files import write_atomically
from xpnet._version import __version__
from xpnet.backend import HostArray
from xpnet.data.normalisation import Normalisation
from xpnet.errors import CheckpointError, ConfigError, short_repr
from xpnet.interop.peers import imported, require_network, require_own_forward
from xpnet.layers import activations
from xpnet.layers.base import Layer
from xpnet.network import Sequential
from xpnet.utils.arguments import as_path

OPSET = 17
"""The oldest with `LayerNormalization` (ONNX 1.12, 2022), which old runtimes can read too."""

_FILE_FORMAT = 8  # ONNX 1.12's
_MOST_BYTES = 2**31 - 2**20  # protobuf's limit, minus the little that is not weights


def export_onnx(network: Sequential, path: str | Path, *, normalise: bool = False) -> None:
    """Write `network`, as it predicts, to the ONNX file `path`, atomically.

    The input of the model is `x`: `(N, in_features)`, with any `N`. Its output is `y`:
    `(N, out_features)`, as `network.forward(x)` returns it: logits for a classifier, logarithms of
    rates after training with `Poisson`. `x`, `y` and the weights have the network's dtype. (A
    runtime that computes in float32 only, as onnxruntime does for convolutions, needs a float32
    network.) Dropout and noise are left out; `BatchNorm` uses its running statistics. Weights keep
    their names and shapes (`0.weight`: `(out, in)`). The same network gives the same bytes.

    `normalise`: whether the model begins with the normalisation in `network.metadata`. Then `x` are
    the values as they are stored: uint8 if the network was trained on pixels. `scale` and `shift`
    there are finite numbers, or lists with one number for each feature. All other metadata (class
    names, shape of an image) become properties of the file, each a JSON text under its name.

    Raises `ConfigError` if the package `onnx` is missing, for a layer that cannot be written in
    ONNX, and for a normalisation that is missing or invalid; `CheckpointError` if the file cannot
    be written.

        xn.export_onnx(network, "digits.onnx")
        session = onnxruntime.InferenceSession("digits.onnx")
        (logits,) = session.run(None, {"x": x})          # x (N, 784) float32, logits (N, 10)
    """
    require_network(network, "export_onnx()")
    if len(network.output_shape(None)) != 1:
        raise ConfigError(
            f"the network gives images {network.output_shape(None)}, which no ONNX file of xpnet's "
            f"does: end it with Flatten()"
        )
    onnx = imported("onnx", "export_onnx()", "onnx")
    path, to_host = as_path("path", path), network.backend.to_host
    state = {name: to_host(array) for name, array in network.state_dict().items()}
    if sum(array.nbytes for array in state.values()) > _MOST_BYTES:
        raise CheckpointError(f"{path}: the weights take more than the 2 GiB that a file may hold")
    graph = _Graph(onnx.helper, state, network.dtype)
    about, x = dict(network.metadata), "x"
    entrance = graph.dtype
    if normalise:
        if about.get("pixels") is True:
            entrance = onnx.TensorProto.UINT8
        how = about.pop("normalisation", None)
        x = _normalised(graph, x, _factors(how, network), entrance)
    _in_order(graph, network.layers, "", x)
    graph.nodes[-1].output[0] = "y"
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "network",
            [info("x", entrance, ["N", network.in_features])],
            [info("y", graph.dtype, ["N", network.out_features])],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_FILE_FORMAT,
        producer_name="xpnet",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(made, {name: _json(path, about, name) for name in sorted(about)})
    write_atomically(path, made.SerializeToString(deterministic=True))


class _Graph:
    """The nodes and constants so far; `position` is that of the current layer."""

    def __init__(self, helper: Any, state: dict[str, HostArray], dtype: Any) -> None:
        self._helper, self._state = helper, state
        self.numpy_dtype = dtype
        self.dtype = helper.np_dtype_to_tensor_dtype(numpy.dtype(dtype))
        self.position = ""
        self.nodes: list[Any] = []
        self.constants: dict[str, HostArray] = {}

    def node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its result."""
        result = f"{self.position}.{operation}.{len(self.nodes)}"
        made = self._helper.make_node(operation, inputs, [result], result, **attributes)
        self.nodes.append(made)
        return result

    def state(self, name: str) -> str:
        """Add an array of the layer's state under the name that it has in files."""
        name = f"{self.position}.{name}"
        self.constants[name] = numpy.ascontiguousarray(self._state[name])
        return name

    def number(self, name: str, value: float | HostArray) -> str:
        """Add a number, or several, in the network's dtype."""
        name = f"{self.position}.{name}"
        self.constants[name] = numpy.asarray(value, dtype=self.numpy_dtype)
        return name


def _factors(how: Any, network: Sequential) -> list[HostArray]:
    """`scale` and `shift`: each `()` or `(in_features,)`, in the network's dtype."""
    features = network.in_features
    try:
        found = Normalisation.from_metadata(how, features)
        return [_factor(name, getattr(found, name), network.dtype) for name in ("scale", "shift")]
    except ValueError as error:
        raise ConfigError(
            f"normalise: the network's normalisation (in its metadata) {error}: scale and shift "
            f"have to be finite numbers, or lists of {features}, one for each feature; or export "
            f"without normalise"
        ) from None


def _factor(name: str, value: float | HostArray, dtype: Any) -> HostArray:
    with numpy.errstate(over="ignore"):
        factor = numpy.asarray(value).astype(dtype)
    if not numpy.isfinite(factor).all():
        raise ValueError(f"has {name} {short_repr(value)}, not finite in {dtype}")
    return factor


def _normalised(graph: _Graph, x: str, factors: Sequence[HostArray], entrance: int) -> str:
    """`x · scale + shift`, as `Normalisation.apply` does it."""
    scale, shift = factors
    graph.position = "normalisation"
    if entrance != graph.dtype:
        x = graph.node("Cast", x, to=graph.dtype)
    x = graph.node("Mul", x, graph.number("scale", scale))
    return graph.node("Add", x, graph.number("shift", shift))


def _json(path: Path, about: dict[str, Any], name: str) -> str:
    try:
        return json.dumps(about[name], sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: metadata {name!r} is not plain JSON ({error})") from None


def _in_order(graph: _Graph, made: Sequence[Layer], within: str, x: str) -> str:
    """Add the nodes of `made`, one layer after the other; `within` begins their positions."""
    for number, layer in enumerate(made):
        position = f"{within}{number}"
        require_own_forward(position, layer)
        form = _FORMS.get(type(layer))
        if form is None:
            raise ConfigError(f"layer {position}, {layer}, has no form in ONNX: leave it out")
        graph.position = position
        x = form(graph, layer, x)
    return x


def _sequential(graph: _Graph, layer: Any, x: str) -> str:
    return _in_order(graph, layer.layers, f"{graph.position}.", x)


def _residual(graph: _Graph, layer: Any, x: str) -> str:
    position = graph.position
    y = _sequential(graph, layer, x)
    graph.position = position
    return graph.node("Add", x, y)


def _linear(graph: _Graph, layer: Any, x: str) -> str:
    return graph.node("Gemm", x, graph.state("weight"), graph.state("bias"), transB=1)


def _batch_norm(graph: _Graph, layer: Any, x: str) -> str:
    names = ("weight", "bias", "running_mean", "running_var")
    state = [graph.state(name) for name in names]
    return graph.node("BatchNormalization", x, *state, epsilon=layer.epsilon)


def _layer_norm(graph: _Graph, layer: Any, x: str) -> str:
    gain, bias = graph.state("weight"), graph.state("bias")
    return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=layer.epsilon)


def _leaky_relu(graph: _Graph, layer: Any, x: str) -> str:
    # ONNX's own LeakyRelu is missing for float64 in some runtimes.
    return graph.node("Max", x, graph.node("Mul", x, graph.number("slope", layer.slope)))


def _gelu(graph: _Graph, layer: Any, x: str) -> str:
    # ONNX's own Gelu came with opset 20 only.
    node, number = graph.node, graph.number
    factor = node("Mul", node("Mul", x, x), number("cubic", 0.044715))
    factor = node("Add", factor, number("one", 1))
    u = node("Mul", node("Mul", factor, x), number("scale", math.sqrt(2 / math.pi)))
    doubled = node("Mul", node("Add", node("Tanh", u), number("one", 1)), x)
    return node("Mul", doubled, number("half", 0.5))


def _softmax(graph: _Graph, layer: Any, x: str) -> str:
    return graph.node("Softmax", x, axis=-1)


def _same(graph: _Graph, layer: Any, x: str) -> str:
    return x


def _unflatten(graph: _Graph, layer: Any, x: str) -> str:
    height, width, channels = layer.output_shape(None)
    name = f"{graph.position}.image_shape"
    graph.constants[name] = numpy.array([-1, channels, height, width], dtype=numpy.int64)
    return graph.node("Reshape", x, name)


def _windows(layer: Any) -> dict[str, Any]:
    """The attributes of ONNX for windows: borders are `[top, left, bottom, right]`."""
    windows = layer.windows
    return {
        "kernel_shape": windows.kernel_size,
        "strides": windows.stride,
        "pads": [*windows.padding, *windows.padding],
    }


def _conv(graph: _Graph, layer: Any, x: str) -> str:
    state = [graph.state(name) for name in layer.parameters()]
    how = _windows(layer) | {"dilations": layer.windows.dilation, "group": layer.groups}
    return graph.node("Conv", x, *state, **how)


def _max_pool(graph: _Graph, layer: Any, x: str) -> str:
    return graph.node("MaxPool", x, **_windows(layer))


def _average_pool(graph: _Graph, layer: Any, x: str) -> str:
    return graph.node("AveragePool", x, count_include_pad=1, **_windows(layer))


def _global_average_pool(graph: _Graph, layer: Any, x: str) -> str:
    return graph.node("Flatten", graph.node("GlobalAveragePool", x))


def _plain(operation: str) -> Callable[[_Graph, Any, str], str]:
    return lambda graph, layer, x: graph.node(operation, x)


# By the exact class: a subclass may compute something else.
_FORMS: dict[type[Layer], Callable[[_Graph, Any, str], str]] = {
    Sequential: _sequential,
    layers.Residual: _residual,
    layers.Linear: _linear,
    layers.Unflatten: _unflatten,
    layers.Conv2d: _conv,
    layers.MaxPool2d: _max_pool,
    layers.AveragePool2d: _average_pool,
    layers.GlobalAveragePool2d: _global_average_pool,
    layers.Flatten: _plain("Flatten"),
    layers.Dropout: _same,
    layers.Dropout2d: _same,
    layers.GaussianNoise: _same,
    layers.BatchNorm: _batch_norm,
    layers.BatchNorm2d: _batch_norm,
    layers.LayerNorm: _layer_norm,
    activations.ReLU: _plain("Relu"),
    activations.LeakyReLU: _leaky_relu,
    activations.Sigmoid: _plain("Sigmoid"),
    activations.Tanh: _plain("Tanh"),
    activations.GELU: _gelu,
    activations.Softmax: _softmax,
}
