"""The page as a file: what is in it, what it may do, and what cannot be exported.

What it does in a browser is in `test_page_in_browser.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy
import onnxruntime
import pytest

import xpnet
from xpnet import network as network_module
from xpnet.cli.export import main
from xpnet.errors import ConfigError
from xpnet.layers.base import Layer
from xpnet.runs.model import Model
from xpnet.web_demo.export import KNOWN, SCRIPTS, html_page

NORMALISATION = {"scale": 1 / 255, "shift": 0.0}
IMAGES = {"image_shape": [28, 28], "normalisation": NORMALISATION, "pixels": True}


def digits_network(dtype="float32", **metadata):
    layers = [xpnet.Linear(784, 128), xpnet.ReLU(), xpnet.Dropout(0.4), xpnet.Linear(128, 10)]
    network = xpnet.Sequential(layers, seed=3, dtype=dtype)
    network.metadata = IMAGES | metadata
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    xpnet.save(digits_network(), path)
    return path


def page_of(network, tmp_path):
    xpnet.save(network, tmp_path / "model.safetensors")
    return html_page(Model.load(tmp_path / "model.safetensors"))


class Elements(HTMLParser):
    """The start tags of a document, and the text of each <style> and <script>."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("style", "script") and data.strip():
            self.texts.append((*self.tags[-1], data))


def content_of(page):
    texts = [data for _, about, data in Elements(page).texts if about.get("id") == "model"]
    assert len(texts) == 1
    return json.loads(texts[0])


def test_one_command_writes_one_file_below_a_megabyte(saved, tmp_path, capsys):
    target = tmp_path / "digit.html"
    assert main([str(saved), "--html", str(target)]) == 0
    captured = capsys.readouterr()
    size = len(target.read_bytes())
    assert captured.err == ""
    assert captured.out == f"{target}  {round(size / 1000)} kB: open it in a browser\n"
    assert 784 * 128 * 4 * 4 / 3 < size < 1_000_000
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text(encoding="utf-8") == html_page(Model.load(saved))


def test_the_same_network_gives_the_same_bytes_in_another_process(saved, tmp_path):
    for name in "ab":
        command = [sys.executable, "-W", "error", "-m", "xpnet.export", str(saved)]
        subprocess.run([*command, "--html", str(tmp_path / name)], check=True, capture_output=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_page_holds_the_very_weights(saved):
    content = content_of(html_page(Model.load(saved)))
    network = xpnet.load(saved)
    state = network.state_dict()
    for position, layer in enumerate(content["layers"]):
        for name, text in layer["arrays"].items():
            value = state.pop(f"{position}.{name}")
            stored = numpy.frombuffer(base64.b64decode(text), "<f4").reshape(value.shape)
            numpy.testing.assert_array_equal(stored, value)
    assert state == {}
    assert [layer["type"] for layer in content["layers"]] == [
        entry["type"] for entry in network.architecture()
    ]
    assert (content["scale"], content["shift"], content["side"]) == (1 / 255, 0.0, 28)
    assert content["classes"] == list("0123456789")


def test_the_page_says_what_it_holds(saved):
    page = html_page(Model.load(saved))
    assert "784 → 128 → 10 units, 101,770 parameters" in page
    assert "28 × 28 pixels" in page


def convolution(*arguments, **settings):
    return xpnet.Conv2d(*arguments, **settings, bias=False)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            [(28, 28), convolution(16, 5), "relu", convolution(32, 5), xpnet.Flatten(), 10],
            "28 × 28 → 16 maps → 32 maps → 10 units, 141,210 parameters",
        ),
        (
            [(28, 28), convolution(1, 28), xpnet.Flatten(), 20, 10],
            "28 × 28 → 1 map → 20 → 10 units, 1,034 parameters",
        ),
        (
            [xpnet.Sequential((28, 28), "relu"), convolution(10, 28), xpnet.Flatten()],
            "28 × 28 → 10 maps, 7,840 parameters",
        ),
        (
            [xpnet.GaussianNoise(0.1), xpnet.Unflatten((28, 28)), xpnet.Flatten()],
            "28 × 28, 0 parameters",
        ),
        (
            [xpnet.Linear(784, 32), xpnet.Unflatten((4, 4, 2)), convolution(3, 4), xpnet.Flatten()],
            "784 → 32 → 3 maps, 25,216 parameters",
        ),
    ],
)
def test_the_page_says_what_a_network_of_images_holds(parts, text, tmp_path):
    network = xpnet.Sequential(*parts)
    network.metadata = IMAGES
    assert f"A network of {text}, trained" in page_of(network, tmp_path)


