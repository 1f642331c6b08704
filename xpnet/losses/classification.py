"""Losses of classifiers: `SoftmaxCrossEntropy` and `SigmoidBinaryCrossEntropy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, HostArray, array_module
from xpnet.errors import DataError, ShapeError
from xpnet.layers.activations import shift, sigmoid
from xpnet.losses.base import (
    Loss,
    mean,
    per_sample,
    require_same_shape,
    require_targets,
    require_values,
    scale_rows,
)
from xpnet.utils.arguments import real
from xpnet.workspace import Workspace

_ROWS_OF_A_SUM = 256
"""Rows whose losses one block of the CUDA kernel adds up."""


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of the logits with the true class.

    `logits: (N, C)` float, `labels: (N,)` integers in `0..C−1` (checked when the data is loaded,
    not here, where a check would synchronise with the device), `weights: (N,)` or None.

    With `p = softmax(z)`: `ℓ = −log p_y = log Σ_k exp(z_k) − z_y`, computed from
    `s = z − max z` as `log Σ exp(s) − s_y`, so neither overflow nor `log 0` can happen.

    Gradient: `∂/∂z_j log Σ_k exp(z_k) = exp(z_j) / Σ_k exp(z_k) = p_j` and `∂z_y/∂z_j = [j = y]`,
    so `∂ℓ/∂z = p − onehot(y)`, and of the mean `(p − onehot(y)) / N`, or
    `w (p − onehot(y)) / Σw` with weights. Example: `z = (0, log 3)`, `y = 0` gives `p = (¼, ¾)`,
    `ℓ = log 4 ≈ 1.386`, gradient `(−¾, ¾)`.

    With `label_smoothing = ε` the target is `q = (1 − ε) onehot(y) + ε / C` instead of `onehot(y)`
    (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7):
    `ℓ = −Σ_k q_k log p_k = log Σ exp(s) − Σ_k q_k s_k`, as `Σ q = 1`, so `∂ℓ/∂z = p − q`. It is
    used only in training; `for_evaluation()` returns the loss without it. In the example above,
    `ε = 0.1` gives `q = (0.95, 0.05)`, gradient `(−0.7, 0.7)`.

    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    Raises `ShapeError` for logits or labels of another shape, `ConfigError` for a
    `label_smoothing` outside of `[0, 1)`.

    Internally, arrays have the shape `(C, N)`: with few classes and many samples, operations on
    long rows are faster.
    """

    prediction: ClassVar[str | None] = "class"
    takes_logits: ClassVar[bool] = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = real("label_smoothing", label_smoothing, 0, 1)

    def for_evaluation(self) -> Loss:
        """Plain cross-entropy."""
        return SoftmaxCrossEntropy()

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from `logits (N, C)` and `target = labels (N,)`."""
        xp = array_module(logits, target)
        require_integers(target)
        if logits.ndim != 2 or target.shape != logits.shape[:1]:
            raise ShapeError(
                f"SoftmaxCrossEntropy takes logits (N, classes) and labels (N,), found "
                f"{logits.shape} and {target.shape}"
            )
        count, classes = logits.shape
        dtype, workspace = logits.dtype, self.workspace
        self.p = workspace.array(xp, "p", (classes, count), dtype)
        self.labels, self.weights, self._expected = target, None, None
        if weights is None:
            value = workspace.array(xp, "value", (), dtype)
            sums = workspace.array(xp, "sums", (-(-count // _ROWS_OF_A_SUM),), xp.float64)
            arguments = logits, target, float(self.label_smoothing), sums, self.p, value
            cross_entropy(xp, *arguments, expected=self._targets, workspace=workspace)
            return value
        shifted = workspace.array(xp, "shifted", (classes, count), dtype)
        shift_logits(xp, logits, shifted, workspace=workspace)
        xp.exp(shifted, out=self.p)
        losses = sample_losses(xp, shifted, self.p, self._targets, workspace)
        return self._mean(losses, weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Integers `(N,)` from 0 to `outputs − 1`."""
        if target.ndim != 1:
            raise ShapeError(
                f"{name} has targets of shape {target.shape}: SoftmaxCrossEntropy takes one class "
                f"number a sample, shape (N,) (of one-hot rows: y.argmax(axis=1))"
            )
        if target.dtype.kind not in "iu":
            raise ShapeError(
                f"{name}: labels must be integers, found dtype {target.dtype}: SoftmaxCrossEntropy "
                f"takes class numbers, 0 to {outputs - 1}"
            )
        wrong = (target < 0) | (target >= outputs)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{name} has labels {target.min()} to {target.max()}, the network gives {outputs} "
                f"classes, 0 to {outputs - 1}: label {target[row]} is in row {row}"
            )

    def _targets(self) -> Array:
        """`q` `(C, N)`, computed once for each batch."""
        if self._expected is None:
            xp, shape = array_module(self.p), self.p.shape
            is_label = self.workspace.array(xp, "is label", shape, bool)
            classes_down = self.workspace.classes(xp, shape[0], self.labels).reshape(-1, 1)
            xp.equal(classes_down, self.labels, out=is_label)
            smoothed = self.label_smoothing > 0
            self._expected = self._smoothed(is_label, self.p.dtype) if smoothed else is_label
        return self._expected

    def _smoothed(self, is_label: Array, dtype: object) -> Array:
        """`q = (1 − ε) onehot(y) + ε / C`: `(C, N)`."""
        xp, epsilon = array_module(is_label), self.label_smoothing
        q = self.workspace.array(xp, "q", is_label.shape, dtype)
        xp.multiply(is_label, 1 - epsilon, out=q, dtype=q.dtype)
        return xp.add(q, epsilon / len(q), out=q)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (p − q) / N`, or with weights `scale · w (p − q) / Σw`: `(N, C)`."""
        self._require_forward("p")
        xp = array_module(self.p)
        count = self.p.shape[1]
        dlogits = self.workspace.array(xp, "dlogits", self.p.shape[::-1], self.p.dtype)
        if self.weights is None:
            smoothing, factor = float(self.label_smoothing), float(scale / count)
            arguments = self.p, self.labels, smoothing, factor, dlogits
            softmax_cross_entropy_backward(
                xp, *arguments, expected=self._targets, workspace=self.workspace
            )
            return dlogits
        difference = self.workspace.array(xp, "shifted", self.p.shape, self.p.dtype)
        xp.subtract(self.p, self._targets(), out=difference)
        xp.multiply(difference, self.weights, out=difference)
        return xp.multiply(difference.T, scale, out=dlogits)


class SigmoidBinaryCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of each logit with a target between 0 and 1.

    `logits`, `target`: `(N, K)` or `(N,)` float; `weights: (N,)` or None. The mean is over samples
    and over the `K` outputs.

    With `p = σ(z)`: `ℓ = −t log p − (1 − t) log(1 − p)`. Substituting
    `log σ(z) = −log(1 + exp(−z))` and `log(1 − σ(z)) = −z − log(1 + exp(−z))` gives
    `z − z t + log(1 + exp(−z))`; taking `max(z, 0)` out of the logarithm,
    `ℓ = max(z, 0) − z t + log(1 + exp(−|z|))`, which cannot overflow.

    Gradient: `∂ℓ/∂z = 1 − t − exp(−z)/(1 + exp(−z)) = σ(z) − t`. Example: `z = 0`, `t = 1` gives
    `ℓ = log 2`, gradient `−½`.

    Raises `ShapeError` when logits and target differ in shape.
    """

    prediction: ClassVar[str | None] = "labels"
    takes_logits: ClassVar[bool] = True

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from `logits` and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        shape, dtype = logits.shape, logits.dtype
        self.p = self.workspace.array(xp, "p", shape, dtype)
        elements = self.workspace.array(xp, "elements", shape, dtype)
        product = self.workspace.array(xp, "product", shape, dtype)
        self.target = target
        sigmoid(xp, logits, out=self.p, scratch=elements)
        # `sigmoid` leaves 1 + exp(−|z|), but its logarithm would lose the small exp(−|z|).
        xp.absolute(logits, out=elements)
        xp.negative(elements, out=elements)
        xp.exp(elements, out=elements)
        xp.log1p(elements, out=elements)
        xp.multiply(logits, target, out=product)
        xp.subtract(elements, product, out=elements)
        xp.maximum(logits, 0, out=product)
        xp.add(elements, product, out=elements)
        return self._mean(per_sample(self.workspace, elements), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Numbers from 0 to 1, `(N, outputs)`; of one output also `(N,)`."""
        require_targets(self, target, outputs, name)
        require_values(self, target, (target >= 0) & (target <= 1), name, "numbers from 0 to 1")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (σ(z) − t) / (N K)`, or `scale · w (σ(z) − t) / (K Σw)`: as the logits."""
        self._require_forward("p")
        xp = array_module(self.p)
        dlogits = self.workspace.array(xp, "dlogits", self.p.shape, self.p.dtype)
        xp.subtract(self.p, self.target, out=dlogits)
        return scale_rows(dlogits, self.weights, scale)


@accelerated
def cross_entropy(
    xp: Any,
    logits: Array,
    labels: Array,
    smoothing: float,
    sums: Array,
    p: Array,
    value: Array,
    *,
    expected: Callable[[], Array],
    workspace: Workspace,
) -> None:
    """`p = softmax(z)`, `(C, N)`, and the mean loss `value`, from `logits` `(N, C)`.

    `sums`: memory where a kernel may put the sums of `_ROWS_OF_A_SUM` losses each, in float64.
    """
    shifted = workspace.array(xp, "shifted", p.shape, p.dtype)
    shift_logits(xp, logits, shifted, workspace=workspace)
    xp.exp(shifted, out=p)
    softmax_cross_entropy(
        xp, shifted, labels, smoothing, p, value, expected=expected, workspace=workspace
    )


@accelerated
def shift_logits(xp: Any, logits: Array, shifted: Array, *, workspace: Workspace) -> None:
    """`s = z − max z`: `(N, C)` to `(C, N)`."""
    largest = workspace.array(xp, "total", (1, len(logits)), logits.dtype)
    xp.copyto(shifted, logits.T)
    shift(xp, shifted, axis=0, shifted=shifted, largest=largest)


@accelerated
def softmax_cross_entropy(
    xp: Any,
    shifted: Array,
    labels: Array,
    smoothing: float,
    p: Array,
    value: Array,
    *,
    expected: Callable[[], Array],
    workspace: Workspace,
) -> None:
    """`p ← p / Σ_k p_k`, which held `exp(s)`, and the mean loss `value`."""
    losses = sample_losses(xp, shifted, p, expected, workspace)
    mean(xp, losses, value, workspace)


def sample_losses(
    xp: Any, shifted: Array, p: Array, expected: Callable[[], Array], workspace: Workspace
) -> Array:
    """`ℓ = log Σ_k exp(s_k) − Σ_k q_k s_k`, `(N,)`; `p` holds `exp(s)`, on return the softmax."""
    classes, count = p.shape
    total = workspace.array(xp, "total", (1, count), p.dtype)
    picked = workspace.array(xp, "picked", (count,), p.dtype)
    xp.sum(p, axis=0, keepdims=True, out=total)
    xp.divide(p, total, out=p)
    xp.multiply(shifted, expected(), out=shifted)
    xp.dot(workspace.ones(xp, classes, p.dtype), shifted, out=picked)
    losses = total.reshape(count)
    xp.log(losses, out=losses)
    xp.subtract(losses, picked, out=losses)
    return losses


@accelerated
def softmax_cross_entropy_backward(
    xp: Any,
    p: Array,
    labels: Array,
    smoothing: float,
    scale: float,
    dlogits: Array,
    *,
    expected: Callable[[], Array],
    workspace: Workspace,
) -> None:
    """`dz = scale · (p − q)`: `(C, N)` to `(N, C)`; `scale` includes `1 / N`."""
    difference = workspace.array(xp, "shifted", p.shape, p.dtype)
    xp.subtract(p, expected(), out=difference)
    xp.multiply(difference.T, scale, out=dlogits)


def require_integers(labels: Array) -> None:
    """Raise `ShapeError` unless `labels` are integers."""
    if labels.dtype.kind not in "iu":
        raise ShapeError(f"labels must be integers, found dtype {labels.dtype}")
