"""Pages of one HTML file: their shared style, and the policy that forbids every request."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources


def part(name: str, folder: str = "utils") -> str:
    """The text of a file in a folder of the package, such as `base.css`, the shared style."""
    return (resources.files("xpnet") / folder / name).read_text(encoding="utf-8")


def policy(style: str, script: str = "") -> str:
    """The Content-Security-Policy that allows this style and this script, and no request."""
    allowed = f"script-src {_hash(script)}; " if script else ""
    return (
        f"default-src 'none'; style-src {_hash(style)}; {allowed}"
        f"img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
