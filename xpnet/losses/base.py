"""`Loss`, the base class of all losses, and common helpers."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from xpnet.backend import Array, Backend, HostArray, array_module
from xpnet.errors import ConfigError, DataError, ShapeError, short_repr
from xpnet.utils.introspection import config_of, is_own
from xpnet.workspace import Workspace

PREDICTIONS = ("class", "labels", "values", "rates")
"""What a network may predict: see `Loss.prediction`."""


class Loss:
    """Base of all losses: `forward(logits, target[, weights]) -> ()`, `backward() -> dlogits`.

    Both return buffers, which the next call overwrites: keep `float(loss.forward(...))`, or call
    the loss itself, `loss(logits, target)`, which returns a Python float and synchronises with the
    device.

    A loss of your own stores each parameter of its `__init__` under the same name, or defines
    `get_config()`: a checkpoint contains it, to detect changed settings on resuming.
    """

    prediction: ClassVar[str | None] = None
    """What a network trained with this loss predicts: `"class"`, `"labels"`, `"values"` or
    `"rates"` (the exponentials of its outputs); None: the class where targets are whole numbers
    `(N,)` and outputs several, else the values."""

    takes_logits: ClassVar[bool] = False
    """Whether the loss applies the output activation itself."""

    def __init__(self) -> None:
        self.workspace = Workspace()

    def __call__(self, logits: Array, target: Array, weights: Array | None = None) -> float:
        """The mean loss of the batch as a Python float; synchronises with the device.

        Raises `DataError` and `ShapeError` for targets that the loss cannot be computed for, and
        for what is no array, or no batch.
        """
        found = {"logits": logits, "target": target, "weights": weights}
        for name, array in found.items():
            if not hasattr(array, "shape") and not (array is None and name == "weights"):
                raise DataError(f"{name} must be an array, found {short_repr(array)}")
        if logits.ndim == 0 or not logits.size or logits.dtype.kind != "f":
            raise ShapeError(
                f"logits must be floats (N, outputs) of at least one sample, found dtype "
                f"{logits.dtype} and shape {tuple(logits.shape)}"
            )
        backend = Backend.of(logits)
        if target.shape[:1] == logits.shape[:1]:
            outputs = logits.shape[1] if logits.ndim > 1 else 1
            self.require_targets(backend.to_host(target), outputs, "target")
        value = self.forward(logits, target, weights)
        return float(backend.to_host(as_mean(self, value, backend)))

    def __repr__(self) -> str:
        """As it was made, `Huber(delta=3)`; `Own(...)` where the arguments are not known."""
        try:
            config = self.get_config()
        except ConfigError:
            return f"{type(self).__name__}(...)"
        arguments = ", ".join(f"{name}={value!r}" for name, value in config.items())
        return f"{type(self).__name__}({arguments})"

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments of the loss, by name."""
        return config_of(self)

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """The mean loss of the batch, a 0-d array of the logits' dtype."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · ∂L/∂logits` for the batch of the last forward pass, shaped like the logits."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward()")

    def for_evaluation(self) -> Loss:
        """The loss for evaluation: with its own buffers, and without label smoothing."""
        return copy.deepcopy(self)

    def _require_forward(self, kept: str) -> None:
        """Raise `ConfigError` unless `forward` has left the attribute `kept`."""
        if kept not in vars(self):
            raise ConfigError(f"{type(self).__name__}: backward() needs forward() first")

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Check the targets (on the host) before training.

        `target`: those of all samples, `(N, ...)`; `outputs`: of the network; `name`: of the data,
        such as `train`, for the message. Raises `ShapeError` for a shape or dtype and `DataError`
        for a value, naming its row (counted from 0). The default accepts all targets.
        """

    def _mean(self, losses: Array, weights: Array | None) -> Array:
        """`Σ wℓ / Σ w` of the per-sample `losses` `(N,)`; keeps the factors for `backward`."""
        xp = array_module(losses)
        value = self.workspace.array(xp, "value", (), losses.dtype)
        self.weights: Array | None = None
        if weights is None:
            mean(xp, losses, value, self.workspace)
            return value
        if weights.shape != losses.shape:
            raise ShapeError(
                f"weights must be one number per sample, shape {losses.shape}, "
                f"found shape {weights.shape}"
            )
        self.weights = self.workspace.array(xp, "weights", losses.shape, losses.dtype)
        xp.sum(weights, out=value)
        xp.divide(weights, value, out=self.weights)
        xp.dot(self.weights, losses, out=value)
        return value


