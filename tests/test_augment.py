import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import affine

from cnnjax.data.augment import Augment, draw, resample
from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ARTICLE = Augment()
NOTHING = Augment(rotation=0.0, shift=0.0, shear=0.0, zoom=0.0, flip=False)
EVERYTHING = Augment(shear=20.0, fill="reflect", exposure=0.5, contrast=0.3)


@functools.cache
def compiled(config):
    return jax.jit(config)


def make_images(n=6, height=12, width=17, seed=0):
    return np.random.default_rng(seed).random((n, height, width, 3), dtype=np.float32)


def keys(n=6, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("fill", ["nearest", "constant", "reflect"])
def test_resampling_is_scipys(fill):
    images, generator = make_images(8), np.random.default_rng(1)
    ours = jax.jit(lambda image, matrix, offset: resample(image, matrix, offset, fill))
    for image in images:
        matrix = affine.keras_matrix(*generator.uniform(-1, 1, 6) * [90, 15, 15, 30, 0.6, 0.6] + [0, 0, 0, 0, 1, 1])
        matrix = matrix.astype(np.float32).astype(np.float64)
        got = ours(image, jnp.float32(matrix[:2, :2]), jnp.float32(matrix[:2, 2]))
        np.testing.assert_allclose(got, affine.resample(image, matrix, fill), atol=5e-5)


def test_draw_is_keras_geometry_flip_after_the_rest():
    """A drawn transformation, taken apart, is rotation · shift · shear · zoom and then the flip."""
    config = Augment(shear=20.0)
    image = jnp.asarray(make_images(1)[0])
    flips = []
    for key in keys(8):
        d = draw(key, config, *image.shape[:2])
        u = np.float64(jax.random.uniform(key, (8,), minval=-1, maxval=1))
        flips.append(bool(u[6] < 0))
        matrix = affine.keras_matrix(
            u[0] * 40, u[1] * 0.2 * 12, u[2] * 0.2 * 17, u[3] * 20, 1 + 0.2 * u[4], 1 + 0.2 * u[5]
        )
        expected = affine.resample(np.asarray(image), matrix, "nearest", flip=flips[-1])
        np.testing.assert_allclose(resample(image, d.matrix, d.offset, "nearest"), expected, atol=5e-5)
    assert len(set(flips)) == 2


@pytest.mark.parametrize("fill", ["nearest", "constant", "reflect"])
def test_no_ranges_change_nothing(fill):
    """Also through the resampler, whose coordinates must then be exact."""
    image = jnp.asarray(make_images(1)[0])
    got = resample(image, jnp.eye(2), jnp.zeros(2), fill)
    np.testing.assert_array_equal(got, image)
    np.testing.assert_array_equal(NOTHING(keys(), jnp.asarray(make_images())), make_images())


def test_flip_alone_mirrors_about_half_and_twice_is_the_original():
    config = Augment(rotation=0.0, shift=0.0, shear=0.0, zoom=0.0)
    images, k = make_images(64), keys(64)
    once = np.asarray(compiled(config)(k, images))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(once, images, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(once, images, strict=True)])
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(compiled(config)(k, once), images)


@given(st.integers(0, 2**32 - 1), st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_an_image_depends_on_its_own_key_alone(seed, order):
    """Same keys, same bits; another order or other company in the batch changes nothing."""
    order = np.array(order)
    k, images = keys(seed=seed), make_images(seed=seed)
    together = np.asarray(compiled(EVERYTHING)(k, images))
    np.testing.assert_array_equal(together, compiled(EVERYTHING)(k, images))
    np.testing.assert_array_equal(together[order], compiled(EVERYTHING)(k[order], images[order]))
    alone = compiled(EVERYTHING)(k[2:3], images[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)
    assert together.min() >= 0 and together.max() <= 1
    assert not np.array_equal(together, images)


def test_article_ranges_are_kept_and_used():
    """Over many draws rotation, zoom and shift stay inside the article's ranges and come near their ends."""
    draws = jax.vmap(lambda key: draw(key, ARTICLE, 150, 150))(keys(2000))
    m = np.asarray(draws.matrix, np.float64)
    angle = np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    tall, wide = np.hypot(m[:, 0, 0], m[:, 1, 0]), np.hypot(m[:, 0, 1], m[:, 1, 1])
    shift = np.hypot(*np.asarray(draws.offset).T)
    for values, low, high in ((angle, -40, 40), (tall, 0.8, 1.2), (wide, 0.8, 1.2), (shift, 0, 30 * 2**0.5)):
        assert values.min() >= low - 1e-4 and values.max() <= high + 1e-4
        assert values.min() < low + 0.05 * (high - low) and values.max() > high - 0.1 * (high - low)
    assert abs(np.corrcoef(tall, wide)[0, 1]) < 0.1, "the axes zoom independently"


def test_exposure_and_contrast_by_hand():
    image = jnp.full((1, 4, 4, 3), 0.25).at[0, :2].set(0.5)
    d = draw(keys(1)[0], Augment(exposure=0.5, contrast=0.5), 4, 4)
    assert 2**-0.5 <= d.exposure <= 2**0.5 and 0.5 <= d.contrast <= 1.5
    lit = Augment(0.0, 0.0, 0.0, 0.0, False, exposure=0.5)(keys(1), image)
    np.testing.assert_allclose(lit, image * d.exposure, rtol=1e-6)
    steeper = Augment(0.0, 0.0, 0.0, 0.0, False, contrast=0.5)(keys(1), image)
    np.testing.assert_allclose(steeper, 0.375 + (image - 0.375) * d.contrast, rtol=1e-6)


@pytest.mark.parametrize("range_", [{"rotation": -1.0}, {"shift": -0.1}, {"zoom": 1.0}, {"contrast": -0.2}])
def test_a_range_without_sense_names_its_argument(range_):
    (name,) = range_
    with pytest.raises(UserError, match=f"^{name}="):
        Augment(**range_)


def test_any_number_of_channels_and_a_frozen_hashable_value():
    images = make_images(3)
    for channels in (1, 2):
        some = jnp.asarray(images[..., :channels])
        assert compiled(EVERYTHING)(keys(3), some).shape == some.shape
    # Geometry does not look at the channels.
    shown = compiled(ARTICLE)(keys(3), jnp.asarray(images))
    np.testing.assert_allclose(compiled(ARTICLE)(keys(3), jnp.asarray(images[..., :1])), shown[..., :1], atol=1e-6)
    assert Augment() == ARTICLE and hash(Augment()) == hash(ARTICLE)
