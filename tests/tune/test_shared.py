"""`python -m xpnet.tune --shared`: several processes take the trials of one search."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xpnet.config import make_config
from xpnet.errors import ConfigError
from xpnet.training.history import Record
from xpnet.tune import owners
from xpnet.tune import search as tune_search
from xpnet.tune.__main__ import main
from xpnet.tune.folder import search_folder
from xpnet.tune.owners import Owners
from xpnet.tune.search import Search
from xpnet.tune.space import read_space
from xpnet.tune.workers import Outcome

pytestmark = pytest.mark.needs("optuna")

SPACE = "hidden = [[8], [12], [16], [20]]\nlearning_rate = [0.01, 0.002, 0.001]\n"
SMALL = ["--validation", "200", "--test", "4000", "--epochs", "2", "--jobs", "1"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.toml").write_text(SPACE)
    Path("study").mkdir()


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xpnet.tune", "space.toml", *SMALL, "--shared", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows() -> list[dict[str, str]]:
    with Path("runs/tune-space/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def search(shared: Owners | None) -> Search:
    space = read_space(Path("space.toml"))
    return Search(Path("study"), space, make_config({}), "grid", "val_accuracy", shared)


def outcome(accuracy: float = 0.5) -> Outcome:
    return Outcome(Record(1, 1, 0.1, 1.0, 0.5, 1.0, accuracy, 0.1), 1, 0.1)


@pytest.mark.slow
def test_processes_share_the_trials_of_a_grid() -> None:
    processes = [start("--final") for _ in range(3)]
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], printed
    assert [(row["number"], row["state"]) for row in rows()] == [
        (str(number), "complete") for number in range(12)
    ]
    journal = Path("runs/tune-space/trials.journal").read_text().splitlines()
    states = [line for line in map(json.loads, journal) if line.get("op_code") == 6]
    finished = [line["trial_id"] for line in states if line.get("state") == 1]
    assert sorted(finished) == list(range(12))  # each of them once
    trained = [out.split("\nrank")[0].count(" 2  ") for out, _ in printed]
    assert sum(count > 0 for count in trained) >= 2, printed
    assert sum("test accuracy" in out for out, _ in printed) == 1
    assert not list(Path("runs/tune-space/.processes").iterdir())


@pytest.mark.slow
def test_the_trials_of_a_killed_process_are_trained_by_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start()
    while not Path("runs/tune-space/trials.csv").exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = list(Path("runs/tune-space/.processes").iterdir())
    assert len(left) == 1  # it could not remove its file
    monkeypatch.setattr(owners, "DEAD_SECONDS", 0.5)
    time.sleep(0.6)
    assert main(["space.toml", *SMALL, "--shared"]) == 0
    assert [row["state"] for row in rows()] == ["complete"] * 12
    assert "rank" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_waits_for_the_trials_of_others_and_trains_those_of_the_dead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.toml").write_text("hidden = [[8]]\n")
    process = start("--epochs", "200")
    journal = Path("runs/tune-space/trials.journal")
    while process.poll() is None and not (journal.exists() and '"owner"' in journal.read_text()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(owners, "DEAD_SECONDS", 3.0)
    os.utime(next(Path("runs/tune-space/.processes").iterdir()))  # its last sign of life
    assert main(["space.toml", *SMALL, "--shared", "--epochs", "200"]) == 0
    assert "waiting   for 1 trial of other processes" in capsys.readouterr().out
    assert [row["state"] for row in rows()] == ["complete"]


def test_a_process_that_was_killed_while_it_wrote_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = Path("study/trials.journal").absolute()
    lock = Path(f"{journal}.lock")
    targets = []
    symlink = os.symlink

    def noted(target: str, link: str) -> None:
        targets.append(target)
        symlink(target, link)

    monkeypatch.setattr(os, "symlink", noted)
    search(None)
    assert set(targets) == {str(journal)}
    symlink(targets[0], lock)  # as it is while a process writes
    monkeypatch.setattr(tune_search, "LOCK_SECONDS", 3)
    assert search(None).next(12) is not None
    assert not lock.is_symlink()


def test_points_of_a_shared_search_that_need_no_training() -> None:
    Path("space.toml").write_text('optimizer = ["adam", "sgd"]\nmomentum = [0.5]\n')
    states = []
    with Owners(Path("study")) as one:
        space = read_space(Path("space.toml"))
        shared = Search(Path("study"), space, make_config({}), "random", "val_accuracy", one)
        while trial := shared.next(8):
            states.append(trial.state)
            if trial.state == "running":
                shared.finish(trial.number, outcome())
    assert len(states) == 8
    assert set(states) == {"running", "repeated", "invalid"}


def test_a_trial_has_one_owner_until_that_one_is_dead() -> None:
    with Owners(Path("study")) as one, Owners(Path("study")) as two:
        first, second = search(one), search(two)
        numbers = [first.next(12), second.next(12), first.next(12), second.next(12)]
        assert [trial.number for trial in numbers if trial] == [0, 1, 2, 3]
        assert (first.running_elsewhere(), second.running_elsewhere()) == ([1, 3], [0, 2])
        assert first.missing(12) == 8
        first.finish(0, outcome())
        assert second.trials()[0].state == "complete"
        two._file.unlink()  # as if it had not touched it for long
        two.name = "another"
        taken = [first.next(12) for _ in range(3)]
        assert [trial.number for trial in taken if trial] == [1, 3, 4]
        # What it has trained nevertheless changes nothing any more.
        first.finish(1, outcome(0.25))
        kept = second.finish(1, outcome(0.75)).outcome
        assert kept is not None
        assert kept.kept is not None
        assert kept.kept.val_accuracy == 0.25
        assert second.report(1, Record(1, 1, 0.1, 1.0, 0.5, 1.0, 0.5, 0.1))


def test_a_file_from_the_future_is_of_no_living_process() -> None:
    with Owners(Path("study")) as one:
        other = one._file.with_name("other")
        other.touch()
        assert one.alive() == {one.name, "other"}
        later = time.time() + 2 * owners.DEAD_SECONDS
        os.utime(other, (later, later))
        assert one.alive() == {one.name}


def test_one_process_trains_the_best() -> None:
    with Owners(Path("study")) as one, Owners(Path("study")) as two:
        first, second = search(one), search(two)
        for _ in range(12):
            trial = first.next(12)
            assert trial is not None
            if trial.number == 11:
                assert not second.claim_final()  # not all trials are done
            first.finish(trial.number, outcome())
        assert second.claim_final()
        assert not first.claim_final()
    with Owners(Path("study")) as three:
        assert search(three).claim_final()  # the other one has ended


def test_a_search_is_shared_by_all_or_by_nobody() -> None:
    folder = Path("shared")
    with (
        search_folder(folder, "sampler = 1", shared=True),
        search_folder(folder, "sampler = 1", shared=True),
    ):
        with (
            pytest.raises(ConfigError, match="is in use by 2 processes with --shared"),
            search_folder(folder, "sampler = 1"),
        ):
            pass
        with (
            pytest.raises(ConfigError, match="belongs to another search"),
            search_folder(folder, "sampler = 2", shared=True),
        ):
            pass
    with search_folder(folder, "sampler = 1"):
        code = "from pathlib import Path; from xpnet.tune.folder import search_folder as s\n"
        code += "with s(Path('shared'), 'sampler = 1', shared=True): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "is in use by another search" in done.stderr


def test_a_process_that_joins_leaves_the_files_of_the_others() -> None:
    folder = Path("shared")
    with search_folder(folder, "sampler = 1", shared=True):
        temporary = folder / f".trials.csv.{os.getpid()}"
        temporary.write_text("")
        before = set(folder.iterdir())
        with search_folder(folder, "sampler = 1", shared=True):
            assert before - {folder / ".lock"} <= set(folder.iterdir())
