"""`docs/mathematics.md` is executed, and whatever it claims is worked out again.

Its conventions. A `python` block runs, in order, in one namespace, and prints exactly the `text`
block that follows. One under `<!-- from FILE: NAME, NAME -->` is a quotation: the lines of each
of its paragraphs stand one after the other in the function of that name. A decimal number in
prose or formulas stands in a printed block or in running code of the same section, and sums that
are written out in numbers are evaluated.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import math
import re
import runpy
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "mathematics.md"


@dataclass(frozen=True)
class Block:
    """`kind`: a fence's language, `quotation`, or `prose` for one line; `line`: where it begins."""

    kind: str
    text: str
    line: int
    section: str
    source: str = ""
    """Of a quotation: `FILE: NAME, NAME`."""


def parse(page: str) -> list[Block]:
    blocks: list[Block] = []
    section = source = ""
    lines = iter(enumerate(page.splitlines(), 1))
    for number, line in lines:
        if line.startswith("## "):
            section = line
        if quotation := re.fullmatch(r"<!-- from (\S+: .+) -->", line):
            source = quotation[1]
        elif line.startswith("```"):
            inside = [text for _, text in itertools.takewhile(lambda x: x[1] != "```", lines)]
            text = "".join(f"{text}\n" for text in inside)
            kind = "quotation" if source else line[3:]
            blocks.append(Block(kind, text, number + 1, section, source))
            source = ""
        else:
            blocks.append(Block("prose", line, number, section))
    return blocks


def running(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.kind == "python"]


def execute(blocks: list[Block]) -> tuple[list[str], dict[str, Any]]:
    """What each running block prints, and the names they leave."""
    printed: list[str] = []
    names: dict[str, Any] = {"__name__": "backpropagation"}
    with numpy.printoptions():
        for block in running(blocks):
            code = "\n" * (block.line - 1) + block.text
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, PAGE.name, "exec"), names)
            printed.append(out.getvalue())
    return printed, names


# What can be wrong with a page


def problems(page: str, printed: list[str]) -> list[str]:
    """Everything that is wrong with `page`, whose running blocks printed `printed`."""
    blocks = parse(page)
    return [
        *wrong_outputs(blocks, printed),
        *wrong_quotations(blocks),
        *wrong_links(blocks),
        *wrong_formulas(blocks),
        *stray_numbers(blocks),
        *wrong_sums(blocks),
    ]


def wrong_outputs(blocks: list[Block], printed: list[str]) -> Iterator[str]:
    fences = [block for block in blocks if block.kind != "prose"]
    shown = []
    for block, after in itertools.zip_longest(fences, fences[1:]):
        if block.kind == "python":
            shown.append((block, after.text if after and after.kind == "text" else ""))
        elif after and after.kind == "text":
            yield f"line {after.line}: nothing prints this"
    for (block, text), out in zip(shown, printed, strict=True):
        if text != out:
            yield f"line {block.line}: prints\n{out}and the page shows\n{text}"


def wrong_quotations(blocks: list[Block]) -> Iterator[str]:
    for place, block in enumerate(blocks):
        if block.kind != "quotation":
            continue
        path, _, names = block.source.partition(": ")
        above = next(b.text for b in reversed(blocks[:place]) if b.text)
        paragraphs = [text.splitlines() for text in block.text.split("\n\n")]
        if f"](../{path})" not in above or len(names.split(", ")) != len(paragraphs):
            yield f"line {block.line}: {block.source} does not fit what stands above or below it"
            continue
        for name, quoted in zip(names.split(", "), paragraphs, strict=True):
            if f"`{name}`" not in above:
                yield f"line {block.line}: the line above does not name {name}"
            own, stripped = function_lines(path, name), [line.strip() for line in quoted]
            if not any(own[i : i + len(quoted)] == stripped for i in range(len(own))):
                yield f"line {block.line}: these lines are not in {name}: {quoted}"


@cache
def function_lines(path: str, name: str) -> list[str]:
    """The lines of a function or method, without indentation; none if there is no such thing."""
    if not (ROOT / path).is_file():
        return []
    source = (ROOT / path).read_text(encoding="utf-8")
    found: ast.AST | None = ast.parse(source)
    for part in name.split("."):
        children = ast.iter_child_nodes(found) if found else ()
        found = next((n for n in children if getattr(n, "name", None) == part), None)
    text = ast.get_source_segment(source, found) if found else None
    return [line.strip() for line in (text or "").splitlines()]


