"""The feature maps in the report of a run."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
from html_tree import part, tree, words
from PIL import Image

import xpnet as xn
from xpnet.cli.train import main as train
from xpnet.data.dataset import Dataset
from xpnet.report.feature_maps import feature_map_values


def test_feature_maps_are_outputs_of_the_layers() -> None:
    network = xn.Sequential(
        (12, 10), xn.Conv2d(3, 3), xn.ReLU(), xn.Residual(xn.Conv2d(3, 3, padding=1)),
        xn.MaxPool2d(2), xn.Flatten(), 4, seed=2,
    )  # fmt: skip
    network.metadata["normalisation"] = {"scale": 1 / 255, "shift": -0.5}
    x = np.random.default_rng(0).integers(0, 256, (3, 120), np.uint8)
    data = Dataset(x, None, tuple("abcd"), (12, 10))
    first, second = feature_map_values(network, data)
    assert first["layers"] == "Conv2d(3, 3, in_channels=1), ReLU()"
    assert second["layers"].startswith("Residual(Conv2d(3, 3, padding=1, in_channels=3)), MaxPool")
    assert (first["shape"], second["shape"]) == ((10, 8, 3), (5, 4, 3))
    maps = network[:3].forward(x[:1] / 255 - 0.5)[0]
    expected = (maps - maps.min()) * (255 / (maps.max() - maps.min()))
    assert len(first["images"]) == 3
    for channel, uri in enumerate(first["images"]):
        found = np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))))
        assert found.shape == (10, 8)
        assert np.abs(found - expected[..., channel]).max() <= 1  # whole grey levels


def test_a_network_without_convolutions_has_no_feature_maps() -> None:
    data = Dataset(np.zeros((1, 4), np.uint8), None, ("0", "1"), (2, 2))
    assert feature_map_values(xn.Sequential(4, 2), data) == []


def test_a_run_with_convolutions_shows_them(tmp_path: Path) -> None:
    flags = ["--conv", "70k5s2,pool", "--hidden", "8", "--epochs", "1", "--batch-size", "512"]
    assert train([*flags, "--run", str(tmp_path / "run")]) == 0
    section = part(tree((tmp_path / "run" / "report.html").read_bytes()), "Feature maps")
    assert "64 of 70 channels of 6 × 6" in words(section)
    assert len(list(section.iter("img"))) == 1 + 64  # with the sample itself
