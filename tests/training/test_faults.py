"""What a run loses when it is killed, when the disk is full, and when two want one folder: nothing.

`--kills N` says how often processes are killed; `nox -s faults` asks for more than the suite.
Each fault is a row of the table in `tests/README.md`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpnet._files import lock
from xpnet.cli.train import main
from xpnet.data import load_dataset
from xpnet.errors import ConfigError
from xpnet.serialization import read
from xpnet.training.checkpoints import Checkpoints

ALONE = """
import sys
from pathlib import Path
from xpnet._files import lock
with lock(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> list[str]:
    """A short training with all that has a memory, and a checkpoint after each of its 96 steps."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    source = load_dataset("digits")
    chosen = np.arange(0, 5000, 8)
    np.savez(path, x=source.train.x[chosen], y=source.train.labels[chosen])
    text = (
        f"--dataset={path} --hidden=16 --epochs=8 --batch-size=32 --threads=1 --batch-norm "
        "--dropout=0.2 --noise=0.1 --augment-shift=1 --patience=5 --clip-norm=2 "
        "--log-every=7+iterations --checkpoint-every=0.000001+seconds"
    )
    # Drawing takes longer than this training.
    bare = [] if pytestconfig.getoption("--slow") else ["--no-report"]
    return [*bare, *(word.replace("+", " ") for word in text.split())]


def command(*words: object) -> list[str]:
    return [sys.executable, "-u", "-W", "error", "-m", "xpnet.train", *map(str, words)]


def finish(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, str]]:
    """`history.csv`, but for seconds."""
    with (run / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@dataclass
class Reference:
    """A run that nobody disturbed, and how long its parts took."""

    run: Path
    start: float = 0.0
    rest: float = 0.0
    names: set[str] = field(default_factory=set)

    def require_equal(self, run: Path) -> None:
        """Nothing is missing, nothing is left over, and the model is the same to the bit."""
        assert {path.name for path in run.iterdir()} == self.names
        assert sha256(run / "model.safetensors") == sha256(self.run / "model.safetensors")
        assert lines(run) == lines(self.run)
        mine, theirs = (json.loads((r / "metrics.json").read_text()) for r in (run, self.run))
        assert mine | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.fixture(scope="module")
def reference(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    made = Reference(tmp_path_factory.mktemp("reference") / "run")
    began = time.monotonic()
    with started(*flags, "--run", made.run) as process:
        assert prints(process, "all ")
        made.start = time.monotonic() - began
        process.communicate()
        made.rest = time.monotonic() - began - made.start
        assert process.returncode == 0
    made.names = {path.name for path in made.run.iterdir()}
    return made


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def prints(process: subprocess.Popen[str], word: str) -> bool:
    """Wait until it prints a line that begins with `word`, or ends without one."""
    assert process.stdout is not None
    return any(line.startswith(word) for line in process.stdout)


# SIGKILL


@dataclass
class Kills:
    """Runs whose every process is killed at a random moment, until one gets to the end."""

    reference: Reference
    flags: list[str]
    folder: Path
    seed: int
    kills: int = 0
    in_training: int = 0
    runs: int = 0
    models: set[str] = field(default_factory=set)

    def go_on(self, wanted: int) -> None:
        chance = random.Random(self.seed)
        while self.kills < wanted:
            run = self.folder / f"{self.seed}-{self.runs}"
            while not self.ends(run, chance, self.kills < wanted):
                pass
            self.runs += 1
            self.reference.require_equal(run)
            self.models.add(sha256(run / "model.safetensors"))

    def ends(self, run: Path, chance: random.Random, kill: bool) -> bool:
        """Whether a process, begun where the last one was killed, came to the end."""
        begun = (run / "config.toml").exists()
        words = ["--resume", run] if begun else [*self.flags, "--run", run]
        with started(*words) as process:
            # One in five somewhere before training, where there is less to lose.
            in_training = kill and chance.random() > 0.2 and prints(process, "all ")
            if kill:
                time.sleep(chance.uniform(0, self.reference.rest if in_training else 0.5))
                process.kill()
            _, errors = process.communicate()
        if process.returncode == 0:
            return True
        assert process.returncode == -signal.SIGKILL, errors
        self.kills += 1
        self.in_training += in_training
        return False


def test_sigkill_at_random_moments_loses_nothing(
    reference: Reference, flags: list[str], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    wanted = pytestconfig.getoption("--kills")
    # Two at a time, and moments that are other ones each time.
    lanes = [Kills(reference, flags, tmp_path, random.randrange(2**32)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(lane.go_on, -(-wanted // 2)) for lane in lanes]:
            done.result()
    kills, models = sum(lane.kills for lane in lanes), set().union(*(x.models for x in lanes))
    expected = sha256(reference.run / "model.safetensors")
    print(
        f"\n{kills} processes killed with SIGKILL ({sum(x.in_training for x in lanes)} of them in "
        f"training) in {sum(x.runs for x in lanes)} runs, resumed each time\n"
        f"model of the run without kills:  SHA-256 {expected}\n"
        f"models of the runs with kills:   SHA-256 {', '.join(sorted(models))}"
    )
    assert kills >= wanted
    assert models == {expected}


# A full disk

# From the nth opening of a file of the run for writing, no file may grow beyond so many bytes.
FULL_DISK = """
import os, resource, sys
from xpnet.train import main

folder, nth, space, *words = sys.argv[1:]
opened = 0

def watch(event, arguments):
    global opened
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
        is_to_write = arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_to_write and not arguments[0].endswith("/.lock"):
            opened += 1
            if opened == int(nth):
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(space), resource.RLIM_INFINITY))

