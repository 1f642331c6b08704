"""The mutants of the mathematics, as the first lines of `mutants.py` define them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mutants_page import SIDES

ROOT = Path(__file__).resolve().parents[2]
_LAYERS = ("layers/test_layers.py",)
_IMAGES = ("layers/test_images.py", "layers/test_layers.py")
_FREEZING = ("layers/test_layers.py", "network/test_frozen.py")
_OF_RANKS = ("distributed/test_batch_norm.py", *_FREEZING, "layers/test_images.py")
_OPTIMIZERS = ("test_optimizers.py", "test_subnormals.py")
# The files of mathematics, each with the tests that most likely notice.
FILES: dict[str, tuple[str, ...]] = {
    "layers/linear.py": _LAYERS,
    "layers/sparse_products.py": ("layers/test_sparse_products.py",),
    "layers/activations.py": _LAYERS,
    "layers/normalization.py": _OF_RANKS,
    "layers/normalization_formulas.py": _OF_RANKS,
    "layers/dropout.py": _LAYERS,
    "layers/containers.py": _FREEZING,
    "layers/images.py": _IMAGES,
    "layers/reshaping.py": _LAYERS,
    "layers/convolution.py": _IMAGES,
    "layers/pooling.py": _IMAGES,
    "losses/base.py": ("test_losses.py",),
    "losses/classification.py": ("test_losses.py",),
    "losses/regression.py": ("test_losses.py",),
    "losses/penalty.py": ("test_losses.py",),
    "optimizers/base.py": _OPTIMIZERS,
    "optimizers/gradient_descent.py": _OPTIMIZERS,
    "optimizers/adam.py": _OPTIMIZERS,
    "optimizers/clipping.py": ("test_clipping.py",),
}
# Files of the same packages that compute on no array.
WITHOUT_MATHEMATICS = ("layers/base.py", "layers/shapes.py", "layers/short_notation.py")
TESTS = tuple(dict.fromkeys(name for names in FILES.values() for name in names))
TESTS += ("network/test_network.py", "network/test_frozen.py")
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


def is_text(node: ast.AST) -> bool:
    """Whether `node` only describes an object."""
    return isinstance(node, ast.FunctionDef) and node.name in ("__str__", "__repr__")


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
        texts = {id(node) for f in ast.walk(tree) if is_text(f) for node in ast.walk(f)}
        statements = [n for n in ast.walk(tree) if isinstance(n, kinds) and id(n) not in texts]
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
