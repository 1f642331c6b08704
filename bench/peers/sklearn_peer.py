"""scikit-learn's `MLPClassifier`: one epoch a call of `partial_fit`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
from sklearn.neural_network import MLPClassifier

from bench.peer import Peer, Unsupported
from bench.workloads import CLASSES, EPSILON, Workload
from xpnet.backend import HostArray


class Sklearn(Peer):
    """float32, no L2; it reports its loss, and no accuracy."""

    about = "partial_fit: one epoch a call, alpha=0, loss but no hits counted"

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """One activation for all layers; no dropout."""
        if workload.dropout:
            raise Unsupported("has no dropout")
        first = workload.activations[0]
        if set(workload.activations) == {first}:
            return workload, ""
        changed = replace(workload, activations=(first,) * len(workload.activations))
        return changed, f"{first} throughout: it has one activation for all layers"

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.x, self.labels = workload.data()
        self.reset()

    def _new(self, shuffle: bool) -> Any:
        workload = self.workload
        model = MLPClassifier(
            hidden_layer_sizes=workload.sizes[1:-1],
            activation=workload.activations[0],
            solver="adam" if workload.optimizer == "adam" else "sgd",
            learning_rate_init=workload.rate or 1e-3,
            momentum=0.9 if workload.optimizer == "momentum" else 0.0,
            nesterovs_momentum=False,
            alpha=0.0,
            epsilon=EPSILON,
            batch_size=workload.batch,
            shuffle=shuffle,
        )
        some = slice(0, workload.batch if workload.batch > 1 else CLASSES)
        model.set_params(batch_size=some.stop)
        model.partial_fit(self.x[some], self.labels[some], classes=numpy.arange(CLASSES))
        model.set_params(batch_size=workload.batch)
        for place, (weight, bias) in enumerate(workload.weights()):
            model.coefs_[place][...] = weight
            model.intercepts_[place][...] = bias
        # It cannot be given weights before its first step, whose moments are forgotten here.
        del model._optimizer
        return model

    def reset(self) -> None:
        """A new classifier, on the initial weights."""
        self.model = self._new(shuffle=True)

    def losses(self, rows: HostArray) -> list[float]:
        """The gate: a call a batch."""
        model, found = self._new(shuffle=False), []
        for batch in rows:
            model.partial_fit(self.x[batch], self.labels[batch])
            found.append(float(model.loss_))
        return found

    def epoch(self) -> None:
        """One call of `partial_fit`, which shuffles."""
        self.model.partial_fit(self.x, self.labels)

    def predict(self, x: Any) -> Any:
        """Probabilities."""
        return self.model.predict_proba(x)

    def probabilities(self, x: HostArray) -> HostArray:
        """`predict` returns probabilities already."""
        return numpy.asarray(self.predict(x))
