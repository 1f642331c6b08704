"""Activations: elementwise layers without parameters, and the softmax.

For an elementwise `y = f(x)` the chain rule is `dx = dy · f′(x)`; each class computes `f′` from
arrays stored in the forward pass. `x`, `y`, `dy`, `dx`: `(N, features)` or images, float32 or
float64, all on the same device. See `Layer` for how long returned arrays stay valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.layers.base import Layer
from xpnet.layers.shapes import Shape, require_rows
from xpnet.utils.arguments import real
from xpnet.workspace import Workspace


@dataclass(eq=False)
class ReLU(Layer):
    """Rectifier: `y = max(x, 0)`.

    `f′(x) = 1` for `x > 0`, that is `y > 0`, else 0 (by convention at 0): `dx = dy · [y > 0]`.
    Nair, Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(x)
        self.y = y = self.like(x, "y")
        relu(xp, x, y, workspace=self.workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.y)
        dx = self.like(dy, "dx")
        relu_backward(xp, dy, self.y, dx, workspace=self.workspace)
        return dx


@dataclass(eq=False)
class LeakyReLU(Layer):
    """Leaky rectifier: `y = x` for `x > 0`, else `slope · x`, with `0 ≤ slope < 1`.

    Because `slope < 1`, `y = max(x, slope · x)`. `f′(x) = 1` for `x > 0`, else `slope`; this is
    `max([x > 0], slope)`. Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network
    acoustic models", ICML 2013. Default slope 0.01, as in PyTorch.
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = real("slope of LeakyReLU", self.slope, 0, 1)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(x)
        self.x = x
        y = xp.multiply(x, self.slope, out=self.like(x, "y"))
        return xp.maximum(x, y, out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.x)
        dx = self.like(dy, "dx")
        leaky_relu_backward(xp, dy, self.x, float(self.slope), dx, workspace=self.workspace)
        return dx


@dataclass(eq=False)
class Sigmoid(Layer):
    """Logistic function: `y = σ(x) = 1 / (1 + exp(−x))`.

    Written as `exp(min(x, 0)) / (1 + exp(−|x|))`, which has the same value and cannot overflow: for
    `x < 0` numerator and denominator are multiplied by `exp(x)`. From
    `σ′ = exp(−x) / (1 + exp(−x))² = σ (1 − σ)`: `dx = dy · y · (1 − y)`.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(x)
        self.y = self.like(x, "y")
        sigmoid_forward(xp, x, self.y, workspace=self.workspace)
        return self.y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.y)
        dx = self.like(dy, "dx")
        sigmoid_backward(xp, dy, self.y, dx)
        return dx


@dataclass(eq=False)
class Tanh(Layer):
    """Hyperbolic tangent: `y = tanh(x)`.

    `tanh′ = 1 − tanh²`, so `dx = dy · (1 − y²)`.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(x)
        self.y = xp.tanh(x, out=self.like(x, "y"))
        return self.y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.y)
        dx = self.like(dy, "dx")
        tanh_backward(xp, dy, self.y, dx)
        return dx


_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


@dataclass(eq=False)
class GELU(Layer):
    """Gaussian error linear unit, in its tanh form: `y = ½ x (1 + tanh u)`.

    `u = √(2/π) · (x + 0.044715 x³)` (Hendrycks, Gimpel, "Gaussian error linear units", 2016,
    section 2). NumPy has no erf, so this is PyTorch's `GELU(approximate="tanh")`. With
    `t = tanh u` and `u′ = √(2/π) · (1 + 3 · 0.044715 x²)` the product rule gives
    `dx = dy · (½ (1 + t) + ½ x (1 − t²) u′)`.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(x)
        self.x = x
        self.t = t = self.like(x, "t")
        y = self.like(x, "y")
        gelu(xp, x, _GELU_CUBIC, _GELU_SCALE, t, y)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.x)
        dx, t, cubic = self.like(dy, "dx"), self.t, 3 * _GELU_CUBIC
        gelu_backward(xp, dy, self.x, t, cubic, _GELU_SCALE, dx, workspace=self.workspace)
        return dx