def test_each_layer_has_the_shapes_of_its_input_and_output(tmp_path):
    block = xpnet.Residual(xpnet.Conv2d(2, 3, padding=1), xpnet.ReLU(), xpnet.Conv2d(4, 1))
    network = xpnet.Sequential(
        (28, 28), xpnet.Conv2d(4, 5, stride=(2, 1)), block, xpnet.MaxPool2d(4), xpnet.Flatten(), 10
    )
    network.metadata = IMAGES
    layers = content_of(page_of(network, tmp_path))["layers"]
    shapes = [[784], [28, 28, 1], [12, 24, 4], [12, 24, 4], [3, 6, 4], [72], [10]]
    assert [layer["in_shape"] for layer in layers] == shapes[:-1]
    assert [layer["out_shape"] for layer in layers] == shapes[1:]
    inside = [[12, 24, 4], [12, 24, 2], [12, 24, 2], [12, 24, 4]]
    assert [layer["in_shape"] for layer in layers[2]["layers"]] == inside[:-1]
    assert [layer["out_shape"] for layer in layers[2]["layers"]] == inside[1:]
    weight = numpy.frombuffer(base64.b64decode(layers[1]["arrays"]["weight"]), "<f4")
    expected = network.parameters()["1.weight"]
    numpy.testing.assert_array_equal(weight.reshape(4, 1, 5, 5), expected)


def test_a_float64_network_is_kept_in_float32(tmp_path):
    network = digits_network("float64")
    content = content_of(page_of(network, tmp_path))
    weight = numpy.frombuffer(base64.b64decode(content["layers"][0]["arrays"]["weight"]), "<f4")
    expected = network.parameters()["0.weight"].astype(numpy.float32).ravel()
    numpy.testing.assert_array_equal(weight, expected)


# Nothing from elsewhere, nothing to elsewhere


def test_nothing_in_the_page_refers_to_anything_outside(saved):
    page = html_page(Model.load(saved))
    elements = Elements(page)
    for tag, attributes in elements.tags:
        assert tag not in ("a", "base", "embed", "form", "iframe", "img", "object"), tag
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            assert attributes.get(name, "data:,") == "data:,", (tag, attributes)
        # A policy by hashes lets none of these through: the page would not work.
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    code = "".join(data for _, about, data in elements.texts if about.get("id") != "model")
    for word in ("http:", "https:", "//www", "url(", "@import", "import ", "fetch(", "eval("):
        assert word not in code, word


