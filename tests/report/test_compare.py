"""`python -m xpnet.compare`: runs compared, and folders that hold no run or a damaged one."""

from __future__ import annotations

import json
import math

import pytest
from fuzz.readers import HISTORY, METRICS
from html_tree import cells, part, require_self_contained, tree, words

from xpnet.cli.compare import main
from xpnet.config import make_config
from xpnet.report import compare
from xpnet.report.compare import names_of, remarks, rows, text_table
from xpnet.runs.run_reader import read_run
from xpnet.training.history import History, Record, loss_text


@pytest.fixture
def made(tmp_path):
    """`made(name, settings, **metrics)`: the folder of a run; without metrics it is unfinished."""

    def made(name, settings=None, finished=True, history=HISTORY, **metrics):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(make_config(settings or {}).to_toml(), encoding="utf-8")
        if history is not None:
            (folder / "history.csv").write_text(history)
        if finished:
            (folder / "metrics.json").write_text(json.dumps(METRICS | metrics))
        return folder

    return made


def row(found, name):
    (line,) = (line for line in found if line.name == name)
    return line.texts, sorted(line.best)


# The table


def test_only_settings_that_differ_are_shown(made):
    runs = [
        read_run(made("a", {"hidden": [64], "seed": 3})),
        read_run(made("b", {"hidden": [32, 16], "seed": 3, "patience": 4})),
    ]
    names = [line.name for line in rows(runs)]
    assert names[: names.index("state")] == ["hidden", "patience"]
    assert row(rows(runs), "hidden") == (["[64]", "[32, 16]"], [])
    assert row(rows(runs), "patience") == (["–", "4"], [])


def test_the_best_of_each_row_is_marked(made):
    runs = [
        read_run(made("a", test_accuracy=0.9, test_loss=0.3, seconds=9.0, parameters=5)),
        read_run(made("b", test_accuracy=0.95, test_loss=0.2, seconds=7.25, parameters=7)),
        read_run(made("c", test_accuracy=0.95, test_loss=0.4, seconds=8.0, parameters=6)),
    ]
    found = rows(runs)
    assert row(found, "test accuracy") == (["90.00 %", "95.00 %", "95.00 %"], [1, 2])
    assert row(found, "test loss") == (["0.3000", "0.2000", "0.4000"], [1])
    assert row(found, "seconds") == (["9.0", "7.2", "8.0"], [1])
    # Neither more nor fewer of these is better, and what all share is no merit.
    assert row(found, "parameters") == (["5", "7", "6"], [])
    assert row(found, "train loss")[1] == []
    assert row(found, "validation accuracy") == (["–", "–", "–"], [])
    assert remarks(runs) == []


def test_a_run_that_is_not_finished_shows_its_last_record_and_is_never_best(made):
    cut = HISTORY.replace("2,40,1e-05,0.25,0.9,,,1.25", "2,40,1e-05,0.001,1.0,0.002,0.99,0.01")
    runs = [
        read_run(made("a")),
        read_run(made("b", train_loss=0.5)),
        read_run(made("cut", finished=False, history=cut)),
        read_run(made("young", finished=False, history=None)),
    ]
    found = rows(runs)
    states = ["finished", "finished", "not finished", "not finished"]
    assert row(found, "state") == (states, [])
    assert row(found, "epochs done") == (["2", "2", "2", "–"], [])
    assert row(found, "train loss") == (["0.0164", "0.5000", "0.0010", "–"], [0])
    assert row(found, "validation loss") == (["–", "–", "0.0020", "–"], [])
    assert row(found, "test accuracy")[0][2:] == ["–", "–"]
    (remark,) = remarks(runs)
    assert "not finished" in remark


def test_of_different_data_nothing_is_the_best(made):
    other = {"name": "mnist", "sha256": "other"}
    runs = [read_run(made("a")), read_run(made("b", dataset=other, test_accuracy=0.99))]
    assert not any(line.best for line in rows(runs))
    (remark,) = remarks(runs)
    assert "different data" in remark


