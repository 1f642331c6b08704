"""Deprecated names of version 0.1, which warn; to be removed in version 0.3."""

from __future__ import annotations

from typing import Any

from xpnet.backend import Array
from xpnet.errors import deprecated


class FormerNames:
    """The deprecated attributes of `Sequential` (a mixin)."""

    flat_parameters: Any
    flat_gradients: Any
    flat_buffers: Any

    @property
    def values(self) -> Array:
        """The former name of `flat_parameters`, deprecated."""
        deprecated("Sequential.values", "flat_parameters")
        return self.flat_parameters

    @values.setter
    def values(self, values: Any) -> None:
        deprecated("Sequential.values", "flat_parameters")
        self.flat_parameters = values

    @property
    def gradients(self) -> Array:
        """The former name of `flat_gradients`, deprecated."""
        deprecated("Sequential.gradients", "flat_gradients")
        return self.flat_gradients

    @gradients.setter
    def gradients(self, gradients: Any) -> None:
        deprecated("Sequential.gradients", "flat_gradients")
        self.flat_gradients = gradients

    @property
    def buffers(self) -> Array:
        """The former name of `flat_buffers`, deprecated."""
        deprecated("Sequential.buffers", "flat_buffers")
        return self.flat_buffers

    @buffers.setter
    def buffers(self, buffers: Any) -> None:
        deprecated("Sequential.buffers", "flat_buffers")
        self.flat_buffers = buffers

    @property
    def decays(self) -> int:
        """The former name of `decay_size`, deprecated."""
        deprecated("Sequential.decays", "decay_size")
        return int(self.decay_size)  # type: ignore[attr-defined]

    def predict_probabilities(self, x: Any) -> Array:
        """The former name of `predict_proba`, deprecated."""
        deprecated("predict_probabilities()", "predict_proba()")
        return self.predict_proba(x)  # type: ignore[attr-defined]
