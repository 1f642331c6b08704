"""Support for deprecated method names of version 0.1 in subclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from xpnet.errors import deprecated


def take_former_names(kind: type, names: Mapping[str, str]) -> None:
    """Let `kind`, which overrides a method by its former name, override it by the new one too.

    `names`: the new name of each method by the former one. Called from `__init_subclass__`. The
    method may also be that of a class without a base of xpnet's, from which `kind` inherits.
    """
    for old, new in names.items():
        found = next((c for c in kind.__mro__ if {old, new} & vars(c).keys()), kind)
        method = vars(found).get(old)
        if callable(method) and new not in vars(found):
            deprecated(f"{kind.__name__}.{old}()", f"{new}()")
            setattr(kind, new, method)


class FormerAttribute:
    """An attribute of a class, read by its former name: gives that called `new`."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __get__(self, thing: object, kind: type) -> Any:
        """The attribute by its new name."""
        deprecated(f"{kind.__name__}.{self.old}", self.new)
        return getattr(kind if thing is None else thing, self.new)


def former_name(base: type, thing: object, old: str, new: str) -> Callable[..., Any]:
    """The method that `base.old`, the deprecated name, calls: `new` of `thing`.

    Where classes override `old`, `take_former_names` made that their `new`, and the last of them
    may be what called `base.old`; so this is the first `new` after that class.
    """
    deprecated(f"{type(thing).__name__}.{old}()", f"{new}()")
    kinds = type(thing).__mro__
    before = [place for place, kind in enumerate(kinds) if old in vars(kind) and kind is not base]
    after = kinds[max(before, default=-1) + 1 :]
    method: Callable[..., Any] = next(vars(kind)[new] for kind in after if new in vars(kind))
    return partial(method, thing)
