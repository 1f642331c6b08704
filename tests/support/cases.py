"""One case for every public layer, loss, optimizer, initializer and schedule.

The tests run through these tables; `test_introspection.py` fails when a public class has no
case here, so whatever is added gets gradient, parity, dtype and PyTorch checks or goes red.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from thread_settings import SETTINGS

from xpnet import initializers, layers, losses, optimizers, schedules
from xpnet.accel import dispatch
from xpnet.backend import Array, Backend
from xpnet.initializers import GlorotNormal, Uniform
from xpnet.layers import activations
from xpnet.utils.sparse import SparseRows

ROWS, FEATURES = 6, 5
PACKAGE = Path(losses.__file__).parents[1]


class TorchResidual(torch.nn.Sequential):
    """A residual block as PyTorch users write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


@dataclass(frozen=True)
class LayerCase:
    id: str
    kind: type
    make: Callable[[], Any]
    torch: Callable[[], torch.nn.Module] | None
    """Its peer; None for what PyTorch cannot be made to draw (see `Alone.torch_peer`)."""
    shape: tuple[int, ...] = (FEATURES,)
    """Of a sample: a row of features, or an image `(H, W, C)`."""

    @property
    def features(self) -> int:
        return math.prod(self.shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.make().output_shape(self.shape)

    def among_rows(self, layer: Any = None) -> list[Any]:
        """Layers from rows of features to rows, among them `layer`, else a new one."""
        before = [layers.Unflatten(self.shape)] if len(self.shape) == 3 else []
        after = [layers.Flatten()] if len(self.out_shape) == 3 else []
        return [*before, layer or self.make(), *after]

    def between(self, inputs: int, outputs: int, layer: Any = None) -> list[Any]:
        """The same between two `Linear`."""
        last = layers.Linear(math.prod(self.out_shape), outputs)
        return [layers.Linear(inputs, self.features), *self.among_rows(layer), last]


def channels_last(kind: type, *arguments: Any, **settings: Any) -> Callable[[], torch.nn.Module]:
    """Makes a module of PyTorch that takes and gives images `(N, H, W, C)`."""

    class ChannelsLast(kind):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)
            return y.permute(0, 2, 3, 1) if y.ndim == 4 else y

    return lambda: ChannelsLast(*arguments, **settings)


