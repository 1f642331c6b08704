"""Data augmentation: random distortions of batches of training images, on their device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from xpnet import random
from xpnet.backend import Array, Backend, HostArray, array_module, gather
from xpnet.errors import ConfigError, ShapeError, deprecated, short_repr
from xpnet.utils.arguments import as_float, height_and_width
from xpnet.workspace import Workspace

_TRUNCATE = 4.0
# Larger values make no sense for an image, and could overflow.
_MOST_PIXELS = 10_000
# float32 represents all integers up to this number exactly.
_LARGEST_IMAGE = 2**24
# Pixels at a time. On the CPU a block's arrays stay in the cache; a GPU wants few and large
# kernels, but indices in 32 bits.
_CPU_BLOCK = 64 * 28 * 28
_GPU_BLOCK = 2**27
_PURPOSE = "augmentation"


@dataclass(eq=False)
class Augmentation:
    """Random shift, rotation, scale, shear and elastic distortion of whole batches of images.

    Five strengths, 0 (off) or above. The random values of each image are uniform and independent:

    - `shift`: pixels, `t_r` and `t_c` in ±shift;
    - `rotation`: degrees, `θ` in ±rotation; positive turns the image anticlockwise as seen;
    - `scale`: below 1, the factor `f` in 1 ± scale; above 1 the image grows;
    - `shear`: degrees below 90, `φ` in ±shear; positive slants the image as italics are,
      its upper half to the right;
    - `elastic`: pixels, the α of Simard, Steinkraus, Platt, "Best practices for convolutional
      neural networks applied to visual document analysis", ICDAR 2003. Noise in [-1, 1) for
      each pixel and axis, smoothed by a Gaussian of `elastic_sigma` pixels that ends after
      4 of them (zeros outside), times α: the displacement `d` of each pixel.

    `probability`: the probability that an image is changed; the others stay exactly as they are.

    Formula. Output pixel `p = (r, c)`, rows counted downwards, centre
    `m = ((H − 1) / 2, (W − 1) / 2)`, takes its value from the point

        q = A (p − m) + m + t + d(p),    A = (R S K)⁻¹
        R = [[cos θ, −sin θ], [sin θ, cos θ]],  S = [[1, 0], [−tan φ, 1]],  K = f 1

    so the image is scaled, then sheared, then turned, and a positive `t` moves it up and to
    the left. Between pixels the value is bilinear, and outside the image it is 0; that is
    `scipy.ndimage.map_coordinates(order=1, mode="grid-constant", cval=0)`. The background must
    therefore be 0: distort before a normalisation that shifts.

    The random values are a pure function of (seed, number of the training sample, kind): see
    `xpnet.random`. They do not depend on the device, the dtype, the batch size, or the other kinds
    of distortion.

    Raises `ConfigError` for a setting out of its range.
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    elastic_sigma: float = 4.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        self._require("shift", f"in [0, {_MOST_PIXELS}]", lambda v: 0 <= v <= _MOST_PIXELS)
        self._require("rotation", "at 0 or above and be finite", lambda v: 0 <= v < math.inf)
        self._require("scale", "in [0, 1)", lambda v: 0 <= v < 1)
        self._require("shear", "in [0, 90)", lambda v: 0 <= v < 90)
        self._require("elastic", f"in [0, {_MOST_PIXELS}]", lambda v: 0 <= v <= _MOST_PIXELS)
        self._require("elastic_sigma", f"in (0, {_MOST_PIXELS}]", lambda v: 0 < v <= _MOST_PIXELS)
        self._require("probability", "in [0, 1]", lambda v: 0 <= v <= 1)
        self.workspace = Workspace()
        self._shape: tuple[int, int] | None = None
        self._seed = 0
        self.set_sample_counter(0)

    def _require(self, name: str, words: str, holds: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        number = as_float(value)
        if number is None or not holds(number):
            raise ConfigError(f"{name} of Augmentation must lie {words}, found {short_repr(value)}")
        if type(value) is not int:  # a checkpoint says 1, not 1.0, where 1 was given
            setattr(self, name, number)

    def begin(self, image_shape: tuple[int, int], seed: int) -> None:
        """Images are `image_shape = (H, W)`, random values are determined by `seed`; calls
        `set_sample_counter(0)`.

        Raises `ConfigError` unless `image_shape` is two whole numbers above 0, and for images
        of more than 2^24 pixels.
        """
        height, width = height_and_width("image_shape of Augmentation", image_shape)
        if (height + 2) * (width + 2) > _LARGEST_IMAGE:
            raise ConfigError(
                f"Augmentation takes images of up to {_LARGEST_IMAGE} pixels, border "
                f"included, found image_shape {image_shape!r}"
            )
        self._shape, self._seed = (height, width), seed
        self.set_sample_counter(0)

    def seek(self, samples: int) -> None:
        """The former name of `set_sample_counter()`, deprecated."""
        deprecated("Augmentation.seek()", "set_sample_counter()")
        self.set_sample_counter(samples)

    def set_sample_counter(self, samples: int) -> None:
        """The next row is that of training sample number `samples` since the start."""
        self._samples = samples
        self._counter: Array | None = None
        self._constants: _Constants | None = None

    def _skip_samples(self, count: int, backend: Backend) -> None:
        """Other ranks take the random numbers of the next `count` samples."""
        if count:
            counter = self._counter_on(backend)
            array_module(counter).add(counter, count, out=counter)

    def _counter_on(self, backend: Backend) -> Array:
        """The counter of the next row, `(1,)` uint64."""
        if self._counter is None:
            first = random.first_counter(self._seed, _PURPOSE, self._samples)
            self._counter = backend.asarray([first], dtype=backend.xp.uint64)
        return self._counter

    def apply(self, images: Array, out: Array) -> Array:
        """Distorted `images` in `out`; moves on to the next `N` samples.

        `images`, `out`: `(N, H·W)`, both float32 or both float64, `out` contiguous; they may be
        the same array. Raises `ConfigError` before `begin()`, `ShapeError` for arrays of other
        shapes or dtypes, `DeviceMismatch` for arrays of two backends.
        """
        xp = array_module(images, out)
        height, width = self._checked_shape(images, out)
        strengths = (self.shift, self.rotation, self.scale, self.shear, self.elastic)
        if not any(strengths) or self.probability == 0:
            xp.copyto(out, images)
            return out
        array_module(images, self._counter_on(Backend.of(images)))
        if self._constants is None or self._constants.y.dtype != images.dtype:
            self._constants = self._placed(images)
        block = _CPU_BLOCK if Backend.of(images).device == "cpu" else _GPU_BLOCK
        size = max(block // (height * width), 1)
        draw = self._draw(xp, len(images))
        lines = self._lines(draw)
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            shape = (len(images[rows]), height, width)
            source = self._coordinates(lines, draw, rows, shape)
            self._sample(images[rows].reshape(shape), *source, out=out[rows].reshape(shape))
        return out

    def _checked_shape(self, images: Array, out: Array) -> tuple[int, int]:
        if self._shape is None:
            raise ConfigError("Augmentation does not know the images yet: call begin() first")
        height, width = self._shape
        if images.ndim != 2 or images.shape[1] != height * width or out.shape != images.shape:
            raise ShapeError(
                f"images and out of Augmentation have shapes {images.shape} and {out.shape}, "
                f"expected (N, {height * width}) for images of {height} x {width}"
            )
        if images.dtype not in ("float32", "float64") or out.dtype != images.dtype:
            raise ShapeError(
                f"images and out of Augmentation are {images.dtype} and {out.dtype}, expected "
                f"both float32 or both float64"
            )
        if not out.flags.c_contiguous:
            raise ShapeError("out of Augmentation must be C-contiguous: give a whole array")
        return height, width

    def _placed(self, images: Array) -> _Constants:
        """Upload what does not change from batch to batch."""
        assert self._shape is not None
        (height, width), backend = self._shape, Backend.of(images)
        kinds = random.unit_keys(self._seed, f"{_PURPOSE} kinds", 6)
        pixels = random.unit_keys(self._seed, f"{_PURPOSE} pixels", height * width)
        radians = math.pi / 180
        strengths = [
            [self.shift],
            [self.shift],
            [self.rotation * radians],
            [self.scale],
            [self.shear * radians],
        ]
        # A draw of 16 bits is 2^15 times the noise.
        across = _gaussian(width, self.elastic_sigma) * (self.elastic / 2**15)

        def place(values: Any) -> Array:
            return backend.asarray(values, dtype=images.dtype)

        return _Constants(
            backend.asarray(kinds.reshape(6, 1)),
            backend.asarray(pixels),
            backend.asarray(strengths, dtype=backend.xp.float64),
            place(numpy.arange(height) - (height - 1) / 2),
            place(numpy.arange(width) - (width - 1) / 2),
            place(_gaussian(height, self.elastic_sigma)),
            place(across),
        )

    def _draw(self, xp: Any, count: int) -> _Draw:
        """The random values for the next `count` samples; advances the counter."""
        constants, workspace = self._constants, self.workspace
        assert constants is not None
        assert self._counter is not None
        samples = random.sample_words(workspace, self._counter, count)
        words = workspace.array(xp, "words", (6, count), xp.uint32)
        spare_words = workspace.array(xp, "spare words", (6, count), xp.uint32)
        random.hash_bits(constants.kinds, samples, out=words, scratch=spare_words)
        # 24 bits are a float32 without rounding.
        xp.right_shift(words, 8, out=words)
        chosen = workspace.array(xp, "chosen", (count,), bool)
        xp.less(words[0], round(self.probability * 2**24), out=chosen)
        values = workspace.array(xp, "values", (5, count), xp.float64)
        xp.multiply(words[1:], 2**-23, out=values, dtype=xp.float64)
        xp.subtract(values, 1, out=values)
        xp.multiply(values, constants.strengths, out=values)
        xp.multiply(values, chosen, out=values)
        return _Draw(samples, chosen, values)

    def _lines(self, draw: _Draw) -> tuple[Array, ...]:
        """The affine part of `q` as sums of a line over rows and a line over columns.

        `q_r + 1 = down + tilt`, `q_c + 1 = right + lean`; `down`, `lean`: `(N, H, 1)`, `right`,
        `tilt`: `(N, 1, W)`. The 1 is for the border around each image. With
        `A = 1/f [[cos θ, sin θ], [tan φ cos θ − sin θ, tan φ sin θ + cos θ]]`.
        """
        constants, workspace = self._constants, self.workspace
        assert constants is not None
        y, x = constants.y, constants.x
        xp, count = array_module(y), len(draw.words)
        shift_rows, shift_columns, angle, growth, slant = (draw.values[n] for n in range(5))
        cos, sin, tan, factor, part = workspace.array(xp, "matrix", (5, count), xp.float64)
        xp.cos(angle, out=cos)
        xp.sin(angle, out=sin)
        xp.tan(slant, out=tan)
        xp.add(growth, 1, out=factor)

        def line(name: str, along: Array, slope: Array) -> Array:
            line = workspace.array(xp, name, (count, len(along)), along.dtype)
            narrow = workspace.array(xp, f"{name} slope", (count, 1), along.dtype)
            xp.divide(slope, factor, out=narrow[:, 0])
            return xp.multiply(narrow, along, out=line)

        def start(name: str, line: Array, shift: Array) -> None:
            centre = (line.shape[1] - 1) / 2
            origin = workspace.array(xp, name, (count, 1), line.dtype)
            xp.add(shift, centre + 1, out=origin[:, 0])
            xp.add(line, origin, out=line)

        down, tilt = line("down", y, cos), line("tilt", x, sin)
        xp.multiply(tan, cos, out=part)
        xp.subtract(part, sin, out=part)
        lean = line("lean", y, part)
        xp.multiply(tan, sin, out=part)
        xp.add(part, cos, out=part)
        right = line("right", x, part)
        start("first row", down, shift_rows)
        start("first column", right, shift_columns)
        return (
            down.reshape(count, len(y), 1),
            tilt.reshape(count, 1, len(x)),
            right.reshape(count, 1, len(x)),
            lean.reshape(count, len(y), 1),
        )

    def _coordinates(
        self, lines: tuple[Array, ...], draw: _Draw, rows: slice, shape: tuple[int, int, int]
    ) -> tuple[Array, Array]:
        """`q + 1` of the pixels of one block, clipped to the border: what broadcasts to `shape`."""
        down, tilt, right, lean = (line[rows] for line in lines)
        xp, workspace = array_module(down), self.workspace
        row, column = down, right
        if self.rotation or self.shear:
            row = xp.add(down, tilt, out=workspace.array(xp, "row", shape, down.dtype))
            column = xp.add(right, lean, out=workspace.array(xp, "column", shape, down.dtype))
        if self.elastic:
            field = self._field(draw, rows, shape)
            at_row = workspace.array(xp, "row", shape, down.dtype)
            at_column = workspace.array(xp, "column", shape, down.dtype)
            row = xp.add(row, field[:, :, 0], out=at_row)
            column = xp.add(column, field[:, :, 1], out=at_column)
        for place, limit in ((row, shape[1] + 1), (column, shape[2] + 1)):
            xp.clip(place, 0, limit, out=place)
        return row, column

    def _field(self, draw: _Draw, rows: slice, shape: tuple[int, int, int]) -> Array:
        """The displacements `d` of one block: `(N, H, 2, W)`, rows before columns."""
        constants, workspace = self._constants, self.workspace
        assert constants is not None
        count, height, width = shape
        smooth, across = constants.smooth_rows, constants.smooth_columns
        xp = array_module(smooth)
        bits = workspace.array(xp, "bits", (count, height * width), xp.uint32)
        spare = workspace.array(xp, "spare bits", bits.shape, xp.uint32)
        random.hash_bits(draw.words[rows].reshape(count, 1), constants.pixels, bits, spare)
        if self.probability < 1:
            mask = workspace.array(xp, "mask", (count, 1), xp.uint32)
            xp.multiply(draw.chosen[rows].reshape(count, 1), 2**32 - 1, out=mask, dtype=xp.uint32)
            xp.bitwise_and(bits, mask, out=bits)
        noise = workspace.array(xp, "noise", (count, 2 * height, width), smooth.dtype)
        half = workspace.array(xp, "half smooth", noise.shape, smooth.dtype)
        # Each half of a word is a number in [-2^15, 2^15); this order makes one product an axis.
        xp.copyto(noise, bits.view(xp.int16).reshape(noise.shape))
        xp.matmul(noise, across, out=half)
        field = noise.reshape(count, height, 2 * width)
        xp.matmul(smooth, half.reshape(field.shape), out=field)
        return field.reshape(count, height, 2, width)

    def _sample(self, images: Array, row: Array, column: Array, out: Array) -> None:
        """Bilinear values of `images`, padded with zeros, at `(row, column)`; overwrites both."""
        xp, dtype, workspace = array_module(images), images.dtype, self.workspace
        count, height, width = images.shape
        stride, area = width + 2, (height + 2) * (width + 2)
        # The furthest coordinate has a neighbour beyond the border, of weight 0.
        flat = workspace.array(xp, "flat", (count * area + stride + 1,), dtype)
        xp.copyto(flat, 0)
        padded = flat[: count * area].reshape(count, height + 2, stride)
        xp.copyto(padded[:, 1:-1, 1:-1], images)

        whole_row = workspace.array(xp, "whole row", row.shape, dtype)
        whole_column = workspace.array(xp, "whole column", column.shape, dtype)
        for place, whole in ((row, whole_row), (column, whole_column)):
            xp.floor(place, out=whole)
            xp.subtract(place, whole, out=place)
        # NumPy indexes with int64, but converting floats to int32 first is faster overall.
        first = workspace.array(xp, "first", (count, 1, 1), xp.int32)
        narrow = workspace.array(xp, "narrow index", images.shape, xp.int32)
        index = workspace.array(xp, "index", images.shape, xp.int64)
        inside = workspace.array(xp, "inside", images.shape, dtype)
        xp.multiply(whole_row, stride, out=whole_row)
        xp.add(whole_row, whole_column, out=inside)
        xp.copyto(narrow, inside, casting="unsafe")
        numbers = workspace.numbers(xp, count, xp.uint64).reshape(count, 1, 1)
        xp.copyto(first, numbers, casting="unsafe")
        xp.multiply(first, area, out=first)
        xp.add(narrow, first, out=narrow)
        xp.copyto(index, narrow)

        def between(name: str, offset: int, into: Array) -> Array:
            """Columns interpolated, in the row of `offset`."""
            neighbour = workspace.array(xp, name, images.shape, dtype)
            gather(flat[offset:], index, out=into)
            gather(flat[offset + 1 :], index, out=neighbour)
            xp.subtract(neighbour, into, out=neighbour)
            xp.multiply(neighbour, column, out=neighbour)
            return xp.add(into, neighbour, out=into)

        upper = between("neighbour", 0, out)
        lower = between("neighbour", stride, inside)
        xp.subtract(lower, upper, out=lower)
        xp.multiply(lower, row, out=lower)
        xp.add(upper, lower, out=upper)


class _Constants(NamedTuple):
    """Constant arrays on the device."""

    kinds: Array
    pixels: Array
    strengths: Array
    y: Array
    x: Array
    smooth_rows: Array
    smooth_columns: Array


class _Draw(NamedTuple):
    """Of `N` samples a word each `(N,)`, whether they are changed `(N,)`, and by how much.

    `values`: `(5, N)` float64, `t_r`, `t_c`, `θ`, `f − 1`, `φ`; angles in radians.
    """

    words: Array
    chosen: Array
    values: Array


def _gaussian(size: int, sigma: float) -> HostArray:
    """`G @ a` smooths the columns of `a` `(size, …)`, with zeros outside: symmetric, float64."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = numpy.exp(-0.5 * (numpy.arange(radius + 1) / sigma) ** 2)
    # The middle weight is 1; each other weight occurs on both sides.
    weights /= 2 * weights.sum() - 1
    apart = numpy.abs(numpy.subtract.outer(numpy.arange(size), numpy.arange(size)))
    near = numpy.minimum(apart, radius)
    smooth: HostArray = numpy.where(apart <= radius, weights[near], 0.0)
    return smooth
