"""What `docs/check_site.py` finds in a built site: `nox -s docs` runs it on ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = '<h1 id="top">a</h1><a href="other.html#there">b</a>'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "check_site", raising=False)
    (tmp_path / "page.html").write_text(HEAD)
    (tmp_path / "other.html").write_text('<p id="there">c</p><img src="image.png">')
    (tmp_path / "image.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("added", "found"),
    [
        ("", []),
        ('<a href="#top">d</a><a href="https://a.example/b">d</a>', []),
        ('<a href="#bottom">d</a>', ["page.html links to #bottom: no such anchor"]),
        ('<a href="none.html">d</a>', ["page.html links to none.html: no such file"]),
        ('<a href="other.html#x">d</a>', ["page.html links to other.html#x: no such anchor"]),
        ('<img src="none.png">', ["page.html links to none.png: no such file"]),
        ('<script src="https://a.example/b.js">', ["page.html loads https://a.example/b.js"]),
        ('<link href="//a.example/b.css">', ["page.html loads //a.example/b.css"]),
    ],
)
def test_broken_links_and_what_is_loaded_from_elsewhere(
    site: Path, added: str, found: list[str]
) -> None:
    from check_site import problems

    (site / "page.html").write_text(HEAD + added)
    assert list(problems(site)) == found


def test_a_style_sheet_that_loads_a_font(site: Path) -> None:
    from check_site import problems

    (site / "a.css").write_text("p { src: url(https://a.example/font.woff2) }")
    assert list(problems(site)) == ["a.css loads url(https://a.example/font.woff2"]


def test_names_that_are_not_documented(site: Path) -> None:
    from check_site import undocumented

    api = site / "docs" / "api"
    api.mkdir(parents=True)
    names = ["Group", "mpi", "mpi_group"]
    (api / "a.html").write_text("".join(f'<dt id="xpnet.distributed.{n}">' for n in names))
    assert list(undocumented(site, ["xpnet.distributed"])) == []
    (api / "a.html").write_text('<dt id="xpnet.distributed.Group"><dt id="xpnet.losses._Own">')
    assert list(undocumented(site, ["xpnet.distributed"])) == [
        "xpnet.losses._Own is private",
        "xpnet.distributed.mpi is not documented",
    ]


def test_an_object_counts_under_any_of_its_names(site: Path) -> None:
    from check_site import undocumented

    api = site / "docs" / "api"
    api.mkdir(parents=True)
    names = ["xpnet.Group", "xpnet.distributed.group.Group", "xpnet.distributed.mpi_group.mpi"]
    (api / "a.html").write_text("".join(f'<dt id="{name}">' for name in names))
    assert list(undocumented(site, ["xpnet.distributed"])) == []


def test_a_document_without_a_page(site: Path, tmp_path: Path) -> None:
    from check_site import without_page

    pages = site / "docs"
    pages.mkdir()
    for name in ("a.md", "b.md", "a.html"):
        (pages / name).touch()
    assert list(without_page(site, pages)) == ["b.md has no page"]