class TorchGlobalAveragePool(torch.nn.Module):
    """As PyTorch users write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)


IMAGE = (4, 3, 4)


def _convolution(id: str, shape: tuple[int, int, int], *sizes: int, **settings: Any) -> LayerCase:
    """A `Conv2d` with these settings, which both libraries call the same."""
    return LayerCase(
        id,
        layers.Conv2d,
        lambda: layers.Conv2d(
            *sizes,
            in_channels=shape[2],
            weight_initializer=GlorotNormal(),
            bias_initializer=Uniform(0.5),
            **settings,
        ),
        channels_last(torch.nn.Conv2d, shape[2], *sizes, **settings),
        shape,
    )


ROW_LAYERS = [
    LayerCase(
        "Linear",
        layers.Linear,
        lambda: layers.Linear(FEATURES, 3, GlorotNormal(), Uniform(0.5)),
        lambda: torch.nn.Linear(FEATURES, 3),
    ),
    LayerCase("Dropout", layers.Dropout, lambda: layers.Dropout(0.4), None),
    LayerCase("GaussianNoise", layers.GaussianNoise, lambda: layers.GaussianNoise(0.7), None),
    LayerCase(
        "BatchNorm",
        layers.BatchNorm,
        lambda: layers.BatchNorm(FEATURES, momentum=0.3, epsilon=1e-3),
        lambda: torch.nn.BatchNorm1d(FEATURES, momentum=0.3, eps=1e-3),
    ),
    LayerCase(
        "LayerNorm",
        layers.LayerNorm,
        lambda: layers.LayerNorm(FEATURES, epsilon=1e-3),
        lambda: torch.nn.LayerNorm(FEATURES, eps=1e-3),
    ),
    LayerCase("ReLU", activations.ReLU, activations.ReLU, torch.nn.ReLU),
    LayerCase(
        "LeakyReLU",
        activations.LeakyReLU,
        lambda: activations.LeakyReLU(0.2),
        lambda: torch.nn.LeakyReLU(0.2),
    ),
    LayerCase("Sigmoid", activations.Sigmoid, activations.Sigmoid, torch.nn.Sigmoid),
    LayerCase("Tanh", activations.Tanh, activations.Tanh, torch.nn.Tanh),
    LayerCase(
        "GELU",
        activations.GELU,
        activations.GELU,
        lambda: torch.nn.GELU(approximate="tanh"),
    ),
    LayerCase("Softmax", activations.Softmax, activations.Softmax, lambda: torch.nn.Softmax(dim=1)),
    LayerCase(
        "Residual",
        layers.Residual,
        lambda: layers.Residual(
            layers.Linear(FEATURES, 4), activations.Tanh(), layers.Linear(4, FEATURES)
        ),
        lambda: TorchResidual(
            torch.nn.Linear(FEATURES, 4), torch.nn.Tanh(), torch.nn.Linear(4, FEATURES)
        ),
    ),
]

IMAGE_LAYERS = [
    LayerCase(
        "Unflatten",
        layers.Unflatten,
        lambda: layers.Unflatten((2, 3, 4)),
        channels_last(torch.nn.Unflatten, 1, (4, 2, 3)),
        (24,),
    ),
    LayerCase("Flatten", layers.Flatten, layers.Flatten, channels_last(torch.nn.Flatten), IMAGE),
    _convolution("Conv2d", IMAGE, 3, 3),
    _convolution("Conv2d of one channel", (5, 6, 1), 3, (2, 4), padding=(0, 1)),
    _convolution(
        "Conv2d strided", IMAGE, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)
    ),
    _convolution("Conv2d in groups", IMAGE, 6, 3, padding=1, groups=2, bias=False),
    _convolution("Conv2d depthwise", IMAGE, 8, 3, stride=2, groups=4),
    LayerCase(
        "MaxPool2d",
        layers.MaxPool2d,
        lambda: layers.MaxPool2d(2),
        channels_last(torch.nn.MaxPool2d, 2),
        IMAGE,
    ),
    LayerCase(
        "MaxPool2d overlapping",
        layers.MaxPool2d,
        lambda: layers.MaxPool2d(3, 2, 1),
        channels_last(torch.nn.MaxPool2d, 3, 2, 1),
        IMAGE,
    ),
    LayerCase(
        "AveragePool2d",
        layers.AveragePool2d,
        lambda: layers.AveragePool2d((2, 3)),
        channels_last(torch.nn.AvgPool2d, (2, 3)),
        IMAGE,
    ),
    LayerCase(
        "AveragePool2d overlapping",
        layers.AveragePool2d,
        lambda: layers.AveragePool2d(3, 2, 1),
        channels_last(torch.nn.AvgPool2d, 3, 2, 1),
        IMAGE,
    ),
    LayerCase(
        "GlobalAveragePool2d",
        layers.GlobalAveragePool2d,
        layers.GlobalAveragePool2d,
        channels_last(TorchGlobalAveragePool),
        IMAGE,
    ),
    LayerCase(
        "BatchNorm2d",
        layers.BatchNorm2d,
        lambda: layers.BatchNorm2d(4, momentum=0.3, epsilon=1e-3),
        channels_last(torch.nn.BatchNorm2d, 4, momentum=0.3, eps=1e-3),
        IMAGE,
    ),
    LayerCase("Dropout2d", layers.Dropout2d, lambda: layers.Dropout2d(0.4), None, IMAGE),
    LayerCase(
        "Residual of images",
        layers.Residual,
        lambda: layers.Residual(
            layers.Conv2d(2, 3, padding=1, in_channels=4),
            activations.Tanh(),
            layers.Conv2d(4, 3, padding=1, in_channels=2),
        ),
        lambda: channels_last(
            TorchResidual,
            torch.nn.Conv2d(4, 2, 3, padding=1),
            torch.nn.Tanh(),
            torch.nn.Conv2d(2, 4, 3, padding=1),
        )(),
        IMAGE,
    ),
    LayerCase("ReLU of images", activations.ReLU, activations.ReLU, torch.nn.ReLU, IMAGE),
    LayerCase("Dropout of images", layers.Dropout, lambda: layers.Dropout(0.4), None, IMAGE),
    LayerCase(
        "GaussianNoise of images",
        layers.GaussianNoise,
        lambda: layers.GaussianNoise(0.7),
        None,
        IMAGE,
    ),
]

LAYERS = [*ROW_LAYERS, *IMAGE_LAYERS]


@dataclass(frozen=True)
class LossCase:
    id: str
    kind: type
    target: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
    torch: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Per-element losses, to be averaged."""
    make: Callable[[], Any]


def _labels(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, shape[1], shape[0])


def _values(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape)


def pinball(z: torch.Tensor, t: torch.Tensor, q: float) -> torch.Tensor:
    """The loss of the `q`-quantile, which PyTorch lacks."""
    return torch.maximum(q * (t - z), (q - 1) * (t - z))


