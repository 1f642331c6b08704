"""Nothing public goes untested: every class of each kind must have a case in `cases.py`."""

from __future__ import annotations

import inspect
import pydoc
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import cases
import pytest

import xpnet
from xpnet import initializers, losses, optimizers, schedules
from xpnet.layers import (
    activations,
    base,
    containers,
    convolution,
    dropout,
    linear,
    normalization,
    pooling,
    reshaping,
)
from xpnet.losses import classification, regression
from xpnet.optimizers import adam, gradient_descent

KINDS = [
    pytest.param(
        (linear, activations, containers, convolution, dropout, normalization, pooling, reshaping),
        base.Layer,
        cases.LAYERS,
        id="layers",
    ),
    pytest.param((classification, regression), losses.Loss, cases.LOSSES, id="losses"),
    pytest.param((adam, gradient_descent), optimizers.Optimizer, cases.OPTIMIZERS, id="optimizers"),
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
    assert not untested, f"add a case to tests/support/cases.py for {untested}"


def test_a_class_without_a_case_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    stray = type("Stray", (base.Layer,), {"__module__": linear.__name__})
    monkeypatch.setattr(linear, "Stray", stray, raising=False)
    assert stray in public_classes((linear,), base.Layer) - {c.kind for c in cases.LAYERS}


@pytest.mark.parametrize(("modules", "base", "table"), KINDS)
def test_every_public_class_has_a_docstring_with_a_formula_or_shape(
    modules: tuple[ModuleType, ...], base: type, table: list[Any]
) -> None:
    for item in public_classes(modules, base):
        assert item.__doc__, item
        assert "`" in item.__doc__ or "All " in item.__doc__, f"{item}: state its formula"


def test_all_names_exist() -> None:
    for name in dir(xpnet):
        assert hasattr(xpnet, name)


MODULES = {"data", "gradcheck", "initializers", "metrics", "schedules"}


def test_tab_completion_shows_what_a_user_needs() -> None:
    assert set(dir(xpnet)) == {*xpnet.__all__, *MODULES, "__version__"}


def test_the_first_lines_of_help_tell_a_newcomer_what_to_do() -> None:
    text = pydoc.plain(pydoc.render_doc(xpnet))
    first = text[text.index("NAME") :].splitlines()[:35]
    assert not [line for line in first if len(line) > 100]
    text = "\n".join(first)
    for word in ("xn.Sequential(", "xn.fit(", "xn.save(", "python -m xpnet.train --help"):
        assert word in text
    words = set(re.findall(r"\w+", text))
    assert set(xpnet.__all__) <= words
    assert {f"xpnet.{module}" for module in MODULES} <= set(re.findall(r"xpnet\.\w+", text))


def test_what_the_help_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = re.findall(r"^    (.*)$", xpnet.__doc__ or "", re.MULTILINE)
    scope: dict[str, Any] = {}
    exec("\n".join(program), scope)
    assert float(capsys.readouterr().out) > 0.85
    again = xpnet.load("model.safetensors")
    assert again.flat_parameters.tobytes() == scope["network"].flat_parameters.tobytes()