def with_inner(loss: Loss) -> list[Loss]:
    """`loss`, and the losses among its attributes if its class is not xpnet's."""
    if is_own(type(loss)):
        return [loss]
    return [loss, *(inner for inner in vars(loss).values() if isinstance(inner, Loss))]


def as_mean(loss: Loss, value: Any, backend: Backend, dtype: Any = None) -> Array:
    """What `forward()` of `loss` returned, as an array on the device.

    A loss that is not xpnet's may return a plain number. Raises `ShapeError` for several numbers.
    """
    if is_own(type(loss)):
        return value
    made = backend.asarray(value, dtype=dtype)
    if made.size != 1:
        raise ShapeError(
            f"{type(loss).__name__}.forward() must return the mean loss of the batch, one number, "
            f"found shape {tuple(made.shape)}"
        )
    return made


def mean(xp: Any, losses: Array, value: Array, workspace: Workspace) -> None:
    """`value = 1/N Σ_n ℓ_n` of `losses` `(N,)`."""
    xp.dot(workspace.ones(xp, len(losses), losses.dtype), losses, out=value)
    xp.divide(value, len(losses), out=value)


def require_targets(loss: Loss, target: HostArray, outputs: int, name: str) -> None:
    """Raise `ShapeError` unless `target` holds a number for each output of each sample."""
    kind = type(loss).__name__
    if target.shape[1:] != (outputs,) and not (target.ndim == 1 and outputs == 1):
        raise ShapeError(
            f"{name} has targets of shape {target.shape}: {kind} takes one number for each output "
            f"of the network, shape (N, {outputs})"
        )
    if target.dtype.kind not in "iufb":
        raise ShapeError(f"{name} has targets of dtype {target.dtype}: {kind} takes numbers")


def require_values(
    loss: Loss, target: HostArray, is_allowed: HostArray, name: str, wanted: str
) -> None:
    """Raise `DataError` that names the first target which is not allowed, if there is one."""
    if is_allowed.all():
        return
    first = array_module(target).argwhere(~is_allowed)[0].tolist()
    place = ", ".join([f"row {first[0]}", *(f"column {column}" for column in first[1:])])
    raise DataError(
        f"{name} has the target {target[tuple(first)]:g} in {place}, and {type(loss).__name__} "
        f"takes {wanted}"
    )


def require_same_shape(loss: Loss, logits: Array, target: Array) -> None:
    """Raise `ShapeError` unless both are `(N, K)` or `(N,)`, of one shape."""
    if logits.shape != target.shape or logits.ndim not in (1, 2):
        raise ShapeError(
            f"{type(loss).__name__} takes logits and targets of one shape, (N, K) or (N,), "
            f"found {logits.shape} and {target.shape}"
        )


def per_sample(workspace: Workspace, elements: Array) -> Array:
    """The mean over the outputs: `(N, K) -> (N,)`; `(N,)` stays as it is."""
    if elements.ndim == 1:
        return elements
    xp = array_module(elements)
    losses = workspace.array(xp, "losses", elements.shape[:1], elements.dtype)
    xp.mean(elements, axis=1, out=losses)
    return losses


def scale_rows(dlogits: Array, weights: Array | None, scale: float) -> Array:
    """`dlogits · scale` over the number of elements, or row by row `· w / (K Σw)`, in place."""
    xp = array_module(dlogits)
    if weights is None:
        return xp.multiply(dlogits, scale / dlogits.size, out=dlogits)
    rows = weights.reshape((-1,) + (1,) * (dlogits.ndim - 1))
    xp.multiply(dlogits, rows, out=dlogits)
    return xp.multiply(dlogits, scale * len(dlogits) / dlogits.size, out=dlogits)
