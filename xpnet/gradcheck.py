"""Gradient checks: hand-derived gradients compared with central differences in float64.

`(f(x + h) − f(x − h)) / 2h = f′(x) + O(h²)`: with `h = 10⁻⁶` the truncation error is about 10⁻¹²
and the rounding error about 10⁻¹⁰, so a correct gradient has a relative error below 10⁻⁷.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy

from xpnet.backend import Array, Backend, array_module
from xpnet.errors import ConfigError
from xpnet.losses import Loss
from xpnet.losses.base import as_mean
from xpnet.network import Sequential

STEP = 1e-6


def numerical_gradient(f: Callable[[], float], array: Array, step: float = STEP) -> Array:
    """`∂f/∂array` by central differences: an array of the same shape.

    `f` takes no argument and reads `array`, which is changed entry by entry and restored. Costs two
    calls of `f` per entry.
    """
    xp = array_module(array)
    if array.dtype != xp.float64:
        raise ConfigError(
            f"gradients are checked in float64, found {array.dtype}: make the network with "
            f'dtype="float64", and x an array of float64'
        )
    gradient = xp.zeros(array.shape, dtype=array.dtype)
    for place in numpy.ndindex(array.shape):
        # A slice is a view in any order of memory, which a flat copy would not be.
        one = (*(slice(i, i + 1) for i in place), ...)
        entry = array[one]
        kept = entry.copy()
        xp.add(kept, step, out=entry)
        above = f()
        xp.subtract(kept, step, out=entry)
        below = f()
        entry[...] = kept
        gradient[one].fill((above - below) / (2 * step))
    return gradient


def relative_error(found: Array, expected: Array) -> float:
    """`‖found − expected‖ / max(‖found‖, ‖expected‖)`, 0 for two zeros."""
    backend = Backend.of(found)
    a, b = backend.to_host(found).ravel(), backend.to_host(expected).ravel()
    scale = max(float(a @ a), float(b @ b)) ** 0.5
    return float((a - b) @ (a - b)) ** 0.5 / scale if scale else 0.0


def check_network(
    network: Sequential, loss: Loss, x: Array, target: Array, weights: Array | None = None
) -> dict[str, float]:
    """The relative error of every gradient of `loss` over one batch, `"input"` included.

    Parameters that are not trained have none.

    `network` must be float64; `x: (N, in)` float64, `target` and `weights` as `loss`
    takes them. Every error should be below 1e-7, except near points where the loss is not
    differentiable. Raises `ConfigError` where two forward passes of the batch give two losses.
    """
    backend = network.backend

    def value() -> float:
        network.set_sample_counter(0)
        logits = network.forward(x, training=True)
        found = loss.forward(logits, target, weights)
        return float(backend.to_host(as_mean(loss, found, backend)))

    if (first := value()) != (second := value()):
        raise ConfigError(
            f"two forward passes of one batch give the losses {first:g} and {second:g}: a layer "
            f"with random numbers must begin them again in set_sample_counter()"
        )
    dx = network.backward(loss.backward(), input_gradient=True)
    analytic = {name: g.copy() for name, g in network.parameter_gradients().items()}
    analytic["input"] = array_module(x).array(dx)
    arrays = network.parameters() | {"input": x}
    return {
        name: relative_error(gradient, numerical_gradient(value, arrays[name]))
        for name, gradient in analytic.items()
    }
