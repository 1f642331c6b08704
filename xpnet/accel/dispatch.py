"""Compiled twins: where a formula may be worked off by one loop instead of several passes.

A formula stands in its layer, loss or optimizer, on `xp`. Some begin by asking here whether a
compiled twin, one pass over memory, has done the work already:

    if not twins.did("relu_backward", dy, self.x, dx):
        ...                                                  the formula, on `xp`

For NumPy's arrays twins are numba's, in `xpnet.accel.numba_kernels` (the extra `fast`); `fit()`
uses them where training is long enough to pay for loading them. For CuPy's they are CUDA kernels,
in `xpnet.accel.cuda_kernels`; `fit()` always uses them. `XPNET_KERNELS=0` in the environment leaves
both out. A test holds each against its formula: whether they are there is a matter of speed and of
the last digit.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from threading import get_ident
from types import ModuleType
from typing import Any, TypeAlias

import numpy

from xpnet.backend import listener_of

Call: TypeAlias = Callable[[], Any]

ENABLED = os.environ.get("XPNET_KERNELS", "1") != "0"
"""False leaves all twins out."""

ENOUGH_STEPS = 1500
"""Steps, of a network like 784-512-256-10, that win back the half second of loading numba."""

_DTYPES = frozenset("?bBhHiIlLqQfd")
_CUDA = {"cupy"}
_in_use: dict[int, tuple[Any, ModuleType]] = {}


def _chosen(xp: Any, steps: int) -> ModuleType | None:
    """The twins for arrays of `xp`, or None: the one place where they are chosen."""
    if not ENABLED:
        return None
    if xp.__name__ in _CUDA:
        return import_module("xpnet.accel.cuda_kernels")
    return compiled() if xp is numpy and steps >= ENOUGH_STEPS else None


class Declined(Exception):
    """A twin has looked at its arguments, and has left the work to the formula."""


@contextmanager
def used(steps: int = sys.maxsize, xp: Any = numpy) -> Iterator[None]:
    """Within the block, twins do what they can with `xp`'s arrays in this thread.

    NumPy's do where `steps` are enough.

    Nothing of it outlasts the block: what is computed elsewhere does not depend on whether
    something was trained before.
    """
    thread = get_ident()
    before = _in_use.get(thread)
    module = _chosen(xp, steps)
    if module is None:
        _in_use.pop(thread, None)
    else:
        _in_use[thread] = xp, module
    try:
        yield
    finally:
        _in_use.pop(thread, None)
        if before is not None:
            _in_use[thread] = before


def did(name: str, *arguments: Any) -> bool:
    """Whether the twin `name` has done the work on `arguments`.

    It has not where twins are not in use or lack this one, for arrays of another module, whose
    entries do not lie side by side or are of a dtype that twins do not know, and for numbers that
    are not Python's own. Numbers are taken in the dtype of the last array of floats: what is
    written stands last.
    """
    in_use = _in_use.get(get_ident()) if _in_use else None
    if in_use is None or not hasattr(in_use[1], name):
        return False
    xp, module = in_use
    number: Any = float
    for argument in arguments:
        if isinstance(argument, xp.ndarray):
            dtype = argument.dtype
            if not (argument.flags.c_contiguous and dtype.isnative and dtype.char in _DTYPES):
                return False
            if dtype.kind == "f":
                number = dtype.type
        elif type(argument) not in (int, float, bool):
            return False
    arguments = tuple(number(a) if type(a) is float else a for a in arguments)
    keep = getattr(listener_of(xp), "keep", None)
    try:
        if keep is None:
            getattr(module, name)(*arguments)
        else:
            keep(module.bind(name, arguments))
    except Declined:
        return False
    return True


def joined(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls of a recorded step, with one twin for two neighbours where there is one.

    There is for a bias and the ReLU after it: what the one wrote, the other would read again.
    """
    in_use, kept = _in_use.get(get_ident()), list(calls[:1])
    if in_use is None or not hasattr(in_use[1], "add_relu"):
        return tuple(calls)
    for call in calls[1:]:
        arrays = _of_bias_and_relu(kept[-1], call)
        if arrays is None:
            kept.append(call)
        else:
            kept[-1] = in_use[1].bind("add_relu", arrays)
    return tuple(kept)


def _of_bias_and_relu(first: Any, second: Any) -> tuple[Any, ...] | None:
    """`(y, bias, r)` where the calls are `add(y, bias, y)` and the twin `relu(y, r)`."""
    if not (isinstance(first, partial) and isinstance(second, partial)):
        return None
    is_relu = getattr(second.func, "__name__", None) == "relu"
    if not is_relu or first.func is not numpy.add or len(first.args) != 3:
        return None
    (y, bias, out), (x, r) = first.args, second.args
    if not (x is y is out and y.ndim == 2 and isinstance(bias, numpy.ndarray)):
        return None
    is_bias = bias.shape == y.shape[1:] and bias.dtype == y.dtype and bias.flags.c_contiguous
    return (y, bias, r) if is_bias else None


@cache
def compiled() -> ModuleType | None:
    """The CPU's twins; None without numba. Warns where numba is there and cannot be used."""
    if find_spec("numba") is None:
        return None
    try:
        return import_module("xpnet.accel.numba_kernels")
    except Exception as error:
        # numba refuses a NumPy newer than it knows, and a disk on which it can keep nothing.
        warnings.warn(
            f"numba is installed but cannot be used ({error}): xpnet goes on without it, slower; "
            f"XPNET_KERNELS=0 in the environment says that this is meant",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