def wrong_links(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        for target in re.findall(r"\]\(([^)]+)\)", block.text if block.kind == "prose" else ""):
            if not (PAGE.parent / target).is_file():
                yield f"line {block.line}: links to {target}, which does not exist"


def formulas(block: Block) -> list[str]:
    """The mathematics of a block: all of a `math` fence, or what stands between `$` in prose."""
    if block.kind == "math":
        return [block.text]
    return re.findall(r"\$([^$]+)\$", without_code(block)) if block.kind == "prose" else []


def without_code(block: Block) -> str:
    return re.sub(r"`[^`]*`", "", block.text)


def wrong_formulas(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        if block.kind == "prose":
            text = without_code(block)
            if text.count("$") % 2 or "$$" in text:
                yield f"line {block.line}: a $ without its partner"
            # GitHub leaves a $ alone that touches a word or, on its inside, a blank.
            for before, inside, after in re.findall(r"(.?)\$([^$]*)\$(.?)", text):
                if re.search(r"\w$", before) or re.search(r"^\w", after):
                    yield f"line {block.line}: ${inside}$ touches a word"
                if inside != inside.strip() or not inside:
                    yield f"line {block.line}: blanks at the ends of ${inside}$"
                # Markdown would take these for an escape, for emphasis or for HTML.
                if re.search(r"\\[^\w\s]|\*|[<>]|(?<![\w])_", inside):
                    yield f"line {block.line}: Markdown changes ${inside}$"
        for formula in formulas(block):
            depth = 0
            for brace in re.findall(r"(?<!\\)[{}]", formula):
                depth += 1 if brace == "{" else -1
                if depth < 0:
                    break
            if depth:
                yield f"line {block.line}: braces do not balance in {formula}"
            opened = re.findall(r"\\begin\{(\w+)\}", formula)
            if sorted(opened) != sorted(re.findall(r"\\end\{(\w+)\}", formula)):
                yield f"line {block.line}: \\begin and \\end do not balance"
            sides = [len(re.findall(rf"\\{side}\b", formula)) for side in ("left", "right")]
            if sides[0] != sides[1]:
                yield f"line {block.line}: \\left and \\right do not balance"
            if r"\operatorname" in formula:
                yield f"line {block.line}: GitHub has no \\operatorname, use \\mathrm"


# Numbers


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?![\w.]*\d)")


def key(number: str) -> str:
    """One spelling for `0.5` and `0.5000`, and one for `1e-7` and `1e-07`."""
    digits, _, power = number.partition("e")
    spelling = str(Decimal(digits).normalize())
    return f"{spelling}e{int(power)}" if power else spelling


@cache
def claimed_numbers(text: str) -> list[tuple[str, str]]:
    """The decimal numbers of prose or a formula: `+`, `-`, or either after an operator."""
    found = []
    for match in NUMBER.finditer(text):
        before = text[: match.start()]
        either = re.search(r"[-+]\s+$|\{-$", before)
        signs = "+-" if either else "-" if before.endswith(("-", "−")) else "+"
        found.append((signs, key(match[0])))
    return found


@cache
def printed_numbers(text: str) -> set[tuple[str, str]]:
    return {
        ("-" if text[: match.start()].endswith("-") else "+", key(match[0]))
        for match in NUMBER.finditer(text)
    }


@cache
def used_numbers(code: str) -> set[tuple[str, str]]:
    """What a block of code reads as numbers."""
    found = set()
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    for first, second, third in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if third.type == tokenize.NUMBER and NUMBER.fullmatch(third.string):
            unary = second.string == "-" and first.type == tokenize.OP and first.string not in ")]"
            found.add(("-" if unary else "+", key(third.string)))
    return found


def stray_numbers(blocks: list[Block]) -> Iterator[str]:
    """Numbers that nothing in their section prints or uses."""
    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for block in blocks:
        if block.kind == "text":
            known[block.section] |= printed_numbers(block.text)
        elif block.kind == "python":
            known[block.section] |= used_numbers(block.text)
    for block in blocks:
        if block.kind in ("prose", "math"):
            for signs, number in claimed_numbers(block.text):
                if not {(sign, number) for sign in signs} & known[block.section]:
                    yield f"line {block.line}: nothing prints or uses {signs[0]}{number}"


FUNCTIONS = {
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigma": lambda z: 1 / (1 + math.exp(-z)),
}


def wrong_sums(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        for formula in formulas(block):
            for problem in unequal(formula):
                yield f"line {block.line}: {problem}"


@cache
def unequal(formula: str) -> list[str]:
    """Numbers joined by `=` are equal, by `≈` equal but for one in the last place shown."""
    found = []
    for left, relation, right in equations(formula):
        a, b = values(left) or [], values(right) or []
        places = max((len(digits) for digits in re.findall(r"\.(\d+)", right)), default=0)
        allowed = 1.5 * 10.0**-places if relation == "≈" else 1e-9
        if len(a) != len(b) or any(abs(x - y) > allowed for x, y in zip(a, b, strict=True)):
            found.append(f"{left} is {a}, and not {right}")
    return found


def equations(formula: str) -> Iterator[tuple[str, str, str]]:
    """Every two numerical sides of a chain of equations that have only symbols between them."""
    matrices: list[str] = []

    def stow(match: re.Match[str]) -> str:
        matrices.append(match[1])
        return f" @{len(matrices) - 1} "

    text = re.sub(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", stow, formula, flags=re.S)
    text = re.sub(r"\\(begin|end)\{aligned\}|\\[,;]", " ", text)
    text = text.replace(r"\approx", "≈").replace(r"\leftarrow", "←")
    text = re.sub(r"\\\\\s*&?\s*([=≈])", r"\1", text)
    text = re.sub(r"&\s*([=≈←])", r"\1", text)
    for row in re.split(r"\\\\|\\qq?uad|\\quad|&", text):
        sides = re.split(r"([=≈←])", row)
        last, relation = "", "="
        for side, sign in itertools.zip_longest(sides[::2], sides[1::2], fillvalue=""):
            whole = re.sub(r"@(\d+)", lambda m: matrices[int(m[1])], side).strip()
            whole = whole.removesuffix(",")
            if values(whole) is not None:
                if last:
                    yield last, relation, whole
                last, relation = whole, "="
            if sign == "←":
                last = ""
            elif sign == "≈":
                relation = "≈"


def values(side: str) -> list[float] | None:
    """The numbers that a side of an equation stands for; None if there are symbols in it."""
    numbers: list[float] = []
    for entry in re.split(r"&|\\\\", side):
        text = entry.strip().replace(r"\cdot", "*")
        for _ in range(text.count("{")):
            text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", text)
            text = re.sub(r"\be\^\{([^{}]*)\}", r"exp(\1)", text)
            text = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\(log|max|tanh|sigma)\b(?!')", r"\1", text).replace("^", "**")
        if not re.fullmatch(r"(?:[\d\s.,()*/+-]|exp|log|max|sqrt|tanh|sigma)+", text):
            return None
        try:
            value = eval(text, {"__builtins__": {}}, FUNCTIONS)
        except (SyntaxError, TypeError, ArithmeticError):
            return None
        numbers.extend(value if isinstance(value, tuple) else [value])
    return numbers


# The page


@pytest.fixture(scope="module")
def executed() -> tuple[str, list[str], dict[str, Any]]:
    page = PAGE.read_text(encoding="utf-8")
    return page, *execute(parse(page))


def test_the_page_is_right(executed: tuple[str, list[str], dict[str, Any]]) -> None:
    page, printed, _ = executed
    assert problems(page, printed) == []


def test_every_wrong_line_goes_red_and_every_right_one_stays_green(
    executed: tuple[str, list[str], dict[str, Any]],
) -> None:
    checks = executed[2]["checks"]
    assert len(checks) == 7
    for mistake, (wrong, right) in checks.items():
        assert not wrong < 0.1, mistake
        assert right < 1e-7, mistake


def test_a_block_runs_under_its_own_line_number() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        execute(parse("prose\n\n```python\nfine = 1\n1 / 0\n```\n"))
    assert caught.traceback[-1].lineno + 1 == 5


# The checker


@pytest.mark.slow
def test_any_decimal_number_of_the_page_may_not_change(
    executed: tuple[str, list[str], dict[str, Any]],
) -> None:
    """Each last digit in turn is changed in prose, formulas and printed blocks."""
    page, printed, _ = executed
    lines = page.splitlines(keepends=True)
    assert problems(page, printed) == []
    unnoticed = []
    for block in parse(page):
        if block.kind == "python":
            continue
        for offset, line in enumerate(block.text.splitlines()):
            for match in NUMBER.finditer(line):
                number = block.line + offset
                digit = str((int(line[match.end() - 1]) + 3) % 10)
                broken = line[: match.end() - 1] + digit + line[match.end() :]
                changed = [*lines[: number - 1], broken + "\n", *lines[number:]]
                if not problems("".join(changed), printed):
                    unnoticed.append(f"line {number}: {match[0]}")
    assert unnoticed == []


SOUND = """\
## One

Half of $1$ is 0.5, see [linear.py](../xpnet/layers/linear.py), `Linear.forward`:

<!-- from xpnet/layers/linear.py: Linear.forward -->
```python
xp.dot(x, weight.T, out=y)
```

```python
print(f"{1 / 2:.4f}", 0.25)
```

```text
0.5000 0.25
```

```math
\\begin{aligned}
a &= \\frac{1}{2} = 0.5 \\\\
&\\approx \\sqrt{0.25} \\\\
b &= \\begin{pmatrix} 1 / 2 & 0.5 - 0.25 \\end{pmatrix} = \\begin{pmatrix} 0.5 & 0.25 \\end{pmatrix}
\\end{aligned}
```
"""

BREAKS = {
    "another number printed": ("0.5000", "0.5001"),
    "nothing printed": ("```text\n0.5000 0.25\n```\n", ""),
    "a number from nowhere": ("is 0.5", "is 0.51"),
    "a sign from nowhere": ("is 0.5", "is -0.5"),
    "a wrong fraction": ("{1}{2}", "{1}{3}"),
    "a wrong root": ("sqrt{", "sqrt{1 + "),
    "a wrong entry": ("1 / 2 &", "1 / 3 &"),
    "a missing entry": ("1 / 2 &", ""),
    "a line that is not there": ("weight.T, out=y", "weight, out=y"),
    "a line of another function": ("Linear.forward -->", "Linear.backward -->"),
    "a quotation without its link": ("](../xpnet/layers/linear.py)", "](../xpnet/gradcheck.py)"),
    "a file that is not there": ("xpnet/layers/linear.py", "xpnet/layers/line_ar.py"),
    "a dollar too few": ("$1$", "$1"),
    "a dollar in a word": ("$1$", "$1$st"),
    "an escape in line": ("$1$", r"$1\,$"),
    "a brace too few": ("frac{1}", "frac{1"),
    "an environment left open": (r"\end{aligned}", ""),
    "a parenthesis left open": (r"\frac", r"\left( \frac"),
}


def test_a_sound_page_has_no_problems() -> None:
    printed, _ = execute(parse(SOUND))
    assert problems(SOUND, printed) == []


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS)
def test_a_broken_page_has_problems(change: tuple[str, str]) -> None:
    printed, _ = execute(parse(SOUND))
    assert change[0] in SOUND
    assert problems(SOUND.replace(*change), printed) != []


# The drawing


def test_the_drawing(tmp_path: Path) -> None:
    drawn = ROOT / "examples" / "network.png"
    draw_network = runpy.run_path(str(drawn.with_name("draw_network.py")))["draw_network"]
    draw_network(tmp_path / "network.png")
    draw_network(tmp_path / "small.png", sizes=(2, 3, 2))
    for path in (tmp_path / "network.png", tmp_path / "small.png", drawn):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.size == (1600, 920)
            # White beneath, so that it can be read in a dark theme.
            rgba = image.convert("RGBA")
            assert rgba.getpixel((0, 0)) == (255, 255, 255, 255)
            assert len(rgba.getcolors()) > 10
        assert path.stat().st_size < 120_000
    assert (tmp_path / "network.png").read_bytes() != (tmp_path / "small.png").read_bytes()
