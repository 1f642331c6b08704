"""Folders of image files, one for each class: what is read, and what is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from xpnet.data import image_folders as module
from xpnet.data import load_dataset, read_image_folder
from xpnet.data.images import read_resized, read_unchanged
from xpnet.errors import DataError

SHAPE = (5, 7)


def noise(seed: int, *channels: int) -> numpy.ndarray:
    """`(5, 7)` or `(5, 7, channels)`, uint8."""
    draw = numpy.random.default_rng(seed)
    return draw.integers(0, 256, (*SHAPE, *channels), dtype=numpy.uint8)


def save(path: Path, levels: numpy.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path, **options)
    return path


def fill(folder: Path, *channels: int) -> Path:
    """Two cats and one dog."""
    for seed, name in enumerate(("cat/b.png", "cat/a.bmp", "dog/c.PNG")):
        save(folder / name, noise(seed, *channels))
    return folder


def planes(levels: numpy.ndarray) -> list[int]:
    """An image `(H, W, C)` as a row in the order channels, height, width."""
    return levels.transpose(2, 0, 1).ravel().tolist()


def test_colour_images_are_rows_of_planes_in_the_order_of_names(tmp_path: Path) -> None:
    source = load_dataset(fill(tmp_path / "pets", 3))
    assert (source.name, source.test, source.as_read) == ("pets", None, True)
    data = source.train
    assert (data.classes, data.image_shape) == (("cat", "dog"), (5, 7, 3))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    assert data.x.dtype == numpy.uint8
    assert data.x.tolist() == [planes(noise(seed, 3)) for seed in (1, 0, 2)]


def test_another_file_in_the_folder_is_not_taken_for_data(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "test.bin").write_bytes(bytes(5))
    assert load_dataset(tmp_path).train.classes == ("cat", "dog")


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    data = load_dataset(fill(tmp_path)).train
    assert data.image_shape == SHAPE
    assert data.x.tolist() == [noise(seed).ravel().tolist() for seed in (1, 0, 2)]


@pytest.mark.parametrize("name", ["cat/0.png", "cat/z.png"])
def test_grey_and_colour_images_together_are_rgb(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path)
    save(folder / name, noise(9, 3))
    data = load_dataset(folder).train
    assert data.image_shape == (5, 7, 3)
    grey = [noise(seed).ravel().tolist() * 3 for seed in (1, 0, 2)]
    grey.insert(0 if name == "cat/0.png" else 2, planes(noise(9, 3)))
    assert data.x.tolist() == grey


@pytest.mark.parametrize("which", ["train", "test"])
def test_train_and_test_lie_above_the_classes(tmp_path: Path, which: str) -> None:
    for part in ("train", "test"):
        fill(tmp_path / part, *([3] if part == which else []))
    shutil.rmtree(tmp_path / "test" / "cat")
    source = load_dataset(tmp_path)
    assert source.test is not None
    assert source.train.classes == source.test.classes == ("cat", "dog")
    assert source.test.labels is not None
    assert source.test.labels.tolist() == [1]
    # One part in colour is enough.
    assert source.train.image_shape == source.test.image_shape == (5, 7, 3)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    for name in ("train/a.png", "bus/b.png"):
        save(tmp_path / name, noise(0))
    assert load_dataset(tmp_path).train.classes == ("bus", "train")


def test_hidden_names_and_other_files_are_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a")
    expected = read_image_folder(folder).sha256
    for name in (".DS_Store", "cat/._b.png", "cat/notes.txt", "readme.txt"):
        (folder / name).write_bytes(b"text")
    (folder / ".cache").mkdir()
    assert read_image_folder(folder).sha256 == expected


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    first = read_image_folder(fill(tmp_path / "a")).sha256
    assert read_image_folder(fill(tmp_path / "b")).sha256 == first
    (tmp_path / "a/cat/a.bmp").rename(tmp_path / "a/cat/0.bmp")
    save(tmp_path / "b/cat/a.bmp", noise(7))
    assert len({first, *(read_image_folder(tmp_path / name).sha256 for name in "ab")}) == 3


# What does not fit


def add(name: str, levels: numpy.ndarray) -> Any:
    return lambda folder: save(folder / name, levels)


def other(name: str, content: bytes | None) -> Any:
    def made(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)

    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            add("dog/d.png", noise(0)[1:]),
            r"dog.d\.png has 4 x 7 pixels and .*cat.a\.bmp has 5 x",
        ),
        (
            add("dog/d.png", noise(0).T),
            r"dog.d\.png has 7 x 5 pixels and .*cat.a\.bmp has 5 x 7",
        ),
        (add("d.png", noise(0)), r"d\.png lies in no folder of a class: move it"),
        (add("dog/more/d.png", noise(0)), r"dog.more is a folder within that of a class"),
        (other("fox", None), r"fox holds no image file \(\.png, "),
        (other("dog/d.png", b""), r"dog.d\.png is no PNG, JPEG"),
        (other("dog/d.png", b"text"), r"dog.d\.png is no PNG, JPEG"),
        (other("dog/d.png", b"\x89PNG\r\n\x1a\n" + bytes(40)), r"dog.d\.png (is no|cannot be)"),
        (other("f\no/x.txt", b""), r"the folder 'f\\no' names no class: a class must be print"),
        (other(f"{'f' * 101}/x.txt", b""), r"names no class: .* at most 100 characters"),
        (
            add("dog/d.png", noise(0).astype(numpy.uint16)),
            r"d\.png: .*levels of more than 8 b",
        ),
        (
            add("train/cat/d.png", noise(0)),
            r"holds the folders cat, dog, train: it must hold tr",
        ),
    ],
    ids=[
        "lower",
        "turned",
        "beside",
        "deeper",
        "no image",
        "empty",
        "text",
        "cut",
        "line",
        "long",
        "16 bits",
        "parts",
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, message: str) -> None:
    change(fill(tmp_path / "a"))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "test")
    with pytest.raises(DataError, match="holds the folders test: it must hold train and perhaps"):
        load_dataset(tmp_path)
    fill(tmp_path / "train")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="holds the folders test, train, val: it must hold train"):
        load_dataset(tmp_path)
    (tmp_path / "val").rmdir()
    fox = save(tmp_path / "test/fox/a.png", noise(0))
    with pytest.raises(DataError, match="test holds a class fox, which the training set lacks: "):
        load_dataset(tmp_path)
    fox.unlink()
    fox.parent.rmdir()
    save(tmp_path / "test/dog/d.png", noise(0)[:4])
    with pytest.raises(DataError, match=r"test.dog.d\.png has 4 x 7 .*train.cat.a\.bmp has 5 x 7"):
        load_dataset(tmp_path)


def test_images_that_take_far_more_memory_than_their_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "most_content", lambda stored: 104)
    with pytest.raises(DataError, match=r"a\.bmp: its 3 images of 5 x 7 pixels take more than"):
        read_image_folder(fill(tmp_path))


def test_a_folder_of_no_class_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: there is no such folder"):
        read_image_folder(tmp_path / "gone")
    save(tmp_path / "a.png", noise(0))
    with pytest.raises(DataError, match="holds no folder: put the images of each class into"):
        read_image_folder(tmp_path)
    with pytest.raises(DataError, match=r"holds no data: .* a subfolder of images for each class"):
        load_dataset(tmp_path)


# One image


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "rgb"])
@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "gif"])
def test_an_image_is_read_as_it_is(tmp_path: Path, channels: tuple[int], ending: str) -> None:
    levels = noise(3, *channels)
    if ending == "gif":
        levels //= 64  # at most 256 colours
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", levels, **options)
    # A WebP file has no grey levels.
    expected = levels[..., None].repeat(3, 2) if ending == "webp" and not channels else levels
    numpy.testing.assert_array_equal(read_unchanged(path), expected)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    levels = noise(1, 4)
    levels[..., 3] = 255
    levels[0, :, 3] = 0
    expected = levels[..., :3].copy()
    expected[0] = 255
    numpy.testing.assert_array_equal(read_unchanged(save(tmp_path / "a.png", levels)), expected)
    Image.fromarray(levels).convert("LA").save(tmp_path / "b.png")
    grey = read_unchanged(tmp_path / "b.png")
    assert grey.shape == SHAPE
    assert (grey[0] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "rgb"])
def test_an_image_is_turned_as_its_file_says(
    tmp_path: Path, orientation: int, channels: tuple[int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", noise(1, *channels), exif=exif)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image = Image.fromarray(noise(1, *channels))
    upright = image.transpose(turns[orientation]) if orientation > 1 else image
    numpy.testing.assert_array_equal(read_unchanged(path), numpy.asarray(upright))


def test_16_pixels_are_no_16_bits(tmp_path: Path) -> None:
    levels = numpy.zeros((16, 16, 3), numpy.uint8)
    for name in ("a.png", "a.bmp", "a.tif"):
        assert read_unchanged(save(tmp_path / name, levels)).tolist() == levels.tolist()


def test_an_image_of_another_size_is_resized(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", numpy.full((10, 20, 3), (200, 100, 50), numpy.uint8))
    assert read_resized(path, (5, 7, 3)).tolist() == [[[200, 100, 50]] * 7] * 5
    grey = read_resized(path, (5, 7))
    assert (grey.shape, grey.dtype, numpy.ptp(grey)) == (SHAPE, numpy.uint8, 0)
    same = save(tmp_path / "b.png", noise(0))
    assert read_resized(same, SHAPE).tolist() == noise(0).tolist()
    assert read_resized(same, (5, 7, 3)).tolist() == noise(0)[..., None].repeat(3, 2).tolist()
    with pytest.raises(DataError, match=r"b\.png is an image file.*images of 4 channels: give"):
        read_resized(same, (5, 7, 4))
