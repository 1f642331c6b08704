"""The setting `conv`: which layers it makes, a run with them from start to end, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import xpnet as xn
from xpnet.backend import Backend
from xpnet.cli.train import main as train
from xpnet.config import TrainConfig, make_config
from xpnet.data.dataset import Dataset
from xpnet.errors import ConfigError
from xpnet.runs.factory import build_network
from xpnet.utils.image_layers import image_layer

DIGITS = Dataset(np.zeros((3, 144), np.uint8), np.arange(3), ("0", "1", "2"), image_shape=(12, 12))


def layers_of(**settings: object) -> str:
    network = build_network(TrainConfig(**settings), DIGITS, Backend("cpu"))
    return ", ".join(map(str, network.layers))


@pytest.mark.parametrize(
    "text",
    ["16k5", "16k5s2", "16k5p1", "16k3s2p1g4", "pool", "pool3", "pool3s2", "average", "global"],
)
def test_brief_layers_are_written_as_they_are_read(text: str) -> None:
    assert str(image_layer(text)) == text


def test_the_layers_of_a_setting() -> None:
    assert layers_of(conv=("4k3", "pool", "8k3p1g2", "average"), hidden=(5,), dropout=0.1) == (
        "Unflatten((12, 12)), Conv2d(4, 3, in_channels=1), MaxPool2d(2), ReLU(), "
        "Conv2d(8, 3, padding=1, groups=2, in_channels=4), ReLU(), AveragePool2d(2), Flatten(), "
        "Linear(32, 5), ReLU(), Dropout(0.1), Linear(5, 3)"
    )
    # The largest value of a GELU, which decreases in part, may be another one's.
    assert layers_of(
        conv=("4k3", "pool3s2", "global"), hidden=(), activation=("gelu",), batch_norm=True
    ) == (
        "Unflatten((12, 12)), Conv2d(4, 3, bias=False, in_channels=1), BatchNorm2d(4, 0.1, 1e-05), "
        "GELU(), MaxPool2d(3, stride=2), GlobalAveragePool2d(), Linear(4, 3)"
    )


@pytest.mark.parametrize(
    "text", ["16", "k5", "0k5", "16k0", "16k5g3", "16k5x", "Pool", "", "pool0"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"conv: .*is no layer of images: write 16k5"):
        make_config({"conv": [text]})


def test_no_layers_of_images() -> None:
    assert make_config({"conv": "none"}).conv == make_config({"conv": ""}).conv == ()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="global gives no image, so it comes last"):
        make_config({"conv": ["global", "pool"]})
    with pytest.raises(
        ConfigError, match=r"^conv: 4k9,pool,4k9: .*do not fit into images of 2 x 2"
    ):
        layers_of(conv=("4k9", "pool", "4k9"))
    with pytest.raises(ConfigError, match=r"^conv: 4k3g4: .*4 groups and is given 1"):
        layers_of(conv=("4k3g4",))
    table = Dataset(np.zeros((3, 7)), np.arange(3), ("0", "1", "2"))
    with pytest.raises(ConfigError, match=r"^conv: takes images, and the 7 features"):
        build_network(TrainConfig(conv=("4k3",)), table, Backend("cpu"))


def test_a_run_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--conv", "4k5s2,pool", "--hidden", "16", "--epochs", "2", "--batch-size", "256"]
    assert train([*flags, "--run", "first", "--learning-rate", "0.01"]) == 0
    for name in ("weights.png", "report.html", "model.safetensors"):
        assert (tmp_path / "first" / name).stat().st_size > 0
    assert 'conv = ["4k5s2", "pool"]' in (tmp_path / "first" / "config.toml").read_text()
    network = xn.load("first/model.safetensors")
    assert [str(layer) for layer in network.layers][1] == "Conv2d(4, 5, stride=2, in_channels=1)"
    # The settings of the network are those of the model.
    again = ["--initial-model", "first", "--epochs", "1", "--run", "second", "--no-report"]
    assert train(again) == 0
    assert xn.load("second/model.safetensors").architecture() == network.architecture()
    assert 'conv = ["4k5s2", "pool"]' in (tmp_path / "second" / "config.toml").read_text()
