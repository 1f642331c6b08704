"""`python -m xpnet.train`: trains a classifier, tests it and writes its report."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import threadpoolctl

from xpnet._files import write_atomically
from xpnet.accel import cublas
from xpnet.backend import Backend
from xpnet.cli import ranks
from xpnet.cli.console import say
from xpnet.cli.options import from_command_line
from xpnet.config import TrainConfig
from xpnet.data import Normalisation, Splits
from xpnet.data.normalisation import scale_hint
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import BackendUnavailable, DivergenceError
from xpnet.network import Sequential
from xpnet.runs.factory import (
    build_augmentation,
    build_network,
    fit_normalisation,
    prediction_metadata,
    read_splits,
    to_device,
    train_from_config,
)
from xpnet.runs.initial_model import InitialModel, apply_initial_model
from xpnet.runs.run_folder import (
    METRICS,
    MODEL,
    REPORT,
    require_same_settings,
    resume_command,
    run_folder,
)
from xpnet.runs.summary import collect_facts, collect_metrics, describe_data, describe_test
from xpnet.runs.test_set import predict_test_set
from xpnet.serialization import save
from xpnet.training import evaluate
from xpnet.training.callbacks import Interrupted, Progress, StopAtInterrupt
from xpnet.training.checkpoints import Checkpoints
from xpnet.training.history import History, Record, loss_text
from xpnet.training.ranks import Ranks


def main(argv: list[str] | None = None) -> int:
    """The command; exit codes: 0, 2 invalid input, 3 divergence, 130 Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:] if argv is None else argv

    def action(group: Group) -> None:
        try:
            config = from_command_line(arguments, "python -m xpnet.train")
        except SystemExit as ended:
            raise ranks.HelpPrinted(ended.code) from None
        train(config, group)

    return ranks.run(action)


def train(config: TrainConfig, group: Group = ALONE) -> Path:
    """Read the data, train, test, save and write the report; returns the run folder.

    All ranks of `group` train; the first one does the rest.
    """
    if config.resume and group.broadcast((config.resume / METRICS).exists()):
        require_same_settings(config)
        say(f"{config.resume}/ is finished: there is nothing to do")
        return config.resume
    Ranks(group, config.reproducible_parts)  # an error before a folder is made
    initial = None if config.initial_model is None else InitialModel.read(config)
    config = apply_initial_model(config, initial)
    if config.report:
        _report_files()  # what cannot be imported is an error before training, not after it
    backend = Backend(device_of_rank(config.device, group))
    if config.device == "auto":
        say(f"device    auto chose {backend.device}")
    group.connect(backend)  # its errors, too
    cublas.require(config.precision, backend, config.dtype)
    source, splits = read_splits(config)
    say(*describe_data(source, splits).split("\n"))
    if initial is not None:
        say(f"weights   start from {initial.path}")
    hint = scale_hint(splits.train) if config.normalise == "unit" else ""
    if hint:
        say(hint)
    with threadpoolctl.threadpool_limits(config.threads or share_of_cores(group), user_api="blas"):
        config = config.model_copy(update={"threads": config.threads or blas_threads()})
        network = build_network(config, splits.train, backend, initial)
        normalisation = fit_normalisation(config, splits.train, initial)
        del initial  # frees the memory of its weights
        network.metadata = {
            "classes": list(splits.train.classes),
            "image_shape": list(splits.train.image_shape or ()) or None,
            "normalisation": normalisation.to_metadata(),
            "pixels": splits.train.x.dtype == numpy.uint8,
            **prediction_metadata(config, splits.train, as_read=source.as_read),
        }
        augmentation = build_augmentation(config, splits.train)
        say("", *network.summary().split("\n"), "")
        with folder_of_run(config, group) as folder:
            if group.rank:
                fit_on_rank(config, network, splits, normalisation, folder, group)
                return folder
            if not config.report:
                # That of a run which is resumed says that it was interrupted.
                (folder / REPORT).unlink(missing_ok=True)
            facts = collect_facts(config, backend, source, splits, network)
            arguments = config, network, splits, normalisation, folder, facts, group
            history, kept = fit_network(*arguments)
            tested = evaluate(network, to_device(network, splits.test, normalisation))
            say("", *describe_test(tested, splits.test.classes).split("\n"), "")
            answers = predict_test_set(network, tested, splits.test, normalisation)
            metrics = collect_metrics(facts, history, kept, answers)
            if config.report:
                files = _report_files()
                files.draw(folder, network, history, answers, splits.train, augmentation)
                files.write_report(folder, config, history, metrics, network, answers)
            # The last file: it marks the run as finished.
            content = (json.dumps(metrics, indent=2) + "\n").encode()
            write_atomically(folder / METRICS, content)
    say(f"results   {folder}/")
    say(*(f"          {path.name}" for path in sorted(folder.iterdir())))
    return folder


