"""Bias and ReLU in place: the product before them writes to the array of their result.

`dot(x, Wᵀ, out=y)`, `add_relu(y, bias, r)` become `dot(x, Wᵀ, out=r)`, `add_relu(r, bias, r)`, and
`dot(dy, W, out=dx)`, `relu_backward(dx, y, dx′)` become `dot(dy, W, out=dx′)`,
`relu_backward(dx′, y, dx′)`. Each number is computed from the same ones, to the same bits; one
array less is written and read. In a wide network arrays are larger than the caches.

Afterwards `y` and `dx` hold nothing of the step. xpnet's own layers keep no reference to them, so
this is for networks of these alone: a layer of the user that only returns what it is given, or that
contains others, may keep such an array for a callback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from xpnet.accel import numba_kernels
from xpnet.accel.cpu.operands import are_one, is_like, share
from xpnet.accel.program import LazyCall, Op, Program, factors, operation
from xpnet.backend import Array

_FROM_FIRST_TO_LAST = frozenset({"add_relu", "relu_backward"})
"""Kernels whose last argument is the result for the first, element by element."""


def in_place(program: Program) -> Program:
    """`program`, where each such kernel works in place if nothing else can tell the difference."""
    ops = list(program)
    for place, op in enumerate(ops):
        product = _product_before(ops, place)
        if product is not None:
            result = op.inputs[-1]
            ops[product] = _writing_to(result, ops[product])
            ops[place] = _working_in(result, op)
    return tuple(ops)


def _product_before(ops: Sequence[Op], place: int) -> int | None:
    """Where the product is that may write to the result of the operation at `place`."""
    op = ops[place]
    if not (op.is_kernel and op.name in _FROM_FIRST_TO_LAST):
        return None
    given, *others, result = op.inputs
    if not is_like(given, result) or any(share(given, other) for other in others):
        return None
    # The product and this one; a third would read or write what is not there any more.
    users = list(islice((n for n, one in enumerate(ops) if _uses(one, given)), 3))
    if len(users) != 2:
        return None
    first = ops[users[0]]
    if factors(first) is None:
        return None
    if any(share(given, factor) for factor in first.inputs) or not are_one(given, first.output):
        return None
    # Until the kernel writes its result, that array may still be read: what the step before left.
    between = [*ops[users[0] : place], replace(op, inputs=tuple(others))]
    return None if any(_uses(one, result) for one in between) else users[0]


def _uses(op: Op, array: Array) -> bool:
    return any(share(array, other) for other in _arrays((op.inputs, op.output, op.options)))


def _arrays(values: Iterable[Any]) -> Iterator[Array]:
    """The arrays among `values`, and in sequences and dicts there."""
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple | list | dict):
            yield from _arrays(value.values() if isinstance(value, dict) else value)


def _writing_to(output: Array, product: Op) -> Op:
    made = operation(np, product.name, product.inputs, {"out": output})
    return replace(made, origin=product.origin, part=product.part)


def _working_in(result: Array, op: Op) -> Op:
    arguments = (result, *op.inputs[1:])
    call = LazyCall(partial(numba_kernels.bind, op.name, arguments))
    return replace(op, inputs=arguments, call=call)
