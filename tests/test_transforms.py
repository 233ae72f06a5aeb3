import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import affine

from cnnjax import visualize
from cnnjax.errors import UserError
from cnnjax.visualize import transforms

pytestmark = pytest.mark.usefixtures("quickly_compiled")

HEIGHT, WIDTH = 13, 18
IMAGE = np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH, 3))
KEYS = jax.random.split(jax.random.key(1), 40)


WINDOW = jax.jit(lambda transform, key, image: transform(key, image))


def scale_matrix(factor):
    return affine.keras_matrix(0, 0, 0, 0, 1 / factor, 1 / factor)


def rotation_matrix(degrees):
    return affine.keras_matrix(degrees, 0, 0, 0, 1, 1)


def drawn(transform, keys=KEYS):
    """The matrices of a warp, which its own keys give, in float64."""
    return np.asarray(jax.vmap(transform.matrix)(keys), np.float64)


def applied(transform, keys=KEYS, image=IMAGE):
    return np.asarray(jax.jit(jax.vmap(transform, (0, None)))(keys, jnp.float32(image)))


def homogeneous(matrix):
    full = np.eye(3)
    full[:2, :2] = matrix
    return full


def test_a_fixed_scale_and_its_border_are_scipys():
    for factor in (0.7, 1.0, 1.4):
        ours = applied(visualize.scale(factor, factor), KEYS[:1])[0]
        np.testing.assert_allclose(ours, affine.resample(IMAGE, scale_matrix(factor), "nearest"), atol=0.02)


def test_scales_are_uniform_between_their_limits_and_each_image_has_its_own():
    matrices = drawn(visualize.scale(0.9, 1.1), jax.random.split(jax.random.key(0), 2000))
    factors = 1 / matrices[:, 0, 0]
    np.testing.assert_array_equal(matrices[:, 0, 0], matrices[:, 1, 1])
    assert (matrices[:, [0, 1], [1, 0]] == 0).all()
    assert 0.9 <= factors.min() < 0.901 and 1.099 < factors.max() <= 1.1
    assert factors.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)


def test_rotations_are_scipys_and_use_their_whole_range():
    transform = visualize.rotate(10)
    matrices = drawn(transform)
    angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert -10 <= angles.min() < -8 and 8 < angles.max() <= 10
    for angle, ours in zip(angles, applied(transform), strict=True):
        np.testing.assert_allclose(ours, affine.resample(IMAGE, rotation_matrix(angle), "nearest"), atol=0.02)


def test_warps_in_a_row_are_one_resampling_of_the_product():
    steps = transforms.compose((visualize.scale(0.8, 1.2), visualize.rotate(30)))
    run = jax.jit(lambda key: transforms.apply(steps, key, jnp.float32(IMAGE)))
    for key in KEYS[:4]:
        keys = jax.random.split(key)
        product = drawn(steps[0], keys[:1])[0] @ drawn(steps[1], keys[1:])[0]
        ours = run(key)
        np.testing.assert_allclose(ours, affine.resample(IMAGE, homogeneous(product), "nearest"), atol=0.02)


def test_the_gradient_of_a_warp_is_its_transpose():
    """The resampling is linear: <warp(x), y> = <x, gradient(y)>."""
    steps = transforms.compose((visualize.scale(0.8, 1.2), visualize.rotate(30)))
    y = jnp.float32(np.random.default_rng(1).normal(size=IMAGE.shape))
    warped, pull = jax.vjp(lambda x: transforms.apply(steps, KEYS[0], x), jnp.float32(IMAGE))
    assert float(jnp.vdot(warped, y)) == pytest.approx(float(jnp.vdot(jnp.float32(IMAGE), pull(y)[0])), rel=1e-4)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding_is_numpys(mode):
    options = {"constant_values": 127.5} if mode == "constant" else {}
    expected = np.pad(np.float32(IMAGE), ((5, 5), (5, 5), (0, 0)), mode, **options)
    np.testing.assert_array_equal(visualize.pad(5, mode)(KEYS[0], jnp.float32(IMAGE)), expected)


