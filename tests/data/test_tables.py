"""Tables as people have them: names of classes, a column that they name, separators, headers."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from sklearn import datasets

from xpnet.cli import predict, train
from xpnet.data import Dataset, load_dataset, read_csv, read_samples
from xpnet.data import csv as module
from xpnet.data.csv_labels import Labels
from xpnet.data.csv_table import Table
from xpnet.errors import ConfigError, DataError
from xpnet.runs.model import Model
from xpnet.serialization import load

IRIS = "sepal_length,sepal_width,species\n5.1,3.5,setosa\n7,3.2,versicolor\n6.3,3.3,setosa\n"


def read(folder: Path, text: str, **keywords: Any) -> Dataset:
    path = folder / "table.csv"
    path.write_bytes(text.encode())
    return read_csv(path, **keywords)


def flowers(folder: Path, rows: int = 300, name: str = "flowers.csv", header: bool = True) -> Path:
    """Three kinds that differ in size; values of thousands, so that they need standardising."""
    draw = numpy.random.default_rng(0)
    lines = ["length,width,legs,species"] if header else []
    for row in range(rows):
        kind = row % 3
        length, width = 3000 + 900 * kind + draw.integers(300), 0.002 * kind + draw.random() / 1000
        lines.append(f"{length},{width:.6f},4,{('setosa', 'versicolor', 'virginica')[kind]}")
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def run(folder: Path, dataset: Path, *more: str) -> int:
    settings = [
        "--learning-rate",
        "0.03",
        "--epochs",
        "40",
        "--hidden",
        "16",
        "--dropout",
        "0",
        "--run",
        str(folder / "run"),
    ]
    return train.main(["--dataset", str(dataset), *settings, *more])


# names of classes


@pytest.mark.parametrize("cells_at_once", [1, 3, 4_000_000])
def test_names_become_sorted_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells_at_once: int
) -> None:
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells_at_once)
    text = IRIS + '1,1," setosa "\n1,1,"Iris, a"\n'
    data = read(tmp_path, text, target="species")
    assert data.classes == ("Iris, a", "setosa", "versicolor")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 2, 1, 1, 0]
    assert data.x.dtype == numpy.float32
    assert data.x[1].tolist() == [7, numpy.float32(3.2)]
    assert data.image_shape is None


def test_the_first_row_of_each_of_many_labels_is_kept(tmp_path: Path) -> None:
    names = [f"c{i % 30_000}" for i in range(40_000)]
    table = Table(b"a,label\n0,c\n", tmp_path / "data.csv")
    labels = Labels(table, None)
    for start in (0, 10, 35_000):
        stop = {0: 10, 10: 35_000, 35_000: 40_000}[start]
        labels.add(pandas.Series(names[start:stop], dtype=object), start)
    assert labels.first == {f"c{i}": i for i in range(30_000)}
    found, classes = labels.finish()
    assert [classes[i] for i in found[::7000]] == names[::7000]


def test_too_many_labels_are_counted_before_they_are_looked_at(tmp_path: Path) -> None:
    rows = "".join(f"1,{'?' if i == 3 else f'c{i}'}\n" for i in range(160_000))
    with pytest.raises(DataError, match="holds too many different labels: more than 65536"):
        read(tmp_path, f"a,label\n{rows}")


def test_integers_may_not_be_written_in_too_many_ways(tmp_path: Path) -> None:
    rows = "".join(f"1,{'0' * i}{n}\n" for i in range(4) for n in range(40_000))
    with pytest.raises(DataError, match="holds too many different labels"):
        read(tmp_path, f"a,label\n{rows}")


def test_names_that_are_numbers_stand_first_and_by_value(tmp_path: Path) -> None:
    data = read(tmp_path, "a,label\n1,10\n2,x\n3,9\n4,-1\n")
    assert data.classes == ("-1", "9", "10", "x")


def test_integers_are_numbered_as_ever(tmp_path: Path) -> None:
    data = read(tmp_path, "a,label\n1,10\n2,02\n3,9.0\n")
    assert data.classes == tuple(map(str, range(11)))
    assert data.labels is not None
    assert data.labels.tolist() == [10, 2, 9]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "the cell is empty, expected a label"),
        ("NaN", r"found 'NaN', a missing value"),
        ("?", r"found '\?', a missing value"),
        ("\x1b[31mred", r"found '\\x1b\[31mred', a label must be printable text"),
        ("a\u202eb", "printable text"),
        ("x" * 101, "100 characters or fewer"),
        ('"a\nb"', "printable text"),
    ],
)
def test_what_names_no_class_is_refused_by_its_place(
    tmp_path: Path, cell: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"line \d, column 2 \('label'\): .*{message}") as caught:
        read(tmp_path, f"a,label\n1,red\n2,{cell}\n")
    assert str(caught.value).isprintable()


def test_names_are_those_of_the_network_that_reads_them(tmp_path: Path) -> None:
    known: dict[str, Any] = {"classes": ("a", "b", "c"), "features": 1}
    data = read(tmp_path, "a,label\n1,c\n2,a\n", **known)
    assert data.classes == ("a", "b", "c")
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0]
    with pytest.raises(DataError, match=r"line 3, .*found 'd', which is none of the classes"):
        read(tmp_path, "a,label\n1,c\n2,d\n", **known)
    with pytest.raises(DataError, match=r"found 'x', a label must be an integer in 0\.\.1"):
        read(tmp_path, "a,label\n1,x\n2,y\n", classes=("0", "1"))


# the column that holds them


@pytest.mark.parametrize("target", ["Kind", "KIND", " kind"])
def test_a_target_is_found_as_it_is_written_or_in_any_case(tmp_path: Path, target: str) -> None:
    data = read(tmp_path, "Kind,a\nx,1\ny,2\n", target=target)
    assert data.x.tolist() == [[1], [2]]


def test_the_case_decides_between_two_columns(tmp_path: Path) -> None:
    assert read(tmp_path, "A,a\n0,5\n1,6\n", target="a").x.tolist() == [[0], [1]]
    with pytest.raises(DataError, match="several columns are named 'aB'"):
        read(tmp_path, "AB,ab\n0,5\n1,6\n", target="aB")


def test_a_target_goes_before_a_column_called_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 1 \('label'\): found 'x', expected a number"):
        read(tmp_path, "label,kind\nx,0\n", target="kind")


def test_a_wrong_target_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'kind', there are sepal_length, sepal_width, s"):
        read(tmp_path, IRIS, target="kind")
    many = ",".join(f"f{i}" for i in range(500))
    with pytest.raises(DataError, match=r"there are f0, f1, f2, f3, f4, f5, \.\.\. f499$"):
        read(tmp_path, f"{many}\n{many.replace('f', '')}\n", target="kind")


@pytest.mark.parametrize("name", ["Species", "class", "target", "y"])
def test_without_a_label_the_likely_column_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "a.csv").write_text(f"a,{name}\n1,0\n2,1\n")
    assert run(tmp_path, tmp_path / "a.csv") == 2
    said = capsys.readouterr().err
    assert f"has no labels to train with: found column '{name}'" in said
    assert f"use --target {name}" in said


def test_without_a_likely_column_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,0\n2,1\n")
    hint = load_dataset(tmp_path / "a.csv").hint
    assert hint == "use --target NAME with one of its columns (a, b)"


def test_a_target_is_for_tables(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", x=numpy.zeros((2, 3)), y=numpy.arange(2))
    for dataset in ("digits", "mnist", tmp_path / "a.npz"):
        with pytest.raises(ConfigError, match=r"target: names a column of a CSV file, and .*none"):
            load_dataset(dataset, target="a")


# without a header


def test_the_digits_of_scikit_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = datasets.load_digits()
    digits = Path(datasets.__file__).parent / "data" / "digits.csv.gz"
    with pytest.raises(DataError, match=r"column 1 .*one class .*last column has 10 .*target last"):
        load_dataset(digits)
    for target in ("last", "65"):
        source = load_dataset(digits, target=target)
        assert source.label == "column 65 (no header)"
        numpy.testing.assert_array_equal(source.train.x, expected.data)
        numpy.testing.assert_array_equal(source.train.labels, expected.target)
        assert source.train.image_shape == (8, 8)
        assert source.train.x.dtype == numpy.uint8
    assert run(tmp_path, digits, "--target", "last", "--normalise", "standard") == 0
    assert "10 classes, label: column 65 (no header)" in capsys.readouterr().out
    # Samples with their labels, and without.
    lines = gzip.decompress(digits.read_bytes()).decode().splitlines()[:200]
    (tmp_path / "with.csv").write_text("\n".join(lines))
    (tmp_path / "without.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    model = Model.load(tmp_path / "run")
    labelled = list(predict.predictions(model, tmp_path / "with.csv"))
    bare = list(predict.predictions(model, tmp_path / "without.csv"))
    assert [line.split()[1] for line in bare] == [line.split()[1] for line in labelled[:-1]]
    assert float(labelled[-1].split()[2]) > 90


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("5.1,3.5,1.4,0.2,x\n", None, "found 'x', expected a number: .*use --target last"),
        ("5.1,3.5,1.4,0.2,1\n", None, "found '5.1', a label must be .*use --target last"),
        ("5.1,3.5,1\n", None, "3 columns are neither .*use --target with first, last or the num"),
        ("5.1,3.5,1\n", "species", r"no header, so no column 'species': give .*column \(1 to 3\)$"),
        ("5.1,3.5,1\n", "4", r"no header, so no column '4': .* \(1 to 3\); if line 1"),
        ("5.1,3.5,1\n", "0", "no header, so no column '0'"),
        ("5\n6\n", "last", "a label column and no other"),
    ],
)
def test_without_a_header_it_is_said_what_to_do(
    tmp_path: Path, text: str, target: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, target=target)


@pytest.mark.parametrize(("target", "x"), [("first", [2, 3]), ("2", [1, 3]), ("LAST", [1, 2])])
def test_a_column_is_named_by_its_place(tmp_path: Path, target: str, x: list[int]) -> None:
    data = read(tmp_path, "1,2,3\n1,2,3\n", target=target)
    assert data.x[0].tolist() == x
    assert data.x.dtype == numpy.float32


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_that_count_up_are_a_header(tmp_path: Path, start: int) -> None:
    header = ",".join(str(i + start) for i in range(784))
    row = ",".join(str(i % 256) for i in range(784))
    assert len(read(tmp_path, f"{header}\n{row}\n")) == 1
    data = read(tmp_path, f"label,{header}\n7,{row}\n")
    assert data.image_shape == (28, 28)
    assert data.x.dtype == numpy.uint8
    data = read(tmp_path, f"{header},species\n{row},7\n", target="species")
    assert data.image_shape == (28, 28)
    with pytest.raises(DataError, match=r"column 1 has no name: .*index=False"):
        read(tmp_path, f",{header}\n0,{row}\n")
    with pytest.raises(DataError, match=r"has a header \(line 1\) and no rows"):
        read(tmp_path, f"{header}\n")


def test_wavelengths_are_a_header_where_one_is_named(tmp_path: Path) -> None:
    data = read(tmp_path, "400.5,402,403.5,405,406.5,408,409.5\n1,2,3,4,5,6,0\n", target="409.5")
    assert data.x.tolist() == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize(
    ("text", "target", "rows"),
    [
        ("10,20,30,40,50,60,1\n1,2,3,4,5,6,0\n", "last", 2),
        ("10,20,30,40,50,60,a\n1,2,3,4,5,6,b\n", "last", 2),
        ("400.5,402,403.5,405,406.5,408,1\n1,2,3,4,5,6,0\n", "7", 2),
        ("60,50,40,30,20,10,0\n1,2,3,4,5,6,0\n", "LAST", 2),
        ("1,5,4,3\n0,2,6,7\n", "1", 2),
        ("5,4,3\n2,6,7\n", "3", 2),
        ("10,20,30,40,50,60,70,80,90\n" + "1,2,3,4,5,6,7,8,9\n", None, 2),
        # as pandas writes them
        ("0,1,2,3\n5,6,7,8\n", None, 1),
        ("0,1,2,3\n5,6,7,1\n", "3", 1),
    ],
)
def test_a_first_sample_in_equal_steps_is_kept(
    tmp_path: Path, text: str, target: str | None, rows: int
) -> None:
    data = read(tmp_path, text, target=target)
    assert len(data) == rows
    assert (data.labels is None) == (target is None)


@pytest.mark.parametrize(
    ("first", "target"),
    [
        ("0,2.5,3", "0"),
        ("0,?,3", "0"),
        ("7,NA,0", "0"),
        ("7,2.5,-1", "-1"),
        ("7,2.5,4", "4"),
        ("7,-,4", "4"),
    ],
)
def test_a_sample_with_a_wrong_number_as_the_target_is_no_header(
    tmp_path: Path, first: str, target: str
) -> None:
    words = rf"no header, so no column '{target}': give .* \(1 to 3\); if line 1 is a header, give"
    with pytest.raises(DataError, match=words):
        read(tmp_path, f"{first}\n1,4,5\n", target=target)
    # Rows to predict, without the column of the labels.
    if "." in first:
        assert len(read(tmp_path, f"{first}\n1,4,5\n", target=target, features=3)) == 2
    header = f"age,weight,{target}"
    assert read(tmp_path, f"{header}\n1,4,5\n", target=target).x.tolist() == [[1, 4]]


def test_numbers_of_pandas_with_the_target_0(tmp_path: Path) -> None:
    assert read(tmp_path, "0,1,2\n1,4,5\n", target="0").x.tolist() == [[4, 5]]


@pytest.mark.parametrize("written", ["NA", "na", "Null", "none", "-", ".", "inf"])
def test_a_missing_value_in_the_first_sample_is_told(tmp_path: Path, written: str) -> None:
    words = f"line 1, column 2: found '{written}', expected a number: fill it in, or remove the row"
    for target in ("3", "last"):
        with pytest.raises(DataError, match=re.escape(words)):
            read(tmp_path, f"1,{written},3\n1,4,5\n", target=target)


@pytest.mark.parametrize(
    ("first", "target", "features"),
    [
        ("0,1,2", None, 3),
        ("1,2,3,4,5,6", None, 6),
        ("0,1,2,3", None, 3),
        ("0,1,2,3", "last", 3),
        ("0,1,2,3", "3", 3),
        ("0,1,2,3", "species", 4),
        ("0,1,2,cat", "last", None),
        ("1,2,3,4,5,6", "6", 5),
        ("0,1,2,3", "last", None),
    ],
)
def test_what_may_be_a_header_or_a_sample_is_refused(
    tmp_path: Path, first: str, target: str | None, features: int | None
) -> None:
    words = r"line 1 counts up \([01], [12], \.\.\.\), so it may be a header or a sample: if "
    with pytest.raises(DataError, match=words):
        read(tmp_path, f"{first}\n{first}\n", target=target, features=features)


def test_a_known_network_loses_no_first_sample(tmp_path: Path) -> None:
    ramp = ",".join(str(10 * i) for i in range(9))
    assert len(read(tmp_path, f"{ramp}\n{ramp}\n", features=9)) == 2
    assert len(read(tmp_path, "3,1,0\n0,1,2\n", features=2, target="3")) == 2
    # Numbers above 255 are no pixels.
    header, row = ",".join(map(str, range(784))), ",".join(["7"] * 784)
    assert len(read(tmp_path, f"{header}\n{row}\n", features=784, pixels=True)) == 1
    # A column is named.
    data = read(tmp_path, "0,1,2,species\n5,6,7,1\n", features=3, target="species")
    assert data.x.tolist() == [[5, 6, 7]]


def test_numbers_of_pandas_that_are_no_pixels_are_numbers(tmp_path: Path) -> None:
    header = "label," + ",".join(map(str, range(64)))
    data = read(tmp_path, f"{header}\n" + ",".join(["1", *["300"] * 64]) + "\n")
    assert data.image_shape is None
    assert data.x.dtype == numpy.float32


# numbers


@pytest.mark.parametrize("cells_at_once", [1, 4_000_000])
def test_integers_of_a_table_are_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells_at_once: int
) -> None:
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells_at_once)
    data = read(tmp_path, "age,label,count\n40,1,0\n41,0,16777216\n42,1,-3\n")
    assert data.x.dtype == numpy.float32
    assert data.x.tolist() == [[40, 0], [41, 2**24], [42, -3]]
    assert read(tmp_path, "age,label\n40,1\n41,0\n").x.dtype == numpy.float32


def test_a_network_of_pixels_gets_them_from_any_table(tmp_path: Path) -> None:
    assert read(tmp_path, "a,b\n1,255\n", features=2, pixels=True).x.dtype == numpy.uint8
    assert read(tmp_path, "a,b\n1,256\n", features=2, pixels=True).x.dtype == numpy.float32
    assert read(tmp_path, "1,2,3,4\n", features=4, pixels=False).x.dtype == numpy.float32


# separators and headers


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_semicolons_and_tabs_separate(tmp_path: Path, separator: str, header: bool) -> None:
    text = "0.5,-1e3,2\n1.25,7,0\n".replace(",", separator)
    names = "a,b,label\n".replace(",", separator) if header else ""
    data = read(tmp_path, names + text, target="label" if header else "last")
    assert data.x.tolist() == [[0.5, -1000], [1.25, 7]]
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0]


def test_text_may_hold_the_other_separators(tmp_path: Path) -> None:
    data = read(tmp_path, 'a,label,b\n1,"p;q",2\n3,"r;s",4\n')
    assert data.classes == ("p;q", "r;s")
    data = read(tmp_path, 'a;label;b\n1;"p,q";2\n3;r,s;4\n')
    assert data.classes == ("p,q", "r,s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a;b;label\n0,5;0,25;0\n",
            r"line 2, column 1 \('a'\): found '0,5', a number with a comma",
        ),
        ("0,5;0,25;0\n1,5;1,25;1\n", "line 1, column 1: found '0,5', a number with a comma"),
        ("0,5\t1,25\n", "line 1, column 1: found '0,5', a number with a comma"),
        ("a;label\n1.234,5;0\n", "found '1.234,5', a number with a comma"),
        ('a,label\n"0,5",0\n', "found '0,5', a number with a comma"),
        ("a,b,label\n0,5,1,25,0\n", "line 2 has 5 columns where the first has 3"),
        ("a|b|label\n1|2|0\n", r"separated by vertical bars \(\|\): separate them by commas"),
        ("a b label\n1 2 0\n", "separated by spaces"),
        ("1.0e+00 2.0e+00\n3.0e+00 4.0e+00\n", "separated by spaces"),
        ("sep=;\na;b;label\n1;2;0\n", "line 1 is 'sep=;', a line for Excel alone: remove it"),
        ("# made by hand\na,label\n1,0\n", "line 1 begins with '#' .*remove comment lines"),
        ("# a,label\n1,0\n", "line 1 begins with '#' .*the '#' before the names of columns"),
        ("a,label\n1,0\n# the end\n", "line 3 has 1 columns .* 2; it begins with '#'"),
        ("a,label,\n1,0,\n", "column 3 has no name: remove the separator at the end of each"),
        ("a,label\n1,0,\n", "line 2 has 3 columns .*remove the separator at its end"),
        ("a,,label\n1,2,0\n", "column 2 has no name"),
        ("a,a,label\n1,2,0\n", "'a' occurs twice"),
        ("a\n1,2\n", "line 1 has one column and the next 2"),
        ("a,label\n", r"has a header \(line 1\) and no rows"),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n\n", "\ufeff \n"])
def test_a_line_break_within_a_name_moves_no_row(tmp_path: Path, end: str, before: str) -> None:
    text = f'{before}"length\nin mm","kind\r\n",width\n\n1,0,2\n3,1,4\n5,x,6\n7,y,8\n'
    data = read(tmp_path, text.replace("\n", end), target="kind")
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    with pytest.raises(DataError, match=r"column 3 \('width'\): found 'z'"):
        read(tmp_path, text.replace("8", "z").replace("\n", end), target="kind")


def test_a_fault_is_counted_in_lines_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 6, column 1 \('a b'\): found 'x'"):
        read(tmp_path, '\n"a\nb",label\n1,0\n\nx,1\n')


# training and prediction


def test_a_table_is_learnt_and_predicted_by_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = flowers(tmp_path)
    assert run(tmp_path, path, "--target", "SPECIES", "--normalise", "standard") == 0
    said = capsys.readouterr().out
    assert "3 classes, label: column 'species'" in said
    assert "hint" not in said
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_accuracy"] == 1
    about = load(tmp_path / "run" / "model.safetensors").metadata
    assert about["target"] == "SPECIES"
    assert len(about["normalisation"]["scale"]) == 3
    assert about["normalisation"]["scale"][2] == 1  # all have four legs

    assert predict.main([str(tmp_path / "run"), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{path}:2  versicolor  ")
    assert "accuracy  100.00 %   (300 of 300)" in lines[-1]
    bare = tmp_path / "bare.csv"
    rows = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    bare.write_text("\n".join(rows))
    assert predict.main([str(tmp_path / "run"), str(bare)]) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in again] == [line.split(":")[1] for line in lines[:-1]]


def test_values_far_from_standardised_give_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, flowers(tmp_path), "--target", "species", "--epochs", "1") == 0
    hints = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hint")]
    assert len(hints) == 1
    assert "--normalise standard" in hints[0]


def test_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("a,label\n" + "1,red\n" * 9)
    assert run(tmp_path, tmp_path / "a.csv") == 2
    assert "all 9 samples of" in (said := capsys.readouterr().err)
    assert "are of one class, red (column 'label')" in said
    numpy.savez(tmp_path / "a.npz", x=numpy.ones((9, 3)), y=numpy.full(9, 2))
    assert run(tmp_path, tmp_path / "a.npz") == 2
    assert "are of one class, 2: give data of two classes or more" in capsys.readouterr().err


def test_values_too_large_to_be_standardised_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = numpy.array([[1e300, 1], [-1e300, 2], [1e299, 3], [0, 4]] * 4)
    numpy.savez(tmp_path / "a.npz", x=x, y=numpy.arange(16) % 2)
    for more, said in (
        (["--normalise", "standard", "--dtype", "float64"], "they lie between -1e+300 and 1e+300"),
        (["--normalise", "standard"], "values from -1e+300 to 1e+300, too large for float32"),
        ([], "too large for float32: divide them first, or use dtype float64"),
    ):
        assert run(tmp_path, tmp_path / "a.npz", *more) == 2
        error = capfd.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


def test_samples_are_read_as_the_model_knows_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(IRIS)
    data = read_samples(
        tmp_path / "a.csv", target="species", classes=("versicolor", "setosa"), features=2
    )
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]


def test_the_help_says_what_a_target_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = capsys.readouterr().out
    assert "--target COLUMN" in said
    assert "<class" not in said


def test_a_column_of_text_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    path.write_text("a,b,species\n" + "".join(f"{n}.5,{n},setosa\n" for n in range(9)))
    with pytest.raises(DataError, match=r"if the column holds the classes, use --target species$"):
        load_dataset(path)


def test_a_column_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{n}.5,{n % 3},{n}.25\n" for n in range(9)))
    one, other = load_dataset(path, target=2), load_dataset(path, target="2")
    assert one.train.labels.tolist() == other.train.labels.tolist() == [n % 3 for n in range(9)]
    with pytest.raises(ConfigError, match=r"^target must be a whole number above 0, or the name"):
        load_dataset(path, target=-1)
    with pytest.raises(ConfigError, match=r"^name_or_path must be a path"):
        load_dataset(numpy.zeros((3, 3)))
