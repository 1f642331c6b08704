"""`python -m xpnet.tune`: what it searches, survives, refuses and leaves behind."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from PIL import Image

import xpnet.cli.train
from xpnet.cli.train import blas_threads
from xpnet.config import make_config
from xpnet.data import Dataset, load_dataset, split
from xpnet.errors import ConfigError
from xpnet.random import generator
from xpnet.training.callbacks import Callback
from xpnet.training.history import Record
from xpnet.tune import __main__ as tune
from xpnet.tune.__main__ import main
from xpnet.tune.folder import JOURNAL, search_folder
from xpnet.tune.scoreboard import Scoreboard, plot_arguments
from xpnet.tune.search import Search, Trial
from xpnet.tune.space import Range, Values, grid_points, read_space
from xpnet.tune.workers import Outcome, Pool, train_trial

pytestmark = pytest.mark.needs("optuna")

SMALL = ["--validation", "200", "--test", "4000", "--epochs", "2", "--dropout", "0.1"]
LISTS = "hidden = [[8], [16, 8]]\nlearning_rate = [0.01, 0.002]\n"
RANGES = """
hidden = [[8], [16], [16, 8]]
learning_rate = {low = 1e-3, high = 1e-1, log = true}
dropout = {low = 0.0, high = 0.4}
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def space(content: str, name: str = "space.toml") -> str:
    Path(name).write_text(content)
    return name


def rows(folder: str | Path = "runs/tune-space") -> list[dict[str, str]]:
    with (Path(folder) / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: text for key, text in row.items() if key != "seconds"} for row in found]


def record(epoch: int = 1, accuracy: float = 0.5, loss: float = 1.0) -> Record:
    return Record(epoch, epoch, 0.1, 1.0, 0.5, loss, accuracy, 0.1)


def search(content: str, sampler: str, folder: str = "study", **base: object) -> Search:
    Path(folder).mkdir(exist_ok=True)
    path = Path(space(content))
    return Search(Path(folder), read_space(path), make_config(base), sampler, "val_accuracy")


# A whole search


