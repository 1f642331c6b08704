"""`python -m xpnet.train` as a person meets it: what it prints, leaves behind, and refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import xpnet as xn
from xpnet.cli.train import main
from xpnet.data import Normalisation, load_dataset, split

QUICK = ["--epochs", "2", "--batch-size", "100", "--dropout", "0.1"]
NARROW = [*QUICK, "--hidden", "16"]
# Where only the network and its figures matter: drawing takes longer than training.
BARE = [*NARROW, "--no-report"]
FILES = {
    "config.toml",
    "confusion_matrix.png",
    "history.csv",
    "metrics.json",
    "model.safetensors",
    "report.html",
    "sample_predictions.png",
    "training_metrics.png",
    "weights.png",
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*argv: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "xpnet.train", *argv]


def test_a_run_leaves_all_that_it_promises(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NARROW, "--seed", "3"]) == 0
    folder = Path("runs/digits-001")
    assert {path.name for path in folder.iterdir()} == FILES
    out = capsys.readouterr().out
    for words in (
        "digits: 784 features (28×28) uint8, values 0 to 255, 10 classes",
        "training     3,000",
        "validation   1,000",
        "test         1,000",
        "Linear(784, 16)",
        "(N, 16)           12,560",
        "epoch 1/2  loss ",
        "epoch 2/2  loss ",
        "test accuracy ",
        "precision  recall      F1  samples",
        "results   runs/digits-001/",
    ):
        assert words in out, words
    assert "\r" not in out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test accuracy {100 * metrics['test_accuracy']:.2f} %" in out
    assert 0.5 < metrics["test_accuracy"] < 1
    assert metrics["test_accuracy"] == np.trace(metrics["confusion"]) / 1000
    assert metrics["seed"] == 3
    assert metrics["device"] == "cpu"
    assert metrics["samples"] == {"train": 3000, "validation": 1000, "test": 1000}
    assert metrics["dataset"]["sha256"] == load_dataset("digits").sha256
    assert metrics["versions"]["numpy"] == np.__version__
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["30", "60"]
    assert float(rows[1]["val_accuracy"]) == metrics["validation_accuracy"]
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                assert min(image.size) > 400


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--augment-shift", "20000"], "shift of Augmentation must lie in"),
        (["--dataset", "ten.npz", "--augment-shear", "1"], "augment_shear: .* 10 features of ten"),
    ],
)
def test_augmentation_that_cannot_be_leaves_no_run_folder(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.eye(10, dtype=np.float32).repeat(9, 0)
    np.savez("ten.npz", x_train=x, y_train=np.arange(90) % 3)
    assert main([*NARROW, *flags]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_an_augmented_run_shows_what_it_trained_on() -> None:
    argv = [*NARROW, "--augment-shift", "2", "--augment-elastic", "30", "--batch-norm"]
    argv += ["--noise", "0.1", "--label-smoothing", "0.1", "--train-metrics", "evaluated"]
    assert main(argv) == 0
    folder = Path("runs/digits-001")
    assert {path.name for path in folder.iterdir()} == {*FILES, "augmented_samples.png"}
    assert main(["--config", str(folder / "config.toml")]) == 0
    again = Path("runs/digits-002")
    for name in ("model.safetensors", "augmented_samples.png"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_the_model_gives_the_reported_accuracy_back() -> None:
    assert main(BARE) == 0
    folder = Path("runs/digits-001")
    network = xn.load(folder / "model.safetensors")
    test = split(load_dataset("digits"), validation=None, test=None, seed=0).test
    normalisation = Normalisation(**network.metadata["normalisation"])
    logits = network.forward(normalisation.apply(test.x, np.float32), training=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (logits.argmax(axis=1) == test.labels).mean() == metrics["test_accuracy"]

    peer = torch.nn.Sequential(
        torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(16, 10)
    ).eval()
    peer.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    with torch.no_grad():
        expected = peer(torch.from_numpy(normalisation.apply(test.x, np.float32))).numpy()
    assert np.abs(logits - expected).max() <= 1e-5


def test_config_toml_gives_the_same_bits_again() -> None:
    assert (
        main([*QUICK, "--seed", "5", "--hidden", "30", "--optimizer", "rmsprop", "--l2", "0.5"])
        == 0
    )
    first = Path("runs/digits-001")
    assert main(["--config", str(first / "config.toml")]) == 0
    second = Path("runs/digits-002")
    for name in ("model.safetensors", "config.toml", "confusion_matrix.png", "weights.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert tomllib.loads((first / "config.toml").read_text())["threads"] >= 1


@pytest.mark.parametrize(
    "argv",
    [
        ["--optimizer", "sgd", "--momentum", "0.9", "--nesterov", "--learning-rate", "0.05"],
        ["--optimizer", "adamw", "--weight-decay", "0.01", "--schedule", "one_cycle"],
        ["--optimizer", "rmsprop", "--schedule", "step", "--step-every", "1", "--dtype", "float64"],
        ["--hidden", "20,12", "--activation", "tanh,gelu", "--initializer", "xavier_normal"],
        ["--hidden", "30,20", "--activation", "sigmoid", "--warm-up", "0", "--epochs", "9"],
        ["--hidden", "", "--initializer", "lecun_uniform", "--normalise", "standard"],
        [
            "--initializer",
            "uniform",
            "--initializer-bound",
            "0.05",
            "--bias-initializer",
            "uniform",
        ],
        ["--batch-size", "full", "--epochs", "12", "--log-every", "5 iterations"],
        ["--test", "0.5", "--validation", "0", "--activation", "leaky_relu"],
        ["--test", "500", "--validation", "0.1", "--patience", "1", "--threads", "1"],
    ],
)
def test_every_kind_of_setting_trains(argv: list[str]) -> None:
    assert main([*QUICK, "--no-report", *argv]) == 0
    metrics = json.loads(Path("runs/digits-001/metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.3
    assert np.isfinite(metrics["test_loss"])


def test_log_every_says_how_many_lines(capsys: pytest.CaptureFixture[str]) -> None:
    full = [
        "--no-report",
        "--hidden",
        "4",
        "--batch-size",
        "full",
        "--dropout",
        "0",
        "--epochs",
        "60",
    ]
    assert main([*full, "--log-every", "25"]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["25/60", "50/60", "60/60"]


def test_early_stopping_says_what_it_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BARE, "--epochs", "60", "--learning-rate", "0.05", "--patience", "2"]) == 0
    out = capsys.readouterr().out
    assert "kept the weights of epoch" in out
    with Path("runs/digits-001/history.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert len(losses) < 60
    assert len(losses) == losses.index(min(losses)) + 3
    metrics = json.loads(Path("runs/digits-001/metrics.json").read_text())
    assert metrics["validation_loss"] == min(losses)
    assert metrics["kept_epoch"] == losses.index(min(losses)) + 1


def test_many_classes_are_counted_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(600) % 30
    np.savez("many.npz", x=np.eye(30, dtype=np.float32)[labels], y=labels)
    assert main(["--dataset", "many.npz", *NARROW]) == 0
    out = capsys.readouterr().out
    assert "training       360  12 to 12 of a class" in out
    assert max(map(len, out.splitlines())) < 110


def idx_folder(images: bytes, labels: bytes) -> str:
    Path("data").mkdir()
    Path("data/train-images-idx3-ubyte").write_bytes(images)
    Path("data/train-labels-idx1-ubyte").write_bytes(labels)
    return "data"


def idx(*shape: int, count: int | None = None) -> bytes:
    size = int(np.prod(shape)) if count is None else count
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + bytes(i % 10 for i in range(size))


def file(name: str, content: bytes | str) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


CSV = "label,pixel0,pixel1,pixel2,pixel3\n" + "0,1,2,3,4\n1,5,6,7,8\n" * 20


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (lambda: "absent.csv", "absent.csv"),
        (lambda: "absent/", "absent"),
        (lambda: "fashion-mnist", "fashion-mnist"),
        (lambda: file("empty.csv", ""), "empty.csv.*empty"),
        (lambda: file("x.txt", "hello"), "x.txt"),
        (lambda: file("t.csv", CSV + "0,1,2,x,4\n"), "t.csv.*42.*pixel2.*'x'"),
        (lambda: file("n.csv", CSV + "0,1,,3,4\n"), "n.csv.*42.*pixel1"),
        (lambda: file("c.csv", CSV + "0,1,2,3\n"), "c.csv.*42"),
        (lambda: file("l.csv", CSV + "-1,1,2,3,4\n"), "l.csv.*42.*label.*-1"),
        (lambda: file("p.csv", CSV + "1,1,2,3,256\n"), "p.csv.*42.*pixel3.*256"),
        (lambda: file("u.csv", "pixel0,pixel1,pixel2,pixel3\n1,2,3,4\n"), "no labels"),
        (lambda: file("g.csv.gz", b"\x1f\x8b not really gzip"), "g.csv.gz"),
        (lambda: file("z.npz", b"PK not really zip"), "z.npz"),
        (lambda: idx_folder(b"", idx(30)), "train-images-idx3-ubyte.*empty"),
        (lambda: idx_folder(b"\x00\x00\x09\x03" + idx(30, 2, 2)[4:], idx(30)), "train-images"),
        (lambda: idx_folder(idx(30, 2, 2)[:-1], idx(30)), "train-images.*truncated.*120"),
        (lambda: idx_folder(idx(30, 2, 2), idx(29)), "30.*29"),
    ],
)
def test_bad_data_is_one_line_and_code_2(
    dataset: Callable[[], str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", dataset(), *QUICK]) == 2
    captured = capsys.readouterr()
    message = captured.err.splitlines()
    assert len(message) == 1, message
    assert message[0].startswith("xpnet: error: ")
    assert re.search(words, message[0]), message[0]
    assert not Path("runs").exists(), "a run folder was made for nothing"


def test_a_run_folder_in_use_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    assert main([*NARROW, "--run", "mine"]) == 2
    assert "run: mine exists and is not an empty folder" in capsys.readouterr().err
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.txt"]
    assert main([*NARROW, "--run", "new/deep"]) == 0
    assert {path.name for path in Path("new/deep").iterdir()} == FILES
    Path("void").mkdir()
    assert main([*NARROW, "--run", "void"]) == 0
    assert {path.name for path in Path("void").iterdir()} == FILES


def test_a_run_folder_that_cannot_be_made_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main([*QUICK, "--run", "file/run"]) == 2
    assert "run: file/run cannot be made" in capsys.readouterr().err


def test_divergence_is_one_line_and_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--optimizer", "sgd", "--learning-rate", "1e30", "--warm-up", "0"]
    assert main([*QUICK, *argv]) == 3
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert "diverged in epoch 1 (by step 30)" in message[0]
    assert "learning rate 1e+30" in message[0] or "learning rate" in message[0]
    kept = {path.name for path in Path("runs/digits-001").iterdir()}
    assert kept == {"config.toml", "history.csv", "report.html"}


def test_ctrl_c_saves_history_and_model_and_leaves_130() -> None:
    argv = command("--hidden", "64", "--epochs", "100000", "--warm-up", "0")
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch      2/"):
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "history and model so far are in runs/digits-001/" in out
    assert err.splitlines() == ["xpnet: interrupted"]
    folder = Path("runs/digits-001")
    network = xn.load(folder / "model.safetensors")
    test = split(load_dataset("digits"), validation=None, test=None, seed=0).test
    assert xn.evaluate(network, (test.x / np.float32(255), test.labels)).accuracy > 0.5
    assert len((folder / "history.csv").read_text().splitlines()) >= 3


def test_a_network_too_large_for_memory_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--hidden", "1000000000000"]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert message[0].startswith("xpnet: error: not enough memory (795000000000010 parameters): ")
    assert not Path("runs").exists()


def test_a_plain_terminal_gets_escapes() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command(*NARROW), env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"(28\\xd728)" in done.stdout


def test_a_closed_pipe_ends_without_a_word() -> None:
    process = subprocess.Popen(
        command(*NARROW, "--epochs", "1000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"data")
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda_is_one_line_and_code_2(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["--device", device]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert "needs CuPy" in message[0]
    assert "pip install" in message[0]
    assert not Path("runs").exists()


def test_auto_says_what_it_chose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main([*BARE, "--device", "auto"]) == 0
    assert "auto chose cpu" in capsys.readouterr().out
    assert json.loads(Path("runs/digits-001/metrics.json").read_text())["device"] == "cpu"


def test_nothing_is_asked_of_the_network() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from xpnet.train import main\n"
        f"sys.exit(main({NARROW!r}))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False)
    assert done.returncode == 0


def test_mnist_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    root = os.environ.get("XPNET_DATA")
    if root is None or not (Path(root) / "mnist").is_dir():
        pytest.skip("needs the full MNIST: set XPNET_DATA to the folder that holds mnist/")
    assert main(["--dataset", "mnist", "--hidden", "32", "--epochs", "1", "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "training    50,000" in out
    assert "test        10,000" in out
    assert json.loads(Path("runs/mnist-001/metrics.json").read_text())["test_accuracy"] > 0.9
