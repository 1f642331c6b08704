"""The workloads as data, and the samples and weights that all competitors share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.utils.image_layers import BriefLayer, image_layers

CLASSES = 10
SIDE = 28
GATE_STEPS = 6
"""Steps that every competitor trains before it is timed, to compare its losses."""
NEVER = 1e-12
"""A dropout rate that runs the same code and drops nothing."""

EPSILON = 1e-12
"""Adam's, for all: libraries add it before or after the bias correction, and with the usual 1e-8
that alone changes losses by 1e-3 within a few steps. With this value both agree."""


@dataclass(frozen=True)
class Workload:
    """A network, how it is trained or predicts, and the steps of one timed repeat.

    `sizes`: units of each layer, input first; `activations`: one for each hidden layer. `conv`:
    layers before the first dense one, in brief (see `xpnet.utils.image_layers`), for which an input
    row is an image of `SIDE` x `SIDE` pixels; each convolution has ReLU, after a pooling that
    follows.
    `batch`: samples per step, of `rows` in memory; where they are equal, a full batch without
    selection. `optimizer`: `sgd`, `momentum` (0.9), `adam`, or `none` for prediction, where a step
    is one call for `batch` rows. A repeat is `passes` times `rows / batch` steps.
    """

    name: str
    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    batch: int
    rows: int
    optimizer: str = "none"
    rate: float = 0.0
    dropout: float = 0.0
    passes: int = 1
    conv: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Workload:
        """Out of `dataclasses.asdict`, through JSON or not."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @property
    def predicts(self) -> bool:
        """Whether the workload is prediction, not training."""
        return self.optimizer == "none"

    @property
    def steps(self) -> int:
        """Steps (or calls) of one pass over the rows."""
        return self.rows // self.batch

    @property
    def title(self) -> str:
        """`784-128-10 relu, batch 64, sgd`."""
        net = "-".join([str(self.sizes[0]), *self.conv, *map(str, self.sizes[1:])])
        how = "/".join(dict.fromkeys(self.activations))
        drop = f", dropout {self.dropout:g}" if self.dropout else ""
        if self.predicts:
            return f"{net} {how}, prediction of {self.batch:,} {_plural('row', self.batch)}"
        batch = f"full batch of {self.rows:,}" if self.steps == 1 else f"batch {self.batch}"
        return f"{net} {how}{drop}, {batch}, {self.optimizer}"

    def data(self) -> tuple[HostArray, HostArray]:
        """`x (rows, features)` float32 in [0, 1), 19 % of it not 0, as in MNIST; `labels (rows,)`.

        Labels follow from a random linear map, so that there is something to learn.
        """
        draw = numpy.random.default_rng(1)
        x = draw.random((self.rows, self.sizes[0]), dtype=numpy.float32)
        x -= numpy.float32(0.81)
        numpy.maximum(x, 0, out=x)
        x /= numpy.float32(0.19)
        teacher = draw.standard_normal((self.sizes[0], CLASSES), dtype=numpy.float32)
        scores = x @ teacher
        return x, (scores - scores.mean(axis=0)).argmax(axis=1)

    @property
    def images(self) -> list[ImageLayer]:
        """The layers of `conv` with the shapes of their inputs and outputs."""
        found: list[ImageLayer] = []
        shape, layers = (SIDE, SIDE, 1), image_layers(self.conv or ("none",))
        for layer, following in zip(layers, [*layers[1:], None], strict=False):
            has_pool = following is not None and following.kind == "pool"
            was_convolution = bool(found) and found[-1].layer.kind == "conv"
            is_pool = layer.kind == "pool"
            # After a pooling ReLU gives the same values, and has fewer to compute.
            relu = was_convolution if is_pool else not has_pool
            found.append(ImageLayer(layer, shape, relu))
            shape = found[-1].output
        return found

    @property
    def convolutions(self) -> list[ImageLayer]:
        """The convolutions among `images`."""
        return [image for image in self.images if image.layer.kind == "conv"]

    @property
    def dense_sizes(self) -> tuple[int, ...]:
        """Units of the dense layers, the number of their inputs first."""
        images = self.images
        first = math.prod(images[-1].output) if images else self.sizes[0]
        return (first, *self.sizes[1:])

    def weights(self) -> list[tuple[HostArray, HostArray]]:
        """Initial `(W (in, out), b (out,))` of each dense layer, float32: He's normal, zeros.

        After convolutions the inputs of the first are in the order channels, height, width.
        """
        draw = numpy.random.default_rng(2)
        return [_drawn(draw, (a, b)) for a, b in pairwise(self.dense_sizes)]

    def kernels(self) -> list[tuple[HostArray, HostArray]]:
        """Initial `(W (kernel, kernel, in, out), b (out,))` of each convolution, as `weights`."""
        draw = numpy.random.default_rng(4)
        return [_drawn(draw, image.kernel) for image in self.convolutions]

    def channels_last_weights(self) -> list[tuple[HostArray, HostArray]]:
        """As `weights`, for libraries whose images end in the order height, width, channels."""
        (first, bias), *others = self.weights()
        height, width, channels = self.images[-1].output
        rows = first.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        return [(rows.reshape(first.shape), bias), *others]

    def gate_rows(self) -> HostArray:
        """The rows of each step of the gate, `(GATE_STEPS, batch)`."""
        return numpy.arange(GATE_STEPS * self.batch).reshape(GATE_STEPS, -1) % self.rows


