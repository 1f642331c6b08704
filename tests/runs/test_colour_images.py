"""Colour images from files through training, prediction and report, and what they refuse."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_tree import tree
from PIL import Image

import xpnet as xn
from xpnet.cli.export import main as export
from xpnet.cli.predict import main as predict
from xpnet.cli.train import main as train
from xpnet.config import TrainConfig
from xpnet.data import Dataset, Normalisation, load_dataset
from xpnet.errors import CheckpointError, ConfigError
from xpnet.figures import plots
from xpnet.report.files import report_again
from xpnet.runs.factory import build_augmentation, prediction_metadata
from xpnet.runs.model import Model
from xpnet.utils.channels import as_images, as_rows, visible

FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
FLAGS = ["--conv", "4k3,pool", "--hidden", "8", "--epochs", "1", "--batch-size", "10"]


def plain_images(seed: int, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Plain images `(count, 32, 32, 3)`, red for class 3, green for class 5; and labels."""
    labels = np.array([3, 5] * (count // 2), np.uint8)
    x = np.random.default_rng(seed).integers(0, 60, (count, 32, 32, 3), dtype=np.uint8)
    x[labels == 3, :, :, 0] += 180
    x[labels == 5, :, :, 1] += 180
    return x, labels


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CIFAR-10, and a run on it."""
    folder = tmp_path_factory.mktemp("colour")
    (folder / "cifar").mkdir()
    for seed, name in enumerate(FILES):
        x, labels = plain_images(seed)
        rows = np.concatenate([labels[:, None], x.transpose(0, 3, 1, 2).reshape(20, -1)], axis=1)
        (folder / "cifar" / name).write_bytes(rows.tobytes())
    assert train(["--dataset", str(folder / "cifar"), *FLAGS, "--run", str(folder / "run")]) == 0
    return folder


def colours_of(image: Image.Image) -> tuple[bool, bool]:
    """Whether there is a reddish, and a greenish pixel."""
    levels = np.asarray(image.convert("RGB")).astype(int)
    red, green = (levels[..., i] - levels[..., 1 - i] for i in (0, 1))
    return bool((red > 100).any()), bool((green > 100).any())


@pytest.mark.slow
def test_the_run_describes_and_draws_colour(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model.load(workdir / "run")
    assert (model.image_shape, model.as_read, model.pixels) == ((32, 32, 3), True, True)
    assert model.network.image_shape == (32, 32, 3)
    assert "centred" not in model.network.metadata
    assert colours_of(Image.open(workdir / "run" / "sample_predictions.png")) == (True, True)
    page = tree((workdir / "run" / "report.html").read_bytes())
    sources = [image.get("src") or "" for image in page.iter("img")]
    shown = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources
    ]
    of_samples = [image for image in shown if image.size == (32, 32)]
    assert of_samples
    assert {image.mode for image in of_samples} == {"RGB"}
    assert "--html" not in " ".join(page.itertext())
    capsys.readouterr()
    report_again(workdir / "run")


def test_the_lines_of_a_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", str(workdir / "cifar"), *FLAGS, "--no-report"]
    assert train([*flags, "--run", str(workdir / "again")]) == 0
    out = capsys.readouterr().out
    assert "cifar: 3072 features (32×32×3) uint8" in out
    assert "Unflatten((32, 32, 3))" in out


@pytest.mark.parametrize("size", [(32, 32), (50, 40)], ids=["same size", "resized"])
def test_an_image_is_predicted_in_the_order_of_the_rows(
    workdir: Path, size: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, _ = plain_images(5)
    image = Image.fromarray(x[0]).resize(size, Image.Resampling.NEAREST)
    image.save(tmp_path / "a.png")
    assert predict([str(workdir / "run"), str(tmp_path / "a.png"), "--top", "10"]) == 0
    line = capsys.readouterr().out.strip()
    resized = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    model = Model.load(workdir / "run")
    p = model.probabilities(resized.transpose(2, 0, 1).reshape(1, -1))[0]
    best = int(p.argmax())
    assert line.startswith(f"{tmp_path / 'a.png'}  {model.classes[best]}  {100 * p[best]:.1f} %")


def test_samples_of_files_are_predicted(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, labels = plain_images(5)
    np.savez(tmp_path / "a.npz", x=x, y=labels)
    files = [str(workdir / "cifar" / "test_batch.bin"), str(tmp_path / "a.npz")]
    assert predict([str(workdir / "run"), *files]) == 0
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 42
    assert lines[:21] == lines[21:]
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 48, 64), np.uint8))
    assert predict([str(workdir / "run"), str(tmp_path / "a.npz")]) == 2
    error = capsys.readouterr().err
    assert "images of 48 x 64 pixels, the model was trained on 32 x 32 pixels of 3 ch" in error


def test_what_takes_one_channel_refuses_colour(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar = str(workdir / "cifar")
    flags = ["--dataset", cifar, "--hidden", "4", "--epochs", "1", "--run", str(tmp_path / "run")]
    assert train([*flags, "--augment-shift", "1"]) == 2
    error = capsys.readouterr().err
    assert "augment_shift: changes images of one channel, and those of" in error
    assert "have 3: leave augment_shift out" in error
    # A dense network does not know the shape of its images.
    assert train([*flags, "--no-report"]) == 0
    for run in (tmp_path / "run", workdir / "run"):
        capsys.readouterr()
        assert export([str(run), "--html", str(tmp_path / "a.html")]) == 2
        assert "takes images of 3 channels, and a drawing has one" in capsys.readouterr().err


def test_a_model_of_grey_image_files_gets_them_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark on light, which a model of drawings would get inverted."""
    draw = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "data" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        levels = draw.integers(200, 256, (8, 8), dtype=np.uint8)
        levels[2:6, 1 + 4 * (number % 2)] = 0
        Image.fromarray(levels).save(folder / f"{number}.png")
    flags = ["--hidden", "8", "--epochs", "1", "--run", str(tmp_path / "run"), "--no-report"]
    assert train(["--dataset", str(tmp_path / "data"), *flags]) == 0
    model = Model.load(tmp_path / "run")
    assert (model.image_shape, model.as_read) == ((8, 8), True)
    capsys.readouterr()
    path = tmp_path / "data" / "left" / "0.png"
    assert predict([str(tmp_path / "run"), str(path), "--top", "2"]) == 0
    p = model.probabilities(np.asarray(Image.open(path)).reshape(1, -1))[0]
    best = int(p.argmax())
    assert f"  {model.classes[best]}  {100 * p[best]:.1f} %" in capsys.readouterr().out


# The parts


COLOUR = Dataset(np.zeros((4, 24), np.uint8), np.arange(4) % 2, ("a", "b"), (2, 4, 3))


def test_metadata_of_colour_images_say_nothing_of_centring() -> None:
    assert prediction_metadata(TrainConfig(), COLOUR) == {}
    assert prediction_metadata(TrainConfig(), COLOUR, as_read=True) == {"as_read": True}
    assert build_augmentation(TrainConfig(), COLOUR) is None
    with pytest.raises(ConfigError, match=r"augment_scale: changes images of one channel, .* 3: "):
        build_augmentation(TrainConfig(augment_scale=0.1), COLOUR)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("image_shape", [2, 4, 3], (2, 4, 3)),
        ("image_shape", [4, 6, 1], (4, 6)),
        ("image_shape", [2, 4, 4], None),
        ("image_shape", [2, 2, 2, 3], None),
        ("image_shape", [-2, -4, 3], None),
        ("as_read", 1, None),
    ],
)
def test_the_shape_in_a_file_of_a_model(
    tmp_path: Path, field: str, value: Any, expected: Any
) -> None:
    network = xn.Sequential([xn.Linear(24, 2)])
    network.metadata = {field: value}
    xn.save(network, tmp_path / "a.safetensors")
    if expected is not None:
        assert Model.load(tmp_path / "a.safetensors").image_shape == expected
        return
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: {field} is .*, expected"):
        Model.load(tmp_path / "a.safetensors")


