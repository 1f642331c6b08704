"""JAX: a compiled step called from Python, and a whole epoch compiled as a `scan`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from bench.peer import Peer, Unsupported
from bench.workloads import EPSILON, SIDE, Workload
from xpnet.backend import HostArray

ACTIVATIONS: dict[str, Any] = {"relu": jax.nn.relu, "tanh": jnp.tanh}


def forward(workload: Workload, parameters: Any, x: Any, key: Any) -> Any:
    """Logits; with a `key`, dropout after every hidden layer."""
    kernels, parameters = parameters
    if kernels:
        x = image_features(workload, kernels, x)
    for (weight, bias), name in zip(parameters[:-1], workload.activations, strict=True):
        x = ACTIVATIONS[name](x @ weight + bias)
        if key is not None:
            key, now = jax.random.split(key)
            keep = 1 - workload.dropout
            x = jnp.where(jax.random.bernoulli(now, keep, x.shape), x / keep, 0)
    weight, bias = parameters[-1]
    return x @ weight + bias


def image_features(workload: Workload, kernels: Any, x: Any) -> Any:
    """The features that convolutions and poolings make of rows of pixels."""
    x = x.reshape(-1, SIDE, SIDE, 1)
    given, images = iter(kernels), workload.images
    for image in images:
        layer = image.layer
        if layer.kind == "conv":
            kernel, bias = next(given)
            steps, border = (layer.stride,) * 2, ((layer.padding,) * 2,) * 2
            names = "NHWC", "HWIO", "NHWC"
            how = {"dimension_numbers": names}
            x = jax.lax.conv_general_dilated(x, kernel, steps, border, **how) + bias
        else:
            size, step = (1, *(layer.kernel_size,) * 2, 1), (1, *(layer.stride,) * 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, step, "VALID")
        if image.relu:
            x = jax.nn.relu(x)
    return x.reshape(len(x), -1)


def update(workload: Workload, parameters: Any, moments: Any, gradients: Any, t: Any) -> Any:
    """New parameters and moments."""
    rate, tree = workload.rate, jax.tree.map
    if workload.optimizer == "sgd":
        return tree(lambda w, g: w - rate * g, parameters, gradients), moments
    if workload.optimizer == "momentum":
        moments = tree(lambda v, g: 0.9 * v + g, moments, gradients)
        return tree(lambda w, v: w - rate * v, parameters, moments), moments
    first, second = moments
    first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    a, b = rate / (1 - 0.9**t), 1 / (1 - 0.999**t)
    new = tree(lambda w, m, v: w - a * m / (jnp.sqrt(v * b) + EPSILON), parameters, first, second)
    return new, (first, second)


def step(workload: Workload, x: Any, labels: Any, carry: Any, rows: Any) -> tuple[Any, Any]:
    """One update of `carry`; `rows` None means the full batch."""
    parameters, moments, t, total, hits, key = carry
    if rows is not None:
        x, labels = x[rows], labels[rows]
    now = None
    if workload.dropout:
        key, now = jax.random.split(key)

    def mean_loss(parameters: Any) -> tuple[Any, Any]:
        logits = forward(workload, parameters, x, now)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.mean(), (logits.argmax(1) == labels).sum()

    (loss, right), gradients = jax.value_and_grad(mean_loss, has_aux=True)(parameters)
    t = t + 1
    parameters, moments = update(workload, parameters, moments, gradients, t)
    return (parameters, moments, t, total + loss, hits + right, key), loss


class Jit(Peer):
    """A compiled step with donated buffers, called from Python for each batch."""

    about = "jit, donated buffers, gather inside; threads by CPU affinity"
    takes_images = True

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        kind, _, number = device.partition(":")
        try:
            place = jax.devices("gpu" if kind == "cuda" else kind)[int(number or 0)]
        except (RuntimeError, IndexError) as error:
            raise Unsupported(f"this JAX has no device {device} ({error})") from None
        jax.config.update("jax_default_device", place)
        # By itself it would multiply in TF32 on a GPU.
        jax.config.update("jax_default_matmul_precision", "highest")
        self.reset()
        if workload.predicts:
            self._forward = jax.jit(partial(forward, workload, key=None))
            return
        x, labels = workload.data()
        self.x, self.labels = jnp.asarray(x), jnp.asarray(labels, jnp.int32)
        self._compile()

    def _compile(self) -> None:
        def one(carry: Any, x: Any, labels: Any, order: Any) -> tuple[Any, Any]:
            # The step's own counter finds its rows: slicing in Python would be a call of its own.
            rows = None if order is None else order[carry[2] % len(order)]
            return step(self.workload, x, labels, carry, rows)

        self._step = jax.jit(one, donate_argnums=0)

    def reset(self) -> None:
        """Initial weights, moments, counter, sums and key."""
        workload = self.workload
        dense = workload.channels_last_weights() if workload.conv else workload.weights()
        parameters = tuple(
            [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in given]
            for given in (workload.kernels(), dense)
        )

        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, parameters)

        kind = self.workload.optimizer
        moments = (zeros(), zeros()) if kind == "adam" else zeros() if kind == "momentum" else ()
        total, hits = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        # XLA's own bit generator: several times faster than JAX's default on a CPU.
        key = jax.random.key(0, impl="rbg")
        self.carry = (parameters, moments, jnp.zeros((), jnp.int32), total, hits, key)

    def _order(self) -> Any:
        if self.workload.steps == 1:
            return None
        order = numpy.random.default_rng().permutation(self.workload.rows)
        return jnp.asarray(order.reshape(-1, self.workload.batch), jnp.int32)

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        order = None if self.workload.steps == 1 else jnp.asarray(rows, jnp.int32)
        found = []
        for _ in rows:
            self.carry, loss = self._step(self.carry, self.x, self.labels, order)
            found.append(float(loss))
        return found

    def epoch(self) -> None:
        """The order of an epoch is transferred in one copy."""
        order, carry = self._order(), self.carry
        for _ in range(self.workload.steps):
            carry, _ = self._step(carry, self.x, self.labels, order)
        self.carry = carry
        float(carry[3]), int(carry[4])

    def predict(self, x: Any) -> Any:
        """Logits, computed before it returns."""
        return self._forward(self.carry[0], x).block_until_ready()

    def samples(self, x: HostArray) -> Any:
        """`x` as JAX keeps it."""
        return jnp.asarray(x)


class Scan(Jit):
    """A whole epoch in one call."""

    about = "jit of lax.scan over the epoch's batches, donated buffers, gather inside"

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """Prediction has no scan."""
        if workload.predicts:
            raise Unsupported("the same as JAX jit in prediction")
        return workload, ""

    def _compile(self) -> None:
        def many(carry: Any, x: Any, labels: Any, order: Any, length: int) -> tuple[Any, Any]:
            one = partial(step, self.workload, x, labels)
            found: tuple[Any, Any] = jax.lax.scan(one, carry, order, length=length)
            return found

        self._scan = jax.jit(many, donate_argnums=0, static_argnums=4)

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        order = None if self.workload.steps == 1 else jnp.asarray(rows, jnp.int32)
        self.carry, losses = self._scan(self.carry, self.x, self.labels, order, len(rows))
        return [float(loss) for loss in losses]

    def epoch(self) -> None:
        """One call."""
        self.carry, _ = self._scan(
            self.carry, self.x, self.labels, self._order(), self.workload.steps
        )
        float(self.carry[3]), int(self.carry[4])
