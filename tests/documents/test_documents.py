"""Programs in docstrings run, and the commands of all documents name what there is."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.neural_network import MLPClassifier

import xpnet as xn
from xpnet.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "xpnet").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[bdet]*/*.md"), *ROOT.glob("examples/*.toml")])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(path: Path) -> Iterator[str]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def programs() -> Iterator[Any]:
    """The indented paragraphs of docstrings that use `xn`, without `>>>`."""
    for path in MODULES:
        for text in docstrings(path):
            for part in re.findall(r"(?:^(?: {4}.*)?\n)+", f"{text}\n", re.MULTILINE):
                if "xn." in part and ">>>" not in part:
                    name = f"{module_name(path)}: {part.strip().splitlines()[0]}"
                    yield pytest.param(textwrap.dedent(part), id=name)


@pytest.mark.parametrize("program", list(programs()))
def test_a_program_in_a_docstring_runs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network for digits and some of them, as the text around it supposes."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    given = {
        "MLPClassifier": MLPClassifier,
        "network": xn.Sequential(784, 16, "relu", 10, seed=0),
        "nn": torch.nn,
        "onnxruntime": onnxruntime,
        "torch": torch,
        "x": draw.normal(size=(40, 784)).astype(np.float32),
        "xn": xn,
        "y": np.arange(40) % 10,
    }
    exec(program, given)


def test_programs_are_found() -> None:
    found = [param.values[0] for param in programs()]
    for call in ("xn.fit(", "xn.export_onnx(", "xn.to_torch(", "xn.from_torch(", "from_sklearn("):
        assert any(call in text for text in found), call


def with_needs(name: str) -> Any:
    marks = [pytest.mark.needs("sklearn")] if name.startswith("xpnet.estimator") else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize(
    "name",
    [
        with_needs(module_name(path))
        for path in MODULES
        if ">>> " in path.read_text(encoding="utf-8")
    ],
)
def test_an_interactive_example_shows_what_is_answered(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


# Commands


def commands(path: Path) -> Iterator[list[str]]:
    """What begins with `python` or `nox`, in code and in the lines of blocks."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for found in re.findall(r"(?:^|`|&& )((?:python3?|nox) -?[^`\n]+)", text, re.MULTILINE):
        command = re.split(r"&&|\|\||\||  +#", found)[0]
        yield shlex.split(command)


def problem(words: list[str]) -> str:
    """What of a command does not exist: a file, module, session or setting."""
    program, *rest = words
    if program == "nox":
        source = (ROOT / "noxfile.py").read_text()
        sessions = re.findall(r"^def (\w+)\(session", source, re.MULTILINE)
        asked = rest[rest.index("-s") + 1 :] if "-s" in rest else []
        names = asked[: asked.index("--")] if "--" in asked else asked
        return ", ".join(f"no session {name}" for name in names if name not in sessions)
    if rest[0] != "-m":
        is_file = rest[0].startswith("-") or (ROOT / rest[0]).exists()
        return "" if is_file else f"no file {rest[0]}"
    if importlib.util.find_spec(rest[1]) is None:
        return f"no module {rest[1]}"
    if rest[1] == "xpnet.train":
        flags = [word for word in rest[2:] if re.match("--[a-z-]+", word)]
        known = {"help", "config", *TrainConfig.model_fields}
        unknown = [flag for flag in flags if flag[2:].replace("-", "_") not in known]
        return ", ".join(f"no setting {flag}" for flag in unknown)
    return ""


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("nox -s tests lint", ""),
        ("nox -s tests lnt", "no session lnt"),
        ("nox -s parity -- --device cuda", ""),
        ("python tests/support/mutants.py", ""),
        ("python tests/mutant.py", "no file tests/mutant.py"),
        ("python -m xpnet.trian", "no module xpnet.trian"),
        ("python -m xpnet.train --epochs 3 --batch-size 4", ""),
        ("python -m xpnet.train --epoch 3", "no setting --epoch"),
    ],
)
def test_what_a_command_names_wrongly_is_found(command: str, wrong: str) -> None:
    assert problem(shlex.split(command)) == wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_what_there_is(path: Path) -> None:
    found = list(commands(path))
    wrong = {shlex.join(words): problem(words) for words in found if problem(words)}
    assert wrong == {}
