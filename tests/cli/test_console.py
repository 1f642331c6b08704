"""The commands from the outside: what they list, print and refuse, whatever a name is made of."""

from __future__ import annotations

import html
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xpnet import __version__
from xpnet.__main__ import COMMANDS, main
from xpnet.cli import options
from xpnet.cli.options import from_command_line
from xpnet.config import TrainConfig, make_config
from xpnet.errors import ConfigError, printable
from xpnet.runs.run_folder import absolute_path_flags, is_same_path, resume_command
from xpnet.tune.__main__ import read_command_line
from xpnet.utils.shell import shell_command

SMALL = ["--epochs", "1", "--hidden", "4"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def few(name: str) -> str:
    """A data set of three classes in the file `name`."""
    random, labels = np.random.default_rng(0), np.arange(120) % 3
    x = random.normal(size=(120, 5)) + 2 * np.eye(5)[labels]
    with Path(name).open("wb") as file:
        np.savez(file, x=x.astype(np.float32), y=labels)
    return name


def run(module: str, *words: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-m", module, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)


def call(name: str, *words: str) -> int:
    """The command in this process."""
    module = importlib.import_module(f"xpnet.{'tune.__main__' if name == 'tune' else name}")
    code: int = module.main(list(words))
    return code


# `python -m xpnet`


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name, about in COMMANDS.items():
        assert re.search(rf"^  python -m xpnet\.{name} +{about}$", out, re.M)
    assert max(map(len, out.splitlines())) <= 90


def test_each_command_listed_is_one_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: python -m xpnet.{name}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"xpnet {__version__}\n"


@pytest.mark.parametrize(
    ("word", "words"), [("trian", "did you mean train"), ("\x1b[31m", "there are"), ("-x", "train")]
)
def test_an_unknown_command_is_one_line(
    word: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.isprintable()


def test_it_runs_as_a_module() -> None:
    done = run("xpnet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m xpnet.train" in done.stdout


# Help


def test_every_setting_stands_in_one_group() -> None:
    settings = list(TrainConfig.model_fields)
    assert [name for name in settings if name in options.GROUPS.values()] == [
        *options.GROUPS.values()
    ]
    assert settings[0] == options.GROUPS["data"]
    assert set(options.METAVARS) <= set(settings)


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_terminal_and_states_a_default_once(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        call(name, "--help")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    for one in re.split(r"\n  (?=-)", text)[1:]:
        assert " ".join(one.split()).count("default:") <= 1
    for word in ("Path", "None", "{int", "tuple", "float]", "<class"):
        assert word not in text


def test_the_help_of_training_has_groups_and_says_what_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        call("train", "--help")
    text = capsys.readouterr().out
    places = [text.index(f"\n{name}:\n") for name in options.GROUPS]
    assert places == sorted(places)
    assert "\n  --hidden 512,256 " in text
    assert "weights of the epoch with the lowest validation loss" in " ".join(text.split())


# Flags


@pytest.mark.parametrize("words", [["8,4"], ["8", "4"], ["8,", "4"], ["8, 4"], ["8 ,4"]])
def test_lists_are_written_with_commas_or_spaces(words: list[str]) -> None:
    assert from_command_line(["--hidden", *words, "--seed", "1"], "x").hidden == (8, 4)
    Path("space.toml").write_text("seed = [1, 2]\n")
    options, base = read_command_line(["space.toml", "--hidden", *words, "--jobs", "2"])
    assert (base.hidden, options.jobs) == ((8, 4), 2)


def test_none_takes_a_setting_of_the_file_back() -> None:
    Path("c.toml").write_text("patience = 3\nclip_norm = 1\n")
    config = from_command_line(["--config", "c.toml", "--patience", "none"], "x")
    assert (config.patience, config.clip_norm) == (None, 1.0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hidden", "512,"], "hidden: put one comma or a space between two, found '512,'"),
        (["--hidden", "512,,256"], "hidden: put one comma"),
        (["--hidden", "abc"], "hidden: .*integer.* found 'abc'"),
        (["--hidden", "9" * 30], "hidden: every width must be .*below 2..63"),
        (["--hidden"], "--hidden: expected at least one argument"),
        (["--batch-size", "ful"], "batch_size: .*'full', found 'ful'"),
        (["--batch-size", "9" * 30], "batch_size: must be above 0 and below 2..63"),
        (["--seed", "1" + "0" * 22], "seed: .*less than 9223372036854775808, found '1000"),
        (["--epochs", str(2**63)], "epochs: .*less than"),
        (["--split-seed", "-1"], "split_seed: .*greater than or equal to 0"),
        (["--epochs", "2.5"], "epochs: .*integer"),
        (["--lerning-rate", "1"], r"--lerning-rate 1 \(did you mean --learning-rate\?\)"),
        (["--epochs", "--sed", "1"], r"--epochs: expected one argument \(a value that begins"),
        (["--run", "--x"], r"--run: expected one argument \(a value that begins with --"),
        (["-x"], r"unrecognized arguments: -x \(a path that begins with - is written ./-"),
        (["--initial-model-sha256", "0f" * 32], "initial_model_sha256: works only with an initial"),
        (["--initial-model", "x", "--initial-model-sha256", "12"], "initial_model_sha256: "),
    ],
)
def test_slips_in_flags_are_one_line(argv: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        from_command_line(argv, "python -m xpnet.train")
    assert str(caught.value).isprintable()


def test_a_value_may_begin_with_a_minus_sign() -> None:
    assert from_command_line(["--run", "-r"], "x").run == Path("-r")
    assert from_command_line(["--run=-r", "--seed", "2"], "x").run == Path("-r")
    with pytest.raises(ConfigError, match=r"learning_rate: .*found '-1e-3'"):
        from_command_line(["--learning-rate", "-1e-3"], "x")


def test_a_misspelt_flag_of_a_search_is_told_the_nearest() -> None:
    Path("space.toml").write_text("hidden = [1, 2]\n")
    with pytest.raises(ConfigError, match=r"did you mean --sampler\?"):
        read_command_line(["space.toml", "--smapler", "grid"])


# Files of settings


@pytest.mark.parametrize(
    "line",
    [
        "epochs = true", 'epochs = "5"', "epochs = 20.0", "seed = false", "split_seed = 1.5",
        'dropout = "0.5"', "dropout = true", "batch_norm = 1", 'batch_norm = "true"',
        "hidden = [true]", "hidden = [4.0]",
        'hidden = ["4"]', 'hidden = "4,5"', "batch_size = true",
        'batch_size = "64"', "batch_size = 64.0", "patience = true", 'validation = "0.2"',
        "validation = true", "log_every = true", "log_every = 2.5", "checkpoint_every = true",
        "dataset = 5", "run = 5", "initial_model = 5", 'dataset = "a\\u0000b"',
        'run = "a\\u0000b"', "noise = 1e300", "initializer_bound = 1e300",
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(line: str) -> None:
    Path("c.toml").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=rf"^c.toml: {line.split()[0]}: .*found ") as caught:
        from_command_line(["--config", "c.toml"], "x")
    assert str(caught.value).isprintable()


def test_python_values_are_held_to_their_types_as_well() -> None:
    for value in (True, "5", 5.0):
        with pytest.raises(ConfigError, match=r"epochs: input should be a valid integer, found "):
            make_config({"epochs": value})
    assert make_config({"dropout": 0, "hidden": [3], "run": "there"}).run == Path("there")


def test_whatever_a_seed_may_be_its_own_file_can_be_read() -> None:
    config = from_command_line(["--seed", str(2**63 - 1), "--split-seed", str(2**63 - 1)], "x")
    Path("c.toml").write_text(config.to_toml())
    assert from_command_line(["--config", "c.toml"], "x") == config


def test_a_byte_order_mark_is_no_setting() -> None:
    Path("c.toml").write_bytes("epochs = 3\n".encode("utf-8-sig"))
    assert from_command_line(["--config", "c.toml"], "x").epochs == 3


# What reaches the terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("runs/digits-001", "runs/digits-001"),
        ("日本 ü", "日本 ü"),
        ("a\x1b[31mb\n\x9b2J\r\u202e", r"a\x1b[31mb\n\x9b2J\r\u202e"),
        (os.fsdecode(b"a\xff"), r"a\xff"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_printed_is_text_of_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


NAMES: dict[str, Callable[[], str]] = {
    "escape": lambda: "a\x1b[31m\x9bb",
    "line": lambda: "a\nb",
    "bytes": lambda: os.fsdecode(b"a\xff"),
    "minus": lambda: "-a",
    "quotes": lambda: "a 'b' \"c\" $HOME `d`",
}


@pytest.mark.needs("onnx")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses names that are not UTF-8")
@pytest.mark.parametrize(
    "kind",
    [
        "escape",
        "bytes",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("line", "minus", "quotes")),
    ],
)
def test_any_name_is_text_for_the_terminal(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As the name of the data, of the run, of a settings file and of every file of a command."""
    name = NAMES[kind]()
    few("few.npz")
    path = f"./{name}"
    data = few(f"{path}.npz")
    Path(f"{path}.toml").write_text("hidden = [[3], [4]]\n")
    missing = f"{path}.none"
    model = f"{path}/model.safetensors"
    calls: list[tuple[str, list[str], int]] = [
        ("train", ["--dataset", "few.npz", "--run", name, *SMALL], 0),
        ("train", ["--dataset", "few.npz", "--run", name, *SMALL], 2),
        ("train", ["--resume", name], 0),
        ("train", ["--resume", name, "--epochs", "9"], 2),
        ("train", ["--dataset", data, *SMALL], 2 if kind == "bytes" else 0),
        ("train", ["--dataset", missing], 2),
        ("train", ["--config", missing], 2),
        ("train", ["--dataset", "few.npz", "--initial-model", path], 2 if kind == "bytes" else 0),
        ("train", ["--dataset", "few.npz", "--initial-model", missing], 2),
        ("compare", [path, "--html", f"{path}.html"], 0),
        ("compare", [missing], 2),
        ("predict", [model, data], 0),
        ("predict", [model, missing], 2),
        ("predict", [missing, data], 2),
        ("export", [model, "--onnx", f"{path}.onnx"], 0),
        ("export", [missing, "--onnx", "x"], 2),
        ("tune", [f"{path}.toml", "--dataset", "few.npz", "--folder", f"{path}-tune", *SMALL], 0),
        ("tune", [missing], 2),
    ]
    for module, words, code in calls:
        assert call(module, *words) == code, words
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == (code == 2), captured.err
        for text in (captured.out, captured.err):
            assert all(c.isprintable() or c == "\n" for c in text), (words, text)


def test_a_file_of_another_encoding_gives_no_traceback() -> None:
    name = os.fsdecode(b"a\xff.npz")
    done = run("xpnet.train", "--dataset", name)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "dataset: the name is not UTF-8, so config.toml cannot hold it" in line


@pytest.mark.slow
def test_a_rate_that_is_too_high_gives_no_warning_of_numpy() -> None:
    few("few.npz")
    rate = ["--optimizer", "sgd", "--learning-rate", "1e10", "--warm-up", "0"]
    done = run("xpnet.train", "--dataset", "few.npz", *SMALL, *rate)
    assert done.returncode in (0, 3)
    assert len(done.stderr.splitlines()) == (done.returncode == 3)
    done = run("xpnet.train", *SMALL, *rate)
    assert "Warning" not in done.stderr


# Commands that are printed


@pytest.mark.parametrize("name", ["run", "-run", "a run", "it's", 'a "b" $HOME `x`', "a\x1b\\'\nb"])
def test_what_is_typed_is_the_path(name: str) -> None:
    Path(name).mkdir()
    Path(name, "file").write_text("found")
    line = shell_command("cat", Path(name, "file"))
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "found"


@pytest.mark.slow
@pytest.mark.needs("onnx")
def test_the_commands_of_a_report_run_in_any_folder_as_printed(tmp_path: Path) -> None:
    few("da ta's.npz")
    folder = Path("-a 'run' $x")
    assert call("train", "--dataset", "da ta's.npz", f"--run={folder}", *SMALL) == 0
    (tmp_path / "elsewhere" / "bin").mkdir(parents=True)
    python = tmp_path / "elsewhere" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    page = (folder / "report.html").read_text()
    printed = re.findall(r"<pre[^>]*>(.*?)</pre>", page[page.index(">Commands<") :])
    assert len(printed) == 4
    stand_ins = {"FILE": "../da\\ ta\\'s.npz", "OTHER_RUN": f"{shell_command(folder.absolute())}"}
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    for line in map(html.unescape, printed):
        for word, path in stand_ins.items():
            line = re.sub(rf" {word}$", lambda found, path=path: f" {path}", line)
        done = subprocess.run(
            ["bash", "-c", line], cwd="elsewhere", env=environment, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), line
    again = Path("elsewhere/runs/da ta's-001/model.safetensors")
    assert again.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_command_to_go_on_runs_in_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    few("few.npz")
    assert call("train", "--dataset", "few.npz", "--run", "a run", *SMALL) == 0
    before = Path("a run/model.safetensors").read_bytes()
    Path("a run/metrics.json").unlink()
    config = from_command_line(["--dataset", "few.npz"], "x")
    line = resume_command(config, Path("a run"), anywhere=True)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    )
    assert call("train", *words.stdout.splitlines()[3:]) == 0
    assert Path("../a run/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("there", "here", "same"),
    [
        ("a.csv", "/x/a.csv", True),
        ("d/a.csv", "/x/d/a.csv", True),
        ("../d/a.csv", "/x/d/a.csv", True),
        ("./a.csv", "/x/a.csv", True),
        ("/x/a.csv", "/x/a.csv", True),
        ("a.csv", "a.csv", True),
        ("a.csv", "b.csv", False),
        ("a.csv", "/x/b.csv", False),
        ("d/a.csv", "/x/a.csv", False),
        ("a.csv", "d/a.csv", False),
        (None, "/x/a.csv", False),
    ],
)
def test_a_relative_path_may_be_said_in_full(there: str, here: str, same: bool) -> None:
    assert is_same_path(there, here) is same


def test_names_of_data_sets_are_no_paths() -> None:
    assert absolute_path_flags(make_config({"dataset": "mnist"})) == []
    (flag, path) = absolute_path_flags(make_config({"dataset": "./mnist"}))
    assert (flag, path) == ("--dataset", Path("mnist").absolute())