sys.addaudithook(watch)
code = main([*words, "--run", folder])
print("files", opened)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short training on data that are not images, with a checkpoint after each epoch."""
    path = tmp_path_factory.mktemp("data") / "ten.npz"
    np.savez(path, x=np.eye(10, dtype=np.float32).repeat(30, 0), y=np.arange(300) // 30)
    text = f"--dataset={path} --hidden=8 --epochs=3 --threads=1 --checkpoint-every=1"
    return text.split()


def with_space(
    run: Path, nth: int, space: int, words: list[str]
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-c", FULL_DISK, str(run), str(nth), str(space), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, 1])
def test_a_full_disk_at_any_write_loses_nothing(
    every: int,
    small: list[str],
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed = tmp_path / "undisturbed"
    done = with_space(undisturbed, 0, 0, small)
    assert done.returncode == 0, done.stderr
    count = int(re.findall(r"^files (\d+)$", done.stdout, re.MULTILINE)[0])
    # config.toml, three checkpoints, history.csv, the model, two figures, the report, metrics.json
    assert count == 10
    reference = Reference(undisturbed, names={path.name for path in undisturbed.iterdir()})

    # With nothing written, or a part: more of a file than that is refused by the system itself.
    spaces = {nth: 100 * (nth % 2) for nth in range(1, count + 1, every)}
    with ThreadPoolExecutor(2) as pool:
        done_at = dict(
            zip(
                spaces,
                pool.map(lambda n: with_space(tmp_path / str(n), n, spaces[n], small), spaces),
                strict=True,
            )
        )
    for nth, done in done_at.items():
        run = tmp_path / str(nth)
        message = done.stderr.splitlines()
        assert (done.returncode, len(message)) == (2, 1), done
        refused = rf"xpnet: error: {run}/\S+: cannot be written \(File too large\)"
        assert re.match(refused, message[0]), message[0]
        assert not [path for path in run.iterdir() if path.name.startswith(".")], "left behind"
        checkpoints = Checkpoints(run).paths()
        for path in checkpoints:
            read(path)
        assert len(checkpoints) == min(max(nth - 2, 0), 2)
        capsys.readouterr()
        if nth == 1:
            assert main([*small, "--run", str(run)]) == 0
        else:
            assert message[0].endswith(
                f"free disk space, then python -m xpnet.train --resume {run}"
            ), message[0]
            assert main(["--resume", str(run)]) == 0
        said = capsys.readouterr().out
        assert ("resumes after iteration" in said) == (len(checkpoints) > 0)
        reference.require_equal(run)
    with capsys.disabled():
        if pytestconfig.getoption("capture") == "no":
            print(f"\nfull disk at {len(spaces)} of {count} writes, resumed each time: 0 lost")


def test_a_full_disk_under_the_output_is_one_line(small: list[str], tmp_path: Path) -> None:
    words = command(*small, "--run", tmp_path / "run")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "xpnet: error: No space left on device\n"


# Two processes, one folder


def require_refused(*words: object) -> None:
    done = finish(*words)
    message = done.stderr.splitlines()
    assert (done.returncode, len(message)) == (2, 1), done
    assert " is in use by another process: wait for its end, or name another" in message[0]


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_gone(
    flags: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    endless = [word for word in flags if "patience" not in word and "epochs" not in word]
    with started(*endless, "--epochs", "100000", "--run", run) as process:
        assert prints(process, "epoch ")
        require_refused("--resume", run)
        require_refused(*endless, "--run", run)
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert (run / ".lock").exists(), "nothing is stale here"
    with started("--resume", run) as process:
        assert prints(process, "resumes after iteration ")
        require_refused("--resume", run)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (143, "xpnet: terminated\n")
    assert not (run / ".lock").exists()


def test_of_two_that_begin_at_once_one_gets_the_folder(small: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    processes = [started(*small, "--run", run) for _ in range(2)]
    outcomes = sorted((p.communicate(), p.returncode)[::-1] for p in processes)
    assert [code for code, _ in outcomes] == [0, 2], outcomes
    errors = outcomes[1][1][1].splitlines()
    assert len(errors) == 1
    assert re.search("in use by another process|exists and is not an empty folder", errors[0])


def another(folder: Path) -> subprocess.Popen[str]:
    """A process that is in the folder until its input ends."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(folder)], **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_a_folder_is_one_process_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with another(folder) as process:
        with pytest.raises(ConfigError, match="is in use by another process"), lock(folder):
            pass
        process.communicate()
    # The same folder by another name; who is in may enter again.
    with lock(folder), lock(tmp_path / "deep" / ".." / "deep" / "folder"):
        with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="in use"):
            pool.submit(lock(folder).__enter__).result()
        assert (folder / ".lock").exists()
    assert list(folder.iterdir()) == []


def test_who_opened_the_file_before_it_was_removed_does_not_get_in_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last holder removes the file between our opening and our locking it."""
    opening, opened = os.open, []

    def slow_open(path: Any, *rest: Any) -> int:
        handle = opening(path, *rest)
        if str(path).endswith(".lock"):
            opened.append(handle)
            if len(opened) == 1:
                Path(path).unlink()
        return handle

    monkeypatch.setattr(os, "open", slow_open)
    with lock(tmp_path):
        assert len(opened) == 2
        assert os.path.samestat((tmp_path / ".lock").stat(), os.fstat(opened[1]))


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path: Path) -> None:
    left = [".model.safetensors.12", ".checkpoint-000000003.safetensors.7", ".config.toml.99999"]
    for name in [*left, ".gitignore", ".mine.1", "model.safetensors.12"]:
        (tmp_path / name).write_text("")
    with lock(tmp_path):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {".gitignore", ".mine.1", "model.safetensors.12"}


def test_a_folder_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be made"), lock(tmp_path / "file/run"):
        pass
    (tmp_path / "run/.lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"run cannot be locked"), lock(tmp_path / "run"):
        pass
