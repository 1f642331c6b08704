"""Every Python block of `docs/*.md` runs as printed, in order, in one namespace per page.

A `text` block shows what the Python block above it prints. `test_readme.py` runs the `bash` blocks.
The blocks of `NOT_RUN` in `tests/support/readme.py` are only compiled, and `yaml` blocks are not
run. Links of all documents name files that exist.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from readme import ROOT, Block, blocks, differences, why_not_run

import xpnet as xn

PAGES = sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "mathematics.md"})
"""test_backpropagation_page.py runs the one that is left out."""
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("[bdet]*/*.md")]


def run(
    page: list[Block],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """What is wrong with the blocks of a page. A traceback has the line of the page."""
    module = ModuleType("a_page_of_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    wrong: list[str] = []
    printed: str | None = None
    for block in page:
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, name, "exec")
            if why_not_run(block):
                continue
            exec(code, vars(module))
            printed = capsys.readouterr().out
        elif block.language == "text" and printed is not None:
            wrong += differences(block.text, printed)
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_the_programs_of_a_page_run(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # One process, without MPI.
    monkeypatch.setattr(xn.distributed, "mpi", xn.distributed.Group)
    page = blocks(path.read_text(encoding="utf-8"))
    assert run(page, path.name, monkeypatch, capsys) == []


def test_each_row_on_scikit_learn_names_a_test() -> None:
    page = (ROOT / "docs/scikit_learn.md").read_text(encoding="utf-8")
    _, page = page.split("## What users asked")
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 8
    for row in rows:
        assert re.search(r"\[\S*#\d+\]\(https://github.com/\S+/\d+\)", row), row
        assert "`tests/" in row, row
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page):
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), name
    assert page.count("`tests/") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", page))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("write_your_own.md", ["(xn.Layer)", "xn.Residual(", "(xn.Loss)", "(xn.Optimizer)"]),
        ("training_loop.md", ["(xn.Callback)", "(xn.Trainer)", "xn.TrainStep(", "xn.Adam("]),
    ],
)
def test_a_page_on_code_of_your_own_has_its_programs(page: str, names: list[str]) -> None:
    found = blocks((ROOT / "docs" / page).read_text(encoding="utf-8"))
    text = "".join(block.text for block in found)
    for name in names:
        assert name in text, name


def test_blocks_share_names_and_what_they_print_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n{}\n```\n"
    assert run(blocks(page.format(2)), "a", monkeypatch, capsys) == []
    assert run(blocks(page.format(3)), "a", monkeypatch, capsys) == ["was not printed:\n3\n"]
    assert run(blocks("```bash\nls\n```\n"), "a", monkeypatch, capsys) == []


def test_an_error_in_a_block_has_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = blocks("text\n\n```python\nx = 1\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        run(page, "a.md", monkeypatch, capsys)
    assert [(str(one.path), one.lineno + 1) for one in error.traceback][-1] == ("a.md", 5)


def links(text: str) -> list[str]:
    """The links of a document to files and headings, in Markdown or HTML."""
    text = without_blocks(text)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    return [link for link in found if "://" not in link]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The headings of a document as code hosts write them in a link, if no two are the same."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(link: str, page: Path) -> bool:
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    if not target.exists():
        return True
    return bool(anchor) and anchor not in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_name_files_and_headings(path: Path) -> None:
    found = links(path.read_text(encoding="utf-8"))
    assert [link for link in found if broken(link, path)] == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    text = '[a](b.md#c-d) [d](https://e.f) <img src="g.png"> [h](#i)\n```text\n[j](k)\n```\n'
    assert links(text) == ["b.md#c-d", "#i", "g.png"]
    (tmp_path / "b.md").write_text("# B\n\n## C, `d`\n")
    page = tmp_path / "a.md"
    page.write_text(f"# I\n{text}")
    assert [link for link in links(text) if broken(link, page)] == ["g.png"]
    assert broken("b.md#c", page)
    assert broken("#j", page)
