"""Images for tests: PNG files byte by byte, and a drawn digit."""

from __future__ import annotations

import struct

from fuzz.readers import with_checksums
from PIL import Image, ImageDraw


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file whose pixels are `rows`, compressed already."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + bytes(4)

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(m[:4], m[4:]) for m in more)]
    parts += [chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return with_checksums(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def drawing(size=(300, 200), *, ink=0, paper=255, at=(60, 40), mode="L"):
    """A crooked seven of 80 x 100 pixels, at `at` on a plain page."""
    image = Image.new(mode, size, paper)
    x, y = at
    stroke = [(x, y), (x + 80, y + 8), (x + 25, y + 100)]
    ImageDraw.Draw(image).line(stroke, fill=ink, width=9)
    return image
