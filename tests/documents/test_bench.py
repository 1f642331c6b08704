"""The bench measures what it says: gates, tables, and what is missing is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import cupy
import numpy as np
import pytest
import strict_cupy
import strict_graphs
from strict_graphs import graphs_on_the_double

from bench import __main__ as command_line
from bench import (
    contended,
    defaults,
    end_to_end,
    epochs,
    floor,
    footprint,
    late_epochs,
    machine,
    plot,
    ranks,
    scaling,
    speedrun,
    tables,
)
from bench.peer import Peer, Unsupported
from bench.peers import COMPETITORS
from bench.peers.numpy_student import Student
from bench.peers.torch_eager import ChannelsLast
from bench.peers.xpnet_peer import OnCpu, Xpnet
from bench.timing import Measured, Refused, Wrong, compare, gate, measure
from bench.worker import Server
from bench.workloads import GATE_STEPS, WORKLOADS, Workload, quick
from xpnet.backend import Backend
from xpnet.errors import BackendUnavailable, ConfigError, XpnetError

SMALL = {workload.name: quick(workload) for workload in WORKLOADS}
TRAINING = [workload for workload in SMALL.values() if not workload.predicts]


def peer_of(workload: Workload) -> type[Peer]:
    """Whom to gate: the student has no convolution."""
    return ChannelsLast if workload.conv else Student


class Here:
    """A worker in this process, whose peer may be changed."""

    def __init__(self, kind: type[Peer], change=lambda workload: workload) -> None:
        self.kind, self.change = kind, change
        self.server = Server("student", "cpu")

    def ask(self, do, workload=None):
        if do == "prepare":
            self.server.peer = self.kind(self.change(Workload.of(workload)), "cpu")
            about = {"about": "", "versions": {}, "note": "", "gated": True}
            return {"workload": workload, **about}
        return getattr(self.server, do)()


def reference(workload):
    if workload.predicts:
        worker = Here(Xpnet)
        worker.ask("prepare", vars(workload))
        return worker.ask("gate")["values"]
    return Xpnet(workload, "cpu").losses(workload.gate_rows())


class DropsNothing(Student):
    def __init__(self, workload, device):
        super().__init__(replace(workload, dropout=0.0), device)


class Crashes(Student):
    def repeat(self):
        raise Refused("error", "fell over")


# Workloads


def test_workloads_are_those_of_the_issue():
    titles = {workload.name: workload.title for workload in WORKLOADS}
    assert titles == {
        "W1": "784-10-10 relu, full batch of 41,000, sgd",
        "W2": "784-128-10 relu, batch 64, sgd",
        "W3": "784-128-64-10 relu/tanh, batch 16, adam",
        "W3-dropout": "784-128-64-10 relu/tanh, dropout 0.1, batch 16, adam",
        "W4": "784-512-256-10 relu, batch 128, adam",
        "W5": "784-2500-2000-1500-1000-500-10 relu, batch 512, momentum",
        "W6-many": "784-128-10 relu, prediction of 10,000 rows",
        "W6-one": "784-128-10 relu, prediction of 1 row",
        "W7": "784-16k5-pool-32k5-pool-128-10 relu, batch 64, adam",
        "W8": "784-32k3p1-32k3p1-pool-64k3p1-64k3p1-pool-128-10 relu, batch 64, adam",
    }


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_rows_are_whole_batches(workload):
    assert workload.rows == workload.steps * workload.batch
    rows = workload.gate_rows()
    assert rows.shape == (GATE_STEPS, workload.batch)
    assert rows.max() < workload.rows


def test_data_and_weights_are_the_same_for_everyone():
    workload = SMALL["W2"]
    x, labels = workload.data()
    again, same = workload.data()
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(labels, same)
    assert x.dtype == np.float32
    assert x.min() == 0
    assert x.max() < 1
    assert 0.17 < (x > 0).mean() < 0.21
    assert [w.shape for w, _ in workload.weights()] == [(784, 64), (64, 10)]


def test_images_of_a_workload():
    workload = SMALL["W8"]
    shapes = [image.output for image in workload.images]
    assert shapes[:3] == [(28, 28, 32), (28, 28, 32), (14, 14, 32)]
    assert [image.relu for image in workload.images] == [True, False, True] * 2
    assert [kernel.shape for kernel, _ in workload.kernels()][:2] == [(3, 3, 1, 32), (3, 3, 32, 32)]
    assert workload.dense_sizes == (7 * 7 * 64, 64, 10)
    # The same features, in the other order.
    features = np.random.default_rng(0).random((5, 7, 7, 64), dtype=np.float32)
    first, last = workload.weights()[0][0], workload.channels_last_weights()[0][0]
    expected = features.transpose(0, 3, 1, 2).reshape(5, -1) @ first
    np.testing.assert_allclose(features.reshape(5, -1) @ last, expected, rtol=1e-5, atol=1e-5)


def test_who_has_no_convolution_is_left_out():
    with pytest.raises(Unsupported, match="it has no convolution"):
        Server("student", "cpu").prepare(vars(SMALL["W7"]))
    with pytest.raises(Unsupported, match="there are no images"):
        ChannelsLast.adapt(SMALL["W2"])


# Gate


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL.keys())
def test_gate_lets_an_honest_competitor_pass(workload):
    worker = Here(peer_of(workload))
    worker.ask("prepare", vars(workload))
    assert gate(worker, workload, reference) < 1e-5


@pytest.mark.parametrize("workload", TRAINING, ids=lambda workload: workload.name)
def test_gate_catches_a_learning_rate_that_is_off(workload):
    worker = Here(peer_of(workload), lambda given: replace(given, rate=1.05 * given.rate))
    worker.ask("prepare", vars(workload))
    with pytest.raises(Wrong, match="of the gate is"):
        gate(worker, workload, reference)


def test_gate_catches_dropout_that_drops_nothing():
    workload = SMALL["W3-dropout"]
    worker = Here(DropsNothing)
    with pytest.raises(Wrong, match="dropout moves its first loss from"):
        gate(worker, workload, reference)


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0, 2.001], [1.0]])
def test_compare_wants_every_value(values):
    with pytest.raises(Wrong):
        compare(values, [1.0, 2.0])


def test_the_wrong_are_not_timed_but_named():
    wrong = Here(Student, lambda given: replace(given, rate=1.05 * given.rate))
    found = measure({"xpnet": Here(Xpnet), "student": wrong}, SMALL["W2"], 2)
    assert found.wrong == ["student"]
    assert "of the gate is" in found.left_out["student"]
    assert list(found.seconds) == ["xpnet"]
    assert len(found.seconds["xpnet"]) == 2


def test_who_falls_over_while_timed_is_left_out():
    found = measure({"xpnet": Here(Xpnet), "student": Here(Crashes)}, SMALL["W2"], 2)
    assert found.left_out == {"student": "fell over"}
    assert list(found.seconds) == ["xpnet"]


def test_xpnet_must_run():
    with pytest.raises(XpnetError, match="xpnet itself cannot run W2: out of order"):
        measure({"xpnet": SimpleNamespace(ask=_refuse)}, SMALL["W2"], 1)


def _refuse(do, **request):
    raise Refused("error", "out of order")


# Tables


def canned() -> dict:
    first = Measured(
        WORKLOADS[1],
        {"floor": [1e-4, 1e-4, 4e-4], "xpnet": [1.5e-4] * 3, "torch": [5e-4, 6e-4, 7e-4]},
        notes={"torch": "a word"},
        deviations={"xpnet": 0.0, "torch": 1e-7},
        missing={"keras": "cannot be imported (No module named 'keras')"},
        left_out={"thinc": "its SGD has no momentum"},
        about={"xpnet": "fit()", "torch": "eager"},
        versions={"torch": "2.0"},
    )
    second = Measured(WORKLOADS[4], {"floor": [1e-3], "xpnet": [2e-3], "student": [8e-3]})
    machine = {"processor": "A CPU", "cores": 2, "threads": 2, "blas": ["b"], "versions": {}}
    idle = {"torch": {"cpu": 0.5, "wall": 10.0}}
    return tables.collect(machine, [first, second], idle, "cpu", 3)


def test_figures_follow_from_the_medians():
    results = canned()
    entry = results["workloads"][0]["entries"]["torch"]
    assert entry["us_per_step"] == pytest.approx(600)
    assert entry["quartiles_us"] == pytest.approx([550, 650])
    assert entry["samples_per_s"] == pytest.approx(64 / 6e-4)
    assert entry["to_floor"] == pytest.approx(6)
    assert entry["to_fastest_peer"] == 1
    assert results["workloads"][0]["entries"]["xpnet"]["to_fastest_peer"] == pytest.approx(0.25)
    assert results["workloads"][1]["fastest_peer"] == "student"
    assert results["idle_cpu_share"] == {"torch": 0.05}
    assert results["machine"]["versions"] == {"torch": "2.0"}
    json.dumps(results)


def test_the_page_shows_all_and_names_who_is_missing():
    page = tables.markdown(canned())
    assert "# A step, on A CPU, 2 cores" in page
    assert "| xpnet | 1.50 | 2.00 |" in page
    assert "| PyTorch eager (a word) | 600 | 550 to 650 | 106,667 | 6.00 | 1.00 |" in page
    assert "| Keras on JAX | missing | missing |" in page
    assert "- Keras on JAX: missing: cannot be imported (No module named 'keras')" in page
    assert "- Thinc: its SGD has no momentum" in page
    assert "| Thinc | — | — |" in page
    assert "Not idle while others ran: torch." in page


def test_the_figure_has_a_panel_a_workload(tmp_path):
    results = canned()
    panels = [axes for axes in plot.figure(results).axes if axes.get_title()]
    assert [axes.get_title().splitlines()[0] for axes in panels] == ["W2", "W4"]
    assert [text.get_text() for text in panels[0].texts] == ["1.50", "6.00"]
    plot.draw(results, tmp_path / "cpu.png")
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_xpnet_need_not_be_installed(monkeypatch):
    """On a machine where it is run from its folder."""
    server = Server("xpnet", "cpu")
    monkeypatch.setattr(
        server, "competitor", replace(server.competitor, packages=("numpy", "nobody"))
    )
    found = server.prepare(vars(SMALL["W6-one"]))["versions"]
    assert found == {"numpy": np.__version__, "nobody": "not installed"}


def test_competitors_have_names_of_their_own():
    assert len({competitor.name for competitor in COMPETITORS}) == len(COMPETITORS)


# Command


@pytest.mark.slow
@pytest.mark.needs("numba", "torch")
def test_command_times_gates_and_writes(tmp_path, monkeypatch, capsys):
    absent = tmp_path / "absent" / "sklearn"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(absent.parent))
    folder = tmp_path / "results"
    names = ["floor", "student", "torch", "sklearn"]
    peers = [word for name in names for word in ("--peer", name)]
    arguments = ["--quick", "--workload", "W2", "W6-one", *peers, "--repeats", "2"]
    assert command_line.main([*arguments, "--folder", str(folder)]) == 0
    page = (folder / "cpu.md").read_text()
    assert page in capsys.readouterr().out
    (data,) = folder.glob("cpu-*.json")
    results = json.loads(data.read_text())
    assert list(results["missing"]) == ["sklearn"]
    assert "not here" in results["missing"]["sklearn"]
    assert "missing: cannot be imported (not here)" in page
    for workload in results["workloads"]:
        assert list(workload["entries"]) == ["floor", "xpnet", "xpnet-fast", "student", "torch"]
        for entry in workload["entries"].values():
            assert entry["us_per_step"] > 0
            assert len(entry["repeats_us"]) == 2
        assert workload["entries"]["torch"]["gate_deviation"] < 1e-5
    assert results["machine"]["versions"]["torch"].startswith("2.")
    assert (folder / "cpu.png").exists()


@pytest.mark.slow
def test_a_part_writes_nothing_unless_told_where(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "RESULTS", tmp_path / "results")
    arguments = ["--quick", "--workload", "W6-one", "--peer", "floor", "--repeats", "1"]
    assert command_line.main(arguments) == 0
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peer", "nobody"], "no peer nobody on cpu; there are floor, xpnet, xpnet-fast"),
        (["--peer", "torch-graph"], "no peer torch-graph on cpu"),
        (["--workload", "W9"], "no workload W9; there are W1, W2, W3"),
        (["--repeats", "0"], "repeats must be a whole number above 0, found 0"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words):
    with pytest.raises(ConfigError, match=words):
        command_line.main(arguments)


def test_a_family_of_workloads_has_one_name():
    chosen = command_line.choose_workloads(["W3", "W6-one"])
    assert [workload.name for workload in chosen] == ["W3", "W3-dropout", "W6-one"]


def test_cuda_is_refused_in_one_line_where_there_is_none():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--device", "cuda"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        cwd=command_line.RESULTS.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("xpnet: error: device cuda")
    assert done.stderr.count("\n") == 1


# The other measurements


@pytest.mark.slow
def test_footprint_measures_imports(tmp_path, capsys):
    assert command_line.main(["footprint", "--quick", "--folder", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "footprint.json").read_text())
    assert list(found["seconds"]) == ["Python alone", "NumPy", "xpnet"]
    assert "| xpnet |" in capsys.readouterr().out


def test_footprint_names_what_is_missing():
    page = footprint.table({"Python alone": [0.1], "JAX": []}, {"Python alone": 1}, {"JAX": "no"})
    assert "| JAX | missing: no | | |" in page


def test_scaling_draws_four_panels():
    points = [
        {"axis": axis, "value": value, "us": {"floor": value, "xpnet": 2.0 * value}}
        for axis, (values, _) in scaling.AXES.items()
        for value in values
    ]
    panels = scaling.figure(points).axes
    assert [axes.get_xlabel() for axes in panels] == list(scaling.LABELS.values())
    assert all(len(axes.lines) == 2 and axes.get_xscale() == "log" for axes in panels)


@pytest.mark.slow
@pytest.mark.needs("numba")
def test_scaling_runs(tmp_path):
    arguments = ["scaling", "--quick", "--peer", "student", "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    points = json.loads((tmp_path / "scaling.json").read_text())["points"]
    assert {point["axis"] for point in points} == set(scaling.AXES)
    assert all(set(point["us"]) == {"floor", "xpnet", "xpnet-fast", "student"} for point in points)


@pytest.mark.slow
def test_end_to_end_meets_its_goal(tmp_path):
    arguments = ["end-to-end", "--quick", "--peer", "torch", "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    found = json.loads((tmp_path / "end-to-end.json").read_text())
    for name in ("xpnet", "torch"):
        (one,) = found["runs"][name]
        assert one["test_accuracy"] >= end_to_end.QUICK.goal
        assert one["epochs"] >= 1
        assert one["seconds"] > 0
    page = (tmp_path / "end-to-end.md").read_text()
    assert "| torch |" in page


@pytest.mark.slow
@pytest.mark.needs("numba")
def test_contended_runs(tmp_path, capsys):
    arguments = ["contended", "--quick", "--peer", "student", "--workload", "W2", "--folder"]
    assert command_line.main([*arguments, str(tmp_path)]) == 0
    (one,) = json.loads((tmp_path / "contended.json").read_text())["workloads"]
    assert set(one["us"]) == {"floor", "xpnet", "xpnet-fast", "student"}
    assert all(set(us) == {"0", "1", "2", "4"} for us in one["us"].values())
    assert (tmp_path / "contended.md").read_text() in capsys.readouterr().out


def test_contended_divides_by_the_time_with_nothing_beside():
    us = {"xpnet": {"0": 200.0, "1": 300.0, "2": 500.0, "4": 620.0}}
    page = contended.table([{"workload": "W2", "us": us, "absent": {}}], 2)
    assert "makes a step take 1.5 beside 1, 2 beside 2, 3 beside 4 times as long" in page
    assert "| xpnet | 200 | ×1.50 | ×2.50 | ×3.10 |" in page


@pytest.mark.parametrize("words", [["--workload", "W9"], ["--peer", "nobody"], ["--device", "gpu"]])
def test_contended_refuses_what_it_does_not_know(words):
    with pytest.raises(ConfigError, match=words[-1]):
        command_line.main(["contended", *words])


def test_contended_ends_its_processes():
    with contended.busy(2):
        assert len(busy_processes()) == 2
    assert busy_processes() == []


def busy_processes():
    """The busy processes that this one has started."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid,args", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return [line for line in listed.stdout.splitlines() if "while True: pass" in line]


