"""The page in a real browser: see `tests/support/in_browser.py`."""

from __future__ import annotations

import base64
import functools
import http.server
import math
import threading

import in_browser
import numpy
import pytest
from cases import IMAGE_LAYERS
from in_browser import (
    DESKTOP,
    PHONE,
    STROKES,
    draw_with_finger,
    draw_with_mouse,
    fingers,
    on_pad,
    pad_of,
    settle,
)
from PIL import Image, ImageDraw, ImageFilter

import xpnet
from xpnet import Augmentation
from xpnet import network as network_module
from xpnet.cli.export import main
from xpnet.data import load_dataset
from xpnet.data.images import prepare
from xpnet.data.normalisation import Normalisation
from xpnet.errors import DataError
from xpnet.random import generator
from xpnet.runs.model import Model
from xpnet.training.device_data import DeviceData
from xpnet.web_demo.export import html_page

browser, visit = in_browser.browser, in_browser.visit


def export(network, path):
    model, page = path / "model.safetensors", path / "page.html"
    xpnet.save(network, model)
    assert main([str(model), "--html", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits").train


@pytest.fixture(scope="module")
def trained(digits):
    """A network that has seen 4,000 digits for some seconds, turned and shifted."""
    order = generator(0, "test").permutation(len(digits))
    train, normalisation = digits.take(order[:4000]), Normalisation.unit(digits)
    layers = [xpnet.Linear(784, 128), xpnet.ReLU(), xpnet.Linear(128, 10)]
    network = xpnet.Sequential(layers, seed=1)
    xpnet.fit(
        network,
        DeviceData.of(train, normalisation, backend=network.backend, dtype=network.dtype),
        optimizer=xpnet.Adam(2e-3),
        epochs=12,
        batch_size=64,
        augmentation=Augmentation(shift=1, rotation=12, scale=0.1, shear=8),
    )
    network.metadata = {
        "classes": list(digits.classes),
        "image_shape": [28, 28],
        "normalisation": {"scale": normalisation.scale, "shift": normalisation.shift},
        "pixels": True,
    }
    return network


@pytest.fixture(scope="module")
def held_out(digits):
    return digits.take(generator(0, "test").permutation(len(digits))[4000:4100])


@pytest.fixture(scope="module")
def page_path(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("page"))


def untrained(layers, dtype="float32", **metadata):
    network = xpnet.Sequential(layers, seed=5, dtype=dtype)
    normalisation = {"scale": 1 / 255, "shift": 0.0}
    network.metadata = {"image_shape": [28, 28], "normalisation": normalisation} | metadata
    return network


# What a visitor does


def answer(page):
    return page.locator("#answer").inner_text().partition(" ·")[0]


def ink_of(page):
    # A pad is 78,400 numbers: as text it comes at once.
    text = page.evaluate("btoa(xpnet.ink().map((level) => String.fromCharCode(level)).join(''))")
    size = page.evaluate("xpnet.size")
    return numpy.frombuffer(base64.b64decode(text), numpy.uint8).reshape(size, size)


def prepared(page, ink):
    """The page's image in `ink`, or None."""
    field = page.evaluate(
        "([text, size]) =>"
        "  xpnet.prepare(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), size)",
        [base64.b64encode(ink.tobytes()).decode(), len(ink)],
    )
    return field and numpy.array(field).reshape(page.evaluate("xpnet.side"), -1)


def predict(page, pixels):
    """The page's probabilities, and each layer's outputs, for rows of pixels."""
    found = page.evaluate("(rows) => rows.map(xpnet.predict)", pixels.tolist())
    probabilities = numpy.array([one["probabilities"] for one in found])
    outputs = zip(*(one["outputs"] for one in found), strict=True)
    return probabilities, [numpy.array(rows) for rows in outputs]


# Drawing


@pytest.mark.slow
def test_drawn_digits_are_recognised_and_prepared_as_python_prepares_them(visit, page_path):
    page, model = visit(page_path, **DESKTOP), Model.load(page_path.with_name("model.safetensors"))
    assert answer(page) == "–"
    seen = {}
    for digit, strokes in STROKES.items():
        page.locator("#clear").click()
        draw_with_mouse(page, strokes)
        seen[digit] = answer(page)
        ink = ink_of(page)
        field = prepare(Image.fromarray(ink))
        assert numpy.abs(prepared(page, ink) - field).max() <= 1
        p = model.probabilities(field.reshape(1, -1))[0]
        shown = page.locator("#answer").inner_text()
        assert shown == f"{p.argmax()} · {100 * p.max():.1f} %"
    assert seen == {digit: digit for digit in STROKES}


def test_a_finger_draws_and_does_not_scroll(visit, page_path):
    page = visit(page_path, **PHONE)
    for digit in "37":
        box = pad_of(page)
        draw_with_finger(page, STROKES[digit])
        assert answer(page) == digit
        assert pad_of(page) == box
        page.locator("#clear").tap()
        page.locator("#answer", has_text="–").wait_for()


def test_a_second_finger_draws_nothing(visit, page_path):
    page = visit(page_path, **PHONE)
    touch = fingers(page)
    touch("touchStart", (0.2, 0.2))
    touch("touchStart", (0.2, 0.2), (0.8, 0.8))
    touch("touchMove", (0.3, 0.2), (0.8, 0.7))
    touch("touchEnd")
    rows, columns = numpy.nonzero(ink_of(page))
    assert rows.max() < 0.3 * 280
    assert columns.max() < 0.4 * 280


def test_a_stroke_ends_where_the_mouse_lets_go_even_beside_the_pad(visit, page_path):
    page = visit(page_path, **DESKTOP)
    box = pad_of(page)
    page.mouse.move(*on_pad(box, (0.5, 0.2)))
    page.mouse.down()
    for point in [(0.9, 0.2), (1.2, 0.2), (1.2, 0.8)]:
        page.mouse.move(*on_pad(box, point))
    page.mouse.up()
    ink = ink_of(page)
    # The stroke continued outside the pad: there is no line along its border.
    assert ink[50:62, -5:].max() == 255
    assert ink[100:].max() == 0
    page.mouse.move(*on_pad(box, (0.5, 0.8)))
    page.mouse.down(button="right")
    page.mouse.move(*on_pad(box, (0.2, 0.8)))
    page.mouse.up(button="right")
    numpy.testing.assert_array_equal(ink_of(page), ink)


def test_what_is_shown_is_what_was_computed(visit, page_path):
    page = visit(page_path, **DESKTOP)
    draw_with_mouse(page, STROKES["2"])
    field = prepared(page, ink_of(page))
    p, outputs = predict(page, field.reshape(1, -1))
    rows = page.locator("#classes li")
    texts = [row.split("\n") for row in rows.all_inner_texts()]
    assert [row[0] for row in texts] == list("0123456789")
    assert [row[-1] for row in texts] == [f"{100 * share:.1f} %" for share in p[0]]
    widths = page.eval_on_selector_all(
        ".bar .filled", "(bars) => bars.map((bar) => bar.clientWidth / bar.parentNode.clientWidth)"
    )
    assert widths == pytest.approx(p[0].tolist(), abs=0.01)
    fired = int((outputs[1] > 0).sum())
    caption = page.locator("#units figcaption").inner_text()
    assert caption == f"Hidden layer 1: {fired} of 128 units above 0"
    # The units that fire most, and the colours of the strongest one's weights.
    units = numpy.argsort(-outputs[1][0], kind="stable")[:12]
    captions = page.locator("#weights figcaption").all_inner_texts()
    assert captions == [f"unit {unit}: {outputs[1][0][unit]:.2f}" for unit in units]
    pixels = page.eval_on_selector(
        "#weights canvas",
        "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 28, 28).data)",
    )
    colours = numpy.array(pixels).reshape(-1, 4)
    weight = xpnet.load(page_path.with_name("model.safetensors")).parameters()["0.weight"]
    strong = colours[:, 3] > 40
    assert strong.sum() > 50
    warm = colours[strong, 0] > colours[strong, 2]
    numpy.testing.assert_array_equal(warm, weight[units[0]][strong] > 0)
    image = page.eval_on_selector(
        "#image",
        "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 28, 28).data)",
    )
    numpy.testing.assert_array_equal(numpy.array(image).reshape(28, 28, 4)[..., 3], field)


def test_only_units_that_fired_have_their_weights_shown(visit, tmp_path):
    network = untrained([xpnet.Linear(784, 20), xpnet.ReLU(), xpnet.Linear(20, 10)])
    bias = network.parameters()["0.bias"]
    bias[:], bias[7], bias[11] = -1000, 1000, 2000
    page = visit(export(network, tmp_path), **DESKTOP)
    draw_with_mouse(page, STROKES["1"])
    captions = page.locator("#weights figcaption").all_inner_texts()
    assert [caption.split(":")[0] for caption in captions] == ["unit 11", "unit 7"] + ["–"] * 10
    assert page.locator("#units figcaption").inner_text() == "Hidden layer 1: 2 of 20 units above 0"


# Feature maps


def of_images():
    first = [xpnet.Unflatten((28, 28)), xpnet.Conv2d(20, 5, stride=2, padding=(1, 2)), xpnet.ReLU()]
    second = [xpnet.MaxPool2d(2), xpnet.Conv2d(1, (3, 2)), xpnet.Tanh(), xpnet.Flatten()]
    return [*first, *second, xpnet.Linear(24, 12), xpnet.ReLU(), xpnet.Linear(12, 10)]


@pytest.fixture(scope="module")
def maps_path(tmp_path_factory):
    return export(untrained(of_images()), tmp_path_factory.mktemp("maps"))


def maps_of(page, number):
    """The canvases of a hidden layer as arrays `(maps, height, width, 4)`."""
    canvases = page.locator("#units figure").nth(number).locator("canvas")
    # Chromium warns where one canvas is read several times.
    found = canvases.evaluate_all(
        "(all) => all.map((canvas) => {"
        "  const { width, height } = canvas;"
        "  const copy = new OffscreenCanvas(width, height).getContext('2d');"
        "  copy.drawImage(canvas, 0, 0);"
        "  return [height, width, Array.from(copy.getImageData(0, 0, width, height).data)];"
        "})"
    )
    return numpy.array([numpy.reshape(data, (h, w, 4)) for h, w, data in found])


def test_the_maps_of_convolutions_are_shown_as_they_were_computed(visit, maps_path):
    page = visit(maps_path, **DESKTOP)
    empty = [maps_of(page, number) for number in (0, 1)]
    assert all((maps == [0, 0, 0, 255]).all() for maps in empty)
    draw_with_mouse(page, STROKES["2"])
    _, outputs = predict(page, prepared(page, ink_of(page)).reshape(1, -1))
    # Those after ReLU and Tanh.
    for number, (place, size) in enumerate([(2, (20, 13, 14)), (5, (1, 4, 6))]):
        values = outputs[place].reshape(size)
        levels = 255 * (values - values.min()) / numpy.ptp(values)
        shown = maps_of(page, number)
        assert len(shown) == min(16, size[0])
        for colour in range(3):
            numpy.testing.assert_allclose(shown[..., colour], levels[:16], atol=0.51)
        assert (shown[..., 3] == 255).all()
    fired = int((outputs[8] > 0).sum())
    assert page.locator("#units figcaption").all_inner_texts() == [
        "Hidden layer 1: 16 of 20 maps of 13 × 14",
        "Hidden layer 2: 1 map of 4 × 6",
        f"Hidden layer 3: {fired} of 12 units above 0",
    ]
    page.locator("#clear").click()
    settle(page)
    for number in (0, 1):
        numpy.testing.assert_array_equal(maps_of(page, number), empty[number])


def test_the_page_explains_the_colours_that_it_shows(visit, page_path, maps_path, tmp_path):
    maps_alone = [*of_images()[:-3], xpnet.Linear(24, 10)]
    pages = [
        (page_path, True, False),
        (maps_path, True, True),
        (export(untrained(maps_alone), tmp_path), False, True),
    ]
    for path, has_units, has_maps in pages:
        page = visit(path)
        assert page.locator("#about-units").is_visible() == has_units
        assert page.locator("#about-maps").is_visible() == has_maps


def test_clearing_brings_the_empty_page_back(visit, page_path):
    page = visit(page_path, **DESKTOP)
    empty = page.locator("main").inner_text()
    draw_with_mouse(page, STROKES["8"])
    assert page.locator("main").inner_text() != empty
    page.locator("#clear").click()
    settle(page)
    assert page.locator("main").inner_text() == empty
    assert ink_of(page).max() == 0


# The same numbers as Python's


def test_probabilities_equal_pythons_on_100_test_images(visit, page_path, held_out):
    page, model = visit(page_path), Model.load(page_path.with_name("model.safetensors"))
    p, _ = predict(page, held_out.x)
    assert p.shape == (100, 10)
    assert numpy.abs(p - model.probabilities(held_out.x)).max() <= 1e-5
    assert (p.argmax(axis=1) == held_out.labels).mean() > 0.9


LAYERS = {
    "Linear": lambda: xpnet.Linear(24, 24),
    "ReLU": xpnet.ReLU,
    "LeakyReLU": lambda: xpnet.LeakyReLU(0.2),
    "Sigmoid": xpnet.Sigmoid,
    "Tanh": xpnet.Tanh,
    "GELU": xpnet.GELU,
    "Softmax": xpnet.Softmax,
    "BatchNorm": lambda: xpnet.BatchNorm(24, epsilon=1e-3),
    "LayerNorm": lambda: xpnet.LayerNorm(24, epsilon=1e-3),
    "Dropout": lambda: xpnet.Dropout(0.4),
    "GaussianNoise": lambda: xpnet.GaussianNoise(0.7),
    "Residual": lambda: xpnet.Residual(
        xpnet.Linear(24, 5), xpnet.Residual(5, "tanh"), xpnet.Sequential(5, "gelu", 24)
    ),
}


IMAGES = {case.id: case for case in IMAGE_LAYERS}


def shaken(network):
    """The network with no parameter and no statistic left at what it began with."""
    draw = generator(1, "shake")
    for name, value in network.state_dict().items():
        scale = 0.05 if name == "0.weight" else 0.4
        drawn = scale * draw.standard_normal(value.shape)
        value[...] = 0.5 + numpy.abs(drawn) if name.endswith("running_var") else value + drawn
    return network


def in_order(network):
    """The layers one after the other, those of networks within too."""
    for layer in network.layers:
        if isinstance(layer, xpnet.Sequential):
            yield from in_order(layer)
        else:
            yield layer


def compare(page, path, x):
    """Every layer's outputs, and the probabilities, with those of the network saved there."""
    model = Model.load(path.with_name("model.safetensors"))
    p, outputs = predict(page, x)
    assert numpy.abs(p - model.probabilities(x)).max() <= 1e-5
    network = model.network
    values = model.normalisation.apply(x, network.dtype)
    for layer, found in zip(in_order(network), outputs, strict=True):
        values = layer.forward(values, training=False)
        # The page has images in the order of rows.
        rows = values if values.ndim == 2 else values.transpose(0, 3, 1, 2).reshape(len(x), -1)
        # float32 has seven digits, wherever its point is.
        assert numpy.abs(found - rows).max() <= 1e-5 * max(numpy.abs(rows).max(), 1), layer


def test_there_is_a_case_for_every_layer():
    kinds = {case.kind.__name__ for case in IMAGES.values()}
    assert set(LAYERS) | kinds == set(network_module.LAYERS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_computes_what_xpnet_computes(kind, dtype, visit, held_out, tmp_path):
    layers = [xpnet.Linear(784, 24), LAYERS[kind](), xpnet.Linear(24, 10)]
    path = export(shaken(untrained(layers, dtype=dtype)), tmp_path)
    compare(visit(path), path, held_out.x[:10])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", IMAGES)
def test_every_layer_of_images_computes_what_xpnet_computes(name, dtype, visit, held_out, tmp_path):
    layers = IMAGES[name].between(784, 10)
    path = export(shaken(untrained(layers, dtype=dtype)), tmp_path)
    compare(visit(path), path, held_out.x[:10])


def all_in_one():
    first = [xpnet.GaussianNoise(0.1), xpnet.BatchNorm(784), xpnet.Linear(784, 50)]
    second = [xpnet.LayerNorm(50), xpnet.GELU(), xpnet.Dropout(0.2), xpnet.Linear(50, 33)]
    return [*first, *second, xpnet.Sigmoid(), xpnet.Linear(33, 10), xpnet.Softmax()]


def all_of_images():
    block = [xpnet.Conv2d(6, 3, padding=1, groups=3), xpnet.BatchNorm2d(6), xpnet.GELU()]
    block += [xpnet.Dropout2d(0.2), xpnet.Conv2d(6, 1), xpnet.BatchNorm2d(6)]
    first = [xpnet.GaussianNoise(0.1), xpnet.Unflatten((12, 12)), xpnet.Conv2d(6, 3, bias=False)]
    second = [xpnet.Residual(*block), xpnet.ReLU(), xpnet.MaxPool2d(3, 2, 1)]
    third = [xpnet.Conv2d(9, 3, padding=2, dilation=2), xpnet.Sigmoid(), xpnet.AveragePool2d(2)]
    return [*first, *second, *third, xpnet.Flatten(), xpnet.Dropout(0.1), xpnet.Linear(36, 10)]


SHAPES = {
    "no hidden layer": lambda: [xpnet.Linear(784, 10)],
    "no Linear at all": lambda: [xpnet.LayerNorm(784), xpnet.Tanh()],
    "all in one": all_in_one,
    "8 x 8, one class": lambda: [xpnet.Linear(64, 62), xpnet.Linear(62, 1)],
    "1 x 1": lambda: [xpnet.Linear(1, 2)],
    "networks within the network": lambda: [
        xpnet.Sequential(64, 20, "relu"),
        xpnet.Residual(20, "tanh", xpnet.Sequential(20, 20)),
        xpnet.Sequential([xpnet.Sequential(20, 8, "gelu"), xpnet.Linear(8, 3)]),
    ],
    "images": all_of_images,
    "images, no Linear": lambda: [
        xpnet.Sequential((8, 8), "tanh"),
        xpnet.Conv2d(8, 3, stride=2),
        xpnet.ReLU(),
        xpnet.Conv2d(5, 1),
        xpnet.GlobalAveragePool2d(),
    ],
    "images, no Conv2d": lambda: [
        xpnet.Unflatten((8, 8)),
        xpnet.AveragePool2d(2),
        xpnet.Flatten(),
        xpnet.Linear(16, 10),
    ],
    "images between two Linear": lambda: [
        xpnet.Linear(64, 48),
        xpnet.Unflatten((4, 4, 3)),
        xpnet.Conv2d(5, 3),
        xpnet.Flatten(),
        xpnet.Linear(20, 10),
    ],
    "images of 1 x 1": lambda: [
        xpnet.Unflatten((1, 1)),
        xpnet.Conv2d(3, 3, padding=1),
        xpnet.GlobalAveragePool2d(),
    ],
}
POOLING = xpnet.MaxPool2d | xpnet.AveragePool2d | xpnet.GlobalAveragePool2d


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_networks_of_other_shapes(name, visit, tmp_path):
    network = xpnet.Sequential(SHAPES[name](), seed=5)
    side = math.isqrt(network.in_features)
    normalisation = {"scale": 0.004, "shift": -0.5}
    network.metadata = {"image_shape": [side, side], "normalisation": normalisation}
    network.metadata["classes"] = list(map(str, range(network.out_features)))
    path = export(shaken(network), tmp_path)
    page, model = visit(path, **DESKTOP), Model.load(tmp_path / "model.safetensors")
    x = generator(0, "pixels").integers(0, 256, (10, network.in_features))
    compare(page, path, x.astype(numpy.uint8))
    draw_with_mouse(page, STROKES["5"])
    field = prepare(Image.fromarray(ink_of(page)), (side, side))
    numpy.testing.assert_allclose(prepared(page, ink_of(page)), field, atol=1)
    assert answer(page) == str(model.probabilities(field.reshape(1, -1)).argmax())
    kinds = [type(layer) for layer in in_order(network)]
    linears, convolutions = kinds.count(xpnet.Linear), kinds.count(xpnet.Conv2d)
    hidden = max(linears - 1, 0) + convolutions
    assert page.locator("#units figure").count() == hidden
    assert page.locator("#hidden").is_visible() == (hidden > 0)
    # The weights of a Linear that is given the image itself.
    before = kinds[: kinds.index(xpnet.Linear)] if linears else []
    is_first = linears > 0 and not any(issubclass(kind, xpnet.Conv2d | POOLING) for kind in before)
    assert page.locator("#first").is_visible() == is_first


def test_a_network_of_independent_labels(visit, tmp_path):
    network = untrained([xpnet.Linear(784, 3)])
    network.prediction = "labels"
    path = export(network, tmp_path)
    x = generator(0, "pixels").integers(0, 256, (10, 784)).astype(numpy.uint8)
    compare(visit(path, **DESKTOP), path, x)


def test_of_many_classes_the_likeliest_are_shown_in_order(visit, tmp_path):
    names = [f"class {number} of a long, long list" for number in range(62)]
    path = export(untrained([xpnet.Linear(784, 62)], classes=names), tmp_path)
    page = visit(path, **DESKTOP)
    draw_with_mouse(page, STROKES["5"])
    field = prepared(page, ink_of(page)).astype(numpy.uint8)
    p = Model.load(path.with_name("model.safetensors")).probabilities(field.reshape(1, -1))[0]
    likeliest = sorted(numpy.argsort(-p, kind="stable")[:10])
    shown = page.locator("#classes .name").all_inner_texts()
    assert shown == [names[number] for number in likeliest]
    assert page.locator("#classes .best .name").inner_text() == names[p.argmax()]


def test_names_of_classes_are_shown_as_they_are(visit, tmp_path):
    names = ["</script><b>bold</b>", "<img src=x onerror=alert(1)>", "& ä 字"]
    page = visit(export(untrained([xpnet.Linear(784, 3)], classes=names), tmp_path))
    assert page.locator("#classes .name").all_inner_texts() == names


def any_ink(draw, size):
    """Lines of any thickness and softness on a pad of `size`, its rim mostly free."""
    image = Image.new("L", (size, size), 0)
    points = draw.integers(size // 8, size - size // 8, (draw.integers(2, 7), 2)).tolist()
    pen = ImageDraw.Draw(image)
    level, width = int(draw.integers(40, 256)), int(draw.integers(1, size // 8))
    pen.line([tuple(point) for point in points], fill=level, width=width)
    return numpy.asarray(image.filter(ImageFilter.GaussianBlur(int(draw.integers(0, 3)))))


def test_any_ink_is_centred_as_xpnet_centres_an_image(visit, page_path, held_out):
    page, draw = visit(page_path), generator(0, "ink")
    inks = [any_ink(draw, size) for size in (29, 40, 64, 101, 150, 280, 333) for _ in range(5)]
    # Digits of MNIST, larger and somewhere else.
    for pixels in held_out.x[:10].reshape(-1, 28, 28):
        large = numpy.zeros((160, 160), numpy.uint8)
        top, left = draw.integers(0, 76, 2)
        large[top : top + 84, left : left + 84] = Image.fromarray(pixels).resize((84, 84))
        inks.append(large)
    # So lopsided that its centre cannot lie in the middle.
    lopsided = numpy.zeros((200, 200), numpy.uint8)
    lopsided[20:40, 20:170] = lopsided[20:170, 20:24] = 255
    inks += [lopsided, lopsided[::-1, ::-1]]
    different = 0
    for ink in inks:
        expected = prepare(Image.fromarray(ink)).astype(int)
        found = prepared(page, ink)
        assert numpy.abs(found - expected).max() <= 1
        different += int((found != expected).sum())
    # Where sums are added in another order, a level may be rounded the other way; seldom.
    assert different < 10


@pytest.mark.parametrize("level", [0, 15, 16])
def test_what_is_too_faint_for_xpnet_is_blank_here_too(level, visit, page_path):
    ink = numpy.zeros((60, 60), numpy.uint8)
    ink[20:40, 25:30] = level
    try:
        expected = prepare(Image.fromarray(ink))
    except DataError:
        assert prepared(visit(page_path), ink) is None
    else:
        numpy.testing.assert_allclose(prepared(visit(page_path), ink), expected, atol=1)


# Without a mouse


def focused(page):
    return page.evaluate("document.activeElement.id")


def outline(page):
    return page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")


def press(page, key, times=1):
    for _ in range(times):
        page.keyboard.press(key)


def test_the_keyboard_alone_draws_clears_and_moves_on(visit, page_path):
    page = visit(page_path, viewport={"width": 800, "height": 400})
    page.keyboard.press("Tab")
    assert focused(page) == "pad"
    assert outline(page) >= 2
    assert page.locator("#cursor").is_visible()
    page.evaluate("scrollTo(0, 0)")
    # A one: up, pen down, a long way down, pen up.
    press(page, "ArrowUp", 14)
    assert ink_of(page).max() == 0
    press(page, "Space")
    assert page.locator("#pen").inner_text() == "Pen down"
    press(page, "ArrowDown", 28)
    press(page, "Space")
    assert page.locator("#pen").inner_text() == "Pen up"
    press(page, "ArrowRight", 8)
    settle(page)
    assert answer(page) == "1"
    rows, columns = numpy.nonzero(ink_of(page))
    assert numpy.ptp(rows) > 0.7 * 280
    assert numpy.ptp(columns) < 0.1 * 280
    assert page.evaluate("scrollY") == 0
    page.locator("#said", has_text="The network sees 1 · ").wait_for(state="attached")
    page.keyboard.press("Delete")
    settle(page)
    assert answer(page) == "–"
    page.locator("#said", has_text="The pad is empty").wait_for(state="attached")
    # Leaving lifts the pen.
    press(page, "Space")
    assert ink_of(page).max() > 0
    page.keyboard.press("Tab")
    assert focused(page) == "clear"
    assert outline(page) >= 2
    assert page.locator("#pen").inner_text() == "Pen up"
    assert not page.locator("#cursor").is_visible()
    page.keyboard.press("Enter")
    settle(page)
    assert ink_of(page).max() == 0
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "pad"


def test_two_arrow_keys_draw_diagonally_and_shift_draws_finely(visit, page_path):
    page = visit(page_path, **DESKTOP)
    page.locator("#pad").focus()
    press(page, "Space")
    page.keyboard.down("ArrowDown")
    page.keyboard.down("ArrowRight")
    for _ in range(9):
        page.keyboard.down("ArrowRight")  # as a key that is held repeats
    page.keyboard.up("ArrowRight")
    page.keyboard.up("ArrowDown")
    rows, columns = numpy.nonzero(ink_of(page) > 127)
    assert numpy.ptp(columns) == pytest.approx(10 * 7 + 20, abs=2)
    assert numpy.ptp(rows) == pytest.approx(11 * 7 + 20, abs=2)
    assert numpy.corrcoef(rows, columns)[0, 1] > 0.85
    press(page, "Delete")
    press(page, "Space")
    press(page, "Space")
    press(page, "Shift+ArrowLeft", 3)
    rows, columns = numpy.nonzero(ink_of(page) > 127)
    assert numpy.ptp(columns) == pytest.approx(3 * 2 + 20, abs=2)
    assert numpy.ptp(rows) == pytest.approx(20, abs=2)


def test_keys_that_are_held_too_long_or_let_go_elsewhere(visit, page_path):
    page = visit(page_path, **DESKTOP)
    page.locator("#pad").focus()
    for _ in range(4):
        page.keyboard.down("Space")
    page.keyboard.up("Space")
    assert page.locator("#pen").inner_text() == "Pen down"
    page.keyboard.down("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.up("ArrowRight")
    page.keyboard.press("Shift+Tab")
    press(page, "Delete")
    press(page, "Space")
    press(page, "ArrowDown", 5)
    rows, columns = numpy.nonzero(ink_of(page) > 127)
    assert numpy.ptp(rows) == pytest.approx(5 * 7 + 20, abs=2)
    assert numpy.ptp(columns) == pytest.approx(20, abs=2)


def test_the_mouse_takes_the_pen_from_the_keyboard(visit, page_path):
    page = visit(page_path, **DESKTOP)
    page.keyboard.press("Tab")
    press(page, "Space")
    draw_with_mouse(page, [[(0.1, 0.1), (0.2, 0.1)]])
    assert page.locator("#pen").inner_text() == "Pen up"
    assert not page.locator("#cursor").is_visible()


def test_everything_that_can_be_used_has_a_name(visit, page_path):
    page = visit(page_path, **DESKTOP)
    assert page.get_by_role("application", name="Drawing pad").count() == 1
    assert page.get_by_role("button", name="Clear").count() == 1
    assert page.get_by_role("list", name="Probabilities").count() == 1
    regions = [
        "Your drawing",
        "Probabilities",
        "Hidden activations",
        "First-layer weights of the most active units",
    ]
    for name in regions:
        assert page.get_by_role("region", name=name).count() == 1
    assert page.get_by_role("status").count() == 2
    assert page.locator("#pad").get_attribute("aria-describedby") == "help"
    assert "Space" in page.locator("#help").inner_text()
    assert page.evaluate("document.documentElement.lang") == "en"


# Any screen


@pytest.mark.slow
@pytest.mark.parametrize("width", [280, 320, 390, 768, 1600])
def test_nothing_is_wider_than_the_screen(width, visit, page_path):
    screen = {"width": width, "height": 700}
    page = visit(page_path, viewport=screen, is_mobile=width < 700, has_touch=True)
    for strokes in ([], STROKES["6"]):
        draw_with_finger(page, strokes)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("innerWidth") == width
    box = pad_of(page)
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["width"] == pytest.approx(box["height"], abs=1)
    assert box["width"] >= 0.7 * min(width, 320)
    # Nobody has to zoom in.
    sizes = page.eval_on_selector_all(
        "main *, header *", "(all) => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 13
    button = page.locator("#clear").bounding_box()
    assert min(button["width"], button["height"]) >= 40


@pytest.mark.parametrize("width", [280, 768, 1600])
def test_maps_are_seen_and_not_wider_than_the_screen(width, visit, maps_path):
    page = visit(maps_path, viewport={"width": width, "height": 700})
    draw_with_mouse(page, STROKES["6"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in [canvas.bounding_box() for canvas in page.locator(".maps canvas").all()]:
        assert box["width"] >= 20
        assert box["x"] + box["width"] <= width


def test_long_names_of_classes_do_not_widen_a_phone(visit, tmp_path):
    names = ["Donaudampfschifffahrtsgesellschaft" * 3, "b" * 200, "c" * 200]
    page = visit(export(untrained([xpnet.Linear(784, 3)], classes=names), tmp_path), **PHONE)
    draw_with_finger(page, STROKES["6"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const parts = numbers(colour).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return numbers(colour)[3] === 0 ? behind(one.parentElement) : colour;
  };
  return Array.from(document.querySelectorAll("h1, h2, p, li, span, button, figcaption"))
    .filter((one) => one.innerText)
    .map((one) => [light(getComputedStyle(one).color), light(behind(one))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shown", ["units", "maps"])
def test_light_and_dark_can_both_be_read(shown, scheme, visit, page_path, maps_path):
    path = page_path if shown == "units" else maps_path
    page = visit(path, color_scheme=scheme, **DESKTOP)
    draw_with_mouse(page, STROKES["9"])
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = sum(int(part) for part in background[4:-1].split(",")) / 3
    assert level > 200 if scheme == "light" else level < 60
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    # WCAG 2.2, success criterion 1.4.3.
    assert min(contrasts) >= 4.5


# Nothing from elsewhere, nothing to elsewhere


ATTEMPTS = {
    "connect-src": "fetch('https://example.org/').catch(() => {})",
    "img-src": "new Image().src = 'https://example.org/a.png'",
    "script-src-elem": "const s = document.createElement('script'); s.textContent = 'sent = 1';"
    "document.body.append(s)",
    "style-src-elem": "const s = document.createElement('style'); s.textContent = 'p {}';"
    "document.body.append(s)",
    "frame-src": "const f = document.createElement('iframe'); f.src = 'https://example.org/';"
    "document.body.append(f)",
    "form-action": "const f = document.createElement('form'); f.action = 'https://example.org/';"
    "document.body.append(f); f.submit()",
}


@pytest.mark.parametrize("directive", ATTEMPTS)
def test_the_policy_forbids_whatever_a_script_could_try(directive, visit, page_path):
    page = visit(page_path)
    refused = page.evaluate(
        "new Promise((done) => {"
        "  document.addEventListener('securitypolicyviolation', (event) =>"
        "    done(event.effectiveDirective));"
        "  setTimeout(() => done('nothing'), 2000);"
        f"  {ATTEMPTS[directive]};"
        "})"
    )
    assert refused == directive
    # This is also what a visit fails by, when the page itself tries something.
    assert page.complaints
    page.complaints.clear()


def test_from_a_server_too_it_asks_for_nothing_but_itself(browser, page_path):
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *arguments):
            asked.append(self.path)

    serve = functools.partial(Handler, directory=page_path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        page = browser.new_page(**DESKTOP)
        try:
            page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
            draw_with_mouse(page, STROKES["4"])
            assert answer(page) == "4"
        finally:
            page.close()
            server.shutdown()
    assert asked == ["/page.html"]


def test_a_page_without_javascript_says_so(visit, page_path):
    page = visit(page_path, java_script_enabled=False)
    assert "switched off" in page.locator("header").inner_text()


def test_the_file_is_what_html_page_gives(page_path):
    model = Model.load(page_path.with_name("model.safetensors"))
    assert page_path.read_text(encoding="utf-8") == html_page(model)