@dataclass(frozen=True)
class ImageLayer:
    """A convolution or a max pooling.

    `input`: the shape `(height, width, channels)` of its inputs; `relu`: whether ReLU comes next.
    """

    layer: BriefLayer
    input: tuple[int, int, int]
    relu: bool

    @property
    def output(self) -> tuple[int, int, int]:
        """The shape of its outputs."""
        layer, (height, width, channels) = self.layer, self.input
        size, step, both = layer.kernel_size, layer.stride, 2 * layer.padding
        return (
            (height + both - size) // step + 1,
            (width + both - size) // step + 1,
            layer.channels or channels,
        )

    @property
    def kernel(self) -> tuple[int, int, int, int]:
        """The shape of the weights of a convolution."""
        size = self.layer.kernel_size
        return (size, size, self.input[2], self.layer.channels)


def _drawn(draw: Any, shape: tuple[int, ...]) -> tuple[HostArray, HostArray]:
    scale = numpy.sqrt(2 / math.prod(shape[:-1]))
    weight = (draw.standard_normal(shape) * scale).astype(numpy.float32)
    return weight, numpy.zeros(shape[-1], numpy.float32)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


_LENET = ("16k5", "pool", "32k5", "pool")
_VGG = ("32k3p1", "32k3p1", "pool", "64k3p1", "64k3p1", "pool")
_DIGITS = (784, 128, 64, 10)
WORKLOADS = [
    Workload("W1", (784, 10, 10), ("relu",), 41_000, 41_000, "sgd", 0.1, passes=20),
    Workload("W2", (784, 128, 10), ("relu",), 64, 32_000, "sgd", 0.1),
    Workload("W3", _DIGITS, ("relu", "tanh"), 16, 8_000, "adam", 1e-3),
    Workload("W3-dropout", _DIGITS, ("relu", "tanh"), 16, 8_000, "adam", 1e-3, dropout=0.1),
    Workload("W4", (784, 512, 256, 10), ("relu",) * 2, 128, 10_240, "adam", 1e-3),
    Workload(
        "W5", (784, 2500, 2000, 1500, 1000, 500, 10), ("relu",) * 5, 512, 1_024, "momentum", 0.01
    ),
    Workload("W6-many", (784, 128, 10), ("relu",), 10_000, 10_000, passes=5),
    Workload("W6-one", (784, 128, 10), ("relu",), 1, 1_000, passes=2),
    Workload("W7", (784, 128, 10), ("relu",), 64, 2_560, "adam", 1e-3, conv=_LENET),
    Workload("W8", (784, 128, 10), ("relu",), 64, 512, "adam", 1e-3, conv=_VGG),
]


def quick(workload: Workload) -> Workload:
    """A small version, to check that everything runs; its times mean nothing."""
    batch = min(workload.batch, 64)
    sizes = tuple(min(size, 784 if place == 0 else 64) for place, size in enumerate(workload.sizes))
    steps = 1 if workload.steps == 1 else 4
    return replace(workload, sizes=sizes, batch=batch, rows=batch * steps, passes=1)
