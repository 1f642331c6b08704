"""What must hold for the built site: `python docs/check_site.py site MODULE ...`.

- Every link within it leads to a file, and to an anchor of that file.
- It loads nothing from a network: scripts, style sheets, fonts and images are its own.
- Every public name of each module is documented, no private one is, and every page of `docs/` is in
  the site.

Without a network; links to other sites are not followed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""The attribute by which an element loads another file."""
NO_FILES = ("http:", "https:", "mailto:", "data:", "javascript:")
ELSEWHERE = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//[^)\"']+")


class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.loaded = set[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes of an element."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADED and LOADED[tag] in found and found.get("rel") != "canonical":
            self.loaded.append(found[LOADED[tag]])


def pages_of(site: Path) -> list[Path]:
    """The pages; the theme has templates among its static files."""
    return [path for path in site.rglob("*.html") if "_static" not in path.parts]


def problems(site: Path) -> Iterator[str]:
    """The broken links of all pages, and what they load from elsewhere."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in pages_of(site)}
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for link in [*page.links, *page.loaded]:
            if link.startswith(("//", *NO_FILES)):
                if link in page.loaded and not link.startswith("data:"):
                    yield f"{name} loads {link}"
                continue
            file, anchor = urldefrag(link)
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not target.is_file():
                yield f"{name} links to {link}: no such file"
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                yield f"{name} links to {link}: no such anchor"
    for path in site.rglob("*.css"):
        for found in ELSEWHERE.findall(path.read_text("utf-8")):
            yield f"{path.relative_to(site)} loads {found}"


def undocumented(site: Path, modules: list[str]) -> Iterator[str]:
    """Public names of the modules that are on no page of `docs/api/`, and private ones that are.

    An object counts under any of its names: `xpnet.losses.Huber` is `xpnet.Huber`.
    """
    shown = set[str]()
    for path in (site / "docs" / "api").glob("*.html"):
        shown |= {name for name in Page(path.read_text("utf-8")).anchors if "xpnet." in name}
    documented = [_item(name) for name in shown if not name.startswith("module-")]
    for name in shown:
        if re.search(r"[.]_(?!_init__)", name):
            yield f"{name} is private"
    for name in modules:
        module = importlib.import_module(name)
        own = [n for n, item in vars(module).items() if getattr(item, "__module__", "") == name]
        public = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
        if not public:
            yield f"{name} has no public names"
        for item in public:
            if not any(getattr(module, item) is one for one in documented):
                yield f"{name}.{item} is not documented"


def _item(name: str) -> object:
    """What a dotted name stands for; None if that is an attribute of objects only."""
    module, parts = name, list[str]()
    while module:
        try:
            found: object = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, part = module.rpartition(".")
            parts.insert(0, part)
    for part in parts:
        found = inspect.getattr_static(found, part, None)
    return found


def without_page(site: Path, folder: Path) -> Iterator[str]:
    """The documents of `folder` that the site has no page of."""
    for path in [*folder.glob("*.md"), *folder.glob("*.rst")]:
        if not (site / "docs" / path.name).with_suffix(".html").exists():
            yield f"{path.name} has no page"


def main() -> int:
    """Print what is wrong, and how much there is."""
    site, modules = Path(sys.argv[1]), sys.argv[2:]
    found = [
        *problems(site),
        *undocumented(site, modules),
        *without_page(site, Path(__file__).parent),
    ]
    print(*found, sep="\n", end="\n" if found else "")
    pages = [Page(path.read_text("utf-8")) for path in pages_of(site)]
    links = sum(len(page.links) for page in pages)
    print(f"{site}: {len(pages)} pages, {links} links, {len(found)} wrong")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
