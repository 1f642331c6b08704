"""Keras 3 on its JAX backend: `fit()` and `predict_on_batch()`."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy

from bench.peer import Peer, Unsupported
from bench.workloads import EPSILON, SIDE, Workload
from xpnet.backend import HostArray


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Times `fit()` from its second epoch on, as xpnet's is timed."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start."""
        if epoch == 1:
            self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop."""
        self.ended = time.perf_counter()


class Keras(Peer):
    """A compiled model, NumPy data, its own loss and accuracy."""

    about = "fit() on NumPy arrays, jit_compile, accuracy counted; JAX backend"
    takes_images = True

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        keras.utils.clear_session()
        layers: list[Any] = [keras.layers.Input((workload.sizes[0],))]
        layers += self._image_layers()
        for place, size in enumerate(workload.sizes[1:-1]):
            layers.append(keras.layers.Dense(size, activation=workload.activations[place]))
            if workload.dropout:
                layers.append(keras.layers.Dropout(workload.dropout))
        layers.append(keras.layers.Dense(workload.sizes[-1]))
        self.model = keras.Sequential(layers)
        self.model.compile(
            optimizer=self._optimizer(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=True,
        )
        self.reset()
        self.x, self.labels = workload.data()

    def _image_layers(self) -> list[Any]:
        images = self.workload.images
        layers: list[Any] = [keras.layers.Reshape((SIDE, SIDE, 1))] if images else []
        for image in images:
            layer = image.layer
            if layer.kind == "conv":
                if layer.padding not in (0, layer.kernel_size // 2):
                    raise Unsupported("its padding is none or that of equal sizes")
                padding = "same" if layer.padding else "valid"
                how = {"strides": layer.stride, "padding": padding}
                layers.append(keras.layers.Conv2D(layer.channels, layer.kernel_size, **how))
            else:
                layers.append(keras.layers.MaxPooling2D(layer.kernel_size, layer.stride))
            if image.relu:
                layers.append(keras.layers.ReLU())
        return [*layers, keras.layers.Flatten()] if images else []

    def _optimizer(self) -> Any:
        if self.workload.optimizer == "adam":
            return keras.optimizers.Adam(self.workload.rate, epsilon=EPSILON)
        momentum = 0.9 if self.workload.optimizer == "momentum" else 0.0
        return keras.optimizers.SGD(self.workload.rate or 1e-3, momentum=momentum)

    def reset(self) -> None:
        """The initial weights (the optimizer keeps its moments)."""
        workload = self.workload
        dense = workload.channels_last_weights() if workload.conv else workload.weights()
        pairs = [*workload.kernels(), *dense]
        self.model.set_weights([array for pair in pairs for array in pair])

    def losses(self, rows: HostArray) -> list[float]:
        """The gate: a call a batch."""
        found = []
        for batch in rows:
            self.model.reset_metrics()
            logs = self.model.train_on_batch(self.x[batch], self.labels[batch], return_dict=True)
            found.append(float(logs["loss"]))
        return found

    def repeat(self) -> float:
        """Seconds a step (or call)."""
        if self.workload.predicts:
            return super().repeat()
        self.reset()
        clock, timed = _Clock(), self.workload.passes
        self.model.fit(
            self.x,
            self.labels,
            batch_size=self.workload.batch,
            epochs=1 + timed,
            shuffle=self.workload.steps > 1,
            verbose=0,
            callbacks=[clock],
        )
        return float(clock.ended - clock.began) / (timed * self.workload.steps)

    def predict(self, x: Any) -> Any:
        """Logits, on the host."""
        return self.model.predict_on_batch(x)

    def to_host(self, outputs: Any) -> HostArray:
        """Unchanged."""
        return numpy.asarray(outputs)
