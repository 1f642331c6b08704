"""Weight initializers: random values are drawn on the host and copied to the device by the network.

Each initializer is called with a NumPy `Generator` and a shape `(fan_out, fan_in)` (or
`(features,)` for a bias or gain) and returns float64 draws of that shape. They are cast to the
network's dtype afterwards, so float32 and float64 networks start from the same numbers.

He, Glorot and LeCun keep the variance of signals constant from layer to layer. For `y = W x`
with independent zero-mean entries, `Var(y) = fan_in · Var(W) · E[x²]`, and backwards
`Var(dx) = fan_out · Var(W) · E[dy²]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from xpnet.errors import ConfigError, short_repr
from xpnet.utils.arguments import real


@dataclass(frozen=True)
class Initializer:
    """Base: `initializer(generator, shape) -> (fan_out, fan_in) float64`."""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw an array of `shape` from `generator` (`numpy.random.Generator`)."""
        raise TypeError(
            f"{type(self).__name__} defines no __call__(generator, shape), which returns the values"
        )


def require_initializer(name: str, draw: object) -> None:
    """Raise `ConfigError` unless `draw`, the argument called `name`, can draw values."""
    if isinstance(draw, type) or not callable(draw):
        raise ConfigError(
            f"{name} must be an initializer such as HeNormal(), found {short_repr(draw)}"
        )


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """`(fan_in, fan_out)` of `(out, in)`, of `(out, in, kh, kw)` of a convolution, or of a vector.

    A unit of a convolution has an input for each channel and pixel of a window.
    """
    if len(shape) == 1:
        return shape[0], shape[0]
    pixels = math.prod(shape[2:])
    return shape[1] * pixels, shape[0] * pixels


class HeNormal(Initializer):
    """Normal with variance `2 / fan_in`: the 2 because ReLU sets half of its inputs to 0.

    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10. The deviation is
    `√(2 / fan_in)`; a common mistake is to use it as the variance.
    """

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        return generator.normal(0.0, math.sqrt(2 / _fans(shape)[0]), shape)


class HeUniform(Initializer):
    """Uniform on ±`√(6 / fan_in)`, whose variance (bound² / 3) is `HeNormal`'s."""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        bound = math.sqrt(6 / _fans(shape)[0])
        return generator.uniform(-bound, bound, shape)


class GlorotNormal(Initializer):
    """Normal with variance `2 / (fan_in + fan_out)`: forward and backward in balance.

    Also called Xavier. Glorot, Bengio, "Understanding the difficulty of training deep
    feedforward neural networks", AISTATS 2010, eq. 12.
    """

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        return generator.normal(0.0, math.sqrt(2 / sum(_fans(shape))), shape)


class GlorotUniform(Initializer):
    """Uniform on ±`√(6 / (fan_in + fan_out))` (Glorot, Bengio 2010, eq. 16)."""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        bound = math.sqrt(6 / sum(_fans(shape)))
        return generator.uniform(-bound, bound, shape)


class LeCunNormal(Initializer):
    """Normal with variance `1 / fan_in`, for units that are linear around zero.

    LeCun, Bottou, Orr, Müller, "Efficient BackProp", 1998, section 4.6.
    """

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        return generator.normal(0.0, math.sqrt(1 / _fans(shape)[0]), shape)


class LeCunUniform(Initializer):
    """Uniform on ±`√(3 / fan_in)`, whose variance is `LeCunNormal`'s."""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape` `(out, in)`, or `(out, in, kh, kw)`."""
        bound = math.sqrt(3 / _fans(shape)[0])
        return generator.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on ±`bound`, whatever the shape."""

    bound: float = 0.5

    def __post_init__(self) -> None:
        # What is drawn has to be a finite float32.
        bound = real("bound of Uniform", self.bound, 0, 3e38, low_is_allowed=False)
        object.__setattr__(self, "bound", bound)

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Draw float64 of `shape`."""
        return generator.uniform(-self.bound, self.bound, shape)


class Zeros(Initializer):
    """All zeros: for biases. (Weights of zeros would give every unit the same gradient.)"""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Zeros of `shape`, drawing nothing from `generator`."""
        return generator.uniform(0.0, 0.0, shape)


class Ones(Initializer):
    """All ones: for the gains of normalisation layers."""

    def __call__(self, generator: Any, shape: tuple[int, ...]) -> Any:
        """Ones of `shape`."""
        return generator.uniform(1.0, 1.0, shape)
