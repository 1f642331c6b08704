"""Xpnet itself: whole epochs of `fit()`, its own loss and hits counted."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy

from bench.peer import Peer
from bench.workloads import EPSILON, SIDE, Workload
from xpnet import (
    SGD,
    Adam,
    Conv2d,
    DeviceData,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
    Unflatten,
    fit,
    random,
)
from xpnet.accel import dispatch
from xpnet.backend import HostArray, context
from xpnet.training.callbacks import Callback, TrainingState

ACTIVATIONS: dict[str, Any] = {"relu": ReLU, "tanh": Tanh}


class Clock(Callback):
    """Times `fit()` from the beginning of its second epoch to its end.

    The first epoch is the warm-up. The time includes all that `fit()` does in an epoch: the order
    of the samples, the learning rates, every step, and the record.
    """

    seconds: float

    def on_epoch_begin(self, run: TrainingState) -> None:
        """Start."""
        if run.epoch == 2:
            run.network.backend.synchronize()
            self.began = time.perf_counter()

    def on_train_end(self, run: TrainingState) -> None:
        """Stop."""
        run.network.backend.synchronize()
        self.seconds = time.perf_counter() - self.began


class Xpnet(Peer):
    """`fit()` and `Sequential.forward()`, as a user calls them."""

    about = "fit(): whole epochs, one record each; on a CPU without compiled kernels"
    fast: ClassVar[bool] = False
    takes_images = True
    how: ClassVar[dict[str, Any]] = {}
    """More arguments of `fit()`."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        context.change(kernels_enabled=self.fast or device != "cpu")
        layers = self._image_layers()
        for (weight, _), name in zip(workload.weights(), (*workload.activations, ""), strict=True):
            layers.append(Linear(*weight.shape))
            if name:
                layers.append(ACTIVATIONS[name]())
                if workload.dropout:
                    layers.append(Dropout(workload.dropout))
        self.network = Sequential(layers, backend=device)
        self.reset()
        if not workload.predicts:
            self.x, self.labels = workload.data()
            self.data = self._on_device(self.x, self.labels)

    def _image_layers(self) -> list[Any]:
        images = self.workload.images
        layers: list[Any] = [Unflatten((SIDE, SIDE))] if images else []
        for image in images:
            layer = image.layer
            if layer.kind == "conv":
                sizes = layer.channels, layer.kernel_size, layer.stride, layer.padding
                layers.append(Conv2d(*sizes))
            else:
                layers.append(MaxPool2d(layer.kernel_size, layer.stride))
            if image.relu:
                layers.append(ReLU())
        return [*layers, Flatten()] if images else []

    def _on_device(self, x: HostArray, labels: HostArray) -> DeviceData:
        return DeviceData(x, labels, backend=self.network.backend, dtype=self.network.dtype)

    def reset(self) -> None:
        """The initial weights, and an optimizer without state."""
        values = self.network.parameters()
        pairs = [(kernel.transpose(3, 2, 0, 1), bias) for kernel, bias in self.workload.kernels()]
        pairs += [(weight.T, bias) for weight, bias in self.workload.weights()]
        given = [array for pair in pairs for array in pair]
        for view, array in zip(values.values(), given, strict=True):
            view[...] = self.network.backend.asarray(numpy.ascontiguousarray(array))
        momentum = 0.9 if self.workload.optimizer == "momentum" else 0.0
        if self.workload.optimizer == "adam":
            self.optimizer: SGD | Adam = Adam(self.workload.rate, epsilon=EPSILON)
        elif not self.workload.predicts:
            self.optimizer = SGD(self.workload.rate, momentum=momentum)

    def losses(self, rows: HostArray) -> list[float]:
        """`fit()` on rows placed so that its random order gives the batches asked for."""
        self.reset()
        if self.workload.steps == 1:
            data, epochs = self.data, len(rows)
        else:
            place = random.permutation(0, 1, rows.size)
            x = numpy.empty((rows.size, self.x.shape[1]), self.x.dtype)
            labels = numpy.empty(rows.size, numpy.int64)
            x[place], labels[place] = self.x[rows.ravel()], self.labels[rows.ravel()]
            data, epochs = self._on_device(x, labels), 1
        history = fit(
            self.network,
            data,
            optimizer=self.optimizer,
            epochs=epochs,
            batch_size=self.workload.batch,
            log_every="1 iterations",
        )
        return [record.loss for record in history.records]

    def repeat(self) -> float:
        """Seconds a step (or call)."""
        if self.workload.predicts:
            return super().repeat()
        self.reset()
        clock, timed = Clock(), self.workload.passes
        fit(
            self.network,
            self.data,
            optimizer=self.optimizer,
            epochs=1 + timed,
            batch_size=self.workload.batch,
            callbacks=[clock],
            **self.how,
        )
        return clock.seconds / (timed * self.workload.steps)

    def predict(self, x: Any) -> Any:
        """Logits."""
        logits = self.network.forward(x, training=False)
        self.network.backend.synchronize()
        return logits

    def samples(self, x: HostArray) -> Any:
        """`x` on the device."""
        return self.network.backend.asarray(x)

    def to_host(self, outputs: Any) -> HostArray:
        """Logits as a NumPy array."""
        return self.network.backend.to_host(outputs)


class OnCpu(Xpnet):
    """The same on the CPU of a machine with a GPU."""

    about = "the same fit() on this machine's CPU, without compiled kernels"

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, "cpu")


class Fast(Xpnet):
    """The same with numba's kernels, as in every training that is long enough for them."""

    about = "the same with the extra `fast`: numba's compiled kernels"
    fast = True

    def __init__(self, workload: Workload, device: str) -> None:
        import numba  # noqa: F401

        dispatch.ENOUGH_STEPS = 0
        super().__init__(workload, device)
