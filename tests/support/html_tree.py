"""A page as a tree, as a browser would have it: what was escaped is text, all else is elements."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

import numpy
from PIL import Image

VOID = ("img", "link", "meta")


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tree, self.open = TreeBuilder(), []

    def handle_starttag(self, tag, attributes):
        self.tree.start(tag, {name: value or "" for name, value in attributes})
        if tag in VOID:
            self.tree.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        self.tree.end(tag)

    def handle_data(self, data):
        self.tree.data(data)


def tree(page: bytes) -> Element:
    """The document; every element must be closed in its turn."""
    builder = _Builder()
    builder.feed(page.decode())
    builder.close()
    assert builder.open == []
    return builder.tree.close()


def words(element: Element) -> str:
    """The text in an element."""
    return " ".join("".join(element.itertext()).split())


def part(root: Element, heading: str) -> Element:
    """The section of that heading."""
    (found,) = (one for one in root.iter("section") if words(one.find("h2")) == heading)
    return found


def cells(table: Element) -> list[list[str]]:
    """The rows of a table, its head among them."""
    return [[words(cell) for cell in row] for row in table.iter("tr")]


def pixels(image: Element) -> numpy.ndarray:
    """What an `img` shows."""
    kind, _, data = image.get("src").partition(",")
    assert kind == "data:image/png;base64"
    return numpy.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def require_self_contained(root: Element) -> None:
    """Nothing in the page asks for anything, runs anything, or has a style of its own."""
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(set(ids)) == len(ids)
    for one in root.iter():
        assert one.tag not in ("script", "a", "base", "embed", "form", "iframe", "object"), one.tag
        for name, value in one.attrib.items():
            assert not name.startswith("on"), name
            assert name != "style"
            if one.tag == "use":
                # The shape of a marker, in the same page.
                assert name != "href" or value.removeprefix("#") in ids
            elif name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
                assert value.startswith("data:"), (name, value)
    (style,) = root.iter("style")
    for word in ("url(", "@import", "http"):
        assert word not in style.text
    (rule,) = (
        one.get("content")
        for one in root.iter("meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    )
    assert rule.startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in rule
