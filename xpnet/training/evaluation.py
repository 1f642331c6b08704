"""Loss and accuracy of a network in prediction mode."""

from __future__ import annotations

from dataclasses import dataclass

from xpnet.backend import on_its_device
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import ConfigError
from xpnet.layers.activations import Softmax
from xpnet.losses import Loss, SoftmaxCrossEntropy
from xpnet.metrics import Accuracy, ClassCounts, Confusion, MeanLoss, confusion_counter
from xpnet.network import Sequential
from xpnet.training import microbatch, options
from xpnet.training.device_data import DeviceData
from xpnet.training.fit_data import Part, fitted, on_device
from xpnet.utils.arguments import instance
from xpnet.utils.introspection import is_own


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, accuracy and confusion counts of a network on labelled data.

    `confusion`: `(C, C)` int64, row = true, column = predicted; for more than
    `metrics.MOST_CLASSES` classes, `ConfusedPairs`, which do not need memory for C² pairs.
    `metrics.class_scores` takes both.
    """

    loss: float
    accuracy: float
    confusion: Confusion


@on_its_device
def evaluate(network: Sequential, data: Part) -> Evaluation:
    """Loss, accuracy and confusion counts of a classifier on labelled data.

    `data`: as `fit()` takes it, with labels `(N,)`, whole numbers. Raises as `fit()` does, and
    `ConfigError` for targets of another kind, or a network that was not trained to give classes.
    """
    instance("network", network, Sequential, "a Sequential")
    data = on_device(network, data, "data").view()
    mean, loss = MeanLoss(network.backend), SoftmaxCrossEntropy()
    if data.target.dtype.kind == "f" or network.prediction in ("labels", "values", "rates"):
        raise ConfigError(
            f"evaluate() measures a classifier by its labels (N,), whole numbers, and data has "
            f"targets of {data.target.dtype} and shape {tuple(data.target.shape)} for a network "
            f"that predicts {network.prediction or 'classes'}: compare network.predict(x) with the "
            f"targets"
        )
    last = network.last_active()
    if isinstance(network.layers[last], Softmax) and last:
        network = network[:last]  # its outputs are the logits
    options.require_logits(network, loss)
    data = fitted(data, network, loss, "data")
    confusion = confusion_counter(network.backend, network.out_features)
    for x, labels in data.blocks(microbatch.prediction_rows(network)):
        logits = network.forward(x, training=False)
        mean.update(loss.forward(logits, labels), len(labels))
        confusion.update(logits, labels)
    counts = confusion.result()
    hits = int(ClassCounts.of(counts).hits.sum())
    return Evaluation(mean.result(), hits / len(data), counts)


def mean_loss(
    network: Sequential, data: DeviceData, loss: Loss, group: Group = ALONE
) -> tuple[float, float | None]:
    """The mean loss of `network` on `data`, and the accuracy for a classifier.

    Each rank of `group` evaluates a slice of the samples.
    """
    counts = isinstance(loss, SoftmaxCrossEntropy)
    mean, accuracy = MeanLoss(network.backend), Accuracy(network.backend)
    own = slice(*(r * len(data) // group.size for r in (group.rank, group.rank + 1)))
    for x, target in data.blocks(microbatch.prediction_rows(network), own):
        logits = network.forward(x, training=False)
        value = loss.forward(logits, target)
        if not is_own(type(loss)):
            value = network.backend.asarray(value, dtype=network.dtype)  # it may be a plain number
        mean.update(value, len(target))
        if counts:
            accuracy.update(logits, target)
    return mean.result(group), accuracy.result(group) if counts else None
