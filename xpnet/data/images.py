"""Reads image files; converts an image of a digit, of any size and colour, to MNIST's format.

In MNIST each digit was scaled, with its proportions, into a box of 20 x 20 pixels and placed in
a field of 28 x 28 with its centre of mass in the middle (Y. LeCun, C. Cortes, C. Burges, "The
MNIST database of handwritten digits"). A network trained on such images has also learnt their
position and size, so other images are converted in the same way. `read_unchanged` and
`read_resized` convert nothing: they are for networks trained on images as files hold them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from xpnet._files import refuse_special
from xpnet.backend import HostArray
from xpnet.errors import DataError, one_line
from xpnet.utils.quiet import without_warnings

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Of the names of image files, in lower case."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_BOX = 20 / 28
"""The share of the height and width of the field that the drawing fills."""

_INK = 0.3
"""The share of the contrast above which a pixel belongs to the drawing; JPEG noise is lower."""

_FAINTEST = 16
"""The least contrast of drawing and background, in grey levels of 255."""

_SMALLEST = 16 / 28
"""Each digit of MNIST fills more than this share of the height or width of the field."""

_MOST_PIXELS = 2**25
"""About 5,800 by 5,800; with four bytes each, and copies, they take 180 MB."""

_DEEP = re.compile(r";16[BLN]")
"""Pillow's names of formats with 16 bits a channel; BGR;16 has 16 bits in all."""

_LONGEST_SIDE = 2**16
_PIXELS_AT_ONCE = 2**20


def read_image(
    path: str | Path, image_shape: tuple[int, int] = (28, 28), *, centred: bool = True
) -> HostArray:
    """The image file at `path` as `prepare` makes it: `image_shape`, uint8.

    PNG, JPEG, BMP, GIF, WebP or TIFF; the first frame or page. Levels of more than 8 bits are
    scaled by the number of bits of the largest level (12 bits in a 16-bit file as 12),
    floating-point levels from 0..1, from 0..255 or by the largest level.

    Raises `DataError`, naming the file, when it is missing, no such image, damaged, of more
    than 33 million pixels (WebP: 16 million), or blank.
    """
    path = Path(path)
    grey = _decoded(path, _grey_scaled)
    try:
        return _prepared(grey, image_shape, centred)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_unchanged(path: str | Path) -> HostArray:
    """The image file at `path` as it is: `(height, width)` grey or `(height, width, 3)` RGB, uint8.

    Grey where the file holds one channel, whether with transparency or not. A transparent image is
    composed with white. An image is turned as its EXIF tag says. Formats as for `read_image`.

    Raises `DataError`, naming the file, as `read_image` does, but not for a blank image; and for
    levels of more than 8 bits, which have no scale that is the same for all files.
    """
    return _decoded(Path(path), _unchanged)


def read_resized(path: str | Path, image_shape: tuple[int, ...]) -> HostArray:
    """The image file at `path`, as `read_unchanged` reads it, for a network of such images.

    `image_shape`: `(height, width)`, which gives that shape, grey, or `(height, width, 3)`, which
    gives RGB; uint8. An image of another size is resized to this one, without keeping its
    proportions (bilinear, antialiased).

    Raises `DataError` as `read_unchanged` does, and for another number of channels.
    """
    from PIL import Image

    path = Path(path)
    if image_shape[2:] not in ((), (3,)):
        raise DataError(
            f"{path} is an image file, which is read as grey or as RGB, and the model takes "
            f"images of {image_shape[2]} channels: give samples as an .npz file"
        )
    levels = read_unchanged(path)
    height, width = image_shape[:2]
    is_colour = len(image_shape) == 3
    if levels.ndim - 2 == is_colour and levels.shape[:2] == (height, width):
        return levels
    image = Image.fromarray(levels).convert("RGB" if is_colour else "L")
    return numpy.array(image.resize((width, height), Image.Resampling.BILINEAR))


