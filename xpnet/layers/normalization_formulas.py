"""The formulas of `BatchNorm` and `LayerNorm`, which `normalization.py` derives.

Shapes: `x`, `y`, `dx`, `dy`: `(N, F)`; float32 or float64. `1` is a vector of ones, so `1ᵀ A` sums
the rows of `A` and is one matrix-vector product.
"""

from __future__ import annotations

from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array
from xpnet.distributed.group import ALONE, Group
from xpnet.workspace import Workspace


def normalise(
    xp: Any, weight: Array, bias: Array, epsilon: float, normal: Array, scale: Array, y: Array
) -> None:
    """`s = 1 / √(σ² + ε)`, `x̂ = (x − μ) s`, `y = γ x̂ + β`.

    `normal` holds `x − μ` and `scale` `σ²`; on return they hold `x̂` and `s`.
    """
    xp.add(scale, epsilon, out=scale)
    xp.sqrt(scale, out=scale)
    xp.divide(1, scale, out=scale)
    xp.multiply(normal, scale, out=normal)
    xp.multiply(normal, weight, out=y)
    xp.add(y, bias, out=y)


def backward_parameters(
    xp: Any,
    dy: Array,
    normal: Array,
    dweight: Array,
    dbias: Array,
    *,
    workspace: Workspace,
    scratch: Array,
) -> None:
    """`dγ = Σ_n dy_n x̂_n`, `dβ = Σ_n dy_n`."""
    ones = workspace.ones(xp, len(dy), dy.dtype)
    xp.multiply(dy, normal, out=scratch)
    xp.dot(ones, scratch, out=dweight)
    xp.dot(ones, dy, out=dbias)


@accelerated
def batch_norm(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array,
    epsilon: float,
    momentum: float,
    running_mean: Array,
    running_var: Array,
    normal: Array,
    scale: Array,
    y: Array,
    *,
    workspace: Workspace,
    group: Group = ALONE,
    count: int = 0,
) -> None:
    """Compute `x̂` in `normal`, `s` in `scale` and `y = γ x̂ + β`; update the running statistics.

    Mean and variance in two passes, for exactness. `group`: the ranks that have the rows of the
    batch, `count` on all of them together (0: those of `x`).
    """
    count = count or len(x)
    mean = workspace.array(xp, "mean", scale.shape, x.dtype)
    ones = workspace.ones(xp, len(x), x.dtype)
    xp.dot(ones, x, out=mean)
    group.all_reduce(mean)
    xp.divide(mean, count, out=mean)
    xp.subtract(x, mean, out=normal)
    xp.multiply(normal, normal, out=y)
    xp.dot(ones, y, out=scale)
    group.all_reduce(scale)
    xp.divide(scale, count, out=scale)
    share = workspace.array(xp, "share", running_mean.shape, running_mean.dtype)
    move(xp, running_mean, mean, momentum, 1.0, share)
    move(xp, running_var, scale, momentum, count / (count - 1), share)
    normalise(xp, weight, bias, epsilon, normal, scale, y)


def move(
    xp: Any, running: Array, batch: Array, momentum: float, factor: float, share: Array
) -> None:
    """`running ← (1 − momentum) · running + momentum · factor · batch`."""
    xp.multiply(running, 1 - momentum, out=running)
    xp.multiply(batch, momentum * factor, out=share)
    xp.add(running, share, out=running)


@accelerated
def batch_norm_backward(
    xp: Any,
    dy: Array,
    normal: Array,
    scale: Array,
    weight: Array,
    dweight: Array,
    dbias: Array,
    dx: Array,
    *,
    workspace: Workspace,
    group: Group = ALONE,
    count: int = 0,
) -> None:
    """`dx = γ s (dy − dβ / N − x̂ dγ / N)`, with `dγ` and `dβ`.

    `group`, `count`: as in `batch_norm`. `dweight`, `dbias` are the sums over this rank's own rows,
    as all its gradients are; in `dx` they are those of the batch.
    """
    count = count or len(dy)
    backward_parameters(xp, dy, normal, dweight, dbias, workspace=workspace, scratch=dx)
    mean = workspace.array(xp, "mean", scale.shape, dy.dtype)
    xp.divide(dweight, count, out=mean)
    group.all_reduce(mean)
    xp.multiply(normal, mean, out=dx)
    xp.subtract(dy, dx, out=dx)
    xp.divide(dbias, count, out=mean)
    group.all_reduce(mean)
    xp.subtract(dx, mean, out=dx)
    xp.multiply(weight, scale, out=mean)
    xp.multiply(dx, mean, out=dx)


@accelerated
def layer_norm(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array,
    epsilon: float,
    normal: Array,
    scale: Array,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`x̂` in `normal`, `s` in `scale`, `y = γ x̂ + β`."""
    mean = workspace.array(xp, "mean", (len(x), 1), x.dtype)
    xp.mean(x, axis=1, keepdims=True, out=mean)
    xp.subtract(x, mean, out=normal)
    xp.multiply(normal, normal, out=y)
    xp.mean(y, axis=1, keepdims=True, out=scale)
    normalise(xp, weight, bias, epsilon, normal, scale, y)


@accelerated
def layer_norm_backward(
    xp: Any,
    dy: Array,
    normal: Array,
    scale: Array,
    weight: Array,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx = s (g − mean(g) − x̂ mean(g x̂))`, `g = dy · γ`."""
    mean = workspace.array(xp, "mean", (len(dy), 1), dy.dtype)
    part = workspace.array(xp, "part", dy.shape, dy.dtype)
    xp.multiply(dy, weight, out=dx)
    xp.multiply(dx, normal, out=part)
    xp.mean(part, axis=1, keepdims=True, out=mean)
    xp.multiply(normal, mean, out=part)
    xp.mean(dx, axis=1, keepdims=True, out=mean)
    xp.subtract(dx, mean, out=dx)
    xp.subtract(dx, part, out=dx)
    xp.multiply(dx, scale, out=dx)
