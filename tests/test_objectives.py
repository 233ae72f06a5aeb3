import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.visualize import objectives, parameterizations, recipes, transforms

LOGITS = jnp.array([1.0, -2.0, 0.5])
MAPS = jnp.arange(24.0).reshape(3, 4, 2)
ACTIVATIONS = {"conv": MAPS, "fc": jnp.array([3.0, 4.0])}
IMAGE = jnp.asarray(np.random.default_rng(0).random((3, 4, 3)) * 255, jnp.float32)


def value(objective):
    return float(objective(LOGITS, ACTIVATIONS, IMAGE))


def test_each_objective_by_hand():
    assert value(objectives.filter_("conv", 1)) == 12.0
    assert value(objectives.filter_("fc", 1)) == 4.0
    assert value(objectives.neuron("conv", 1)) == MAPS[1, 2, 1]
    assert value(objectives.neuron("conv", 0, 2, 3)) == MAPS[2, 3, 0]
    assert value(objectives.class_(1)) == -2.0
    x = np.asarray(IMAGE, np.float64)
    tv = sum(
        (x[i + 1, j, c] - x[i, j, c]) ** 2 + (x[i, j + 1, c] - x[i, j, c]) ** 2
        for i in range(2)
        for j in range(3)
        for c in range(3)
    )
    assert value(objectives.total_variation()) == pytest.approx(tv / 36, rel=1e-5)
    assert value(objectives.lp_norm(6)) == pytest.approx((x**6).sum() ** (1 / 6) / 36, rel=1e-5)
    assert value(objectives.total_variation(1.0)) == pytest.approx(
        np.sqrt((x[1:, :-1] - x[:-1, :-1]) ** 2 + (x[:-1, 1:] - x[:-1, :-1]) ** 2).sum() / 36, rel=1e-5
    )


def test_objectives_add_and_multiply_with_each_other_and_with_numbers():
    a, b = objectives.filter_("conv", 1), objectives.class_(0)
    assert value(a + b) == 13.0
    assert value(a - b * 2) == 10.0
    assert value(2 * a * b + 1) == 25.0
    assert value(-a) == -12.0
    assert value(sum([a, b, b])) == 14.0


def test_a_sigmoid_logit_speaks_for_one_class_and_against_the_other():
    for index, expected in ((0, -1.5), (1, 1.5)):
        traced = jax.jit(lambda i: objectives.class_(i)(jnp.array([1.5]), {}, IMAGE))
        assert float(traced(index)) == expected


@pytest.mark.parametrize("objective", [objectives.lp_norm(6), objectives.total_variation(1.0)])
def test_penalties_have_a_gradient_on_a_blank_image(objective):
    gradient = jax.grad(lambda image: objective(LOGITS, ACTIVATIONS, image))(jnp.zeros((4, 4, 3)))
    np.testing.assert_array_equal(gradient, 0)


def test_jitter_is_a_roll_that_uses_its_whole_range():
    image = jnp.arange(10 * 9 * 3.0).reshape(10, 9, 3)
    moved = jax.vmap(lambda key: transforms.jitter(key, image, 2))(jax.random.split(jax.random.key(0), 300))
    rolls = {(i, j): np.roll(image, (i, j), (0, 1)).tobytes() for i in range(-2, 3) for j in range(-2, 3)}
    met = {np.asarray(one).tobytes() for one in moved}
    assert met == set(rolls.values())
    np.testing.assert_array_equal(transforms.jitter(jax.random.key(0), image, 0), image)


def test_a_jitter_below_one_is_a_fraction_of_the_side():
    assert [transforms.pixels(amount, 224) for amount in (0.05, 16, 0)] == [11, 16, 0]


def test_seeds_are_standardised_noise_and_deprocessing_is_keras_viss():
    keys = jax.random.split(jax.random.key(1), 2)
    seeds = np.asarray(parameterizations.seeds(keys, 16))
    np.testing.assert_allclose(seeds.mean((1, 2, 3)), 127.5, rtol=1e-4)
    np.testing.assert_allclose(seeds.std((1, 2, 3)), 12.75, rtol=1e-4)
    assert not np.array_equal(*seeds)
    wild = np.random.default_rng(0).normal(40, 300, (1, 16, 16, 3)).astype(np.float32)
    expected = np.trunc(np.clip((wild - wild.mean()) / wild.std() * 0.1 + 0.5, 0, 1) * 255)
    shown = np.asarray(parameterizations.deprocess(jnp.asarray(wild)), int)
    assert np.abs(shown - expected).max() <= 1 and (shown == expected).mean() > 0.99
    np.testing.assert_array_equal(parameterizations.deprocess(jnp.full((1, 4, 4, 3), 7.0)), 127)


def test_recipes_by_name_and_the_articles_filters_where_they_fit():
    assert recipes.recipe("article-filters").passes[0].steps == 300
    with pytest.raises(UserError, match="article-filters"):
        recipes.recipe("article-filter")
    assert recipes.filters_of("block2_conv2", 128) == recipes.FILTERS["block2_conv2"]
    assert recipes.filters_of("block2_conv2", 32) == (0, 4, 8, 12, 16, 20, 24, 28)
    assert recipes.filters_of("conv_1", 3) == (0, 1, 2)
