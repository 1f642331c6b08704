"""Deletes or bends every statement of mathematics, one at a time: do the tests notice?

`python tests/support/mutants.py [--only FILE:LINE] [--jobs N]` proves that nobody can remove a line
of mathematics from the layers, losses and optimizers (`FILES`) while the suite stays green,
neither on NumPy nor on the double (`strict_cupy.py`). It writes
`tests/MUTANTS.md` and exits with 1 if a mutant survives. It needs `fork`, so no Windows.

A statement (expression, assignment of any kind, return) is mathematics if it
- calls `xp.name(...)` or `array_module(...).name(...)`, allocations apart, or
- calls a function of ours that contains such a call (`_scale_rows`, `random.hash_bits`), or
- does arithmetic on Python numbers (operators, `FUNCTIONS` of `math`, `min`), or
- gives a name another name or a number (`direction = velocity`).
What only looks something up (`xp = array_module(x)`, a buffer of the workspace, a view) or
checks an argument is left out: without the former nothing runs at all. Kernels are off here;
`tests/accel` compares them with the formulas.

Its mutants:
- delete: what is deleted is the computation, not the name. `xp.add(a, b, out=y)` becomes
  `pass`, `return xp.add(a, b, out=y)` becomes `return y` and `y = xp.add(a, b, out=y)` becomes
  `y = y`, which is harder to notice than a name that is missing;
- skip: one operation between Python numbers gives its first operand (`1 - rate`: `1`);
- swap: one operation is its opposite or neighbour, `add` for `subtract`, `*` for `/`, `>` for `≥`;
- numpy: one `xp.name` is `numpy.name`. Only the double can and must notice this one. Functions
  called `require_...` take arrays of the host, where the two are the same.

Every mutant is a copy of the package and the tests in a process of its own, forked from one
that has imported all that is slow. Tests on `numba` are left out. A test belongs to the double
if it has the fixture `double` or `backend` with that parameter, else to NumPy. The first failure
of each side ends that side.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "MUTANTS.md"
SECONDS = 60
SIDES = ("NumPy", "double")
# The files of mathematics, each with the tests that most likely notice.
FILES = {
    "layers/linear.py": "layers/test_layers.py",
    "layers/sparse_products.py": "layers/test_sparse_products.py",
    "layers/activations.py": "layers/test_layers.py",
    "layers/normalization.py": "layers/test_layers.py",
    "layers/normalization_formulas.py": "layers/test_layers.py",
    "layers/dropout.py": "layers/test_layers.py",
    "layers/containers.py": "layers/test_layers.py",
    "layers/images.py": "layers/test_images.py",
    "layers/reshaping.py": "layers/test_layers.py",
    "layers/convolution.py": "layers/test_images.py",
    "layers/pooling.py": "layers/test_images.py",
    "losses/base.py": "test_losses.py",
    "losses/classification.py": "test_losses.py",
    "losses/regression.py": "test_losses.py",
    "losses/penalty.py": "test_losses.py",
    "optimizers/base.py": "test_optimizers.py",
    "optimizers/gradient_descent.py": "test_optimizers.py",
    "optimizers/adam.py": "test_optimizers.py",
    "optimizers/clipping.py": "test_clipping.py",
}
TESTS = (*dict.fromkeys(FILES.values()), "network/test_network.py", "network/test_frozen.py")
TESTS += ("test_subnormals.py",)
# Imported once, before the first fork; nothing here imports xpnet.
SLOW = ("numpy", "pandas", "torch", "torch._dynamo", "cupy", "hypothesis")

# What computes under other names than `xp.name`; `find_helpers` adds what the files define.
HELPERS = {"fill"}
ALLOCATIONS = {"empty", "zeros", "ones"}
PAIRS = ("add subtract", "multiply divide", "maximum minimum", "max min", "sum mean")
SWAPS = {a: [b] for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}
SWAPS |= {"greater": ["less", "greater_equal"], "greater_equal": ["less", "greater"]}
SWAPS |= {"less": ["greater", "less_equal"], "less_equal": ["greater", "less"]}
SWAPS |= {"equal": ["not_equal"], "not_equal": ["equal"]}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
FUNCTIONS = {"sqrt", "log", "expm1"}
ARITHMETIC = (*OPERATORS, ast.Pow, ast.Mod, ast.FloorDiv)

HEAD = """\
# Mutants