LOSSES = [
    LossCase(
        "SoftmaxCrossEntropy",
        losses.SoftmaxCrossEntropy,
        _labels,
        lambda z, t: torch.nn.functional.cross_entropy(z, t, reduction="none"),
        losses.SoftmaxCrossEntropy,
    ),
    LossCase(
        "SoftmaxCrossEntropy smoothed",
        losses.SoftmaxCrossEntropy,
        _labels,
        lambda z, t: torch.nn.functional.cross_entropy(
            z, t, reduction="none", label_smoothing=0.15
        ),
        lambda: losses.SoftmaxCrossEntropy(0.15),
    ),
    LossCase(
        "SigmoidBinaryCrossEntropy",
        losses.SigmoidBinaryCrossEntropy,
        lambda rng, shape: rng.random(shape),
        lambda z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none"),
        losses.SigmoidBinaryCrossEntropy,
    ),
    LossCase(
        "MeanSquaredError",
        losses.MeanSquaredError,
        _values,
        lambda z, t: torch.nn.functional.mse_loss(z, t, reduction="none"),
        losses.MeanSquaredError,
    ),
    LossCase(
        "MeanAbsoluteError",
        losses.MeanAbsoluteError,
        _values,
        lambda z, t: torch.nn.functional.l1_loss(z, t, reduction="none"),
        losses.MeanAbsoluteError,
    ),
    LossCase(
        "Huber",
        losses.Huber,
        _values,
        lambda z, t: torch.nn.functional.huber_loss(z, t, reduction="none"),
        losses.Huber,
    ),
    LossCase(
        "Huber-delta",
        losses.Huber,
        _values,
        lambda z, t: torch.nn.functional.huber_loss(z, t, reduction="none", delta=2.5),
        lambda: losses.Huber(2.5),
    ),
    LossCase(
        "Poisson",
        losses.Poisson,
        lambda rng, shape: rng.poisson(2, shape).astype(np.float64),
        lambda z, t: torch.nn.functional.poisson_nll_loss(z, t, reduction="none"),
        losses.Poisson,
    ),
    LossCase("Quantile", losses.Quantile, _values, partial(pinball, q=0.5), losses.Quantile),
    LossCase(
        "Quantile-0.9",
        losses.Quantile,
        _values,
        partial(pinball, q=0.9),
        lambda: losses.Quantile(0.9),
    ),
]


@dataclass(frozen=True)
class OptimizerCase:
    id: str
    kind: type
    make: Callable[..., Any]
    torch: Callable[..., torch.optim.Optimizer]


_WARM = schedules.WarmUp(schedules.Cosine(0.05, 40), 10)

OPTIMIZERS = [
    OptimizerCase("SGD", optimizers.SGD, optimizers.SGD, torch.optim.SGD),
    OptimizerCase(
        "SGD-momentum",
        optimizers.SGD,
        lambda **o: optimizers.SGD(0.03, momentum=0.9, **o),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
    ),
    OptimizerCase(
        "SGD-nesterov",
        optimizers.SGD,
        lambda **o: optimizers.SGD(0.03, momentum=0.8, nesterov=True, **o),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8, nesterov=True),
    ),
    OptimizerCase("RMSprop", optimizers.RMSprop, optimizers.RMSprop, torch.optim.RMSprop),
    OptimizerCase(
        "RMSprop-momentum",
        optimizers.RMSprop,
        lambda **o: optimizers.RMSprop(0.002, decay_rate=0.9, epsilon=1e-3, momentum=0.7, **o),
        lambda p: torch.optim.RMSprop(p, lr=0.002, alpha=0.9, eps=1e-3, momentum=0.7),
    ),
    OptimizerCase("Adam", optimizers.Adam, optimizers.Adam, torch.optim.Adam),
    OptimizerCase(
        "Adam-betas",
        optimizers.Adam,
        lambda **o: optimizers.Adam(0.02, beta1=0.7, beta2=0.95, epsilon=1e-2, **o),
        lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.7, 0.95), eps=1e-2),
    ),
    OptimizerCase(
        "AdamW",
        optimizers.AdamW,
        lambda **o: optimizers.AdamW(0.02, **o),
        lambda p: torch.optim.AdamW(p, lr=0.02),
    ),
]


@dataclass(frozen=True)
class InitializerCase:
    id: str
    kind: type
    make: Callable[[], Any]
    deviation: Callable[[int, int], float]
    """Standard deviation for (fan_in, fan_out)."""
    bound: Callable[[int, int], float] | None
    torch: Callable[[torch.Tensor], Any]