def parts(test="t", validation="v", train="x"):
    return {"samples_sha256": {"train": train, "validation": validation, "test": test}}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (parts(), parts(), ""),
        (parts(), parts("T", "V", "X"), "test, validation and training"),
        (parts(), parts("t", "V", "X"), "validation and training"),
        (parts(), parts("T"), "test"),
        (parts(validation=None), parts(validation=None), ""),
    ],
)
def test_of_different_samples_nothing_is_the_best(one, other, apart, made, tmp_path, capsys):
    figures = {"validation_accuracy": 0.5, "validation_loss": 1.0}
    folders = [
        made("a", {"seed": 1}, **figures, **one, seconds=9.0),
        made("b", {"seed": 2}, **dict.fromkeys(figures, 0.25), **other, test_accuracy=0.99,
             test_loss=0.1, test_calibration_error=0.01, train_loss=0.001, seconds=8.0),
    ]  # fmt: skip
    runs = [read_run(folder) for folder in folders]
    marked = {line.name for line in rows(runs) if line.best}
    assert "seconds" in marked
    names = {"test": {"test accuracy", "test loss", "calibration error"},
             "validation": {"validation accuracy", "validation loss"},
             "training": {"train loss"}}  # fmt: skip
    for name, own in names.items():
        assert own <= marked or not own & marked
        assert (own <= marked) is (name not in apart)
    assert main([*map(str, folders), "--html", str(tmp_path / "page.html")]) == 0
    page = words(tree((tmp_path / "page.html").read_bytes()))
    for text in (capsys.readouterr().out, page):
        assert (f"The runs have different {apart} samples, so" in text) is bool(apart)
        assert ("--split-seed" in text) is bool(apart)


@pytest.mark.parametrize(
    ("one", "other", "counts", "apart"),
    [
        ({"seed": 1}, {"seed": 2}, (60, 20, 20), {"test", "validation", "train"}),
        ({"seed": 1}, {"seed": 2, "split_seed": 1}, (60, 20, 20), set()),
        ({"seed": 1, "split_seed": 5}, {"seed": 1}, (60, 20, 20), {"test", "validation", "train"}),
        # The test set is the data's own.
        ({"seed": 1}, {"seed": 2}, (50, 10, 10), {"validation", "train"}),
        ({"seed": 1}, {"seed": 2}, (60, 0, 10), set()),
        ({"seed": 1, "test": 10}, {"seed": 2, "test": 10}, (50, 10, 10),
         {"test", "validation", "train"}),
        ({"epochs": 3}, {"epochs": 2}, (60, 20, 20), set()),
    ],
)  # fmt: skip
def test_older_runs_are_known_by_their_settings(one, other, counts, apart, made):
    samples = dict(zip(("train", "validation", "test"), counts, strict=True))
    runs = [
        read_run(made("a", one, samples=samples)),
        read_run(made("b", other, samples=samples, **parts())),
    ]
    assert compare._different_parts(runs) == apart


def test_the_same_data_by_other_counts_are_other_samples(made):
    runs = [
        read_run(made("a", samples={"train": 60, "validation": 20, "test": 20})),
        read_run(made("b", samples={"train": 55, "validation": 20, "test": 25})),
    ]
    assert compare._different_parts(runs) == {"test", "validation", "train"}


def test_a_loss_that_is_not_finite_is_never_the_best(made):
    runs = [
        read_run(made(name, test_loss=loss))
        for name, loss in [("a", math.nan), ("b", 2.0), ("c", math.inf), ("d", 3.0)]
    ]
    assert row(rows(runs), "test loss") == (["nan", "2.0000", "inf", "3.0000"], [1])


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.24561, "0.2456"), (0.0, "0.0000"), (999999.5, "999999.5000"), (9.06e28, "9.06e+28"),
     (-1234567.0, "-1.235e+06"), (math.nan, "nan"), (math.inf, "inf")],
)  # fmt: skip
def test_no_loss_takes_more_room_than_it_needs(loss, text):
    assert loss_text(loss) == text


