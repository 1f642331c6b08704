"""Which of three detectors notices each planted bug?

`python tests/support/run_planted_bugs.py [--only NAME] [--again]` plants each bug of
`planted_bugs.py` in a copy of the package and the tests, and runs the tests that most likely notice
it (`TESTS`) on NumPy, on the strict double (with the CUDA kernels on the CPU as well), and with the
CuPy wheel on the pretended device, there in several modes. The first failure ends a detector. It
writes the table `tests/PLANTED.md`, and exits with 1 if the pretended device notices fewer than
36 bugs.

Results are kept in `tests/PLANTED.json`: an interrupted run continues where it stopped, `--only`
adds one bug, `--again` starts from nothing. A test that fails on the pretended device without any
bug as well does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planted_bugs import KINDS, PLANTED_BUGS, PlantedBug
from planted_watch import DETECTORS, DEVICE, DOUBLE, NUMPY

ROOT = Path(__file__).resolve().parents[2]
TABLE, RESULTS = ROOT / "tests" / "PLANTED.md", ROOT / "tests" / "PLANTED.json"
SECONDS = 900
ENOUGH = 36
NOT_TRIED = "not tried"

MODES: dict[str, dict[str, str]] = {
    "default": {},
    "late": {"PRETENDED_DEVICE_ASYNC": "1"},
    "later": {"PRETENDED_DEVICE_ASYNC": "2"},
    "falling": {"PRETENDED_DEVICE_ORDER": "1"},
    "without pool": {"PRETENDED_DEVICE_POOL": "0"},
}
"""The modes of the pretended device, in the order in which they are tried."""

FIRST = dict.fromkeys(("missing wait", "unordered stream"), ("late", "later", "default"))
"""The modes for a kind of bug, where others are more likely to notice it."""

ALWAYS = ("accel/test_on_device.py",)
TESTS = {
    "accel/cuda_graph.py": ("accel/test_cuda_graph.py", "accel/test_recording.py"),
    "accel/cublas.py": ("accel/test_cuda_graph.py", "accel/test_cublas.py"),
    "accel/cuda_kernels.py": ("accel/test_cuda_kernels.py", "accel/test_cuda_graph.py"),
    "accel/cuda_launch.py": ("accel/test_cuda_graph.py", "accel/test_cuda_kernels.py"),
    "accel/cuda_kernels.cu": ("accel/test_cuda_kernels.py", "accel/test_cuda_graph.py"),
    "backend/__init__.py": ("backend/test_backend.py", "layers/test_layers.py"),
    "losses/base.py": ("test_losses.py", "training/test_steps.py"),
    "network/predictor.py": ("network/test_predictions.py", "network/test_network.py"),
    "optimizers/base.py": ("test_optimizers.py", "training/test_steps.py"),
    "training/augmentation.py": ("training/test_augmentation.py",),
    "training/device_data.py": ("training/test_training.py", "data/test_normalisation.py"),
    "training/fit_data.py": ("training/test_targets.py", "training/test_fit_arguments.py"),
    "training/running_metrics.py": ("training/test_training.py",),
    "training/trainer.py": ("training/test_training.py", "training/test_steps.py"),
    "training/update.py": ("training/test_training.py", "training/test_steps.py"),
}
"""The tests that most likely notice a bug in a file, the likeliest first."""

HEAD = """\
# Planted bugs

Written by `python tests/support/run_planted_bugs.py`. Each bug of `tests/support/planted_bugs.py`
was planted alone; a cell names the test that failed first, and on the pretended device the mode in
which it did. The tests run for a bug are those of `TESTS` in the program, not the whole suite. A
test can fail on the double for a plainer reason than the bug's own: the double has no pinned
memory, say.

