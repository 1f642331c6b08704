"""Methods that version 0.1 called otherwise: classes that override or call them still work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xpnet.errors import deprecated


def take_former_names(kind: type, names: Mapping[str, str]) -> None:
    """Let `kind`, which overrides a method by its former name, override it by the new one too.

    `names`: the new name of each method by the former one. Called from `__init_subclass__`.
    """
    for old, new in names.items():
        method = vars(kind).get(old)
        if callable(method) and new not in vars(kind):
            deprecated(f"{kind.__name__}.{old}()", f"{new}()")
            setattr(kind, new, method)


def former_name(thing: object, old: str, new: str) -> Callable[..., Any]:
    """The method that a call of `thing.old()` in the base class stands for.

    That is `new` of the first class that does not define `old` as well: where the caller is an
    overriding `old` of a subclass, which `take_former_names` made its `new`, the method above it.
    """
    deprecated(f"{type(thing).__name__}.{old}()", f"{new}()")
    kinds = type(thing).__mro__
    for kind in kinds:
        is_base = not any(old in vars(other) for other in kinds[kinds.index(kind) + 1 :])
        if new in vars(kind) and (is_base or old not in vars(kind)):
            method = vars(kind)[new]
            break
    return lambda *arguments: method(thing, *arguments)