Written by `python tests/support/mutants.py`, whose first lines say what counts as mathematics and
what is done to it. One row is one statement: which test first notices its deletion, on NumPy and on
the double, and how many of its other mutants are noticed.
"""


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    statement: str
    kind: str
    change: str
    source: str
    sides: tuple[str, ...] = SIDES

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.statement}  [{self.change}]"


def array_function(node: ast.AST) -> ast.Attribute | None:
    """The function in a call `xp.name(...)` or `array_module(...).name(...)`."""
    match node:
        case ast.Call(func=ast.Attribute() as function):
            match function.value:
                case ast.Name("xp") | ast.Call(func=ast.Name("array_module")):
                    return function
    return None


def computes(node: ast.AST) -> bool:
    """Whether `node` is a call that computes on arrays."""
    match node:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name in HELPERS:
            return True
    function = array_function(node)
    return function is not None and function.attr not in ALLOCATIONS


def find_helpers(folder: Path) -> None:
    """Let `computes` know the functions of the files, and of `random.py`, that compute."""
    texts = [(folder / file).read_text(encoding="utf-8") for file in (*FILES, "random.py")]
    defined = [n for t in texts for n in ast.walk(ast.parse(t)) if isinstance(n, ast.FunctionDef)]
    while more := {f.name for f in defined if any(map(computes, ast.walk(f)))} - HELPERS:
        HELPERS.update(more)


def first_operand(node: ast.AST) -> ast.expr | None:
    """What is left of an operation between Python numbers that is skipped."""
    match node:
        case ast.BinOp(left=left, op=op) if isinstance(op, ARITHMETIC):
            return left
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            return operand
        case ast.Call(func=ast.Attribute(ast.Name("math"), name), args=[a]) if name in FUNCTIONS:
            return a
        case ast.Call(func=ast.Name("min"), args=[a, *_]):
            return a
        case ast.IfExp(body=body):
            return body
    return None


def changes(statement: ast.stmt) -> Iterator[tuple[str, str, ast.AST, ast.AST]]:
    """Kind and name of every mutation of `statement`, the node to replace and its stand-in."""
    inside = list(ast.walk(statement))
    match statement:
        case ast.Expr(value=value) if computes(value):
            yield "delete", "delete", statement, ast.Pass()
        case ast.AugAssign() | ast.Assign([ast.Name()], ast.Name() | ast.Constant()):
            yield "delete", "delete", statement, ast.Pass()
        # A call of ours without arguments has nothing that could stand for it.
        case ast.Assign(value=ast.Call(args=[], keywords=[]) as made) if computes(made):
            yield "delete", "delete", statement, ast.Pass()
        case _:
            for call in inside:
                if isinstance(call, ast.Call) and computes(call):
                    out = [k.value for k in call.keywords if k.arg == "out"]
                    yield "delete", "delete", call, (out or call.args)[0]
    numeric = any(first_operand(n) and not isinstance(n, ast.IfExp) for n in inside)
    for node in inside if numeric else ():
        text = ast.unparse(node)
        if operand := first_operand(node):
            yield "skip", f"{text} → {ast.unparse(operand)}", node, operand
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            opposite = ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
            yield "swap", f"{text} → {ast.unparse(opposite)}", node, opposite
    for function in filter(None, map(array_function, inside)):
        name = function.attr
        for other in SWAPS.get(name, ()):
            swapped = ast.Attribute(function.value, other, ast.Load())
            yield "swap", f"{name} → {other}", function, swapped
        if name == "finfo":  # takes a dtype, which NumPy and CuPy share
            continue
        host = ast.parse(f"__import__('numpy').{name}", mode="eval").body
        yield "numpy", f"xp.{name} → numpy.{name}", function, host


def statements_on_host(tree: ast.AST) -> Iterator[ast.AST]:
    """What is in the functions that check arrays of the host."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("require_"):
            yield from ast.walk(node)


