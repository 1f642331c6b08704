"""What every layer is: a forward and a backward pass over parameters that the network holds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from xpnet.backend import Array, array_module
from xpnet.errors import ShapeError
from xpnet.initializers import Initializer
from xpnet.workspace import Workspace


@dataclass(frozen=True)
class Parameter:
    """What a layer asks the network to hold for it.

    `decays` is True for matrices, which L2 and weight decay shrink, and False for biases,
    gains and running statistics. `order` is that of the array in memory: `"C"`, row after row,
    or `"F"`, column after column.
    """

    shape: tuple[int, ...]
    initializer: Initializer
    decays: bool = False
    order: Literal["C", "F"] = "C"


@dataclass(eq=False)
class Layer:
    """Base of all layers. Batch first: `x` is `(N, features)`.

    `forward(x, training=...) -> y` and, after a forward pass with `training=True`,
    `backward(dy) -> dx`, where `dy = ∂L/∂y` and `dx = ∂L/∂x` for the loss `L`. `backward` also
    writes `∂L/∂p` of each parameter `p` into the gradients it was bound to.

    **Life of arrays.** What `forward` and `backward` return is a buffer of the layer, made on
    the first batch and written over by the next one: copy what must last. Inside a step every
    result is written into such a buffer by an `xp` call with `out=`, so a step allocates
    nothing. `Sequential.forward(..., training=False)` returns an array of its own. A layer of
    your own that keeps to this, and whose step changes nothing in Python, may say so by
    `replayable: ClassVar[bool] = True` in its class: `fit()` then records and replays it too.

    **Parameters.** A layer names them in `parameters()` and, where it has statistics that
    no gradient moves, `buffers()`; the network allots and initialises them and calls `bind()`.
    """

    mixes_rows: ClassVar[bool] = False
    """Whether a row of `y` in training depends on other rows of `x`."""

    def __post_init__(self) -> None:
        self.workspace = Workspace()
        self.values: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}

    def parameters(self) -> dict[str, Parameter]:
        """The parameters to be trained, by name."""
        return {}

    def buffers(self) -> dict[str, Parameter]:
        """The arrays that belong to the layer's state and get no gradient, by name."""
        return {}

    def bind(
        self,
        values: dict[str, Array],
        gradients: dict[str, Array],
        statistics: dict[str, Array],
    ) -> None:
        """Take views of the network's store; called once by `Sequential`."""
        self.values, self.gradients, self.statistics = values, gradients, statistics

    def seed(self, seed: int, position: int) -> None:
        """Learn the network's seed and this layer's place in it (layers that draw use it)."""

    def seek(self, samples: int) -> None:
        """Draw next what belongs to training sample number `samples` (layers that draw)."""

    def output_features(self, features: int | None) -> int | None:
        """Features of `y`, given those of `x` (None: not known yet)."""
        return features

    def forward(self, x: Array, *, training: bool) -> Array:
        """`y` for a batch `x`."""
        raise TypeError(f"{type(self).__name__} defines no forward pass")

    def backward(self, dy: Array) -> Array:
        """`dx` for the batch of the last training forward pass, given `dy`."""
        raise TypeError(f"{type(self).__name__} defines no backward pass")

    def backward_parameters(self, dy: Array) -> None:
        """Only the parameters' gradients: the first layer is not asked for `dx`."""
        self.backward(dy)

    def like(self, array: Array, name: str) -> Array:
        """This layer's buffer called `name`, with the shape and dtype of `array`."""
        return self.workspace.array(array_module(array), name, array.shape, array.dtype)

    def hyperparameters(self) -> dict[str, Any]:
        """The numbers that the layer was made with, for `summary()` and for files."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in kept.items() if not isinstance(v, Initializer)}

    def __str__(self) -> str:
        kept = self.hyperparameters().values()
        inside = ", ".join(f"{v:g}" if isinstance(v, int | float) else repr(v) for v in kept)
        return f"{type(self).__name__}({inside})"


def require_features(layer: Layer, expected: int, found: int | None) -> None:
    """Raise `ShapeError` unless the layer before gives what `layer` takes."""
    if found is not None and found != expected:
        raise ShapeError(
            f"{layer} takes {expected} features and is given {found}: "
            f"make it {type(layer).__name__}({found}, …) or change the layer before it"
        )
