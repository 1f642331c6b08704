"""Training that starts from a saved model.

The layers, their weights and running statistics, the frozen layers, the normalisation and the
dtype are those of the model. Dropout and noise are those of the model unless they are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from xpnet.config import TrainConfig, make_config
from xpnet.data.dataset import Dataset
from xpnet.data.normalisation import Normalisation
from xpnet.errors import CheckpointError, ConfigError, join_names, short_repr
from xpnet.layers.activations import ACTIVATIONS
from xpnet.layers.base import Layer
from xpnet.network import Sequential
from xpnet.runs.model import Model
from xpnet.runs.run_folder import MODEL
from xpnet.utils.channels import shape_text
from xpnet.utils.image_layers import BriefLayer
from xpnet.utils.toml import read_toml

_TRAINING_ONLY = ("Dropout", "GaussianNoise")

_BRIEF = {
    "Conv2d": "conv",
    "MaxPool2d": "pool",
    "AveragePool2d": "average",
    "GlobalAveragePool2d": "global",
}
"""The layers of images that settings describe, and what these call them."""


def _brief(layer: dict[str, Any]) -> BriefLayer | None:
    """A layer of images as settings describe it; None for one that they do not."""
    kind = _BRIEF[layer["type"]]
    if kind == "global":
        return BriefLayer(kind)
    numbers = [layer["kernel_size"], layer["stride"], layer["padding"]]
    is_plain = all(isinstance(n, int) for n in numbers) and layer.get("dilation", 1) == 1
    if not is_plain or (kind != "conv" and layer["padding"]):
        return None
    size, stride, padding = numbers
    groups = layer.get("groups", 1)
    return BriefLayer(kind, layer.get("out_channels", 0), size, stride, padding, groups)


@dataclass(frozen=True)
class InitialModel:
    """The model in the file `path`, and the digest `sha256` of the file."""

    path: Path
    model: Model
    sha256: str

    @classmethod
    def read(cls, config: TrainConfig) -> InitialModel:
        """The model named by `config.initial_model`. Raises `ConfigError`, `CheckpointError`."""
        path = model_file(config)
        if Path(_path_setting(config)).is_dir() and not path.exists():
            raise ConfigError(
                f"initial_model: {path.parent} has no {MODEL}: give the folder of a finished "
                f"run, or a .safetensors file"
            )
        try:
            model = Model.load(path)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except CheckpointError as error:
            raise CheckpointError(f"initial_model: {error}") from None
        if config.initial_model_sha256 not in (None, sha256):
            raise ConfigError(
                f"initial_model: {path} is not the recorded file: its SHA-256 is {sha256}, "
                f"and initial_model_sha256 is {config.initial_model_sha256}"
            )
        return cls(path, model, sha256)

    def settings(self) -> dict[str, Any]:
        """The settings that describe its layers. Raises `ConfigError` where no settings do."""
        widths, activations = [], []
        training: dict[str, set[float]] = {"Dropout": set(), "GaussianNoise": set()}
        names = {kind.__name__: name for name, kind in ACTIVATIONS.items()}
        layers = self.model.network.architecture()
        conv: list[BriefLayer | None] = []
        for layer in layers:
            kind = layer["type"]
            if kind in _BRIEF:
                conv.append(_brief(layer))
            elif kind == "Linear":
                widths.append(layer["out_features"])
            elif kind in training:
                training[kind].add(layer["rate" if kind == "Dropout" else "std"])
            elif kind in names:
                activations.append(names[kind])
        hidden = tuple(widths[:-1])
        of_conv = sum(layer["type"] == "Conv2d" for layer in layers)
        is_known = len(set(activations[: of_conv + 1])) < 2 and None not in conv
        if not is_known or len(activations) != len(hidden) + of_conv:
            what = f"{len(hidden)} hidden layers"
            if of_conv:
                what = (
                    f"{of_conv} convolutions and {what}, or other windows (such as with dilation)"
                )
            raise ConfigError(
                f"initial_model: {self.path} has {len(activations)} activations for {what}, which "
                f"python -m xpnet.train does not make: train it in Python, with xpnet.fit()"
            )
        found: dict[str, Any] = {
            "hidden": hidden,
            "batch_norm": any(layer["type"].startswith("BatchNorm") for layer in layers),
            "dtype": str(self.model.network.dtype),
            "normalise": "unit" if self._is_unit() else "standard",
        }
        if conv:
            found["conv"] = tuple(map(str, conv))
        if activations:
            of_hidden = activations[of_conv:] or activations[:1]
            found["activation"] = _shortened(tuple(of_hidden))
        for name, values in zip(("dropout", "noise"), training.values(), strict=True):
            if len(values) < 2:
                found[name] = max(values, default=0.0)
        return found

    def _is_unit(self) -> bool:
        scale, shift = self.model.normalisation.scale, self.model.normalisation.shift
        units = [1.0, 1 / 255]
        return not numpy.any(shift) and any(numpy.all(scale == unit) for unit in units)

    def copy_into(self, network: Sequential, data: Dataset, config: TrainConfig) -> None:
        """Copy the weights of the model to `network`, which was built from `config` for `data`.

        Raises `ConfigError`, naming what does not fit.
        """
        self._require_fit(data, config)
        ours, theirs = _descriptions(network), _descriptions(self.model.network)
        if ours != theirs:
            here, there = next(
                (a, b) for a, b in zip([*ours, None], [*theirs, None], strict=False) if a != b
            )
            raise ConfigError(
                f"initial_model: {self.path} has {_layer_text(there)} where the settings give "
                f"{_layer_text(here)}: leave the settings of the network out, or train in Python"
            )
        pairs = zip(
            _inference_layers(network.layers),
            _inference_layers(self.model.network.layers),
            strict=True,
        )
        for layer, trained in pairs:
            layer.trainable = trained.trainable
        old = self.model.network.state_dict()
        old_positions, new_positions = _positions(old), _positions(network.state_dict())
        new_position = dict(zip(old_positions, new_positions, strict=True))
        state = {}
        for name, values in old.items():
            position, _, parameter = name.partition(".")
            state[f"{new_position[position]}.{parameter}"] = values
        network.load_state_dict(state)

    def _require_fit(self, data: Dataset, config: TrainConfig) -> None:
        network, about = self.model.network, self.model.network.metadata
        if network.in_features != data.features:
            raise ConfigError(
                f"initial_model: {self.path} takes {network.in_features} features a sample, and "
                f"{config.dataset} has {data.features}"
            )
        knows_classes = isinstance(about, dict) and "classes" in about
        same = self.model.classes == data.classes
        if not (same if knows_classes else network.out_features == len(data.classes)):
            raise ConfigError(
                f"initial_model: {self.path} has {len(self.model.classes)} classes "
                f"({join_names(self.model.classes)}), and {config.dataset} has {len(data.classes)} "
                f"({join_names(data.classes)})"
            )
        shape = self.model.image_shape
        if shape is not None and data.image_shape is not None and shape != data.image_shape:
            raise ConfigError(
                f"initial_model: {self.path} takes images of {shape_text(shape)}, and those of "
                f"{config.dataset} have {shape_text(data.image_shape)}"
            )
        is_pixels = data.x.dtype == numpy.uint8
        if self.model.pixels is not None and self.model.pixels != is_pixels:
            kinds = ("numbers with a fraction", "whole pixels 0..255")
            raise ConfigError(
                f"initial_model: {self.path} was trained on {kinds[self.model.pixels]}, and "
                f"{config.dataset} holds {kinds[is_pixels]}"
            )

    def normalisation(self, config: TrainConfig, made: Normalisation) -> Normalisation:
        """The normalisation of the model; that of the settings, `made`, if its file has none.

        Raises `ConfigError` where `config.normalise` contradicts the model.
        """
        about = self.model.network.metadata
        if not isinstance(about, dict) or "normalisation" not in about:
            return made
        found = "unit" if self._is_unit() else "standard"
        if config.normalise != found:
            raise ConfigError(
                f"normalise: {self.path} was trained with {found}, found {config.normalise}: leave "
                f"normalise out"
            )
        return self.model.normalisation


def model_file(config: TrainConfig) -> Path:
    """The file of `config.initial_model`, which may be a run folder."""
    path = Path(_path_setting(config))
    return path / MODEL if path.is_dir() else path


def apply_initial_model(config: TrainConfig, initial: InitialModel | None = None) -> TrainConfig:
    """`config` with the settings of its initial model, except those that were given.

    `initial`: that model, if it was read already. Without an initial model `config` is returned
    unchanged. Raises `ConfigError` for a given setting that contradicts the model, and
    `CheckpointError` for a model that cannot be read.
    """
    if config.initial_model is None:
        return config
    initial = initial or InitialModel.read(config)
    found, given = initial.settings(), config.model_fields_set
    layers = len(found["hidden"])
    for name in ("conv", "hidden", "activation", "batch_norm"):
        here, there = getattr(config, name), found.get(name, getattr(config, name))
        # One activation stands for all layers.
        both = [v * layers if name == "activation" and len(v) == 1 else v for v in (here, there)]
        if name in given and both[0] != both[1]:
            raise ConfigError(
                f"{name}: the initial model {initial.path} has {_setting_text(there)}, found "
                f"{_setting_text(here)}: leave {name} out"
            )
    for name in ("dropout", "noise"):
        if name not in given and name not in found:
            raise ConfigError(
                f"{name}: the initial model {initial.path} has several values of it: give the one "
                f"to train with"
            )
    if "split_seed" not in given:
        found["split_seed"] = _split_seed_of(initial.path.parent, config)
    taken = {name: value for name, value in found.items() if name not in given}
    whole = {name: getattr(config, name) for name in given} | taken
    return make_config(whole | {"initial_model_sha256": initial.sha256})


def _split_seed_of(folder: Path, config: TrainConfig) -> int | None:
    """The split seed of the run in `folder`, if it has the same data; else None.

    With another split the network would be tested on samples that it was trained on.
    """
    try:
        run = make_config(read_toml(folder / "config.toml"))
    except ConfigError:
        # There is no file, or it is not that of a run.
        return None
    return run.seed_of_split if run.dataset == config.dataset else None


def _path_setting(config: TrainConfig) -> str:
    assert config.initial_model is not None
    return config.initial_model


def _shortened(activations: tuple[str, ...]) -> tuple[str, ...]:
    return activations[:1] if len(set(activations)) == 1 else activations


def _setting_text(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()


def _descriptions(network: Sequential) -> list[dict[str, Any]]:
    """The descriptions of the layers that prediction uses, without `trainable`."""
    plain = [{k: v for k, v in x.items() if k != "trainable"} for x in network.architecture()]
    return [layer for layer in plain if layer["type"] not in _TRAINING_ONLY]


def _inference_layers(layers: Iterable[Layer]) -> list[Layer]:
    return [layer for layer in layers if type(layer).__name__ not in _TRAINING_ONLY]


def _positions(state: dict[str, Any]) -> list[str]:
    """The positions of the layers with state, as in the names of their arrays."""
    return sorted({name.partition(".")[0] for name in state}, key=int)


def _layer_text(layer: dict[str, Any] | None) -> str:
    if layer is None:
        return "no further layer"
    values = ", ".join(f"{k}={short_repr(v, 20)}" for k, v in layer.items() if k != "type")
    return f"{layer['type']}({values})"