INITIALIZERS = [
    InitializerCase(
        "HeNormal",
        initializers.HeNormal,
        initializers.HeNormal,
        lambda i, o: (2 / i) ** 0.5,
        None,
        lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    ),
    InitializerCase(
        "HeUniform",
        initializers.HeUniform,
        initializers.HeUniform,
        lambda i, o: (2 / i) ** 0.5,
        lambda i, o: (6 / i) ** 0.5,
        lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    ),
    InitializerCase(
        "GlorotNormal",
        initializers.GlorotNormal,
        initializers.GlorotNormal,
        lambda i, o: (2 / (i + o)) ** 0.5,
        None,
        torch.nn.init.xavier_normal_,
    ),
    InitializerCase(
        "GlorotUniform",
        initializers.GlorotUniform,
        initializers.GlorotUniform,
        lambda i, o: (2 / (i + o)) ** 0.5,
        lambda i, o: (6 / (i + o)) ** 0.5,
        torch.nn.init.xavier_uniform_,
    ),
    InitializerCase(
        "LeCunNormal",
        initializers.LeCunNormal,
        initializers.LeCunNormal,
        lambda i, o: i**-0.5,
        None,
        lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="linear"),
    ),
    InitializerCase(
        "LeCunUniform",
        initializers.LeCunUniform,
        initializers.LeCunUniform,
        lambda i, o: i**-0.5,
        lambda i, o: (3 / i) ** 0.5,
        lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    ),
    InitializerCase(
        "Uniform",
        initializers.Uniform,
        lambda: initializers.Uniform(0.3),
        lambda i, o: 0.3 / 3**0.5,
        lambda i, o: 0.3,
        lambda w: torch.nn.init.uniform_(w, -0.3, 0.3),
    ),
    InitializerCase(
        "Zeros",
        initializers.Zeros,
        initializers.Zeros,
        lambda i, o: 0.0,
        lambda i, o: 0.0,
        torch.nn.init.zeros_,
    ),
    InitializerCase(
        "Ones",
        initializers.Ones,
        initializers.Ones,
        lambda i, o: 0.0,
        lambda i, o: 1.0,
        torch.nn.init.ones_,
    ),
]


@dataclass(frozen=True)
class ScheduleCase:
    id: str
    kind: type
    schedule: Any
    torch: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


_lr = torch.optim.lr_scheduler

SCHEDULES = [
    ScheduleCase(
        "Constant",
        schedules.Constant,
        schedules.Constant(0.3),
        lambda o: _lr.ConstantLR(o, factor=1.0, total_iters=0),
    ),
    ScheduleCase(
        "StepDecay",
        schedules.StepDecay,
        schedules.StepDecay(0.3, every=7, factor=0.5),
        lambda o: _lr.StepLR(o, step_size=7, gamma=0.5),
    ),
    ScheduleCase(
        "Cosine",
        schedules.Cosine,
        schedules.Cosine(0.3, steps=50, final=0.01),
        lambda o: _lr.CosineAnnealingLR(o, T_max=50, eta_min=0.01),
    ),
    ScheduleCase(
        "OneCycle",
        schedules.OneCycle,
        schedules.OneCycle(0.3, steps=50),
        lambda o: _lr.OneCycleLR(o, max_lr=0.3, total_steps=50),
    ),
    ScheduleCase(
        "WarmUp",
        schedules.WarmUp,
        schedules.WarmUp(schedules.Cosine(0.3, steps=40), steps=10),
        lambda o: _lr.SequentialLR(
            o,
            [
                _lr.LinearLR(o, start_factor=1 / 11, end_factor=1.0, total_iters=10),
                _lr.CosineAnnealingLR(o, T_max=40),
            ],
            milestones=[10],
        ),
    ),
]


def by_id(cases: list[Any]) -> dict[str, Any]:
    """Keywords for `pytest.mark.parametrize("case", **by_id(...))`."""
    return {"argvalues": cases, "ids": [case.id for case in cases]}


def error(found: Any, expected: Any) -> float:
    """Norm-wise relative error of two host arrays or tensors of one shape."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
    scale = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / scale) if scale else float(np.linalg.norm(a))


@contextmanager
def as_written() -> Iterator[None]:
    """Within the block formulas alone are used, by `fit()` too: what all else is compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SETTINGS, "kernels_enabled", False)
        with dispatch.use_kernels():
            yield


def place(backend: Backend, array: Any, dtype: str | None = None) -> Array:
    """A copy of `array` on the backend, contiguous."""
    return backend.asarray(np.array(array, order="C"), dtype=dtype)


def sparse_rows(rng: np.random.Generator, rows: int, features: int, share: float) -> SparseRows:
    """About that share of the entries of `(rows, features)`, at least one, some of them twice."""
    is_stored = rng.random((rows, features)) < share
    is_stored[rng.integers(rows), rng.integers(features)] = True
    row, column = np.repeat(np.argwhere(is_stored), rng.integers(1, 3, is_stored.sum()), axis=0).T
    starts = np.searchsorted(row, np.arange(rows + 1))
    return SparseRows(starts, column.astype(np.int32), rng.standard_normal(len(row)), features)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
