"""Training started by mpiexec: the network of one process, one voice, and no rank left waiting."""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import test_ranks

import xpnet as xn
from xpnet.cli import console
from xpnet.distributed import mpi_group
from xpnet.errors import ConfigError, exit_code

PROGRAM = Path(__file__).resolve().parents[1] / "support/rank_program.py"
MPIEXEC = Path(sysconfig.get_path("scripts"), "mpiexec")

needs_mpiexec = pytest.mark.skipif(
    not MPIEXEC.exists(), reason="no mpiexec beside Python: install the extra `mpi`"
)


def command(ranks, *words):
    """mpiexec, with more ranks than cores if need be."""
    return [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, words)]


def start(words, **more):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def run(words, seconds=300, **more):
    process = start(words, **more)
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def train(ranks, *words):
    return command(ranks, "-m", "xpnet.train", "--no-report", *words)


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@needs_mpiexec
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["augmentation", "sample weights", "batch norm, images"])
def test_ranks_train_the_network_of_one_process(tmp_path, case, ranks):
    code, _, err = run(command(ranks, PROGRAM, case, tmp_path / "found.npz"))
    assert code == 0, err
    with np.load(tmp_path / "found.npz") as found:
        network, history = test_ranks.train(**test_ranks.long_enough(**test_ranks.CASES[case]))
        own = network.flat_parameters
        limit = 1e-10 if "norm" in case else 1e-12
        assert np.linalg.norm(found["weights"] - own) < limit * np.linalg.norm(own)
        losses = [record.loss for record in history.records]
        assert found["losses"] == pytest.approx(losses, rel=100 * limit)


