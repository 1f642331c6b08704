"""A network's prediction of each sample of the test set, from which a report is made."""

from __future__ import annotations

from dataclasses import dataclass

from xpnet.data.dataset import Dataset
from xpnet.data.normalisation import Normalisation
from xpnet.figures.calibration import Predictions
from xpnet.network import Sequential
from xpnet.training import Evaluation
from xpnet.training.device_data import DeviceData
from xpnet.training.microbatch import prediction_rows


@dataclass(frozen=True)
class PredictedTestSet:
    """The evaluation of a network on labelled data, and its prediction of each sample."""

    tested: Evaluation
    predictions: Predictions
    data: Dataset


def predict_test_set(
    network: Sequential, tested: Evaluation, data: Dataset, normalisation: Normalisation
) -> PredictedTestSet:
    """The evaluation `tested` of `network` on `data`, with the prediction of each sample."""
    backend, size = network.backend, prediction_rows(network)
    on_device = DeviceData.of(data, normalisation, backend=backend, dtype=network.dtype)
    parts = (
        Predictions.of(backend.to_host(network.predict_proba(x)), backend.to_host(labels))
        for x, labels in on_device.blocks(size)
    )
    return PredictedTestSet(tested, Predictions.joined(parts), data)