@dataclass(eq=False)
class Softmax(Layer):
    """Softmax over the features of each row: `y_j = exp(x_j) / Σ_k exp(x_k)`.

    `∂y_j/∂x_k = y_j ([j = k] − y_k)`, so summing over `j`:
    `dx_k = Σ_j dy_j y_j ([j = k] − y_k) = y_k (dy_k − Σ_j dy_j y_j)`.
    A classifier's last layer stays linear: `SoftmaxCrossEntropy` takes logits.
    """

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """That of `x`. Raises `ShapeError` for images."""
        require_rows(self, shape)
        return shape

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`, each row positive with sum 1."""
        xp = array_module(x)
        self.y = y = self.like(x, "y")
        softmax_forward(xp, x, y, workspace=self.workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`."""
        xp = array_module(dy, self.y)
        dx = self.like(dy, "dx")
        softmax_backward(xp, dy, self.y, dx, workspace=self.workspace)
        return dx


ACTIVATIONS: dict[str, type[Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
}
"""The activations of hidden layers, by their names in settings and in `Sequential`."""


@accelerated
def relu(xp: Any, x: Array, y: Array, *, workspace: Workspace) -> None:
    """`y = max(x, 0)`."""
    xp.maximum(x, workspace.zeros(xp, x.shape, x.dtype), out=y)


@accelerated
def relu_backward(xp: Any, dy: Array, x: Array, dx: Array, *, workspace: Workspace) -> None:
    """`dx = dy · [x > 0]`."""
    positive = workspace.array(xp, "positive", dy.shape, bool)
    xp.greater(x, 0, out=positive)
    xp.copyto(dx, positive)
    xp.multiply(dx, dy, out=dx)


@accelerated
def leaky_relu_backward(
    xp: Any, dy: Array, x: Array, slope: float, dx: Array, *, workspace: Workspace
) -> None:
    """`dx = dy · max([x > 0], slope)`."""
    positive = workspace.array(xp, "positive", dy.shape, bool)
    xp.greater(x, 0, out=positive)
    xp.maximum(positive, slope, out=dx, dtype=dx.dtype)
    xp.multiply(dy, dx, out=dx)


@accelerated
def sigmoid_forward(xp: Any, x: Array, y: Array, *, workspace: Workspace) -> None:
    """`y = σ(x)`."""
    sigmoid(xp, x, out=y, scratch=workspace.array(xp, "scratch", x.shape, x.dtype))


@accelerated
def sigmoid_backward(xp: Any, dy: Array, y: Array, dx: Array) -> None:
    """`dx = dy · y · (1 − y)`."""
    xp.subtract(1, y, out=dx)
    xp.multiply(dx, y, out=dx)
    xp.multiply(dx, dy, out=dx)


@accelerated
def tanh_backward(xp: Any, dy: Array, y: Array, dx: Array) -> None:
    """`dx = dy · (1 − y²)`."""
    xp.multiply(y, y, out=dx)
    xp.subtract(1, dx, out=dx)
    xp.multiply(dx, dy, out=dx)


@accelerated
def gelu(xp: Any, x: Array, cubic: float, scale: float, t: Array, y: Array) -> None:
    """`t = tanh(scale · (x + cubic · x³))`, `y = ½ x (1 + t)`."""
    xp.multiply(x, x, out=t)
    xp.multiply(t, cubic, out=t)
    xp.add(t, 1, out=t)
    xp.multiply(t, x, out=t)
    xp.multiply(t, scale, out=t)
    xp.tanh(t, out=t)
    xp.add(t, 1, out=y)
    xp.multiply(y, x, out=y)
    xp.multiply(y, 0.5, out=y)


@accelerated
def gelu_backward(
    xp: Any,
    dy: Array,
    x: Array,
    t: Array,
    cubic: float,
    scale: float,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx = dy · (½ (1 + t) + ½ x (1 − t²) u′)`, `u′ = scale · (1 + cubic · x²)`.

    `cubic` is three times that of the forward pass.
    """
    slope = workspace.array(xp, "slope", dy.shape, dy.dtype)
    xp.multiply(x, x, out=slope)
    xp.multiply(slope, cubic, out=slope)
    xp.add(slope, 1, out=slope)
    xp.multiply(slope, scale, out=slope)
    xp.multiply(t, t, out=dx)
    xp.subtract(1, dx, out=dx)
    xp.multiply(dx, slope, out=dx)
    xp.multiply(dx, x, out=dx)
    xp.add(dx, t, out=dx)
    xp.add(dx, 1, out=dx)
    xp.multiply(dx, 0.5, out=dx)
    xp.multiply(dx, dy, out=dx)


@accelerated
def softmax_forward(xp: Any, x: Array, y: Array, *, workspace: Workspace) -> None:
    """`y = softmax(x)`, row by row."""
    row = workspace.array(xp, "row", (len(x), 1), x.dtype)
    softmax(xp, x, axis=1, shifted=y, total=row, out=y)


@accelerated
def softmax_backward(xp: Any, dy: Array, y: Array, dx: Array, *, workspace: Workspace) -> None:
    """`dx = y · (dy − Σ_j dy_j y_j)`, row by row."""
    row = workspace.array(xp, "row", (len(dy), 1), dy.dtype)
    xp.multiply(dy, y, out=dx)
    xp.sum(dx, axis=1, keepdims=True, out=row)
    xp.subtract(dy, row, out=dx)
    xp.multiply(dx, y, out=dx)


def softmax(xp: Any, x: Array, *, axis: int, shifted: Array, total: Array, out: Array) -> Array:
    """Stable softmax along `axis`; returns `out`.

    `exp(x_j) / Σ exp(x_k)` does not change when a constant is added to all `x`; after subtracting
    the maximum, the largest exponential is 1, so nothing overflows. On return
    `shifted = x − max x`, `total = Σ exp(shifted)` (with `axis` kept, length 1) and
    `out = exp(shifted) / total`; `out` may be `shifted`, which is then overwritten.
    """
    shift(xp, x, axis=axis, shifted=shifted, largest=total)
    xp.exp(shifted, out=out)
    xp.sum(out, axis=axis, keepdims=True, out=total)
    return xp.divide(out, total, out=out)


def shift(xp: Any, x: Array, *, axis: int, shifted: Array, largest: Array) -> None:
    """`shifted = x − max x` along `axis`."""
    xp.max(x, axis=axis, keepdims=True, out=largest)
    xp.subtract(x, largest, out=shifted)


def sigmoid(xp: Any, x: Array, *, out: Array, scratch: Array) -> Array:
    """`σ(x) = exp(min(x, 0)) / (1 + exp(−|x|))`, with a small relative error for large positive and
    negative `x`.

    On return `scratch = 1 + exp(−|x|)`.
    """
    xp.absolute(x, out=scratch)
    xp.negative(scratch, out=scratch)
    xp.exp(scratch, out=scratch)
    xp.add(scratch, 1, out=scratch)
    xp.minimum(x, 0, out=out)
    xp.exp(out, out=out)
    return xp.divide(out, scratch, out=out)