def test_runs_of_the_same_name_are_called_by_their_paths(made, tmp_path, monkeypatch):
    folders = [made("x/run"), made("y/run")]
    monkeypatch.chdir(folders[0])
    assert names_of([read_run(".")]) == ["run"]
    monkeypatch.chdir(tmp_path)
    assert names_of([read_run("x/run"), read_run("y/run")]) == ["x/run", "y/run"]


def test_a_terminal_that_is_narrow_has_the_runs_below_each_other(made):
    runs = [read_run(made(f"run-{n}", {"seed": n})) for n in range(9)]
    names, lines = names_of(runs), rows(runs)
    wide = text_table(names, lines).splitlines()
    assert len({line.find("run-8") for line in wide[:1]}) == 1
    assert wide[0].split() == names
    narrow = text_table(names, lines, 60).splitlines()
    assert max(map(len, narrow)) <= 60
    blocks = "\n".join(narrow).split("\n\n")
    assert [name for block in blocks for name in block.splitlines()[0].split()] == names
    for block in blocks:
        assert len(block.splitlines()) == len(wide)
    # A run that is wider than the screen even alone is shown all the same.
    assert len(text_table(names, lines, 5).split("\n\n")) == 9


def test_what_is_marked_is_aligned(made):
    runs = [read_run(made("a", test_accuracy=0.9)), read_run(made("b", test_accuracy=0.955))]
    table = text_table(names_of(runs), rows(runs)).splitlines()
    (line,) = (line for line in table if line.startswith("test accuracy"))
    assert line.split() == ["test", "accuracy", "90.00", "%", "95.50", "%", "*"]
    (plain,) = (line for line in table if line.startswith("test loss"))
    # Numbers stand under one another, marked or not.
    assert len(line) == len(plain) + 2


# The command


