"""`python -m bench.speedruns.with_jax SETTINGS SEED FOLDER CACHE`: prints the test accuracy.

Each epoch is one compiled `scan`, which JAX keeps in the folder CACHE from one process to the next,
as numba does for xpnet. Rows that do not fill a batch are left out of an epoch.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from bench.speedruns.data import read, read_settings

MOMENTUM, EPSILON, ADAM_EPSILON = 0.1, 1e-5, 1e-8


def initial(settings: dict[str, Any], generator: numpy.random.Generator) -> tuple[Any, Any]:
    """Parameters and running statistics."""
    widths = [784, *settings["hidden"], 10]
    parameters, statistics = [], []
    for fan_in, width in pairwise(widths):
        weight = generator.standard_normal((fan_in, width), numpy.float32)
        weight *= numpy.float32(math.sqrt(2 / fan_in))
        one = {"weight": weight, "bias": numpy.zeros(width, numpy.float32)}
        if width != 10:
            one |= {
                "scale": numpy.ones(width, numpy.float32),
                "shift": numpy.zeros(width, numpy.float32),
            }
            ones = numpy.ones(width, numpy.float32)
            statistics.append({"mean": numpy.zeros(width, numpy.float32), "variance": ones})
        parameters.append(one)
    return parameters, statistics


def forward(parameters: Any, statistics: Any, x: Any, training: bool) -> tuple[Any, Any]:
    """Logits and new running statistics."""
    after = []
    for one, known in zip(parameters[:-1], statistics, strict=True):
        x = x @ one["weight"] + one["bias"]
        if training:
            mean, variance = x.mean(0), x.var(0)
            unbiased = variance * (len(x) / (len(x) - 1))
            known = {
                "mean": (1 - MOMENTUM) * known["mean"] + MOMENTUM * mean,
                "variance": (1 - MOMENTUM) * known["variance"] + MOMENTUM * unbiased,
            }
        else:
            mean, variance = known["mean"], known["variance"]
        after.append(known)
        x = (x - mean) * jax.lax.rsqrt(variance + EPSILON) * one["scale"] + one["shift"]
        x = jax.nn.relu(x)
    return x @ parameters[-1]["weight"] + parameters[-1]["bias"], after


def rates(settings: dict[str, Any], steps: int) -> Any:
    """PyTorch's `OneCycleLR`."""
    rate, top, step = settings["learning_rate"], 0.3 * steps - 1, numpy.arange(steps)
    start, end = rate / 25, rate / 25 / 1e4
    up = start + (rate - start) * (1 - numpy.cos(numpy.pi * step / top)) / 2
    done = (step - top) / (steps - 1 - top)
    down = end + (rate - end) * (1 + numpy.cos(numpy.pi * done)) / 2
    return numpy.where(step < top, up, down).astype(numpy.float32)


def main(path: str, seed: str, folder: str, cache: str) -> None:
    """Train and test."""
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    settings = read_settings(path)
    beta1, beta2 = settings["beta1"], settings["beta2"]
    decay, smoothing = settings["weight_decay"], settings["label_smoothing"]
    generator = numpy.random.default_rng(int(seed))
    pixels, labels = read(folder, "train")
    x = jnp.asarray(pixels.astype(numpy.float32) / numpy.float32(255))
    labels = jnp.asarray(labels)
    size, epochs = settings["batch_size"], settings["epochs"]
    per_epoch = len(x) // size

    def mean_loss(parameters: Any, statistics: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        logits, after = forward(parameters, statistics, x, training=True)
        log_p = jax.nn.log_softmax(logits)
        wanted = (1 - smoothing) * jax.nn.one_hot(labels, 10) + smoothing / 10
        return -(wanted * log_p).sum(1).mean(), after

    def step(x: Any, labels: Any, carry: Any, given: Any) -> tuple[Any, Any]:
        parameters, statistics, first, second, t = carry
        rows, rate = given
        slope = jax.grad(mean_loss, has_aux=True)
        gradients, statistics = slope(parameters, statistics, x[rows], labels[rows])
        t, tree = t + 1, jax.tree.map
        first = tree(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradients)
        second = tree(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradients)
        a, b = rate / (1 - beta1**t), 1 / (1 - beta2**t)
        parameters = [
            {
                name: w * (1 - rate * decay * (name == "weight"))
                - a * m[name] / (jnp.sqrt(v[name] * b) + ADAM_EPSILON)
                for name, w in one.items()
            }
            for one, m, v in zip(parameters, first, second, strict=True)
        ]
        return (parameters, statistics, first, second, t), None

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry: Any, x: Any, labels: Any, rows: Any, rates: Any) -> Any:
        return jax.lax.scan(partial(step, x, labels), carry, (rows, rates))[0]

    parameters, statistics = initial(settings, generator)
    zeros = jax.tree.map(numpy.zeros_like, parameters)
    carry = (parameters, statistics, zeros, zeros, jnp.float32(0))
    carry = jax.tree.map(jnp.array, carry)
    every = rates(settings, epochs * per_epoch).reshape(epochs, per_epoch)
    for number in range(epochs):
        rows = generator.permutation(len(x))[: per_epoch * size].reshape(per_epoch, size)
        carry = epoch(carry, x, labels, rows, every[number])
    pixels, labels = read(folder, "t10k")
    test = jnp.asarray(pixels.astype(numpy.float32) / numpy.float32(255))
    logits = jax.jit(lambda *given: forward(*given, training=False)[0])(*carry[:2], test)
    print(float((logits.argmax(1) == jnp.asarray(labels)).mean()))


if __name__ == "__main__":
    main(*sys.argv[1:])
