"""Layers with random numbers in training: `Dropout`, `Dropout2d` and `GaussianNoise`.

Shapes: `x`, `y`, `dx`, `dy`: `(N, F)`, or images `(N, H, W, C)`; float32 or float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from xpnet import random
from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, Backend, array_module
from xpnet.layers.base import Layer
from xpnet.layers.images import ImageLayer
from xpnet.layers.shapes import Shape
from xpnet.utils.arguments import real
from xpnet.workspace import Workspace


@dataclass(eq=False)
class _Drawing(Layer):
    """Common base of `Dropout` and `GaussianNoise`: random bits for each training sample and unit.

    They are a pure function of (seed, layer, number of the training sample, unit): see
    `xpnet.random`. So they do not depend on the device or on the batch size.
    """

    purpose: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.set_seed(0, 0)

    def set_seed(self, seed: int, position: int | str) -> None:
        """Random numbers are determined by the network's seed and the layer's position in it."""
        self._seed, self._purpose = seed, f"{self.purpose} {position}"
        self.set_sample_counter(0)

    def set_sample_counter(self, samples: int) -> None:
        """The next row is that of training sample number `samples` since the start."""
        self._samples = samples
        self._counters: Array | None = None
        self._units: Array = ()

    def _place(self, x: Array, units: int) -> None:
        """Upload what the draws start from: the counter of the next row, a word per unit."""
        backend = Backend.of(x)
        self._counter(backend)
        if len(self._units) != units:
            words = random.unit_keys(self._seed, f"{self._purpose} units", units)
            self._units = backend.asarray(words)

    def _begin_part(self, whole: Layer, start: int, backend: Backend) -> None:
        assert isinstance(whole, _Drawing)
        if (self._seed, self._purpose) != (whole._seed, whole._purpose):
            self._seed, self._purpose, self._units = whole._seed, whole._purpose, ()
        counter = whole._counter(backend)
        xp = array_module(counter)
        self._counters = self.workspace.array(xp, "counter", (1,), xp.uint64)
        xp.add(counter, start, out=self._counters)

    def _skip_samples(self, count: int, backend: Backend) -> None:
        counter = self._counter(backend)
        array_module(counter).add(counter, count, out=counter)

    def _counter(self, backend: Backend) -> Array:
        """The counter of the next row, `(1,)` uint64."""
        if self._counters is None:
            start = random.first_counter(self._seed, self._purpose, self._samples)
            self._counters = backend.asarray([start], dtype=backend.xp.uint64)
        return self._counters


@dataclass(eq=False)
class Dropout(_Drawing):
    """Inverted dropout: in training each unit is 0 with probability `rate`, else `x / (1 − rate)`.

    `y = x · m` with `m = [kept] / (1 − rate)`, so `E[y] = x` and prediction needs no change; for a
    given mask the layer is linear, `dx = dy · m`. Srivastava, Hinton, Krizhevsky, Sutskever,
    Salakhutdinov, "Dropout", JMLR 2014, section 10 (the inverted form).

    Raises `ConfigError` for a rate outside of `[0, 1)`.
    """

    rate: float = 0.5
    purpose = "dropout"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rate = real(f"rate of {type(self).__name__}", self.rate, 0, 1)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`, or images; the identity unless `training`."""
        if not training:
            return x
        shape, x = x.shape, _rows(x)
        xp, units = array_module(x), x.shape[1]
        self.mask, y = self.like(x, "mask"), self.like(x, "y")
        threshold, scale = min(round(self.rate * 2**32), 2**32 - 1), 1 / (1 - self.rate)
        self._place(x, units)
        draws = self._counters, self._units
        dropout(xp, x, *draws, threshold, scale, self.mask, y, workspace=self.workspace)
        return y.reshape(shape)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`, or images, through the mask of the last forward pass."""
        xp = array_module(dy, self.mask)
        return xp.multiply(dy, self.mask.reshape(dy.shape), out=self.like(dy, "dx"))


@dataclass(eq=False)
class Dropout2d(ImageLayer, Dropout):
    """Dropout of whole channels of images: in training a channel of a sample is 0 with probability
    `rate`, else `x / (1 − rate)`.

    `y_nhwc = x_nhwc · m_nc` with the mask `m` of `Dropout` for the channels, so
    `dx_nhwc = dy_nhwc · m_nc`. Neighbouring pixels of a channel are alike, so that dropping single
    ones hides little. `x`, `y`: `(N, H, W, C)`. Tompson, Goroshin, Jain, LeCun, Bregler, "Efficient
    object localization using convolutional networks", CVPR 2015, section 3.2.

    Raises `ConfigError` for a rate outside of `[0, 1)`, and `ShapeError`, when the layer joins a
    network, for rows of features.
    """

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """The shape of the image. Raises `ShapeError`."""
        if shape is not None:
            self.require_image(shape)
        return shape

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, H, W, C)`; the identity unless `training`."""
        if not training:
            return x
        xp, count, channels = array_module(x), len(x), self.require_image(x.shape[1:])[2]
        ones = self.workspace.ones(xp, count * channels, x.dtype).reshape(count, channels)
        # The mask of `Dropout` times 1.
        mask = super().forward(ones, training=True)
        self.by_channel = mask.reshape(count, 1, 1, channels)
        return xp.multiply(x, self.by_channel, out=self.like(x, "images"))

    def backward(self, dy: Array) -> Array:
        """`(N, H, W, C) -> (N, H, W, C)`, through the mask of the last forward pass."""
        xp = array_module(dy, self.by_channel)
        return xp.multiply(dy, self.by_channel, out=self.like(dy, "dx"))


@dataclass(eq=False)
class GaussianNoise(_Drawing):
    """Adds Gaussian noise to each value in training: `y = x + σ n`, `n ~ N(0, 1)`; `dx = dy`.

    At the input and after each `BatchNorm`, whose outputs initially have standard deviation 1, a
    `std` σ of 0.1 to 0.3 can replace dropout: Rasmus, Valpola, Honkala, Berglund, Raiko,
    "Semi-supervised learning with ladder networks", NeurIPS 2015, table 1, the baseline.

    Each 32-bit word gives two values by the Box-Muller method ("A note on the generation of random
    normal deviates", 1958): its upper half gives `u` in (0, 1], its lower half an angle `a`, and
    `√(−2 log u) cos a` and `√(−2 log u) sin a` are independent and normal (none beyond 4.7).

    Raises `ConfigError` unless `0 <= std < 1e19`.
    """

    std: float = 0.1
    purpose = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        # Its square is taken.
        self.std = real("std of GaussianNoise", self.std, 0, 1e19)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`, or images; the identity unless `training`."""
        if not training:
            return x
        shape, x = x.shape, _rows(x)
        xp, y = array_module(x), self.like(x, "y")
        self._place(x, (x.shape[1] + 1) // 2)
        draws, factor = (self._counters, self._units), -2 * float(self.std) ** 2
        gaussian_noise(xp, x, *draws, factor, y, workspace=self.workspace)
        return y.reshape(shape)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`, or images: `dy` itself."""
        return dy


def _rows(x: Array) -> Array:
    """A batch of images as rows `(N, H·W·C)`: every pixel of every channel is a unit."""
    return x if x.ndim == 2 else x.reshape(len(x), -1)


@accelerated
def dropout(
    xp: Any,
    x: Array,
    counter: Array,
    units: Array,
    threshold: int,
    scale: float,
    mask: Array,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`m = [bits ≥ threshold] · scale`, `y = x · m`; advances the counter by `N`."""
    bits = random_bits(xp, len(x), counter, units, workspace)
    kept = workspace.array(xp, "kept", x.shape, bool)
    xp.greater_equal(bits, threshold, out=kept)
    xp.multiply(kept, scale, out=mask, dtype=x.dtype)
    xp.multiply(x, mask, out=y)


@accelerated
def gaussian_noise(
    xp: Any,
    x: Array,
    counter: Array,
    units: Array,
    factor: float,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`y = x + √(factor · log u) (cos a, sin a)`, `factor = −2 σ²`; advances the counter by `N`."""
    (count, features), half = x.shape, len(units)
    bits = random_bits(xp, count, counter, units, workspace)
    radius = workspace.array(xp, "radius", (count, half), x.dtype)
    angle = workspace.array(xp, "angle", (count, half), x.dtype)
    upper = workspace.array(xp, "upper", (count, half), xp.uint32)
    xp.right_shift(bits, 16, out=upper)
    xp.bitwise_and(bits, 2**16 - 1, out=bits)
    xp.multiply(bits, math.tau / 2**16, out=angle, dtype=x.dtype)
    xp.add(upper, 1, out=upper)
    xp.multiply(upper, 2**-16, out=radius, dtype=x.dtype)
    xp.log(radius, out=radius)
    xp.multiply(radius, factor, out=radius)
    xp.sqrt(radius, out=radius)
    wave = workspace.array(xp, "wave", (count, half), x.dtype)
    xp.cos(angle, out=wave)
    xp.multiply(wave, radius, out=wave)
    xp.copyto(y[:, :half], wave)
    xp.sin(angle, out=wave)
    xp.multiply(wave, radius, out=wave)
    xp.copyto(y[:, half:], wave[:, : features - half])
    xp.add(y, x, out=y)


def random_bits(xp: Any, count: int, counter: Array, units: Array, workspace: Workspace) -> Array:
    """32 random bits for each of the next `count` samples and each unit: `(count, units)`."""
    rows = random.sample_words(workspace, counter, count).reshape(count, 1)
    bits = workspace.array(xp, "bits", (count, len(units)), xp.uint32)
    spare = workspace.array(xp, "spare", (count, len(units)), xp.uint32)
    return random.hash_bits(rows, units, out=bits, scratch=spare)
