"""Metrics, accumulated on the device and transferred only by `result()`.

`logits: (N, C)`, `labels: (N,)` integers. `update()` does not allocate memory (after the first
call) or synchronise; `result()` transfers a few numbers from device to host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, Backend, HostArray, argmax, array_module
from xpnet.distributed.group import ALONE, Group
from xpnet.utils.arguments import whole
from xpnet.workspace import Workspace

MOST_CLASSES = 1024
"""Up to this number of classes `evaluate()` counts all pairs; above it, only pairs that occur."""


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
        add_loss(xp, loss, samples, self.total, workspace=self.workspace)

    def result(self, group: Group = ALONE) -> float:
        """The mean over all samples so far, of all ranks of `group`."""
        found = group.all_gather((float(self.backend.to_host(self.total)[0]), self.samples))
        return sum(total for total, _ in found) / sum(samples for _, samples in found)

    def reset(self) -> None:
        """Reset to zero."""
        self.total.fill(0)
        self.samples = 0


class Accuracy:
    """The fraction of samples whose true class is among the `top` largest logits.

    For `top=1` the prediction is the class of the largest logit, the first of equal ones, as
    `argmax()` returns it. For more, a sample counts as correct if fewer than `top` logits are
    larger than that of its class.
    """

    def __init__(self, backend: Backend, top: int = 1) -> None:
        self.backend, self.top = backend, whole("top", top)
        self.hits = backend.zeros(1, "int64")
        self.samples = 0
        self.workspace = Workspace()

    def update(self, logits: Array, labels: Array) -> None:
        """Count the hits of one batch."""
        xp = array_module(logits, labels)
        self.samples += len(labels)
        if self.top == 1:
            count_hits(xp, logits, labels, self.hits, workspace=self.workspace)
        else:
            self._count_among_top(xp, logits, labels)

    def _count_among_top(self, xp: Any, logits: Array, labels: Array) -> None:
        (count, classes), workspace = logits.shape, self.workspace
        hit = workspace.array(xp, "hit", (count,), bool)
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
        add_hits(xp, hit, self.hits, workspace)

    def result(self, group: Group = ALONE) -> float:
        """Hits over samples of all ranks of `group`, between 0 and 1."""
        found = group.all_gather((int(self.backend.to_host(self.hits)[0]), self.samples))
        return sum(hits for hits, _ in found) / sum(samples for _, samples in found)

    def reset(self) -> None:
        """Reset to zero."""
        self.hits.fill(0)
        self.samples = 0


@accelerated
def add_loss(xp: Any, loss: Array, samples: int, total: Array, *, workspace: Workspace) -> None:
    """`total ← total + samples · loss`, in float64."""
    part = workspace.array(xp, "part", (1,), xp.float64)
    xp.multiply(loss.reshape(1), samples, out=part, dtype=xp.float64)
    xp.add(total, part, out=total)


@accelerated
def count_hits(xp: Any, logits: Array, labels: Array, hits: Array, *, workspace: Workspace) -> None:
    """`hits ← hits + Σ_n [argmax z_n = y_n]`."""
    hit = workspace.array(xp, "hit", labels.shape, bool)
    predicted = workspace.array(xp, "predicted", labels.shape, xp.int64)
    argmax(logits, predicted, workspace)
    xp.equal(predicted, labels, out=hit)
    add_hits(xp, hit, hits, workspace)


def add_hits(xp: Any, hit: Array, hits: Array, workspace: Workspace) -> None:
    """`hits ← hits + Σ_n hit_n`."""
    count = workspace.array(xp, "hits", (1,), xp.int64)
    xp.sum(hit, keepdims=True, out=count)
    xp.add(hits, count, out=hits)


class ConfusionMatrix:
    """How often class `i` was predicted as class `j`: `(C, C)`, row = true, column = predicted.

    A batch adds `onehot(true)ᵀ onehot(predicted)`, one small matrix product. It takes memory for C²
    pairs; for many classes there is `SparseConfusionMatrix`.
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
        argmax(logits, predicted, workspace)
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


