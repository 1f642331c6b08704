"""The tests that send signals pass in a background job too, whose shell ignores SIGINT."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SENDING = [
    "accel/cpu/test_executor.py::test_ctrl_c_between_operations_in_python_is_not_lost",
    "accel/cpu/test_runner.py::test_ctrl_c_ends_a_run_between_steps",
    "training/test_checkpoints.py::test_a_signal_lets_the_step_end_and_leaves_a_checkpoint",
    "training/test_checkpoints.py::test_a_second_sigint_stops_at_once",
    "training/test_checkpoints.py::test_a_second_sigterm_ends_the_process_at_once",
    "training/test_checkpoints.py::test_a_signal_ends_the_command_and_resume_goes_on",
    "training/test_checkpoints.py::test_resume_may_move_to_another_device",
    "training/test_faults.py::test_a_second_process_is_refused_until_the_first_is_gone",
    "report/test_report.py::test_a_run_that_is_interrupted_leaves_a_report",
    "cli/test_train.py::test_ctrl_c_saves_history_and_model_and_leaves_130",
    "training/test_training.py::test_an_interrupt_keeps_the_history_so_far",
    "distributed/test_mpi.py::test_a_training_that_is_terminated_can_be_resumed",
    "tune/test_tune.py::test_ctrl_c_leaves_130_a_whole_journal_and_no_process",
]


def test_every_file_that_sends_a_signal_is_listed() -> None:
    sends = re.compile(r"(raise_signal|send_signal|kill|killpg|Raise)\(.*(number|SIGINT|SIGTERM)")
    files = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if sends.search(path.read_text())
    }
    assert files - {"training/test_signals.py"} == {name.partition("::")[0] for name in SENDING}


@pytest.mark.slow
def test_they_pass_in_a_shell_that_ignores_signals() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--slow", "-p", "no:cacheprovider"]
    done = subprocess.run(
        ["bash", "-c", 'trap "" INT TERM; exec "$@"', "bash", *command, *SENDING],
        cwd=TESTS,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= len(SENDING)
