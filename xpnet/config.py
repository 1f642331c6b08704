"""Every setting of a training run, declared once for flags, TOML keys and checks.

pydantic validates settings by the declaration below; `xpnet.cli.options` derives the command-line
flags from it. Values from a TOML file or Python must be of the declared type: `true`, `"5"` and
`20.0` are not integers. Flags are text, which is converted.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xpnet.errors import ConfigError, short_repr, truncate
from xpnet.utils.image_layers import image_layers
from xpnet.utils.intervals import parse_checkpoint_every, parse_log_every
from xpnet.utils.toml import INTEGER_LIMIT, read_toml, toml_value

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
"""The settings that are strengths of augmentation."""

_MOST_ERRORS = 8
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
    """All settings of a training run of a classifier; the defaults train on the digits."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    dataset: str = "digits"
    """the data set: digits (5,000 that come with xpnet), mnist, or a path: a .csv, .csv.gz,
    .csv.zip, .npz or .npy file, or a folder of IDX, .npy, CIFAR files, or of class subfolders"""
    target: str | None = None
    """the column of a CSV file that holds the classes: its name or, without a header, first, last
    or its number from 1 (default: the column named label or, without a header, the first)"""
    normalise: Literal["unit", "standard"] = "unit"
    """the scaling of the values: unit (pixels / 255, other numbers unchanged) or standard (mean 0
    and standard deviation 1 over the training set; for each feature of a table)"""
    validation: float | None = Field(None, ge=0)
    """the size of the validation set, as a fraction or a number of samples; 0 for none (default:
    the same number as in the test set)"""
    test: float | None = Field(None, gt=0)
    """the size of the test set, as a fraction or a number of samples, drawn from all samples
    (default: the test set that the data come with, else a fifth of the samples)"""
    split_seed: int | None = Field(None, ge=0, lt=INTEGER_LIMIT)
    """the seed that divides the data; runs with the same split seed are tested on the same samples
    (default: with --initial-model the split seed of its run, else --seed)"""

    conv: tuple[str, ...] = ()
    """convolution and pooling before the hidden layers. 16k5: convolution, 16 channels, 5 x 5
    kernel; 16k5s2p1g2: also stride 2, padding 1, 2 groups; pool: max pooling over 2 x 2; pool3s2:
    over 3 x 3, stride 2; average, average3s2: average pooling; global: global average pooling"""
    hidden: tuple[int, ...] = (512, 256)
    """the numbers of units of the hidden layers, separated by commas or spaces"""
    activation: tuple[Activation, ...] = ("relu",)
    """the activation function of the hidden layers, one for all or one for each: relu,
    leaky_relu, sigmoid, tanh or gelu; convolutions use the first of them"""
    batch_norm: bool = False
    """batch normalisation before each activation"""
    initializer: InitializerName = "he_normal"
    """the initial weights: he_normal, he_uniform, glorot_normal, glorot_uniform, xavier_normal,
    xavier_uniform, lecun_normal, lecun_uniform or uniform"""
    bias_initializer: Literal["zeros", "uniform"] = "zeros"
    """the initial biases"""
    initializer_bound: float = Field(0.5, gt=0, lt=1e38)
    """the bound a of the initializer uniform, which draws from -a to a"""
    initial_model: str | None = None
    """a model to start from instead of random weights: a .safetensors file, or a run folder, whose
    model.safetensors is used; the layers are those of the model (default: none)"""
    initial_model_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """the expected SHA-256 of the file of the initial model; config.toml records it (default: not
    checked)"""

    dropout: float = Field(0.4, ge=0, lt=1)
    """the probability of dropping a hidden unit in training"""
    noise: float = Field(0.0, ge=0, lt=1e38)
    """the standard deviation of the Gaussian noise added to the input and before each activation
    in training"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """the share of each training label that is distributed evenly over all classes"""
    l2: float = Field(0.0, ge=0)
    """the factor lambda of the penalty lambda/2N sum W^2 in the loss, for N training samples"""
    weight_decay: float | None = Field(None, ge=0)
    """the decoupled weight decay, multiplied by the learning rate (default: 0.01 for adamw, 0 for
    the other optimizers)"""

    augment_shift: float = Field(0.0, ge=0)
    """the largest shift of a training image, in pixels"""
    augment_rotation: float = Field(0.0, ge=0)
    """the largest rotation of a training image, in degrees"""
    augment_scale: float = Field(0.0, ge=0, lt=1)
    """the largest change of scale of a training image: 0.1 for factors from 0.9 to 1.1"""
    augment_shear: float = Field(0.0, ge=0, lt=90)
    """the largest shear of a training image, in degrees"""
    augment_elastic: float = Field(0.0, ge=0)
    """the strength of the elastic distortion of a training image (Simard's alpha, such as 34)"""
    augment_elastic_sigma: float = Field(4.0, gt=0)
    """the standard deviation, in pixels, of the filter that smooths the elastic distortion"""
    augment_probability: float = Field(1.0, ge=0, le=1)
    """the probability that a training image is changed, each time it is used"""

    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "adam"
    """the optimizer"""
    learning_rate: float = Field(2e-3, ge=0)
    """the highest learning rate of the schedule"""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """the learning rate schedule over the run"""
    warm_up: float = Field(0.05, ge=0, lt=1)
    """the share of all updates in which the learning rate first rises (ignored by one_cycle)"""
    step_every: int = Field(10, ge=1, lt=INTEGER_LIMIT)
    """the number of epochs after which the schedule step lowers the learning rate"""
    step_factor: float = Field(0.1, gt=0, le=1)
    """the factor by which the schedule step multiplies the learning rate each time"""
    momentum: float = Field(0.0, ge=0, lt=1)
    """the momentum of sgd and rmsprop"""
    nesterov: bool = False
    """Nesterov momentum for sgd"""
    beta1: float = Field(0.9, ge=0, lt=1)
    """the decay rate of the first moment (the mean gradient) of adam and adamw"""
    beta2: float = Field(0.999, ge=0, lt=1)
    """the decay rate of the second moment (the mean squared gradient) of adam and adamw"""
    decay_rate: float = Field(0.99, ge=0, lt=1)
    """the decay rate of the mean squared gradient of rmsprop"""
    epsilon: float = Field(1e-8, ge=0)
    """the small number that adam, adamw and rmsprop add to the denominator"""
    clip_norm: float | None = Field(None, gt=0)
    """the largest norm of the gradient of all parameters; a larger gradient is scaled down
    (default: no limit)"""
    epochs: int = Field(20, ge=1, lt=INTEGER_LIMIT)
    """the number of passes over the training set"""
    batch_size: int | Literal["full"] = 64
    """the number of samples per update, or full for the whole training set"""
    patience: int | None = Field(None, ge=1, lt=INTEGER_LIMIT)
    """early stopping: stop after this number of records (by default one per epoch, see --log-every)
    without a lower validation loss, and keep the best weights (default: no early stopping)"""

    run: Path | None = None
    """the folder to create for the results (default: runs/DATASET-001, then -002 and so on)"""
    seed: int = Field(0, ge=0, lt=INTEGER_LIMIT)
    """the seed for the initial weights, the order of the samples, dropout and other noise, and the
    division of the data (unless --split-seed is given)"""
    log_every: str = "1 epoch"
    """the interval between two records (rows of history.csv): '10 epochs', '500 iterations'"""
    train_metrics: Literal["running", "evaluated"] = "running"
    """how training loss and accuracy are measured: running (means over the batches during training)
    or evaluated (on the whole training set at each record, without dropout)"""
    checkpoint_every: str = "60 seconds"
    """the interval between two checkpoints in the run folder: '2 epochs', '30 seconds'"""
    report: bool = True
    """write the figures and report.html at the end, which takes about three seconds;
    xpnet.report.report_again(FOLDER) in Python writes them later"""
    resume: Path | None = None
    """the folder of an unfinished run to resume, with the settings in its config.toml (default: a
    new run)"""
    device: str = "cpu"
    """the device to train on: cpu, cuda, cuda:N, or auto (a GPU if there is one)"""
    dtype: Literal["float32", "float64"] = "float32"
    """the dtype of the parameters and of all computations"""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """the precision of float32 matrix products on a GPU; the weights stay float32"""
    threads: int | None = Field(None, ge=1, lt=INTEGER_LIMIT)
    """the number of threads (default: as many as BLAS chooses; MPI ranks share the cores)"""
    reproducible_parts: int = Field(0, ge=0, lt=2**20)
    """a power of two: with it the result is bit-identical on 1, 2, 4, ... MPI ranks, up to this
    number; each batch is computed in this number of parts (0: off)"""

    @field_validator("dataset", "initial_model", mode="before")
    @classmethod
    def _check_utf8(cls, value: Any) -> Any:
        _require_no_nul(value)
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name is not UTF-8, so config.toml cannot hold it: rename the file or "
                f"folder, found {short_repr(value)}"
            ) from None
        return value

    @field_validator("run", "resume", mode="before")
    @classmethod
    def _to_path(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | Path):
            raise ValueError(f"input should be a path, found {short_repr(value)}")
        _require_no_nul(value)
        return Path(value) if isinstance(value, str) else value

    @field_validator("conv", mode="after")
    @classmethod
    def _check_conv(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, image_layers(value)))

    @field_validator("conv", "hidden", "activation", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        if isinstance(value, str):
            parts = re.split(r"\s*,\s*|\s+", value.strip())
            if len(parts) > 1 and "" in parts:
                raise ValueError(f"put one comma or a space between two, found {short_repr(value)}")
            return () if parts == [""] else tuple(parts)
        if isinstance(value, list):
            return tuple(value)
        return (value,) if isinstance(value, int) else value

    @field_validator("target", mode="before")
    @classmethod
    def _column_number_to_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("log_every", "checkpoint_every", mode="before")
    @classmethod
    def _epochs_to_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("log_every")
    @classmethod
    def _check_log_every(cls, value: str) -> str:
        try:
            parse_log_every(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("log_every ")) from None
        return value

    @field_validator("checkpoint_every")
    @classmethod
    def _check_checkpoint_every(cls, value: str) -> str:
        try:
            parse_checkpoint_every(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("checkpoint_every ")) from None
        return value

    @model_validator(mode="after")
    def _check_together(self) -> TrainConfig:
        if not all(0 < width < INTEGER_LIMIT for width in self.hidden):
            found = short_repr(list(self.hidden))
            raise ValueError(f"hidden: every width must be above 0 and below 2**63, found {found}")
        if len(self.activation) not in (1, len(self.hidden)):
            raise ValueError(
                f"activation: give one, or one for each of the {len(self.hidden)} hidden "
                f"layers, found {len(self.activation)}"
            )
        if isinstance(self.batch_size, int) and not 0 < self.batch_size < INTEGER_LIMIT:
            found = short_repr(self.batch_size)
            raise ValueError(f"batch_size: must be above 0 and below 2**63, or full, found {found}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0, found momentum 0")
        if self.resume is not None and self.run is not None:
            raise ValueError("resume: the run is resumed in its own folder: leave run out")
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
            raise ValueError("patience: needs a validation set, found validation = 0")
        if self.initial_model_sha256 is not None and self.initial_model is None:
            raise ValueError(
                "initial_model_sha256: works only with an initial_model, found none: leave "
                "initial_model_sha256 out"
            )
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

    @property
    def seed_of_split(self) -> int:
        """The seed of the division of the samples into parts."""
        return self.seed if self.split_seed is None else self.split_seed

    def to_toml(self) -> str:
        """The settings as a TOML file, without `run`, `resume` and settings that are None."""
        lines = [
            f"{name} = {toml_value(value)}"
            for name, value in self.model_dump(exclude={"run", "resume"}).items()
            if value is not None
        ]
        return "\n".join([*lines, ""])


def _require_no_nul(name: object) -> None:
    if "\0" in str(name):
        raise ValueError(f"a file name cannot hold a NUL character, found {short_repr(str(name))}")


def read_settings(run: Path) -> dict[str, Any]:
    """The settings in the `config.toml` of a run folder. Raises `ConfigError`."""
    try:
        return read_toml(run / "config.toml")
    except ConfigError as error:
        raise ConfigError(f"resume: {run} is not a run that can be resumed: {error}") from None


def make_config(
    values: dict[str, Any], source: str = "", *, from_text: bool = False
) -> TrainConfig:
    """A checked `TrainConfig`. Raises `ConfigError` with all errors in one line.

    `source`: the beginning of the message, such as the file. `from_text`: values may also be the
    text of a flag.
    """
    try:
        return TrainConfig.model_validate(values, strict=not from_text)
    except ValidationError as error:
        raise ConfigError(source + explain_errors(error)) from None


def explain_errors(error: ValidationError) -> str:
    """The errors of pydantic in one line: the setting, what is wrong, what was found."""
    parts: dict[str, list[str]] = {}
    unknown: list[str] = []
    for finding in error.errors():
        where = str(finding["loc"][0]) if finding["loc"] else ""
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            unknown.append(
                where if where.isidentifier() and len(where) < 40 else short_repr(where, 40)
            )
            continue
        if where and "found" not in message:
            message = f"{message[:1].lower()}{message[1:]}, found {short_repr(finding['input'])}"
        parts.setdefault(where, []).append(message)
    # A union (a number or 'full') reports each of its types, a list each of its values.
    texts = {where: truncate("; or ".join(found), 300) for where, found in parts.items()}
    messages = [f"{where}: {text}" if where else text for where, text in texts.items()]
    if unknown:
        names = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        verb = "is not a setting" if len(unknown) == 1 else "are not settings"
        messages.append(f"{names}: {verb}; the settings are {', '.join(TrainConfig.model_fields)}")
    more = [f"and {len(messages) - _MOST_ERRORS} more"] if len(messages) > _MOST_ERRORS else []
    return "; ".join(messages[:_MOST_ERRORS] + more)
