"""Sample weights on the device, gathered batch by batch."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy

from xpnet.backend import Array, Backend, HostArray, array_module, gather
from xpnet.errors import DataError, ShapeError
from xpnet.utils.inputs import as_targets
from xpnet.workspace import Workspace


class SampleWeights:
    """Weights of `count` samples on `backend`, scaled to a mean of 1: only their ratios matter.

    `weights`: `(count,)` numbers above 0: an array, a list, a Series. Raises `DataError`, naming
    the row, for any other, since a batch with only zero weights has no mean loss; also if the
    weights differ so much that one becomes 0 or infinite in `dtype`.
    """

    def __init__(self, weights: Any, count: int, *, backend: Backend, dtype: object) -> None:
        wanted = f"{count} numbers, one for each sample of train"
        about: dict[str, Any] = {"name": "sample_weight", "about_text": "give numbers"}
        try:
            host = backend.to_host(as_targets(weights, backend=backend, check=False, **about))
        except (DataError, ShapeError) as error:
            raise DataError(f"sample_weight must be {wanted}: {error}") from None
        if host.shape != (count,):
            raise DataError(
                f"sample_weight must be {wanted}, found an array of {host.dtype} and shape "
                f"{host.shape}"
            )
        wrong = ~(numpy.isfinite(host) & (host > 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"sample_weight[{row}] is {host[row]}: every weight has to be finite and above 0 "
                f"(leave out samples that shall not count)"
            )
        given, host = host, _scaled(host)
        with numpy.errstate(over="ignore", under="ignore"):
            placed = host.astype(str(dtype))
        wrong = ~(numpy.isfinite(placed) & (placed > 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"sample_weight[{row}] is {given[row]}, which, divided by the mean weight, becomes "
                f"{placed[row]} in {placed.dtype}: give weights that lie closer together"
            )
        self.whole = backend.asarray(host, dtype=dtype)
        self.workspace = Workspace()
        self._digest = hashlib.sha256(host.tobytes()).hexdigest()[:16]

    def batch(self, indices: Array) -> Array:
        """The weights of samples `indices` `(B,)`, in a buffer that the next batch writes over."""
        xp = array_module(self.whole, indices)
        out = self.workspace.array(xp, "weights", indices.shape, self.whole.dtype)
        return gather(self.whole, indices, out=out)

    def __str__(self) -> str:
        """A part of the fingerprint of a training."""
        return f"SHA-256 {self._digest}"


def _scaled(weights: HostArray) -> HostArray:
    """`weights` over their mean, in float64."""
    with numpy.errstate(over="ignore", under="ignore"):
        scaled: HostArray = weights / weights.mean(dtype=numpy.float64)
    return scaled
