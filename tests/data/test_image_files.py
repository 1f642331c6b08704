"""Images as people have them: of the network's own size, of many bits, of other formats."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from drawings import drawing, png
from PIL import Image, ImageDraw

import xpnet as xn
from xpnet.cli import predict
from xpnet.config import TrainConfig
from xpnet.data import Dataset, load_dataset
from xpnet.data.images import is_centred, prepare, read_image
from xpnet.errors import CheckpointError, DataError
from xpnet.runs.factory import prediction_metadata
from xpnet.serialization import save


def strokes(seed: int, place: tuple[int, int] = (20, 20)) -> Image.Image:
    """A few connected lines on a page of 280 x 280, in one corner of it."""
    draw = numpy.random.default_rng(seed)
    points = draw.integers(0, 110, (5, 2)) + place
    image = Image.new("L", (280, 280), 250)
    ImageDraw.Draw(image).line([tuple(map(int, p)) for p in points], fill=10, width=14)
    return image


def centre(image: numpy.ndarray) -> tuple[float, float]:
    levels = image.astype(float)
    rows, columns = numpy.indices(levels.shape)
    return (levels * rows).sum() / levels.sum(), (levels * columns).sum() / levels.sum()


def write(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("filter", [Image.Resampling.LANCZOS, Image.Resampling.BOX])
def test_a_drawing_scaled_to_28_is_centred_like_the_drawing(
    seed: int, filter: Image.Resampling
) -> None:
    big = strokes(seed)
    small = prepare(big.resize((28, 28), filter))
    expected = prepare(big)
    assert centre(small) == pytest.approx((14, 14), abs=1)
    # The same drawing, as far as 28 pixels could hold it.
    likeness = numpy.corrcoef(small.ravel(), expected.ravel())[0, 1]
    assert likeness > 0.8


def test_all_digits_of_mnist_are_left_as_they_are() -> None:
    for image in load_dataset("digits").train.x.reshape(-1, 28, 28):
        assert is_centred(image)
    inverted = Image.fromarray(255 - image)
    numpy.testing.assert_array_equal(prepare(inverted), image)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: numpy.roll(p, 3, axis=1), "off its middle"),
        (lambda p: numpy.pad(p[::2, ::2], 7), "half as large"),
        (lambda p: p // 2 + 100, "on grey"),
    ],
)
def test_what_does_not_stand_as_mnist_is_no_digit_of_it(change: Any, reason: str) -> None:
    image = load_dataset("digits").train.x[0].reshape(28, 28)
    assert is_centred(image)
    assert not is_centred(change(image)), reason
    assert not is_centred(numpy.zeros((28, 28), numpy.uint8))


def test_a_network_of_other_images_gets_them_as_they_are(tmp_path: Path) -> None:
    draw = numpy.random.default_rng(0)
    garments = draw.integers(0, 256, (40, 784)).astype(numpy.uint8)
    digits = load_dataset("digits").train
    for data, centred in ((Dataset(garments, None, (), (28, 28)), False), (digits, True)):
        assert prediction_metadata(TrainConfig(), data) == {"centred": centred}
    path = write(tmp_path, "a.png", strokes(1).resize((28, 28)))
    stored = 255 - numpy.asarray(Image.open(path))
    numpy.testing.assert_array_equal(read_image(path, centred=False), stored)
    assert (read_image(path) != stored).any()


def deep(bits: int, top: float = 1.0) -> numpy.ndarray:
    """A drawing with levels of so many bits."""
    levels = numpy.asarray(drawing()).astype(numpy.float64) / 255
    return levels * top * (2**bits - 1)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("top", [1.0, 0.6])
def test_levels_of_few_bits_in_16_are_stretched(
    tmp_path: Path, name: str, bits: int, top: float
) -> None:
    path = write(tmp_path, name, Image.fromarray(deep(bits, top).astype(numpy.uint16)))
    expected = prepare(drawing())
    assert numpy.abs(read_image(path).astype(int) - expected).max() <= 4


@pytest.mark.parametrize(
    "levels",
    [deep(12).astype(numpy.int32), deep(12).astype(numpy.int32) - 500, deep(8).astype(">u2")]
    + [deep(bits).astype(numpy.float32) for bits in (1, 8, 12)]
    + [deep(1).astype(numpy.float32) - 0.5],
)
def test_other_kinds_of_levels_are_stretched(tmp_path: Path, levels: numpy.ndarray) -> None:
    path = write(tmp_path, "a.tiff", Image.fromarray(levels))
    assert numpy.abs(read_image(path).astype(int) - prepare(drawing())).max() <= 4


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
def test_levels_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    levels = deep(8).astype(numpy.float32)
    levels[3, 3] = value
    path = write(tmp_path, "a.tif", Image.fromarray(levels))
    with pytest.raises(DataError, match=r"a\.tif cannot be read as an image: .*not finite"):
        read_image(path)


@pytest.mark.parametrize("dtype", [numpy.uint16, numpy.float32])
def test_a_blank_page_of_many_bits_is_blank(tmp_path: Path, dtype: Any) -> None:
    noise = numpy.random.default_rng(0).integers(60_000, 60_900, (50, 40))
    path = write(tmp_path, "a.tif", Image.fromarray(noise.astype(dtype)))
    with pytest.raises(DataError, match="blank"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.bmp", "RGB", {}),
        ("a.bmp", "1", {}),
        ("a.gif", "L", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.webp", "RGB", {"quality": 90}),
        ("a.tif", "L", {}),
        ("a.tiff", "RGB", {"compression": "tiff_lzw"}),
        ("a.tif", "CMYK", {}),
        ("a.tif", "1", {"compression": "group4"}),
        ("a.jpg", "CMYK", {"quality": 95}),
        ("a.png", "LA", {}),
        ("a.png", "P", {}),
    ],
)
def test_other_formats_are_read_as_png_is(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    image = drawing()
    path = write(tmp_path, name, image.convert("RGB").convert(mode), **options)
    allowed = 255 if mode == "1" else 60
    difference = numpy.abs(read_image(path).astype(int) - prepare(image))
    assert difference.max() <= allowed
    assert difference.mean() <= (6 if mode == "1" else 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_the_first_of_several_images_is_read(tmp_path: Path, name: str) -> None:
    first, second = drawing().convert("L"), Image.new("L", drawing().size, 255)
    more: dict[str, Any] = {"save_all": True, "append_images": [second]}
    if name == "a.webp":
        more["lossless"] = True
    path = write(tmp_path, name, first, **more)
    numpy.testing.assert_allclose(read_image(path), prepare(first), atol=8)


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png", "a.jpg"])
def test_a_turned_image_is_put_upright(tmp_path: Path, name: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = drawing().convert("RGB")
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    path = write(tmp_path, name, stored, exif=turned)
    difference = numpy.abs(read_image(path).astype(int) - prepare(upright))
    assert difference.mean() <= 5


def test_16_bits_of_a_colour_that_use_12_are_stretched(tmp_path: Path) -> None:
    # Pillow writes no such file, so that its bytes are made here.
    levels = numpy.repeat(deep(12).astype(">u2")[:, :, None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    path = tmp_path / "a.png"
    path.write_bytes(png(levels.shape[1], levels.shape[0], 16, 2, zlib.compress(rows)))
    difference = numpy.abs(read_image(path).astype(int) - prepare(drawing()))
    assert difference.max() <= 40


# what is given to predict


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    network = xn.Sequential(784, 2, seed=0)
    network.metadata = {"classes": ["zero", "one"], "image_shape": [28, 28], "pixels": True}
    folder = tmp_path / "runs" / "digits-001"
    folder.mkdir(parents=True)
    save(network, folder / "model.safetensors")
    return folder


def test_a_run_folder_stands_for_its_model(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.png", "a.bmp", "c.WEBP", "d.tif", ".hidden.png"):
        drawing().convert("RGB").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert predict.main([str(run_folder), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [Path(line.split("  ")[0]).name for line in lines]
    assert names == ["a.bmp", "b.png", "c.WEBP", "d.tif"]
    assert predict.main([str(run_folder / "model.safetensors"), str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_a_folder_without_what_is_needed_is_named(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(run_folder), str(run_folder)]) == 2
    assert f"{run_folder} is a folder without image files" in capsys.readouterr().err
    assert predict.main([str(run_folder.parent), "a.png"]) == 2
    assert "is a folder without model.safetensors" in capsys.readouterr().err
    (run_folder / "model.safetensors").rename(run_folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"give one of its files \(other.safetensors\)"):
        predict.Model.load(run_folder)


@pytest.mark.parametrize(
    ("field", "value"), [("target", 3), ("centred", "yes"), ("normalisation", {"scale": [1.0]})]
)
def test_a_model_that_says_nonsense_of_its_data_is_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    network = xn.Sequential(3, 2, seed=0)
    network.metadata = {field: value}
    save(network, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=rf"m\.safetensors: {field} is "):
        predict.Model.load(tmp_path / "m.safetensors")


# images of other shapes


def idx(array: numpy.ndarray) -> bytes:
    sizes = numpy.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(numpy.uint8).tobytes()


def test_parts_of_other_shapes_with_as_many_pixels_are_refused(tmp_path: Path) -> None:
    train, test = numpy.ones((4, 28, 28), numpy.uint8), numpy.ones((4, 14, 56), numpy.uint8)
    labels = numpy.arange(4).astype(numpy.uint8)
    files = {"train-images-idx3-ubyte": train, "train-labels-idx1-ubyte": labels}
    files |= {"t10k-images-idx3-ubyte": test, "t10k-labels-idx1-ubyte": labels}
    arrays = {"x_train": train, "y_train": labels, "x_test": test, "y_test": labels}
    (tmp_path / "idx").mkdir()
    (tmp_path / "npy").mkdir()
    for name, array in files.items():
        (tmp_path / "idx" / name).write_bytes(idx(array))
    for name, array in arrays.items():
        numpy.save(tmp_path / "npy" / f"{name}.npy", array)
    numpy.savez(tmp_path / "a.npz", **arrays)
    for name in ("idx", "npy", "a.npz"):
        with pytest.raises(DataError, match=r"test set holds images of 14 x 56 .*of 28 x 28"):
            load_dataset(tmp_path / name)
    # Flat samples have the shape of those beside them.
    arrays["x_train"] = train.reshape(4, 784)
    numpy.savez(tmp_path / "b.npz", **arrays)
    numpy.save(tmp_path / "npy" / "x_train.npy", arrays["x_train"])
    for name in ("b.npz", "npy"):
        source = load_dataset(tmp_path / name)
        assert source.train.image_shape == (14, 56)


def test_images_of_another_shape_are_not_predicted(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a-idx3"
    path.write_bytes(idx(numpy.ones((4, 14, 56))))
    assert predict.main([str(run_folder), str(path)]) == 2
    assert "images of 14 x 56 pixels, the model was trained on 28 x 28" in capsys.readouterr().err
