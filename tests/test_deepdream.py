import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_networks
import tiny
from flax import nnx

from cnnjax import formats, visualize
from cnnjax.cli import visualize as commands
from cnnjax.data import example_image
from cnnjax.errors import UserError
from cnnjax.visualize import Image, Recipe, Stage, ascent, octaves, optimizers
from cnnjax.visualize.films import Recorder

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = (20, 26)
CAT = (255 * example_image.chelsea_face(SIZE)).astype(np.uint8)
DREAM = visualize.recipes.recipe("deepdream")
SHORT = dataclasses.replace(DREAM, stages=tuple(dataclasses.replace(stage, steps=3) for stage in DREAM.stages[1:]))


@pytest.fixture(scope="module")
def network():
    return tiny.flax(tiny.Plain(rngs=nnx.Rngs(0)), SIZE)


def test_octaves_give_the_photograph_its_details_back(network):
    """Without any step up, the last stage ends with the image that the first, smaller one started from."""
    still = dataclasses.replace(SHORT, optimizer=optax.sgd(0.0))
    for start in (CAT, CAT.astype(np.float32) / 255):
        (image,) = visualize.render(network, visualize.layer("deep"), recipe=still, start=start)
        assert np.abs(image.pixels.astype(int) - CAT).max() <= 3  # each of three stages rounds down
    smallest = SHORT.stages[0].image_size(SIZE)
    assert smallest == (10, 13)
    blurred = octaves.resize(octaves.resize(jnp.float32(CAT)[None], smallest), SIZE)[0]
    assert np.abs(np.asarray(blurred) - CAT).max() > 20, "what is given back must be a lot"


def test_a_dream_sees_more_of_it_and_is_still_the_photograph(network):
    objective = visualize.layer("deep")
    (image,) = visualize.render(network, objective, recipe=SHORT, start=CAT)
    notes = image.provenance
    assert notes["activation_after"] > 1.05 * notes["activation_before"]
    _, activations = network(CAT[None])
    assert notes["activation_before"] == pytest.approx(float((activations["deep"] ** 2).mean()), rel=1e-3)
    assert np.corrcoef(image.pixels.ravel(), CAT.ravel())[0, 1] > 0.6
    (same,) = visualize.render(network, objective, recipe=SHORT, start=CAT)
    np.testing.assert_array_equal(same.pixels, image.pixels)
    (other,) = visualize.render(network, objective, recipe=SHORT, start=CAT[:, ::-1])
    assert not np.array_equal(other.pixels, image.pixels)


def test_each_size_has_one_program_for_many_calls(network):
    visualize.render(network, visualize.channel("deep", 0), recipe=SHORT, start=CAT)
    programs = ascent.advance._cache_size()
    longer = dataclasses.replace(SHORT, stages=tuple(dataclasses.replace(s, steps=2) for s in SHORT.stages))
    visualize.render(network, visualize.channel("deep", 1), recipe=longer, start=CAT[::-1], seed=5)
    assert ascent.advance._cache_size() == programs


def test_fourier_coefficients_start_from_an_image_too(network):
    recipe = Recipe("still", (Stage(1, lp=0.0),), False, False, visualize.fourier(), optax.sgd(0.0))
    (image,) = visualize.render(network, visualize.channel("deep", 0), recipe=recipe, start=CAT)
    np.testing.assert_array_equal(image.pixels, CAT)


def test_frames_of_all_stages_have_one_size(network):
    recorder = Recorder(every=3)
    visualize.render(network, visualize.channel("deep", 0), recipe=SHORT, start=CAT, frames=recorder)
    assert recorder.films()[0].frames.shape == (4, *SIZE, 3)


def test_the_step_is_deepdreams():
    optimizer = optimizers.deepdream_ascent(1.5)
    gradient = jnp.float32(np.random.default_rng(0).normal(size=(4, 5, 3)) * 100)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(updates, -1.5 * np.asarray(gradient) / np.abs(gradient).mean(), rtol=1e-5)
    assert optimizers.Optimizer(optimizer) == optimizers.Optimizer(optimizers.deepdream_ascent(1.5))
    assert optimizers.Optimizer(optimizer) != optimizers.Optimizer(optimizers.deepdream_ascent(2.0))


def test_what_cannot_start_is_one_sentence(network):
    def draw(**arguments):
        visualize.render(network, visualize.channel("deep", 0), **arguments)

    class Own:
        def init(self, key, image_size, channels):
            return jnp.zeros((*image_size, channels))

        def to_image(self, params):
            return params

    with pytest.raises(UserError, match="start was given, but this parameterization has no from_image"):
        draw(start=CAT, parameterization=Own(), recipe="lucid")
    with pytest.raises(UserError, match="'deepdream' has stages of several sizes"):
        draw(parameterization=Own(), recipe="deepdream")
    with pytest.raises(UserError, match="'deepdream' has a stage of 4×4 pixels"):
        visualize.render(tiny.network(), visualize.channel("conv_1", 0), recipe="deepdream")
    with pytest.raises(UserError, match="3 channels"):
        draw(start=CAT[..., :1], recipe="lucid")


def test_the_command_reads_networks_that_are_no_vgg_whole(tmp_path):
    """A small CNN takes images of one size only. That is what the sentence says, not that it has no dense layers."""
    weights, small = tmp_path / "small.safetensors", random_networks.network("small-cnn", 32, width_multiplier=0.1)
    formats.save(weights, small)
    with pytest.raises(UserError, match="'deepdream' has a stage of"):
        commands.deepdream(layer="conv_2", weights=str(weights), steps=4, out=tmp_path)


@pytest.mark.slow
def test_the_command_dreams(tmp_path, capsys):
    commands.deepdream(layer="block1_conv2", weights="vgg16-mini", steps=4, image_size=90, out=tmp_path)
    image = Image.read(tmp_path / "block1_conv2-layer.png")
    assert image.pixels.shape == (90, 90, 3) and image.provenance["recipe"] == "deepdream"
    assert "activation" in capsys.readouterr().out
    assert jax.numpy.asarray(image.pixels).std() > 10
