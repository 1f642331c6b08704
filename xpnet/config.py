"""Every setting of a training run, declared once: CLI flags, TOML keys and checks follow.

pydantic turns the declaration below into validation with messages, and pydantic-settings into
command-line flags; both are used because they do all three from one typed class.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xpnet.errors import ConfigError, cut, quoted, shown
from xpnet.history import parse_checkpoint_every, parse_log_every

Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu"]
InitializerName = Literal[
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "uniform",
]

AUGMENTATIONS = (
    "augment_shift",
    "augment_rotation",
    "augment_scale",
    "augment_shear",
    "augment_elastic",
)
"""The kinds of augmentation: the settings that are its strengths."""

_MOST_CHARACTERS = 2**17
_MOST_DOTS = 100
_MOST_FAULTS = 8
_ONLY_WITH = {
    "initializer_bound": ("initializer", ("uniform",)),
    "step_every": ("schedule", ("step",)),
    "step_factor": ("schedule", ("step",)),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "beta1": ("optimizer", ("adam", "adamw")),
    "beta2": ("optimizer", ("adam", "adamw")),
    "decay_rate": ("optimizer", ("rmsprop",)),
    "epsilon": ("optimizer", ("adam", "adamw", "rmsprop")),
}


class TrainConfig(BaseModel):
    """Train a classifier and leave behind all that a person wants to see.

    With no flags: the 5,000 digits that come with xpnet, offline, in under a minute.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    dataset: str = "digits"
    """digits (embedded), mnist, or a path: folder (IDX, .npy), .csv[.gz|.zip], .npz, .npy"""
    normalise: Literal["unit", "standard"] = "unit"
    """unit: pixels / 255; standard: zero mean and unit deviation over the training part"""
    validation: float | None = Field(None, ge=0)
    """fraction or number of samples kept for validation [default: as many as for the test]"""
    test: float | None = Field(None, gt=0)
    """fraction or number of samples kept for the test, all parts pooled [default: the
    dataset's own test part, or a fifth]"""

    hidden: tuple[int, ...] = (512, 256)
    """units of each hidden layer, such as 512,256"""
    activation: tuple[Activation, ...] = ("relu",)
    """of the hidden layers: one for all or one for each"""
    initializer: InitializerName = "he_normal"
    """of the weights"""
    bias_initializer: Literal["zeros", "uniform"] = "zeros"
    """of the biases"""
    initializer_bound: float = Field(0.5, gt=0)
    """the a of the initializer 'uniform', which draws from -a to a"""
    dropout: float = Field(0.4, ge=0, lt=1)
    """probability that a hidden unit is dropped in training"""
    batch_norm: bool = False
    """normalise what goes into each activation over the batch"""
    noise: float = Field(0.0, ge=0)
    """deviation of the Gaussian noise that training adds to the input and to what goes into
    each activation"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of each training label that is spread over all classes"""

    augment_shift: float = Field(0.0, ge=0)
    """training pictures are shifted by up to so many pixels"""
    augment_rotation: float = Field(0.0, ge=0)
    """and rotated by up to so many degrees"""
    augment_scale: float = Field(0.0, ge=0, lt=1)
    """and scaled by a factor of up to 1 plus or minus this"""
    augment_shear: float = Field(0.0, ge=0, lt=90)
    """and sheared by up to so many degrees"""
    augment_elastic: float = Field(0.0, ge=0)
    """and distorted elastically (Simard's alpha, such as 34)"""
    augment_elastic_sigma: float = Field(4.0, gt=0)
    """pixels over which the elastic displacements are smoothed"""
    augment_probability: float = Field(1.0, ge=0, le=1)
    """that a training picture is changed at all, each time it is seen"""

    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "adam"
    """how gradients become updates"""
    learning_rate: float = Field(2e-3, ge=0)
    """the highest learning rate of the schedule"""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """how the learning rate goes from there"""
    warm_up: float = Field(0.05, ge=0, lt=1)
    """fraction of all updates over which the rate first rises (one_cycle has its own)"""
    step_every: int = Field(10, ge=1)
    """epochs between two drops of schedule 'step'"""
    step_factor: float = Field(0.1, gt=0, le=1)
    """what schedule 'step' multiplies the rate by"""
    momentum: float = Field(0.0, ge=0, lt=1)
    """of sgd and rmsprop"""
    nesterov: bool = False
    """Nesterov's form of sgd's momentum"""
    beta1: float = Field(0.9, ge=0, lt=1)
    """of adam and adamw: decay of the first moment"""
    beta2: float = Field(0.999, ge=0, lt=1)
    """of adam and adamw: decay of the second moment"""
    decay_rate: float = Field(0.99, ge=0, lt=1)
    """of rmsprop: decay of the squared gradient"""
    epsilon: float = Field(1e-8, ge=0)
    """of adam, adamw and rmsprop: keeps the division finite"""
    l2: float = Field(0.0, ge=0)
    """lambda of the penalty lambda/2N sum W^2 in the loss, N training samples"""
    weight_decay: float | None = Field(None, ge=0)
    """decoupled decay of the weights, times the learning rate, each step [default: the
    optimizer's own, 0.01 for adamw and 0 for the others]"""
    clip_norm: float | None = Field(None, gt=0)
    """shorten the gradient of all parameters together to this norm where it is longer
    [default: never]"""

    epochs: int = Field(20, ge=1)
    """passes over the training part"""
    batch_size: int | Literal["full"] = 64
    """samples an update, or full"""
    patience: int | None = Field(None, ge=1)
    """stop after so many records without a lower validation loss, keep the best weights
    [default: never]"""
    log_every: str = "1 epoch"
    """when to record: '10 epochs', '500 iterations'"""
    train_metrics: Literal["running", "evaluated"] = "running"
    """training loss and accuracy: means while training, or evaluated at each record"""
    seed: int = Field(0, ge=0)
    """of weights, split, order of samples and dropout"""

    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto"""
    dtype: Literal["float32", "float64"] = "float32"
    """of all parameters and arithmetic"""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """of the products of two float32 matrices on a GPU, whose weights stay float32"""
    threads: int | None = Field(None, ge=1)
    """threads of the BLAS [default: as many as it takes by itself]"""
    run: Path | None = None
    """folder to make for the results [default: runs/DATASET-001, then -002, ...]"""
    checkpoint_every: str = "60 seconds"
    """when to leave a checkpoint in that folder: '2 epochs', '30 seconds'"""
    resume: Path | None = None
    """folder of a run that ended early, to go on with; its config.toml has the settings"""

    @field_validator("hidden", "activation", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, (list, tuple)):
            return tuple(part for part in value if part != "")
        return (value,) if isinstance(value, int) else value

    @field_validator("log_every", "checkpoint_every", mode="before")
    @classmethod
    def _number_means_epochs(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("log_every")
    @classmethod
    def _log_every(cls, value: str) -> str:
        try:
            parse_log_every(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("log_every ")) from None
        return value

    @field_validator("checkpoint_every")
    @classmethod
    def _checkpoint_every(cls, value: str) -> str:
        try:
            parse_checkpoint_every(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("checkpoint_every ")) from None
        return value

    @model_validator(mode="after")
    def _together(self) -> TrainConfig:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: every width must be above 0, found {list(self.hidden)}")
        if len(self.activation) not in (1, len(self.hidden)):
            raise ValueError(
                f"activation: give one, or one for each of the {len(self.hidden)} hidden "
                f"layers, found {len(self.activation)}"
            )
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size: must be above 0 or 'full', found {self.batch_size}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0, found momentum 0")
        if self.resume is not None and self.run is not None:
            raise ValueError("resume: the run goes on in its own folder: leave run out")
        if self.precision != "float32" and self.device == "cpu":
            raise ValueError(
                f"precision: {self.precision} needs an NVIDIA GPU, found device cpu: use --device "
                f"cuda, or leave precision out"
            )
        if self.precision != "float32" and self.dtype != "float32":
            raise ValueError(
                f"precision: {self.precision} is of dtype float32, found dtype {self.dtype}: "
                f"leave precision out"
            )
        if self.patience is not None and self.validation == 0:
            raise ValueError("patience: needs a validation part, found validation = 0")
        for name, (setting, values) in _ONLY_WITH.items():
            given, default = getattr(self, name), type(self).model_fields[name].default
            if given != default and getattr(self, setting) not in values:
                raise ValueError(
                    f"{name}: works only with {setting} {' or '.join(values)}, found {setting} "
                    f"{getattr(self, setting)}: leave {name} out"
                )
        self._check_augmentation()
        for name in ("validation", "test"):
            part = getattr(self, name)
            if part is not None and part >= 1 and part != math.floor(part):
                raise ValueError(
                    f"{name}: give a fraction below 1 or a whole number of samples, found {part}"
                )
        return self

    def _check_augmentation(self) -> None:
        sigma = type(self).model_fields["augment_elastic_sigma"].default
        if self.augment_elastic_sigma != sigma and not self.augment_elastic:
            raise ValueError(
                "augment_elastic_sigma: works only with an augment_elastic above 0, found 0: "
                "leave augment_elastic_sigma out"
            )
        if self.augment_probability != 1 and not any(getattr(self, n) for n in AUGMENTATIONS):
            raise ValueError(
                f"augment_probability: works only with one of {', '.join(AUGMENTATIONS)} above "
                f"0, found none: leave augment_probability out"
            )

    def to_toml(self) -> str:
        """The settings as a TOML file, without those of folders; what is not set is left out."""
        lines = [
            f"{name} = {toml_value(value)}"
            for name, value in self.model_dump(exclude={"run", "resume"}).items()
            if value is not None
        ]
        return "\n".join([*lines, ""])


def toml_value(value: Any) -> str:
    """One value (bool, number, string, or a list of these) as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's string escapes are a subset of TOML's.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file. Raises `ConfigError` that names the file."""
    try:
        # It may be a pipe that never ends.
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1)
        strange = _strange(text)
        found = {} if strange else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    # What is wrong with numbers of many digits and with many brackets, Python says its own way.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML ({quoted(error)})") from None
    if strange:
        raise ConfigError(f"{path}: {strange}: these are no settings")
    if not _is_small(found):
        raise ConfigError(f"{path}: not valid TOML (a whole number of more than 64 bits)")
    return found


def _strange(text: str) -> str:
    """What would keep the parser busy: it takes the square of a name's dots as its time."""
    if len(text) > _MOST_CHARACTERS:
        return f"has more than {_MOST_CHARACTERS} characters"
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _MOST_DOTS:
            return f"line {number} has more than {_MOST_DOTS} dots"
    return ""


