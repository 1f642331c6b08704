"""Every call of `xp` in the package is one that CuPy would take; read from the source text.

The strict double checks the calls that a test reaches; this reads all of them.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cupy
import pytest

PACKAGE = Path(__file__).parents[2] / "xpnet"
UFUNC_KEYWORDS = {"out", "dtype", "casting"}
WITHOUT_NUMPY = (
    *sorted(f"layers/{path.name}" for path in (PACKAGE / "layers").glob("*.py")),
    *sorted(f"losses/{path.name}" for path in (PACKAGE / "losses").glob("*.py")),
    *sorted(f"optimizers/{path.name}" for path in (PACKAGE / "optimizers").glob("*.py")),
    "schedules.py",
    "metrics.py",
    "initializers.py",
    "network/sequential.py",
)


class Use(NamedTuple):
    """One mention of `xp.<name>`; `call` is None where it is not called."""

    where: str
    name: str
    call: ast.Call | None


def uses_of_xp(source: str, where: str = "planted") -> list[Use]:
    """All mentions of `xp.a`, `xp.a.b`, `self.xp.a`, `array_module(…).a`, `….xp.a`."""
    tree = ast.parse(source)
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or (node in inner and node not in calls):
            continue
        names: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute) and base.attr != "xp":
            names.insert(0, base.attr)
            base = base.value
        if names and _is_xp(base):
            found.append(Use(f"{where}:{node.lineno}", ".".join(names), calls.get(node)))
    return found


def _is_xp(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="xp") | ast.Attribute(attr="xp"):
            return True
        case ast.Call(func=ast.Name(id="array_module")):
            return True
    return False


def complaint(use: Use) -> str | None:
    """Why CuPy would not take this use of `xp`, or None."""
    real = cupy
    for part in use.name.split("."):
        if isinstance(real, type) or not hasattr(real, part):
            # What an attribute of a result or of a type is, the source does not tell.
            return None if real is not cupy and not inspect.ismodule(real) else "no such name"
        real = getattr(real, part)
    if use.call is None or isinstance(real, type) or not callable(real):
        return None
    positional = use.call.args
    keywords = [keyword.arg for keyword in use.call.keywords]
    if any(isinstance(argument, ast.Starred) for argument in positional) or None in keywords:
        return None if use.name == "einsum" else "its arguments can't be read: write them out"
    if isinstance(real, cupy.ufunc) or use.name == "matmul":
        operands = real.nin if isinstance(real, cupy.ufunc) else 2
        if len(positional) != operands:
            return f"{operands} operands by position and out= by keyword, found {len(positional)}"
        if unknown := set(keywords) - UFUNC_KEYWORDS:
            return f"no keywords {sorted(unknown)}"
        return None
    try:
        signature = inspect.signature(real)
    except ValueError:
        return None  # compiled, as are CuPy's streams: only its name can be checked
    try:
        signature.bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return None


@cache
def uses_in_package() -> dict[str, list[Use]]:
    uses = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE).as_posix()
        for use in uses_of_xp(file.read_text(encoding="utf-8"), where):
            uses[use.name].append(use)
    return uses


@pytest.mark.parametrize("name", sorted(uses_in_package()))
def test_cupy_takes_every_call(name):
    complaints = {use.where: why for use in uses_in_package()[name] if (why := complaint(use))}
    assert complaints == {}


def test_the_scan_finds_the_calls():
    found = uses_in_package()
    assert {"add", "multiply", "dot", "take", "empty"} <= set(found)
    assert len(found) >= 15


@pytest.mark.parametrize(
    "source",
    [
        "xp.maximun(a, 0)",
        "xp.errstate(all='ignore')",
        "self.xp.linalg.nrom(a)",
        "backend.xp.nothing",
        "array_module(a).nothing(a)",
        "xp.sum(a, initial=0)",
        "xp.take(a, i, axis=0, mode='clip')",
        "xp.argmax(a, 1, None, out, False, 1)",
        "xp.zeros()",
        "xp.exp(a, where=m)",
        "xp.exp(a, out)",
        "xp.add(a)",
        "xp.matmul(a, b, out)",
        "xp.matmul(a, b, subok=True)",
        "xp.add(*arrays)",
        "xp.add(a, b, **options)",
        "xp.exp(a, where=m).reshape(3)",
    ],
)
def test_a_planted_mistake_is_found(source):
    assert any(complaint(use) for use in uses_of_xp(source))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("xp.maximum(a, 0, out=a)", ["maximum"]),
        ("self.xp.sum(a, axis=0, out=b)", ["sum"]),
        ("xp.linalg.norm(a)", ["linalg.norm"]),
        ("a.astype(xp.float32)", ["float32"]),
        ("backend.xp.cuda.get_current_stream().synchronize()", ["cuda.get_current_stream"]),
        ("xp.exp(xp.log(a))", ["exp", "log"]),
        ("xp.sum(a).item()", ["sum"]),
        ("xp.finfo(a.dtype).eps", ["finfo"]),
        ("array_module(a, b).add(a, b, out=a)", ["add"]),
        ("xq.maximun(a)", []),
    ],
)
def test_right_calls_pass_and_each_is_seen_once(source, names):
    uses = uses_of_xp(source)
    assert [use.name for use in uses] == names
    assert [complaint(use) for use in uses] == [None] * len(names)


def imports_numpy(source: str) -> bool:
    return any(
        (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "numpy" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy")
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize("file", WITHOUT_NUMPY)
def test_formulas_know_no_numpy(file):
    assert not imports_numpy((PACKAGE / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source", ["import numpy", "import numpy.linalg as n", "def f():\n    from numpy import exp"]
)
def test_an_import_of_numpy_is_found(source):
    assert imports_numpy(source)
    assert not imports_numpy("import math\nfrom xpnet.backend import numpy_like")
