"""`python -m xpnet.tune SPACE.toml`: train many configurations, keep the best one.

Configurations are compared on the validation set. The test set is set aside as soon as the data is
read, and used only once, by `--final`, after the search.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xpnet._files import write_atomically
from xpnet.backend import Backend
from xpnet.cli import console
from xpnet.cli.options import from_command_line
from xpnet.cli.parser import Parser, count
from xpnet.cli.train import train, usable_cores
from xpnet.config import TrainConfig, make_config
from xpnet.data.dataset import Dataset
from xpnet.errors import ConfigError
from xpnet.runs.factory import read_splits
from xpnet.runs.initial_model import apply_initial_model
from xpnet.training.history import Record
from xpnet.tune.folder import search_folder
from xpnet.tune.scoreboard import Scoreboard, to_csv, write_results
from xpnet.tune.search import OBJECTIVES, Search, Trial, import_optuna
from xpnet.tune.space import Range, Space, configure, grid_points, read_space
from xpnet.tune.workers import Pool
from xpnet.utils.shell import shell_command
from xpnet.utils.toml import toml_value

SAMPLERS = ("grid", "random", "tpe")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit codes: 0, 2 invalid input or no trial completed, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def action() -> int:
        options, base = read_command_line(arguments)
        try:
            tune(options, base)
        except KeyboardInterrupt:
            again = shell_command("python", "-m", "xpnet.tune", *arguments)
            console.say("", f"interrupted; to resume: {again}")
            raise
        return 0

    return console.run(action, "python -m xpnet.tune")


def tune(options: argparse.Namespace, base: TrainConfig) -> None:
    """Run the search, and write its results to the folder."""
    space = read_space(options.space)
    sampler = choose_sampler(options, space)
    if sampler == "grid":
        grid_points(space, base)
    import_optuna()
    device = Backend(base.device).device
    sha256, train, validation = read_parts(base)
    folder = options.folder or Path("runs") / f"tune-{options.space.stem}"
    settings = describe_search(space, base, sampler, options.objective, sha256)
    with search_folder(folder, settings, options.shared) as owners:
        search = Search(folder, space, base, sampler, options.objective, owners)
        total = search.total(options.trials)
        missing = search.missing(total)
        console.say(
            f"search    {options.space}: {sampler}, {total} trials, best {options.objective}"
        )
        console.say(
            f"data      {base.dataset}: {len(train):,} training and {len(validation):,} "
            f"validation samples; the test set is set aside"
        )
        done = f" is resumed: {total - missing} trials are done" if missing < total else ""
        console.say(f"folder    {folder}/{done}")
        if missing or search.running_elsewhere():
            jobs = min(choose_jobs(options.jobs, base, device), max(missing, 1))
            train_trials(search, total, jobs, train, validation, folder)
        best = write_results(search, folder)
        if options.final and search.claim_final():
            train_final(best, configure(base, best.point), folder)


WAIT_SECONDS = 1.0
"""Time between looks whether trials of other processes are done, or have to be trained again."""


def train_trials(
    search: Search, total: int, jobs: int, train: Dataset, validation: Dataset, folder: Path
) -> None:
    """Train the missing ones of `total` trials, `jobs` at a time.

    Ends when all are done, also those of other processes, any of which may die.
    """
    board, is_waiting = Scoreboard(search.space), False
    console.say("", board.head())

    def end(trial: Trial) -> None:
        write_atomically(folder / "trials.csv", to_csv(search.trials(), search.space))
        board.end(trial)

    with interrupts() as interrupted, Pool(jobs, train, validation) as pool:
        try:
            while True:
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if pool.has_capacity and (trial := search.next(total)):
                    if trial.outcome:
                        end(trial)
                    else:
                        config = configure(search.base, trial.point)
                        board.begin(trial, config.epochs)
                        pool.begin(trial.number, config)
                    continue
                if not pool.running:
                    others = search.running_elsewhere()
                    if not others:
                        return
                    if not is_waiting:
                        count = f"{len(others)} trial{'s' * (len(others) > 1)}"
                        console.say("", f"waiting   for {count} of other processes")
                    is_waiting = True
                    interrupted.wait(WAIT_SECONDS)
                for number, message in pool.messages(0.2):
                    if isinstance(message, Record):
                        pool.answer(number, search.report(number, message))
                        board.progress(number, message)
                    else:
                        end(search.finish(number, message))
                board.draw()
        finally:
            board.erase()


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one raises `KeyboardInterrupt` at once."""
    interrupted = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def train_final(best: Trial, config: TrainConfig, folder: Path) -> None:
    """Train the best configuration on training and validation set together, and test it."""
    run, changes = folder / "final", {"validation": 0, "patience": None, "run": folder / "final"}
    assert best.outcome is not None
    assert best.outcome.kept is not None
    if config.patience:
        changes["epochs"] = best.outcome.kept.epoch
    final = make_config(config.model_dump() | changes)
    console.say("")
    if run.exists():
        try:
            accuracy = json.loads((run / "metrics.json").read_text())["test_accuracy"]
            same = (run / "config.toml").read_text() == final.to_toml()
        except (OSError, ValueError, KeyError):
            raise ConfigError(
                f"{run}: was interrupted before its test: remove it, and start again"
            ) from None
        which = "this configuration" if same else "an earlier best configuration"
        console.say(
            f"final     {run}/ already exists, for {which}: test accuracy {100 * accuracy:.2f} %"
        )
        return
    console.say(f"final     trial {best.number} on training and validation set together")
    if config.patience:
        console.say(
            f"          without patience, which needs a validation set: {final.epochs} epochs, as "
            f"the best of the trial, and a schedule of that length"
        )
    console.say("")
    train(final)


