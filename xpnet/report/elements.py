"""Pages of one HTML file: their parts in `xpnet/web_demo/`, what they may ask for, their elements.

A page is opened by a double click: it needs no server and no other file, and asks for nothing.
Whatever is text in an element is escaped when it is written, be it called `<script>`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from importlib import resources
from string import Template
from xml.etree.ElementTree import Element, tostring

from PIL import Image

from xpnet.backend import HostArray


def part(name: str, folder: str = "report/templates") -> str:
    """The text of a file of `xpnet/web_demo/`."""
    return (resources.files("xpnet") / folder / name).read_text(encoding="utf-8")


def policy(style: str, script: str = "") -> str:
    """The Content-Security-Policy: this style and this script, and no request to anywhere."""
    run = f"script-src {_hash(script)}; " if script else ""
    return (
        f"default-src 'none'; style-src {_hash(style)}; {run}"
        f"img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def document(title: str, *content: Element) -> bytes:
    """The page of these elements, without any script, as the bytes of its file."""
    style = part("base.css") + part("report.css")
    body = "\n".join(tostring(one, encoding="unicode", method="html") for one in content)
    text = Template(part("report.html")).substitute(
        policy=policy(style), style=style, title=html.escape(title), content=body
    )
    # The name of a folder need not be text.
    return text.encode(errors="replace")


def element(tag: str, *content: Element | str, **attributes: object) -> Element:
    """`<tag attributes>content</tag>`: `class_` is `class`, `aria_label` is `aria-label`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    made = Element(tag, {names[name]: _text(value) for name, value in attributes.items()})
    for item in content:
        if not isinstance(item, str):
            made.append(item)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + item
        else:
            made.text = (made.text or "") + item
    return made


def _text(value: object) -> str:
    # A tenth of a pixel of a picture is enough, and whole numbers stay whole.
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)


def section(heading: str, *content: Element) -> Element:
    """A card of the page, named by its heading."""
    name = heading.lower().replace(",", "").replace(" ", "-")
    return element("section", element("h2", heading, id=name), *content, aria_labelledby=name)


def note(*content: Element | str) -> Element:
    """A paragraph that explains."""
    return element("p", *content, class_="note")


def table(
    head: list[str], rows: list[list[Element | str]], *, caption: str, class_: str = "numbers"
) -> Element:
    """A table with a header for each column and, its first cell, for each row.

    It scrolls by itself where it is wider than the screen. `caption` is for who does not see it.
    A cell is text or a `td` of its own.
    """
    columns = [element("th", name, scope="col") for name in head]
    body = element("tbody")
    for first, *rest in rows:
        cells = [cell if isinstance(cell, Element) else element("td", cell) for cell in rest]
        name = first if isinstance(first, Element) else element("th", first, scope="row")
        body.append(element("tr", name, *cells))
    made = element(
        "table",
        element("caption", caption, class_="spoken"),
        element("thead", element("tr", *columns)),
        body,
        class_=class_,
    )
    return element("div", made, class_="wide", tabindex=0, role="region", aria_label=caption)


def figure_list(figures: dict[str, str]) -> Element:
    """A few figures, each with its name."""
    pairs = (
        element("div", element("dt", name), element("dd", value)) for name, value in figures.items()
    )
    return element("dl", *pairs, class_="figures")


def fold(summary: str, *content: Element) -> Element:
    """What is shown when its heading is asked for."""
    return element("details", element("summary", summary), *content)


def picture(pixels: HostArray, alt: str, **attributes: object) -> Element:
    """`pixels` `(height, width)` grey or `(height, width, 4)`, uint8, as an image in the page."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return element("img", src=f"data:image/png;base64,{data}", alt=alt, **attributes)