def test_the_command_prints_the_table_and_writes_the_page(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made("a", {"seed": 1}, test_accuracy=0.9)
    made("b", {"seed": 2}, test_accuracy=0.95)
    assert main(["a", "b"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[0].split() == ["a", "b"]
    assert captured.out.endswith("\n\n* the best value of its row\n\ncurves: compare.html\n")
    root = tree((tmp_path / "compare.html").read_bytes())
    require_self_contained(root)
    (table,) = part(root, "Settings and metrics").iter("table")
    assert cells(table)[:2] == [["run", "a", "b"], ["seed", "1", "2"]]
    (best,) = (cell for cell in table.iter("td") if words(cell).startswith("95.00 %"))
    assert words(best) == "95.00 % ★"
    assert [words(h) for h in part(root, "Curves").iter("h3")] == [
        "Training loss",
        "Training accuracy",
        "Validation loss",
        "Validation accuracy",
    ]
    legend = [words(one) for one in next(part(root, "Curves").iter("ul"))]
    assert legend == ["a 0.25", "b 0.25"]
    assert "marks the best value of a row" in words(root)


def test_of_one_run_nothing_is_the_best(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made("a")
    assert main(["a", "--html", "alone.html"]) == 0
    assert "best" not in capsys.readouterr().out
    root = tree((tmp_path / "alone.html").read_bytes())
    assert words(root.find(".//h1")) == "a"
    assert "marks the best value of a row" not in words(root)


def test_runs_whose_records_come_at_other_times_are_drawn_by_steps(made):
    by_step = History([Record(1, n, 0.1, 1.0, 0.5, None, None, 0.1) for n in (7, 14, 20)])
    folders = [made("a"), made("b")]
    by_step.to_csv(folders[1] / "history.csv")
    root = tree(compare.page([read_run(folder) for folder in folders]))
    drawing = next(root.iter("svg"))
    assert "step" in [words(one) for one in drawing.iter("text")]
    assert "a from 1.5 at step 20" in drawing.get("aria-label")


def test_names_and_values_stay_text(made, capsys, tmp_path):
    hostile = "<script>alert(1)</script>\x1b[2J"
    folders = [made("<b onclick='x'>", {"dataset": hostile}), made("b", {"dataset": "\x9b2J"})]
    target = tmp_path / "page.html"
    assert main([str(folder) for folder in folders] + ["--html", str(target)]) == 0
    printed = capsys.readouterr().out
    assert all(letter.isprintable() for letter in printed.replace("\n", ""))
    root = tree(target.read_bytes())
    require_self_contained(root)
    (table,) = part(root, "Settings and metrics").iter("table")
    assert cells(table)[0][1] == "<b onclick='x'>"
    assert cells(table)[1][1].startswith('"<script>')


def test_a_run_without_any_record_has_no_curves(made, tmp_path):
    root = tree(compare.page([read_run(made("a", finished=False, history=None))]))
    assert "No run has a record yet." in words(part(root, "Curves"))


def failure(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line.removeprefix("xpnet: error: ")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.toml", None, "is not the folder of a run (it has no config.toml)"),
        ("config.toml", "hidden = 3 4", "config.toml: not valid TOML"),
        ("config.toml", "hiden = 3", "config.toml: hiden: is not a setting"),
        ("history.csv", "", "history.csv begins with ''"),
        ("history.csv", b"\xff\xfe", "history.csv is no text in UTF-8"),
        ("history.csv", HISTORY + "3,60\n", "history.csv: line 4 has 2 values, expected 8"),
        ("history.csv", HISTORY + "x,6,1,1,1,1,1,1\n", "line 4: epoch is 'x', expected a number"),
        ("history.csv", HISTORY + "3,6,1,nan,1,1,1,1\n", "line 4: loss is 'nan', expected a num"),
        ("history.csv", HISTORY + "3,6,1,,1,1,1,1\n", "line 4: loss is '', expected a number"),
        ("history.csv", HISTORY + '3,"6\n', "history.csv is not valid CSV"),
        ("metrics.json", "", "metrics.json: Invalid JSON"),
        ("metrics.json", "[]", "metrics.json: "),
        ("metrics.json", "[" * 100_000, "metrics.json: Invalid JSON"),
        ("metrics.json", json.dumps(METRICS | {"test_accuracy": 2}), "test_accuracy: input should"),
        ("metrics.json", json.dumps(METRICS | {"seconds": "1"}), "seconds: input should"),
        ("metrics.json", json.dumps(METRICS | {"epochs": 10**400}), "metrics.json: "),
    ],
)
def test_a_folder_that_is_no_sound_run_is_one_line(file, content, message, made, capsys, tmp_path):
    good, bad = made("good"), made("bad")
    (bad / file).unlink()
    if content is not None:
        (bad / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    line = failure(capsys, good, bad, "--html", tmp_path / "page.html")
    assert str(bad) in line
    assert message in line
    assert line.isprintable()
    assert len(line) < 3000
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUN"),
        (["absent"], "absent: is not the folder of a run"),
        (["file"], "file: is not the folder of a run"),
        (["good", "--html", "no/where.html"], "no/where.html: cannot be written"),
        (["good", "--nonsense"], "--nonsense"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(
    arguments, message, made, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    made("good")
    (tmp_path / "file").write_text("")
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# The files


def test_a_history_is_read_as_it_was_written(tmp_path):
    history = History(
        [
            Record(1, 20, 1 / 3, 2 / 3, None, 1e-300, 0.1, 1e9),
            Record(2, 40, 0.0, 5e-324, 1.0, None, None, 0.0),
        ]
    )
    history.to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv") == history
    History().to_csv(tmp_path / "empty.csv")
    assert History.from_csv(tmp_path / "empty.csv") == History()
