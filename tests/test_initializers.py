"""Random parameters: their distributions against SciPy's, and one program for all shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnnjax.models import initializers

KEY = jax.random.key(7)
SHAPE = (3, 3, 40, 200)  # more than one chunk
STD = np.sqrt(2 / (9 * 40)) / 0.87962566103423978


@pytest.mark.parametrize(
    "init, theirs, expected",
    [
        (initializers.glorot_uniform(), jax.nn.initializers.glorot_uniform(),
         stats.uniform(-np.sqrt(6 / (9 * 240)), 2 * np.sqrt(6 / (9 * 240)))),
        (initializers.he_normal(), jax.nn.initializers.he_normal(), stats.truncnorm(-2, 2, scale=STD)),
        (initializers.variance_scaling(2.0, "fan_out", "normal"),
         jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"), stats.norm(scale=np.sqrt(2 / (9 * 200)))),
    ],
)  # fmt: skip
def test_the_distribution_is_that_of_jax_and_of_the_papers(init, theirs, expected):
    for numbers in (init(KEY, SHAPE, jnp.float32), theirs(KEY, SHAPE, jnp.float32)):
        assert numbers.shape == SHAPE and numbers.dtype == jnp.float32
        flat = np.asarray(numbers, np.float64).ravel()
        assert stats.kstest(flat, expected.cdf).pvalue > 1e-3
        assert np.abs(flat).max() <= expected.support()[1]
    # The test tells a standard deviation that is 3% too large.
    assert stats.kstest(flat * 1.03, expected.cdf).pvalue < 1e-3


def test_chunks_and_keys_differ():
    numbers = np.asarray(initializers.draw(KEY, (2, initializers.CHUNK)))
    assert abs(np.corrcoef(numbers)[0, 1]) < 0.02 and len(np.unique(numbers)) > 0.98 * numbers.size
    other = np.asarray(initializers.draw(jax.random.key(8), (2, initializers.CHUNK)))
    assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("shape", [(5,), (initializers.CHUNK // 8, 9)])
def test_the_numbers_under_jit_and_vmap_are_the_same(shape):
    eager = np.asarray(initializers.draw(KEY, shape, "uniform"))
    jitted = jax.jit(lambda key: initializers.draw(key, shape, "uniform"))(KEY)
    np.testing.assert_array_equal(jitted, eager)
    mapped = jax.vmap(lambda key: initializers.draw(key, shape, "uniform"))(jnp.stack([KEY, KEY]))
    np.testing.assert_array_equal(mapped[1], eager)


def test_one_program_serves_all_shapes():
    initializers.draw(KEY, (2, 3))
    compiled = initializers._chunk._cache_size()
    for shape in [(7,), (3, 3, 5, 6), (initializers.CHUNK + 1,)]:
        initializers.draw(KEY, shape)
    assert initializers._chunk._cache_size() == compiled


def test_an_empty_array():
    assert initializers.draw(KEY, (0, 4)).shape == (0, 4)
