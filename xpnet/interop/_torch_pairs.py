"""Which module of PyTorch does the same as a layer, and what its settings are called there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xpnet import layers
from xpnet.layers import activations
from xpnet.layers.base import Layer


@dataclass(frozen=True)
class Pair:
    """A layer and the module of `torch.nn` that does the same.

    `names`: a setting's name there for each of ours. `only`: what further settings of the module
    must be to mean our layer; the first value is the one we write.
    """

    layer: type[Layer]
    module: str
    names: dict[str, str] = field(default_factory=dict)
    only: dict[str, tuple[Any, ...]] = field(default_factory=dict)


_WINDOWS = ("kernel_size", "stride", "padding")

PAIRS = (
    Pair(layers.Linear, "Linear", {"in_features": "in_features", "out_features": "out_features"}),
    Pair(layers.Dropout, "Dropout", {"rate": "p"}),
    Pair(
        layers.BatchNorm,
        "BatchNorm1d",
        {"features": "num_features", "momentum": "momentum", "epsilon": "eps"},
        {"track_running_stats": (True,)},
    ),
    Pair(
        layers.BatchNorm2d,
        "BatchNorm2d",
        {"features": "num_features", "momentum": "momentum", "epsilon": "eps"},
        {"track_running_stats": (True,)},
    ),
    Pair(
        layers.Conv2d,
        "Conv2d",
        {
            "in_channels": "in_channels",
            "out_channels": "out_channels",
            **{name: name for name in (*_WINDOWS, "dilation", "groups", "bias")},
        },
        {"padding_mode": ("zeros",)},
    ),
    Pair(
        layers.MaxPool2d,
        "MaxPool2d",
        {name: name for name in _WINDOWS},
        {"dilation": (1, (1, 1)), "ceil_mode": (False,), "return_indices": (False,)},
    ),
    Pair(
        layers.AveragePool2d,
        "AvgPool2d",
        {name: name for name in _WINDOWS},
        {"ceil_mode": (False,), "count_include_pad": (True,), "divisor_override": (None,)},
    ),
    Pair(layers.Dropout2d, "Dropout2d", {"rate": "p"}),
    Pair(layers.Flatten, "Flatten", only={"start_dim": (1,), "end_dim": (-1,)}),
    Pair(layers.LayerNorm, "LayerNorm", {"features": "normalized_shape", "epsilon": "eps"}),
    Pair(activations.ReLU, "ReLU"),
    Pair(activations.LeakyReLU, "LeakyReLU", {"slope": "negative_slope"}),
    Pair(activations.Sigmoid, "Sigmoid"),
    Pair(activations.Tanh, "Tanh"),
    Pair(activations.GELU, "GELU", only={"approximate": ("tanh",)}),
    Pair(activations.Softmax, "Softmax", only={"dim": (1, -1)}),
)
"""Each pair once; for some layers `to_torch` and `from_torch` need more."""