def mutants(folder: Path) -> Iterator[Mutant]:
    """All mutants of the files in `folder`, in the order of their lines."""
    find_helpers(folder)
    kinds = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)
    for file in FILES:
        tree = ast.parse((folder / file).read_text(encoding="utf-8"))
        statements = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        on_host = set(map(id, statements_on_host(tree)))
        reached = {id(node) for statement in statements for node in ast.walk(statement)}
        if astray := [n for n in ast.walk(tree) if computes(n) and id(n) not in reached]:
            text = ast.unparse(astray[0])
            raise SystemExit(f"{file}: give {text} a statement of its own: no mutant reaches it")
        for statement in sorted(statements, key=lambda node: node.lineno):
            text = ast.unparse(statement)
            for kind, change, old, new in changes(statement):
                if kind == "numpy" and id(statement) in on_host:
                    continue
                # A copy for which `old` has been copied already: to `new`.
                source = ast.unparse(copy.deepcopy(tree, {id(old): new}))
                sides = SIDES[1:] if kind == "numpy" else SIDES
                yield Mutant(file, statement.lineno, text, kind, change, source, sides)


def backend_of(item: Any) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


class Watch:
    """Pytest plugin: notes each side's first failure and ends when none is left to come."""

    def __init__(self, sides: tuple[str, ...], verdict: Path) -> None:
        self.sides, self.verdict, self.side = sides, verdict, ""
        self.caught: dict[str, str] = {}

    @staticmethod
    def side_of(item: Any) -> str:
        return SIDES["double" in item.fixturenames or backend_of(item) == "double"]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if backend_of(item) != "numba"]
        assert {self.side_of(item) for item in items} == set(SIDES)
        items[:] = [item for item in items if self.side_of(item) in self.sides]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        self.side = self.side_of(item)
        if self.side in self.caught:
            pytest.skip("caught")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.side not in self.caught:
            self.caught[self.side] = report.nodeid
            self.verdict.write_text(json.dumps(self.caught))

    def pytest_runtest_logfinish(self) -> None:
        if set(self.caught) == set(self.sides):
            pytest.exit("caught", returncode=pytest.ExitCode.TESTS_FAILED)


