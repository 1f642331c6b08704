"""Thinc: `chain(Relu, ..., Softmax)` with its own optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
from thinc.api import (
    SGD,
    Adam,
    CategoricalCrossentropy,
    NumpyOps,
    Relu,
    Softmax,
    chain,
    set_current_ops,
)

from bench.peer import Peer, Unsupported
from bench.workloads import EPSILON, Workload
from xpnet.backend import HostArray


class Thinc(Peer):
    """`begin_update`, `CategoricalCrossentropy`, `finish_update`; no clipping, no averages."""

    about = "NumpyOps over NumPy's BLAS (its own BLIS has one thread), no clipping or averages"

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """It has no tanh layer and no momentum."""
        if workload.optimizer == "momentum":
            raise Unsupported("its SGD has no momentum")
        if set(workload.activations) == {"relu"}:
            return workload, ""
        changed = replace(workload, activations=("relu",) * len(workload.activations))
        return changed, "relu throughout: it has no tanh"

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.ops = NumpyOps(use_blis=False)
        set_current_ops(self.ops)
        dropout = workload.dropout or None
        hidden = [
            Relu(weight.shape[1], weight.shape[0], dropout=dropout)
            for weight, _ in workload.weights()[:-1]
        ]
        weight, _ = workload.weights()[-1]
        self.model = chain(*hidden, Softmax(weight.shape[1], weight.shape[0]))
        self.x, self.labels = workload.data()
        self.model.initialize(X=self.x[:2])
        self.loss = CategoricalCrossentropy(normalize=True)
        self.reset()

    def reset(self) -> None:
        """The initial weights and a new optimizer."""
        layers = [node for node in self.model.walk(order="dfs_pre") if node.has_param("W")]
        for layer, (weight, bias) in zip(layers, self.workload.weights(), strict=True):
            layer.set_param("W", numpy.ascontiguousarray(weight.T))
            layer.set_param("b", bias)
        plain: dict[str, Any] = {"L2": 0.0, "grad_clip": 0.0, "use_averages": False}
        if self.workload.optimizer == "adam":
            self.optimizer = Adam(self.workload.rate, beta1=0.9, beta2=0.999, eps=EPSILON, **plain)
        else:
            self.optimizer = SGD(self.workload.rate, **plain)

    def _step(self, x: Any, labels: Any) -> tuple[float, int]:
        p, backward = self.model.begin_update(x)
        backward(self.loss.get_grad(p, labels))
        self.model.finish_update(self.optimizer)
        # Its own get_loss is a squared error.
        chosen = p[numpy.arange(len(labels)), labels]
        return -float(numpy.log(chosen).mean()), int((p.argmax(axis=1) == labels).sum())

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        return [self._step(self.x[batch], self.labels[batch])[0] for batch in rows]

    def epoch(self) -> None:
        """Its `multibatch` gives the batches, in a new order."""
        total, hits = 0.0, 0
        if self.workload.steps == 1:
            self._step(self.x, self.labels)
            return
        for x, labels in self.ops.multibatch(
            self.workload.batch, self.x, self.labels, shuffle=True
        ):
            loss, right = self._step(x, labels)
            total, hits = total + loss, hits + right

    def predict(self, x: Any) -> Any:
        """Probabilities."""
        return self.model.predict(x)

    def probabilities(self, x: HostArray) -> HostArray:
        """`predict` returns probabilities already."""
        return numpy.asarray(self.predict(x))
