"""Standardising a table by feature: as scikit-learn does, saved, and the same on each backend."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.preprocessing import StandardScaler

import xpnet as xn
from xpnet.backend import Backend
from xpnet.data import Dataset, Normalisation
from xpnet.data import normalisation as module
from xpnet.data.normalisation import scale_hint
from xpnet.errors import DataError
from xpnet.runs.model import Model
from xpnet.serialization import save
from xpnet.training.device_data import DeviceData
from xpnet.web_demo.export import html_page

X = (numpy.random.default_rng(1).normal(size=(50, 4)) * [1, 1e-3, 1e4, 3] + [0, 5, -1e5, 1]).astype(
    numpy.float32
)
X[:, 3] = 0.1
LABELS = numpy.arange(50) % 2


def table(x: Any = X) -> Dataset:
    return Dataset(x, LABELS[: len(x)], ("a", "b"))


@pytest.mark.parametrize("rows_at_once", [7, 4096])
def test_each_feature_is_standardised_as_by_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    how = Normalisation.standard(table())
    assert how.by_feature
    expected = StandardScaler().fit(X.astype(numpy.float64))
    numpy.testing.assert_allclose(how.scale, 1 / expected.scale_, rtol=1e-12)
    out = how.apply(X, numpy.float64)
    numpy.testing.assert_allclose(
        out, expected.transform(X.astype(numpy.float64)), rtol=1e-6, atol=1e-9
    )
    assert numpy.abs(out[:, 3]).max() == 0  # a constant feature


def test_images_have_one_scale() -> None:
    how = Normalisation.standard(Dataset(X, LABELS, ("a", "b"), (2, 2)))
    assert not how.by_feature
    assert how.scale == pytest.approx(1 / X.std(dtype=numpy.float64), rel=1e-12)


def test_a_map_in_its_file_is_standardised_as_in_memory(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", X)
    mapped = numpy.load(tmp_path / "x.npy", mmap_mode="r")
    assert Normalisation.standard(table(mapped)) == Normalisation.standard(table())


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_a_variance_that_is_no_number_is_one_line(shape: tuple[int, int] | None) -> None:
    x = numpy.array([[1e300, 1, 2, 3], [-1e300, 1, 2, 4]])
    with pytest.raises(DataError, match=r"between -1e\+300 and 1e\+300, too far apart") as caught:
        Normalisation.standard(Dataset(x, None, (), shape))
    assert str(caught.value).isprintable()


def test_two_are_equal_where_their_numbers_are() -> None:
    one, same = Normalisation.standard(table()), Normalisation.standard(table())
    assert one == same
    assert hash(one) == hash(same)
    assert one != Normalisation.unit(table())
    assert one != "one"
    assert pickle.loads(pickle.dumps(one)) == one
    assert str(one) == str(same)
    assert str(one) != str(Normalisation(one.scale, 0.0))
    assert str(Normalisation(1 / 255, 0.0)) == "0.00392157 + 0"


@pytest.mark.parametrize("how", [Normalisation(0.5, -1.0), Normalisation.standard(table())])
def test_metadata_is_json_and_read_back(how: Normalisation) -> None:
    found = json.loads(json.dumps(how.to_metadata()))
    assert Normalisation.from_metadata(found, 4) == how


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        {"scale": 1.0},
        {"scale": "x", "shift": 0},
        {"scale": "0.5", "shift": 0},
        {"scale": True, "shift": 0},
        {"scale": [1.0], "shift": [0.0]},
        {"scale": [1.0] * 4, "shift": [0.0, 0, 0, float("nan")]},
        {"scale": [[1.0] * 4], "shift": 0.0},
        {"scale": [1.0, 2, 3, None], "shift": 0.0},
        {"scale": 10**400, "shift": 0.0},
        {"scale": float("inf"), "shift": 0.0},
    ],
)
def test_what_is_no_normalisation_is_refused(found: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not "):
        Normalisation.from_metadata(found, 4)


def test_batches_are_normalised_by_feature(backend: Backend) -> None:
    how = Normalisation.standard(table())
    data = DeviceData.of(table(), how, backend=backend, dtype="float32")
    expected = how.apply(X)
    rows = backend.asarray(numpy.array([3, 1, 49]))
    to_host = backend.to_host
    numpy.testing.assert_allclose(to_host(data.batch(rows)[0]), expected[[3, 1, 49]], rtol=1e-6)
    numpy.testing.assert_allclose(to_host(data.whole()[0]), expected, rtol=1e-6)
    parts = [to_host(x).copy() for x, _ in data.blocks(7)]
    numpy.testing.assert_allclose(numpy.concatenate(parts), expected, rtol=1e-6)


def test_training_by_feature_replays_to_the_bits_of_single_steps(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Normalisation.standard(table())

    def trained() -> Any:
        network = xn.Sequential(4, 8, "relu", 2, backend=backend, seed=0)
        data = DeviceData.of(table(), how, backend=backend, dtype="float32")
        xn.fit(network, data, optimizer=xn.Adam(1e-2), epochs=3, batch_size=8, seed=0)
        return backend.to_host(network.flat_parameters)

    numpy.testing.assert_array_equal(trained(), trained())


def test_a_normalisation_of_other_features_is_refused() -> None:
    how = Normalisation.standard(table())
    with pytest.raises(DataError, match="normalisation is of 4 features"):
        DeviceData.of(table(X[:, :3]), how, backend=Backend("cpu"), dtype="float32")


def test_a_saved_table_model_predicts_from_stored_values(tmp_path: Path) -> None:
    network = xn.Sequential(4, 2, seed=0)
    how = Normalisation.standard(table())
    network.metadata = {"normalisation": how.to_metadata(), "classes": ["a", "b"]}
    save(network, tmp_path / "m.safetensors")
    model = Model.load(tmp_path / "m.safetensors")
    assert model.normalisation == how
    expected = network.predict_proba(how.apply(X))
    numpy.testing.assert_array_equal(model.probabilities(X), expected)


def test_a_page_takes_a_scale_for_each_pixel() -> None:
    how = Normalisation(numpy.full(4, 0.5), numpy.arange(4.0))
    page = html_page(Model(xn.Sequential(4, 2, seed=0), ("a", "b"), (2, 2), how))
    assert '"scale":[0.5,0.5,0.5,0.5],"shift":[0.0,1.0,2.0,3.0]' in page


@pytest.mark.parametrize(
    ("x", "shape", "hinted"),
    [
        (X, None, True),
        (X[:, :1], None, False),
        (X[:, :2], None, True),  # deviations a thousand apart
        (numpy.full((50, 4), 0.5, numpy.float32), None, False),
        (numpy.full((50, 4), 200, numpy.uint8), None, False),
        (X * 0 + numpy.arange(4) * 60, (2, 2), True),
        (X * 0 + numpy.arange(4) / 4, (2, 2), False),
    ],
)
def test_only_values_far_from_standardised_give_a_hint(
    x: Any, shape: tuple[int, int] | None, hinted: bool
) -> None:
    hint = scale_hint(Dataset(x, LABELS, ("a", "b"), shape))
    assert ("--normalise standard" in hint) == hinted
    assert "\n" not in hint


def test_a_feature_whose_deviation_is_too_small_is_named() -> None:
    x = numpy.column_stack([numpy.arange(9.0), numpy.arange(9) * 1e-42])
    with pytest.raises(
        DataError, match=r"^feature 2 of the training values cannot be standardised"
    ):
        Normalisation.standard(Dataset(x, None, ()))
