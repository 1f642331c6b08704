"""`--initial-model`: training that begins with the weights of a saved model."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import xpnet as xn
from xpnet.cli.train import main
from xpnet.config import TrainConfig, make_config
from xpnet.data import Dataset
from xpnet.errors import ConfigError, XpnetError
from xpnet.runs.factory import build_network
from xpnet.runs.initial_model import apply_initial_model
from xpnet.runs.model import Model

FEW = ["--no-report", "--dataset", "few.npz", "--epochs", "2"]
SHAPE = ["--hidden", "6,4", "--activation", "tanh,relu", "--dropout", "0.2", "--batch-norm"]


def data(name: str, features: int = 5, classes: int = 3, **more: object) -> None:
    labels = np.arange(120) % classes
    x = np.random.default_rng(0).normal(size=(120, features)) + 2 * np.eye(5)[labels][:, :features]
    x = x.astype(np.float32)
    np.savez(name, x=np.abs(50 * x).astype(np.uint8) if more else x, y=labels)


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder, `one`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    data("few.npz")
    assert main([*FEW, *SHAPE, "--normalise", "standard", "--seed", "3", "--run", "one"]) == 0
    return Path("one")


def settings(folder: str) -> dict[str, object]:
    return tomllib.loads(Path(folder, "config.toml").read_text())


@pytest.mark.parametrize("place", ["one", "one/model.safetensors"])
def test_weights_layers_and_scaling_are_those_of_the_model(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FEW, "--initial-model", place, "--learning-rate", "0", "--run", "two"]) == 0
    assert "weights   start from one/model.safetensors" in capsys.readouterr().out
    first, second = (xn.load(f"{name}/model.safetensors") for name in ("one", "two"))
    assert first.architecture() == second.architecture()
    assert first.metadata == second.metadata
    trained = [name for name in first.state_dict() if "running" not in name]
    for name in trained:
        assert np.array_equal(first.state_dict()[name], second.state_dict()[name])
    found = settings("two")
    digest = hashlib.sha256(Path("one/model.safetensors").read_bytes()).hexdigest()
    expected = {
        "initial_model": place,
        "initial_model_sha256": digest,
        "hidden": [6, 4],
        "activation": ["tanh", "relu"],
        "batch_norm": True,
        "dropout": 0.2,
        "normalise": "standard",
        "split_seed": 3,
        "seed": 0,
    }
    assert {name: found[name] for name in expected} == expected
    parts = [json.loads(Path(n, "metrics.json").read_text()) for n in ("one", "two")]
    assert parts[0]["samples_sha256"] == parts[1]["samples_sha256"]


def test_running_statistics_are_taken_over() -> None:
    rows = Dataset(np.zeros((4, 5), np.float32), None, ("0", "1", "2"))
    config = apply_initial_model(make_config({"initial_model": "one", "dataset": "few.npz"}))
    network = build_network(config, rows, xn.Backend())
    for name, values in xn.load("one/model.safetensors").state_dict().items():
        assert np.array_equal(network.state_dict()[name], values)


def test_its_own_settings_give_the_same_bits_again() -> None:
    assert main([*FEW, "--initial-model", "one", "--run", "two", "--seed", "5"]) == 0
    assert main(["--config", "two/config.toml", "--run", "three"]) == 0
    for name in ("config.toml", "model.safetensors"):
        assert Path("two", name).read_bytes() == Path("three", name).read_bytes()
    assert Path("two/model.safetensors").read_bytes() != Path("one/model.safetensors").read_bytes()


def test_a_run_from_a_model_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kill(xn.Callback):
        def on_step_end(self, run: xn.Run) -> None:
            if run.step == 3:
                raise SystemExit(9)

    argv = [*FEW, "--epochs", "4", "--initial-model", "one", "--checkpoint-every", "1"]
    assert main([*argv, "--run", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("xpnet.cli.train.Progress", Kill)
        with pytest.raises(SystemExit):
            main([*argv, "--run", "cut"])
    assert not Path("cut/metrics.json").exists()
    assert main(["--resume", str(Path("cut").absolute())]) == 0
    for name in ("config.toml", "model.safetensors"):
        assert Path("whole", name).read_bytes() == Path("cut", name).read_bytes()


def test_another_dropout_is_the_trainings_own_affair() -> None:
    argv = [*FEW, "--initial-model", "one", "--dropout", "0", "--noise", "0.1"]
    assert main([*argv, "--run", "two"]) == 0
    kinds = [type(layer).__name__ for layer in xn.load("two/model.safetensors").layers]
    assert "Dropout" not in kinds
    assert kinds.count("GaussianNoise") == 3
    assert settings("two")["dropout"] == 0


@pytest.mark.parametrize("argv", [["--hidden", "6,4"], ["--activation", "tanh,relu"], []])
def test_what_says_the_same_is_no_contradiction(argv: list[str]) -> None:
    assert main([*FEW, "--initial-model", "one", "--batch-norm", *argv, "--run", "two"]) == 0


def test_one_activation_may_stand_for_all() -> None:
    network = xn.Sequential(5, 6, "relu", 4, "relu", 3)
    xn.save(network, "plain.safetensors")
    same = make_config({"initial_model": "plain.safetensors", "activation": ["relu", "relu"]})
    assert apply_initial_model(same).hidden == (6, 4)
    assert apply_initial_model(same.model_copy(update={"activation": ("relu",)})).hidden == (6, 4)


def test_what_is_frozen_stays_so() -> None:
    network = xn.Sequential(5, 6, "relu", xn.Dropout(0.3), 3)
    network.layers[0].trainable = False
    xn.save(network, "frozen.safetensors")
    assert (
        main([*FEW, "--initial-model", "frozen.safetensors", "--dropout", "0", "--run", "b"]) == 0
    )
    after = xn.load("b/model.safetensors")
    assert [layer.trainable for layer in after.layers] == [False, True, True]
    old, new = network.state_dict(), after.state_dict()
    assert np.array_equal(old["0.weight"], new["0.weight"])
    assert not np.array_equal(old["3.weight"], new["2.weight"])


def test_a_file_beside_the_model_that_is_no_runs_is_left_alone() -> None:
    Path("config.toml").write_text("title = 'something else'")
    xn.save(xn.Sequential(5, 6, "relu", 3), "plain.safetensors")
    assert (
        apply_initial_model(make_config({"initial_model": "plain.safetensors"})).split_seed is None
    )


def test_a_model_of_python_may_say_nothing_of_its_data() -> None:
    xn.save(xn.Sequential(5, 6, "gelu", 3, dtype="float64"), "plain.safetensors")
    assert main([*FEW, "--initial-model", "plain.safetensors", "--run", "two"]) == 0
    found = settings("two")
    assert found["hidden"] == [6]
    assert found["activation"] == ["gelu"]
    assert found["dtype"] == "float64"
    assert found["dropout"] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hidden", "9"], "hidden: the initial model one/model.safetensors has 6,4, found 9"),
        (["--activation", "relu"], "activation: the initial model one/model.safetensors has tanh,"),
        (["--no-batch-norm"], "batch_norm: the initial model one/model.safetensors has true"),
        (["--normalise", "unit"], "normalise: one/model.safetensors was trained with standard"),
        (["--dataset", "narrow.npz"], "takes 5 features a sample, and narrow.npz has 4"),
        (["--dataset", "more.npz"], "has 3 classes (0, 1, 2), and more.npz has 4 (0, 1, 2, 3"),
        (["--dataset", "pixels.npz"], "trained on numbers with a fraction, and pixels.npz holds w"),
        (["--initial-model", "nowhere"], "initial_model: nowhere: no such file"),
        (["--initial-model", "."], "initial_model: . has no model.safetensors"),
        (["--initial-model", "few.npz"], "initial_model: few.npz: not a readable safetensors"),
        (["--initial-model-sha256", "0" * 64], "is not the recorded file"),
        (["--initial-model", "norm.safetensors"], "has LayerNorm(features=6"),
        (["--initial-model", "deep.safetensors"], "has 0 activations for 1 hidden layers"),
        (["--initial-model", "rates.safetensors"], "dropout: the initial model rates.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data("narrow.npz", features=4)
    data("more.npz", classes=4)
    data("pixels.npz", pixels=True)
    layers = [xn.Linear(5, 6), xn.LayerNorm(6), xn.ReLU(), xn.Linear(6, 3)]
    xn.save(xn.Sequential(layers), "norm.safetensors")
    xn.save(xn.Sequential(5, 6, 3), "deep.safetensors")
    rates = xn.Sequential(5, 6, "relu", xn.Dropout(0.1), 4, "relu", xn.Dropout(0.2), 3)
    xn.save(rates, "rates.safetensors")
    capsys.readouterr()
    assert main([*FEW, "--initial-model", "one", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line, line
    assert not Path("runs").exists()


def test_a_file_that_changed_since_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--initial-model", "one", "--run", "two"]) == 0
    xn.save(xn.load("two/model.safetensors"), "one/model.safetensors")
    capsys.readouterr()
    assert main(["--config", "two/config.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "initial_model: one/model.safetensors is not the recorded file" in line
    # Named again it is meant.
    assert main(["--config", "two/config.toml", "--initial-model", "./one"]) == 0


def test_the_model_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, paths = Model.load, []

    def load(path: Path) -> Model:
        paths.append(path)
        return read(path)

    monkeypatch.setattr(Model, "load", load)
    assert main([*FEW, "--initial-model", "one", "--run", "two"]) == 0
    assert paths.count(Path("one/model.safetensors")) == 1


def test_without_a_model_nothing_is_settled() -> None:
    config = TrainConfig()
    assert apply_initial_model(config) is config


@pytest.mark.needs("optuna")
def test_a_search_may_begin_with_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    from xpnet.tune.__main__ import main as search

    Path("space.toml").write_text("learning_rate = [0.0, 0.01]\n")
    assert search(["space.toml", *FEW, "--initial-model", "one", "--jobs", "1"]) == 0
    best = tomllib.loads(Path("runs/tune-space/best.toml").read_text())
    assert best["hidden"] == [6, 4]
    Path("space.toml").write_text('initial_model = ["one"]\n')
    assert search(["space.toml", *FEW]) == 2
    assert "initial_model: cannot be searched" in capsys.readouterr().err


def test_errors_are_those_of_the_package() -> None:
    with pytest.raises(XpnetError):
        apply_initial_model(make_config({"initial_model": "absent"}))
    with pytest.raises(ConfigError, match="hidden: the initial model"):
        apply_initial_model(make_config({"initial_model": "one", "hidden": [3]}))