def _is_small(value: Any) -> bool:
    """Whether all whole numbers in it are of 64 bits, as TOML has them."""
    if isinstance(value, (dict, list)):
        return all(map(_is_small, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def settings_of(run: Path) -> dict[str, Any]:
    """The settings in the `config.toml` of a run folder. Raises `ConfigError`."""
    try:
        return read_toml(run / "config.toml")
    except ConfigError as error:
        raise ConfigError(f"resume: {run} is no run that could go on: {error}") from None


def make(values: dict[str, Any], source: str = "") -> TrainConfig:
    """A checked `TrainConfig`. Raises `ConfigError`: one line, all that is wrong in it."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise ConfigError(source + explain(error)) from None


def explain(error: ValidationError) -> str:
    """Pydantic's findings as one line: which setting, what is wrong, what was found."""
    parts: dict[str, list[str]] = {}
    unknown: list[str] = []
    for finding in error.errors():
        where = str(finding["loc"][0]) if finding["loc"] else ""
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            unknown.append(where if where.isidentifier() and len(where) < 40 else shown(where, 40))
            continue
        if where and "found" not in message:
            message = f"{message[:1].lower()}{message[1:]}, found {shown(finding['input'])}"
        parts.setdefault(where, []).append(message)
    # A union (a number or 'full') reports each of its kinds, a list each of its values.
    texts = {where: cut("; or ".join(found), 300) for where, found in parts.items()}
    faults = [f"{where}: {text}" if where else text for where, text in texts.items()]
    if unknown:
        names = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        verb = "is no setting" if len(unknown) == 1 else "are no settings"
        faults.append(f"{names}: {verb}; there are {', '.join(TrainConfig.model_fields)}")
    more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
    return "; ".join(faults[:_MOST_FAULTS] + more)


def from_command_line(argv: list[str], command: str) -> TrainConfig:
    """Flags over the TOML file of `--config` (or of `--resume`) over the defaults.

    `--help` prints and exits.

    Raises `ConfigError` in one line for an unknown flag, key or value.
    """
    from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

    class Flags(TrainConfig, BaseSettings):
        __doc__ = TrainConfig.__doc__

        model_config = SettingsConfigDict(
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_avoid_json=True,
            cli_exit_on_error=False,
            cli_prog_name=command,
        )

        config: Path | None = None
        """a TOML file of these settings, which flags override"""

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: Any, init_settings: Any, *environment: Any, **more: Any
        ) -> tuple[Any, ...]:
            # A setting comes from a flag, a file or the default, never from the environment.
            return (init_settings,)

    first = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    try:
        given = first.parse_known_args(argv)[0]
        if given.config and given.resume:
            raise ConfigError("resume: the run has its own settings: leave config out")
        path = given.resume / "config.toml" if given.resume else given.config
        values = settings_of(given.resume) if given.resume else read_toml(path) if path else {}
        if path:
            make(values, source=f"{path}: ")
        flags = CliApp.run(Flags, cli_args=argv, **values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    except (SettingsError, argparse.ArgumentError) as error:
        text = str(error).removeprefix("error parsing CLI: ")
        raise ConfigError(f"{text}: see {command} --help") from None
    return make(flags.model_dump(exclude={"config"}, exclude_unset=True))