@dataclass(frozen=True, eq=False)
class ConfusedPairs:
    """A confusion matrix `(C, C)` of which only the pairs that occur are kept, on the host.

    `times[i]` samples of class `true[i]` were predicted as `predicted[i]`: `(P,)` int64 each, P no
    more than there are samples, in the order of `true`, then of `predicted`. `classes` is C.
    """

    classes: int
    true: HostArray
    predicted: HostArray
    times: HostArray


class SparseConfusionMatrix:
    """How often class `i` was predicted as class `j`, in memory that grows with the samples only.

    `update()` copies classes and labels of the batch to the host, and so waits for the device:
    it is for evaluation, not for a training step.
    """

    def __init__(self, backend: Backend, classes: int) -> None:
        self.backend, self.classes = backend, classes
        self._found: list[tuple[HostArray, HostArray]] = []
        self.workspace = Workspace()

    def update(self, logits: Array, labels: Array) -> None:
        """Count one batch."""
        xp = array_module(logits, labels)
        predicted = self.workspace.array(xp, "predicted", (len(labels),), xp.int64)
        argmax(logits, predicted, self.workspace)
        guesses, true = self.backend.to_host(predicted), self.backend.to_host(labels)
        pairs = true.astype("int64") * self.classes + guesses
        self._found.append(array_module(pairs).unique(pairs, return_counts=True))

    def result(self) -> ConfusedPairs:
        """The pairs so far."""
        codes, times = (list(part) for part in zip(*self._found, strict=True))
        xp = array_module(codes[0])
        found, place = xp.unique(xp.concatenate(codes), return_inverse=True)
        counts = xp.zeros(len(found), dtype=xp.int64)
        xp.add.at(counts, place, xp.concatenate(times))
        return ConfusedPairs(self.classes, found // self.classes, found % self.classes, counts)


def confusion_counter(backend: Backend, classes: int) -> ConfusionMatrix | SparseConfusionMatrix:
    """A counter of all pairs of classes, or, for more than 1,024 classes (`MOST_CLASSES`), of those
    that occur.
    """
    kind = ConfusionMatrix if classes <= MOST_CLASSES else SparseConfusionMatrix
    return kind(backend, classes)


Confusion: TypeAlias = HostArray | ConfusedPairs
"""Confusion counts: `(C, C)`, one row for each true class; of many classes the pairs that occur."""


@dataclass(frozen=True)
class ClassCounts:
    """For each class: correct predictions, predictions, samples; `(C,)` int64 on the host."""

    hits: HostArray
    predicted: HostArray
    support: HostArray

    @classmethod
    def of(cls, confusion: Confusion) -> ClassCounts:
        """The sums over a confusion matrix."""
        if not isinstance(confusion, ConfusedPairs):
            return cls(confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1))
        xp, is_hit = array_module(confusion.true), confusion.true == confusion.predicted

        def summed(classes: HostArray, times: HostArray) -> HostArray:
            counts: HostArray = xp.zeros(confusion.classes, dtype=xp.int64)
            xp.add.at(counts, classes, times)
            return counts

        return cls(
            summed(confusion.true[is_hit], confusion.times[is_hit]),
            summed(confusion.predicted, confusion.times),
            summed(confusion.true, confusion.times),
        )


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 and number of samples of one class.

    Precision is the hits over all predicted as this class, recall the hits over all of this
    class, F1 their harmonic mean, `2 · hits / (predicted + support)`. A value of 0/0 is None: the
    precision of a class that was never predicted, the recall of one without samples, the F1 of one
    that has neither (scikit-learn's `zero_division=nan`).
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def class_scores(confusion: Confusion) -> list[ClassScores]:
    """One `ClassScores` per class of a confusion matrix on the host, `(C, C)` or its pairs."""
    counts = ClassCounts.of(confusion)
    rows = zip(*(part.tolist() for part in vars(counts).values()), strict=True)
    return [
        ClassScores(
            precision=hits / predicted if predicted else None,
            recall=hits / support if support else None,
            f1=2 * hits / (predicted + support) if predicted + support else None,
            support=support,
        )
        for hits, predicted, support in rows
    ]