def read_parts(base: TrainConfig) -> tuple[str, Dataset, Dataset]:
    """The digest of the data, its training and its validation set; not the test set."""
    source, splits = read_splits(base)
    if splits.validation is None:
        raise ConfigError("validation: a search needs a validation set, found validation = 0")
    return source.sha256, splits.train, splits.validation


def choose_sampler(options: argparse.Namespace, space: Space) -> str:
    """The sampler of the options, or grid if the space holds only lists, else tpe."""
    ranges = any(isinstance(axis, Range) for axis in space.values())
    sampler: str = options.sampler or ("tpe" if ranges else "grid")
    if sampler == "grid" and options.trials:
        raise ConfigError(
            "trials: a grid tries every point: leave --trials out, or take --sampler random or tpe"
        )
    return sampler


def choose_jobs(wanted: int | None, base: TrainConfig, device: str) -> int:
    """The number of processes: `wanted`, or that of the cores, or one for a GPU."""
    cores, threads = len(usable_cores()), base.threads or 1
    jobs = wanted or (max(1, cores // threads) if device == "cpu" else 1)
    # Too many are allowed, since the results are the same.
    slow = f" on {cores} cores: too many" if jobs * threads > cores else ""
    console.say(f"jobs      {jobs} at a time, BLAS threads each: {threads}{slow}")
    return jobs


def describe_search(
    space: Space, base: TrainConfig, sampler: str, objective: str, sha256: str
) -> str:
    """The content of `search.toml`: everything that determines the results of a search."""
    about = {"sampler": sampler, "objective": objective, "data": sha256}
    lines = [f"{key} = {toml_value(value)}" for key, value in about.items()]
    lines += ["", "[space]", *(f"{key} = {axis}" for key, axis in space.items())]
    return "\n".join([*lines, "", "[base]", base.to_toml()])


def read_command_line(argv: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    """The options of the search, and the base configuration of all trials."""
    parser = Parser(
        "python -m xpnet.tune",
        usage="%(prog)s SPACE.toml [options of the search] [settings]",
        description="Train many configurations and keep the one with the best validation "
        "accuracy or loss. SPACE.toml gives a list of values, or a range, for each setting of "
        "xpnet.train to vary: "
        "hidden = [[64], [128]], learning_rate = {low = 1e-4, high = 1e-1, log = true}.",
        epilog="The settings that are the same for all trials are given as for python -m "
        "xpnet.train, whose --help lists them: by --config FILE.toml or by flags. The same "
        "command resumes an interrupted search. Example: python -m xpnet.tune space.toml "
        "--epochs 10 --final.",
    )
    parser.add_argument(
        "space", metavar="SPACE.toml", type=Path, help="the search space; it comes first"
    )
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="how configurations are chosen: grid (all of them), random, or tpe (Optuna's TPE, "
        "which uses the results of earlier trials); random and tpe stop poor trials early "
        "(default: grid if the space holds only lists, else tpe)",
    )
    parser.add_argument(
        "--trials",
        metavar="N",
        type=count,
        help="the total number of trials of random and tpe (default: 30)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        help="the number of trials that run in parallel, each in a process (default: the number of "
        "cores, divided by the BLAS threads of a trial)",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="val_accuracy",
        help="what the best trial is chosen by (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", type=Path, help="the folder of the results (default: runs/tune-SPACE)"
    )
    parser.add_argument(
        "--shared",
        action="store_true",
        help="share the folder with other processes, also on other machines: start the same "
        "command in each; if one dies, the others repeat its trials after a minute",
    )
    parser.add_argument(
        "--final",
        action="store_true",
        help="train the best configuration on training and validation set together at the end, "
        "and test it",
    )
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help"):
        # The value of a flag of xpnet.train might be taken for the file.
        raise ConfigError(
            f"the space file comes first, found {argv[0]}: see python -m xpnet.tune --help"
        )
    options, rest = parser.parse_known_args(argv)
    base = from_command_line(rest, "python -m xpnet.train", also=parser.flags())
    if base.run is not None:
        raise ConfigError("run: a search has a folder instead: use --folder")
    if base.resume is not None:
        raise ConfigError("resume: the same command resumes a search: leave resume out")
    if base.validation == 0:
        raise ConfigError("validation: a search needs a validation set, found validation = 0")
    # One thread each by default: many small trainings in parallel are fastest so.
    base = apply_initial_model(base)
    return options, make_config(base.model_dump() | {"threads": base.threads or 1})


if __name__ == "__main__":
    raise SystemExit(main())