@pytest.mark.skipif("XPNET_DATA" not in os.environ, reason="XPNET_DATA names no folder with MNIST")
@pytest.mark.slow
@pytest.mark.parametrize("name", speedrun.SPEEDRUNS)
def test_speedrun_runs(tmp_path, capsys, name):
    assert command_line.main([name, "--quick", "--folder", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"{name}.json").read_text())
    goal = found["goal"]
    assert goal == speedrun.SPEEDRUNS[name].goal
    assert {"xpnet", "xpnet, with figures and report", "PyTorch"} <= {*found["runs"]}
    assert {*found["missing"]} <= {"JAX"}
    for program, runs in found["runs"].items():
        (one,) = runs
        assert one["test_accuracy"] >= goal, program
    assert (tmp_path / f"{name}.md").read_text() in capsys.readouterr().out


def test_speedrun_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="speedrun measures a CPU, found --device cuda"):
        command_line.main(["speedrun", "--device", "cuda"])
    monkeypatch.setenv("XPNET_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="set XPNET_DATA to the folder that holds mnist/"):
        command_line.main(["speedrun"])


def test_speedrun_marks_what_missed_the_goal():
    runs = [
        {"seconds": s, "test_accuracy": a} for s, a in ((3.0, 0.981), (2.0, 0.9799), (5.0, 0.99))
    ]
    found = {"goal": 0.98, "runs": {"xpnet": runs}, "first": {"xpnet": runs[2]}, "missing": {}}
    found["versions"] = {"numba": "0.68.1"}
    task = speedrun.SPEEDRUNS["speedrun"]
    row = "| xpnet | 3.00 | 3.00, 2.00, 5.00 | 98.10, 97.99 (missed), 99.00 | 5.0 |"
    assert row in speedrun.table(task, found | {"missing": {"JAX": "No module named 'jax'"}})


@pytest.mark.needs("mpi4py")
@pytest.mark.slow
def test_ranks_runs(tmp_path, capsys):
    arguments = ["ranks", "--quick", "--workload", "W2", "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    runs = json.loads((tmp_path / "ranks.json").read_text())["us"]["W2"]
    assert sorted(runs) == ["1", "1, 4 parts", "1, 8 parts", "2", "2, 4 parts", "2, 8 parts"]
    assert [len(found) for found in runs.values()] == [1] * 6
    assert all(one["step"] > 0 for found in runs.values() for one in found)
    assert (tmp_path / "ranks.md").read_text() in capsys.readouterr().out


def test_ranks_divides_by_the_time_of_one():
    runs = {"1": [{"step": 300.0, "sum": 1.0}], "2": [{"step": 200.0, "sum": 20.0}]}
    assert ranks.row("W2", runs) == "| W2 | 300 | 200 | 1.50 | 20 | 10 % |"
    steps = {"1, 4 parts": 330.0, "1, 8 parts": 600.0, "2, 4 parts": 300.0, "2, 8 parts": 500.0}
    runs |= {name: [{"step": step, "sum": 1.0}] for name, step in steps.items()}
    row = "| W2 | 330, 1.10 | 600, 2.00 | 300, 1.50 | 500, 2.50 |"
    assert ranks.row_of_parts("W2", runs) == row
    with pytest.raises(ConfigError, match="ranks measures a CPU, found --device cuda"):
        command_line.main(["ranks", "--device", "cuda"])


def test_defaults_runs(tmp_path, capsys):
    names = ["iris", "two targets"]
    arguments = ["defaults", "--quick", "--repeats", "2", "--folder", str(tmp_path)]
    assert command_line.main([*arguments, "--workload", *names]) == 0
    found = json.loads((tmp_path / "defaults.json").read_text())["scores"]
    assert list(found) == names
    assert all(len(values) == 2 for scores in found.values() for values in scores.values())
    assert (tmp_path / "defaults.md").read_text() in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no data set mnist; there are digits, iris"):
        command_line.main([*arguments, "--workload", "mnist"])


def test_defaults_compares_pairs():
    scores = defaults.Scores([0.9, 0.8, 0.7], [0.8, 0.8, 0.6], [1.0, 2.0, 9.0], [4.0, 3.0, 5.0])
    assert scores.difference == pytest.approx(0.2 / 3)
    # The deviation of (0.1, 0, 0.1) is 0.1 / √3, and three of them are averaged.
    assert scores.standard_error == pytest.approx(0.1 / 3)
    row = "| iris | 0.8000 | 0.7333 | +0.0667 ± 0.0333 | 2.00 | 4.00 |"
    assert defaults.line("iris", scores) == row


@pytest.mark.slow
@pytest.mark.needs("torch")
def test_late_epochs_runs(tmp_path, capsys):
    arguments = ["late-epochs", "--quick", "--peer", "torch", "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    found = json.loads((tmp_path / "late-epochs.json").read_text())["cpu_seconds"]
    assert list(found) == ["xpnet", "torch"]
    assert all(len(seconds) == late_epochs.EPOCHS for seconds in found.values())
    assert (tmp_path / "late-epochs.md").read_text() in capsys.readouterr().out


def test_late_epochs_compares_epochs_5_to_10_with_2_to_4():
    seconds = [9.0, 1.0, 2.0, 3.0, *[4.0] * 5, 9.0]
    page = late_epochs.table(late_epochs.Task(), {"xpnet": seconds}, {"torch": "not here"})
    assert "| xpnet | 2.00 | 4.00 | 2.00 | 9.00, 1.00," in page
    assert "| torch | missing: not here | | | |" in page


def test_late_epochs_refuses_what_it_cannot_measure(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="late-epochs measures CPU time: --device cuda"):
        command_line.main(["late-epochs", "--device", "cuda"])
    with pytest.raises(ConfigError, match="no contender keras; there are xpnet, xpnet-fast, torch"):
        command_line.main(["late-epochs", "--peer", "keras"])
    monkeypatch.setenv("XPNET_DATA", str(tmp_path))
    with pytest.raises(XpnetError, match="XPNET_DATA"):
        command_line.main(["late-epochs"])


# On a GPU, as far as can be seen without one


@pytest.fixture
def pretended(monkeypatch):
    """The double in place of a GPU, with graphs."""
    backend = Backend.of(strict_cupy.xp)
    for module in (floor, "xpnet.network.sequential"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.Backend", lambda *_: backend)
    strict_cupy.ledger.reset()
    with graphs_on_the_double() as cublas:
        yield cublas


def test_competitors_on_a_gpu_are_those_of_the_issue():
    names = [c.name for c in command_line.choose_competitors([], "cuda:1")]
    assert names == [
        *(
            "floor",
            "launch",
            "xpnet",
            "xpnet-cpu",
            "torch",
            "torch-fused",
            "torch-channels-last",
            "torch-reduced",
            "torch-graph",
        ),
        *("jax", "jax-scan"),
    ]


def test_the_floor_of_a_gpu_is_a_graph_of_products(pretended):
    workload = SMALL["W4"]
    peer = floor.Floor(workload, "cuda")
    products = len(peer.products)
    assert products == 3 + 3 + 2
    strict_cupy.ledger.reset()
    assert peer.repeat() > 0
    steps = 2 * workload.passes * workload.steps
    assert Counter(strict_graphs.log)["launch"] == 1 + steps
    assert strict_cupy.ledger.operations["gemm"] == products * steps
    assert strict_cupy.ledger.operations["matmul"] == 0


def test_the_launch_of_an_empty_graph(pretended):
    workload = SMALL["W2"]
    peer = floor.Launch(workload, "cuda")
    strict_cupy.ledger.reset()
    assert peer.repeat() > 0
    assert Counter(strict_graphs.log)["launch"] == 2 * workload.passes * workload.steps
    assert set(strict_cupy.ledger.operations) == {"synchronize"}
    with pytest.raises(Unsupported, match="not a graph"):
        floor.Launch.adapt(SMALL["W6-one"])


@pytest.mark.parametrize("name", ["W2", "W6-many"])
def test_xpnet_is_timed_with_graphs_and_gated(pretended, name):
    workload = SMALL[name]
    peer = Xpnet(workload, "cuda")
    assert peer.repeat() > 0
    if workload.predicts:
        x, _ = workload.data()
        own = Xpnet(workload, "cpu").probabilities(x)
        np.testing.assert_allclose(peer.probabilities(x), own, atol=1e-5)
    else:
        assert "launch" in strict_graphs.log
        own = Xpnet(workload, "cpu").losses(workload.gate_rows())
        assert peer.losses(workload.gate_rows()) == pytest.approx(own, rel=1e-5)


def test_a_long_run_may_be_cut_into_parts(tmp_path):
    whole = canned()
    first, second = ({**whole, "workloads": [one]} for one in whole["workloads"])
    second = json.loads(json.dumps(second))
    second["machine"]["versions"]["jax"] = "1"
    command_line.save(command_line.with_earlier(second, tmp_path), tmp_path)
    command_line.save(command_line.with_earlier(first, tmp_path), tmp_path)
    (data,) = tmp_path.glob("cpu-*.json")
    joined = json.loads(data.read_text())
    assert [one["name"] for one in joined["workloads"]] == ["W2", "W4"]
    assert joined["machine"]["versions"]["jax"] == "1"
    assert "| xpnet | 1.50 | 2.00 |" in (tmp_path / "cpu.md").read_text()
    other = json.loads(json.dumps(first))
    other["machine"]["driver"] = "another"
    assert command_line.with_earlier(other, tmp_path) == other


def test_titles_of_panels_do_not_overlap():
    results = canned()
    longest = {"title": max((one.title for one in WORKLOADS), key=len)}
    results["workloads"] = [one | longest for one in 2 * results["workloads"]]
    figure = plot.figure(results)
    figure.draw_without_rendering()
    spans = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(spans))


def test_a_workload_without_a_floor_has_an_empty_panel():
    results = canned()
    del results["workloads"][1]["entries"]["floor"]
    titles = [axes.get_title() for axes in plot.figure(results).axes]
    assert "W4\nno floor to measure by" in titles


@pytest.mark.parametrize("name", ["W2", "W6-one"])
def test_the_cpu_beside_a_gpu(name):
    peer = OnCpu(SMALL[name], "cuda")
    assert peer.device == "cpu"
    assert peer.repeat() > 0


def test_a_page_names_card_and_driver():
    results = canned()
    results["machine"] |= {"card": "A GPU", "driver": "580.1", "cuda driver": 13000}
    page = tables.markdown(results | {"device": "cuda:1"})
    assert "# A step, on A GPU" in page
    assert "A GPU, driver 580.1, cuda driver 13000, products in float32." in page
    assert "| PyTorch eager |" in page


def test_the_driver_is_read_where_there_is_one(monkeypatch):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    monkeypatch.setattr(machine.Path, "read_text", lambda _: text)
    assert machine.driver() == "580.95.05"
    monkeypatch.setattr(machine.Path, "read_text", lambda _: "nothing")
    assert machine.driver() == "unknown"


@pytest.mark.slow
def test_epochs_runs(tmp_path, capsys):
    arguments = ["epochs", "--quick", "--peer", "student", "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    found = json.loads((tmp_path / "epochs-cpu.json").read_text())["batches"]
    assert [one["batch"] for one in found] == [64, 128, 1024, 8192]
    assert all(set(one["seconds"]) >= {"floor", "xpnet", "student"} for one in found)
    page = (tmp_path / "epochs-cpu.md").read_text()
    assert page in capsys.readouterr().out
    assert "| ms for 60,000 digits | batch 64 |" in page


def test_epochs_are_whole_batches_and_name_who_is_missing():
    for batch in epochs.BATCHES:
        rows = epochs.workload(batch).rows
        assert rows % batch == 0
        assert abs(rows - 60_000) <= batch / 2
    page = epochs.table([{"batch": 64, "seconds": {"xpnet": 0.5}, "absent": {"jax": "not here"}}])
    assert "| xpnet | 500.0 |" in page
    assert "- JAX jit, a call a step: not here" in page


@pytest.mark.parametrize("what", ["end-to-end", "epochs", "scaling"])
def test_other_measurements_refuse_a_gpu_that_is_not_there(what, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    with pytest.raises(BackendUnavailable, match="device cuda:0 does not exist"):
        command_line.main([what, "--device", "cuda", "--quick"])