def test_a_crop_is_every_window_of_its_size_and_gives_a_padded_image_its_size_back():
    windows = {
        np.float32(IMAGE[i : i + 11, j : j + 17]).tobytes(): (i, j) for i in range(HEIGHT - 10) for j in range(2)
    }
    found = [windows[each.tobytes()] for each in applied(visualize.crop((11, 17)), jax.random.split(KEYS[0], 60))]
    assert set(found) == set(windows.values())
    several = tuple(one.bind((HEIGHT, WIDTH)) for one in (visualize.pad(4, "edge"), visualize.crop(random=False)))
    np.testing.assert_array_equal(transforms.apply(several, KEYS[0], jnp.float32(IMAGE)), np.float32(IMAGE))
    with pytest.raises(UserError, match=r"crop\(14, 14\) is larger than the image of 13×18"):
        visualize.crop(14)(KEYS[0], jnp.float32(IMAGE))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1), st.floats(0, 0.3), st.integers(0, 2**30))
def test_a_window_is_a_magnified_part_that_lies_inside(share, spread, seed):
    ramps = np.stack(np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij"), axis=-1)
    shown = np.asarray(
        WINDOW(visualize.window(share, deviation=0.0, spread=spread), jax.random.key(seed), jnp.float32(ramps))
    )
    steps = [np.diff(shown[..., 0], axis=0), np.diff(shown[..., 1], axis=1)]
    np.testing.assert_allclose([one.mean() for one in steps], share, atol=1e-3)
    np.testing.assert_allclose([one.std() for one in steps], 0, atol=1e-3)


def test_a_window_shrinks_over_the_steps():
    growing = visualize.window(0.5, 0.1, deviation=0.0)
    assert [float(growing.at(jnp.float32(x)).share) for x in (0, 0.5, 1)] == pytest.approx([0.5, 0.3, 0.1])
    still = visualize.rotate(5)
    assert still.at(jnp.float32(0.5)) is still


def test_noise_has_the_deviation_that_it_is_given_and_different_pixels_differ():
    image = jnp.full((50, 60, 3), 100.0)
    added = np.asarray(visualize.noise(5.0, 12.0)(KEYS[0], image)) - 100
    assert added.std() == pytest.approx(np.hypot(5, 12 / 3**0.5), rel=0.02)
    assert np.abs(added.mean()) < 0.3
    np.testing.assert_array_equal(visualize.noise(0.0)(KEYS[0], image), image)


def test_limits_change_without_compiling_again():
    @jax.jit
    def run(several, key, image):
        return transforms.apply(several, key, image)

    def all_of(x):
        several = visualize.pad(2, value=x), visualize.jitter(x), visualize.scale(x, x + 1), visualize.rotate(x)
        more = visualize.window(x / 10, x / 20, deviation=x, spread=x), visualize.noise(x, x)
        return jax.tree.map(jnp.asarray, tuple(one.bind((8, 8)) for one in (*several, visualize.crop(), *more)))

    results = [run(all_of(x), KEYS[0], jnp.float32(IMAGE[:8, :8])) for x in (1.0, 2.0, 3.0)]
    assert run._cache_size() == 1
    assert results[0].shape == (8, 8, 3) and not np.array_equal(results[0], results[1])


def test_what_makes_no_sense_is_one_sentence():
    for wrong, message in [
        (lambda: visualize.scale(1.1, 0.9), "two positive factors"),
        (lambda: visualize.rotate(-1), "degrees=-1"),
        (lambda: visualize.pad(-1), "pixels=-1"),
        (lambda: visualize.jitter(-5), "limit=-5 of jitter"),
        (lambda: visualize.noise(-1), "must not be negative"),
        (lambda: visualize.window(1.5), "at most 1"),
    ]:
        with pytest.raises(UserError, match=message):
            wrong()
