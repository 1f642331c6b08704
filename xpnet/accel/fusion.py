"""Fusion: one kernel for two neighbouring operations of a program.

The results keep their bits: a fused kernel does the operations of both, in one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from xpnet.accel.program import LazyCall, Op, Program
from xpnet.backend.context import current


def fuse(program: Program) -> Program:
    """`program`, with one operation for two neighbours that have a kernel together."""
    in_use, fused = current().kernels, list(program[:1])
    if in_use is None:
        return program
    xp, module = in_use
    pairs = [pair for pair in PAIRS.items() if pair[0] in module.KERNELS]
    for op in program[1:]:
        for name, arguments_of in pairs:
            arguments = arguments_of(xp, fused[-1], op)
            if arguments is not None and op.part == fused[-1].part:
                origins = f"{fused[-1].origin} and {op.origin}"
                bind = partial(module.bind, name, arguments)
                call = LazyCall(bind) if isinstance(op.call, LazyCall) else bind()
                fused[-1] = Op(
                    name, arguments, None, call, is_kernel=True, origin=origins, part=op.part
                )
                break
        else:
            fused.append(op)
    return tuple(fused)


def _of_loss_and_gradient(xp: Any, first: Op, second: Op) -> tuple[Any, ...] | None:
    """The arguments of both, for `cross_entropy` and its `softmax_cross_entropy_backward`."""
    if not (first.is_kernel and second.is_kernel):
        return None
    if (first.name, second.name) != ("cross_entropy", "softmax_cross_entropy_backward"):
        return None
    logits, labels, smoothing, sums, p, value = first.inputs
    own_p, own_labels, own_smoothing, scale, dlogits = second.inputs
    if not (own_p is p and own_labels is labels and own_smoothing == smoothing):
        return None
    return logits, labels, smoothing, scale, sums, p, value, dlogits


def _of_bias_and_relu(xp: Any, first: Op, second: Op) -> tuple[Any, ...] | None:
    """`(y, bias, r)` where the operations are `add(y, bias, out=y)` and the kernel `relu(y, r)`."""
    if not (second.is_kernel and second.name == "relu" and first.name == "add"):
        return None
    if first.is_kernel or first.options:
        return None
    (y, bias), (x, r) = first.inputs, second.inputs
    if not (x is y is first.output and y.ndim == 2 and isinstance(bias, xp.ndarray)):
        return None
    is_bias = bias.shape == y.shape[1:] and bias.dtype == y.dtype and bias.flags.c_contiguous
    return (y, bias, r) if is_bias else None


PAIRS: dict[str, Callable[[Any, Op, Op], tuple[Any, ...] | None]] = {
    "add_relu": _of_bias_and_relu,
    "cross_entropy_and_gradient": _of_loss_and_gradient,
}
"""The kernels of two operations, and what finds their arguments, or None for other operations."""
