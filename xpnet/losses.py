"""Losses: take the network's last linear outputs (logits), return the mean over the batch.

Each loss is fused with the output activation it belongs to, so that its gradient is a
difference of two probabilities and nothing is divided by something that may be 0.

`forward(...)` returns a 0-d array on the device (no transfer, no wait); `backward()` returns
`∂L/∂logits` of that *mean* loss. Both are buffers, written over by the next call.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from xpnet.accel import dispatch
from xpnet.backend import Array, Backend, HostArray, array_module
from xpnet.errors import ConfigError, DataError, ShapeError
from xpnet.layers.activations import sigmoid, softmax
from xpnet.utils.arguments import real
from xpnet.utils.introspection import config_of
from xpnet.workspace import Workspace


class Loss:
    """Base of all losses: `forward(logits, target[, weights]) -> ()`, `backward() -> dlogits`.

    What they return are buffers of the loss, written over by its next call: keep
    `float(loss.forward(...))`, or call the loss itself, `loss(logits, target)`, which gives a
    number of Python's and makes the device wait.

    A loss of your own keeps each parameter of its `__init__` under the same name, or defines
    `get_config()`: what is found there tells trainings apart when one is resumed.
    """

    prediction: ClassVar[str | None] = None
    """What a network trained with this loss predicts: `"class"`, `"labels"` or `"values"`; None:
    the class where targets are whole numbers `(N,)` and outputs several, else the values."""

    takes_logits: ClassVar[bool] = False
    """Whether the loss applies the output activation itself."""

    def __init__(self) -> None:
        self.workspace = Workspace()

    def __call__(self, logits: Array, target: Array, weights: Array | None = None) -> float:
        """The mean loss of the batch as a number, which makes the device wait.

        Raises `DataError` and `ShapeError` for targets that the loss cannot be computed for.
        """
        to_host = Backend.of(logits).to_host
        if target.shape[:1] == logits.shape[:1]:
            self.require_targets(to_host(target), logits.shape[-1], "target")
        return float(to_host(self.forward(logits, target, weights)))

    def get_config(self) -> dict[str, Any]:
        """What the class is to be called with to make such a loss, by name."""
        return config_of(self)

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """The mean loss of the batch, a 0-d array of the logits' dtype."""
        raise TypeError(f"{type(self).__name__} defines no forward pass")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · ∂L/∂logits` for the batch of the last forward pass, shaped like the logits."""
        raise TypeError(f"{type(self).__name__} defines no backward pass")

    def for_evaluation(self) -> Loss:
        """The loss as held-out data is measured: with buffers of its own, without smoothing."""
        return copy.deepcopy(self)

    def _require_forward(self, kept: str) -> None:
        """Raise `ConfigError` unless `forward` has left the attribute `kept`."""
        if kept not in vars(self):
            raise ConfigError(f"{type(self).__name__}: backward() needs forward() first")

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Refuse targets on the host that this loss cannot be computed for, before training.

        `target`: those of all samples, `(N, ...)`; `outputs`: of the network; `name`: of the data,
        such as `train`, for the message. Raises `ShapeError` for a shape or dtype and `DataError`
        for a value, naming its row (counted from 0). A loss of your own that says nothing about
        its targets takes all of them.
        """

    def _mean(self, losses: Array, weights: Array | None) -> Array:
        """`Σ wℓ / Σ w` of the per-sample `losses` `(N,)`; keeps what `backward` multiplies by."""
        xp = array_module(losses)
        value = self.workspace.array(xp, "value", (), losses.dtype)
        self.weights: Array | None = None
        if weights is None:
            xp.dot(self.workspace.ones(xp, len(losses), losses.dtype), losses, out=value)
            xp.divide(value, len(losses), out=value)
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


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of the logits with the true class.

    `logits: (N, C)` float, `labels: (N,)` integers in `0..C−1` (checked when data is loaded,
    not here: a look at their values would make the device wait), `weights: (N,)` or None.

    With `p = softmax(z)`: `ℓ = −log p_y = log Σ_k exp(z_k) − z_y`, computed from
    `s = z − max z` as `log Σ exp(s) − s_y`, so neither overflow nor `log 0` can happen.

    Gradient: `∂/∂z_j log Σ_k exp(z_k) = exp(z_j) / Σ_k exp(z_k) = p_j` and `∂z_y/∂z_j = [j = y]`,
    so `∂ℓ/∂z = p − onehot(y)`, and of the mean `(p − onehot(y)) / N`, or
    `w (p − onehot(y)) / Σw` with weights. Worked: `z = (0, log 3)`, `y = 0` gives `p = (¼, ¾)`,
    `ℓ = log 4 ≈ 1.386`, gradient `(−¾, ¾)`.

    With `label_smoothing = ε` the network is to expect `q = (1 − ε) onehot(y) + ε / C` instead of
    certainty (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7):
    `ℓ = −Σ_k q_k log p_k = log Σ exp(s) − Σ_k q_k s_k`, as `Σ q = 1`, so `∂ℓ/∂z = p − q`. It is
    for training; `for_evaluation()` leaves it out. In the worked example `ε = 0.1` gives
    `q = (0.95, 0.05)`, gradient `(−0.7, 0.7)`.

    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    Raises `ShapeError` for logits or labels of another shape, `ConfigError` for a
    `label_smoothing` outside of `[0, 1)`.

    Inside, arrays lie as `(C, N)`: with few classes and many samples, every row operation is
    then one long vector operation.
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
        _require_integers(target)
        if logits.ndim != 2 or target.shape != logits.shape[:1]:
            raise ShapeError(
                f"SoftmaxCrossEntropy takes logits (N, classes) and labels (N,), found "
                f"{logits.shape} and {target.shape}"
            )
        count, classes = logits.shape
        dtype, workspace = logits.dtype, self.workspace
        self.p = workspace.array(xp, "p", (classes, count), dtype)
        self.labels, self.weights, self.expected = target, None, None
        value, smoothing = workspace.array(xp, "value", (), dtype), float(self.label_smoothing)
        if weights is None and dispatch.did(
            "cross_entropy", logits, target, smoothing, self.p, value
        ):
            return value
        shifted = workspace.array(xp, "shifted", (classes, count), dtype)
        if weights is None and dispatch.did("shift_logits", logits, target, shifted):
            xp.exp(shifted, out=self.p)
            dispatch.did("softmax_cross_entropy", shifted, target, smoothing, self.p, value)
            return value
        total = workspace.array(xp, "total", (1, count), dtype)
        picked = workspace.array(xp, "picked", (count,), dtype)
        self.expected = self._expected()

        xp.copyto(shifted, logits.T)
        softmax(xp, shifted, axis=0, shifted=shifted, total=total, out=self.p)
        xp.multiply(shifted, self.expected, out=shifted)
        xp.dot(self.workspace.ones(xp, classes, dtype), shifted, out=picked)
        losses = total.reshape(count)
        xp.log(losses, out=losses)
        xp.subtract(losses, picked, out=losses)
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
        xp = array_module(target)
        wrong = xp.flatnonzero((target < 0) | (target >= outputs))
        if len(wrong):
            raise DataError(
                f"{name} has labels {target.min()} to {target.max()}, the network gives {outputs} "
                f"classes, 0 to {outputs - 1}: label {target[wrong[0]]} is in row {wrong[0]}"
            )

    def _expected(self) -> Array:
        """`q` `(C, N)`: where the label is, smoothed if it is to be."""
        xp, shape = array_module(self.p), self.p.shape
        is_label = self.workspace.array(xp, "is label", shape, bool)
        classes_down = self.workspace.classes(xp, shape[0], self.labels).reshape(-1, 1)
        xp.equal(classes_down, self.labels, out=is_label)
        return self._smoothed(is_label, self.p.dtype) if self.label_smoothing else is_label

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
        if self.expected is None:
            smoothing, factor = float(self.label_smoothing), float(scale / count)
            arguments = self.p, self.labels, smoothing, factor, dlogits
            if dispatch.did("softmax_cross_entropy_backward", *arguments):
                return dlogits
            self.expected = self._expected()
        difference = self.workspace.array(xp, "shifted", self.p.shape, self.p.dtype)
        xp.subtract(self.p, self.expected, out=difference)
        if self.weights is not None:
            xp.multiply(difference, self.weights, out=difference)
            count = 1
        return xp.multiply(difference.T, scale / count, out=dlogits)


class SigmoidBinaryCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of each logit with a target between 0 and 1.

    `logits`, `target`: `(N, K)` or `(N,)` float; `weights: (N,)` or None. The mean is over samples
    and over the `K` independent questions.

    With `p = σ(z)`: `ℓ = −t log p − (1 − t) log(1 − p)`. Put `log σ(z) = −log(1 + exp(−z))` and
    `log(1 − σ(z)) = −z − log(1 + exp(−z))` in and it becomes `z − z t + log(1 + exp(−z))`; taking
    `max(z, 0)` out of the logarithm, `ℓ = max(z, 0) − z t + log(1 + exp(−|z|))`, which cannot
    overflow.

    Gradient: `∂ℓ/∂z = 1 − t − exp(−z)/(1 + exp(−z)) = σ(z) − t`. Worked: `z = 0`, `t = 1` gives
    `ℓ = log 2`, gradient `−½`.

    Raises `ShapeError` when logits and target differ in shape.
    """

    prediction: ClassVar[str | None] = "labels"
    takes_logits: ClassVar[bool] = True

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from `logits` and `target` of one shape."""
        xp = array_module(logits, target)
        _require_same_shape(self, logits, target)
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
        return self._mean(_per_sample(self.workspace, elements), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Numbers from 0 to 1, `(N, outputs)`; of one output also `(N,)`."""
        _require_targets(self, target, outputs, name)
        _require_values(self, target, (target >= 0) & (target <= 1), name, "numbers from 0 to 1")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (σ(z) − t) / (N K)`, or `scale · w (σ(z) − t) / (K Σw)`: as the logits."""
        self._require_forward("p")
        xp = array_module(self.p)
        dlogits = self.workspace.array(xp, "dlogits", self.p.shape, self.p.dtype)
        xp.subtract(self.p, self.target, out=dlogits)
        return _scale_rows(dlogits, self.weights, scale)


class MeanSquaredError(Loss):
    """Mean of `(z − t)²` over samples and outputs.

    `logits` (here simply the network's outputs), `target`: `(N, K)` or `(N,)` float;
    `weights: (N,)` or None. `ℓ_n = (1/K) Σ_k (z_nk − t_nk)²`, so
    `∂ℓ_n/∂z_nk = 2 (z_nk − t_nk) / K`, and of the mean `2 (z − t) / (N K)`. Worked, for two
    samples of one output: `z = (1, 3)`, `t = (0, 1)` gives 2.5, gradient `(1, 2)`.

    Raises `ShapeError` when outputs and target differ in shape (NumPy would broadcast
    `(N, 1)` against `(N,)` to `(N, N)` without a word).
    """

    prediction: ClassVar[str | None] = "values"

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        _require_same_shape(self, logits, target)
        self.difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        squares = self.workspace.array(xp, "squares", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=self.difference)
        xp.multiply(self.difference, self.difference, out=squares)
        return self._mean(_per_sample(self.workspace, squares), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Finite numbers, `(N, outputs)`; of one output also `(N,)`."""
        _require_targets(self, target, outputs, name)
        is_finite = array_module(target).isfinite(target)
        _require_values(self, target, is_finite, name, "finite numbers")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · 2 (z − t) / (N K)`, or `scale · 2 w (z − t) / (K Σw)`: as the outputs."""
        self._require_forward("difference")
        xp = array_module(self.difference)
        doutputs = self.workspace.array(
            xp, "doutputs", self.difference.shape, self.difference.dtype
        )
        xp.multiply(self.difference, 2, out=doutputs)
        return _scale_rows(doutputs, self.weights, scale)


class L2Penalty:
    """`P = λ / (2 N) · Σ W²` over the matrices of a network, `N` the number of training samples.

    `∂P/∂W = λ / N · W`, which `backward` adds to the gradients that are already there. Biases
    are left alone. `values`, `gradients`: the flat matrices, `(P,)`. This is the classic weight
    decay of the loss; the decoupled one is the optimizers' `weight_decay`.
    """

    def __init__(self, strength: float, samples: int) -> None:
        self.factor = real("l2", strength) / samples
        self.workspace = Workspace()

    def forward(self, values: Array) -> Array:
        """The penalty, a 0-d array: `(P,) -> ()`."""
        xp = array_module(values)
        penalty = self.workspace.array(xp, "penalty", (), values.dtype)
        xp.dot(values, values, out=penalty)
        xp.multiply(penalty, self.factor / 2, out=penalty)
        return penalty

    def backward(self, values: Array, gradients: Array) -> None:
        """Add `λ / N · W` to `gradients`."""
        xp = array_module(values, gradients)
        term = self.workspace.array(xp, "term", values.shape, values.dtype)
        xp.multiply(values, self.factor, out=term)
        xp.add(gradients, term, out=gradients)


def _require_integers(labels: Array) -> None:
    if labels.dtype.kind not in "iu":
        raise ShapeError(f"labels must be integers, found dtype {labels.dtype}")


def _require_targets(loss: Loss, target: HostArray, outputs: int, name: str) -> None:
    """Raise `ShapeError` unless `target` holds a number for each output of each sample."""
    kind = type(loss).__name__
    if target.shape[1:] != (outputs,) and not (target.ndim == 1 and outputs == 1):
        raise ShapeError(
            f"{name} has targets of shape {target.shape}: {kind} takes one number for each output "
            f"of the network, shape (N, {outputs})"
        )
    if target.dtype.kind not in "iufb":
        raise ShapeError(f"{name} has targets of dtype {target.dtype}: {kind} takes numbers")


def _require_values(
    loss: Loss, target: HostArray, is_allowed: HostArray, name: str, wanted: str
) -> None:
    """Raise `DataError` that names the first target which is not allowed, if there is one."""
    if is_allowed.all():
        return
    first = array_module(target).argwhere(~is_allowed)[0].tolist()
    place = f"row {first[0]}" + "".join(f", column {column}" for column in first[1:])
    raise DataError(
        f"{name} has the target {target[tuple(first)]:g} in {place}, and {type(loss).__name__} "
        f"takes {wanted}"
    )


def _require_same_shape(loss: Loss, logits: Array, target: Array) -> None:
    if logits.shape != target.shape or logits.ndim not in (1, 2):
        raise ShapeError(
            f"{type(loss).__name__} takes logits and targets of one shape, (N, K) or (N,), "
            f"found {logits.shape} and {target.shape}"
        )


def _per_sample(workspace: Workspace, elements: Array) -> Array:
    if elements.ndim == 1:
        return elements
    xp = array_module(elements)
    losses = workspace.array(xp, "losses", elements.shape[:1], elements.dtype)
    xp.mean(elements, axis=1, out=losses)
    return losses


def _scale_rows(dlogits: Array, weights: Array | None, scale: float) -> Array:
    """`dlogits · scale` over the number of elements, or row by row `· w / (K Σw)`, in place."""
    xp = array_module(dlogits)
    if weights is None:
        return xp.multiply(dlogits, scale / dlogits.size, out=dlogits)
    rows = weights.reshape((-1,) + (1,) * (dlogits.ndim - 1))
    xp.multiply(dlogits, rows, out=dlogits)
    return xp.multiply(dlogits, scale * len(dlogits) / dlogits.size, out=dlogits)
