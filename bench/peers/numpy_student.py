"""A network as students write it: float64, one-hot labels, a new array for every result."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peer import Peer
from bench.workloads import CLASSES, EPSILON, Workload
from xpnet.backend import HostArray


class Student(Peer):
    """NumPy's defaults throughout, as in the five sources that xpnet grew from."""

    about = "float64, one-hot labels, the data shuffled whole every epoch, no out="

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.reset()
        if not workload.predicts:
            x, labels = workload.data()
            self.x, self.onehot = x.astype(np.float64), np.eye(CLASSES)[labels]

    def reset(self) -> None:
        """Fresh weights and moments."""
        pairs = self.workload.weights()
        self.weights = [weight.astype(np.float64) for weight, _ in pairs]
        self.biases = [bias.astype(np.float64) for _, bias in pairs]
        self.parameters = self.weights + self.biases
        self.first = [np.zeros_like(p) for p in self.parameters]
        self.second = [np.zeros_like(p) for p in self.parameters]
        self.t = 0

    def _forward(self, x: Any, training: bool) -> tuple[list[Any], list[Any], Any]:
        inputs, masks = [x], []
        for place, name in enumerate(self.workload.activations):
            z = inputs[-1] @ self.weights[place] + self.biases[place]
            a = np.maximum(0, z) if name == "relu" else np.tanh(z)
            mask = None
            if training and self.workload.dropout:
                keep = 1 - self.workload.dropout
                mask = (np.random.rand(*a.shape) < keep) / keep
                a = a * mask
            masks.append((z, mask))
            inputs.append(a)
        z = inputs[-1] @ self.weights[-1] + self.biases[-1]
        e = np.exp(z - np.max(z, axis=1, keepdims=True))
        return inputs, masks, e / np.sum(e, axis=1, keepdims=True)

    def _step(self, x: Any, y: Any) -> tuple[float, int]:
        inputs, masks, p = self._forward(x, training=True)
        loss = -np.mean(np.sum(y * np.log(p + 1e-12), axis=1))
        hits = np.sum(np.argmax(p, axis=1) == np.argmax(y, axis=1))
        dz = (p - y) / len(x)
        dweights: list[Any] = []
        dbiases: list[Any] = []
        for place in reversed(range(len(self.weights))):
            dweights.insert(0, inputs[place].T @ dz)
            dbiases.insert(0, np.sum(dz, axis=0))
            if place:
                da = dz @ self.weights[place].T
                z, mask = masks[place - 1]
                if mask is not None:
                    da = da * mask
                if self.workload.activations[place - 1] == "relu":
                    dz = da * (z > 0)
                else:
                    dz = da * (1 - np.tanh(z) ** 2)
        self._update(dweights + dbiases)
        return float(loss), int(hits)

    def _update(self, gradients: list[Any]) -> None:
        rate, kind = self.workload.rate, self.workload.optimizer
        self.t += 1
        for place, gradient in enumerate(gradients):
            if kind == "adam":
                self.first[place] = 0.9 * self.first[place] + 0.1 * gradient
                self.second[place] = 0.999 * self.second[place] + 0.001 * gradient**2
                m = self.first[place] / (1 - 0.9**self.t)
                v = self.second[place] / (1 - 0.999**self.t)
                self.parameters[place] -= rate * m / (np.sqrt(v) + EPSILON)
            elif kind == "momentum":
                self.first[place] = 0.9 * self.first[place] + gradient
                self.parameters[place] -= rate * self.first[place]
            else:
                self.parameters[place] -= rate * gradient

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        return [self._step(self.x[batch], self.onehot[batch])[0] for batch in rows]

    def epoch(self) -> None:
        """Shuffle everything, then slice."""
        x, y, batch = self.x, self.onehot, self.workload.batch
        if self.workload.steps > 1:
            order = np.random.permutation(len(x))
            x, y = x[order], y[order]
        total, hits = 0.0, 0
        for start in range(0, len(x), batch):
            loss, right = self._step(x[start : start + batch], y[start : start + batch])
            total, hits = total + loss, hits + right

    def predict(self, x: Any) -> Any:
        """Probabilities."""
        return self._forward(x, training=False)[2]

    def samples(self, x: HostArray) -> Any:
        """`x` in float64."""
        return x.astype(np.float64)

    def probabilities(self, x: HostArray) -> HostArray:
        """`predict` returns probabilities already."""
        return np.asarray(self.predict(self.samples(x)))
