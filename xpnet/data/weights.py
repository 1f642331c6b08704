"""What each training sample counts for: on the device, and gathered batch by batch."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy

from xpnet.backend import Array, Backend, array_module, gather
from xpnet.errors import DataError
from xpnet.workspace import Workspace


class SampleWeights:
    """Weights of `count` samples on `backend`, scaled to a mean of 1: only their ratios matter.

    `weights`: `(count,)` numbers above 0 on the host. Raises `DataError` for any other: a batch
    all of whose weights were 0 would have no mean loss.
    """

    def __init__(self, weights: Any, count: int, *, backend: Backend, dtype: object) -> None:
        host = numpy.asarray(weights)
        if host.shape != (count,) or host.dtype.kind not in "iuf":
            raise DataError(
                f"sample_weight must be {count} numbers, one for each sample of train, found an "
                f"array of {host.dtype} and shape {host.shape}"
            )
        wrong = ~(numpy.isfinite(host) & (host > 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"sample_weight[{row}] is {host[row]}: every weight has to be finite and above 0 "
                f"(leave out samples that shall not count)"
            )
        host = host / host.mean(dtype=numpy.float64)
        self.whole = backend.asarray(host, dtype=dtype)
        self.workspace = Workspace()
        self._digest = hashlib.sha256(host.tobytes()).hexdigest()[:16]

    def batch(self, indices: Array) -> Array:
        """The weights of samples `indices` `(B,)`, in a buffer that the next batch writes over."""
        xp = array_module(self.whole, indices)
        out = self.workspace.array(xp, "weights", indices.shape, self.whole.dtype)
        return gather(self.whole, indices, out=out)

    def __str__(self) -> str:
        """What tells one training from another (`resume.describe_training`)."""
        return f"SHA-256 {self._digest}"
