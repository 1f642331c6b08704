"""The layers. Forward and backward passes are derived by hand and written with `xp`."""

from xpnet.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from xpnet.layers.base import Layer, Parameter
from xpnet.layers.containers import Residual
from xpnet.layers.convolution import Conv2d
from xpnet.layers.dropout import Dropout, Dropout2d, GaussianNoise
from xpnet.layers.linear import Linear
from xpnet.layers.normalization import BatchNorm, BatchNorm2d, LayerNorm
from xpnet.layers.pooling import AveragePool2d, GlobalAveragePool2d, MaxPool2d
from xpnet.layers.reshaping import Flatten, Unflatten

__all__ = [
    "GELU",
    "AveragePool2d",
    "BatchNorm",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GaussianNoise",
    "GlobalAveragePool2d",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Parameter",
    "ReLU",
    "Residual",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Unflatten",
]
