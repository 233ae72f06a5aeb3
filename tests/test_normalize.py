from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import normalize
from cnnjax.data.normalize import fit_normalizer
from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def make_images(n, size=6, seed=0):
    """Smooth random images, so that a few directions carry most of the variance."""
    generator = np.random.default_rng(seed)
    colours, slopes = generator.normal(size=(n, 1, 1, 3)), generator.normal(size=(n, 1, 1, 1))
    noise = generator.normal(size=(n, size, size, 3)) * 0.2
    return np.clip(127 + 25 * (colours + slopes * np.linspace(-1, 1, size)[:, None] + noise), 0, 255).astype(np.uint8)


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


def test_none_and_the_mean_of_each_channel():
    images = make_images(5)
    nothing, mean = fit_normalizer("none", images), fit_normalizer("mean", images)
    np.testing.assert_array_equal(normalize.normalize(nothing, unit(images)), unit(images))
    normalized = normalize.normalize(mean, unit(images))
    np.testing.assert_allclose(mean.mean, np.mean(images / 255, axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(normalized, images / 255 - np.mean(images / 255, axis=(0, 1, 2)), atol=1e-6)


def test_standard_makes_every_channel_zero_mean_and_unit_variance():
    images = make_images(40)
    normalized = normalize.normalize(fit_normalizer("standard", images), unit(images))
    scaled = images / 255
    expected = (scaled - scaled.mean(axis=(0, 1, 2))) / np.sqrt(scaled.var(axis=(0, 1, 2)) + normalize.EPSILON)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)
    flat = np.full((3, 4, 4, 3), 7, np.uint8)
    assert np.isfinite(normalize.normalize(fit_normalizer("standard", flat), unit(flat))).all()


@pytest.mark.parametrize("n", [20, 300])
def test_zca_is_the_covariances_inverse_square_root(n):
    """With fewer images (20) than numbers in one (108), and with more."""
    images = make_images(n)
    normalizer = fit_normalizer("zca", images)
    k = len(normalizer.components)
    assert k == min(n - 1, 108)
    matrix, mean = whitener(images, k)
    others = make_images(4, seed=1)
    expected = (others.reshape(4, -1) / 255 - mean) @ matrix.T
    np.testing.assert_allclose(
        normalize.normalize(normalizer, unit(others)).reshape(4, -1), expected, rtol=2e-2, atol=2e-2
    )


def test_pca_coordinates_are_white_on_the_training_images():
    images = make_images(40)
    coordinates = normalize.pca_whiten(fit_normalizer("zca", images), unit(images))
    assert coordinates.shape == (40, 39)
    np.testing.assert_allclose(np.cov(np.asarray(coordinates).T), np.eye(39), atol=5e-3)


def test_rank_is_bounded_and_fainter_directions_are_not_blown_up(monkeypatch):
    monkeypatch.setattr(normalize, "MAX_RANK", 5)
    monkeypatch.setattr(normalize, "MAX_IMAGES", 30)
    images = make_images(60)
    normalizer = fit_normalizer("zca", images)
    assert normalizer.components.shape == (5, 108) and normalizer.scales.shape == (6,)
    assert normalizer.scales[-1] == normalizer.scales[-2] == normalizer.scales.max()
    matrix, mean = whitener(images[np.linspace(0, 59, 30).astype(int)], 5)
    expected = (images.reshape(60, -1) / 255 - mean) @ matrix.T
    np.testing.assert_allclose(
        normalize.normalize(normalizer, unit(images)).reshape(60, -1), expected, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("kind", normalize.KINDS)
def test_a_normalizer_goes_through_jit_as_an_argument(kind):
    images = make_images(8)
    normalizer = fit_normalizer(kind, images)
    inside = jax.jit(normalize.normalize)(normalizer, unit(images))
    np.testing.assert_allclose(inside, normalize.normalize(normalizer, unit(images)), rtol=1e-4, atol=1e-4)
    assert len(jax.tree.leaves(normalizer)) == 3


def test_errors_are_one_sentence_with_the_remedy():
    images = make_images(8)
    with pytest.raises(UserError, match="'zac'.*zca"):
        fit_normalizer("zac", images)
    with pytest.raises(UserError, match="no images"):
        fit_normalizer("mean", images[:0])
    with pytest.raises(UserError, match="all alike"):
        fit_normalizer("zca", images[[0, 0, 0]])
    with pytest.raises(UserError, match=r"\(6, 6, 3\), not \(8, 8, 3\)"):
        normalize.normalize(fit_normalizer("zca", images), unit(make_images(1, size=8)))
    with pytest.raises(UserError, match="of kind 'zca'"):
        normalize.pca_whiten(fit_normalizer("mean", images), unit(images))


def test_published_normalizers_are_exact():
    images = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    caffe = (images[..., ::-1] * np.float64(255)) - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(normalize.normalize(normalize.caffe(), jnp.asarray(images)), caffe, rtol=1e-5, atol=1e-4)
    imagenet = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        normalize.normalize(normalize.imagenet(), jnp.asarray(images)), imagenet, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(normalize.normalize(normalize.raw(), jnp.asarray(images)), images * 255)


def test_normalizers_are_described_and_recognised():
    assert normalize.describe(normalize.caffe()) == "BGR in 0 to 255 minus (103.939, 116.779, 123.68)"
    assert normalize.describe(normalize.imagenet()) == (
        "RGB in 0 to 1 minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)"
    )
    assert normalize.describe(normalize.raw()) == "RGB in 0 to 255, nothing subtracted"
    every = [fit_normalizer(kind, make_images(8)) for kind in normalize.KINDS] + [
        normalize.caffe(),
        normalize.imagenet(),
        normalize.raw(),
    ]
    for normalizer in every:
        assert normalize.is_valid(normalizer) and normalize.describe(normalizer)
    caffe, zca = normalize.caffe(), fit_normalizer("zca", make_images(8))
    for broken in (
        replace(caffe, kind="bgr"),
        replace(caffe, mean=caffe.mean[:2]),
        replace(caffe, mean=caffe.mean.at[0].set(jnp.nan)),
        replace(caffe, scales=caffe.mean),
        replace(normalize.imagenet(), scales=jnp.zeros(0)),
        replace(zca, scales=zca.scales[1:]),
        replace(zca, components=zca.components[:, 1:]),
    ):
        assert not normalize.is_valid(broken)


@pytest.mark.parametrize("shape", [(4, 7, 1), (6, 3, 5)])
@pytest.mark.parametrize("kind", normalize.KINDS)
def test_any_number_of_channels_and_any_aspect(shape, kind):
    images = np.random.default_rng(0).integers(0, 256, (12, *shape), np.uint8)
    found = fit_normalizer(kind, images)
    normalized = normalize.normalize(found, unit(images))
    assert normalized.shape == images.shape and normalize.is_valid(found) and normalize.describe(found, shape[-1])
    if kind == "standard":
        np.testing.assert_allclose(normalized.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(normalized.std((0, 1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize("kind", normalize.KINDS)
def test_floating_point_images_are_normalized_as_the_same_ones_of_uint8(kind):
    images = make_images(30)
    floating = fit_normalizer(kind, (images / 255).astype(np.float32))
    normalized = normalize.normalize(floating, unit(images))
    expected = normalize.normalize(fit_normalizer(kind, images), unit(images))
    np.testing.assert_allclose(normalized, expected, atol=2e-4 if kind == "zca" else 1e-5)


def test_another_number_of_channels_is_one_sentence():
    grey = jnp.zeros((2, 4, 4, 1))
    for found in (normalize.caffe(), normalize.imagenet(), fit_normalizer("mean", make_images(3))):
        with pytest.raises(UserError, match="the normalizer is for images of 3 channels, not 1: convert the images"):
            normalize.normalize(found, grey)
    np.testing.assert_array_equal(normalize.normalize(normalize.identity(), grey), grey)
    assert repr(normalize.imagenet()) == "Normalizer('standard', mean (3,))"
    assert normalize.describe(normalize.identity(), 1) == "grey in 0 to 1"
