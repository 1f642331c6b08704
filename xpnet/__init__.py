"""Neural networks from scratch: the same hand-derived formulas on NumPy and on CuPy.

Train a network on the digits that come with xpnet, test it, and save it:

    import xpnet as xn
    from xpnet.data import load_dataset, split

    parts = split(load_dataset("digits"), validation=0, test=1000, seed=0)
    network = xn.Sequential(784, 128, "relu", 10)
    x, labels = parts.train.x / 255, parts.train.labels
    history = xn.fit(network, (x, labels), optimizer=xn.Adam(1e-3), epochs=5)
    print(xn.evaluate(network, (parts.test.x / 255, parts.test.labels)).accuracy)
    xn.save(network, "model.safetensors")  # network = xn.load("model.safetensors")

- The network: `Sequential` of `Linear`, `Dropout`, `GaussianNoise`, `BatchNorm`,
  `LayerNorm`, `ReLU`, `LeakyReLU`, `Sigmoid`, `Tanh`, `GELU`, `Softmax`, `Residual`, other
  networks, or your own subclass of `Layer`, with its `Parameter`s. For images:
  `Unflatten`, `Conv2d`, `MaxPool2d`, `AveragePool2d`, `GlobalAveragePool2d`, `BatchNorm2d`,
  `Dropout2d`, `Flatten`.
- Losses: `SoftmaxCrossEntropy`, `SigmoidBinaryCrossEntropy`, `MeanSquaredError`,
  `MeanAbsoluteError`, `Huber`, `Poisson`, `Quantile`, or your own `Loss`.
- Optimizers: `SGD`, `RMSprop`, `Adam`, `AdamW`; learning rate schedules: `xpnet.schedules`.
- Training: `fit`, `evaluate`, `History`, `DeviceData`, `Augmentation`, `Checkpoints`, and
  the callbacks `EarlyStopping`, `Progress`, or your own `Callback`. For custom training:
  `Trainer`, `TrainStep`, your own `Optimizer`.
- Files and conversion: `save`, `load`, `export_onnx`, `to_torch`, `from_torch`, `from_sklearn`.
- Devices: `Backend`, `array_module`. Errors: all are subclasses of `XpnetError`.

More: `xpnet.data`, `xpnet.initializers`, `xpnet.metrics`, `xpnet.gradcheck` (check the
gradients of your own layer), `xpnet.estimator` (scikit-learn). From a shell:
`python -m xpnet.train --help`.
"""

from __future__ import annotations

from xpnet import _moved
from xpnet import data as data
from xpnet import distributed as distributed
from xpnet import gradcheck as gradcheck
from xpnet import initializers as initializers
from xpnet import metrics as metrics
from xpnet import schedules as schedules
from xpnet._version import __version__ as __version__
from xpnet.backend import Backend, array_module
from xpnet.errors import XpnetError
from xpnet.interop.onnx import export_onnx
from xpnet.interop.sklearn import from_sklearn
from xpnet.interop.torch import from_torch, to_torch
from xpnet.layers import (
    GELU,
    AveragePool2d,
    BatchNorm,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    GaussianNoise,
    GlobalAveragePool2d,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    Sigmoid,
    Softmax,
    Tanh,
    Unflatten,
)
from xpnet.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SigmoidBinaryCrossEntropy,
    SoftmaxCrossEntropy,
)
from xpnet.network import Sequential
from xpnet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from xpnet.serialization import load, save
from xpnet.training import Trainer, TrainStep, evaluate, fit
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, EarlyStopping, Progress
from xpnet.training.checkpoints import Checkpoints
from xpnet.training.device_data import DeviceData
from xpnet.training.history import History

_moved.install()
__getattr__ = _moved.former_module

__all__ = [
    "GELU",
    "SGD",
    "Adam",
    "AdamW",
    "Augmentation",
    "AveragePool2d",
    "Backend",
    "BatchNorm",
    "BatchNorm2d",
    "Callback",
    "Checkpoints",
    "Conv2d",
    "DeviceData",
    "Dropout",
    "Dropout2d",
    "EarlyStopping",
    "Flatten",
    "GaussianNoise",
    "GlobalAveragePool2d",
    "History",
    "Huber",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MaxPool2d",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Optimizer",
    "Parameter",
    "Poisson",
    "Progress",
    "Quantile",
    "RMSprop",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "SigmoidBinaryCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Tanh",
    "TrainStep",
    "Trainer",
    "Unflatten",
    "XpnetError",
    "array_module",
    "evaluate",
    "export_onnx",
    "fit",
    "from_sklearn",
    "from_torch",
    "load",
    "save",
    "to_torch",
]


def __dir__() -> list[str]:
    modules = ["data", "gradcheck", "initializers", "metrics", "schedules"]
    return sorted([*__all__, *modules, "__version__"])
