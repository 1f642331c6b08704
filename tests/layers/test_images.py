"""Layers of images: any windows against PyTorch and ONNX, shapes, orders of axes, and errors."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cases import error

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import CheckpointError, ConfigError, ShapeError
from xpnet.initializers import GlorotNormal, HeNormal
from xpnet.layers import convolution
from xpnet.layers.base import Layer


def in_rows(images: np.ndarray) -> np.ndarray:
    """`(N, H, W, C)` as rows in the order channels, height, width."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def lenet(**options: Any) -> xn.Sequential:
    return xn.Sequential(
        (12, 12),
        xn.Conv2d(4, 3),
        "relu",
        xn.MaxPool2d(2),
        xn.Conv2d(6, 3),
        "relu",
        xn.MaxPool2d(2, 1),
        xn.Flatten(),
        7,
        "tanh",
        3,
        **options,
    )


def images_and_labels(count: int = 40, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((count, 12, 12, channels)), rng.integers(0, 3, count)


# Against PyTorch


def any_shape(seed: int) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The shape of an image and windows that fit into it."""
    rng = np.random.default_rng(seed)

    def pair(low: int, high: int) -> tuple[int, int]:
        return int(rng.integers(low, high)), int(rng.integers(low, high))

    groups = int(rng.choice([1, 1, 2, 3]))
    channels = groups * int(rng.integers(1, 4))
    how = {"kernel_size": pair(1, 5), "stride": pair(1, 4), "padding": pair(0, 4)}
    how |= {"dilation": pair(1, 4), "groups": groups, "bias": bool(rng.integers(2))}
    least = [
        max(1, (k - 1) * d + 1 - 2 * p)
        for k, d, p in zip(how["kernel_size"], how["dilation"], how["padding"], strict=True)
    ]
    height, width = (n + int(rng.integers(0, 9)) for n in least)
    return (height, width, channels), how


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_of_any_shape(seed: int, backend: Backend) -> None:
    shape, how = any_shape(seed)
    out = how["groups"] * (1 + seed % 3)
    network = xn.Sequential(
        [xn.Unflatten(shape), xn.Conv2d(out, **how), xn.Flatten()],
        backend=backend,
        dtype="float64",
        seed=seed,
    )
    module = xn.to_torch(network)
    x = torch.from_numpy(in_rows(np.random.default_rng(seed).standard_normal((3, *shape))))
    x.requires_grad_()
    y = module(x)
    dy = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(tuple(y.shape)))
    y.backward(dy)
    found = network.forward(backend.asarray(x.detach().numpy()), training=True)
    assert error(backend.to_host(found), y.detach()) <= 1e-14
    dx = network.backward(backend.asarray(dy.numpy()), input_gradient=True)
    assert error(backend.to_host(dx), x.grad) <= 1e-14
    peers = dict(module.named_parameters())
    for name, gradient in network.parameter_gradients().items():
        assert error(backend.to_host(gradient), peers[name].grad) <= 1e-13, name


@pytest.mark.parametrize("kind", [xn.MaxPool2d, xn.AveragePool2d])
@pytest.mark.parametrize("seed", range(12))
def test_pooling_of_any_shape(kind: type[Layer], seed: int, backend: Backend) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.integers(1, 5, 2)
    how = {
        "kernel_size": tuple(int(k) for k in kernel),
        "stride": tuple(int(s) for s in rng.integers(1, 5, 2)),
        "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
    }
    shape = (*(int(k + rng.integers(0, 7)) for k in kernel), 3)
    layers = [xn.Unflatten(shape), kind(**how), xn.Flatten()]
    network = xn.Sequential(layers, backend=backend, dtype="float64")
    # Few values, so that windows have several largest ones.
    x = torch.from_numpy(in_rows(rng.integers(-2, 3, (4, *shape)).astype("float64")))
    x.requires_grad_()
    y = xn.to_torch(network)(x)
    dy = rng.standard_normal(tuple(y.shape))
    y.backward(torch.from_numpy(dy))
    found = network.forward(backend.asarray(x.detach().numpy()), training=True)
    assert error(backend.to_host(found), y.detach()) <= 1e-15
    dx = network.backward(backend.asarray(dy), input_gradient=True)
    assert error(backend.to_host(dx), x.grad) <= 1e-14


def test_fifty_steps_agree_with_pytorch(backend: Backend) -> None:
    network = xn.Sequential(
        (12, 12, 2),
        xn.Conv2d(6, 3, bias=False),
        xn.BatchNorm2d(6),
        "relu",
        xn.MaxPool2d(2),
        xn.Residual(xn.Conv2d(6, 3, padding=1, groups=2), "tanh"),
        xn.AveragePool2d(3, 2, 1),
        xn.Flatten(),
        3,
        backend=backend,
        dtype="float64",
    )
    module = xn.to_torch(network).train()
    images, labels = images_and_labels(channels=2)
    theirs = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    ours, loss = xn.SGD(0.05, momentum=0.9), xn.SoftmaxCrossEntropy()
    x, y = torch.from_numpy(in_rows(images)), torch.from_numpy(labels)
    step = xn.TrainStep(network, loss, ours)
    for start in range(50):
        rows = slice(start % 4 * 10, start % 4 * 10 + 10)
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        theirs.step()
        step(images[rows], labels[rows])
    for name, value in module.state_dict().items():
        if name in network.state_dict():
            assert error(backend.to_host(network.state_dict()[name]), value) <= 1e-12, name


def test_a_state_of_pytorch_fits_as_it_is() -> None:
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6, 3),
    ).eval()
    network = xn.from_torch(module, image_shape=(12, 12))
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == [
        *("Unflatten", "Conv2d", "ReLU", "MaxPool2d", "Conv2d", "BatchNorm2d", "ReLU"),
        *("GlobalAveragePool2d", "Dropout", "Linear"),
    ]
    images = images_and_labels()[0].astype("float32")
    with torch.no_grad():
        y = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(network(images), y, atol=1e-5)
    made = nn.Sequential(nn.Unflatten(1, (1, 12, 12)), nn.Conv2d(1, 4, 3), nn.Flatten())
    made.append(nn.Linear(400, 3))
    network = xn.Sequential((12, 12), xn.Conv2d(4, 3), xn.Flatten(), 3)
    network.load_state_dict({name: t.numpy() for name, t in made.state_dict().items()})
    with torch.no_grad():
        y = made(torch.from_numpy(in_rows(images))).numpy()
    np.testing.assert_allclose(network(images), y, atol=1e-5)
    with pytest.raises(ConfigError, match=r"begins with Conv2d.*image_shape=\(height, width, chan"):
        xn.from_torch(module)


# Against the tests of ONNX

OF_ONNX = [
    "basic_conv_with_padding",
    "basic_conv_without_padding",
    "conv_with_strides_no_padding",
    "conv_with_strides_padding",
    "maxpool_2d_default",
    "maxpool_2d_precomputed_pads",
    "maxpool_2d_precomputed_strides",
    "maxpool_2d_strides",
    "averagepool_2d_default",
    "averagepool_2d_precomputed_pads_count_include_pad",
    "averagepool_2d_precomputed_strides",
    "averagepool_2d_strides",
    "globalaveragepool",
    "globalaveragepool_precomputed",
]


@cache
def cases_of_onnx() -> dict[str, Any]:
    """The tests of these nodes: each a model, and what it computes for some inputs."""
    for module in ("conv", "maxpool", "averagepool", "globalaveragepool"):
        import_module(f"onnx.backend.test.case.node.{module}")
    return {case.name: case for case in import_module("onnx.backend.test.case.node")._NodeTestCases}


@pytest.mark.parametrize("name", OF_ONNX)
def test_the_node_tests_of_onnx(name: str) -> None:
    case = cases_of_onnx()[f"test_{name}"]
    (node,), ((inputs, (expected, *_)),) = case.model.graph.node, case.data_sets
    x, *rest = inputs
    how = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    settings = {"stride": tuple(how.get("strides", (1, 1)))}
    pads = how.get("pads", [0, 0, 0, 0])
    assert pads[:2] == pads[2:], "xpnet has the same border on both sides"
    settings["padding"] = tuple(pads[:2])
    layer: Layer
    if node.op_type == "Conv":
        layer = xn.Conv2d(len(rest[0]), rest[0].shape[2:], bias=False, **settings)
    elif node.op_type == "GlobalAveragePool":
        layer = xn.GlobalAveragePool2d()
    else:
        assert node.op_type == "MaxPool" or how.get("count_include_pad", not any(pads))
        kind = xn.MaxPool2d if node.op_type == "MaxPool" else xn.AveragePool2d
        layer = kind(tuple(how["kernel_shape"]), **settings)
    _, channels, height, width = x.shape
    network = xn.Sequential((height, width, channels), layer, xn.Flatten())
    if rest:
        network.load_state_dict({"1.weight": rest[0]})
    np.testing.assert_allclose(
        network(x.reshape(len(x), -1)), expected.reshape(len(x), -1), rtol=1e-5, atol=1e-6
    )


# Blocks, memory, initial values


@pytest.fixture
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backend gathers the windows of a few images at a time, as a CPU does."""
    monkeypatch.setattr(convolution, "Backend", SimpleNamespace(of=lambda _: Backend("cpu")))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.usefixtures("_on_a_cpu")
def test_blocks_of_images_add_up(
    groups: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 7, 5, 5, 4))
    found = []
    for columns in (2**30, 2 * 25 * 9 * 4, 1):
        monkeypatch.setattr(convolution, "COLUMNS", columns)
        layers = (xn.Conv2d(4, 3, padding=1, groups=groups),)
        network = xn.Sequential((5, 5, 4), *layers, backend=backend, dtype="float64", seed=1)
        layer = network.layers[1]
        y = layer.forward(backend.asarray(x), training=True)
        dx = layer.backward(backend.asarray(dy))
        found.append([backend.to_host(a).copy() for a in (y, dx, *layer.gradients.values())])
    # Sums of at most 175 products around 1, cut elsewhere: 175 roundings of 2^-53 and a few more.
    for blocks in found[1:]:
        for one, whole in zip(blocks, found[0], strict=True):
            np.testing.assert_allclose(one, whole, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_on_a_cpu")
def test_blocks_hold_as_many_windows_as_a_megabyte(backend: Backend) -> None:
    layer = xn.Sequential((28, 30, 2), xn.Conv2d(16, (5, 3)), backend=backend).layers[1]
    layer.x = backend.asarray(np.zeros((40, 28, 30, 2), "float32"))
    blocks = layer._blocks(backend.asarray(np.zeros((40, 24, 28, 16), "float32")))
    # 24 x 28 windows of 5 x 3 x 2 numbers of 4 bytes: 13 images are 1.05e6 bytes, 14 too many.
    assert [block.start for block in blocks] == [0, 13, 26, 39]
    assert [len(layer.x[block]) for block in blocks] == [13, 13, 13, 1]


def test_multiply_adds_of_a_convolution(backend: Backend) -> None:
    network = xn.Sequential((6, 7, 2), xn.Conv2d(4, 3, groups=2), backend=backend)
    assert network.layers[1].multiply_adds((6, 7, 2)) == 4 * (3 * 3) * (4 * 5)


def test_blocks_give_what_the_whole_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = images_and_labels()
    found = []
    for columns in (2**30, 2000, 1):
        monkeypatch.setattr(convolution, "COLUMNS", columns)
        network = lenet(dtype="float64")
        xn.fit(network, (images, labels), optimizer="sgd", epochs=2, batch_size=16)
        found.append(network.flat_parameters)
    # Sums of other parts; each of a hundred steps of a sum rounds by 2^-53.
    assert error(found[1], found[0]) <= 1e-13
    assert error(found[2], found[0]) <= 1e-13


def test_windows_take_a_megabyte_at_most() -> None:
    network = xn.Sequential((28, 28), xn.Conv2d(16, 5), "relu", xn.Conv2d(32, 5), xn.Flatten(), 10)
    x = np.random.default_rng(0).standard_normal((256, 784)).astype("float32")
    network.backward(network.forward(x, training=True).copy())
    for layer in (network.layers[1], network.layers[3]):
        memory = layer.workspace._memory
        for (_, name), array in memory.items():
            if name in ("columns", "entries"):
                # One image has to fit.
                one = math.prod(layer.output_shape(layer.x.shape[1:])[:2]) * 25 * layer.in_channels
                assert array.nbytes <= max(2**20, 4 * one), name


def test_initial_weights_have_the_fans_of_a_window() -> None:
    for draw, fans in ((HeNormal(), 9 * 8 / 2), (GlorotNormal(), (9 * 8 + 9 * 64) / 2)):
        layer = xn.Conv2d(64, 3, weight_initializer=draw)
        network = xn.Sequential([xn.Unflatten((9, 9, 8)), layer, xn.Flatten(), xn.Linear(3136, 2)])
        weight = network.parameters()["1.weight"]
        assert weight.shape == (64, 8, 3, 3)
        # 4,608 normal numbers: their deviation is known to 1 %, three times of which are 4 %.
        assert weight.std() == pytest.approx(fans**-0.5, rel=0.04)


def test_a_network_of_images_is_trained_saved_and_resumed(tmp_path: Path) -> None:
    images, labels = images_and_labels(200)
    for label in range(3):  # a band of brighter pixels
        images[labels == label, 4 * label : 4 * label + 4] += 1
    network = lenet(seed=1)
    history = xn.fit(network, (images, labels), optimizer="adam", epochs=30, batch_size=20)
    assert history.records[-1].accuracy > 0.9
    xn.save(network, tmp_path / "model.safetensors")
    again = xn.load(tmp_path / "model.safetensors")
    assert again.architecture() == network.architecture()
    assert np.array_equal(again(images), network(images))
    assert np.array_equal(again(in_rows(images)), network(images))
    assert np.array_equal(again(images[..., 0]), network(images))
    # Predictions are computed in blocks; products of other shapes round differently.
    many = np.concatenate([images] * 5)
    np.testing.assert_allclose(again(many)[:200], network(images), rtol=1e-4, atol=1e-5)
    part = network[:4]
    assert part(images).shape == (200, 5, 5, 4)
    assert "(N, 5, 5, 4)" in part.summary()
    with pytest.raises(ConfigError, match=r"gives images \(5, 5, 4\), which are not class"):
        part.predict(images)
    with pytest.raises(ConfigError, match=r"gives images \(5, 5, 4\), and a loss takes rows"):
        xn.fit(part, (images, labels), optimizer="adam", epochs=1)


def test_dropout_of_channels_drops_whole_channels(backend: Backend) -> None:
    layer = xn.Dropout2d(0.25)
    ones = backend.asarray(np.ones((400, 3, 2, 5), "float32"))
    y = backend.to_host(layer.forward(ones, training=True))
    kept = y[:, 0, 0] != 0
    assert (y == kept[:, None, None] * np.float32(1 / 0.75)).all()
    assert abs(kept.mean() - 0.75) < 4 * (0.75 * 0.25 / kept.size) ** 0.5
    assert layer.forward(ones, training=False) is ones


def test_the_first_of_equal_values_gets_the_gradient(backend: Backend) -> None:
    layer = xn.MaxPool2d((2, 3))
    ones = backend.asarray(np.ones((1, 2, 3, 1)))
    layer.forward(ones, training=True)
    dx = backend.to_host(layer.backward(backend.asarray(np.full((1, 1, 1, 1), 5.0))))
    assert dx[0, :, :, 0].tolist() == [[5, 0, 0], [0, 0, 0]]
    x = np.ones((1, 2, 3, 1))
    x[0, 1, 1, 0] = np.nan
    assert np.isnan(backend.to_host(layer.forward(backend.asarray(x), training=True))).all()


def test_large_images_are_predicted_in_small_blocks() -> None:
    network = xn.Sequential((32, 32, 3), xn.Conv2d(32, 3), "relu", xn.Flatten(), 10)
    assert network.prediction_rows == 2**22 // (30 * 30 * 32)
    assert xn.Sequential(784, 512, 10).prediction_rows == 768
    x = np.random.default_rng(0).standard_normal((300, 3072)).astype("float32")
    parts = np.concatenate([network(x[:145]), network(x[145:290]), network(x[290:])])
    np.testing.assert_allclose(network(x), parts, rtol=1e-4, atol=1e-5)


def test_augmentation_takes_the_images_that_the_network_takes() -> None:
    rng = np.random.default_rng(0)

    class Seen(xn.Augmentation):
        def begin(self, image_shape: tuple[int, int], seed: int) -> None:
            shapes.append(image_shape)
            super().begin(image_shape, seed)

    def fit(network: xn.Sequential, x: np.ndarray) -> None:
        data = (x, np.arange(len(x)) % 2)
        xn.fit(network, data, optimizer="sgd", epochs=1, augmentation=Seen(shift=1.0))

    shapes: list[tuple[int, int]] = []
    one = xn.Sequential((4, 9), xn.Conv2d(2, 3), xn.Flatten(), 2)
    fit(one, rng.random((8, 36)))
    fit(one, rng.random((8, 4, 9, 1)))
    fit(xn.Sequential(36, 2), rng.random((8, 4, 9, 1)))
    fit(xn.Sequential(36, 2), rng.random((8, 36)))
    assert shapes == [(4, 9), (4, 9), (4, 9), (6, 6)]
    four = xn.Sequential((8, 8, 4), xn.Conv2d(2, 3), xn.Flatten(), 2)
    for network, x in (
        (four, (8, 256)),
        (four, (8, 8, 8, 4)),
        (xn.Sequential(256, 2), (8, 8, 8, 4)),
    ):
        with pytest.raises(ConfigError, match="images of one channel, and these have 4"):
            fit(network, rng.random(x))


def test_a_low_image_of_many_channels_is_what_the_network_says() -> None:
    network = xn.Sequential((3, 9, 8), xn.Conv2d(2, 3), xn.Flatten(), 2)
    x, labels = np.random.default_rng(0).random((6, 3, 9, 8)), np.arange(6) % 2
    xn.fit(network, (x, labels), optimizer="sgd", epochs=1)
    held = xn.DeviceData(x, labels, backend="cpu", dtype="float32", image_shape=(3, 9, 8))
    assert np.array_equal(held.whole()[0], in_rows(x).astype("float32"))
    assert (held.image_shape, held.channels) == ((3, 9), 8)
    with pytest.raises(ConfigError, match="channels of image_shape"):
        xn.DeviceData(x, labels, backend="cpu", dtype="float32", image_shape=(3, 9, 0))


def test_other_layouts_of_as_many_values_are_refused() -> None:
    network = xn.Sequential((20, 28, 3), xn.Conv2d(2, 3), xn.Flatten(), 2)
    labels = np.arange(2)
    for shape in ((2, 28, 20, 3), (2, 60, 28), (2, 20, 84, 1)):
        x = np.zeros(shape)
        says = r"takes images \(N, 20, 28, 3\), or rows \(N, 1680\) in the order channels, height"
        with pytest.raises(ShapeError, match=says):
            network(x)
        with pytest.raises(ShapeError, match=says):
            xn.fit(network, (x, labels), optimizer="sgd", epochs=1)
    behind = [xn.GaussianNoise(0.1), xn.Unflatten((4, 4, 3)), xn.Conv2d(2, 3), xn.Flatten()]
    for network in (xn.Sequential(behind), xn.Sequential([xn.Sequential((4, 4, 3), xn.Flatten())])):
        assert network.image_shape == (4, 4, 3)
        with pytest.raises(ShapeError, match=r"which is \(N, channels, height, width"):
            network(np.zeros((2, 3, 4, 4)))


def test_a_layer_learns_its_channels_only_from_the_network_that_it_joins() -> None:
    layer = xn.Conv2d(4, 5)
    with pytest.raises(ShapeError, match="do not fit into images of 3 x 3"):
        xn.Sequential((3, 3), layer)
    with pytest.raises(ShapeError, match=r"layer 2: .*put Flatten"):
        xn.Sequential((9, 9), layer, xn.Linear(100, 2))
    network = xn.Sequential((8, 8, 3), layer, xn.Flatten(), 2)
    assert layer.in_channels == 3
    with pytest.raises(ShapeError, match="takes 3 channels and is given 1"):
        layer.output_shape((8, 8, 1))
    assert network.layers[1].copy().output_shape((8, 8, 3)) == (4, 4, 4)


def test_a_gradient_of_another_number_of_samples_is_refused() -> None:
    layer = xn.Sequential((8, 8), xn.Conv2d(4, 3)).layers[1]
    layer.forward(np.zeros((9, 8, 8, 1), "float32"), training=True)
    with pytest.raises(ShapeError, match=r"dy has 5 samples, .* had 9"):
        layer.backward(np.zeros((5, 6, 6, 4), "float32"))


def test_one_pixel_is_too_few_for_the_last_batch() -> None:
    layers = [xn.Unflatten((3, 3, 3)), xn.Conv2d(4, 3), xn.BatchNorm2d(4), xn.Flatten()]
    network = xn.Sequential([*layers, xn.Linear(4, 2)])
    before = network.flat_parameters.copy()
    data = np.random.default_rng(0).random((5, 27)), np.arange(5) % 2
    with pytest.raises(ConfigError, match="5 samples in batches of 4 leave 1 over"):
        xn.fit(network, data, optimizer="sgd", epochs=1, batch_size=4)
    assert np.array_equal(network.flat_parameters, before)


# Shapes and errors


def test_channels_stand_last() -> None:
    network = xn.Sequential((4, 5, 3), xn.Conv2d(2, 3), xn.Flatten(), 2)
    assert network.image_shape == (4, 5, 3)
    assert network.in_features == 60
    x = np.random.default_rng(0).standard_normal((6, 4, 5, 3)).astype("float32")
    assert np.array_equal(network(x), network(in_rows(x)))
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    says = r"shape \(6, 3, 4, 5\), which is \(N, channels, height, width\): .*transpose\(0, 2, 3, 1"
    labels = np.arange(6) % 2
    for call in (
        lambda: network(first),
        lambda: xn.fit(network, (first, labels), optimizer="sgd", epochs=1),
        lambda: xn.Sequential(60, 2)(np.ones((6, 3, 4, 5))),
    ):
        with pytest.raises(ShapeError, match=says):
            call()
    with pytest.raises(ShapeError, match=says):
        xn.fit(network, (first.tolist(), labels), optimizer="sgd", epochs=1)
    x[2, 1, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"x\[2, 1, 3, 0\] is NaN"):
        network(x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: xn.Sequential((28, 28), 10), r"layer 1: 10 stands for a Linear.*Flatten\(\)"),
        (
            lambda: xn.Sequential((28, 28), xn.Linear(784, 10)),
            r"layer 1: Linear\(784, 10\) takes rows .* images \(28, 28, 1\): put Flatten\(\)",
        ),
        (lambda: xn.Sequential((28, 28), xn.Softmax()), r"Softmax\(\) takes rows"),
        (lambda: xn.Sequential((28, 28), xn.LayerNorm(28)), r"LayerNorm\(.*\) takes rows"),
        (
            lambda: xn.Sequential((9, 9), xn.BatchNorm(9)),
            r"BatchNorm\(.*\) takes rows .*take BatchNorm2d\(1\), which normalises images, or put",
        ),
        (lambda: xn.Sequential((9, 9), xn.BatchNorm2d(3)), r"takes 3 channels and is given 1"),
        (lambda: xn.Sequential(784, xn.Conv2d(4, 3)), r"layer 0: Conv2d\(4, 3\) takes images and"),
        (lambda: xn.Sequential(784, xn.MaxPool2d(2)), r"MaxPool2d\(2\) takes images and is given"),
        (lambda: xn.Sequential([xn.Conv2d(4, 3)]), r"layer 0: .*does not say of which size"),
        (lambda: xn.Sequential((4, 9), xn.Conv2d(4, 5)), r"5 x 5 pixels, .* images of 4 x 9:"),
        (
            lambda: xn.Sequential((4, 9), xn.Conv2d(4, 3, padding=1, dilation=4)),
            r"9 x 9 pixels, which do not fit into images of 4 x 9 with a border of 1",
        ),
        (lambda: xn.Sequential((4, 4), xn.MaxPool2d(5)), r"5 x 5 pixels"),
        (lambda: xn.Sequential((4, 4), xn.Conv2d(4, 3, groups=2)), r"2 groups and is given 1 cha"),
        (
            lambda: xn.Sequential((4, 4), xn.Conv2d(4, 3, in_channels=2)),
            r"takes 2 channels and is given 1: leave in_channels out",
        ),
        (
            lambda: xn.Sequential((5, 5), xn.Residual(xn.Conv2d(1, 3))),
            r"takes images \(5, 5, 1\) and its layers give images \(3, 3, 1\)",
        ),
        (lambda: xn.Sequential([xn.Unflatten((2, 2)), xn.Unflatten((2, 2))]), r"takes 4 features"),
    ],
)
def test_layers_that_do_not_fit(make: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: xn.Sequential((4, 4, 3), xn.Conv2d(2, 3)).layers[1],
        lambda: xn.Sequential((4, 4, 3), xn.BatchNorm2d(3)).layers[1],
        lambda: xn.MaxPool2d(2),
        lambda: xn.AveragePool2d(2),
        lambda: xn.GlobalAveragePool2d(),
        lambda: xn.Dropout2d(0.5),
    ],
)
def test_a_layer_of_images_that_is_called_refuses_rows(make: Any) -> None:
    layer = make()
    with pytest.raises(ShapeError, match=rf"^{layer.__class__.__name__}\(.* given 48 features: "):
        layer.forward(np.zeros((6, 48), "float32"), training=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: xn.Conv2d(0, 3), "out_channels of Conv2d"),
        (lambda: xn.Conv2d(4, 0), "kernel_size of Conv2d .* above 0, or two"),
        (lambda: xn.Conv2d(4, (3, 3, 3)), "kernel_size of Conv2d"),
        (lambda: xn.Conv2d(4, 3, stride=0), "stride of Conv2d"),
        (lambda: xn.Conv2d(4, 3, padding=-1), "padding of Conv2d .* of 0 or more"),
        (lambda: xn.Conv2d(4, 3, dilation=2.5), "dilation of Conv2d"),
        (lambda: xn.Conv2d(4, 3, groups=3), "out_channels of Conv2d must be a multiple of groups"),
        (lambda: xn.Conv2d(4, 3, groups=2, in_channels=3), "in_channels of Conv2d must be a mult"),
        (lambda: xn.Conv2d(4, 3, bias=1), "bias of Conv2d must be True or False"),
        (lambda: xn.Conv2d(4, 3, in_channels=0), "in_channels of Conv2d"),
        (lambda: xn.Conv2d(4, 3, weight_initializer=HeNormal), "weight_initializer of Conv2d"),
        (lambda: xn.Conv2d(4, 3).parameters(), "in_channels of .* not known before"),
        (lambda: xn.Conv2d(4, 3, padding="SAME"), '"same" or "valid", found \'SAME\''),
        (lambda: xn.Conv2d(4, 3, stride=2, padding="same"), "needs a stride of 1, found 2"),
        (lambda: xn.Conv2d(4, (3, 4), padding="same"), r"kernel of \(3, 4\) and a dilation of 1"),
        (lambda: xn.MaxPool2d(0), "kernel_size of MaxPool2d"),
        (lambda: xn.MaxPool2d(2, padding=2), "padding of MaxPool2d must be at most half"),
        (lambda: xn.AveragePool2d(2, stride=(1, 0)), "stride of AveragePool2d"),
        (lambda: xn.Unflatten(28), "image_shape of Unflatten"),
        (lambda: xn.Unflatten((28, 0)), "image_shape of Unflatten"),
        (
            lambda: xn.Sequential((3, 32, 32), xn.Conv2d(4, 3)),
            r"looks like \(channels, .* write \(32, 32, 3\)",
        ),
        (lambda: xn.Dropout2d(1.0), "rate of Dropout2d"),
        (lambda: xn.BatchNorm2d(3, momentum=0.0), "momentum of BatchNorm2d"),
        (lambda: xn.Sequential(784, (28, 28)), "takes whole numbers above 0"),
    ],
)
def test_settings_out_of_range(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("name", ["same", "valid"])
def test_padding_by_name_is_pytorch_s(backend: Backend, name: str) -> None:
    module = torch.nn.Conv2d(2, 3, (3, 4), padding=name, dilation=(1, 2)).double()
    network = xn.from_torch(
        torch.nn.Sequential(torch.nn.Unflatten(1, (2, 9, 8)), module, torch.nn.Flatten()).double(),
        device=backend,
    )
    assert network.layers[1].padding == ((1, 3) if name == "same" else 0)  # type: ignore[attr-defined]
    x = np.random.default_rng(1).standard_normal((5, 2 * 9 * 8))
    expected = module(torch.from_numpy(x.reshape(5, 2, 9, 8))).detach().numpy().reshape(5, -1)
    found = backend.to_host(network.forward(backend.asarray(x)))
    # 24 products of numbers around 1: a sum of 24 roundings of 1e-16.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_what_the_layers_are_called() -> None:
    made = lenet()
    assert str(made.layers[1]) == "Conv2d(4, 3, in_channels=1)"
    assert str(xn.Conv2d(4, (3, 3), stride=2, padding=(0, 1), groups=2, bias=False)) == (
        "Conv2d(4, 3, stride=2, padding=(0, 1), groups=2, bias=False)"
    )
    assert str(xn.MaxPool2d((2, 2))) == "MaxPool2d(2)"
    assert str(xn.AveragePool2d((2, 3), 1, (1, 0))) == (
        "AveragePool2d((2, 3), stride=1, padding=(1, 0))"
    )


@pytest.mark.parametrize("value", [[3], [1, 2, 3, 4], [1, "2"], [1.5, 2], [True, [2]]])
def test_a_file_with_other_settings_is_refused(value: Any) -> None:
    made = xn.Sequential((9, 9), xn.Conv2d(2, (3, 2)), xn.Flatten()).architecture()
    assert made[1]["kernel_size"] == [3, 2] or made[1]["kernel_size"] == (3, 2)
    made[1]["kernel_size"] = value
    with pytest.raises(CheckpointError, match="layer 1"):
        xn.Sequential.from_architecture(made)


def test_one_image_is_a_batch_unless_it_is_one_pixel(backend: Backend) -> None:
    for shape in ((1, 2), (2, 1), (2, 2), (1, 1)):
        layer = xn.Sequential((*shape, 3), xn.BatchNorm2d(3), backend=backend).layers[1]
        assert layer.needs_two == (shape == (1, 1))
        x = backend.asarray(np.ones((1, *shape, 3), "float32"))
        if not layer.needs_two:
            assert layer.forward(x, training=True).shape == x.shape


def test_a_single_image_may_be_normalised() -> None:
    network = xn.Sequential((4, 4), xn.BatchNorm2d(1), xn.Flatten(), 2)
    x, labels = np.random.default_rng(0).standard_normal((5, 16)), np.arange(5) % 2
    xn.fit(network, (x, labels), optimizer="sgd", epochs=1, batch_size=4)
    network = xn.Sequential((1, 1), xn.BatchNorm2d(1), xn.Flatten(), 2)
    with pytest.raises(ConfigError, match="BatchNorm2d cannot train on one image of one pixel"):
        network.forward(x[:1, :1], training=True)


def test_a_network_that_gives_images_goes_to_no_onnx_file(tmp_path: Path) -> None:
    network = xn.Sequential((9, 9), xn.Conv2d(2, 3))
    with pytest.raises(ConfigError, match=r"gives images \(7, 7, 2\).*end it with Flatten\(\)"):
        xn.export_onnx(network, tmp_path / "network.onnx")
