"""The report and the comparison in a real browser: any screen, light and dark, paper, keys.

A visit fails if the console has a message or a request was made: see `in_browser.py`.
"""

from __future__ import annotations

import in_browser
import numpy
import pytest
from in_browser import DESKTOP
from report_cases import FACTS, HOSTILE, answers_of, history_of

import xpnet
from xpnet._files import write_atomically
from xpnet.config import make_config
from xpnet.report.compare import page
from xpnet.report.files import write_report
from xpnet.runs.run_reader import RunRecord
from xpnet.runs.summary import collect_metrics

browser, visit = in_browser.browser, in_browser.visit
LONG = ("Donaudampfschifffahrtsgesellschaft" * 3, "b" * 200, *HOSTILE, *"0123")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports and a comparison, by name; some with all that could make them wide."""
    folder, found = tmp_path_factory.mktemp("reports"), {}
    network = xpnet.Sequential([xpnet.Linear(784, 10)])
    network.metadata = {"image_shape": [28, 28]}
    settings = {"dataset": "a-very-long-name" * 20, "hidden": [8] * 40, "batch_size": 10}
    runs = []
    for name, config, answers in [
        (
            "plain",
            make_config({"seed": 3, "batch_size": 10}),
            answers_of(samples=400, image_shape=(28, 28)),
        ),
        ("wide" * 30, make_config(settings), answers_of(samples=400, names=LONG)),
        ("many", make_config({}), answers_of(classes=100, samples=900, names=None)),
    ]:
        run, history = folder / name, history_of()
        run.mkdir()
        about = collect_metrics(FACTS, history, history.records[-1], answers)
        found[name[:5]] = write_report(run, config, history, about, network, answers)
        runs.append(RunRecord(run, config, history, None))
    run = folder / "diverged"
    run.mkdir()
    ended = "Diverged: training diverged in epoch 1: " + "the loss is nan " * 20
    found["diverged"] = write_report(
        run, make_config({}), history_of(0), FACTS, network, ended=ended, diverged=True
    )
    found["compare"] = folder / "compare.html"
    write_atomically(found["compare"], page(runs * 4))
    return found


NAMES = ("plain", "widew", "many", "diverged", "compare")


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.slow
@pytest.mark.parametrize("width", [280, 320, 390, 768, 1600])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_screen(name, width, visit, pages):
    screen = {"width": width, "height": 700}
    page = visit(pages[name], viewport=screen, is_mobile=width < 700, has_touch=True)
    open_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("innerWidth") == width
    sizes = page.eval_on_selector_all(
        "main :not(svg *), header *",
        "(all) => all.map((one) => parseFloat(getComputedStyle(one).fontSize))",
    )
    assert min(sizes) >= 13
    # Letters in a diagram shrink with it.
    scales = page.eval_on_selector_all(
        ".chart", "(all) => all.map((one) => one.getBoundingClientRect().width / 340)"
    )
    assert all(13 * scale >= 8 for scale in scales)


# Text over a cell's colour, which may let the card's shine through.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const parts = colour.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (one) => {
    const [r, g, b, alpha = 1] = numbers(getComputedStyle(one).backgroundColor);
    const below = alpha < 1 ? behind(one.parentElement) : [0, 0, 0];
    return [r, g, b].map((v, i) => alpha * v + (1 - alpha) * below[i]);
  };
  const text = "h1, h2, h3, p, li, dt, dd, th, td, code, pre, summary, figcaption, span";
  const seen = Array.from(document.querySelectorAll(text))
    .filter((one) => one.innerText)
    .map((one) => [numbers(getComputedStyle(one).color), behind(one)]);
  const drawn = Array.from(document.querySelectorAll(".chart text"))
    .map((one) => [numbers(getComputedStyle(one).fill), behind(one.closest("section"))]);
  return [...seen, ...drawn]
    .map(([a, b]) => [light(a.slice(0, 3)), light(b)])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}"""
CURVES = """() => Array.from(document.querySelectorAll(".curve"))
  .map((one) => getComputedStyle(one).color.match(/[\\d.]+/g).map(Number))"""


def luminance(colour):
    parts = numpy.array(colour[:3]) / 255
    parts = numpy.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(parts @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["plain", "diverged", "compare"])
def test_light_and_dark_can_both_be_read(name, scheme, visit, pages):
    page = visit(pages[name], color_scheme=scheme, **DESKTOP)
    open_all(page)
    card = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    level = [int(part) for part in card[4:-1].split(",")]
    assert min(level) > 200 if scheme == "light" else max(level) < 60
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    # WCAG 2.2, success criteria 1.4.3 and, of lines, 1.4.11.
    assert min(contrasts) >= 4.5
    for curve in page.evaluate(CURVES):
        low, high = sorted((luminance(curve), luminance(level)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_on_paper_it_is_light_and_all_of_it_is_there(visit, pages):
    page = visit(pages["plain"], color_scheme="dark", **DESKTOP)
    hidden = page.locator("details pre")
    assert not hidden.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(246, 247, 249)"
    assert page.locator("details pre").bounding_box()["height"] > 30
    assert page.pdf().startswith(b"%PDF")


def test_keys_and_readers_find_their_way(visit, pages):
    page = visit(pages["plain"], **DESKTOP)
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.eval_on_selector_all("h1, h2, h3", "(all) => all.map((one) => +one.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    for heading in ("Configuration", "Curves", "Confusion", "Calibration", "Timing"):
        assert page.get_by_role("region", name=heading, exact=True).count() == 1
    assert page.get_by_role("table", name="Precision, recall and F1 of each class").count() == 1
    # A row header and column headers for each number.
    assert page.get_by_role("columnheader", name="recall").count() == 1
    assert page.get_by_role("rowheader", name="9").count() >= 2
    assert page.get_by_role("img", name="Reliability diagram of 400 test samples").count() == 1
    assert page.locator("img:not([alt]), svg:not([role]):not([aria-hidden])").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1
    outline = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
    assert page.evaluate(outline) >= 2


def test_without_javascript_it_is_the_same(visit, pages):
    with_it = visit(pages["plain"], **DESKTOP).locator("main").inner_text()
    without = visit(pages["plain"], java_script_enabled=False, **DESKTOP)
    assert without.locator("main").inner_text() == with_it