def _decoded(path: Path, levels_of: Callable[[Image, bool], HostArray]) -> HostArray:
    """The levels of an image file, upright; every failure is a `DataError`.

    `levels_of`: gives the levels of an image, given whether the file has 16 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError

    with without_warnings():  # Pillow also warns of unusual files that it can read
        try:
            return _upright_levels(path, levels_of)
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file") from None
        except IsADirectoryError:
            raise DataError(f"{path} is a folder: give the files in it") from None
        except UnidentifiedImageError:
            raise DataError(f"{path} is no PNG, JPEG, BMP, GIF, WebP or TIFF image") from None
        except Image.DecompressionBombError as error:
            raise _too_large(path, one_line(error)) from error
        except MemoryError as error:
            raise DataError(f"{path} does not fit into memory: scale it down") from error
        except DataError:
            raise
        # The decoder of a damaged file may raise anything.
        except Exception as error:
            reason = one_line(getattr(error, "strerror", None) or error)
            raise DataError(f"{path} cannot be read as an image: {reason}") from error


def _upright_levels(path: Path, levels_of: Callable[[Image, bool], HostArray]) -> HostArray:
    from PIL import ExifTags, Image

    refuse_special(path)
    # `closing` frees the memory of a file that could not be read.
    with closing(Image.open(path, formats=_FORMATS)) as image:
        # libwebp holds two more copies of the image.
        most = _MOST_PIXELS // 2 if image.format == "WEBP" else _MOST_PIXELS
        most = min(most, Image.MAX_IMAGE_PIXELS or most)
        if math.prod(image.size) > most or max(image.size) > _LONGEST_SIDE:
            raise _too_large(path, f"{image.width} x {image.height} pixels")
        is_deep = any(_DEEP.search(str(tile[3])) for tile in image.tile)
        image.load()
        try:
            levels = levels_of(image, is_deep)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        # Cameras store their orientation in a tag and do not rotate the pixels.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turned = _TURNED.get(orientation)
    return levels if turned is None else numpy.ascontiguousarray(turned(levels))


_TURNED: dict[object, Callable[[HostArray], HostArray]] = {
    2: numpy.fliplr,
    3: lambda levels: numpy.rot90(levels, 2),
    4: numpy.flipud,
    5: lambda levels: levels.swapaxes(0, 1),
    6: lambda levels: numpy.rot90(levels, -1),
    7: lambda levels: numpy.rot90(levels, 2).swapaxes(0, 1),
    8: numpy.rot90,
}
"""For each EXIF orientation but 1, upright, what turns the image upright."""


def _grey_scaled(image: Image, is_deep: bool) -> HostArray:
    levels = _grey(image)
    # Pillow has dropped the lower 8 of the 16 bits of a colour.
    if is_deep and not _has_many_bits(image) and levels.max() < 128:
        levels = levels * numpy.uint8(255 // (2 ** int(levels.max()).bit_length() - 1 or 1))
    return levels


def _unchanged(image: Image, is_deep: bool) -> HostArray:
    if is_deep or _has_many_bits(image):
        raise DataError(
            "the image has levels of more than 8 bits: save it with 8 bits a channel, all images "
            "on one scale"
        )
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    channels = () if mode == "L" else (3,)
    levels = numpy.empty((image.height, image.width, *channels), dtype=numpy.uint8)
    for top, strip in _strips(image):
        levels[top : top + strip.height] = _opaque(strip, mode)
    return levels


def _too_large(path: Path, found: str) -> DataError:
    return DataError(f"{path} is too large an image, scale it down: {found}")


def prepare(
    image: Image, image_shape: tuple[int, int] = (28, 28), *, centred: bool = True
) -> HostArray:
    """A drawing in the format of MNIST: `image_shape` (height, width), uint8, light on dark.

    A transparent image is composed with white, colour becomes grey, and a drawing that is darker
    than its background (the median of the outermost pixels) is inverted. An image of `image_shape`
    that is centred as MNIST's are (see `is_centred`) is returned unchanged, and so is every image
    of `image_shape` for a network trained on images that are not (`centred` is False). Any other
    image is treated as a drawing on a plain background: its contrast is stretched, it is cropped
    to the drawing, scaled with its proportions until it fills 20/28 of the height or width of the
    field, and placed with its centre of mass on pixel `(height // 2, width // 2)`, counted from 0,
    to the nearest pixel (as in MNIST), or as near to it as possible with all of the drawing inside
    the field.

    Raises `DataError` for a blank image.
    """
    return _prepared(_grey(image), image_shape, centred)


def is_centred(image: HostArray) -> bool:
    """Whether `image` `(height, width)`, uint8, light on dark, is centred as MNIST's are.

    Its background is black, its drawing takes 16 to 20 pixels of 28 along its longer side (and the
    same share of another field), and its centre of mass is within a pixel of the middle pixel.
    """
    if int(image.max()) - int(image.min()) < _FAINTEST or _background(image) >= _FAINTEST:
        return False
    rows, columns = _bounding_box(image)
    shares = (
        (lines.stop - lines.start) / side
        for lines, side in zip((rows, columns), image.shape, strict=True)
    )
    size = max(shares)
    # Half a pixel of tolerance, for fields of which 20/28 is not a whole number.
    if not size + 0.5 / min(image.shape) >= _SMALLEST or size > _BOX + 0.5 / min(image.shape):
        return False
    return all(abs(_centre(image, axis) - side // 2) <= 1 for axis, side in enumerate(image.shape))


def _prepared(grey: HostArray, image_shape: tuple[int, int], centred: bool) -> HostArray:
    grey = _light_on_dark(grey)
    if grey.shape == tuple(image_shape) and (not centred or is_centred(grey)):
        return grey
    return _centred(_scaled(_crop(grey), image_shape), image_shape)


def _grey(image: Image) -> HostArray:
    """One channel, uint8; transparent parts are composed with white."""
    grey = numpy.empty((image.height, image.width), dtype=numpy.uint8)
    scaled = _scaling(image) if _has_many_bits(image) else None
    for top, strip in _strips(image):
        levels = scaled(strip) if scaled else _opaque(strip, "L")
        grey[top : top + strip.height] = levels
    return grey


def _strips(image: Image) -> Iterator[tuple[int, Image]]:
    """The image in strips from top to bottom, which take less memory than the whole."""
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _has_many_bits(image: Image) -> bool:
    """Whether Pillow would clip the levels above 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _scaling(image: Image) -> Callable[[Image], HostArray]:
    """A function that scales the levels of a strip to 0..255, for an image of many bits."""
    levels = (numpy.asarray(strip) for _, strip in _strips(image))
    found = [(float(strip.min()), float(strip.max())) for strip in levels]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    if not all(math.isfinite(level) for pair in found for level in pair):
        raise ValueError("it holds levels that are not finite")
    base = min(low, 0.0)
    if image.mode == "F":
        top = 1.0 if low >= 0 and high <= 1 else 255.0 if low >= 0 and high <= 255 else high - base
        return lambda strip: ((numpy.asarray(strip, numpy.float64) - base) * (255 / top)).astype(
            numpy.uint8
        )
    top = 2 ** max(8, int(high - base).bit_length()) - 1
    return lambda strip: ((numpy.asarray(strip, numpy.int64) - int(base)) * 255 // top).astype(
        numpy.uint8
    )


