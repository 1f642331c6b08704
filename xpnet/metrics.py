"""How good predictions are, counted on the device and read when somebody asks.

`logits: (N, C)`, `labels: (N,)` integers. `update()` neither allocates in a steady state nor
waits; `result()` is a door: it copies a few numbers to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from xpnet import twins
from xpnet.backend import Array, Backend, HostArray, array_module
from xpnet.errors import ConfigError
from xpnet.workspace import Workspace


class MeanLoss:
    """The mean of batch losses, each weighted by its number of samples.

    Summed in float64, so that a long epoch of float32 losses loses no digits.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.total = backend.zeros(1, "float64")
        self.samples = 0
        self.workspace = Workspace()

    def update(self, loss: Array, samples: int) -> None:
        """Add the mean `loss` `()` of a batch of `samples`."""
        xp = array_module(loss)
        self.samples += samples
        if twins.did("add_loss", loss, samples, self.total):
            return
        part = self.workspace.array(xp, "part", (1,), xp.float64)
        xp.multiply(loss.reshape(1), samples, out=part, dtype=xp.float64)
        xp.add(self.total, part, out=self.total)

    def result(self) -> float:
        """The mean over all samples so far."""
        return float(self.backend.to_host(self.total)[0]) / self.samples

    def reset(self) -> None:
        """Begin again."""
        self.total.fill(0)
        self.samples = 0


class Accuracy:
    """The fraction of samples whose true class is among the `top` largest logits.

    For `top=1` the prediction is the first largest logit, as `argmax` has it. For more, a
    sample is a hit when fewer than `top` logits are larger than that of its class.
    """

    def __init__(self, backend: Backend, top: int = 1) -> None:
        if top < 1:
            raise ConfigError(f"top must be a whole number above 0, found {top!r}")
        self.backend, self.top = backend, top
        self.hits = backend.zeros(1, "int64")
        self.samples = 0
        self.workspace = Workspace()

    def update(self, logits: Array, labels: Array) -> None:
        """Count the hits of one batch."""
        xp, workspace = array_module(logits, labels), self.workspace
        count = len(labels)
        self.samples += count
        if self.top == 1 and twins.did("count_hits", logits, labels, self.hits):
            return
        hit = workspace.array(xp, "hit", (count,), bool)
        if self.top == 1:
            predicted = workspace.array(xp, "predicted", (count,), xp.int64)
            xp.argmax(logits, axis=1, out=predicted)
            xp.equal(predicted, labels, out=hit)
        else:
            self._among_top(logits, labels, hit)
        hits = workspace.array(xp, "hits", (1,), xp.int64)
        xp.sum(hit, keepdims=True, out=hits)
        xp.add(self.hits, hits, out=self.hits)

    def _among_top(self, logits: Array, labels: Array, hit: Array) -> None:
        xp, workspace = array_module(logits, labels), self.workspace
        count, classes = logits.shape
        chosen = workspace.array(xp, "chosen", (count, classes), logits.dtype)
        larger = workspace.array(xp, "larger", (count, classes), bool)
        rank = workspace.array(xp, "rank", (count,), xp.int64)
        own = workspace.array(xp, "own", (count, 1), logits.dtype)
        numbers = workspace.classes(xp, classes, labels)
        xp.equal(numbers, labels.reshape(count, 1), out=larger)
        xp.multiply(logits, larger, out=chosen)
        xp.sum(chosen, axis=1, keepdims=True, out=own)
        xp.greater(logits, own, out=larger)
        xp.sum(larger, axis=1, out=rank)
        xp.less(rank, self.top, out=hit)

    def result(self) -> float:
        """Hits over samples, between 0 and 1."""
        return int(self.backend.to_host(self.hits)[0]) / self.samples

    def reset(self) -> None:
        """Begin again."""
        self.hits.fill(0)
        self.samples = 0


class ConfusionMatrix:
    """How often class `i` was taken for class `j`: `(C, C)`, row = true, column = predicted.

    A batch adds `onehot(true)ᵀ onehot(predicted)`: one small product, nothing scattered.
    """

    def __init__(self, backend: Backend, classes: int) -> None:
        self.backend, self.classes = backend, classes
        self.counts = backend.zeros(classes * classes, "int64").reshape(classes, classes)
        self.workspace = Workspace()

    def update(self, logits: Array, labels: Array) -> None:
        """Count one batch."""
        xp, workspace = array_module(logits, labels), self.workspace
        count, classes = len(labels), self.classes
        predicted = workspace.array(xp, "predicted", (count,), xp.int64)
        true = workspace.array(xp, "true", (classes, count), xp.float32)
        guess = workspace.array(xp, "guess", (count, classes), xp.float32)
        is_class = workspace.array(xp, "is class", (classes, count), bool)
        found = workspace.array(xp, "found", (classes, classes), xp.float32)
        whole = workspace.array(xp, "whole", (classes, classes), xp.int64)
        numbers = workspace.numbers(xp, classes, xp.int64).reshape(classes, 1)
        xp.argmax(logits, axis=1, out=predicted)
        xp.equal(numbers, labels, out=is_class)
        xp.copyto(true, is_class)
        xp.equal(numbers, predicted, out=is_class)
        xp.copyto(guess, is_class.T)
        # float32 counts exactly up to 2²⁴, far more than a batch holds.
        xp.dot(true, guess, out=found)
        xp.copyto(whole, found, casting="unsafe")
        xp.add(self.counts, whole, out=self.counts)

    def result(self) -> HostArray:
        """The counts on the host: `(C, C)` int64."""
        return self.backend.to_host(self.counts).copy()


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 and number of samples of one class.

    Precision is the hits over all predicted as this class, recall the hits over all of this
    class, F1 their harmonic mean; each is 0 where it would be 0/0.
    """

    precision: float
    recall: float
    f1: float
    support: int


def class_scores(confusion: HostArray) -> list[ClassScores]:
    """One `ClassScores` per row of a host confusion matrix `(C, C)`."""
    scores = []
    for number, row in enumerate(confusion.tolist()):
        hits, support = row[number], sum(row)
        predicted = int(confusion[:, number].sum())
        scores.append(
            ClassScores(
                precision=hits / predicted if predicted else 0.0,
                recall=hits / support if support else 0.0,
                f1=2 * hits / (predicted + support) if predicted + support else 0.0,
                support=support,
            )
        )
    return scores
