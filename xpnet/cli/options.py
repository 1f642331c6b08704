"""The flags of `python -m xpnet.train`: all settings of `TrainConfig`, in groups, with help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from xpnet.cli.parser import Parser
from xpnet.config import TrainConfig, make_config, read_settings
from xpnet.errors import ConfigError
from xpnet.runs.run_folder import is_same_path
from xpnet.utils.shell import flag_of
from xpnet.utils.toml import read_toml

GROUPS = {
    "data": "dataset",
    "network": "conv",
    "regularisation": "dropout",
    "augmentation": "augment_shift",
    "optimisation": "optimizer",
    "run": "run",
}
"""The groups of the help, and the first setting of each."""

METAVARS = {
    "dataset": "NAME|PATH",
    "target": "COLUMN",
    "validation": "0.2|1000",
    "test": "0.2|1000",
    "split_seed": "N",
    "conv": "16k5,pool",
    "hidden": "512,256",
    "activation": "relu,tanh",
    "initializer": "NAME",
    "initializer_bound": "A",
    "initial_model": "FILE|FOLDER",
    "initial_model_sha256": "DIGEST",
    "dropout": "P",
    "noise": "DEVIATION",
    "label_smoothing": "SHARE",
    "l2": "LAMBDA",
    "weight_decay": "DECAY",
    "augment_shift": "PIXELS",
    "augment_rotation": "DEGREES",
    "augment_scale": "CHANGE",
    "augment_shear": "DEGREES",
    "augment_elastic": "ALPHA",
    "augment_elastic_sigma": "PIXELS",
    "augment_probability": "P",
    "learning_rate": "RATE",
    "warm_up": "SHARE",
    "step_every": "EPOCHS",
    "step_factor": "FACTOR",
    "momentum": "MOMENTUM",
    "beta1": "DECAY",
    "beta2": "DECAY",
    "decay_rate": "DECAY",
    "epsilon": "EPSILON",
    "clip_norm": "NORM",
    "epochs": "N",
    "batch_size": "N|full",
    "patience": "N",
    "run": "FOLDER",
    "seed": "N",
    "log_every": "INTERVAL",
    "checkpoint_every": "INTERVAL",
    "resume": "FOLDER",
    "device": "DEVICE",
    "threads": "N",
    "reproducible_parts": "N",
}
"""The placeholders of values in the help, unless it lists the possible values."""

_LISTS = ("conv", "hidden", "activation")
_DESCRIPTION = """Train a classifier, test it, and write the model, the settings, figures and a
report to a folder in runs/. Without any setting it trains on the 5,000 digits that come with xpnet,
offline, in under a minute."""
_EPILOG = """A list can be written 512,256 or 512 256. The value none removes a setting of the
--config file. The weights of the last epoch are tested and saved; with --patience, the weights of
the epoch with the lowest validation loss. Example: python -m xpnet.train --dataset table.csv
--target species --normalise standard --hidden 16."""


class _Formatter(argparse.HelpFormatter):
    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # Not "512,256 [512,256 ...]".
        if action.nargs == "+" and isinstance(action.metavar, str):
            return action.metavar
        return super()._format_args(action, default_metavar)


def _is_missing(folder: Path) -> bool:
    """Whether there is no such path; False if it cannot be read for another reason."""
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


def from_command_line(argv: list[str], command: str, also: Iterable[str] = ()) -> TrainConfig:
    """The settings: flags override the TOML file of `--config` or `--resume`, which overrides
    defaults.

    `command` is the name of the program, for its help and messages; `also` are flags of another
    parser, to suggest for a misspelt flag. `--help` prints and exits. Raises `ConfigError` in one
    line for an unknown flag, key or value.
    """
    given = vars(_parser(command, also).parse_args(argv))
    config, resume = given.pop("config", None), given.get("resume")
    if config is not None and resume is not None:
        raise ConfigError("resume: the run has its own settings: leave config out")
    values: dict[str, Any] = {}
    if resume is not None:
        path = Path(resume) / "config.toml"
        if _is_missing(Path(resume)):
            raise ConfigError(f"resume: there is no folder {resume}: give the folder of a run")
        values = read_settings(Path(resume))
    elif config is not None:
        path = Path(config)
        values = read_toml(path)
    if values:
        make_config(values, source=f"{path}: ")
    initial = given.get("initial_model")
    if initial is not None and not is_same_path(values.get("initial_model"), initial):
        # The digest in the file is that of another model.
        values.pop("initial_model_sha256", None)
    return make_config(
        values | {name: _value(name, text) for name, text in given.items()}, from_text=True
    )


def _value(name: str, given: Any) -> Any:
    if isinstance(given, list):
        return " ".join(given)
    is_optional = type(None) in get_args(TrainConfig.model_fields[name].annotation)
    return None if is_optional and str(given).lower() == "none" else given


def _parser(command: str, also: Iterable[str]) -> Parser:
    parser = Parser(
        command,
        also=also,
        usage="%(prog)s [--config FILE.toml] [settings]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Formatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="print this help and exit")
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="a TOML file of settings, such as the config.toml of a run; flags override it",
    )
    group: Any = parser
    beginnings = {first: name for name, first in GROUPS.items()}
    for name, field in TrainConfig.model_fields.items():
        if name in beginnings:
            group = parser.add_argument_group(beginnings[name])
        _add(group, name, field)
    return parser


def _add(group: Any, name: str, field: FieldInfo) -> None:
    about = " ".join((field.description or "").split())
    if field.default is not None:
        about += f" (default: {default_text(field.default)})"
    about = about.replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(flag_of(name), action=argparse.BooleanOptionalAction, help=about)
        return
    metavar = METAVARS.get(name) or f"{{{','.join(map(str, get_args(field.annotation)))}}}"
    more: dict[str, Any] = {"nargs": "+"} if name in _LISTS else {}
    group.add_argument(flag_of(name), metavar=metavar, help=about, **more)


def default_text(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return value if isinstance(value, str) else f"{value:g}"


def text_of(name: str, value: Any) -> list[str]:
    """The command-line words that set the setting `name` to this value."""
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(f"no_{name}")]
    if isinstance(value, tuple):
        return [flag_of(name), ",".join(map(str, value))]
    return [flag_of(name), "none" if value is None else str(value)]
