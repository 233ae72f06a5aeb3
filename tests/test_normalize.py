from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import normalize
from cnnjax.errors import UserError


def pictures(n, side=6, seed=0):
    """Smooth random pictures, so that a few directions carry most of the variance."""
    generator = np.random.default_rng(seed)
    colours, slopes = generator.normal(size=(n, 1, 1, 3)), generator.normal(size=(n, 1, 1, 1))
    noise = generator.normal(size=(n, side, side, 3)) * 0.2
    return np.clip(127 + 25 * (colours + slopes * np.linspace(-1, 1, side)[:, None] + noise), 0, 255).astype(np.uint8)


def unit(images):
    return jnp.asarray(images, jnp.float32) / 255


def whitener(images, k, epsilon=normalize.EPSILON):
    """The d×d whitening matrix in float64, straight from the covariance: what the thin SVD must amount to."""
    flat = images.reshape(len(images), -1) / 255
    variance, vectors = np.linalg.eigh(np.cov(flat.T))
    variance, vectors = variance[::-1][:k], vectors[:, ::-1][:, :k]
    scales = 1 / np.sqrt(variance + epsilon)
    kept = vectors @ vectors.T
    return (vectors * scales) @ vectors.T + scales[-1] * (np.eye(flat.shape[1]) - kept), flat.mean(axis=0)


def test_none_and_mean_colour():
    images = pictures(5)
    nothing, mean = normalize.fit("none", images), normalize.fit("mean", images)
    np.testing.assert_array_equal(normalize.clean(nothing, unit(images)), unit(images))
    cleaned = normalize.clean(mean, unit(images))
    np.testing.assert_allclose(mean.mean, np.mean(images / 255, axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(cleaned, images / 255 - np.mean(images / 255, axis=(0, 1, 2)), atol=1e-6)


def test_standard_makes_every_colour_zero_mean_and_unit_variance():
    images = pictures(40)
    cleaned = normalize.clean(normalize.fit("standard", images), unit(images))
    scaled = images / 255
    expected = (scaled - scaled.mean(axis=(0, 1, 2))) / np.sqrt(scaled.var(axis=(0, 1, 2)) + normalize.EPSILON)
    np.testing.assert_allclose(cleaned, expected, atol=1e-5)
    flat = np.full((3, 4, 4, 3), 7, np.uint8)
    assert np.isfinite(normalize.clean(normalize.fit("standard", flat), unit(flat))).all()


@pytest.mark.parametrize("n", [20, 300])
def test_zca_is_the_covariances_inverse_square_root(n):
    """With fewer pictures (20) than numbers in one (108), and with more."""
    images = pictures(n)
    cleaning = normalize.fit("zca", images)
    k = len(cleaning.components)
    assert k == min(n - 1, 108)
    matrix, mean = whitener(images, k)
    others = pictures(4, seed=1)
    expected = (others.reshape(4, -1) / 255 - mean) @ matrix.T
    np.testing.assert_allclose(normalize.clean(cleaning, unit(others)).reshape(4, -1), expected, rtol=2e-2, atol=2e-2)


def test_pca_coordinates_are_white_on_the_training_pictures():
    images = pictures(40)
    coordinates = normalize.pca_whiten(normalize.fit("zca", images), unit(images))
    assert coordinates.shape == (40, 39)
    np.testing.assert_allclose(np.cov(np.asarray(coordinates).T), np.eye(39), atol=5e-3)


def test_rank_is_bounded_and_fainter_directions_are_not_blown_up(monkeypatch):
    monkeypatch.setattr(normalize, "RANK", 5)
    monkeypatch.setattr(normalize, "PICTURES", 30)
    images = pictures(60)
    cleaning = normalize.fit("zca", images)
    assert cleaning.components.shape == (5, 108) and cleaning.scales.shape == (6,)
    assert cleaning.scales[-1] == cleaning.scales[-2] == cleaning.scales.max()
    matrix, mean = whitener(images[np.linspace(0, 59, 30).astype(int)], 5)
    expected = (images.reshape(60, -1) / 255 - mean) @ matrix.T
    np.testing.assert_allclose(normalize.clean(cleaning, unit(images)).reshape(60, -1), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", normalize.KINDS)
def test_a_cleaning_goes_through_jit_as_an_argument(kind):
    images = pictures(8)
    cleaning = normalize.fit(kind, images)
    inside = jax.jit(normalize.clean)(cleaning, unit(images))
    np.testing.assert_allclose(inside, normalize.clean(cleaning, unit(images)), rtol=1e-4, atol=1e-4)
    assert len(jax.tree.leaves(cleaning)) == 3


def test_errors_are_one_sentence_with_the_remedy():
    images = pictures(8)
    with pytest.raises(UserError, match="'zac'.*zca"):
        normalize.fit("zac", images)
    with pytest.raises(UserError, match="no pictures"):
        normalize.fit("mean", images[:0])
    with pytest.raises(UserError, match="all alike"):
        normalize.fit("zca", images[[0, 0, 0]])
    with pytest.raises(UserError, match=r"\(6, 6, 3\), not \(8, 8, 3\)"):
        normalize.clean(normalize.fit("zca", images), unit(pictures(1, side=8)))
    with pytest.raises(UserError, match="needs a zca"):
        normalize.pca_whiten(normalize.fit("mean", images), unit(images))


def test_published_cleanings_are_exact():
    images = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    caffe = (images[..., ::-1] * np.float64(255)) - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(normalize.clean(normalize.caffe(), jnp.asarray(images)), caffe, rtol=1e-5, atol=1e-4)
    imagenet = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        normalize.clean(normalize.imagenet(), jnp.asarray(images)), imagenet, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(normalize.clean(normalize.raw(), jnp.asarray(images)), images * 255)


def test_cleanings_are_told_and_recognised():
    assert normalize.told(normalize.caffe()) == "BGR in 0 to 255 minus (103.939, 116.779, 123.68)"
    assert normalize.told(normalize.imagenet()) == (
        "RGB in 0 to 1 minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)"
    )
    assert normalize.told(normalize.raw()) == "RGB in 0 to 255, nothing subtracted"
    whole = [normalize.fit(kind, pictures(8)) for kind in normalize.KINDS] + [
        normalize.caffe(),
        normalize.imagenet(),
        normalize.raw(),
    ]
    for cleaning in whole:
        assert normalize.is_whole(cleaning) and normalize.told(cleaning)
    caffe, zca = normalize.caffe(), normalize.fit("zca", pictures(8))
    for broken in (
        replace(caffe, kind="bgr"),
        replace(caffe, mean=caffe.mean[:2]),
        replace(caffe, mean=caffe.mean.at[0].set(jnp.nan)),
        replace(caffe, scales=caffe.mean),
        replace(normalize.imagenet(), scales=jnp.zeros(0)),
        replace(zca, scales=zca.scales[1:]),
        replace(zca, components=zca.components[:, 1:]),
    ):
        assert not normalize.is_whole(broken)
