"""The layers. Forward and backward passes are derived by hand and written with `xp`."""

from xpnet.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from xpnet.layers.base import Layer, Parameter
from xpnet.layers.containers import Residual
from xpnet.layers.dropout import Dropout, GaussianNoise
from xpnet.layers.linear import Linear
from xpnet.layers.normalization import BatchNorm, LayerNorm

__all__ = [
    "GELU",
    "BatchNorm",
    "Dropout",
    "GaussianNoise",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Parameter",
    "ReLU",
    "Residual",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
