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

from bench.speedruns.data import rates, read, read_settings

ADAM_EPSILON = 1e-8


def initial(settings: dict[str, Any], generator: numpy.random.Generator) -> Any:
    """Weights and biases."""
    parameters = []
    for fan_in, width in pairwise([784, *settings["hidden"], 10]):
        weight = generator.standard_normal((fan_in, width), numpy.float32)
        weight *= numpy.float32(math.sqrt(2 / fan_in))
        parameters.append({"weight": weight, "bias": numpy.zeros(width, numpy.float32)})
    return parameters


def forward(parameters: Any, x: Any) -> Any:
    """Logits."""
    for one in parameters[:-1]:
        x = jax.nn.relu(x @ one["weight"] + one["bias"])
    return x @ parameters[-1]["weight"] + parameters[-1]["bias"]


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

    def mean_loss(parameters: Any, x: Any, labels: Any) -> Any:
        log_p = jax.nn.log_softmax(forward(parameters, x))
        wanted = (1 - smoothing) * jax.nn.one_hot(labels, 10) + smoothing / 10
        return -(wanted * log_p).sum(1).mean()

    def step(x: Any, labels: Any, carry: Any, given: Any) -> tuple[Any, Any]:
        parameters, first, second, t = carry
        rows, rate = given
        gradients = jax.grad(mean_loss)(parameters, x[rows], labels[rows])
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
        return (parameters, first, second, t), None

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry: Any, x: Any, labels: Any, rows: Any, rates: Any) -> Any:
        return jax.lax.scan(partial(step, x, labels), carry, (rows, rates))[0]

    parameters = initial(settings, generator)
    zeros = jax.tree.map(numpy.zeros_like, parameters)
    carry = jax.tree.map(jnp.array, (parameters, zeros, zeros, jnp.float32(0)))
    every = rates(settings, epochs * per_epoch).reshape(epochs, per_epoch)
    for number in range(epochs):
        rows = generator.permutation(len(x))[: per_epoch * size].reshape(per_epoch, size)
        carry = epoch(carry, x, labels, rows, every[number])
    pixels, labels = read(folder, "t10k")
    test = jnp.asarray(pixels.astype(numpy.float32) / numpy.float32(255))
    logits = jax.jit(forward)(carry[0], test)
    print(float((logits.argmax(1) == jnp.asarray(labels)).mean()))


if __name__ == "__main__":
    main(*sys.argv[1:])