@needs_mpiexec
def test_the_command_trains_once_and_prints_once(tmp_path):
    settings = ["--epochs", "2", "--hidden", "32", "--threads", "1"]
    code, out, err = run(train(2, *settings, "--run", tmp_path / "two"))
    assert (code, err) == (0, "")
    assert out.count("test accuracy") == out.count("epoch 1/2") == 1
    alone = [sys.executable, "-m", "xpnet.train", "--no-report", *settings]
    code, _, _ = run([*alone, "--run", tmp_path / "one"])
    assert code == 0
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        p.name for p in (tmp_path / "two").iterdir()
    }
    one, two = (xn.load(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert test_ranks.difference(one, two) < 1e-5


@needs_mpiexec
def test_help_is_printed_once():
    code, out, err = run(train(2, "--help"))
    assert (code, err) == (0, "")
    assert out.count("usage: python -m xpnet.train") == 1


@needs_mpiexec
@pytest.mark.slow
def test_killed_ranks_lose_nothing(tmp_path):
    settings = ["--epochs", "26", "--hidden", "64", "--reproducible-parts", "4"]
    code, _, err = run(train(1, *settings, "--threads", "2", "--run", tmp_path / "whole"))
    assert code == 0, err
    draw, folder, kills = random.Random(0), tmp_path / "killed", 0
    new = [*settings, "--checkpoint-every", "2 epochs", "--run", folder]
    for ranks in (2, 4, 2, 4, 1, 4, 2, 1, 4, 2):
        resumes = (folder / "config.toml").exists()
        process = start(train(ranks, *(["--resume", folder] if resumes else new)))
        before = set(folder.glob("checkpoint-*"))
        # Once it has written another checkpoint, or is done.
        while process.poll() is None and set(folder.glob("checkpoint-*")) <= before:
            time.sleep(0.02)
        victims = ranks_of(process.pid)
        if process.poll() is None and victims:
            os.kill(draw.choice(victims), signal.SIGKILL)
            kills += 1
        process.communicate(timeout=120)
    assert kills >= 6
    if not (folder / "metrics.json").exists():
        code, _, err = run(train(2, "--resume", folder))
        assert code == 0, err
    assert digest(folder) == digest(tmp_path / "whole")


def ranks_of(pid):
    """The Python processes that this mpiexec has started."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    family, found = {pid}, []
    for own, parent, words in sorted(rows, key=lambda row: int(row[0])):
        if int(parent) in family:
            family.add(int(own))
            if words.startswith(sys.executable):
                found.append(int(own))
    return found


@pytest.mark.slow
@needs_mpiexec
@pytest.mark.parametrize("how", ["raises", "exits", "ends"])
def test_a_rank_that_fails_ends_all(tmp_path, how):
    process = start(command(2, PROGRAM, how, tmp_path))
    while not list(tmp_path.glob("checkpoint-*")) and process.poll() is None:
        time.sleep(0.05)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    if how == "raises":
        assert "ZeroDivisionError: on this rank" in err
    assert list(tmp_path.glob("checkpoint-*"))


@pytest.mark.slow
@needs_mpiexec
def test_a_rank_that_does_not_answer_is_named(tmp_path):
    process = start(train(3, "--epochs", "9999", "--hidden", "16", "--run", tmp_path / "run"))
    folder = tmp_path / "run"
    process.stdout.readline()
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    victim = ranks_of(process.pid)[-1]
    os.kill(victim, signal.SIGSTOP)
    try:
        process.stdout.close()
        with process.stderr:
            err = process.stderr.read()
        process.wait(timeout=120)
    finally:
        os.kill(victim, signal.SIGKILL)
    errors = [line for line in err.splitlines() if line.startswith("xpnet: error:")]
    assert len(errors) == 1, err
    assert "rank 2 does not answer: exited, stopped or unreachable (no answer for 6" in errors[0]
    assert process.returncode != 0
    assert folder.exists()


@pytest.mark.slow
@needs_mpiexec
@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (["--epochs", "x"], None, "xpnet: error: epochs: input should be a valid integer"),
        (["--seed", "1"], ["--seed", "2"], "seed of the network is 1 on rank 0 and 2 on rank 1"),
        ([], ["--dataset", "nowhere.csv"], "xpnet: error: rank 1: unknown data set 'nowhere.csv'"),
        (["--reproducible-parts", "3"], None, "must be a power of two, such as 8, or 0, found 3"),
    ],
)
def test_one_rank_says_what_is_wrong(tmp_path, words, more, message):
    words = ["-m", "xpnet.train", "--no-report", "--run", tmp_path / "run", *words]
    one = [MPIEXEC, "-n", "1", sys.executable, *words]
    other = [] if more is None else [":", "-n", "1", sys.executable, *words, *more]
    code, _, err = run(one + other if more else command(3, *words))
    errors = [line for line in err.splitlines() if line.startswith("xpnet: error:")]
    assert len(errors) == 1, err
    assert message in errors[0]
    assert code == 2
    assert "seed" in message or not (tmp_path / "run").exists()


@needs_mpiexec
@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 2])
def test_a_process_that_never_starts_mpi_ends_the_others(missing):
    joins = "from xpnet.distributed import mpi_group as m; m.START_SECONDS = 5; m.mpi()"
    # One that ends before is no error for mpiexec, and MPI waits for it.
    programs = ["pass" if rank == missing else joins for rank in range(3)]
    one, *others = [["-n", "1", sys.executable, "-c", text] for text in programs]
    words = [word for program in others for word in (":", *program)]
    code, _, err = run([MPIEXEC, *one, *words], seconds=120)
    errors = [line for line in err.splitlines() if line.startswith("xpnet: error:")]
    assert len(errors) == 1, err
    assert "of the 3 processes that mpiexec has started, some have not started MPI" in errors[0]
    assert code != 0


@pytest.mark.slow
@needs_mpiexec
def test_a_training_that_is_terminated_can_be_resumed(tmp_path):
    words = ["--epochs", "9999", "--hidden", "16", "--run", tmp_path / "run"]
    process = start(train(2, *words))
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    for rank in ranks_of(process.pid):
        os.kill(rank, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "interrupted: history and model so far are in" in out
    assert out.count("to resume:") == 1
    assert list((tmp_path / "run").glob("checkpoint-*"))


def test_several_processes_need_mpi4py(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setattr(mpi_group, "find_spec", lambda name: None)
    mpi_group.mpi.cache_clear()
    with pytest.raises(ConfigError, match=r"mpi4py is not installed: .* mpi4py mpich"):
        mpi_group.joined()


def test_only_the_first_process_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr(mpi_group, "find_spec", lambda name: None)
    mpi_group.mpi.cache_clear()
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(SystemExit) as ended:
        mpi_group.joined()
    assert ended.value.code == 2


def test_processes_of_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert mpi_group.joined().size == 1  # some containers set it
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="torchrun has started 4 processes, which xpnet cannot"):
        mpi_group.joined()


def test_exit_codes_are_those_of_the_commands():
    codes = [xn.XpnetError(), KeyboardInterrupt(), BrokenPipeError(), OSError(), MemoryError()]
    codes += [SystemExit(5), SystemExit(), SystemExit("text"), ZeroDivisionError()]
    assert [exit_code(error) for error in codes] == [2, 130, 141, 2, 2, 5, 0, 1, 1]


@pytest.mark.parametrize("name", ["predict", "compare", "export", "tune"])
def test_other_commands_are_of_one_process(monkeypatch, capsys, name):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    module = importlib.import_module(f"xpnet.{name}" + ".__main__" * (name == "tune"))
    assert module.main([]) == 2
    expected = f"python -m xpnet.{name} runs as a single process, but mpiexec has started 2"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "1", "0", "many", "-3"])
def test_one_process_is_alone(monkeypatch, text):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_SIZE", text)
    monkeypatch.setenv("PMI_RANK", "0")
    assert mpi_group.joined().size == 1
    assert console.run(lambda: 0, "this") == 0
