"""Methods that version 0.1 called otherwise: classes that override or call them still work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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


def former_name(base: type, thing: object, old: str, new: str) -> Callable[..., Any]:
    """The method that `base.old`, the deprecated name, calls: `new` of `thing`.

    Where a subclass overrides `old`, `take_former_names` made that its `new`, and it may be what
    called `base.old`; so this is `new` of the first class that does not define `old`, or of `base`.
    """
    deprecated(f"{type(thing).__name__}.{old}()", f"{new}()")
    kinds = (kind for kind in type(thing).__mro__ if new in vars(kind))
    kind = next(kind for kind in kinds if kind is base or old not in vars(kind))
    method: Callable[..., Any] = getattr(kind, new)
    return partial(method, thing)
