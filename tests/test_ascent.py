"""Ascents that stop early, compute in bfloat16, or are shared out over devices; how many programs there are."""

import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from cnnjax import visualize
from cnnjax.errors import UserError
from cnnjax.train import strategy as strategies
from cnnjax.visualize import Recipe, Stage, ascent, jitter, parameterizations

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12
STILL = Recipe("still", (Stage(12, lp=0.0),))


class Clipped(parameterizations.Pixels):
    """Pixels that are saved as they are, so that small differences stay small."""

    def to_uint8(self, image):
        return parameterizations.quantize(image)


@pytest.fixture(scope="module")
def network():
    return tiny.network()


def pixels(images):
    return np.stack([image.pixels for image in images])


def notes(images, name):
    return [image.provenance[name] for image in images]


def plateau(logits, activations, image):
    """Rises with the brightness up to 135 and again from 145 on; its gradient leads upwards everywhere."""
    mean = image.mean()
    value = jnp.minimum(mean, 135.0) + jnp.maximum(mean - 145.0, 0.0)
    return jax.lax.stop_gradient(value - mean) + mean


def test_an_image_that_rises_no_more_stops_and_stays_while_the_others_go_on(network):
    """Brightness grows by 3 and by 1 a step: the first image could be past the plateau before the second one stops."""
    options = {"parameterization": Clipped(), "optimizer": optax.sgd(SIDE * SIDE * 3.0), "recipe": STILL}
    both = visualize.objectives.as_objective(plateau) * visualize.objectives.Constant(
        np.asarray([3.0, 1.0], np.float32)
    )
    images = visualize.render(network, both, patience=2, steps=60, **options)
    assert notes(images, "steps") == [6, 11] and notes(images, "patience") == [2, 2]
    (alone,) = visualize.render(network, both[0], patience=2, steps=60, **options)
    assert alone.provenance["steps"] == 6
    np.testing.assert_array_equal(alone.pixels, images[0].pixels)
    assert np.abs(images[0].pixels.mean() - 138) < 2, "the image after the step before which the score was best"
    (impatient,) = visualize.render(network, both[0], patience=5, steps=60, **options)
    assert impatient.provenance["steps"] == 60


def test_patience_that_is_never_lost_changes_nothing_and_progress_is_told_in_full(network):
    def draw(**options):
        told = []
        images = visualize.render(network, visualize.channel("conv_2", [0, 3]), recipe=STILL, **options)
        return pixels(images), notes(images, "steps"), sum(told)

    (plain, steps, _), (patient, same, _) = draw(), draw(patience=1000)
    np.testing.assert_array_equal(plain, patient)
    assert steps == same == [12, 12]
    told = []
    never = visualize.channel("conv_2", [0, 3]) * 0
    images = visualize.render(network, never, recipe=STILL, steps=50, patience=3, on_progress=told.append)
    assert notes(images, "steps") == [4, 4] and sum(told) == 100


def test_bfloat16_is_float32_loosely_and_not_exactly(network):
    """After one small step: 8 bits of mantissa show, and no more than these."""

    def draw(dtype, channel=3):
        objective = visualize.channel("conv_2", channel)
        options = {"recipe": STILL, "steps": 3, "parameterization": Clipped(), "optimizer": optax.adam(4.0)}
        (image,) = visualize.render(network, objective, compute_dtype=dtype, **options)
        assert image.provenance.get("compute_dtype") == (None if dtype is None else jnp.dtype(dtype).name)
        return image.pixels.astype(float)

    exact, half = draw(None), draw(jnp.bfloat16)
    np.testing.assert_array_equal(exact, draw(jnp.float32))
    difference = np.abs(exact - half)
    assert 0 < difference.mean() < 1, "close, and computed in another precision"
    assert np.abs(exact - draw(None, channel=1)).mean() > 3 * difference.mean(), "another filter is further away"
    with pytest.raises(UserError, match="compute_dtype=int32 must be a floating type"):
        draw(jnp.int32)


def test_bfloat16_reaches_the_layers_of_any_network():
    from flax import nnx

    network = tiny.flax(tiny.Plain(rngs=nnx.Rngs(0)), (8, 8))
    images = jnp.zeros((1, 8, 8, 3))
    with jax.numpy_dtype_promotion("standard"):  # Flax's BatchNorm keeps its statistics in float32
        output = network.apply(images, dtype=jnp.bfloat16)
    assert output.logits.dtype == output.activations["deep"].dtype == jnp.bfloat16
    assert network.apply(images).activations["deep"].dtype == jnp.float32


def test_eight_devices_draw_what_one_draws(network):
    """Eleven images, which do not divide evenly."""
    assert jax.local_device_count() == 8
    count = 11
    channels = np.arange(count) % 5
    recipe = Recipe("two", (Stage(4, (jitter(2),), lp=0.1), Stage(3, (jitter(2),), tv=2.0, lp=0.1, relative=True)))

    def draw(batch_size):
        objective = visualize.channel("conv_2", channels)
        return visualize.render(network, objective, recipe=recipe, batch_size=batch_size, patience=5)

    one, eight = draw(4), draw(count)
    assert strategies.rows_strategy(4).devices == 1 and strategies.rows_strategy(count).devices == 8
    np.testing.assert_allclose(notes(eight, "activation_after"), notes(one, "activation_after"), rtol=1e-4)
    difference = np.abs(pixels(one).astype(int) - pixels(eight))
    assert difference.max() <= 1 and difference.mean() < 0.01
    assert len(eight) == count and notes(one, "steps") == notes(eight, "steps")


def programs():
    return [program._cache_size() for program in (ascent.advance, ascent.measure, ascent.init_noise)]


def draw_once(network, number):
    objective = visualize.channel("conv_1", number % 4) - 0.1 * number * visualize.total_variation()
    visualize.render(network, objective, recipe=STILL, steps=1 + number % 3, seed=number, patience=1 + number)


@pytest.mark.slow
def test_many_calls_are_one_program_for_each_layer_and_size(network):
    jax.clear_caches()  # of other tests, which may have drawn the other layer
    draw_once(network, 0)
    before, arrays = programs(), len(jax.live_arrays())
    for number in range(1, 6):
        draw_once(network, number)
    assert programs() == before and len(jax.live_arrays()) == arrays
    visualize.render(network, visualize.channel("conv_2", 0), recipe=STILL, steps=1)
    assert programs()[0] == before[0] + 1, "another layer is another program"


@pytest.mark.slow
def test_a_thousand_ascents_leave_memory_flat(network):
    unit = 1 if sys.platform == "darwin" else 1024
    sizes = []
    for number in range(1000):
        draw_once(network, number)
        if number in (99, 999):
            sizes.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, len(jax.live_arrays())))
    (first, arrays), (last, after) = sizes
    assert last - first < 20e6 and after == arrays
