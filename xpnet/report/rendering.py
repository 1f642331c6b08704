"""HTML pages from the Jinja2 templates in `templates/`; every value is escaped."""

from __future__ import annotations

import base64
import io
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from xpnet.backend import HostArray
from xpnet.training.history import loss_text
from xpnet.utils.html import part, policy
from xpnet.utils.text import percent


def render(template: str, **values: object) -> bytes:
    """The page that a template makes of `values`, without any script, as the bytes of its file."""
    style = part("base.css") + part("report.css", "report/templates")
    page = _environment().get_template(template)
    text = page.render(values, style=style, policy=policy(style))
    # The name of a folder may contain bytes that are not valid UTF-8.
    return text.encode(errors="replace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("xpnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "loss": loss_text,
        "percent": percent,
        "thousands": "{:,}".format,
    }
    return environment


def image_uri(pixels: HostArray) -> str:
    """`pixels`, `(height, width)` grey or `(height, width, 3 or 4)`, uint8, as a `data:` URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
