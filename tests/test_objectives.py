import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.errors import UserError
from cnnjax.visualize import objectives, optimizers, parameterizations, recipes, transforms
from cnnjax.visualize.objectives import Target

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LOGITS = jnp.array([1.0, -2.0, 0.5])
MAPS = jnp.arange(24.0).reshape(3, 4, 2)
ACTIVATIONS = {"conv": MAPS, "fc": jnp.array([3.0, 4.0])}
IMAGE = jnp.asarray(np.random.default_rng(0).random((3, 4, 3)) * 255, jnp.float32)


def value(objective):
    return float(objective(LOGITS, ACTIVATIONS, IMAGE))


def test_each_objective_by_hand():
    assert value(objectives.channel("conv", 1)) == 12.0
    assert value(objectives.channel("fc", 1)) == 4.0
    assert value(objectives.neuron("conv", 1)) == MAPS[1, 2, 1]
    assert value(objectives.neuron("conv", 0, 2, 3)) == MAPS[2, 3, 0]
    assert value(objectives.class_logit(1)) == -2.0
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
    a, b = objectives.channel("conv", 1), objectives.class_logit(0)
    assert value(a + b) == 13.0
    assert value(a - b * 2) == 10.0
    assert value(2 * a * b + 1) == 25.0
    assert value(-a) == -12.0
    assert value(sum([a, b, b])) == 14.0


def test_a_sigmoid_logit_speaks_for_one_class_and_against_the_other():
    for index, expected in ((0, -1.5), (1, 1.5)):
        traced = jax.jit(lambda i: objectives.class_logit(i)(jnp.array([1.5]), {}, IMAGE))
        assert float(traced(index)) == expected


@pytest.mark.parametrize("objective", [objectives.lp_norm(6), objectives.total_variation(1.0)])
def test_penalties_have_a_gradient_on_a_blank_image(objective):
    gradient = jax.grad(lambda image: objective(LOGITS, ACTIVATIONS, image))(jnp.zeros((4, 4, 3)))
    np.testing.assert_array_equal(gradient, 0)


def test_several_objectives_at_once_are_each_of_them():
    several = objectives.channel("conv", [1, 0]) - 2 * objectives.class_logit([0, 2]) + objectives.lp_norm(2)
    assert len(several) == 2
    norm = value(objectives.lp_norm(2))
    assert [value(several[i]) for i in range(2)] == pytest.approx([12 - 2 + norm, 11 - 1 + norm])
    assert [several.describe(i) for i in range(2)] == [
        "channel(conv, 1) - 2 * class_logit(0) + lp_norm(2)",
        "channel(conv, 0) - 2 * class_logit(2) + lp_norm(2)",
    ]
    assert (objectives.channel("conv", 1) * (3 - objectives.class_logit(0))).describe(0) == (
        "channel(conv, 1) * (3 - class_logit(0))"
    )
    with pytest.raises(UserError, match="2 objectives"):
        several(LOGITS, ACTIVATIONS, IMAGE)
    with pytest.raises(UserError, match="for 2 and 3 images cannot be combined"):
        len(objectives.channel("conv", [0, 1]) + objectives.class_logit([0, 1, 2]))


def test_some_of_several_classes_by_name_are_those():
    target = Target({"conv": (3, 4, 2)}, ("rabbit", "hammer", "lamp"))
    several = objectives.class_logit(["lamp", "rabbit", "hammer"])
    assert [several[i].describe(0) for i in range(3)] == [f"class_logit({x})" for x in ("lamp", "rabbit", "hammer")]
    assert [value(several[i].bind(target)) for i in range(3)] == [0.5, 1.0, -2.0]
    assert len(several[1:].bind(target)) == 2 and value(several[1:].bind(target)[1]) == -2.0
    both = (several + objectives.channel("conv", 1))[2].bind(target)
    assert len(both) == 1 and value(both) == 10.0
    with pytest.raises(UserError, match=r"class_logit\('lamp'\) is not bound"):
        value(several[0])


@pytest.mark.parametrize(
    "numbers, message",
    [
        (np.array([0.5]), "must be integers"),
        (jnp.array([0.5]), "must be integers"),
        (np.array([[0], [1]]), "must be integers, one or several in a row"),
        (jnp.array([[0], [1]]), "must be integers, one or several in a row"),
        (jnp.zeros(0, jnp.int32), "no channel was given"),
        (2**32 + 1, "there is no channel 4294967297"),
    ],
)
def test_numbers_that_are_none(numbers, message):
    with pytest.raises(UserError, match=message):
        objectives.channel("conv", numbers)


def test_a_place_is_counted_from_the_upper_left_corner():
    for place in ((-1, 0), (0, -1), (np.array([1, -2]), 0)):
        with pytest.raises(UserError, match="must not be negative: count from 0"):
            objectives.neuron("conv", 1, *place)