def test_an_initial_model_of_other_channels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = xn.Sequential([xn.Linear(24, 2)])
    network.metadata = {"image_shape": [4, 6], "classes": ["0", "1"], "pixels": True}
    xn.save(network, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 2, 4, 3), np.uint8), y=np.arange(20) % 2)
    flags = ["--dataset", str(tmp_path / "a.npz"), "--run", str(tmp_path / "run")]
    assert train([*flags, "--initial-model", str(tmp_path / "a.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "takes images of 4 x 6 pixels, and those of" in error
    assert "have 2 x 4 pixels of 3 channels" in error


def test_images_have_one_scale_for_all_channels(tmp_path: Path) -> None:
    x, y = plain_images(0)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    how = Normalisation.standard(load_dataset(tmp_path / "a.npz").train)
    assert how.by_feature is False
    assert how.apply(x).std() == pytest.approx(1, abs=1e-4)


def test_rows_become_the_images_that_they_were_made_of() -> None:
    x = np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    np.testing.assert_array_equal(as_images(as_rows(x, None, "x"), (3, 4, 3)), x)
    np.testing.assert_array_equal(as_images(x[..., 0].reshape(2, -1), (3, 4)), x[..., 0])


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_channels_can_be_shown(tmp_path: Path, channels: int, dtype: type[Any]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, channels)).astype(dtype)
    seen = visible(images)
    assert seen.dtype == dtype
    expected = images.mean(axis=3).astype(dtype) if channels == 2 else images[..., :3]
    np.testing.assert_array_equal(seen, expected)
    p, labels = np.full((3, 2), 0.5), np.zeros(3, int)
    axes = plots._samples_figure(images, p, labels, ("a", "b")).axes[0]
    drawn = np.asarray(axes.get_images()[0].get_array())
    assert drawn.shape == seen.shape[1:]
    if channels > 2:
        scaled = (seen - seen.min()) / np.ptp(seen) if dtype is np.float32 else seen
        np.testing.assert_allclose(drawn, scaled[0], atol=1e-6)