@contextmanager
def folder_of_run(config: TrainConfig, group: Group) -> Iterator[Path]:
    """`run_folder`, made and locked by rank 0."""
    if group.rank:
        yield Path(group.broadcast(""))
        return
    with run_folder(config) as folder:
        yield Path(group.broadcast(str(folder)))


def fit_network(
    config: TrainConfig,
    network: Sequential,
    splits: Splits,
    normalisation: Normalisation,
    folder: Path,
    facts: dict[str, Any],
    group: Group = ALONE,
) -> tuple[History, Record]:
    """Train, and write the history and the model to `folder`, also after an interrupt.

    A run that ends early gets a report of `facts` and the history.

    Returns the history and the record of the final weights: the last record, or with early
    stopping that of the lowest validation loss.
    """
    history, checkpoints = History(), Checkpoints(folder, config.checkpoint_every)
    try:
        kept = train_from_config(
            config,
            network,
            splits.train,
            splits.validation,
            normalisation,
            callbacks=[Progress(), StopAtInterrupt()],
            history=history,
            checkpoints=checkpoints,
            group=group,
        )
    except DivergenceError as error:
        history.to_csv(folder / "history.csv")
        last = "".join(f", last good checkpoint: {path}" for path in checkpoints.paths()[-1:])
        if config.report:
            ended = f"Diverged: {error}."
            arguments = folder, config, history, facts, network
            _report_files().write_report(*arguments, ended=ended, diverged=True)
        group.all_gather(None)
        raise DivergenceError(f"{error} (history so far: {folder}/history.csv{last})") from None
    except Interrupted:
        _save(network, history, folder)
        say("", f"interrupted: history and model so far are in {folder}/")
        say(f"to resume:   {resume_command(config, folder)}")
        if config.report:
            ended = "Interrupted: not trained to the end, and not tested."
            _report_files().write_report(folder, config, history, facts, network, ended=ended)
        group.all_gather(None)
        raise
    _save(network, history, folder)
    if kept is not history.records[-1]:
        assert kept.val_loss is not None  # early stopping compares it
        say(
            f"kept the weights of epoch {kept.epoch}, whose validation loss "
            f"{loss_text(kept.val_loss)} is the lowest"
        )
    return history, kept


def fit_on_rank(
    config: TrainConfig,
    network: Sequential,
    splits: Splits,
    normalisation: Normalisation,
    folder: Path,
    group: Group,
) -> None:
    """Take part in the training whose files rank 0 writes to `folder`."""
    try:
        train_from_config(
            config,
            network,
            splits.train,
            splits.validation,
            normalisation,
            callbacks=[StopAtInterrupt()],
            history=History(),
            checkpoints=Checkpoints(folder, config.checkpoint_every),
            group=group,
        )
    except (DivergenceError, Interrupted):
        group.all_gather(None)  # until rank 0 has written its files
        raise


def _report_files() -> ModuleType:
    """The module that draws; it imports matplotlib, which takes half a second."""
    from xpnet.report import files

    return files


def _save(network: Sequential, history: History, folder: Path) -> None:
    history.to_csv(folder / "history.csv")
    save(network, folder / MODEL)


def device_of_rank(device: str, group: Group) -> str:
    """`device`, of several ranks that may choose a GPU one that no other rank has."""
    if group.size == 1 or device not in ("auto", "cuda"):
        return device
    try:
        return group.own_gpu()
    except BackendUnavailable:
        if device == "auto":
            return "cpu"
        raise


def share_of_cores(group: Group) -> int | None:
    """BLAS threads of a rank: its share of the cores that the ranks on its machine may use."""
    if group.size == 1:
        return None
    found = group.all_gather((platform.node(), sorted(usable_cores())))
    here = [cores for node, cores in found if node == platform.node()]
    return max(1, min(blas_threads(), len(set().union(*here)) // len(here)))


def usable_cores() -> set[int]:
    """The processor cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def blas_threads() -> int:
    """The number of threads that the BLAS of this process uses now."""
    pools = threadpoolctl.threadpool_info()
    return max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)