The list of bugs was committed before any detector was tried on it. The tests in
`tests/accel/test_on_device.py`, and of labels on a device in `tests/training/test_targets.py`, were
written after it: they check what xpnet promises for a device, and no test had checked on CuPy.
"""


def on_pretended_device(command: list[str], mode: str) -> tuple[list[str], dict[str, str]]:
    """`command` with CuPy on the pretended device: what to run, and its environment."""
    starter = [sys.executable, str(ROOT / "tests" / "support" / "cupy_on_cpu")]
    # The bugs compile: NVRTC's check, which takes long, would find nothing.
    return [*starter, *command], {"PRETENDED_DEVICE_NVRTC": "0"} | MODES[mode]


def run_tests(
    folder: Path,
    files: tuple[str, ...],
    mode: str | None,
    red: list[str],
    *,
    ends: bool,
    detectors: Sequence[str] = (DEVICE,),
) -> dict[str, list[str]]:
    """The failed tests of each detector, in `folder`; `mode`: of the pretended device, or None.

    A test that ends the process, or does not end, is a failed one of its detector; those of the
    other detectors have not run then.
    """
    verdict = folder / "verdict.json"
    verdict.write_text("{}", encoding="utf-8")
    watch = {"detectors": list(detectors), "red": red, "ends": ends, "verdict": str(verdict)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "planted_watch", "-p", "no:randomly"]
    command += ["-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command += ["--device", "kernels" if mode is None else "cuda"]
    command += [f"tests/{name}" for name in files]
    own: dict[str, str] = {}
    if mode is not None:
        command, own = on_pretended_device(command, mode)
    paths = os.pathsep.join([str(folder), str(folder / "tests" / "support")])
    environment = os.environ | own
    environment |= {"PLANTED_WATCH": json.dumps(watch), "PYTHONPATH": paths}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        started = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = started.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            return _with_running(folder, detectors, f"which does not end in {SECONDS} s")
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    if status in (0, 1, 5):
        return _read(verdict)
    # A process that the bug ends, such as by a segmentation fault, or tests that do not begin.
    return _with_running(folder, detectors, f"where the process ends with {status}")


def _with_running(folder: Path, detectors: Sequence[str], what: str) -> dict[str, list[str]]:
    """The failed tests, and the one that runs; without one, all detectors fail to begin."""
    running = folder / "running"
    if not running.exists():
        return {one: [f"before any test, {what}"] for one in detectors}
    detector, test = running.read_text(encoding="utf-8").splitlines()
    failed = _read(folder / "verdict.json")
    return {detector: [f"{test}, {what}"]} | failed


def _read(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def copy_of_tree(parent: Path) -> Path:
    """A folder with package, tests and what they read, without what is built."""
    folder = parent / "copy"
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "PLANTED.*")
    for part in ("xpnet", "tests", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def is_green(test: str, mode: str) -> bool:
    """Whether `test` passes on the pretended device where nothing was planted."""
    with tempfile.TemporaryDirectory() as name:
        folder = copy_of_tree(Path(name))
        return not run_tests(folder, (test.removeprefix("tests/"),), mode, [], ends=True)


def with_bug(bug: PlantedBug, parent: Path) -> Path:
    """A copy of the tree in which `bug` is planted."""
    folder = copy_of_tree(parent)
    path = folder / "xpnet" / bug.file
    text = path.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise SystemExit(f"{bug.name}: its old text is not once in xpnet/{bug.file}: mend it")
    path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    return folder


def on_device(bug: PlantedBug, kept: dict[str, Any]) -> dict[str, str]:
    """By which test and in which mode the pretended device notices `bug`; empty if it does not."""
    files = tuple(dict.fromkeys([*ALWAYS, *TESTS[bug.file]]))
    with tempfile.TemporaryDirectory() as name:
        folder = with_bug(bug, Path(name))
        for mode in FIRST.get(bug.kind, tuple(MODES)):
            red, green = kept["red"].setdefault(mode, []), kept["green"].setdefault(mode, [])
            while failed := run_tests(folder, files, mode, red, ends=True):
                noticed = failed[DEVICE][0]
                test = noticed.partition(", where")[0]
                if "::" not in test or test in green or is_green(test, mode):
                    green += [test] if test not in green else []
                    return {DEVICE: noticed, "mode": mode}
                red.append(test)
    return {}


def without_device(bug: PlantedBug, kept: dict[str, Any]) -> dict[str, str]:
    """By which tests NumPy and the double notice `bug`."""
    files = tuple(dict.fromkeys([*TESTS[bug.file], *ALWAYS]))
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = with_bug(bug, Path(name))
        while others := [one for one in (NUMPY, DOUBLE) if one not in found]:
            (folder / "running").unlink(missing_ok=True)
            failed = run_tests(folder, files, None, [], ends=True, detectors=others)
            found |= {detector: tests[0] for detector, tests in failed.items()}
            # Only a test that ended the process has kept the others from running.
            if not any(", wh" in test for test in found.values()) or not failed:
                break
    return found


def table(kept: dict[str, Any]) -> str:
    """The page `PLANTED.md`."""
    rows = [
        (bug, kept["cpu"].get(bug.name, dict.fromkeys((NUMPY, DOUBLE), NOT_TRIED)) | device)
        for bug in PLANTED_BUGS
        if (device := kept["device"].get(bug.name)) is not None
    ]
    tried = {DEVICE: len(rows)} | dict.fromkeys((NUMPY, DOUBLE), len(kept["cpu"]))
    lines = [HEAD, f"| of {len(PLANTED_BUGS)} bugs | tried | noticed |", "|---|---|---|"]
    for one in DETECTORS:
        noticed = sum(caught.get(one, NOT_TRIED) != NOT_TRIED for _, caught in rows)
        lines.append(f"| {one} | {tried[one]} | {noticed} |")
    for kind, what in KINDS.items():
        lines += ["", f"## {kind}: {what}", "", f"| bug | {' | '.join(DETECTORS)} |"]
        lines.append("|---|---|---|---|")
        for bug, caught in rows:
            if bug.kind == kind:
                cells = [f"{bug.name} (`{bug.file}`): {bug.why}".replace("|", "\\|")]
                cells += [cell(caught.get(detector)) for detector in DETECTORS]
                if caught.get("mode", "default") != "default":
                    cells[-1] += f" ({caught['mode']})"
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(test: str | None) -> str:
    if test is None:
        return "not noticed"
    text = test.removeprefix("tests/").replace("|", "\\|")
    return text if len(text) <= 110 else text[:109] + "…"


def main() -> int:
    parser = argparse.ArgumentParser(description="Which detectors notice the planted bugs?")
    parser.add_argument("--only", metavar="NAME", help="one bug, tried again")
    parser.add_argument("--again", action="store_true", help="start from nothing")
    options = parser.parse_args()
    kept: dict[str, Any] = {"red": {}, "green": {}, "device": {}, "cpu": {}}
    if RESULTS.exists() and not options.again:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    bugs = [bug for bug in PLANTED_BUGS if options.only in (None, bug.name)]
    if not bugs:
        parser.error(f"no bug is called {options.only!r}: see tests/support/planted_bugs.py")
    for where, tried in (("device", on_device), ("cpu", without_device)):
        for bug in bugs:
            if options.only or bug.name not in kept[where]:
                kept[where][bug.name] = found = tried(bug, kept)
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
                TABLE.write_text(table(kept), encoding="utf-8")
                print(f"{bug.name}: {found or 'not noticed'}", flush=True)
    noticed = sum(DEVICE in found for found in kept["device"].values())
    print(f"{len(kept['device'])} bugs, the pretended device notices {noticed}")
    return int(noticed < ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
