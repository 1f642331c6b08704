"""`python -m xpnet.train`: from a file of digits to a trained, saved, pictured network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy
import threadpoolctl

from xpnet import command
from xpnet.backend import Backend
from xpnet.build import (
    build_augmentation,
    build_network,
    fit_as_configured,
    fit_normalisation,
    read_splits,
    to_device,
)
from xpnet.callbacks import Progress, StopAtInterrupt
from xpnet.checkpoint import save, write_atomically
from xpnet.config import TrainConfig, from_command_line
from xpnet.data import Normalisation, Splits
from xpnet.errors import ConfigError, DivergenceError
from xpnet.history import History, Record
from xpnet.network import Sequential
from xpnet.report import collect_metrics, describe_data, describe_test, draw
from xpnet.training import evaluate


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code (0, 2 bad input, 3 divergence, 130 Ctrl-C)."""
    arguments = sys.argv[1:] if argv is None else argv

    def action() -> int:
        train(from_command_line(arguments, "python -m xpnet.train"))
        return 0

    return command.run(action)


def train(config: TrainConfig) -> Path:
    """Read, build, train, test, save and draw as `config` says; returns the run folder."""
    backend = Backend(config.device)
    if config.device == "auto":
        print(f"device    auto chose {backend.device}")
    source, splits = read_splits(config)
    print(describe_data(source, splits))
    with threadpoolctl.threadpool_limits(config.threads, user_api="blas"):
        config = config.model_copy(update={"threads": config.threads or blas_threads()})
        network = build_network(config, splits.train, backend)
        normalisation = fit_normalisation(config, splits.train)
        network.metadata = {
            "classes": list(splits.train.classes),
            "image_shape": list(splits.train.image_shape or ()) or None,
            "normalisation": {"scale": normalisation.scale, "shift": normalisation.shift},
            "pixels": splits.train.x.dtype == numpy.uint8,
        }
        augmentation = build_augmentation(config, splits.train)
        print(f"\n{network.summary()}\n")
        folder = make_run_folder(config)
        history, kept = fit_network(config, network, splits, normalisation, folder)
        tested = evaluate(network, to_device(network, splits.test, normalisation))
    print(f"\n{describe_test(tested, splits.test.classes)}\n")
    metrics = collect_metrics(config, backend, source, splits, network, history, kept, tested)
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    draw(folder, network, history, tested, splits, normalisation, augmentation)
    print(f"results   {folder}/")
    for path in sorted(folder.iterdir()):
        print(f"          {path.name}")
    return folder


def fit_network(
    config: TrainConfig,
    network: Sequential,
    splits: Splits,
    normalisation: Normalisation,
    folder: Path,
) -> tuple[History, Record]:
    """Train, and leave the history and the model in `folder`, interrupted or not.

    Returns the history and the record that the weights kept belong to: the last one, or with
    early stopping the one of the lowest validation loss.
    """
    history = History()
    try:
        kept = fit_as_configured(
            config,
            network,
            splits.train,
            splits.validation,
            normalisation,
            callbacks=[Progress(), StopAtInterrupt()],
            history=history,
        )
    except DivergenceError as error:
        history.to_csv(folder / "history.csv")
        raise DivergenceError(f"{error} (history so far: {folder}/history.csv)") from None
    except KeyboardInterrupt:
        _keep(network, history, folder)
        print(f"\ninterrupted: history and model so far are in {folder}/")
        raise
    _keep(network, history, folder)
    if kept is not history.records[-1]:
        print(
            f"kept the weights of epoch {kept.epoch}, whose validation loss "
            f"{kept.val_loss:.4f} is the lowest"
        )
    return history, kept


def _keep(network: Sequential, history: History, folder: Path) -> None:
    history.to_csv(folder / "history.csv")
    save(network, folder / "model.safetensors")


def make_run_folder(config: TrainConfig) -> Path:
    """A new folder with `config.toml` in it. Nothing that exists is ever written over."""
    name = Path(config.dataset).name.partition(".")[0] or "run"
    numbered = (Path("runs") / f"{name}-{number:03}" for number in range(1, 100_000))
    for folder in [config.run] if config.run else numbered:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder != config.run:
                continue
            if not folder.is_dir() or any(folder.iterdir()):
                raise ConfigError(
                    f"run: {folder} exists and is not an empty folder: name another"
                ) from None
        except OSError as error:
            raise ConfigError(
                f"run: {folder} cannot be made ({error.strerror}): name another with --run"
            ) from None
        write_atomically(folder / "config.toml", config.to_toml().encode())
        return folder
    raise ConfigError("run: no free folder name is left in runs/: name one with --run")


def blas_threads() -> int:
    """How many threads the BLAS of this process uses now."""
    pools = threadpoolctl.threadpool_info()
    return max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)


if __name__ == "__main__":
    raise SystemExit(main())