def test_the_policy_lets_in_this_style_and_this_script_alone(saved):
    elements = Elements(html_page(Model.load(saved)))
    policies = [
        attributes["content"]
        for tag, attributes in elements.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    texts = {tag: data for tag, about, data in elements.texts if about.get("id") != "model"}
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(texts[tag].encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert rules.pop("img-src") == "data:"
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}


def test_names_of_classes_stay_text(tmp_path):
    names = ["</script><script>alert(1)</script>", "<!--", "$policy", "ä 字", '"', "\\"]
    names += list("0123")
    page = page_of(digits_network(classes=names), tmp_path)
    assert content_of(page)["classes"] == names
    assert len([tag for tag, _ in Elements(page).tags if tag == "script"]) == 2


def test_a_network_of_rates_has_no_probabilities_to_show(tmp_path):
    network = digits_network()
    network.prediction = "rates"
    with pytest.raises(ConfigError, match="trained on values, so it has no probabilities"):
        page_of(network, tmp_path)


def test_no_part_of_the_page_ends_its_own_script(saved):
    for _, about, data in Elements(html_page(Model.load(saved))).texts:
        assert not re.search(r"</script|<!--", data, re.IGNORECASE), about


# Every layer that a file can hold


def test_every_layer_that_a_file_can_hold_is_known_to_the_page():
    assert set(KNOWN) == set(network_module.LAYERS)


def test_a_layer_that_the_page_does_not_know_is_refused(monkeypatch, tmp_path):
    own = {"forward": lambda self, x, *, training: x, "__module__": "xpnet.layers"}
    made_up = type("Convolution", (Layer,), own)
    monkeypatch.setitem(network_module.LAYERS, "Convolution", made_up)
    network = xpnet.Sequential([xpnet.Linear(784, 8), made_up(), xpnet.Linear(8, 10)])
    network.metadata = IMAGES
    message = r"layer 1 is a Convolution, which the page cannot compute: it knows Linear, "
    with pytest.raises(ConfigError, match=message):
        page_of(network, tmp_path)


def test_all_scripts_of_the_folder_are_in_the_page():
    from importlib import resources

    folder = resources.files("xpnet") / "web_demo"
    names = {item.name for item in folder.iterdir() if item.name.endswith((".js", ".html", ".css"))}
    assert names == {*SCRIPTS, "page.html", "page.css"}


# ONNX


@pytest.mark.needs("onnx")
def test_an_onnx_file_is_written_instead_or_as_well(saved, tmp_path, capsys):
    alone, page, beside = (tmp_path / name for name in ("a.onnx", "page.html", "b.onnx"))
    assert main([str(saved), "--onnx", str(alone)]) == 0
    assert main([str(saved), "--html", str(page), "--onnx", str(beside)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(alone), str(page), str(beside)]
    assert alone.read_bytes() == beside.read_bytes()
    x = numpy.random.default_rng(0).random((3, 784)).astype(numpy.float32)
    (logits,) = onnxruntime.InferenceSession(alone).run(None, {"x": x})
    numpy.testing.assert_allclose(logits, xpnet.load(saved).forward(x), atol=1e-5)


@pytest.mark.needs("onnx")
def test_a_network_that_is_not_for_images_can_be_an_onnx_file(tmp_path):
    xpnet.save(xpnet.Sequential([xpnet.Linear(5, 3)]), tmp_path / "model.safetensors")
    target = tmp_path / "model.onnx"
    assert main([str(tmp_path / "model.safetensors"), "--onnx", str(target)]) == 0
    assert onnxruntime.InferenceSession(target).get_inputs()[0].shape[1] == 5


# What cannot be exported


def failure(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert line.startswith("xpnet: error: ")
    return line


@pytest.mark.parametrize(
    ("features", "metadata", "message"),
    [
        (784, {"image_shape": None}, "was not trained on images (it has no image_shape)"),
        (784, {"image_shape": [14, 56]}, "takes images of 14 x 56 pixels"),
        (784, {"pixels": False}, "was trained on numbers with a fraction"),
        (784, {"normalisation": {"scale": float("nan"), "shift": 0}}, "normalisation is {"),
        (784, {"image_shape": [28, 29]}, "image_shape is [28, 29], expected"),
        (5, {"image_shape": None}, "was not trained on images"),
    ],
)
def test_a_network_that_is_not_for_square_images(features, metadata, message, tmp_path, capsys):
    network = xpnet.Sequential([xpnet.Linear(features, 10)])
    network.metadata = IMAGES | metadata
    path = tmp_path / "model.safetensors"
    xpnet.save(network, path)
    line = failure(capsys, path, "--html", tmp_path / "digit.html")
    assert line.startswith(f"xpnet: error: {path}: ")
    assert message in line
    assert not (tmp_path / "digit.html").exists()


@pytest.mark.parametrize("before", [[], [xpnet.GaussianNoise(0.1)]])
def test_a_drawing_has_one_channel(before, tmp_path, capsys):
    of_images = [xpnet.Unflatten((14, 14, 4)), xpnet.Conv2d(3, 3), xpnet.GlobalAveragePool2d()]
    network = xpnet.Sequential([*before, *of_images])
    network.metadata = IMAGES
    path = tmp_path / "model.safetensors"
    xpnet.save(network, path)
    line = failure(capsys, path, "--html", tmp_path / "digit.html")
    assert f"{path}: the model takes images of 4 channels, and a drawing has one: " in line
    assert not (tmp_path / "digit.html").exists()


@pytest.mark.parametrize(("dtype", "value"), [("float32", numpy.nan), ("float64", 1e39)])
def test_weights_that_are_no_finite_float32(dtype, value, tmp_path, capsys):
    network = digits_network(dtype)
    network.parameters()["3.bias"][4] = value
    path = tmp_path / "model.safetensors"
    xpnet.save(network, path)
    line = failure(capsys, path, "--html", tmp_path / "digit.html")
    assert f"{path}: 3.bias holds values that are no finite float32" in line


@pytest.mark.needs("onnx")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL"),
        (["model"], "nothing to write: give --html FILE or --onnx FILE"),
        (["model", "--html"], "--html"),
        (["nowhere.safetensors", "--html", "page"], "nowhere.safetensors: no such file"),
        (["model", "--html", "folder"], "folder: cannot be written (Is a directory)"),
        (["model", "--html", "no/where.html"], "where.html: cannot be written (No such file"),
        (["model", "--html", "page", "--nonsense"], "--nonsense"),
        (["model", "--onnx", "folder"], "folder: cannot be written (Is a directory)"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(
    arguments, message, saved, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    arguments = [str(saved) if argument == "model" else argument for argument in arguments]
    assert message in failure(capsys, *arguments)
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