def test_jitter_is_a_roll_that_uses_its_whole_range():
    image = jnp.arange(10 * 9 * 3.0).reshape(10, 9, 3)
    moved = jax.vmap(lambda key: transforms.jitter(2)(key, image))(jax.random.split(jax.random.key(0), 300))
    rolls = {(i, j): np.roll(image, (i, j), (0, 1)).tobytes() for i in range(-2, 3) for j in range(-2, 3)}
    found = {np.asarray(one).tobytes() for one in moved}
    assert found == set(rolls.values())
    np.testing.assert_array_equal(transforms.jitter(0)(jax.random.key(0), image), image)


def test_a_jitter_below_one_is_a_fraction_of_the_size_and_one_of_a_reference_size_is_scaled():
    def pixels(limit, size, *reference):
        return transforms.jitter(limit, *reference).bind(size).limit.tolist()

    assert [pixels(limit, (224, 224)) for limit in (0.05, 16, 0)] == [[11, 11], [16, 16], [0, 0]]
    assert pixels(0.05, (224, 100)) == [11, 5]
    assert [pixels(16, (size, size), 224)[0] for size in (224, 64, 8)] == [16, 5, 1]


def test_several_transforms_have_keys_of_their_own():
    def noise(key, image):
        return image + jax.random.normal(key, image.shape)

    key, image = jax.random.key(3), jnp.zeros((2, 2, 1))
    once = transforms.apply(transforms.compose(noise), key, image)
    np.testing.assert_array_equal(once, noise(key, image))
    first, second = jax.random.split(key)
    twice = transforms.apply(transforms.compose((noise, noise)), key, image)
    np.testing.assert_array_equal(twice, noise(second, noise(first, image)))


def test_initial_pixels_are_standardized_noise_and_deprocessing_is_keras_viss():
    pixels = parameterizations.Pixels()
    keys = jax.random.split(jax.random.key(1), 2)
    initial = np.asarray(jax.vmap(lambda key: pixels.init(key, (16, 12), 3))(keys))
    assert initial.shape == (2, 16, 12, 3)
    np.testing.assert_allclose(initial.mean((1, 2, 3)), 127.5, rtol=1e-4)
    np.testing.assert_allclose(initial.std((1, 2, 3)), 12.75, rtol=1e-4)
    assert not np.array_equal(*initial)
    wild = np.random.default_rng(0).normal(40, 300, (16, 16, 3)).astype(np.float32)
    expected = np.trunc(np.clip((wild - wild.mean()) / wild.std() * 0.1 + 0.5, 0, 1) * 255)
    shown = np.asarray(pixels.to_uint8(jnp.asarray(wild)), int)
    assert np.abs(shown - expected).max() <= 1 and (shown == expected).mean() > 0.99
    np.testing.assert_array_equal(pixels.to_uint8(jnp.full((4, 4, 3), 7.0)), 127)


def test_recipes_by_name_and_the_articles_filters_where_they_fit():
    assert recipes.recipe("article-filters").stages[0].steps == 300
    assert recipes.recipe("default", "classes").name == "classes"
    with pytest.raises(UserError, match="article-filters"):
        recipes.recipe("article-filter")
    assert recipes.filters_of("block2_conv2", 128) == recipes.FILTERS["block2_conv2"]
    assert recipes.filters_of("block2_conv2", 32) == (0, 4, 8, 12, 16, 20, 24, 28)
    assert recipes.filters_of("conv_1", 3) == (0, 1, 2)


@pytest.mark.parametrize("steps, expected", [(500, [300, 200]), (50, [30, 20]), (128, [77, 51]), (2, [1, 1])])
def test_steps_are_divided_among_the_stages(steps, expected):
    scaled = recipes.with_steps(recipes.recipe("filters"), steps)
    assert [stage.steps for stage in scaled.stages] == expected


def test_equal_optimizers_of_optax_compare_equal_and_others_by_identity():
    def key(optimizer):
        return optimizers.Optimizer(optimizer)

    assert key(optax.adam(0.1)) == key(optax.adam(0.1)) and hash(key(optax.adam(0.1))) == hash(key(optax.adam(0.1)))
    assert key(optax.adam(0.1)) != key(optax.adam(0.2)) != key(optax.adamw(0.2))
    assert key(optax.chain(optax.clip(1.0), optax.sgd(1.0, 0.9))) == key(
        optax.chain(optax.clip(1.0), optax.sgd(1.0, 0.9))
    )
    assert key(optax.sgd(optax.cosine_decay_schedule(1.0, 9))) == key(optax.sgd(optax.cosine_decay_schedule(1.0, 9)))
    assert key(optax.sgd(lambda step: 0.1)) != key(optax.sgd(lambda step: 0.1))
