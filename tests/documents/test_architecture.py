"""The shape of the package: what lies flat in `xpnet/`, how long files are, no circular imports.

Which package may import which is in `pyproject.toml` ([tool.importlinter]), and `nox -s lint`
checks it.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from xpnet._moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xpnet"
LONGEST = 400

FLAT = {
    *("__init__", "__main__", "_files", "_moved", "_version", "compare", "config", "errors"),
    *("export", "gradcheck", "initializers", "metrics", "predict"),
    *("random", "schedules", "serialization", "train", "workspace"),
}
"""Modules directly in `xpnet/`; every other module lies in a package."""


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """The file of each module, by the module's dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """Which modules of `known` the module imports, anywhere in its text."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found = full if full in known else base
                if found in known:
                    yield found


def circle(package: Path = PACKAGE) -> list[str]:
    """Modules that import each other in a circle, the first one repeated at the end, or nothing."""
    files = modules(package)
    graph = {name: set(imported(name, path, set(files))) for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_module_lies_flat_in_the_package_but_those_listed() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= FLAT


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_circular_import() -> None:
    """Imports inside functions count as well."""
    assert circle() == []


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(**texts: str) -> Path:
        package = tmp_path / "pack"
        package.mkdir()
        for name, text in texts.items():
            (package / f"{name}.py").write_text(text)
        return package

    return write


def test_a_circular_import_in_a_function_is_found(write: Callable[..., Path]) -> None:
    lazy = "def f():\n    from pack.one import g\n    return g\n"
    package = write(__init__="", one="import pack.two\n", two=lazy)
    assert set(circle(package)) == {"pack.one", "pack.two"}


def test_an_import_of_the_package_itself_is_found(write: Callable[..., Path]) -> None:
    package = write(__init__="from .one import f\n", one="def f():\n    from . import name\n")
    assert set(circle(package)) == {"pack", "pack.one"}


def test_a_package_and_a_module_of_it_are_no_circle(write: Callable[..., Path]) -> None:
    package = write(__init__="from pack.one import f\n", one="from pack import two\n", two="")
    assert circle(package) == []


# The contracts of import-linter


def contracts() -> list[dict[str, object]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, object]] = settings["tool"]["importlinter"]["contracts"]
    return found


def test_the_layers_name_every_module_and_package() -> None:
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    assert isinstance(layers, list)
    named = re.findall(r"\w+", " ".join(layers))
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    flat = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "_moved"}
    assert packages | flat <= set(named)
    assert len(named) == len(set(named))


def test_no_contract_has_an_exception() -> None:
    for contract in contracts():
        assert "ignore_imports" not in contract, contract["name"]
        assert "exclude_type_checking_imports" not in contract, contract["name"]


# The map in CONTRIBUTING.md


def mapped(page: str) -> set[str]:
    """The paths of the first column: a name without a folder lies where the one before it does."""
    found = set()
    for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] if "/" in name.rstrip("/") else folder
            found.add(name if "/" in name else f"{folder}/{name}")
    return found


def mentioned(page: str) -> set[str]:
    """The files named in the second column, each with the folder of its row, or as a path."""
    found = set()
    for cell, text in re.findall(r"^\| `([^`]*)`.*? \| (.*) \|$", page, re.MULTILINE):
        folder = cell if cell.endswith("/") else f"{cell.rpartition('/')[0]}/"
        for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", text):
            if name.count("/") <= name.endswith("/") and not name.startswith("tests/"):
                found.add(folder + name)
            else:
                found.add(name)
    return found


def contributing() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Rules")[0]


def test_the_map_names_every_package_and_module_that_lies_flat() -> None:
    packages = {f"xpnet/{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    flat = {f"xpnet/{path.name}" for path in PACKAGE.glob("*.py")}
    outside = {f"{name}/" for name in ("docs", "examples", "bench", "data", "tests")}
    assert mapped(contributing()) == packages | flat | outside | {"tests/support/"}


def test_what_the_map_mentions_exists() -> None:
    names = mentioned(contributing())
    assert "xpnet/training/microbatch.py" in names
    assert {name for name in names if not (ROOT / name).exists()} == set()


def test_tests_have_a_folder_for_each_package() -> None:
    others = {"documents", "fuzz", "support", "serialization"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - others <= packages


def test_the_former_names_of_modules_lead_to_modules() -> None:
    assert set(MOVED.values()) <= set(modules())
    assert not set(MOVED) & set(modules())
