"""xpnet: neural networks from scratch, the same formulas on NumPy and on CuPy.

The way in: `Sequential` of layers, `fit` with a loss and an optimizer, `save` and `load`;
`python -m xpnet.train` does all of it from the command line.
"""

from __future__ import annotations

from xpnet.activations import GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from xpnet.backend import Backend, array_module
from xpnet.callbacks import Callback, EarlyStopping, Progress
from xpnet.checkpoint import load, save
from xpnet.data.augmentation import Augmentation
from xpnet.data.batches import DeviceData
from xpnet.errors import XpnetError
from xpnet.exchange.onnx_file import export_onnx
from xpnet.exchange.pytorch import from_torch, to_torch
from xpnet.exchange.scikit_learn import from_sklearn
from xpnet.history import History
from xpnet.layers import BatchNorm, Dropout, GaussianNoise, LayerNorm, Linear
from xpnet.losses import MeanSquaredError, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.optimizers import SGD, Adam, AdamW, RMSprop
from xpnet.resume import Checkpoints
from xpnet.training import evaluate, fit

__version__ = "0.1.0"

__all__ = [
    "GELU",
    "SGD",
    "Adam",
    "AdamW",
    "Augmentation",
    "Backend",
    "BatchNorm",
    "Callback",
    "Checkpoints",
    "DeviceData",
    "Dropout",
    "EarlyStopping",
    "GaussianNoise",
    "History",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MeanSquaredError",
    "Progress",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SigmoidBinaryCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Tanh",
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
