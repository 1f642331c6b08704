"""`tests/MUTANTS.md` and `tests/FUZZ.md` leave nothing out; so that a new file needs its run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mutants_made
import mutants_page
import pytest
from fuzz.readers import READERS
from mutants_made import FILES, ROOT, WITHOUT_MATHEMATICS, Mutant

TESTS = ROOT / "tests"
PACKAGE = ROOT / "xpnet"


def modules() -> set[str]:
    """The modules of layers, losses and optimizers."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("layers", "losses", "optimizers")
        for path in (PACKAGE / folder).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_every_module_with_mathematics_has_mutants() -> None:
    assert modules() == {*FILES, *WITHOUT_MATHEMATICS}, "tests/support/mutants_made.py"
    assert not set(FILES) & set(WITHOUT_MATHEMATICS)
    for names in FILES.values():
        assert all((TESTS / name).is_file() for name in names)


@pytest.mark.parametrize("file", [*FILES, *WITHOUT_MATHEMATICS])
def test_mathematics_is_where_arrays_are_computed(file: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    calls = filter(None, map(mutants_made.array_function, ast.walk(tree)))
    assert any(call.attr not in mutants_made.ALLOCATIONS for call in calls) == (file in FILES)


def test_the_page_of_mutants_has_every_file_and_no_survivor() -> None:
    page = mutants_page.TABLE.read_text(encoding="utf-8")
    known = mutants_page.rows_and_sections(page)
    assert list(known) == list(FILES), "run: python tests/support/mutants.py --only FILE"
    assert page == mutants_page.page(known, FILES)
    for row, section in known.values():
        counts = [int(count) for count in re.findall(r"\d+", row.split(".py |")[1])]
        statements, mutants, noticed, survive = counts
        assert section.count("\n| ") == statements + 1  # and the heading
        assert mutants == noticed >= statements > 0
        assert survive == 0
        assert "SURVIVES" not in section


def found(file: str, *, survives: bool) -> mutants_page.Found:
    caught = {"NumPy": f"tests/a.py::t[numpy-{file}]", "double": f"tests/a.py::t[double-{file}]"}
    first = Mutant(file, 3, "a = xp.add(b, c)", "delete", "delete", "")
    other = Mutant(file, 3, "a = xp.add(b, c)", "swap", "add → subtract", "")
    return [(first, {} if survives else caught), (other, caught)]


def test_a_run_replaces_what_it_made_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "MUTANTS.md"
    table.write_text("# Another page\n\n## one.py\n")
    monkeypatch.setattr(mutants_page, "TABLE", table)
    files = ("one.py", "two.py")
    mutants_page.merge(found("two.py", survives=False), files)
    mutants_page.merge(found("one.py", survives=True), files)
    before = table.read_text()
    assert "| one.py | 1 | 2 | 1 | 1 |" in before
    assert "| two.py | 1 | 2 | 2 | 0 |\n| all | 2 | 4 | 3 | 1 |" in before
    assert "Survives on NumPy and double: `one.py:3: a = xp.add(b, c)  [delete]`" in before
    assert (
        "| 3 | `a = xp.add(b, c)` | delete | a.py::t[numpy-two.py] | the same | 1 of 1 |" in before
    )
    mutants_page.merge(found("one.py", survives=False), files)
    after = table.read_text()
    assert "| all | 2 | 4 | 4 | 0 |" in after
    assert "urvives" not in after
    assert after.partition("## two.py")[2] == before.partition("## two.py")[2]


def test_every_reader_of_files_was_fuzzed() -> None:
    log = (TESTS / "FUZZ.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [\d,]+ \| [\d,]+ \| [\d,]+ \| 0 \|", log, re.MULTILINE)
    assert sorted(rows) == sorted(READERS), "run: python tests/fuzz READER --inputs 200000 --log"
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    assert f"each of {len(READERS)} readers" in text
