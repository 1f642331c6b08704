"""Pages in headless Chromium, without a network: the fixture `visit`, and strokes on the pad.

A visit fails at its end if the console of the browser has a message or a request was made.
`XPNET_CHROMIUM` names the browser (`.ci/run` sets it, so nothing is skipped there); without it
the PATH is searched.
"""

from __future__ import annotations

import math
import os
import shutil

import numpy
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


WANTED = (
    "no Chromium found: install it (apt-get install chromium) or name it in XPNET_CHROMIUM "
    "(.ci/run does both)"
)


DESKTOP = {"viewport": {"width": 1200, "height": 900}}


PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def arc(x, y, across, down, start, end):
    """Points of an ellipse's arc, from one angle in degrees to another; clockwise is up."""
    angles = numpy.radians(numpy.linspace(start, end, 25))
    return [(x + across * math.cos(a), y + down * math.sin(a)) for a in angles]


STROKES = {
    "0": [arc(0.5, 0.5, 0.2, 0.32, -90, 270)],
    "1": [[(0.53, 0.15), (0.47, 0.85)]],
    "2": [[*arc(0.49, 0.35, 0.19, 0.19, 190, 390), (0.3, 0.82), (0.72, 0.82)]],
    "3": [[*arc(0.46, 0.32, 0.18, 0.16, 200, 430), *arc(0.46, 0.66, 0.21, 0.18, -80, 155)]],
    "4": [[(0.36, 0.17), (0.32, 0.52), (0.7, 0.5)], [(0.64, 0.2), (0.6, 0.85)]],
    "5": [
        [(0.4, 0.18), (0.37, 0.46), *arc(0.46, 0.64, 0.2, 0.2, -100, 140)],
        [(0.4, 0.18), (0.68, 0.17)],
    ],
    "6": [[(0.58, 0.14), (0.42, 0.36), *arc(0.49, 0.66, 0.16, 0.18, 180, -180)]],
    "7": [[(0.3, 0.2), (0.7, 0.19), (0.46, 0.85)]],
    "8": [arc(0.5, 0.34, 0.15, 0.16, 90, 450), arc(0.5, 0.67, 0.18, 0.17, -90, 270)],
    "9": [[*arc(0.5, 0.34, 0.17, 0.18, 0, -360), (0.66, 0.36), (0.6, 0.85)]],
}
"""How a hand draws each digit, on a pad of side 1."""


def find_chromium():
    return os.environ.get("XPNET_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser():
    path = find_chromium()
    if path is None:
        pytest.skip(WANTED)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """`visit(path, **options)` opens the page there; see the top of this file."""
    contexts, complaints = [], []

    def visit(path, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        url = path.as_uri()

        def answer(route):
            if route.request.url == url:
                route.continue_()
            else:
                route.abort()

        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: sent.url == url or complaints.append(sent.url))
        page.complaints = complaints
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def settle(page):
    """Wait until the page has shown what was done last."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def pad_of(page):
    page.locator("#pad").scroll_into_view_if_needed()
    return page.locator("#pad").bounding_box()


def on_pad(box, point):
    return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]


def draw_with_mouse(page, strokes):
    box = pad_of(page)
    for stroke in strokes:
        page.mouse.move(*on_pad(box, stroke[0]))
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*on_pad(box, point))
        page.mouse.up()
    settle(page)


def fingers(page):
    """`touch(kind, *points)`: where on the pad all fingers are now."""
    box, session = pad_of(page), page.context.new_cdp_session(page)

    def touch(kind, *points):
        places = [
            {"id": number} | dict(zip("xy", on_pad(box, point), strict=True))
            for number, point in enumerate(points)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    return touch


def draw_with_finger(page, strokes):
    touch = fingers(page)
    for stroke in strokes:
        touch("touchStart", stroke[0])
        for point in stroke[1:]:
            touch("touchMove", point)
        touch("touchEnd")
    settle(page)