def judge(snapshot: Path, mutant: Mutant) -> dict[str, str]:
    """By which test each side notices `mutant`; a side that does not is missing.

    Raises `RuntimeError` where the tests could not be run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, verdict = Path(name, "copy"), Path(name, "verdict.json")
        shutil.copytree(snapshot, folder)
        (folder / "xpnet" / mutant.file).write_text(mutant.source, encoding="utf-8")
        verdict.write_text("{}")
        if (child := os.fork()) == 0:
            run_tests_and_exit(folder, mutant, verdict)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        caught: dict[str, str] = json.loads(verdict.read_text())
    if status == -signal.SIGALRM:
        return dict.fromkeys(mutant.sides, f"no end in {SECONDS} s") | caught
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the tests ended with {status}: {mutant}")
    return caught


def run_tests_and_exit(folder: Path, mutant: Mutant, verdict: Path) -> NoReturn:
    status = 99
    try:
        signal.alarm(SECONDS)
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        try:
            package = importlib.import_module("xpnet")
        except Exception as error:
            caught = dict.fromkeys(mutant.sides, f"import: {type(error).__name__}")
            verdict.write_text(json.dumps(caught))
            os._exit(pytest.ExitCode.TESTS_FAILED)
        assert Path(str(package.__file__)).parent == folder / "xpnet"
        options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        # What was imported before the fork is no test, so it needs no rewriting of asserts.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += [f"tests/{name}" for name in dict.fromkeys((FILES[mutant.file], *TESTS))]
        status = int(pytest.main(options, plugins=[Watch(mutant.sides, verdict)]))
    finally:
        os._exit(status)


def cell(text: str, length: int) -> str:
    text = " ".join(text.split())
    return (text if len(text) <= length else text[: length - 1] + "…").replace("|", "\\|")


def table(found: list[tuple[Mutant, dict[str, str]]]) -> str:
    """The page `MUTANTS.md`."""
    lines = [HEAD, "| file | statements | mutants | noticed | survive |", "|---|---|---|---|---|"]
    for file in FILES:
        here = [(m, caught) for m, caught in found if m.file == file]
        kept = sum(len(caught) < len(m.sides) for m, caught in here)
        statements = len({(m.line, m.statement) for m, _ in here})
        lines.append(f"| {file} | {statements} | {len(here)} | {len(here) - kept} | {kept} |")
    kinds = Counter(m.kind for m, _ in found)
    lines += ["", "Of these: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + "."]
    for mutant, caught in found:
        if missing := [side for side in mutant.sides if side not in caught]:
            lines += ["", f"Survives on {' and '.join(missing)}: `{mutant}`"]
    for file, rows in groupby(found, lambda pair: pair[0].file):
        lines += ["", f"## {file}", "", "| line | statement | mutant | NumPy | double | others |"]
        lines.append("|---|---|---|---|---|---|")
        for _, same in groupby(rows, lambda pair: (pair[0].line, pair[0].statement)):
            (first, caught), *others = same
            good = sum(len(c) == len(m.sides) for m, c in others)
            cells = [f"`{cell(first.statement, 76)}`", cell(first.change, 76)]
            for side in SIDES:
                otherwise = "**SURVIVES**" if side in first.sides else "cannot tell"
                cells.append(cell(caught.get(side, otherwise).removeprefix("tests/"), 110))
            if cells[-1] == cells[-2].replace("numpy", "double"):
                cells[-1] = "the same"
            lines.append(f"| {first.line} | {' | '.join(cells)} | {good} of {len(others)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Which mutants of the mathematics survive?")
    parser.add_argument("--only", metavar="FILE:LINE", help="one statement; writes no table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    options = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ["XPNET_KERNELS"] = "0"
    for module in SLOW:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-c", os.devnull, "--rootdir", name, name])  # imports its plugins
    gc.freeze()
    with tempfile.TemporaryDirectory() as name:
        snapshot, ignore = Path(name, "snapshot"), shutil.ignore_patterns("__pycache__")
        for part in ("xpnet", "tests"):
            shutil.copytree(ROOT / part, snapshot / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", snapshot)
        planned = list(mutants(snapshot / "xpnet"))
        if options.only:
            planned = [m for m in planned if f"{m.file}:{m.line}" == options.only]
        if not planned:
            parser.error(f"no mathematics at {options.only}: name a line as in {TABLE.name}")
        # Without any change but the rewriting by `ast` everything must be green.
        for file in dict.fromkeys(mutant.file for mutant in planned):
            source = ast.unparse(ast.parse((snapshot / "xpnet" / file).read_text(encoding="utf-8")))
            if caught := judge(snapshot, Mutant(file, 0, "", "", "nothing changed", source)):
                print(f"red before anything was changed: {caught}")
                return 1
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            waiting = [(m, pool.apply_async(judge, (snapshot, m))) for m in planned]
            found = [(m, result.get()) for m, result in waiting]
    survivors = [pair for pair in found if len(pair[1]) < len(pair[0].sides)]
    for mutant, caught in found if options.only else survivors:
        print(mutant, caught)
    print(f"{len(found)} mutants, {len(survivors)} survive")
    if not options.only:
        TABLE.write_text(table(found), encoding="utf-8")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
