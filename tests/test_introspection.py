"""Nothing public goes untested: every class of each kind must have a case in `cases.py`."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import cases
import pytest

import xpnet
from xpnet import activations, initializers, layer, layers, losses, optimizers, schedules

KINDS = [
    pytest.param((layers, activations), layer.Layer, cases.LAYERS, id="layers"),
    pytest.param((losses,), losses.Loss, cases.LOSSES, id="losses"),
    pytest.param((optimizers,), optimizers.Optimizer, cases.OPTIMIZERS, id="optimizers"),
    pytest.param((initializers,), initializers.Initializer, cases.INITIALIZERS, id="initializers"),
    pytest.param((schedules,), schedules.Schedule, cases.SCHEDULES, id="schedules"),
]


def public_classes(modules: tuple[ModuleType, ...], base: type) -> set[type]:
    return {
        item
        for module in modules
        for name, item in vars(module).items()
        if inspect.isclass(item)
        and item.__module__ == module.__name__
        and issubclass(item, base)
        and item is not base
        and not name.startswith("_")
    }


@pytest.mark.parametrize(("modules", "base", "table"), KINDS)
def test_every_public_class_has_a_case(
    modules: tuple[ModuleType, ...], base: type, table: list[Any]
) -> None:
    classes = public_classes(modules, base)
    assert classes, f"no subclass of {base.__name__} found"
    untested = classes - {case.kind for case in table}
    assert not untested, f"add a case to tests/cases.py for {untested}"


def test_a_class_without_a_case_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    stray = type("Stray", (layer.Layer,), {"__module__": layers.__name__})
    monkeypatch.setattr(layers, "Stray", stray, raising=False)
    assert stray in public_classes((layers,), layer.Layer) - {c.kind for c in cases.LAYERS}


@pytest.mark.parametrize(("modules", "base", "table"), KINDS)
def test_every_public_class_has_a_docstring_with_a_formula_or_shape(
    modules: tuple[ModuleType, ...], base: type, table: list[Any]
) -> None:
    for item in public_classes(modules, base):
        assert item.__doc__, item
        assert "`" in item.__doc__ or "All " in item.__doc__, f"{item}: state its formula"


def test_all_names_exist() -> None:
    for name in xpnet.__all__:
        assert hasattr(xpnet, name)
