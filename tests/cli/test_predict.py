"""Images made into what MNIST holds, and the command that tells what a network sees."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from drawings import drawing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import xpnet
from xpnet.cli.predict import main, predictions
from xpnet.data import Dataset, load_dataset
from xpnet.data.images import prepare, read_image
from xpnet.errors import CheckpointError, DataError
from xpnet.network import PREDICTION_ROWS
from xpnet.random import generator
from xpnet.runs.model import Model

REPOSITORY = Path(__file__).resolve().parents[2]
LINE = re.compile(r"(\S+)  (\S+)  (\d+\.\d) %(?:   \((.*)\))?")


def centre(field):
    weights = field.astype(float)
    rows, columns = (numpy.arange(length) for length in field.shape)
    return (weights.sum(1) @ rows / weights.sum(), weights.sum(0) @ columns / weights.sum())


def extent(field):
    rows, columns = numpy.nonzero(field > 25)
    return numpy.ptp(rows) + 1, numpy.ptp(columns) + 1


# Image files


def test_a_drawing_becomes_an_image_like_those_of_mnist():
    field = prepare(drawing())
    assert field.shape == (28, 28)
    assert field.dtype == numpy.uint8
    assert field.max() == 255
    assert numpy.median(field) == 0
    assert max(extent(field)) == 20
    assert centre(field) == pytest.approx((14, 14), abs=0.5)


def test_the_proportions_are_kept():
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).rectangle((30, 50, 69, 249), fill=0)  # 40 x 200
    assert extent(prepare(image)) == (20, 4)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(180, 700), st.integers(180, 700)),
    place=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
    ink=st.integers(0, 60),
    paper=st.integers(140, 255),
)
def test_neither_page_nor_place_nor_contrast_matter(size, place, ink, paper):
    at = tuple(8 + round((length - 116) * share) for length, share in zip(size, place, strict=True))
    field = prepare(drawing(size, at=at, ink=ink, paper=paper))
    assert centre(field) == pytest.approx((14, 14), abs=0.5)
    difference = numpy.abs(field.astype(int) - prepare(drawing()))
    assert difference.max() <= 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(28, 28), (40, 40), (90, 61)]))
def test_inverting_an_image_changes_nothing(seed, size):
    draw = generator(seed, "strokes")
    image = Image.new("L", size, 255)
    points = draw.integers(5, min(size) - 5, (4, 2)).tolist()
    # At least one stroke of some length.
    points += [[8, 8], [8, min(size) - 8]]
    ImageDraw.Draw(image).line([tuple(point) for point in points], fill=0, width=3)
    inverted = Image.fromarray(255 - numpy.asarray(image))
    numpy.testing.assert_array_equal(prepare(image), prepare(inverted))


@pytest.mark.parametrize("shape", [(28, 28), (20, 40), (8, 8), (64, 48)])
def test_other_shapes_are_filled_in_proportion(shape):
    field = prepare(drawing(), shape)
    assert field.shape == shape
    height, width = extent(field)
    # The stroke with its line ends is about 88 x 109 pixels.
    box = numpy.array(shape) * 20 / 28
    assert min(box[0] - height, box[1] - width) <= 1
    assert height / width == pytest.approx(109 / 88, rel=0.3 if min(shape) == 8 else 0.15)
    assert centre(field) == pytest.approx((shape[0] // 2, shape[1] // 2), abs=0.5)


def test_nothing_is_pushed_out_of_the_field_by_a_lopsided_drawing():
    image = Image.new("L", (300, 300), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((50, 50, 249, 70), fill=0)
    pen.rectangle((50, 50, 54, 249), fill=0)
    field = prepare(image)
    assert extent(field) == (20, 20)


def test_an_image_of_mnist_itself_comes_through_unchanged(digits):
    for pixels in digits.x[:20].reshape(-1, 28, 28):
        image = Image.fromarray(pixels)
        numpy.testing.assert_array_equal(prepare(image), pixels)
        numpy.testing.assert_array_equal(prepare(Image.fromarray(255 - pixels)), pixels)


def test_an_image_of_mnist_on_a_larger_field_is_found_again(digits):
    # A shift and a crop are exact: there is nothing to scale in 20 pixels.
    for pixels in digits.x[:20].reshape(-1, 28, 28):
        large = numpy.zeros((100, 80), numpy.uint8)
        large[61:89, 7:35] = pixels
        field = prepare(Image.fromarray(large))
        difference = numpy.abs(field.astype(int) - pixels)
        assert difference.mean() < 3


@pytest.mark.parametrize(
    ("mode", "ink", "paper"),
    [
        ("RGB", (0, 0, 130), (250, 245, 230)),
        ("RGB", (255, 255, 0), (0, 0, 0)),
        ("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)),
        ("RGBA", (40, 0, 0, 255), (255, 0, 0, 0)),
        ("LA", (0, 255), (255, 0)),
        ("1", 0, 1),
        ("I;16", 0, 65535),
        ("I;16", 65535, 1000),
    ],
)
def test_colours_transparency_and_depths(mode, ink, paper, tmp_path):
    path = tmp_path / "seven.png"
    drawing(mode=mode, ink=ink, paper=paper).save(path)
    difference = numpy.abs(read_image(path).astype(int) - prepare(drawing()))
    assert difference.max() <= 8


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = drawing().convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "seven.png", transparency=image.getpixel((0, 0)))
    numpy.testing.assert_array_equal(read_image(tmp_path / "seven.png"), prepare(drawing()))


@pytest.mark.parametrize("quality", [30, 90])
def test_jpeg_and_its_noise(quality, tmp_path):
    drawing().save(tmp_path / "seven.jpg", quality=quality)
    field = read_image(tmp_path / "seven.jpg")
    assert max(extent(field)) == 20
    # A centre of mass that lies between two pixels may fall to the other one.
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    clean = [numpy.roll(prepare(drawing()).astype(int), shift, (0, 1)) for shift in shifts]
    assert min(numpy.abs(field - other).mean() for other in clean) < 4


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    drawing().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "seven.png", exif=exif)
    numpy.testing.assert_array_equal(read_image(tmp_path / "seven.png"), prepare(drawing()))


def test_a_thin_line_of_a_large_image_stays_visible():
    image = Image.new("L", (1500, 1500), 255)
    ImageDraw.Draw(image).line([(200, 200), (900, 1300), (1300, 300)], fill=0, width=4)
    field = prepare(image)
    assert field.max() == 255
    assert max(extent(field)) == 20


def png(image):
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no PNG, JPEG, BMP, GIF, WebP or TIFF image"),
        (b"label,pixel0\n1,2\n", "is no PNG, JPEG, BMP, GIF, WebP or TIFF image"),
        (png(drawing())[:200], "truncated"),
        (png(drawing())[:20], "cannot be read as an image"),
        (png(Image.new("L", (40, 30), 255)), "blank"),
        (png(Image.new("L", (28, 28), 0)), "blank"),
        (png(Image.new("LA", (40, 30), (255, 0))), "blank"),
        (png(drawing(ink=250, paper=255)), "blank: its grey levels, 250 to 255"),
    ],
)
def test_what_is_no_image_is_one_line_that_names_the_file(content, message, tmp_path):
    path = tmp_path / "three.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"three\.png: there is no such file"):
        read_image(tmp_path / "three.png")
    with pytest.raises(DataError, match=r"is a folder|cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("over", [1.5, 3])
def test_an_image_above_pillows_limit_is_an_error(over, tmp_path, monkeypatch):
    drawing().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(300 * 200 / over))
    with pytest.raises(DataError, match=r"large\.png is too large an image"):
        read_image(tmp_path / "large.png")


def test_a_damaged_png_is_never_a_traceback(tmp_path):
    whole, path = png(drawing((60, 60), at=(-30, -50))), tmp_path / "damaged.png"
    draw = generator(0, "damage")
    failed = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in draw.integers(8, len(whole), 3):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except DataError as error:
            failed += str(error).startswith(str(path))
    assert failed > 50


# A network, and what it makes of images


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits").train


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """A network trained for some seconds on 3,000 of the embedded digits, saved."""
    order = generator(0, "test").permutation(len(digits))
    train = digits.take(order[:3000])
    network = xpnet.Sequential([xpnet.Linear(784, 48), xpnet.ReLU(), xpnet.Linear(48, 10)], seed=1)
    x = train.x.astype(numpy.float32) / 255
    xpnet.fit(network, (x, train.labels), optimizer=xpnet.Adam(3e-3), epochs=6, batch_size=64)
    network.metadata = {
        "classes": list(digits.classes),
        "image_shape": [28, 28],
        "normalisation": {"scale": 1 / 255, "shift": 0.0},
    }
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    xpnet.save(network, path)
    return path


@pytest.fixture(scope="module")
def held_out(digits):
    return digits.take(generator(0, "test").permutation(len(digits))[3000:3400])


def on_a_page(pixels, draw):
    """A digit of MNIST as a scan would show it: five times the size, dark, anywhere."""
    large = Image.fromarray(pixels).resize((140, 140), Image.Resampling.BICUBIC)
    page = numpy.full((400, 500), 255, numpy.uint8)
    top, left = draw.integers(0, 260), draw.integers(0, 360)
    page[top : top + 140, left : left + 140] = 255 - numpy.asarray(large)
    return Image.fromarray(page)


def test_digits_on_a_page_are_recognised_as_well_as_those_of_mnist(model, held_out):
    loaded = Model.load(model)
    raw = loaded.probabilities(held_out.x).argmax(axis=1)
    draw = generator(0, "places")
    pages = [on_a_page(pixels, draw) for pixels in held_out.x.reshape(-1, 28, 28)]
    fields = numpy.stack([prepare(page).ravel() for page in pages])
    scanned = loaded.probabilities(fields).argmax(axis=1)
    labels = held_out.labels
    assert (raw == labels).mean() > 0.88
    assert (scanned == labels).mean() > (raw == labels).mean() - 0.03
    # Without the centring and the scaling it is another matter.
    squeezed = numpy.stack(
        [255 - numpy.asarray(page.resize((28, 28))).ravel() for page in pages[:100]]
    )
    assert (loaded.probabilities(squeezed).argmax(axis=1) == labels[:100]).mean() < 0.5


# The command


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def test_one_line_an_image(model, held_out, tmp_path, capsys):
    draw = generator(0, "places")
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        on_a_page(held_out.x[number].reshape(28, 28), draw).save(paths[-1])
    status, lines, errors = run(capsys, model, *paths)
    assert (status, errors, len(lines)) == (0, [], 3)
    loaded = Model.load(model)
    for path, line in zip(paths, lines, strict=True):
        name, label, percent, others = LINE.fullmatch(line).groups()
        p = loaded.probabilities(read_image(path).reshape(1, -1))[0]
        assert name == str(path)
        assert int(label) == p.argmax()
        assert float(percent) == pytest.approx(100 * p.max(), abs=0.051)
        assert len(others.split(", ")) == 2


@pytest.mark.parametrize(("top", "others"), [(1, 0), (2, 1), (10, 9), (99, 9)])
def test_top_says_how_many_classes(model, held_out, tmp_path, capsys, top, others):
    Image.fromarray(held_out.x[0].reshape(28, 28)).save(tmp_path / "a.png")
    status, (line,), _ = run(capsys, model, tmp_path / "a.png", "--top", top)
    assert status == 0
    listed = LINE.fullmatch(line)[4]
    assert len(listed.split(", ") if listed else []) == others


def test_samples_have_numbers_and_labelled_ones_an_accuracy(model, held_out, tmp_path, capsys):
    x, labels = held_out.x[:50], held_out.labels[:50]
    numpy.savez(tmp_path / "test.npz", x=x, y=labels)
    status, lines, errors = run(capsys, model, tmp_path / "test.npz")
    assert (status, errors, len(lines)) == (0, [], 51)
    guesses = [int(LINE.fullmatch(line)[2]) for line in lines[:-1]]
    names = [LINE.fullmatch(line)[1] for line in lines[:-1]]
    assert names == [f"{tmp_path / 'test.npz'}:{number}" for number in range(1, 51)]
    right = int((numpy.array(guesses) == labels).sum())
    assert lines[-1] == (f"{tmp_path / 'test.npz'}  accuracy  {2 * right:.2f} %   ({right} of 50)")


def test_unlabelled_samples_and_every_kind_of_file_agree(model, held_out, tmp_path, capsys):
    x = held_out.x[:3]
    numpy.savez(tmp_path / "a.npz", x=x)
    numpy.savetxt(tmp_path / "b.csv", x, fmt="%d", delimiter=",")
    header = numpy.array([0x803, 3, 28, 28], ">u4").tobytes()
    (tmp_path / "c-idx3-ubyte").write_bytes(header + x.tobytes())
    for number in range(3):
        Image.fromarray(x[number].reshape(28, 28)).save(tmp_path / f"idx{number}.png")
    results = []
    for name in ("a.npz", "b.csv", "c-idx3-ubyte"):
        status, lines, errors = run(capsys, model, tmp_path / name)
        assert (status, errors, len(lines)) == (0, [], 3)
        results.append([line.split("  ", 1)[1] for line in lines])
    _, lines, _ = run(capsys, model, *(tmp_path / f"idx{number}.png" for number in range(3)))
    results.append([line.split("  ", 1)[1] for line in lines])
    assert results[0] == results[1] == results[2] == results[3]


def test_many_samples_are_numbered_through(model, held_out):
    repeated = numpy.tile(held_out.x[:5], (500, 1))
    loaded = Model.load(model)
    expected = [line.split("  ", 1)[1] for line in lines_of(loaded, held_out.x[:5])]
    lines = list(lines_of(loaded, repeated))
    assert [line.split("  ", 1)[0] for line in lines] == [f"x.npz:{i}" for i in range(1, 2501)]
    assert [line.split("  ", 1)[1] for line in lines] == 500 * expected


def lines_of(loaded, x):
    with pytest.MonkeyPatch.context() as patch:
        samples = Dataset(x, None, (), (28, 28))
        patch.setattr("xpnet.cli.predict.read_samples", lambda path, **known: samples)
        yield from predictions(loaded, "x.npz")


def test_a_bad_file_costs_none_of_the_others(model, held_out, tmp_path, capsys):
    Image.fromarray(held_out.x[0].reshape(28, 28)).save(tmp_path / "a.png")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    numpy.savez(tmp_path / "narrow.npz", x=numpy.zeros((2, 5), numpy.uint8))
    numpy.savez(tmp_path / "labels.npz", x=held_out.x[:2], y=numpy.array([0, 11]))
    status, lines, errors = run(
        capsys,
        model,
        tmp_path / "nowhere.csv",
        tmp_path / "bad.jpg",
        tmp_path / "narrow.npz",
        tmp_path / "labels.npz",
        tmp_path / "a.png",
    )
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'a.png'}  ")
    assert len(errors) == 4
    assert all(line.startswith(f"xpnet: error: {tmp_path}") for line in errors)
    assert "nowhere.csv" in errors[0]
    assert "bad.jpg" in errors[1]
    assert "narrow.npz has 5 features a sample, the model takes 784" in errors[2]
    assert "labels.npz has labels up to 11, the model has 10 classes" in errors[3]


def tiny(path, **metadata):
    network = xpnet.Sequential([xpnet.Linear(4, 3)], dtype="float64", seed=0)
    network.metadata = metadata
    xpnet.save(network, path)
    return network


def test_a_model_without_metadata_takes_values_as_they_are(tmp_path, capsys):
    network = tiny(tmp_path / "m.safetensors")
    x = numpy.array([[0.5, -1.0, 2.0, 0.25]])
    numpy.savez(tmp_path / "x.npz", x=x)
    status, (line,), _ = run(capsys, tmp_path / "m.safetensors", tmp_path / "x.npz")
    assert status == 0
    p = network.predict_proba(x)[0]
    assert LINE.fullmatch(line)[2] == str(p.argmax())
    assert LINE.fullmatch(line)[3] == f"{100 * p.max():.1f}"
    drawing().save(tmp_path / "a.png")
    status, lines, (error,) = run(capsys, tmp_path / "m.safetensors", tmp_path / "a.png")
    assert (status, lines) == (2, [])
    assert "a.png is read as an image, but the model was not trained on images" in error


def test_names_and_normalisation_come_from_the_model(tmp_path, capsys):
    network = tiny(
        tmp_path / "m.safetensors",
        classes=["{ankle} boot", "bag", "shirt"],
        image_shape=None,
        normalisation={"scale": 0.5, "shift": -3.0},
    )
    x = numpy.array([[1.0, 5.0, 2.0, -4.0]])
    numpy.savez(tmp_path / "x.npz", x=x)
    p = network.predict_proba(0.5 * x - 3)[0]
    _, (line,), _ = run(capsys, tmp_path / "m.safetensors", tmp_path / "x.npz", "--top", 1)
    name = ("{ankle} boot", "bag", "shirt")[p.argmax()]
    assert line == f"{tmp_path / 'x.npz'}:1  {name}  {100 * p.max():.1f} %"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ["a", "b"]),
        ("classes", "abc"),
        ("classes", [1, 2, 3]),
        ("image_shape", [2, 3]),
        ("image_shape", [4]),
        ("image_shape", "2x2"),
        ("normalisation", {"scale": 1}),
        ("normalisation", [1, 0]),
        ("normalisation", {"scale": "much", "shift": 0}),
        ("pixels", "yes"),
    ],
)
def test_metadata_that_cannot_be_is_told_with_its_field(field, value, tmp_path):
    path = tmp_path / "m.safetensors"
    tiny(path, **{field: value})
    with pytest.raises(
        CheckpointError, match=rf"m\.safetensors: {field} is .*, expected "
    ) as caught:
        Model.load(path)
    assert "\n" not in str(caught.value)


def test_values_that_overflow_are_an_error_with_the_sample(model, tmp_path, capsys):
    x = numpy.zeros((1500, 784))
    x[1200] = 1e300
    numpy.savez(tmp_path / "x.npz", x=x)
    status, lines, (error,) = run(capsys, model, tmp_path / "x.npz")
    assert status == 2
    assert len(lines) == 1200 // PREDICTION_ROWS * PREDICTION_ROWS > 0
    assert "x.npz: sample 1201 gives probabilities that are not finite" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL"),
        (["model"], "FILE"),
        (["model", "a.png", "--top", "0"], "--top"),
        (["model", "a.png", "--top", "many"], "--top"),
        (["nowhere.safetensors", "a.png"], "nowhere.safetensors: no such file"),
        (["model", "a.png", "--device", "abacus"], "abacus"),
        (["model", "a.png", "--nonsense"], "--nonsense"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(arguments, message, model, capsys):
    arguments = [str(model) if argument == "model" else argument for argument in arguments]
    status, lines, (error,) = run(capsys, *arguments)
    assert (status, lines) == (2, [])
    assert error.startswith("xpnet: error: ")
    assert message in error


def test_auto_says_which_device_it_chose(model, held_out, tmp_path, capsys):
    numpy.savez(tmp_path / "x.npz", x=held_out.x[:1])
    status, lines, errors = run(capsys, model, tmp_path / "x.npz", "--device", "auto")
    assert (status, len(lines)) == (0, 1)
    assert errors in (["xpnet: device cpu"], ["xpnet: device cuda"])


def test_ctrl_c_leaves_with_130(model, monkeypatch, capsys):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("xpnet.cli.predict.predictions", interrupted)
    assert run(capsys, model, "a.png") == (130, [], ["xpnet: interrupted"])


def command(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "xpnet.predict", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_a_reader_that_leaves_early_is_no_error(model, held_out, tmp_path):
    numpy.savez(tmp_path / "x.npz", x=numpy.tile(held_out.x, (20, 1)))
    with command(model, tmp_path / "x.npz") as process:
        assert process.stdout.readline().startswith(str(tmp_path).encode())
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_what_the_terminal_cannot_show_is_escaped(model, held_out, tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    path = tmp_path / "drei_é.png"
    Image.fromarray(held_out.x[0].reshape(28, 28)).save(path)
    assert main([str(model), str(path)]) == 0
    assert b"drei_\\xe9.png  " in stream.buffer.getvalue()


@pytest.mark.parametrize(
    ("pixels", "dtype", "words"),
    [
        (True, "float32", "holds numbers with a fraction, the model was trained on whole pixels"),
        (False, "uint8", "holds whole pixels 0..255, the model was trained on numbers with a"),
    ],
)
def test_pixels_and_fractions_are_not_mixed_up(pixels, dtype, words, tmp_path, capsys):
    tiny(tmp_path / "model", pixels=pixels, image_shape=[2, 2])
    numpy.savez(tmp_path / "x.npz", x=numpy.ones((2, 4), dtype))
    assert main([str(tmp_path / "model"), str(tmp_path / "x.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "x.npz" in line
    assert words in line
    drawing().save(tmp_path / "seven.png")
    assert main([str(tmp_path / "model"), str(tmp_path / "seven.png")]) == (0 if pixels else 2)
