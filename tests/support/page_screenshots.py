"""The screenshots of docs/command_line.md: `python tests/support/page_screenshots.py MODEL RUN`.

Chromium draws a digit on the page of MODEL and photographs it: `examples/page.png`, and on a
phone in the dark `examples/page-phone-dark.png`. Of the report of RUN it photographs what stands
above the test's mistakes, and beside it what comes from there to the calibration:
`examples/report.png`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import in_browser as browser
from PIL import Image
from playwright.sync_api import sync_playwright

from xpnet.runs.model import Model
from xpnet.runs.run_folder import REPORT
from xpnet.web_demo.export import html_page

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DESKTOP = {"viewport": {"width": 920, "height": 600}}
PHONE_IN_THE_DARK = browser.PHONE | {"color_scheme": "dark"}


def main() -> None:
    model, run = map(Path, sys.argv[1:])
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.find_chromium())
        draw_on_page(chromium, model)
        photograph_report(chromium, run / REPORT)


def draw_on_page(chromium, model: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(html_page(Model.load(model)), encoding="utf-8")
        for name, digit, draw, options in [
            ("page.png", "5", browser.draw_with_mouse, DESKTOP),
            ("page-phone-dark.png", "3", browser.draw_with_finger, PHONE_IN_THE_DARK),
        ]:
            page = chromium.new_page(**options)
            page.goto(path.as_uri())
            draw(page, browser.STROKES[digit])
            page.evaluate("scrollTo(0, 0)")
            taken(page).save(EXAMPLES / name, optimize=True)


def photograph_report(chromium, path: Path) -> None:
    page = chromium.new_page(**DESKTOP)
    page.goto(path.resolve().as_uri())
    whole = taken(page)

    def top(heading: str) -> int:
        return round(page.get_by_role("region", name=heading, exact=True).bounding_box()["y"]) - 8

    middle, end = top("Most confused"), top("Timing")
    both = Image.new("RGB", (2 * whole.width, max(middle, end - middle)), whole.getpixel((0, 0)))
    both.paste(whole.crop((0, 0, whole.width, middle)), (0, 0))
    both.paste(whole.crop((0, middle, whole.width, end)), (whole.width, 0))
    # So many colours are enough for a page, and a third of the bytes.
    both.quantize(128).save(EXAMPLES / "report.png", optimize=True)


def taken(page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


if __name__ == "__main__":
    main()