def test_a_grid_tries_every_point_and_leaves_what_it_promises(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [space(LISTS), *SMALL, "--jobs", "2"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    folder = Path("runs/tune-space")
    assert {path.name for path in folder.iterdir()} == {
        "best.toml",
        "search.toml",
        "trials.csv",
        JOURNAL,
        "trials.png",
    }
    found = rows()
    assert [(row["number"], row["hidden"], row["learning_rate"]) for row in found] == [
        ("0", "[8]", "0.01"),
        ("1", "[8]", "0.002"),
        ("2", "[16, 8]", "0.01"),
        ("3", "[16, 8]", "0.002"),
    ]
    assert {(row["state"], row["epochs"], row["kept_epoch"]) for row in found} == {
        ("complete", "2", "2")
    }
    ranked = sorted(found, key=lambda row: (-float(row["val_accuracy"]), float(row["val_loss"])))
    table = [line.split() for line in out.partition("rank")[2].splitlines()[1:5]]
    assert [line[:2] for line in table] == [
        [str(n), row["number"]] for n, row in enumerate(ranked, start=1)
    ]
    assert f"{100 * float(ranked[0]['val_accuracy']):.2f} %" in out
    assert "4 trials, best val_accuracy" in out
    assert "800 training and 200 validation samples" in out
    assert "\x1b" not in out
    assert "\r" not in out

    text = (folder / "best.toml").read_text()
    assert text.startswith(f"# Trial {ranked[0]['number']} of {folder}: val_accuracy ")
    assert ranked[0]["val_accuracy"] in text.splitlines()[0]
    best = tomllib.loads(text)
    assert best["threads"] == 1
    assert str(best["hidden"]) == ranked[0]["hidden"]
    assert str(best["learning_rate"]) == ranked[0]["learning_rate"]
    settings = tomllib.loads((folder / "search.toml").read_text())
    assert settings["space"] == tomllib.loads(LISTS)
    assert settings["sampler"] == "grid"
    assert settings["base"]["epochs"] == 2
    with Image.open(folder / "trials.png") as image:
        assert image.size[0] == 1430

    # The best trial trains again to the same bits.
    assert xpnet.cli.train.main(["--config", str(folder / "best.toml"), "--run", "again"]) == 0
    metrics = json.loads(Path("again/metrics.json").read_text())
    for name in ("accuracy", "loss"):
        assert repr(metrics[f"validation_{name}"]) == ranked[0][f"val_{name}"]
        assert repr(metrics[f"train_{name}"]) == ranked[0][name]

    # A finished search has nothing left to train.
    capsys.readouterr()
    assert main(argv) == 0
    again = capsys.readouterr().out
    assert "is resumed: 4 trials are done" in again
    assert "jobs" not in again
    assert out.partition("rank")[2] == again.partition("rank")[2]
    assert rows() == found


def test_the_objective_decides() -> None:
    argv = [space("l2 = [0.0, 100.0]"), *SMALL, "--hidden", "8", "--objective", "val_loss"]
    assert main([*argv, "--jobs", "1"]) == 0
    best = tomllib.loads(Path("runs/tune-space/best.toml").read_text())
    lowest = min(rows(), key=lambda row: float(row["val_loss"]))
    assert best["l2"] == float(lowest["l2"])


def npz(name: str, test_labels: numpy.ndarray, test_x: numpy.ndarray) -> str:
    data = load_dataset("digits").train
    numpy.savez(
        name, x_train=data.x[::5], y_train=data.labels[::5], x_test=test_x, y_test=test_labels
    )
    return name


@pytest.mark.slow
def test_the_test_part_has_no_say() -> None:
    data = load_dataset("digits").train
    x, labels = data.x[1::20], data.labels[1::20]
    npz("plain.npz", labels, x)
    poison = generator(0, "poison").integers(0, 256, x.shape).astype(numpy.uint8)
    npz("poisoned.npz", labels[::-1].copy(), poison)
    argv = [space(LISTS), "--epochs", "2", "--jobs", "1"]
    for name in ("plain", "poisoned"):
        assert main([*argv, "--dataset", f"{name}.npz", "--folder", name]) == 0
    plain, poisoned = (without_seconds(rows(name)) for name in ("plain", "poisoned"))
    assert plain == poisoned
    assert len(plain) == 4


@pytest.mark.slow
def test_final_trains_on_training_and_validation_part_and_tests_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[int] = []
    evaluate = xpnet.cli.train.evaluate

    def spy(network, data):
        tested.append(len(data))
        return evaluate(network, data)

    monkeypatch.setattr(xpnet.cli.train, "evaluate", spy)
    argv = [space("hidden = [[8], [12]]"), *SMALL, "--epochs", "9", "--learning-rate", "0.3"]
    argv += ["--patience", "1", "--jobs", "1"]
    assert main(argv) == 0
    assert tested == []
    assert main([*argv, "--final"]) == 0
    assert tested == [4000]
    folder = Path("runs/tune-space/final")
    best = max(rows(), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["samples"] == {"train": 1000, "validation": 0, "test": 4000}
    assert metrics["epochs"] == int(best["kept_epoch"]) < int(best["epochs"])
    out = capsys.readouterr().out
    assert f"without patience, which needs a validation set: {best['kept_epoch']} epochs" in out
    settings = tomllib.loads((folder / "config.toml").read_text())
    assert settings["validation"] == 0
    assert "patience" not in settings

    assert main([*argv, "--final"]) == 0
    assert tested == [4000]
    said = f"this configuration: test accuracy {100 * metrics['test_accuracy']:.2f} %"
    assert said in capsys.readouterr().out
    (folder / "metrics.json").unlink()
    assert main([*argv, "--final"]) == 2
    assert "was interrupted before its test: remove it" in capsys.readouterr().err


def test_without_a_validation_part_the_test_part_stays_the_same() -> None:
    source = load_dataset("digits")
    both, one = (split(source, validation=n, test=None, seed=3) for n in (200, 0))
    numpy.testing.assert_array_equal(both.test.x, one.test.x)
    assert both.validation is not None

    def content(*parts: Dataset) -> list[bytes]:
        return sorted(row.tobytes() for part in parts for row in part.x)

    assert content(both.train, both.validation) == content(one.train)


# Ending early, in all ways


def begin(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "xpnet.tune", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_trials(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial"):
            break
    for _ in range(count):
        assert process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "jobs", "ended"),
    [("random", "2", 3), ("tpe", "1", 12)],
)
def test_a_killed_search_goes_on_as_if_nothing_had_been(
    sampler: str, jobs: str, ended: int, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [space(RANGES), *SMALL, "--sampler", sampler, "--jobs", jobs]
    process = begin(*argv, "--folder", "killed", "--trials", "10000")
    wait_for_trials(process, ended)
    process.kill()
    # The workers hold the other ends of these pipes, so this waits for the last of them.
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = [row for row in rows("killed") if row["state"] != "running"]
    assert len(before) >= ended

    # As a kill in the middle of writing leaves it.
    with Path("killed", JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 5, "tri')
    lock = Path("killed", f"{JOURNAL}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(JOURNAL)
    capsys.readouterr()
    argv += ["--trials", str(len(before) + 4)]
    assert main([*argv, "--folder", "killed"]) == 0
    assert re.search(r"is resumed: \d+ trials are done", capsys.readouterr().out)
    assert main([*argv, "--folder", "whole"]) == 0
    killed, whole = rows("killed"), rows("whole")
    assert all(row in killed for row in before), "a finished trial was trained again"
    searched = ("number", "hidden", "learning_rate", "dropout")
    assert [[row[key] for key in searched] for row in killed] == [
        [row[key] for key in searched] for row in whole
    ]
    if jobs == "1":
        assert without_seconds(killed) == without_seconds(whole)


def test_ctrl_c_leaves_130_a_whole_journal_and_no_process() -> None:
    argv = [space(RANGES), *SMALL, "--jobs", "2", "--trials"]
    process = begin(*argv, "10000")
    wait_for_trials(process, 1)
    # As a terminal does: to everyone.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["xpnet: interrupted"]
    assert f"to resume: python -m xpnet.tune {' '.join(argv)} 10000\n" in out
    lines = Path("runs/tune-space", JOURNAL).read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    ended = len([row for row in rows() if row["state"] != "running"])
    assert main([*argv, str(ended + 2)]) == 0
    assert {row["state"] for row in rows()} <= {"complete", "pruned"}
    assert len(rows()) >= ended + 2


def test_a_hopeless_trial_is_stopped_early() -> None:
    content = "learning_rate = [0.02, 1e-9]\nl2 = {low = 0.0, high = 0.1}"
    argv = [space(content), *SMALL, "--hidden", "12", "--epochs", "4"]
    assert main([*argv, "--sampler", "random", "--trials", "14", "--jobs", "1"]) == 0
    found = rows()
    hopeless = [row for row in found if row["learning_rate"] == "1e-09"]
    pruned = [row for row in found if row["state"] == "pruned"]
    assert pruned
    assert all(row in hopeless for row in pruned)
    assert {row["epochs"] for row in pruned} == {"2"}
    assert {row["epochs"] for row in found if row["state"] == "complete"} == {"4"}


def test_divergence_is_a_failed_trial_and_the_search_goes_on() -> None:
    argv = ["--optimizer", "sgd", "--warm-up", "0", *SMALL, "--hidden", "8", "--jobs", "1"]
    assert main([space("learning_rate = [1e30, 0.01]"), *argv]) == 0
    failed, complete = rows()
    assert failed["state"] == "failed"
    assert "training diverged in epoch 1" in failed["reason"]
    assert failed["val_loss"] == ""
    assert complete["state"] == "complete"


def test_when_all_fail_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--optimizer", "sgd", "--warm-up", "0", *SMALL, "--hidden", "8", "--jobs", "1"]
    assert main([space("learning_rate = [1e30, 2e30]"), *argv]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "none of 2 trials was completed; trial 0: training diverged" in message
    assert "trials.csv" in message


def parts() -> tuple[Dataset, Dataset]:
    data = load_dataset("digits").train
    return data.take(numpy.arange(0, 5000, 50)), data.take(numpy.arange(1, 5000, 50))


def test_a_worker_that_dies_is_a_failed_trial_and_is_replaced() -> None:
    with Pool(1, *parts()) as pool:
        pool.begin(0, make_config({"epochs": 10**6, "hidden": [8], "threads": 1}))
        assert not pool.has_capacity
        ((number, first),) = pool.messages(60)
        assert (number, type(first)) == (0, Record)
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        ((number, outcome),) = pool.messages(60)
        assert number == 0
        assert outcome == Outcome(reason="its process was ended by SIGKILL")
        assert pool.has_capacity
        pool.begin(1, make_config({"epochs": 1, "hidden": [8], "threads": 1}))
        ((_, message),) = pool.messages(60)
        pool.answer(1, stop=False)
        ((_, outcome),) = pool.messages(60)
        assert isinstance(outcome, Outcome)
        assert outcome.kept == message
        left = pool._workers[0].process
    with pytest.raises(ValueError, match="closed"):
        left.is_alive()


class Threads(Callback):
    def on_log(self, run, record):
        self.seen = blas_threads()


def test_a_trial_computes_with_the_threads_of_its_configuration() -> None:
    before, callback = blas_threads(), Threads()
    outcome = train_trial(
        make_config({"epochs": 1, "hidden": [8], "threads": 1}), *parts(), callback
    )
    assert outcome.kept is not None
    assert callback.seen == 1
    assert blas_threads() == before


def test_want_of_memory_is_a_reason() -> None:
    outcome = train_trial(make_config({"hidden": [10**12], "threads": 1}), *parts(), Callback())
    assert outcome.kept is None
    assert outcome.reason == "not enough memory (795000000000010 parameters)"


# Trials and their order


def drive(found: Search, total: int, value: float = 0.5) -> list[Trial]:
    """Let every trial end with an accuracy that follows from its number alone."""
    ended = []
    while trial := found.next(total):
        if not trial.outcome:
            made = record(accuracy=0.5 + 0.4 * ((7 * trial.number) % 11) / 11)
            trial = found.finish(trial.number, Outcome(made, 1, 0.1))
        ended.append(trial)
    return ended


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_a_trial_tries_depends_on_seed_and_number_and_what_came_before(sampler: str) -> None:
    whole = drive(search(RANGES, sampler, "whole"), 15)
    for number in range(15):
        found = search(RANGES, sampler, "broken")
        cut_off = found.next(15)
        assert cut_off is not None
        assert cut_off.number == number
        found = search(RANGES, sampler, "broken")
        assert found.missing(15) == 15 - number
        drive(found, number + 1)
    assert search(RANGES, sampler, "broken").trials() == whole
    assert len({str(trial.point) for trial in whole}) == 15
    other = drive(search(RANGES, sampler, "other", seed=1), 3)
    assert [trial.point for trial in other] != [trial.point for trial in whole[:3]]


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_trial() -> None:
    found = search("hidden = [[1], [2], [3], [4], [5], [6]]", "grid")
    ends = [(0.5, 0.9), (0.7, 0.8), (0.7, 0.6), (0.7, 0.6), (0.2, 0.1)]
    for number, (accuracy, loss) in enumerate(ends):
        assert found.next(6)
        found.finish(number, Outcome(record(1, accuracy, loss), 1, 0.1))
    assert found.next(6)
    found.finish(5, Outcome(reason="it was too late"))
    assert [trial.number for trial in found.ranked()] == [2, 3, 1, 0, 4, 5]
    assert found.ranked()[-1].state == "failed"
    found.objective = "val_loss"
    assert [trial.number for trial in found.ranked()] == [4, 2, 3, 1, 0, 5]
    assert found.next(6) is None


def test_a_loss_that_is_not_finite_is_a_failure() -> None:
    found = search("hidden = [[1]]", "grid")
    assert found.next(1)
    trial = found.finish(0, Outcome(record(accuracy=float("nan")), 1, 0.1))
    assert (trial.state, trial.outcome.kept) == ("failed", None)
    assert "val_accuracy is nan" in trial.outcome.reason


def test_settings_that_contradict_each_other_are_not_trained() -> None:
    content = 'optimizer = ["sgd", "adam"]\nmomentum = {low = 0.1, high = 0.9}'
    ended = drive(search(content, "tpe"), 25)
    invalid = [trial for trial in ended if trial.state == "invalid"]
    assert [trial.point["optimizer"] for trial in invalid] == ["adam"] * len(invalid)
    assert invalid[0].outcome.reason.startswith("momentum: works only with optimizer sgd")
    # TPE learns to keep away from them.
    assert sum(trial.number >= 12 for trial in invalid) <= 3 < len(invalid)


def test_a_point_that_was_tried_is_not_trained_again() -> None:
    ended = drive(search("hidden = [[4], [8]]", "random"), 8)
    first = {str(trial.point): trial for trial in reversed(ended)}
    assert len(first) == 2
    for trial in ended:
        original = first[str(trial.point)]
        assert trial.outcome.kept == original.outcome.kept
        assert trial.state == ("complete" if trial is original else "repeated")
        assert trial.outcome.reason == ("" if trial is original else f"as trial {original.number}")


def test_a_trial_that_was_cut_off_is_judged_as_the_first_time() -> None:
    content, options = "l2 = {low = 0.0, high = 1.0}", {"epochs": 8}
    found = search(content, "random", **options)
    for number in range(5):
        found.next(6)
        for epoch in range(1, 9):
            assert not found.report(number, record(epoch, 0.8))
        found.finish(number, Outcome(record(8, 0.8), 8, 1.0))
    found.next(6)
    bad = [record(epoch, 0.1) for epoch in (1, 2)]
    assert [found.report(5, item) for item in bad] == [False, True]
    found = search(content, "random", **options)
    assert found.next(6).number == 5
    assert [found.report(5, item) for item in bad] == [False, True]
    assert found.finish(5, Outcome(bad[-1], 2, 0.1)).state == "pruned"


def untrained(found: Search) -> Trial:
    while (trial := found.next(50)) and trial.outcome:
        pass
    assert trial is not None
    return trial


@pytest.mark.parametrize(
    ("content", "sampler"),
    [("l2 = {low = 0, high = 1, step = 0.1}", "grid"), ("epochs = {low = 4, high = 9}", "random")],
)
def test_where_trials_cannot_be_compared_half_way_none_is_stopped(
    content: str, sampler: str
) -> None:
    found = search(content, sampler, epochs=8)
    for _ in range(5):
        trial = untrained(found)
        assert not found.report(trial.number, record(2, 0.8))
        found.finish(trial.number, Outcome(record(8, 0.8), 8, 1.0))
    trial = untrained(found)
    assert not found.report(trial.number, record(2, 0.1))


def test_more_trials_may_be_wanted_later() -> None:
    found = search(RANGES, "random")
    assert found.total(None) == 30
    assert found.total(7) == 7
    again = search(RANGES, "random")
    assert again.total(None) == 7
    assert again.total(9) == 9
    assert search(LISTS, "grid", "grid").total(None) == 4


# The space


def test_lists_ranges_and_steps() -> None:
    path = Path(
        space(
            "batch_size = [32, 'full']\nl2 = {low = 0, high = 1, step = 0.1}\n"
            "learning_rate = {low = 1e-4, high = 1e-1, log = true}\n"
            "step_every = {low = 2, high = 8, step = 3}"
        )
    )
    found = read_space(path)
    assert found["batch_size"] == Values((32, "full"))
    assert found["l2"].grid().values == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert found["step_every"].grid().values == (2, 5, 8)
    assert found["learning_rate"] == Range(1e-4, 1e-1, log=True)
    # What search.toml says of it is read back as the same.
    lines = "".join(f"{key} = {axis}\n" for key, axis in found.items())
    assert read_space(Path(space(lines))) == found
    points = grid_points({"hidden": Values(([4], [8])), "l2": Values((0.0, 1.0))}, make_config({}))
    assert [(p["hidden"], p["l2"]) for p in points] == [
        ([4], 0.0),
        ([4], 1.0),
        ([8], 0.0),
        ([8], 1.0),
    ]


@pytest.mark.parametrize(
    ("content", "argv", "words"),
    [
        ("", [], "space.toml: holds no setting to search"),
        ("hidden = [", [], "space.toml: not valid TOML"),
        ("hiden = [[8]]", [], "space.toml: hiden: is not a setting; the settings are dataset, "),
        ("hidden = 8", [], "hidden: give a list of values or a range.*found 8"),
        ("hidden = []", [], r"hidden: give a list of values or a range.*found \[\]"),
        ("seed = [1, 2]", [], "seed: cannot be searched: it also divides the data"),
        ("validation = [0.1, 0.2]", [], "validation: cannot be searched: trials would be"),
        ("test = [0.1]", [], "test: cannot be searched"),
        ("dataset = ['digits']", [], "dataset: cannot be searched"),
        ("device = ['cpu']", [], "device: cannot be searched"),
        ("threads = [1, 2]", [], "threads: cannot be searched: it changes where to compute"),
        ("log_every = [1]", [], "log_every: cannot be searched"),
        ("run = ['a']", [], "run: cannot be searched"),
        ("l2 = [-1.0]", [], "space.toml: l2: .*greater than or equal to 0.*-1"),
        ("l2 = [1.0, 1.0]", [], "l2: values must be distinct"),
        ("hidden = {low = 4, high = 8}", [], "hidden: takes no range"),
        ("nesterov = {low = 0, high = 1}", [], "nesterov: takes no range"),
        ("l2 = {low = 1.0}", [], "l2: a range needs low and high"),
        ("l2 = {low = 1.0, high = 0.5}", [], "l2: low must be below high"),
        ("l2 = {low = 0.0, high = 1, log = true}", [], "l2: a range with log takes a low above 0"),
        (
            "l2 = {low = 1, high = 2, log = true, step = 1}",
            [],
            "l2: a range with log takes no step",
        ),
        (
            "l2 = {low = 0, high = 1, step = 0.3}",
            [],
            "l2: high must be low plus a multiple of step",
        ),
        ("l2 = {low = 0, high = 1, base = 2}", [], "l2: a range has low, high, log and step"),
        ("l2 = {low = 0, high = 'x'}", [], "l2: high must be a number, found 'x'"),
        ("l2 = {low = 0, high = 1, log = 1}", [], "l2: log is true or false, found 1"),
        ("l2 = {low = nan, high = 1}", [], "l2: low must be a number, found nan"),
        ("batch_size = {low = 1.5, high = 9}", [], "batch_size: low must be a whole number"),
        ("dropout = {low = 0.5, high = 1.5}", [], "dropout: .*less than 1, found 1.5"),
        ("l2 = {low = 0, high = 1}", ["--sampler", "grid"], "l2: a grid needs a step"),
        (
            "optimizer = ['sgd', 'adam']\nmomentum = [0.0, 0.9]",
            [],
            r'the point optimizer = "adam", momentum = 0.9: momentum: works only with optimizer',
        ),
        (LISTS, ["--trials", "3"], "trials: a grid tries every point"),
        (LISTS, ["--trials", "0"], "trials: must be a whole number above 0, found '0'"),
        (LISTS, ["--jobs", "x"], "jobs: must be a whole number above 0, found 'x'"),
        (LISTS, ["--sampler", "cmaes"], "sampler: invalid choice: 'cmaes'"),
        (LISTS, ["--validation", "0"], "validation: a search needs a validation set"),
        (LISTS, ["--run", "mine"], "run: a search has a folder instead: use --folder"),
        (LISTS, ["--epochs", "0"], "epochs: .*found"),
        (LISTS, ["--hiden", "8"], "hiden"),
        (LISTS, ["--dataset", "absent.csv"], "absent.csv"),
        (LISTS, ["--folder", "space.toml"], "folder: space.toml cannot be made"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    content: str, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([space(content), *argv]) == 2
    captured = capsys.readouterr()
    (message,) = captured.err.splitlines()
    assert message.startswith("xpnet: error: ")
    assert re.search(words, message), message
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "required: SPACE.toml"),
        (["absent.toml"], "absent.toml: cannot be read"),
        (["--epochs", "3", "space.toml"], "the space file comes first, found --epochs"),
    ],
)
def test_the_space_file_comes_first(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert words in message


def test_without_optuna_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([space(LISTS), *SMALL]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "pip install optuna" in message
    assert not Path("runs").exists()


def test_help_tells_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("SPACE.toml", "--sampler", "--final", "python -m xpnet.train"):
        assert words in out


# The folder


def test_a_folder_belongs_to_one_search_and_to_one_process() -> None:
    folder = Path("mine")
    with search_folder(folder, 'sampler = "grid"\n[space]\nl2 = [1, 2]\nhidden = [8]\n'):
        refused = pytest.raises(ConfigError, match="mine is in use by another search")
        with refused, ThreadPoolExecutor(1) as pool:
            pool.submit(search_folder(folder, "").__enter__).result()
    with search_folder(folder, 'sampler = "grid"\n[space]\nl2 = [1, 2]\nhidden = [8]\n'):
        pass
    for other, words in [
        ('sampler = "tpe"\n[space]\nl2 = [1, 2]\nhidden = [8]\n', "sampler grid there, tpe here"),
        (
            'sampler = "grid"\n[space]\nl2 = [1]\nhidden = [8]',
            r"space.l2 \[1, 2\] there, \[1\] here",
        ),
        ('sampler = "grid"\n[space]\nhidden = [8]\nl2 = [1, 2]\n', "order of space"),
        (
            'sampler = "grid"\n[space]\nl2 = [1, 2]\nhidden = [8]\n[base]\nepochs = 3\n',
            "base.epochs 20 there, 3 here",
        ),
    ]:
        refused = pytest.raises(ConfigError, match=f"mine belongs to another search .*{words}")
        with refused, search_folder(folder, other):
            pass


def test_a_folder_of_something_else_is_left_alone() -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    refused = pytest.raises(ConfigError, match="mine exists and holds no search")
    with refused, search_folder(Path("mine"), ""):
        pass
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_a_damaged_journal_is_one_line() -> None:
    found = search(LISTS, "grid")
    found.next(4)
    journal = Path("study", JOURNAL)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "rubbish\n", *lines[1:]]))
    with pytest.raises(ConfigError, match="damaged"):
        search(LISTS, "grid")


# What it leaves


def test_a_repeated_trial_is_drawn_as_complete() -> None:
    found = search("hidden = [[4], [8]]", "random")
    drive(found, 6)
    states = [trial.state for trial in found.trials()]
    assert states.count("repeated") == 4
    arguments = plot_arguments(found.trials(), found.space, found.ranked()[0], "val_accuracy")
    assert set(arguments["states"]) == {"complete"}
    assert [trial.state for trial in found.ranked()] == ["complete"] * 2 + ["repeated"] * 4


# The screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_running_trials_are_drawn_beneath_the_finished_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("xpnet.tune.scoreboard._REDRAW", 0.0)
    screen = Terminal()
    board = Scoreboard({"hidden": Values(([8], [16, 16]))}, screen)
    for number, hidden in enumerate(([8], [16, 16])):
        board.begin(Trial(number, {"hidden": hidden}, "running", None), 20)
    board.draw()
    board.progress(1, record(3, 0.25, 1.5))
    board.draw()
    board.end(Trial(0, {"hidden": [8]}, "failed", Outcome(reason="too bad")))
    board.draw()
    board.erase()
    first, second, third, last = screen.getvalue().split("\x1b[J")
    assert [line.split()[:2] for line in first.splitlines()[:2]] == [["0", "[8]"], ["1", "[16,"]]
    assert "3/20  25.00 %    1.5000" in second
    assert second.endswith("\x1b[2F")
    assert third.splitlines()[0].split() == ["0", "[8]", "0.0", "failed", "too", "bad"]
    assert third.endswith("\x1b[1F")
    assert last == ""
    assert all(len(line) < 60 for line in (first + second).splitlines())


def test_elsewhere_nothing_is_drawn_over() -> None:
    out = io.StringIO()
    board = Scoreboard({"l2": Range(0.0, 1.0)}, out)
    trial = Trial(3, {"l2": 0.123456}, "complete", Outcome(record(2, 0.5, 1.25), 2, 0.5))
    board.begin(trial, 2)
    board.draw()
    board.end(trial)
    board.erase()
    assert out.getvalue().split() == ["3", "0.1235", "2", "50.00", "%", "1.2500", "0.5"]
    many = [dataclasses.replace(trial, number=number) for number in range(25)]
    lines = board.table(many).splitlines()
    assert len(lines) == 22
    assert lines[-1].strip() == "and 5 more in trials.csv"


def test_more_processes_than_cores_are_allowed_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "usable_cores", lambda: set(range(6)))
    assert tune.choose_jobs(None, make_config({"threads": 1}), "cpu") == 6
    assert tune.choose_jobs(None, make_config({"threads": 4}), "cpu") == 1
    assert tune.choose_jobs(None, make_config({"threads": 1}), "cuda:0") == 1
    assert "than they carry" not in capsys.readouterr().out
    assert tune.choose_jobs(4, make_config({"threads": 2}), "cpu") == 4
    assert "4 at a time, BLAS threads each: 2 on 6 cores: too many" in capsys.readouterr().out
