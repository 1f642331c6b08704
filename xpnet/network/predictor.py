"""Predictions from several threads: each works on copies of the layers with its own buffers."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from xpnet.backend import Array
from xpnet.layers import BatchNorm, Dropout, Dropout2d, GaussianNoise, LayerNorm, Linear
from xpnet.layers.base import Layer
from xpnet.network.copies import LayerCopies
from xpnet.network.inputs import taken
from xpnet.utils.inputs import check_finite, is_finite, is_plain
from xpnet.utils.introspection import is_own


class LayersForPrediction:
    """The layers of a network as one thread predicts with them.

    Each thread predicts with copies of the layers (see `LayerCopies`), so that other threads and a
    running training step are not affected.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.copies = LayerCopies()
        self.steps: list[tuple[Layer, Callable[..., Array]]] = []
        self.shows: int | None = None
        is_shown = True
        for layer in layers:
            kind = type(layer)
            if kind in (Dropout, Dropout2d, GaussianNoise) and "forward" not in vars(layer):
                continue
            if not is_own(kind):
                self.steps.append((layer, partial(self._passed, layer)))
                is_shown = False
                continue
            if is_shown and kind is Linear:
                self.shows = len(self.steps)
            is_shown = is_shown and kind in (BatchNorm, LayerNorm)
            self.steps.append((layer, self.copies.lasting(layer).forward))

    def forward(self, x: Array, look: bool = False) -> Array | None:
        """`y` of the last layer, `(N, out)`: a buffer of this thread.

        With `look`, returns None if some value of `x` may not be finite. Each output of the first
        `Linear` is a sum over all features of a row, so checking one output per row is enough.
        """
        self.copies.update()
        shows = self.shows if look else -1
        if shows is None and not is_finite(x):
            return None
        for position, (layer, step) in enumerate(self.steps):
            # The method may have been replaced on the object.
            step = layer.__dict__.get("forward", step)
            x = step(x, training=False)
            if position == shows and not _is_sound(x):
                return None
        return x

    def _passed(self, layer: Layer, x: Array, *, training: bool) -> Array:
        return self.copies.new(layer).forward(x, training=training)


def _is_sound(y: Array) -> bool:
    """Whether the first output of every row of `y` `(N, out)`, on the host, is finite."""
    # For a single row, checking one number is faster.
    return math.isfinite(y.item(0)) if len(y) == 1 else is_finite(y[:, :1])


class Predictor:
    """The outputs of a network in prediction, computed by each thread with copies of its layers.

    `network`: the `Sequential`; `layers`: its layers.
    """

    def __init__(self, network: Any, layers: Sequence[Layer]) -> None:
        self._network = weakref.ref(network)
        self._layers = layers
        self._is_on_host = network.backend.device == "cpu"
        self._of_thread = threading.local()

    def __call__(self, x: Any) -> Array:
        """Logits `(N, out_features)` of `x`, in an array of the caller's own."""
        network: Any = self._network()
        # An array as it is expected, such as the one row of a request, needs no more than this.
        if self._is_on_host and is_plain(x, network.in_features) and x.dtype is network.dtype:
            return self._outputs(network, x, look=True)
        with network.backend.current():
            return self._outputs(network, taken(network, x, check=True), look=False)

    def _outputs(self, network: Any, x: Array, *, look: bool) -> Array:
        """`look`: whether to check that every value of `x` is finite."""
        size = network.prediction_rows
        if len(x) <= size:
            logits = self._copies().forward(x, look)
            return logits.copy() if logits is not None else self._checked(network, x)
        made = network.backend.xp.empty((len(x), *network._out_shape), dtype=network.dtype)
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            logits = self._copies().forward(x[rows], look)
            if logits is None:
                return self._checked(network, x)
            made[rows] = logits
        return made

    def _checked(self, network: Any, x: Array) -> Array:
        """The outputs, once it was found that every value is finite after all, if large."""
        check_finite(x, "x", network.dtype)
        return self._outputs(network, x, look=False)

    def _copies(self) -> LayersForPrediction:
        """The layers that this thread predicts with."""
        copies: LayersForPrediction | None = getattr(self._of_thread, "copies", None)
        if copies is None:
            copies = self._of_thread.copies = LayersForPrediction(self._layers)
        return copies