def _opaque(image: Image, mode: str) -> HostArray:
    """The levels of `mode`, L or RGB, composed with white."""
    from PIL import Image as pillow

    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image)
    return numpy.array(image.convert(mode))


def _light_on_dark(grey: HostArray) -> HostArray:
    low, high = int(grey.min()), int(grey.max())
    if high - low < _FAINTEST:
        raise DataError(
            f"the image is blank: its grey levels, {low} to {high} of 255 (transparent counts as "
            f"white), differ by less than {_FAINTEST}"
        )
    return grey if 2 * _background(grey) <= low + high else 255 - grey


def _background(grey: HostArray) -> float:
    rim = numpy.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return float(numpy.median(rim))


def _crop(grey: HostArray) -> HostArray:
    """The bounding box of the drawing, float32, background 0 and lightest point 1."""
    background = _background(grey)
    contrast = float(grey.max()) - background
    cut = grey[_bounding_box(grey)].astype(numpy.float32)
    cut -= background
    cut /= contrast
    return cut.clip(0, 1, out=cut)


def _bounding_box(grey: HostArray) -> tuple[slice, slice]:
    """The rows and columns of the bounding box of the drawing."""
    background = _background(grey)
    ink = grey > background + _INK * (float(grey.max()) - background)
    rows, columns = numpy.flatnonzero(ink.any(axis=1)), numpy.flatnonzero(ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _centre(drawing: HostArray, axis: int) -> float:
    """The centre of mass along `axis`, in pixels from 0."""
    weights = drawing.sum(axis=1 - axis, dtype=numpy.float64)
    return float(weights @ numpy.arange(len(weights)) / weights.sum())


def _scaled(drawing: HostArray, image_shape: tuple[int, int]) -> HostArray:
    """The drawing at its final size, antialiased, lightest point 1 again."""
    from PIL import Image as pillow

    height, width = drawing.shape
    scale = min(_BOX * image_shape[0] / height, _BOX * image_shape[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = pillow.fromarray(drawing).resize(size, pillow.Resampling.BICUBIC)
    scaled = numpy.array(resized).clip(0, 1)
    # Antialiasing makes the thin lines of a large image darker.
    scaled /= scaled.max()
    return scaled


def _centred(drawing: HostArray, image_shape: tuple[int, int]) -> HostArray:
    """The drawing in an empty field, its centre of mass on the middle pixel."""
    field = numpy.zeros(image_shape, dtype=numpy.uint8)
    place = []
    for axis, length in enumerate(drawing.shape):
        start = math.floor(image_shape[axis] // 2 - _centre(drawing, axis) + 0.5)
        start = min(max(start, 0), image_shape[axis] - length)
        place.append(slice(start, start + length))
    field[tuple(place)] = numpy.rint(drawing * 255)
    return field
