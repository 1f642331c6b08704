"""The README's pictures of the exported page: `python tests/page_pictures.py MODEL`.

Chromium draws a digit on the page of MODEL and photographs it: `examples/page.png`, and on a
phone in the dark `examples/page-phone-dark.png`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import test_page_in_browser as browser
from PIL import Image
from playwright.sync_api import sync_playwright

from xpnet.export import html_page
from xpnet.predict import Model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DESKTOP = {"viewport": {"width": 920, "height": 600}}
PHONE_IN_THE_DARK = browser.PHONE | {"color_scheme": "dark"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(html_page(Model.load(sys.argv[1])), encoding="utf-8")
        chromium = playwright.chromium.launch(executable_path=browser.find_chromium())
        for name, digit, draw, options in [
            ("page.png", "5", browser.draw_with_mouse, DESKTOP),
            ("page-phone-dark.png", "3", browser.draw_with_finger, PHONE_IN_THE_DARK),
        ]:
            page = chromium.new_page(**options)
            page.goto(path.as_uri())
            draw(page, browser.STROKES[digit])
            page.evaluate("scrollTo(0, 0)")
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            picture.convert("RGB").save(EXAMPLES / name, optimize=True)


if __name__ == "__main__":
    main()
