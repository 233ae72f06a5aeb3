"""mixup and CutMix: labels stay distributions, areas are the ratios, and the way a batch is divided does not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnnjax.data import Mix, cutmix, mixup
from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

N, HEIGHT, WIDTH, CLASSES = 8, 9, 14, 5
MIXES = {"mixup": mixup(0.4), "cutmix": cutmix(1.0)}


def batch(seed=0, n=N):
    random = np.random.default_rng(seed)
    images = random.random((n, HEIGHT, WIDTH, 3), np.float32)
    return jnp.asarray(images), jax.nn.one_hot(random.integers(0, CLASSES, n), CLASSES)


@functools.cache
def compiled(mix):
    return jax.jit(mix), jax.jit(mix.combine)


@pytest.mark.parametrize("name", MIXES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_labels_sum_to_one_and_images_stay_in_range(name, seed):
    images, labels = batch(seed)
    mixed, weights = compiled(MIXES[name])[0](jax.random.key(seed), images, labels)
    assert mixed.shape == images.shape and weights.shape == labels.shape
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert weights.min() >= 0 and mixed.min() >= 0 and mixed.max() <= 1


@pytest.mark.parametrize("name", MIXES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), parts=st.sampled_from([2, 8]))
def test_the_way_a_batch_is_divided_does_not_matter(name, seed, parts):
    """Each device mixes its own examples with partners that may be another's."""
    mix, key = MIXES[name], jax.random.key(seed)
    images, labels = batch(seed)
    expected = compiled(mix)[0](key, images, labels)
    partners = mix.partners(key, N)
    assert partners.dtype == jnp.int32 and sorted(partners.tolist()) == list(range(N))
    for rows in np.split(np.arange(N, dtype=np.int32), parts):
        theirs = partners[rows]
        part = compiled(mix)[1](key, images[rows], images[theirs], labels[rows], labels[theirs], jnp.asarray(rows))
        for found, whole in zip(part, expected, strict=True):
            np.testing.assert_allclose(found, whole[rows], atol=1e-6)


def test_mixup_is_the_weighted_mean_of_two_examples():
    mix, key = mixup(0.4), jax.random.key(1)
    images, labels = batch()
    partners = mix.partners(key, N)
    mixed, _ = mix(key, images, labels)
    # Labels that are unlike for every example give its ratio.
    ratios = np.diag(mix(key, images, jnp.eye(N))[1])
    ratios = np.where(partners == np.arange(N), 1, ratios)
    expected = ratios[:, None, None, None] * images + (1 - ratios)[:, None, None, None] * images[partners]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert len(set(np.round(ratios, 6))) > N // 2, "each example has a ratio of its own"


def test_cutmix_pastes_one_box_whose_area_is_the_labels_weight():
    mix, n = cutmix(1.0), 200
    images = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32)[:, None, None, None], (n, HEIGHT, WIDTH, 1))
    mixed, weights = jax.jit(mix)(jax.random.key(2), images, jnp.eye(n))
    partners = np.asarray(mix.partners(jax.random.key(2), n))
    boxes = 0
    for i in range(n):
        pasted = np.asarray(mixed[i, :, :, 0]) != i
        if i == partners[i] or not pasted.any():
            assert weights[i, i] == pytest.approx(1)
            continue
        rows, columns = (np.flatnonzero(pasted.any(axis)) for axis in (1, 0))
        assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert pasted.sum() == len(rows) * len(columns), "one box"
        assert (np.asarray(mixed[i])[pasted] == partners[i]).all()
        assert weights[i, partners[i]] == pytest.approx(pasted.mean(), abs=1e-6)
        assert weights[i, i] == pytest.approx(1 - pasted.mean(), abs=1e-6)
        boxes += 1
    assert boxes > 0.8 * n


def test_the_box_is_yuns_where_it_is_not_cut_off():
    """Of height and width floor(size · sqrt(1 - ratio)), and its centre is uniform over the image."""
    mix, size = cutmix(1.0), 64
    keys = jax.random.split(jax.random.key(0), 2000)
    masks = np.asarray(jax.jit(jax.vmap(lambda key: mix.box(key, size, size)))(keys))
    ratios = mix.ratios(jax.vmap(lambda key: jax.random.split(key)[0])(keys))
    side = np.floor(size * np.sqrt(1 - np.asarray(ratios)))
    height = masks.any(2).sum(1)
    assert (height <= side).all()
    inside = masks.any(2)[:, 0] | masks.any(2)[:, -1]
    np.testing.assert_array_equal(height[~inside], side[~inside])
    middle = np.array([np.flatnonzero(rows).mean() for rows in masks[~inside].any(2) if rows.any()])
    assert abs(middle.mean() - (size - 1) / 2) < 2


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_ratios_are_of_the_beta_distribution(alpha):
    mix = mixup(alpha)
    ratios = jax.jit(mix.ratios)(mix.keys(jax.random.key(4), jnp.arange(3000, dtype=jnp.int32)))
    assert stats.kstest(np.asarray(ratios), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_values_are_frozen_compared_and_checked():
    assert mixup() == mixup(0.2) != mixup(0.3) and cutmix() == cutmix(1.0) and hash(mixup()) == hash(mixup())
    assert isinstance(mixup(), Mix) and isinstance(cutmix(), Mix) and mixup(1.0) != cutmix(1.0)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="alpha=.* must be positive"):
            mixup(alpha)


def test_low_precision_stays_so():
    images, labels = batch()
    for mix in MIXES.values():
        mixed, weights = mix(jax.random.key(0), images.astype(jnp.bfloat16), labels)
        assert mixed.dtype == jnp.bfloat16 and weights.dtype == jnp.float32
