"""A picture of one digit, of any size and colour, made into what a network was trained on.

MNIST was made so: each digit was fitted, with its proportions, into a box of 20 x 20 pixels
and put into a field of 28 x 28 with its centre of mass in the middle (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits"). A network trained on such images has
learnt the position and the size as well, so a picture from elsewhere is treated likewise.
"""

from __future__ import annotations

import math
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from xpnet.backend import HostArray
from xpnet.data.files import refuse_special
from xpnet.errors import DataError, quoted

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG")
_BOX = 20 / 28
"""How much of the field's height and width the drawing takes."""

_INK = 0.3
"""Share of the contrast from which on a pixel belongs to the drawing: JPEG's noise stays below."""

_FAINTEST = 16
"""Grey levels, of 255, that the drawing has to differ from its background."""

_MOST_PIXELS = 2**25
"""Some 5,800 by 5,800. With four bytes each, and what is made of them, they take 180 MB."""

_LONGEST_SIDE = 2**16
_PIXELS_AT_ONCE = 2**20


def read_image(path: str | Path, image_shape: tuple[int, int] = (28, 28)) -> HostArray:
    """The PNG or JPEG file at `path` as `prepare` makes it: `image_shape`, uint8.

    Raises `DataError`, naming the file, when it is missing, no such image, damaged, of more
    than 33 million pixels, or blank.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    with warnings.catch_warnings():
        # What Pillow warns of besides are oddities of a file that it has read all the same.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            grey = _opened(path)
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file") from None
        except IsADirectoryError:
            raise DataError(f"{path} is a folder: give the files in it") from None
        except UnidentifiedImageError:
            raise DataError(f"{path} is no PNG or JPEG image") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(path, quoted(error)) from error
        except MemoryError as error:
            raise DataError(f"{path} does not fit into memory: scale it down") from error
        except DataError:
            raise
        # A damaged file fails wherever its decoder happens to notice.
        except Exception as error:
            reason = quoted(getattr(error, "strerror", None) or error)
            raise DataError(f"{path} cannot be read as an image: {reason}") from error
    try:
        return _prepared(grey, image_shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _opened(path: Path) -> HostArray:
    """The grey levels of an image file, upright."""
    from PIL import ExifTags, Image, ImageOps

    refuse_special(path)
    # Without `closing`, what could not be read would keep its memory until some later time.
    with closing(Image.open(path, formats=_FORMATS)) as image:
        if math.prod(image.size) > _MOST_PIXELS or max(image.size) > _LONGEST_SIDE:
            raise _too_large(path, f"{image.width} x {image.height} pixels")
        grey = Image.fromarray(_grey(image))
        # A camera that was held upright says so in a tag instead of turning the pixels.
        tag = ExifTags.Base.Orientation
        grey.getexif()[tag] = image.getexif().get(tag, 1)
    return numpy.array(ImageOps.exif_transpose(grey))


def _too_large(path: Path, found: str) -> DataError:
    return DataError(f"{path} is too large an image, scale it down: {found}")


def prepare(image: Image, image_shape: tuple[int, int] = (28, 28)) -> HostArray:
    """A drawing as MNIST would hold it: `image_shape` (height, width), uint8, light on dark.

    Transparency is laid over white, colour becomes grey, and a drawing that is darker than
    its background (the median of the outermost pixels) is inverted. An image that is then of
    `image_shape` already, such as one of MNIST itself, is returned as it is. Any other is
    taken for a drawing on a plain background: it is stretched to the full contrast, cut to
    the drawing, scaled with its proportions until it fills 20/28 of the field's height or
    width, and placed with its centre of mass on pixel `(height // 2, width // 2)`, counted
    from 0, to the nearest pixel (as every image of MNIST is), or as near to it as leaves all
    of the drawing within the field.

    Raises `DataError` when there is nothing to see in the image.
    """
    return _prepared(_grey(image), image_shape)


def _prepared(grey: HostArray, image_shape: tuple[int, int]) -> HostArray:
    grey = _light_on_dark(grey)
    if grey.shape == tuple(image_shape):
        return grey
    return _centred(_scaled(_cut_out(grey), image_shape), image_shape)


def _grey(image: Image) -> HostArray:
    """One channel, uint8, over white where the image is transparent."""
    grey = numpy.empty((image.height, image.width), dtype=numpy.uint8)
    # Strip by strip: a copy of each kind that is made on the way would take the image's room.
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        grey[top : top + rows] = _grey_strip(strip)
    return grey


def _grey_strip(image: Image) -> HostArray:
    from PIL import Image as pillow

    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would cut off what lies above 255 in 16 bits.
        return (numpy.asarray(image) // 257).clip(0, 255).astype(numpy.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(paper, image)
    return numpy.array(image.convert("L"))


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


def _cut_out(grey: HostArray) -> HostArray:
    """The drawing's bounding box, float32, background 0 and lightest point 1."""
    background = _background(grey)
    contrast = float(grey.max()) - background
    ink = grey > background + _INK * contrast
    rows, columns = numpy.flatnonzero(ink.any(axis=1)), numpy.flatnonzero(ink.any(axis=0))
    cut = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(numpy.float32)
    cut -= background
    cut /= contrast
    return cut.clip(0, 1, out=cut)


def _scaled(drawing: HostArray, image_shape: tuple[int, int]) -> HostArray:
    """The drawing at the size that it is to have, antialiased, lightest point 1 again."""
    from PIL import Image as pillow

    height, width = drawing.shape
    scale = min(_BOX * image_shape[0] / height, _BOX * image_shape[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = pillow.fromarray(drawing).resize(size, pillow.Resampling.BICUBIC)
    scaled = numpy.array(resized).clip(0, 1)
    # A thin line of a large image has become faint.
    scaled /= scaled.max()
    return scaled


def _centred(drawing: HostArray, image_shape: tuple[int, int]) -> HostArray:
    """The drawing in an empty field, its centre of mass on the field's middle pixel."""
    field = numpy.zeros(image_shape, dtype=numpy.uint8)
    place = []
    for axis, length in enumerate(drawing.shape):
        weights = drawing.sum(axis=1 - axis, dtype=numpy.float64)
        centre = float(weights @ numpy.arange(length) / weights.sum())
        start = math.floor(image_shape[axis] // 2 - centre + 0.5)
        start = min(max(start, 0), image_shape[axis] - length)
        place.append(slice(start, start + length))
    field[tuple(place)] = numpy.rint(drawing * 255)
    return field
