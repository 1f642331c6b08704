"""The names and words of `old_words.txt` are used nowhere but in CHANGELOG and for aliases."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from xpnet._moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("old_words.txt")
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
KINDS = {".cu", ".css", ".h", ".html", ".ipynb", ".js", ".md", ".py", ".rst", ".toml"}
FOLDERS = ["xpnet", "tests", "bench", "examples", "docs"]
NOT_SEARCHED = {"CHANGELOG.md", "xpnet/_moved.py", "tests/documents/test_old_words.py"}
GENERATED = ["bench/results/", "tests/FUZZ.md"]
ALIASES = {"deprecated", "former_name", "take_former_names", "warns", "deprecated_call"}
ALIASES |= {"FormerAttribute"}
"""Functions and assignments that call one of these define a deprecated name, or test one."""
FORMER = re.compile(r"version[ _]0\.?1")
"""A function with this in its text supports what was written for that version."""

Place = tuple[int, str]
"""A line, and what stands there."""


def entries(section: str) -> list[str]:
    text = LIST.read_text(encoding="utf-8").split(f"[{section}]\n")[1].split("\n[")[0]
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def parts(code: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", code)


NAMES = [*entries("identifiers"), *MOVED]
WORDS = entries("words")
SEQUENCES = {name: parts(name.removeprefix("import ")) for name in NAMES}
BEGINNINGS = {sequence[0] for sequence in SEQUENCES.values()}
BETWEEN = r"\s+(?:#\s*)?"
PATTERN = re.compile(
    rf"(?<!\w)(?:{'|'.join(BETWEEN.join(map(re.escape, word.split())) for word in WORDS)})(?!\w)",
    re.IGNORECASE,
)


def old_words(text: str) -> Iterator[Place]:
    for match in PATTERN.finditer(text):
        word = re.sub(r"[\s#]+", " ", match[0]).lower()
        yield text.count("\n", 0, match.start()) + 1, word


def old_names(tokens: list[Place], is_import: bool = False) -> Iterator[Place]:
    """Which of `SEQUENCES` are among the tokens."""
    texts = [text for _, text in tokens]
    for n, (line, text) in enumerate(tokens):
        if text not in BEGINNINGS:
            continue
        for name, sequence in SEQUENCES.items():
            is_old = texts[n : n + len(sequence)] == sequence
            if is_old and (is_import or not name.startswith("import ")):
                yield line, name


def in_lines(text: str, first: int = 1) -> Iterator[Place]:
    for n, line in enumerate(text.splitlines(), first):
        is_import = line.startswith(("from ", "import "))
        yield from old_names([(n, part) for part in parts(line)], is_import)


def in_backquotes(text: str, first: int = 1) -> Iterator[Place]:
    for match in re.finditer(r"`+([^`]+)`+", text):
        yield from in_lines(match[1], first + text.count("\n", 0, match.start()))


def aliases(text: str) -> set[int]:
    """The lines of functions and assignments that define or test deprecated names."""
    lines: set[int] = set()
    source = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.Assign) and is_alias(node, source):
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(d.lineno for d in decorators)])
            lines.update(range(first, (node.end_lineno or first) + 1))
    return lines


def is_alias(node: ast.FunctionDef | ast.Assign, source: list[str]) -> bool:
    calls = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
    text = "\n".join(source[node.lineno - 1 : node.end_lineno])
    return bool(names & ALIASES) or bool(FORMER.search(text))


def in_python(text: str) -> Iterator[Place]:
    statement: list[Place] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from in_backquotes(token.string, token.start[0])
        elif token.type in (tokenize.NAME, tokenize.OP):
            statement.append((token.start[0], token.string))
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            is_import = bool(statement) and statement[0][1] in ("from", "import")
            yield from old_names(statement, is_import)
            statement = []


def found(path: Path) -> list[Place]:
    """Old names and words in a file, but for the table of `CONTRIBUTING.md` that lists them."""
    text = path.read_text(encoding="utf-8")
    if path == CONTRIBUTING:
        text = text.replace(listed(), "")
    if path.suffix == ".py":
        without = aliases(text)
        places = [*old_words(text), *in_python(text)]
        return sorted({place for place in places if place[0] not in without})
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    if path.suffix in (".cu", ".js", ".h"):
        return sorted({*old_words(text), *in_lines(text)})
    fences = re.sub(r"^```\w*$", "`", text, flags=re.MULTILINE)
    return sorted({*old_words(text), *in_backquotes(fences)})


def listed() -> str:
    """The section of `CONTRIBUTING.md` that says what is used instead of the old words."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    return text[text.index("\n## Words\n") :]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def searched() -> Iterator[Path]:
    paths = [*ROOT.glob("*.md"), ROOT / "noxfile.py"]
    for folder in FOLDERS:
        paths += sorted((ROOT / folder).rglob("*"))
    for path in paths:
        name = name_of(path)
        is_left_out = name in NOT_SEARCHED or name.startswith(tuple(GENERATED))
        if path.suffix in KINDS and not is_left_out:
            yield path


@pytest.mark.parametrize("path", list(searched()), ids=name_of)
def test_a_file_has_no_old_name_or_word(path: Path) -> None:
    assert found(path) == []


def test_the_table_of_words_has_those_that_are_looked_for() -> None:
    rows = [line.strip("| ").split(" | ") for line in listed().splitlines() if line[:2] == "| "]
    assert [len(row) for row in rows] == [2] * len(rows)
    assert sorted(word for _, old in rows[2:] for word in old.split(", ")) == sorted(WORDS)


# What finds them


@pytest.mark.parametrize("word", WORDS)
def test_a_planted_word_is_found(word: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"x = 1\n# Here: {word.capitalize()}.\n")
    (tmp_path / "b.md").write_text(f"Here\n{word}\n")
    (tmp_path / "c.css").write_text(f"/* {word} */\n")
    assert [found(tmp_path / name) for name in ("a.py", "b.md", "c.css")] == [
        [(2, word)],
        [(2, word)],
        [(1, word)],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_name_is_found(name: str, tmp_path: Path) -> None:
    code = f"from xpnet {name}" if name.startswith("import ") else f"y = {name}"
    (tmp_path / "a.py").write_text(f"x = 1\n{code}\n")
    (tmp_path / "b.md").write_text(f"Text\n\n```python\n{code}\n```\n")
    for file, line in (("a.py", 2), ("b.md", 4)):
        assert (line, name) in found(tmp_path / file), file


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("import ")])
def test_a_planted_name_in_prose_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f'"""Calls\n`{name}`."""\n')
    (tmp_path / "b.md").write_text(f"Text `{name}`\n")
    (tmp_path / "c.js").write_text(f"{name}\n")
    for file, line in (("a.py", 2), ("b.md", 1), ("c.js", 1)):
        assert (line, name) in found(tmp_path / file), file


def test_words_over_the_end_of_a_line_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("# It goes\n    # on.\n")
    assert found(tmp_path / "a.py") == [(1, "goes on")]


def test_an_imported_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from xpnet.errors import (\n    shown,\n)\n")
    assert found(tmp_path / "a.py") == [(2, "import shown")]


@pytest.mark.parametrize(
    "text",
    [
        "# It was shown that they did.\n",
        "shown = cut = 1\n",
        "pandas.cut(x)\n",
        "toldness = mushroom = 1\n",
        "def values(self):\n    deprecated('network.values', 'x')\n    return network.values\n",
        "def test():\n    with pytest.warns(match='x'):\n        network.values\n",
    ],
)
def test_what_is_no_old_name_is_left(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert found(tmp_path / "a.py") == []
