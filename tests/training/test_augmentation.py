"""Distorted images: against SciPy, against themselves on the other backend, and their draws."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import strict_cupy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from xpnet import random
from xpnet.errors import ConfigError, DeviceMismatch, ShapeError
from xpnet.training.augmentation import Augmentation

# Nothing here uses a kernel.
pytestmark = pytest.mark.without_kernels

ALL = {"shift": 2.0, "rotation": 15.0, "scale": 0.2, "shear": 12.0, "elastic": 20.0}
KINDS = [{name: strength} for name, strength in ALL.items()]
SHAPES = [(28, 28), (9, 14), (1, 7), (7, 1), (1, 1)]


def random_images(count, shape=(9, 14), dtype="float32"):
    return random.generator(0, "images").random((count, *shape)).astype(dtype)


def started(shape=(9, 14), seed=0, samples=0, **strengths):
    augmentation = Augmentation(**strengths)
    augmentation.begin(shape, seed)
    augmentation.set_sample_counter(samples)
    return augmentation


def applied(augmentation, backend, images):
    """`images` `(N, H, W)` of the host, distorted on `backend`."""
    flat = backend.asarray(images.reshape(len(images), images.shape[1] * images.shape[2]))
    out = backend.xp.empty(flat.shape, dtype=flat.dtype)
    assert augmentation.apply(flat, out) is out
    return backend.to_host(out).reshape(images.shape)


def force(monkeypatch, augmentation, backend, *values):
    """Every sample gets `t_r, t_c, θ, f − 1, φ` (angles in degrees)."""
    draw = augmentation._draw
    values = np.array(values, dtype=float) * (1, 1, np.pi / 180, 1, np.pi / 180)

    def forced(xp, count):
        drawn = draw(xp, count)
        drawn.values[...] = backend.asarray(values.reshape(5, 1))
        return drawn

    monkeypatch.setattr(augmentation, "_draw", forced)


def assert_same(backend, found, expected):
    """To the bit; a real GPU may fuse a product and a sum, and sum in another order."""
    if backend.xp in (np, strict_cupy.xp):
        assert_array_equal(found, expected)
    else:
        assert_allclose(found, expected, atol=2e-4)


# What follows until the next heading computes everything once more, in float64, with SciPy.


def words_of(seed, number, purpose, size):
    """The 32-bit words that sample `number` gets."""
    position = np.array([(random.key(seed, "augmentation") + number) % 2**64], dtype=np.uint64)
    row = random.hash_rows(position, np.empty_like(position), np.empty_like(position)) >> 32
    units = random.unit_keys(seed, f"augmentation {purpose}", size)
    out, spare = np.empty((2, 1, size), dtype=np.uint32)
    return random.hash_bits(row.astype(np.uint32).reshape(1, 1), units, out, spare)[0]


def field_of(seed, number, shape, alpha, sigma):
    height, width = shape
    words = words_of(seed, number, "pixels", height * width)
    noise = words.view("<i2").reshape(height, 2, width) / 2**15
    return [
        alpha * ndimage.gaussian_filter(noise[:, axis], sigma, mode="constant", truncate=4.0)
        for axis in range(2)
    ]


def matrix_of(angle, growth, slant):
    """`A`, from the three maps that an image goes through."""
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shear = [[1, 0], [-np.tan(slant), 1]]
    return np.linalg.inv(turn @ np.array(shear) @ ((1 + growth) * np.eye(2)))


def source_of(a, seed, number, shape):
    """The coordinates `(2, H, W)` that the pixels of sample `number` come from."""
    grid = np.indices(shape).astype(float)
    choice, *words = words_of(seed, number, "kinds", 6) >> 8
    if choice >= a.probability * 2**24:
        return grid
    down, right, angle, growth, slant = (
        (word / 2**23 - 1) * strength
        for word, strength in zip(
            words,
            (a.shift, a.shift, np.radians(a.rotation), a.scale, np.radians(a.shear)),
            strict=True,
        )
    )
    middle = (np.array(shape) - 1).reshape(2, 1, 1) / 2
    source = np.einsum("ij,jrc->irc", matrix_of(angle, growth, slant), grid - middle)
    source += middle + np.array([down, right]).reshape(2, 1, 1)
    if a.elastic:
        source += field_of(seed, number, shape, a.elastic, a.elastic_sigma)
    return source


def by_scipy(a, images, seed=0, first=0):
    return np.array(
        [
            ndimage.map_coordinates(
                image.astype(float),
                source_of(a, seed, first + number, image.shape),
                order=1,
                mode="grid-constant",
                cval=0,
            )
            for number, image in enumerate(images)
        ]
    )


# Pixels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strengths", [*KINDS, ALL, ALL | {"probability": 0.5}], ids=str)
def test_pixels_are_those_of_scipy(backend, strengths, shape, compared):
    images = random_images(5, shape)
    found = applied(started(shape, 3, 70, **strengths), backend, images)
    assert found.dtype == np.float32
    assert_allclose(found, by_scipy(Augmentation(**strengths), images, 3, 70), atol=1e-4)
    compared("Augmentation.apply")


@pytest.mark.parametrize("strengths", [*KINDS, ALL], ids=str)
def test_float64_is_exact_to_float64(backend, strengths):
    images = random_images(4, dtype="float64")
    found = applied(started(**strengths), backend, images)
    assert found.dtype == np.float64
    assert_allclose(found, by_scipy(Augmentation(**strengths), images), atol=1e-10)


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 4.0, 9.5])
@pytest.mark.parametrize("shape", [(28, 28), (5, 12), (1, 1)], ids=str)
def test_the_elastic_field_is_a_gaussian_filter_of_noise(backend, sigma, shape):
    a = started(shape, elastic=3.0, elastic_sigma=sigma)
    flat = backend.asarray(np.zeros((2, shape[0] * shape[1])))
    a.apply(flat, flat)
    a.set_sample_counter(9)
    a.apply(flat, flat)
    field = backend.to_host(a._field(a._draw(backend.xp, 2), slice(0, 2), (2, *shape)))
    for number in range(2):
        expected = field_of(0, 11 + number, shape, 3.0, sigma)
        assert_allclose(field[number].swapaxes(0, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [(1, 0), (0, -2), (0.25, 1.5), (-8.5, 0.5), (100, 3)])
def test_a_shift_is_that_of_scipy(backend, monkeypatch, t):
    a, images = started(shift=1), random_images(2, dtype="float64")
    force(monkeypatch, a, backend, *t, 0, 0, 0)
    expected = [ndimage.shift(x, (-t[0], -t[1]), order=1, mode="grid-constant") for x in images]
    assert_allclose(applied(a, backend, images), expected, atol=1e-12)


@pytest.mark.parametrize("angle", [-30, 5, 45, 90, 180])
def test_a_rotation_is_that_of_scipy(backend, monkeypatch, angle):
    a, images = started(rotation=1), random_images(2, dtype="float64")
    force(monkeypatch, a, backend, 0, 0, angle, 0, 0)
    expected = [
        ndimage.rotate(x, angle, reshape=False, order=1, mode="grid-constant") for x in images
    ]
    # SciPy counts an edge that is missed by 1e-15 as outside in one place only.
    assert_allclose(applied(a, backend, images), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "values", "matrix"),
    [
        ("scale", (0, 0, 0, 0.25, 0), [[0.8, 0], [0, 0.8]]),
        ("scale", (0, 0, 0, -0.5, 0), [[2, 0], [0, 2]]),
        ("shear", (0, 0, 0, 0, 45), [[1, 0], [1, 1]]),
        ("shear", (0, 0, 0, 0, -45), [[1, 0], [-1, 1]]),
    ],
)
def test_scale_and_shear_are_affine_transforms(backend, monkeypatch, kind, values, matrix):
    a, images = started(**{kind: 0.5}), random_images(2, dtype="float64")
    force(monkeypatch, a, backend, *values)
    middle = np.array([4, 6.5])
    offset = middle - np.array(matrix) @ middle
    expected = [
        ndimage.affine_transform(x, matrix, offset, order=1, mode="grid-constant") for x in images
    ]
    assert_allclose(applied(a, backend, images), expected, atol=1e-10)


# Signs, worked by hand

NUMBERS = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], dtype="float32")


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("shift", (1, 0, 0, 0, 0), [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        ("shift", (0, 1, 0, 0, 0), [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        ("shift", (-0.5, 0, 0, 0, 0), [[0.5, 1, 1.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]),
        ("shift", (3, 0, 0, 0, 0), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ("rotation", (0, 0, 90, 0, 0), [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
        ("rotation", (0, 0, -90, 0, 0), [[7, 4, 1], [8, 5, 2], [9, 6, 3]]),
        ("scale", (0, 0, 0, 1, 0), [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]]),
        ("scale", (0, 0, 0, -0.5, 0), [[0, 0, 0], [0, 5, 0], [0, 0, 0]]),
        ("shear", (0, 0, 0, 0, 45), [[0, 1, 2], [4, 5, 6], [8, 9, 0]]),
    ],
)
def test_signs(backend, monkeypatch, kind, values, expected):
    a = started((3, 3), **{kind: 0.5})
    force(monkeypatch, a, backend, *values)
    assert_allclose(applied(a, backend, NUMBERS)[0], expected, atol=1e-5)


def test_scale_then_shear_then_rotation(backend, monkeypatch):
    # A mark to the right of the centre, and one above: twice as far, slanted, then turned left.
    image = np.zeros((1, 9, 9), dtype="float64")
    image[0, 4, 5], image[0, 3, 4] = 1, 2
    a = started((9, 9), rotation=1, scale=0.5, shear=1)
    force(monkeypatch, a, backend, 0, 0, 90, 1, 45)
    found = applied(a, backend, image)[0]
    # (0, 1) -> (0, 2) -> (0, 2) -> (-2, 0) and (-1, 0) -> (-2, 0) -> (-2, 2) -> (-2, -2)
    assert found[2, 4] == pytest.approx(1)
    assert found[2, 2] == pytest.approx(2)


# The same everywhere


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("strengths", [*KINDS, ALL, ALL | {"probability": 0.5}], ids=str)
def test_numpy_and_double_give_the_same_bits(backend, reference, strengths, dtype):
    images = random_images(150, (8, 8), dtype)
    expected = applied(started((8, 8), **strengths), reference, images)
    assert_same(backend, applied(started((8, 8), **strengths), backend, images), expected)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("strengths", [*KINDS, ALL | {"probability": 0.5}], ids=str)
def test_how_samples_are_cut_into_batches_changes_nothing(backend, strengths, size):
    images = random_images(100, (28, 28))
    whole = applied(started((28, 28), **strengths), backend, images)
    a = started((28, 28), **strengths)
    parts = [applied(a, backend, images[n : n + size]) for n in range(0, 100, size)]
    assert_same(backend, np.concatenate(parts), whole)


def test_more_than_one_block_of_large_images(backend):
    images = random_images(3, (230, 240))
    a = Augmentation(**ALL)
    assert_allclose(
        applied(started((230, 240), **ALL), backend, images), by_scipy(a, images), atol=1e-3
    )


def test_seek_goes_to_any_sample(backend):
    images = random_images(12)
    a = started(**ALL)
    whole = applied(a, backend, images)
    a.set_sample_counter(5)
    assert_same(backend, applied(a, backend, images[5:9]), whole[5:9])
    assert_same(backend, applied(a, backend, images[9:]), whole[9:])
    a.begin((9, 14), 0)
    assert_same(backend, applied(a, backend, images), whole)


def test_seeds_and_samples_differ(backend):
    images = np.broadcast_to(random_images(1), (3, 9, 14)).copy()
    first, second = (applied(started(seed=seed, **ALL), backend, images) for seed in (1, 2))
    changed = np.concatenate([first, second]).reshape(6, -1)
    assert len(np.unique(changed, axis=0)) == 6


def test_a_copy_and_a_pickle_draw_the_same(backend):
    a, images = started(**ALL), random_images(4)
    copies = copy.deepcopy(a), pickle.loads(pickle.dumps(a))
    expected = applied(a, backend, images)
    for other in copies:
        assert_same(backend, applied(other, backend, images), expected)


def test_out_may_be_the_images_themselves(backend):
    images = random_images(80, (28, 28))
    flat = backend.asarray(images.reshape(80, -1).copy())
    started((28, 28), **ALL).apply(flat, flat)
    expected = applied(started((28, 28), **ALL), backend, images)
    assert_same(backend, backend.to_host(flat).reshape(expected.shape), expected)


def test_dtype_shape_and_strengths_may_change_on_the_way(backend):
    a = started(**ALL)
    applied(a, backend, random_images(3))
    a.set_sample_counter(0)
    wide = random_images(5, dtype="float64")
    assert_allclose(applied(a, backend, wide), by_scipy(a, wide), atol=1e-10)
    a.begin((5, 5), 4)
    small = random_images(70, (5, 5))
    assert_allclose(applied(a, backend, small), by_scipy(a, small, 4), atol=1e-4)


def test_a_change_of_dtype_keeps_its_place(backend):
    a, images = started(**ALL), random_images(9, dtype="float64")
    applied(a, backend, images[:4].astype("float32"))
    assert_allclose(applied(a, backend, images[4:]), by_scipy(a, images[4:], first=4), atol=1e-10)


# Which are changed


@pytest.mark.parametrize("strengths", [{}, ALL | {"probability": 0.0}, {"elastic_sigma": 2.0}])
def test_nothing_to_do_is_a_copy(backend, strengths):
    images = random_images(6)
    assert_array_equal(applied(started(**strengths), backend, images), images)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_about_thirty_in_a_hundred_are_changed_the_others_not_by_a_bit(backend, dtype):
    images = random_images(1000, (10, 9), dtype)
    found = applied(started((10, 9), probability=0.3, **ALL), backend, images)
    same = (found == images).all(axis=(1, 2))
    assert 250 <= (~same).sum() <= 350
    # Those that are changed are changed as with probability 1.
    always = applied(started((10, 9), **ALL), backend, images)
    assert_same(backend, found[~same], always[~same])


# Draws


def draws(backend, count=10_000, **strengths):
    a = started((2, 2), 5, **strengths)
    flat = backend.asarray(np.zeros((1, 4), dtype="float32"))
    a.apply(flat, flat)
    drawn = a._draw(backend.xp, count)
    return backend.to_host(drawn.values), backend.to_host(drawn.chosen)


def test_every_parameter_is_uniform_within_its_strength(backend):
    values, chosen = draws(backend, **ALL)
    strengths = np.array([2, 2, np.radians(15), 0.2, np.radians(12)]).reshape(5, 1)
    u = np.sort(values / strengths, axis=1)
    assert chosen.all()
    assert (u >= -1).all()
    assert (u < 1).all()
    # Kolmogorov and Smirnov's distance, which chance exceeds once in 1000 from 0.0195 on.
    expected = np.linspace(-1, 1, 10_000)
    assert np.abs(u - expected).max() / 2 < 0.0195


def test_parameters_are_independent(backend):
    values, _ = draws(backend, **ALL)
    _, chosen = draws(backend, probability=0.5, **ALL)
    kinds = np.concatenate([values, values**2, [chosen]])
    lagged = np.concatenate([kinds[:, 1:], kinds[:, :-1]])
    correlation = np.corrcoef(lagged)
    # |t| and t² of one parameter belong together with nothing but itself.
    assert np.abs(correlation - np.eye(len(lagged))).max() < 0.05


def test_noise_is_uniform_and_its_axes_are_independent(backend):
    # So narrow a Gaussian leaves the noise as it is.
    a = started((40, 50), elastic=1.0, elastic_sigma=0.1)
    flat = backend.asarray(np.zeros((1, 2000)))
    a.apply(flat, flat)
    field = backend.to_host(a._field(a._draw(backend.xp, 4), slice(0, 4), (4, 40, 50)))
    noise = field.swapaxes(1, 2).reshape(8, -1)
    assert -1 <= noise.min() < -0.99
    assert 0.99 < noise.max() < 1
    assert np.abs(noise.mean(axis=1)).max() < 0.06
    assert_allclose(noise.var(axis=1), 1 / 3, atol=0.03)
    assert np.abs(np.corrcoef(noise) - np.eye(8)).max() < 0.1


@pytest.mark.parametrize("strengths", KINDS, ids=str)
def test_a_kind_draws_the_same_whatever_else_is_on(backend, strengths):
    alone, _ = draws(backend, 50, **strengths)
    together, _ = draws(backend, 50, **ALL)
    on = np.abs(alone).max(axis=1) > 0
    assert on.sum() == {"shift": 2, "elastic": 0}.get(*strengths, 1)
    assert_array_equal(alone[on], together[on])


# Any image


@settings(max_examples=3 * settings.default.max_examples // 5)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    count=st.integers(0, 4),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**63),
    samples=st.integers(0, 2**63),
    strengths=st.fixed_dictionaries(
        {
            "shift": st.floats(0, 40),
            "rotation": st.floats(0, 400),
            "scale": st.floats(0, 0.999),
            "shear": st.floats(0, 89.9),
            "elastic": st.floats(0, 500),
            "elastic_sigma": st.floats(0.01, 30),
            "probability": st.floats(0, 1),
        }
    ),
)
def test_values_stay_within_those_of_the_image_and_0(
    backend, shape, count, dtype, seed, samples, strengths
):
    images = random.generator(seed, "x").uniform(-3, 5, (count, *shape)).astype(dtype)
    found = applied(started(shape, seed, samples, **strengths), backend, images)
    assert found.dtype == dtype
    low = np.minimum(images.min(axis=(1, 2), initial=0), 0).reshape(-1, 1, 1)
    high = np.maximum(images.max(axis=(1, 2), initial=0), 0).reshape(-1, 1, 1)
    slack = 1e-5 if dtype == "float32" else 1e-14
    assert (found >= low - slack).all()
    assert (found <= high + slack).all()
    nothing = applied(started(shape, seed, samples, **strengths), backend, 0 * images)
    assert_array_equal(nothing, 0 * images)


@pytest.mark.parametrize("pixels", [10_000, 10_000.0])
def test_the_strongest_settings_leave_numbers(backend, pixels):
    a = started(shift=pixels, rotation=1e300, scale=1 - 2**-53, shear=90 - 1e-12, elastic=pixels)
    found = applied(a, backend, random_images(50))
    assert np.isfinite(found).all()
    assert found.max() <= 1
    wide = started(shift=1, elastic=1, elastic_sigma=pixels)
    assert np.isfinite(applied(wide, backend, random_images(50))).all()


# Steady state


@pytest.mark.parametrize("strengths", [*KINDS, ALL | {"probability": 0.5}, {}], ids=str)
def test_a_batch_neither_waits_nor_copies_nor_allocates(double, strengths):
    a = started(**strengths)
    images = double.asarray(random_images(64).reshape(64, -1))
    out = double.asarray(np.zeros((64, 126), dtype="float32"))
    a.apply(images, out)
    strict_cupy.ledger.reset()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        a.apply(images, out)
        one = dict(strict_cupy.ledger.operations)
        a.apply(images[:5], out[:5])
        a.apply(images, out)
    # As many calls for 5 samples as for 64: a GPU is given whole batches.
    assert {name: 3 * count for name, count in one.items()} == strict_cupy.ledger.operations


def test_numpy_reuses_its_buffers(reference, monkeypatch):
    a, images = started((28, 28), **ALL), random_images(150, (28, 28))
    flat = images.reshape(150, -1)
    out = np.empty_like(flat)
    a.apply(flat, out)
    made = []
    monkeypatch.setattr("numpy.empty", lambda *args, **_: made.append(args))
    monkeypatch.setattr("numpy.arange", lambda *args, **_: made.append(args))
    a.apply(flat, out)
    a.apply(flat[:70], out[:70])
    assert made == []


def test_a_large_batch_on_the_cpu_needs_the_memory_of_a_block(reference):
    a = started((28, 28), **ALL)
    applied(a, reference, random_images(300, (28, 28)))
    largest = max(len(memory) for memory in a.workspace._memory.values())
    # Two numbers of noise for each pixel of 64 images.
    assert largest == 2 * 64 * 28 * 28


def test_a_kind_that_is_off_costs_no_pass(double):
    def operations(**strengths):
        a = started(**strengths)
        images = double.asarray(random_images(2).reshape(2, -1))
        a.apply(images, images)
        strict_cupy.ledger.reset()
        a.apply(images, images)
        return dict(strict_cupy.ledger.operations)

    assert operations() == {"copyto": 1}
    straight, turned, elastic = (
        operations(**{kind: 1e-3}) for kind in ("shift", "rotation", "elastic")
    )
    assert turned["add"] == straight["add"] + 2
    assert "matmul" not in turned
    assert elastic["matmul"] == 2
    assert "bitwise_and" not in elastic
    assert operations(elastic=1, probability=0.5)["bitwise_and"] == 1


# Errors


@pytest.mark.parametrize("name", [*ALL, "elastic_sigma", "probability"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "2", None, True])
def test_a_setting_out_of_its_range_is_one_line_that_names_it(name, value):
    with pytest.raises(ConfigError, match=f"^{name} of Augmentation must lie") as caught:
        Augmentation(**{name: value})
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("shift", 10_000, 10_001),
        ("scale", 0.99, 1),
        ("shear", 89.9, 90),
        ("elastic", 10_000, 10_001),
        ("elastic_sigma", 10_000, 0),
        ("probability", 1, 1.01),
    ],
)
def test_the_ends_of_the_ranges(name, allowed, refused):
    assert getattr(Augmentation(**{name: allowed}), name) == allowed
    with pytest.raises(ConfigError, match=f"{name} .* found {refused}"):
        Augmentation(**{name: refused})


@pytest.mark.parametrize("shape", [(28,), (28, 0), (-1, 5), (2.0, 2), (3, 28, 28), (True, 4)])
def test_a_shape_that_is_none(shape):
    with pytest.raises(ConfigError, match="image_shape of Augmentation must be"):
        Augmentation().begin(shape, 0)


def test_an_image_too_large_to_count_its_pixels():
    Augmentation().begin((4094, 4094), 0)
    with pytest.raises(ConfigError, match="16777216 pixels"):
        Augmentation().begin((4094, 4095), 0)


@pytest.mark.parametrize("strengths", [{}, ALL])
def test_arrays_that_do_not_fit(backend, strengths):
    def zeros(*shape, dtype="float32"):
        return backend.xp.zeros(shape, dtype=dtype)

    with pytest.raises(ConfigError, match=r"call begin\(\) first"):
        Augmentation(**strengths).apply(zeros(2, 126), zeros(2, 126))
    a = started(**strengths)
    for images, out in (
        (zeros(2, 127), zeros(2, 127)),
        (zeros(2, 126), zeros(3, 126)),
        (zeros(2, 9, 14), zeros(2, 9, 14)),
        (zeros(126), zeros(126)),
    ):
        with pytest.raises(ShapeError, match=r"expected \(N, 126\) for images of 9 x 14"):
            a.apply(images, out)
    for images, out in (
        (zeros(2, 126, dtype="uint8"), zeros(2, 126, dtype="uint8")),
        (zeros(2, 126), zeros(2, 126, dtype="float64")),
    ):
        with pytest.raises(ShapeError, match="both float32 or both float64"):
            a.apply(images, out)
    with pytest.raises(ShapeError, match="C-contiguous"):
        a.apply(zeros(2, 126), zeros(2, 252)[:, ::2])


def test_two_backends_are_told_apart(double):
    host = np.zeros((2, 126), dtype="float32")
    a = started(**ALL)
    with pytest.raises(DeviceMismatch):
        a.apply(host, double.asarray(host))
    a.apply(host, host)
    with pytest.raises(DeviceMismatch):
        a.apply(double.asarray(host), double.asarray(host))
    a.set_sample_counter(0)
    a.apply(double.asarray(host), double.asarray(host))
