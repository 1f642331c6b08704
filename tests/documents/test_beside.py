"""The table of docs/comparison.md: whole, short, and true of xpnet where it says no."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import xpnet as xn
from xpnet import layers
from xpnet.errors import ConfigError
from xpnet.estimator import XpnetClassifier
from xpnet.layers import activations

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["xpnet", "scikit-learn", "skorch", "Keras", "Thinc"]


def table() -> dict[str, list[str]]:
    section = (ROOT / "docs" / "comparison.md").read_text()
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["", *NAMES]
    assert f"xpnet {xn.__version__}," in section
    return {row[0]: row[1:] for row in rows[2:]}


def test_every_row_has_a_cell_for_everybody_and_its_source() -> None:
    rows = table()
    assert 10 < len(rows) <= 20
    beside = (ROOT / "bench" / "BESIDE.md").read_text()
    for name, cells in rows.items():
        assert len(cells) == len(NAMES), name
        assert all(cells), name
        words = {word for word in re.findall(r"[a-zA-Z]{3,}", name) if word in beside}
        assert words, f"{name} has no row in bench/BESIDE.md"


def test_where_it_says_that_xpnet_cannot_it_cannot() -> None:
    rows = {name: cells[0] for name, cells in table().items()}
    assert rows["recurrence, attention"] == "no"
    names = {*vars(layers), *vars(activations)}
    assert not [n for n in names if re.search("LSTM|GRU|Attention|Embed", n)]
    assert rows["convolution"] == "yes"

    x, labels = np.eye(4), np.arange(4)
    assert rows["sparse input"] == "yes"
    xn.fit(xn.Sequential(4, 4), (csr_matrix(x), labels), optimizer=xn.SGD(), epochs=1)
    model = XpnetClassifier(max_iter=1, n_iter_no_change=float("inf")).fit(csr_matrix(x), labels)
    assert model.predict(csr_matrix(x)).shape == labels.shape

    assert rows["several labels per sample"] == "yes"
    both = np.eye(4) + np.eye(4)[::-1]
    loss = xn.SigmoidBinaryCrossEntropy()
    xn.fit(xn.Sequential(4, 4), (x, both), loss=loss, optimizer=xn.SGD(), epochs=1)
    model = XpnetClassifier(max_iter=1, n_iter_no_change=float("inf")).fit(x, both)
    assert model.predict(x).shape == both.shape

    assert rows["half precision"].startswith("matrix products only")
    with pytest.raises(ConfigError, match="float32 or float64"):
        xn.Sequential(4, 4, dtype="float16")
