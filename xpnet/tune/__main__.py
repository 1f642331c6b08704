"""`python -m xpnet.tune SPACE.toml`: train many configurations, keep the best one.

The validation part decides. The test part is set aside as soon as the data is read, and only
`--final`, when all is decided, measures on it, once.
"""

from __future__ import annotations

import argparse
import json
import os
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
from xpnet.cli.train import train
from xpnet.config import TrainConfig, make
from xpnet.data.dataset import Dataset
from xpnet.errors import ConfigError
from xpnet.runs.factory import read_splits
from xpnet.runs.initial_model import settle
from xpnet.training.history import Record
from xpnet.tune.scoreboard import Scoreboard, leave, to_csv
from xpnet.tune.search import OBJECTIVES, Search, Trial, claimed, import_optuna
from xpnet.tune.space import Range, Space, configure, grid_points, read_space
from xpnet.tune.workers import Pool
from xpnet.utils.shell import shell_command
from xpnet.utils.toml import toml_value

SAMPLERS = ("grid", "random", "tpe")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code (0, 2 bad input or no trial completed, 130 Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def action() -> int:
        options, base = read_command_line(arguments)
        try:
            tune(options, base)
        except KeyboardInterrupt:
            again = shell_command("python", "-m", "xpnet.tune", *arguments)
            console.say("", f"interrupted; to go on: {again}")
            raise
        return 0

    return console.run(action)


def tune(options: argparse.Namespace, base: TrainConfig) -> None:
    """Search, and leave in the folder all that was found."""
    space = read_space(options.space)
    sampler = choose_sampler(options, space)
    if sampler == "grid":
        grid_points(space, base)
    import_optuna()
    device = Backend(base.device).device
    sha256, train, validation = read_parts(base)
    folder = options.folder or Path("runs") / f"tune-{options.space.stem}"
    settings = describe_search(space, base, sampler, options.objective, sha256)
    with claimed(folder, settings):
        search = Search(folder, space, base, sampler, options.objective)
        total = search.total(options.trials)
        missing = search.missing(total)
        console.say(
            f"search    {options.space}: {sampler}, {total} trials, best {options.objective}"
        )
        console.say(
            f"data      {base.dataset}: {len(train):,} training and {len(validation):,} "
            f"validation samples; the test part is set aside"
        )
        done = f" goes on: {total - missing} trials are done" if missing < total else ""
        console.say(f"folder    {folder}/{done}")
        if missing:
            jobs = min(choose_jobs(options.jobs, base, device), missing)
            train_trials(search, total, jobs, train, validation, folder)
        best = leave(search, folder)
        if options.final:
            train_final(best, configure(base, best.point), folder)


def train_trials(
    search: Search, total: int, jobs: int, train: Dataset, validation: Dataset, folder: Path
) -> None:
    """Train what is missing of `total` trials, `jobs` at a time."""
    board = Scoreboard(search.space)
    console.say("", board.head())

    def end(trial: Trial) -> None:
        write_atomically(folder / "trials.csv", to_csv(search.trials(), search.space))
        board.end(trial)

    with interrupts() as interrupted, Pool(jobs, train, validation) as pool:
        try:
            while True:
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if pool.has_room and (trial := search.next(total)):
                    if trial.outcome:
                        end(trial)
                    else:
                        config = configure(search.base, trial.point)
                        board.begin(trial, config.epochs)
                        pool.begin(trial.number, config)
                    continue
                if not pool.running:
                    return
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
    """An event that Ctrl-C sets, so that nothing is left half done; a second one does not wait."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def train_final(best: Trial, config: TrainConfig, folder: Path) -> None:
    """Train the best configuration on training and validation part together, and test it."""
    run, changes = folder / "final", {"validation": 0, "patience": None, "run": folder / "final"}
    assert best.outcome is not None
    assert best.outcome.kept is not None
    if config.patience:
        changes["epochs"] = best.outcome.kept.epoch
    final = make(config.model_dump() | changes)
    console.say("")
    if run.exists():
        try:
            accuracy = json.loads((run / "metrics.json").read_text())["test_accuracy"]
            same = (run / "config.toml").read_text() == final.to_toml()
        except (OSError, ValueError, KeyError):
            raise ConfigError(
                f"{run}: was cut off before its test: remove it, and start again"
            ) from None
        which = "this configuration" if same else "what was the best configuration then"
        console.say(
            f"final     {run}/ is there already, of {which}: test accuracy {100 * accuracy:.2f} %"
        )
        return
    console.say(f"final     trial {best.number} on training and validation part together")
    if config.patience:
        console.say(
            f"          without patience, which needs a validation part: {final.epochs} epochs, as "
            f"the trial kept, and a schedule of that length"
        )
    console.say("")
    train(final)


def read_parts(base: TrainConfig) -> tuple[str, Dataset, Dataset]:
    """The digest of the data, its training and its validation part. The test part ends here."""
    source, splits = read_splits(base)
    if splits.validation is None:
        raise ConfigError("validation: a search needs a validation part, found validation = 0")
    return source.sha256, splits.train, splits.validation


def choose_sampler(options: argparse.Namespace, space: Space) -> str:
    """What was asked for, or grid where the space holds lists only, else tpe."""
    ranges = any(isinstance(axis, Range) for axis in space.values())
    sampler: str = options.sampler or ("tpe" if ranges else "grid")
    if sampler == "grid" and options.trials:
        raise ConfigError(
            "trials: a grid tries every point: leave --trials out, or take --sampler random or tpe"
        )
    return sampler


def choose_jobs(wanted: int | None, base: TrainConfig, device: str) -> int:
    """As many processes as the cores carry, or one for a GPU, unless asked for."""
    cores, threads = usable_cores(), base.threads or 1
    jobs = wanted or (max(1, cores // threads) if device == "cpu" else 1)
    # Allowed, since the results stay the same and the owner of the machine may know better.
    slow = f" on {cores} cores: more than they carry" if jobs * threads > cores else ""
    console.say(f"jobs      {jobs} at a time, BLAS threads of each: {threads}{slow}")
    return jobs


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_search(
    space: Space, base: TrainConfig, sampler: str, objective: str, sha256: str
) -> str:
    """`search.toml`: all that a search's results depend on."""
    about = {"sampler": sampler, "objective": objective, "data": sha256}
    lines = [f"{key} = {toml_value(value)}" for key, value in about.items()]
    lines += ["", "[space]", *(f"{key} = {axis}" for key, axis in space.items())]
    return "\n".join([*lines, "", "[base]", base.to_toml()])


def read_command_line(argv: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    """The search's own options, and the configuration that every trial begins with."""
    parser = console.Parser(
        "python -m xpnet.tune",
        usage="%(prog)s SPACE.toml [options of the search] [settings]",
        description="Train many configurations and keep the one that validates best. "
        "SPACE.toml holds settings of xpnet.train with a list of values each, or a range: "
        "hidden = [[64], [128]], learning_rate = {low = 1e-4, high = 1e-1, log = true}.",
        epilog="The settings that all trials share are given as to python -m xpnet.train, whose "
        "--help lists them: --config FILE.toml and its flags. Started again, a search goes on "
        "where it was left.",
    )
    parser.add_argument(
        "space", metavar="SPACE.toml", type=Path, help="the space to search; comes first"
    )
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="the choice of points: grid (all of them), random, or tpe (Optuna's TPE, which "
        "learns from the trials); random and tpe stop hopeless trials early (default: grid if "
        "the space holds lists only, else tpe)",
    )
    parser.add_argument(
        "--trials",
        metavar="N",
        type=console.count,
        help="the number of trials of random and tpe, in all (default: 30)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=console.count,
        help="the number of trials at a time, a process each (default: cores / BLAS threads)",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="val_accuracy",
        help="the measure of the best trial (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", type=Path, help="the folder of the results (default: runs/tune-SPACE)"
    )
    parser.add_argument(
        "--final",
        action="store_true",
        help="a last training of the best trial's configuration, on training and validation part "
        "together, and its test",
    )
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help"):
        # A flag of xpnet.train has a value, which could not be told from the file.
        raise ConfigError(
            f"the space file comes first, found {argv[0]}: see python -m xpnet.tune --help"
        )
    options, rest = parser.parse_known_args(argv)
    base = from_command_line(rest, "python -m xpnet.train", also=parser.flags())
    if base.run is not None:
        raise ConfigError("run: a search has a folder instead: use --folder")
    if base.resume is not None:
        raise ConfigError("resume: the same command goes on with a search: leave resume out")
    if base.validation == 0:
        raise ConfigError("validation: a search needs a validation part, found validation = 0")
    # One thread each, unless asked for: so many small trainings side by side are fastest.
    base = settle(base)
    return options, make(base.model_dump() | {"threads": base.threads or 1})


if __name__ == "__main__":
    raise SystemExit(main())
