"""One training step: forward pass, backward pass, update; recorded once and replayed."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy

from xpnet.accel import dispatch, small_gemm
from xpnet.accel.recording import Replay
from xpnet.backend import Array, array_module
from xpnet.layers.base import Layer, walk
from xpnet.losses import L2Penalty, Loss
from xpnet.losses.base import with_inner
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.optimizers.clipping import ClipNorm
from xpnet.training import options
from xpnet.training.fit_data import fitted, on_device, require_targets, set_prediction
from xpnet.training.gradients import forward_backward
from xpnet.training.ranks import RankBatch
from xpnet.utils.arguments import instance
from xpnet.utils.exclusive import ExclusiveUse
from xpnet.utils.inputs import check_finite, is_finite


def train_step(
    network: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    x: Array,
    target: Array,
    *,
    weights: Array | None = None,
    penalty: L2Penalty | None = None,
    clip: ClipNorm | None = None,
    scalars: Array | None = None,
    batch: RankBatch | None = None,
) -> tuple[Array, Array]:
    """One forward pass, one backward pass, one update; returns `(loss (), logits (N, C))`.

    `weights`: `(N,)`, sample weights for the mean loss; None: equal weights. Both are buffers on
    the device. After the first steps, nothing here allocates memory, transfers data or
    synchronises. `batch`: says, if several ranks train together, which rows of the batch `x` holds.
    """
    if batch is None:
        value, logits = forward_backward(network, loss, x, target, weights)
    else:
        value, logits = batch.forward_backward(network, loss, x, target, weights)
    if penalty is not None:
        matrices = network.flat_parameters[: network.decay_size]
        array_module(value).add(value, penalty.forward(matrices), out=value)
        penalty.backward(matrices, network.flat_gradients[: network.decay_size])
    if clip is not None:
        clip(network.flat_gradients)
    optimizer.step(network, scalars=scalars)
    return value, logits


MOST_SIZES = 16
"""The number of batch sizes for which a `TrainStep` keeps recorded steps: the newest ones."""


class TrainStep:
    """A training step for a training loop of your own: `value = step(x, y)`.

    `network`: a `Sequential`; `loss`, `optimizer`: objects or names, as `fit()` takes them. Each
    call trains `network` on one batch: `x` `(N, in_features)` and targets `y` `(N,)` or
    `(N, out_features)`, arrays on the host or on the network's device, with any number of rows. It
    returns the mean loss of the batch before the update, a 0-d array on the network's device;
    `float(value)` synchronises.

    For each batch size, the first call runs the layers normally, the second records its operations,
    and later calls replay them, with bit-identical results. A call also checks and copies its
    batch. Between two calls you may read or change anything; if a layer, the loss or the optimizer
    has changed, the next step is recorded again. On the CPU it uses numba kernels from the first
    call on where numba is installed; the first call then takes about a second longer. There `fit()`
    runs many steps in one call as compiled loops, which round differently and are faster for small
    networks: a step of 784-512-256-10 in batches of 128 takes as long here as in `fit()`, one of
    784-128-10 in batches of 64 about half as long again (`bench/NOTES.md`).

    A change is noticed if an attribute is assigned, or an entry of a dict that is an attribute. It
    is not noticed inside a list, or in an array that a layer reads as a number. Only one training
    at a time may use a network, a loss or an optimizer.

    Raises `ConfigError` where `fit()` would, and `ShapeError` and `DataError` for a batch that
    does not fit the network or the loss. Values on a GPU are not checked.
    """

    def __init__(
        self, network: Sequential, loss: Loss | str | None, optimizer: Optimizer | str
    ) -> None:
        self._network = instance("network", network, Sequential, "a Sequential")
        self._loss, self._optimizer = options.loss_of(loss), options.optimizer_of(optimizer)
        options.require_trainable(network, self.optimizer, self.loss)
        self._used = {"network": network, "loss": self._loss, "optimizer": self._optimizer}
        self._replay = Replay(
            network.backend.xp,
            self._parts,
            optimizer=self._optimizer,
            watched=True,
            scope=self._scope,
        )
        self._buffers: dict[Any, tuple[Array, Array, Array]] = {}
        self._checked: set[Any] = set()
        self._value: Array | None = None
        self._layers: tuple[Layer, ...] = ()
        self._contain = False

    @property
    def network(self) -> Sequential:
        """The network that is trained."""
        return self._network

    @property
    def loss(self) -> Loss:
        """The loss; for another one, make another step."""
        return self._loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; for another one, make another step."""
        return self._optimizer

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainStep, (self._network, self._loss, self._optimizer)

    def __call__(self, x: Any, y: Any) -> Array:
        """Train on one batch; returns its mean loss, `()`."""
        network, optimizer = self.network, self.optimizer
        backend = network.backend
        with (
            ExclusiveUse() as use,
            backend.current(),
            numpy.errstate(over="ignore", invalid="ignore", divide="ignore"),
        ):
            use.acquire(self._used)
            x, y = self._batch(x, y)
            scalars = optimizer.scalars(optimizer.steps)
            given = x, y, backend.asarray(scalars, dtype=network.dtype)
            key = len(x), y.shape[1:], y.dtype
            if key not in self._buffers:
                self._buffers[key] = x.copy(), y.copy(), given[2].copy()
                if len(self._buffers) > MOST_SIZES:
                    oldest = next(iter(self._buffers))
                    del self._buffers[oldest]
                    self._replay.forget(oldest)
            buffers = self._buffers[key]
            for buffer, new in zip(buffers, given, strict=True):
                backend.xp.copyto(buffer, new)
            self._replay.disturbed = True
            few = len(x) <= small_gemm.FEW_ROWS
            with small_gemm.kept() if few else nullcontext():
                self._replay.run(key, self._as_written, *buffers)
            assert self._value is not None
            return self._value.copy()

    def _scope(self) -> AbstractContextManager[Any]:
        """For a step that is not replayed: something may have changed since the last one."""
        options.require_trainable(self.network, self.optimizer, self.loss)
        self._layers = ()
        return dispatch.use_kernels(sys.maxsize, self.network.backend.xp)

    def _batch(self, x: Any, y: Any) -> tuple[Array, Array]:
        """The batch on the device, as the loss takes it. Raises as `fit()` does."""
        network, loss, ndarray = self.network, self.loss, self.network.backend.xp.ndarray
        is_plain = type(x) is type(y) is ndarray and x.dtype == network.dtype
        kind = None
        if is_plain and x.ndim == 2 and x.flags.c_contiguous:
            kind = x.shape, y.shape, y.dtype, network.out_features
        # For a batch of a known shape and dtype, only the values are checked, and only on the host.
        if kind in self._checked:
            if ndarray is numpy.ndarray:
                if not is_finite(x):
                    check_finite(x, "batch x", network.dtype)
                require_targets(y, network, loss, "batch")
            set_prediction(network, loss, y, y.shape[1:])
            return x, y
        options.require_trainable(network, self.optimizer, loss)
        data = on_device(network, (x, y), "batch")
        shape = tuple(data.target.shape[1:])
        data = fitted(data, network, loss, "batch")
        set_prediction(network, loss, data.target, shape)
        if kind is not None and data.target is y:
            self._checked.add(kind)
        return data.whole()

    def _as_written(self, x: Array, y: Array, scalars: Array) -> None:
        self._value, _ = train_step(self.network, self.loss, self.optimizer, x, y, scalars=scalars)

    def _parts(self) -> list[Any]:
        layers = self.network.layers
        if layers is not self._layers:
            # Most layers contain none; one that gets one has another attribute then.
            self._layers, self._contain = layers, any(layer.sublayers() for layer in layers)
        inside = walk(layers) if self._contain else layers
        return [self.network, *inside, *with_inner(self.loss), self.optimizer]
