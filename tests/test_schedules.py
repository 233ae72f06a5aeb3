"""Learning-rate schedules at their corners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.errors import UserError
from cnnjax.train import schedules


def rates(name: str, steps: int = 100, **options: int) -> np.ndarray:
    """The learning rates at the steps 0 to `steps`, whose maximum is 0.1."""
    schedule = schedules.create(name, 0.1, steps, **options)
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps + 1))) * np.ones(steps + 1)


def test_schedules():
    np.testing.assert_allclose(rates("constant"), 0.1)
    cosine = rates("cosine")
    np.testing.assert_allclose(cosine[[0, 50, 100]], [0.1, 0.05, 0], atol=1e-8)
    warm = rates("warmup-cosine", warmup_steps=20)
    np.testing.assert_allclose(warm[[0, 10, 20, 60, 100]], [0, 0.05, 0.1, 0.05, 0], atol=1e-8)
    np.testing.assert_allclose(rates("warmup-cosine"), cosine, atol=1e-8)
    warm = rates("warmup", warmup_steps=20)
    np.testing.assert_allclose(warm[[0, 10, 20, 60, 100]], [0, 0.05, 0.1, 0.1, 0.1], atol=1e-8)
    np.testing.assert_allclose(rates("warmup"), 0.1)


def test_cosine_restarts():
    found = rates("cosine-restarts", 90, cycles=3)
    one = 0.05 * (1 + np.cos(np.pi * np.arange(30) / 30))
    np.testing.assert_allclose(found[:90], np.tile(one, 3), atol=1e-7)
    np.testing.assert_allclose(found[90], 0, atol=1e-8)
    np.testing.assert_allclose(rates("cosine-restarts", 50, cycles=1), rates("cosine", 50), atol=1e-8)
    uneven = rates("cosine-restarts", 10, cycles=3)  # 3, 4 and 3 steps
    assert np.flatnonzero(np.isclose(uneven, 0.1)).tolist() == [0, 3, 7]


def test_one_cycle():
    found = rates("one-cycle")
    np.testing.assert_allclose(found[[0, 30, 100]], [0.1 / 25, 0.1, 0.1 / 250_000], rtol=1e-3)
    assert np.all(np.diff(found[:31]) > 0)
    assert np.all(np.diff(found[30:]) < 0)
    np.testing.assert_allclose(found[15], (0.1 + 0.1 / 25) / 2, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(schedules.SCHEDULES), st.integers(1, 5), st.integers(0, 5))
def test_short_runs_have_finite_rates_or_a_sentence(name, steps, warmup_steps):
    try:
        schedule = schedules.create(name, 0.1, steps, warmup_steps, cycles=1)
    except UserError as error:
        assert f"warmup_steps={warmup_steps}" in str(error)
        assert warmup_steps > 0
        assert name not in schedules.WITH_WARMUP or warmup_steps >= steps
        return
    with jax.numpy_dtype_promotion("standard"):
        found = [float(schedule(step)) for step in range(steps)]
    assert np.all(np.isfinite(found))
    assert np.all((np.array(found) >= 0) & (np.array(found) <= 0.1 + 1e-6))


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="unknown schedule 'cosin': did you mean cosine"):
        schedules.create("cosin", 0.1, 10)
    with pytest.raises(UserError, match="warmup_steps=500 is too long for a run of 60 steps .* choose at most 60"):
        schedules.create("warmup", 0.1, 60, warmup_steps=500)
    with pytest.raises(UserError, match="warmup_steps=9 is too long for a run of 1 step .* choose at most 0"):
        schedules.create("warmup-cosine", 0.1, 1, warmup_steps=9)
    with pytest.raises(UserError, match="'cosine' has no warm-up, but warmup_steps=5: choose warmup or warmup-cosine"):
        schedules.create("cosine", 0.1, 60, warmup_steps=5)
    with pytest.raises(UserError, match="warmup_steps=-1 must not be negative"):
        schedules.create("warmup", 0.1, 60, warmup_steps=-1)
    with pytest.raises(UserError, match="cycles=4 must be at least 1 and at most the number of steps, 3"):
        schedules.create("cosine-restarts", 0.1, 3, cycles=4)
