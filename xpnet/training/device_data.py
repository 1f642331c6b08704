"""`DeviceData`: samples copied to the device once; batches are gathered there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, Backend, array_module, gather
from xpnet.data.dataset import Dataset, square_shape
from xpnet.data.mapped import MappedRows, Samples, is_mapped
from xpnet.data.normalisation import Normalisation
from xpnet.errors import ConfigError, DataError
from xpnet.layers.shapes import Shape
from xpnet.training.augmentation import Augmentation
from xpnet.utils.arguments import float_dtype, height_and_width, instance, whole
from xpnet.utils.exclusive import with_own_buffers
from xpnet.utils.inputs import as_samples, as_targets, check_finite, require_numbers
from xpnet.utils.places import named
from xpnet.utils.sparse import SparseRows
from xpnet.workspace import Workspace


class DeviceData:
    """A dataset on a device, stored in its own dtype (pixels stay uint8).

    - `x`: `(N, features)`, or images `(N, height, width)` or `(N, height, width, channels)`, which
      become rows in the order channels, height, width.
    - `target`: `(N,)` labels, or any targets with one row per sample.
    - `backend`: a `Backend` or a device name, such as `"cpu"`.
    - `dtype`: of the batches, float32 or float64.
    - `normalisation`: a batch is normalised, `x · scale + shift`, in buffers that the next batch
      overwrites.
    - `image_shape`: `(height, width)`, or `(height, width, channels)`, where each row is an image.
      It is not needed if `x` has this shape, or if the image is a square of one channel.
    - `name`: of this part of the data, for error messages.

    `x` and `target` may be arrays, lists, a DataFrame or Series; `xpnet.utils.inputs` lists what is
    not accepted. `x` may also be a sparse matrix of SciPy, for a network that begins with `Linear`:
    it stays on the host, where batches are sliced from it, and cannot be normalised here.

    On the CPU `x` is not copied if its rows are contiguous. Of a memory map, only the rows of the
    current batch are read into memory, after one check of all values. Contiguous arrays of other
    libraries, on the host or on this device, are not copied either: see `backend.shared`. Values
    that are already on a GPU are not checked, to avoid synchronisation: a NaN there is reported as
    divergence.

    Raises `DataError` and `ShapeError` as `xpnet.utils.inputs` does, and unless there is one target
    for each row; `ConfigError` for the other arguments.
    """

    def __init__(
        self,
        x: Samples,
        target: Any,
        *,
        backend: Backend | str,
        dtype: object,
        normalisation: Normalisation | None = None,
        image_shape: tuple[int, ...] | None = None,
        name: str = "",
    ) -> None:
        self._place(backend, dtype)
        backend, prefix = self.backend, f"{name} ".lstrip()
        target = as_targets(target, backend=backend, name=f"{prefix}y", dtype=self.dtype)
        target = _by_rows(target)
        image = _with_channels(image_shape)
        given, x = x, self._samples(x, f"{prefix}x", image)
        if len(x) != len(target):
            raise DataError(
                f"{prefix}x must be (N, features) or (N, height, width) with one target a row, "
                f"found x {tuple(x.shape)} and targets {tuple(target.shape)}"
            )
        if normalisation is not None:
            instance("normalisation", normalisation, Normalisation, "a Normalisation or None")
        self.normalisation = normalisation or Normalisation(1.0, 0.0)
        how = self.normalisation
        features = max(numpy.size(how.scale), numpy.size(how.shift))
        if how.by_feature and features != x.shape[1]:
            raise DataError(
                f"x has shape {tuple(x.shape)}, and its normalisation is of {features} features: "
                f"give one made from data like x"
            )
        is_identity = not how.by_feature and how.scale == 1 and how.shift == 0
        self.is_ready = x.dtype == self.dtype and is_identity
        self.scale, self.shift = (
            value if isinstance(value, float | int) else backend.asarray(value, dtype=self.dtype)
            for value in (how.scale, how.shift)
        )
        found = image or _image_shape_of(given)
        self.image_shape = found[:2] if found else square_shape(x.shape[1])
        self.channels = found[2] if found else 1
        if image_shape is not None and image is None:
            self.image_shape = height_and_width("image_shape", image_shape)
        self.x: Any
        self.rows: Array | None = None
        if isinstance(x, SparseRows):
            if not is_identity:
                raise ConfigError(
                    f"{prefix}x is sparse, and normalisation would make it dense: scale it before, "
                    f"by scikit-learn's MaxAbsScaler, say"
                )
            self.x, self.is_ready = x.astype(self.dtype), True
        elif not isinstance(x, MappedRows):
            self.x = backend.asarray(x)
        elif backend.xp is numpy:
            self.x, self.rows = x.values, x.indices
        else:
            with backend.current():
                self.x = backend.xp.empty(x.shape, dtype=x.dtype)
                for rows, block in x.blocks():
                    self.x[rows] = backend.asarray(block)
        is_float = target.dtype.kind == "f"
        self.target = backend.asarray(target, dtype=self.dtype if is_float else None)
        self.workspace = Workspace()

    def _place(self, backend: Backend | str, dtype: object) -> None:
        place = Backend(backend) if isinstance(backend, str) else backend
        self.backend = instance("backend", place, Backend, "a Backend or a device such as 'cpu'")
        self.dtype = self.backend.xp.dtype(float_dtype("dtype", dtype))

    def _samples(self, x: Any, name: str, image: Shape | None) -> Samples:
        """`x`, checked: in memory, or in its file; `image`: `(H, W, C)` that it has to have."""
        if isinstance(x, MappedRows):
            return x  # a reader's, which has looked at all of it
        if not is_mapped(x):
            how = {"backend": self.backend, "name": name, "dtype": self.dtype, "image": image}
            return _by_rows(as_samples(x, **how))
        rows = MappedRows(x)
        require_numbers(rows.dtype, name)
        for where, block in rows.blocks():
            check_finite(block, named(name, where.start), self.dtype)
        return rows

    @property
    def is_sparse(self) -> bool:
        """Whether `x` is sparse; then `batch` takes indices on the host."""
        return isinstance(self.x, SparseRows)

    def view(self) -> DeviceData:
        """A view of the same samples with its own buffers, for one training."""
        return with_own_buffers(self)

    @classmethod
    def of(
        cls, dataset: Dataset, normalisation: Normalisation, *, backend: Backend, dtype: object
    ) -> DeviceData:
        """The labelled `dataset` on `backend`. Raises `DataError` if it has no labels."""
        instance("dataset", dataset, Dataset, "a Dataset")
        if dataset.labels is None:
            raise DataError("the data has no labels, so nothing can be trained or tested on it")
        return cls(
            dataset.x,
            dataset.labels,
            backend=backend,
            dtype=dtype,
            normalisation=normalisation,
            image_shape=dataset.image_shape,
        )

    def __len__(self) -> int:
        return len(self.target)

    def batch(
        self, indices: Array, augmentation: Augmentation | None = None
    ) -> tuple[Array, Array]:
        """Samples `indices` `(B,)`: `x (B, features)` distorted, normalised; and their targets."""
        count = len(indices)
        if self.is_sparse:
            return self.x[indices], self.target[self.backend.asarray(indices)]
        xp = array_module(self.x, indices)
        rows = self.workspace.array(xp, "rows", (count, self.x.shape[1]), self.x.dtype)
        shape = (count, *self.target.shape[1:])
        target = self.workspace.array(xp, "target", shape, self.target.dtype)
        is_scaled = augmentation is None and not self.is_ready and not self.normalisation.by_feature
        if is_scaled and self.rows is None:
            x = self.workspace.array(xp, "x", rows.shape, self.dtype)
            arguments = self.x, self.target, indices, self.scale, self.shift, target, x
            gather_batch(xp, *arguments, rows=rows)
            return x, target
        gather(self.target, indices, out=target)
        if self.rows is not None:
            stored = self.workspace.array(xp, "stored", indices.shape, self.rows.dtype)
            indices = gather(self.rows, indices, out=stored)
        if is_scaled:
            x = self.workspace.array(xp, "x", rows.shape, self.dtype)
            gather_scaled(xp, self.x, indices, self.scale, self.shift, x, rows=rows)
            return x, target
        gather(self.x, indices, out=rows)
        if augmentation is not None:
            # Before a shift of the values, since what comes in from outside an image is 0.
            images = self.workspace.array(xp, "images", rows.shape, self.dtype)
            xp.copyto(images, rows, casting="same_kind")
            rows = augmentation.apply(images, out=images)
        return self._normalised(rows, "x"), target

    def whole(self) -> tuple[Array, Array]:
        """All samples as one batch; not copied if there is no normalisation."""
        return self._normalised(self._in_order(slice(0, len(self))), "x"), self.target

    def begin(self, augmentation: Augmentation, seed: int, image: Shape | None = None) -> None:
        """Initialise `augmentation`. Raises `ConfigError` if rows are not images of one channel.

        `image`: `(height, width, channels)` as the network takes it, None where it takes rows.
        """
        if self.is_sparse:
            raise ConfigError("augmentation takes images, and x is sparse: give x.toarray()")
        channels = self.channels if image is None else image[2]
        if channels != 1:
            raise ConfigError(
                f"augmentation takes images of one channel, and these have {channels}: train "
                f"without augmentation"
            )
        if image is not None:
            augmentation.begin((image[0], image[1]), seed)
            return
        if self.image_shape is None:
            raise ConfigError(
                f"augmentation needs images, and {self.x.shape[1]} features are no square: "
                f"give DeviceData their image_shape, or train without augmentation"
            )
        if math.prod(self.image_shape) != self.x.shape[1]:
            raise ConfigError(
                f"image_shape {self.image_shape} does not hold the {self.x.shape[1]} features of x"
            )
        augmentation.begin(self.image_shape, seed)

    def blocks(self, size: int, within: slice = slice(None)) -> Iterator[tuple[Array, Array]]:
        """The samples `within` in order, `size` at a time (the last block may be short)."""
        first, last, _ = within.indices(len(self))
        for start in range(first, last, size):
            rows = slice(start, min(start + size, last))
            yield self._normalised(self._in_order(rows), "block"), self.target[rows]

    def _in_order(self, rows: slice) -> Array:
        return self.x[rows] if self.rows is None else self.x[self.rows[rows]]

    def _normalised(self, rows: Array, name: str) -> Array:
        if rows.dtype == self.dtype and self.is_ready:
            return rows
        xp = array_module(rows)
        x = self.workspace.array(xp, name, rows.shape, self.dtype)
        shift = None if not self.normalisation.by_feature and not self.shift else self.shift
        scale_rows(xp, rows, self.scale, shift, x)
        return x


@accelerated
def gather_batch(
    xp: Any,
    source: Array,
    targets: Array,
    indices: Array,
    scale: float,
    shift: float,
    target: Array,
    x: Array,
    *,
    rows: Array,
) -> None:
    """`x = scale · source[indices] + shift` and `target = targets[indices]`."""
    gather(targets, indices, out=target)
    gather_scaled(xp, source, indices, scale, shift, x, rows=rows)


@accelerated
def gather_scaled(
    xp: Any, source: Array, indices: Array, scale: float, shift: float, x: Array, *, rows: Array
) -> None:
    """`x = scale · source[indices] + shift`."""
    gather(source, indices, out=rows)
    scale_rows(xp, rows, scale, shift or None, x)


def scale_rows(xp: Any, rows: Array, scale: Any, shift: Any, x: Array) -> None:
    """`x = scale · rows + shift`, each a number or one for each feature; `shift` may be None."""
    xp.multiply(rows, scale, out=x, dtype=x.dtype, casting="same_kind")
    if shift is not None:
        xp.add(x, shift, out=x)


def _with_channels(image_shape: Shape | None) -> tuple[int, int, int] | None:
    """`image_shape`, if it says the number of channels. Raises `ConfigError`."""
    if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
        return None
    size = height_and_width("image_shape", image_shape[:2])
    return (*size, whole("channels of image_shape", image_shape[2]))


def _image_shape_of(x: Any) -> tuple[int, int, int] | None:
    """`(height, width, channels)` of samples that are images, lists of lists too; else None."""
    # Checked samples are all of one shape, so that of lists the first says it.
    shape = numpy.shape(x[0]) if isinstance(x, list | tuple) else getattr(x, "shape", ())[1:]
    if len(shape) not in (2, 3):
        return None
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def _by_rows(array: Array) -> Array:
    """A host `array` in C order: NumPy would bring it there again for each batch."""
    return numpy.ascontiguousarray(array) if isinstance(array, numpy.ndarray) else array
