"""Figures as SVG within an HTML page, which gives them its colours and its font.

matplotlib writes the SVG. Here every colour of it becomes `currentColor`, so that the style sheet
of the page sets the colours of the CSS classes, light and dark. Style attributes, which the
Content-Security-Policy of the page forbids, become attributes, text stays text, and ids begin with
the name of the figure, so that a page may have several figures. Equal figures give equal text.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from xml.etree.ElementTree import Element, fromstring, tostring

import matplotlib
from matplotlib.figure import Figure

SVG_WIDTH = 340
"""The width of all figures, in units of the SVG; letters are 12 to 13 units high."""

_CLASS = "class:"
# Not the opacity of grid lines: their colour is faint already.
_KEPT = {"stroke-width", "stroke-dasharray", "fill-opacity"}
_KEPT |= {"stroke-linecap", "stroke-linejoin", "text-anchor"}
_GEOMETRY = ("d", "x", "y", "transform")
_UNTURNED = "rotate(-0 "
_LOCK = threading.Lock()


def css_classes(names: str) -> str:
    """The group id (`Artist.set_gid`) that makes an artist an SVG group with these CSS classes."""
    return _CLASS + names


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `svg` element for HTML, of the class `chart`.

    `name`: unique on the page; `description`: the figure in words, for screen readers.
    """
    for artist in figure.findobj():
        artist.set_clip_on(False)
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    root = fromstring(_matplotlib_svg(figure))
    prefix = re.sub(r"\W+", "-", name.lower())
    referenced = [use.get(_HREF, "") for use in root.iter() if _tag(use) == "use"]
    ids = {old[1:]: f"{prefix}-{number}" for number, old in enumerate(dict.fromkeys(referenced))}
    page = Element("svg", viewBox=root.attrib["viewBox"], role="img")
    page.set("aria-label", description)
    page.set("class", "chart")
    for child in root:
        page.extend(_converted(child, ids))
    return tostring(page, encoding="unicode", short_empty_elements=False)


def _matplotlib_svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    # The setting belongs to the process.
    with _LOCK:
        before = matplotlib.rcParams["svg.fonttype"]
        matplotlib.rcParams["svg.fonttype"] = "none"
        try:
            figure.savefig(file, format="svg")
        finally:
            matplotlib.rcParams["svg.fonttype"] = before
    return file.getvalue()


_HREF = "{http://www.w3.org/1999/xlink}href"


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _converted(element: Element, ids: dict[str, str]) -> Iterator[Element]:
    """The element for the page: a group without a class is replaced by its content."""
    tag, name = _tag(element), element.get("id", "")
    if tag in ("metadata", "style"):
        return
    content = [new for child in element for new in _converted(child, ids)]
    if tag == "defs":
        if not content:
            return
        # The shape of a marker: its colours are those of the `use` elements.
        for shape in content:
            shape.attrib = {key: shape.attrib[key] for key in ("id", "d")}
    if tag == "g" and not name.startswith(_CLASS):
        yield from content
        return
    made = Element(tag)
    made.text = element.text if tag == "text" else None
    made.extend(content)
    for key in _GEOMETRY:
        if key in element.attrib and not element.attrib[key].startswith(_UNTURNED):
            made.set(key, _rounded(element.attrib[key]))
    if name.startswith(_CLASS):
        made.set("class", name.removeprefix(_CLASS))
    elif name in ids:
        made.set("id", ids[name])
    if _HREF in element.attrib:
        made.set("href", f"#{ids[element.attrib[_HREF][1:]]}")
    if tag not in ("g", "defs"):
        for key, value in _style(element, tag).items():
            made.set(key, value)
    if made.get("class") and [child.tag for child in made] == ["text"]:
        made[0].set("class", made.get("class", ""))
        yield made[0]
        return
    yield made


def _style(element: Element, tag: str) -> dict[str, str]:
    """The style of an element as attributes, with `currentColor` for every colour."""
    pairs = (pair.split(": ", 1) for pair in element.get("style", "").split("; ") if pair)
    found = dict(pair for pair in pairs if len(pair) == 2)
    style = {key: value for key, value in found.items() if key in _KEPT}
    if tag != "text":
        # matplotlib omits the fill where it is black.
        style["fill"] = "none" if found.get("fill") == "none" else "currentColor"
        if found.get("stroke", "none") != "none":
            style["stroke"] = "currentColor"
    return style


def _rounded(text: str) -> str:
    """The numbers of an attribute with two decimals at most."""

    def shorter(found: re.Match[str]) -> str:
        return f"{round(float(found[0]), 2) + 0.0:.2f}".rstrip("0").rstrip(".")

    return " ".join(re.sub(r"-?\d+\.\d+(e-?\d+)?", shorter, text).split())
