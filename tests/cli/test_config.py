"""Settings: one declaration behind flags, TOML and Python, and one line for each mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from xpnet.backend import Backend
from xpnet.cli.options import from_command_line
from xpnet.config import (
    AUGMENTATIONS,
    Activation,
    InitializerName,
    TrainConfig,
    make_config,
)
from xpnet.data import Dataset
from xpnet.errors import ConfigError
from xpnet.layers.activations import ACTIVATIONS
from xpnet.runs import factory
from xpnet.schedules import Constant

COMMAND = "python -m xpnet.train"


def parse(*argv: str) -> TrainConfig:
    return from_command_line(list(argv), COMMAND)


def test_no_flags_are_the_defaults() -> None:
    assert parse() == TrainConfig()
    assert TrainConfig().dataset == "digits"


OTHER: dict[str, tuple[Any, str]] = {
    "dataset": ("mnist", "mnist"),
    "normalise": ("standard", "standard"),
    "validation": (0.25, "0.25"),
    "test": (1000.0, "1000"),
    "split_seed": (5, "5"),
    "conv": (("4k3", "pool"), "4k3,pool"),
    "hidden": ((30, 20), "30,20"),
    "activation": (("tanh", "sigmoid"), "tanh,sigmoid"),
    "initializer": ("uniform", "uniform"),
    "bias_initializer": ("uniform", "uniform"),
    "initializer_bound": (0.1, "0.1"),
    "initial_model": ("a/model.safetensors", "a/model.safetensors"),
    "initial_model_sha256": ("0f" * 32, "0f" * 32),
    "dropout": (0.0, "0"),
    "batch_norm": (True, ""),
    "noise": (0.2, "0.2"),
    "label_smoothing": (0.1, "0.1"),
    "augment_shift": (2.0, "2"),
    "augment_rotation": (10.0, "10"),
    "augment_scale": (0.1, "0.1"),
    "augment_shear": (8.0, "8"),
    "augment_elastic": (30.0, "30"),
    "augment_elastic_sigma": (5.0, "5"),
    "augment_probability": (0.5, "0.5"),
    "target": ("species", "species"),
    "optimizer": ("sgd", "sgd"),
    "learning_rate": (0.5, "0.5"),
    "schedule": ("step", "step"),
    "warm_up": (0.0, "0"),
    "step_every": (3, "3"),
    "step_factor": (0.5, "0.5"),
    "momentum": (0.9, "0.9"),
    "nesterov": (True, ""),
    "l2": (0.1, "0.1"),
    "weight_decay": (0.01, "0.01"),
    "epochs": (3, "3"),
    "batch_size": ("full", "full"),
    "patience": (4, "4"),
    "log_every": ("500 iterations", "500 iterations"),
    "train_metrics": ("evaluated", "evaluated"),
    "seed": (7, "7"),
    "device": ("cuda:1", "cuda:1"),
    "dtype": ("float64", "float64"),
    "threads": (1, "1"),
    "reproducible_parts": (4, "4"),
    "clip_norm": (2.5, "2.5"),
    "run": (Path("there"), "there"),
    "checkpoint_every": ("30 seconds", "30 seconds"),
    "report": (False, ""),
}
OF_A_GPU = {"device": ("cuda:1", "cuda:1"), "precision": ("bfloat16", "bfloat16")}
OF_ADAM = {"beta1": (0.8, "0.8"), "beta2": (0.9, "0.9"), "epsilon": (1e-4, "1e-4")}
OF_RMSPROP = {"optimizer": ("rmsprop", "rmsprop"), "decay_rate": (0.9, "0.9")}


def flags(settings: dict[str, tuple[Any, str]]) -> list[str]:
    words = []
    for name, (value, text) in settings.items():
        flag = ("no-" if value is False else "") + name.replace("_", "-")
        words += [f"--{flag}", *([text] if text else [])]
    return words


@pytest.mark.parametrize("settings", [OTHER, OF_A_GPU, OF_ADAM, OF_RMSPROP])
def test_flags_python_and_toml_say_the_same(
    settings: dict[str, tuple[Any, str]], tmp_path: Path
) -> None:
    expected = TrainConfig(**{name: value for name, (value, _) in settings.items()})
    assert parse(*flags(settings)) == expected
    (tmp_path / "c.toml").write_text(expected.to_toml())
    again = parse("--config", str(tmp_path / "c.toml"))
    assert again == expected.model_copy(update={"run": None})


def test_the_flags_above_are_all_there_are() -> None:
    # `resume` needs a folder of a run: tests/training/test_checkpoints.py.
    assert {*OTHER, *OF_A_GPU, *OF_ADAM, *OF_RMSPROP, "resume"} == set(TrainConfig.model_fields)
    defaults = TrainConfig()
    for name, (value, _) in (OF_RMSPROP | OF_ADAM | OF_A_GPU | OTHER).items():
        assert getattr(defaults, name) != value, f"{name} does not differ from its default"


def test_toml_is_whole_and_reads_back(tmp_path: Path) -> None:
    config = TrainConfig(dataset='a "quoted" \\ päth', hidden=())
    read = tomllib.loads(config.to_toml())
    assert read["dataset"] == config.dataset
    unset = {"run", "validation", "test", "patience", "threads", "weight_decay", "clip_norm"}
    unset |= {"resume", "split_seed", "initial_model", "initial_model_sha256", "target"}
    assert set(read) == set(TrainConfig.model_fields) - unset
    assert make_config(read) == config


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("epochs = 3\nseed = 5\nhidden = [9]\nlog_every = 2\n")
    config = parse("--seed", "6", "--config", str(tmp_path / "c.toml"), "--hidden=8,7")
    assert (config.epochs, config.seed, config.hidden, config.log_every) == (3, 6, (8, 7), "2")


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("seed", "SEED", "epochs", "EPOCHS"):
        monkeypatch.setenv(name, "77")
    assert parse() == TrainConfig()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "x"], "epochs: .*integer.*found 'x'"),
        (["--epochs", "0"], "epochs: .*found '0'"),
        (["--epochs"], "epochs: expected one argument"),
        (["--hiden", "3"], "unrecognized arguments: --hiden 3.*--help"),
        (["stray"], "unrecognized arguments: stray"),
        (["--activation", "swish"], "activation: .*'relu'.*found 'swish'"),
        (["--activation", "relu,relu,relu"], "activation: give one, or one for each of the 2"),
        (["--learning-rate", "-1"], "learning_rate: .*greater than or equal to 0, found '-1'"),
        (["--learning-rate", "nan"], "learning_rate: .*finite.*found 'nan'"),
        (["--hidden", "10,-3"], r"hidden: .*found \[10, -3\]"),
        (["--hidden", "10,x"], "hidden: .*found 'x'"),
        (["--batch-size", "0"], "batch_size: .*found 0"),
        (["--batch-size", "some"], "batch_size: .*found 'some'"),
        (["--dropout", "1"], "dropout: .*found '1'"),
        (
            ["--momentum", "0.9"],
            "momentum: works only with optimizer sgd or rmsprop, found .* adam",
        ),
        (
            ["--optimizer", "sgd", "--beta1", "0.5"],
            "beta1: works only with optimizer adam or adamw",
        ),
        (["--optimizer", "sgd", "--nesterov"], "nesterov: needs a momentum"),
        (["--step-every", "3"], "step_every: works only with schedule step"),
        (
            ["--augment-elastic-sigma", "3"],
            "augment_elastic_sigma: works only with an augment_elastic above 0, found 0",
        ),
        (
            ["--augment-probability", "0.5"],
            "augment_probability: works only with one of augment_shift, .* above 0, found none",
        ),
        (["--label-smoothing", "1"], "label_smoothing: .*found '1'"),
        (["--patience", "3", "--validation", "0"], "patience: needs a validation set"),
        (["--validation", "1.5"], "validation: give a fraction below 1 or a whole number"),
        (["--validation", "-1"], "validation: .*found '-1'"),
        (["--log-every", "often"], "log_every: must be a number of epochs or of iterations"),
        (["--checkpoint-every", "often"], "checkpoint_every: must be a number of epochs or of sec"),
        (["--clip-norm", "0"], "clip_norm: .*greater than 0, found '0'"),
        (["--resume", "a", "--run", "b"], "resume: there is no folder a: give the folder of a run"),
        (["--resume", "a", "--config", "b"], "resume: the run has its own settings"),
        (["--dtype", "float16"], "dtype: .*found 'float16'"),
        (["--threads", "0"], "threads: .*found '0'"),
        (["--config", "absent.toml"], "absent.toml: cannot be read"),
        (["--epochs", "x", "--seed", "y"], "epochs: .*; seed: "),
    ],
)
def test_mistakes_in_flags_are_one_line(argv: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = ", "c.toml: not valid TOML"),
        ("epoch = 3", "c.toml: epoch: is not a setting; the settings are dataset,"),
        ("epochs = 'many'", "c.toml: epochs: .*found 'many'"),
        ("hidden = [[3]]", "c.toml: hidden"),
        ("[train]\nepochs = 3", "c.toml: train: is not a setting"),
        ("\udcff", "c.toml: not valid TOML"),
    ],
)
def test_mistakes_in_files_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=words) as caught:
        parse("--config", str(path))
    assert "\n" not in str(caught.value)


def test_mistakes_in_python_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"epochs: .*found 0"):
        make_config({"epochs": 0})


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in [*TrainConfig.model_fields, "config"]:
        assert f"--{name.replace('_', '-')}" in text


def test_every_name_that_a_setting_takes_is_built() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS)
    assert set(get_args(InitializerName)) == {*factory.INITIALIZERS, "uniform"}
    for name in get_args(InitializerName):
        data = Dataset(np.zeros((2, 4), np.uint8), None, ("a", "b"))
        network = factory.build_network(TrainConfig(initializer=name), data, Backend())
        assert network.parameters()["0.weight"].std() > 0


@pytest.mark.parametrize(
    ("optimizer", "given", "used"),
    [
        ("adamw", None, 0.01),
        ("adamw", 0.0, 0.0),
        ("adam", None, 0.0),
        ("adam", 0.3, 0.3),
        ("sgd", None, 0.0),
        ("sgd", 0.3, 0.3),
        ("rmsprop", None, 0.0),
        ("rmsprop", 0.3, 0.3),
    ],
)
def test_weight_decay_is_the_optimizers_own_unless_given(
    optimizer: str, given: float | None, used: float
) -> None:
    config = make_config({"optimizer": optimizer, "weight_decay": given})
    assert factory.build_optimizer(config, Constant(0.1)).weight_decay == used


def test_augmentation_is_made_of_its_settings() -> None:
    data = Dataset(np.zeros((2, 9), np.uint8), None, ("a", "b"), (3, 3))
    assert factory.build_augmentation(TrainConfig(), data) is None
    settings = {
        "shift": 1.0,
        "rotation": 2.0,
        "scale": 0.3,
        "shear": 4.0,
        "elastic": 5.0,
        "elastic_sigma": 6.0,
        "probability": 0.7,
    }
    config = make_config({f"augment_{name}": value for name, value in settings.items()})
    assert vars(factory.build_augmentation(config, data)).items() >= settings.items()
    for name in AUGMENTATIONS:
        assert factory.build_augmentation(make_config({name: 0.5}), data) is not None


def test_a_hidden_layer_is_built_of_what_is_asked_for() -> None:
    config = make_config({"hidden": [4], "batch_norm": True, "noise": 0.2, "dropout": 0.3})
    data = Dataset(np.zeros((2, 9), np.uint8), None, ("a", "b"))
    layers = [str(layer) for layer in factory.build_network(config, data, Backend()).layers]
    assert layers == [
        "GaussianNoise(0.2)",
        "Linear(9, 4)",
        "BatchNorm(4, 0.1, 1e-05)",
        "GaussianNoise(0.2)",
        "ReLU()",
        "Dropout(0.3)",
        "Linear(4, 2)",
    ]
