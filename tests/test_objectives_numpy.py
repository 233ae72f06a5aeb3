"""Objectives of directions, layers, other images and other members of a batch against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import keras_vis

from cnnjax import visualize
from cnnjax.errors import UserError
from cnnjax.visualize import Recipe, Stage, ascent, objectives
from cnnjax.visualize.objectives import Target

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12
SHORT = Recipe("short", (Stage(8, lp=0.0),))
MAPS = np.random.default_rng(0).normal(size=(5, 4, 3, 6))
OTHER = np.random.default_rng(1).normal(size=(5, 4, 3, 6))
VECTORS = np.random.default_rng(2).normal(size=(5, 6))


def values(objective, maps=MAPS):
    """In float64, for each image of a batch."""
    with jax.enable_x64(True):
        count = len(maps)
        leaves = jax.tree.map(jnp.asarray, objective.broadcast(count))
        found = leaves.values(jnp.zeros((count, 1)), {"conv": jnp.asarray(maps)}, jnp.zeros((count, 4, 4, 3)))
        return np.asarray(found)


def dot_cosine(x, y, power):
    """lucid's `_dot_cossim`."""
    dot = (x * y).sum(-1)
    cosine = dot / (1e-4 + np.sqrt((x * x).sum(-1))) / (1e-4 + np.sqrt((y * y).sum(-1)))
    return (dot * np.maximum(0.1, cosine) ** power).mean((-2, -1))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_directions_and_caricatures_are_lucids(power):
    vectors = VECTORS.astype(np.float32).astype(np.float64)
    expected = [dot_cosine(x, y, power) for x, y in zip(MAPS, vectors, strict=True)]
    np.testing.assert_allclose(values(objectives.direction("conv", vectors, power)), expected, rtol=1e-6)
    one = values(objectives.direction("conv", vectors[3], power))
    np.testing.assert_allclose(one[3], expected[3], rtol=1e-6)
    drawn = objectives.Caricature("conv", OTHER, np.asarray([power], np.float32))
    np.testing.assert_allclose(values(drawn), dot_cosine(MAPS, OTHER, power), rtol=1e-6)
    if power == 0:
        axis = np.eye(6)[2]
        np.testing.assert_allclose(values(objectives.direction("conv", axis)), MAPS[..., 2].mean((1, 2)), rtol=1e-6)


def test_a_layer_is_the_mean_of_its_squares_and_an_inversion_a_relative_distance():
    np.testing.assert_allclose(values(objectives.layer("conv")), (MAPS**2).mean((1, 2, 3)), rtol=1e-12)
    expected = -((MAPS - OTHER) ** 2).sum((1, 2, 3)) / (OTHER**2).sum((1, 2, 3))
    np.testing.assert_allclose(values(objectives.Inversion("conv", OTHER)), expected, rtol=1e-9)
    np.testing.assert_allclose(values(objectives.Inversion("conv", MAPS)), 0, atol=1e-12)


def lucid_diversity(maps):
    """lucid's sum over pairs of the products of normalized Gram matrices, divided by their number."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    grams = [x.T @ x for x in flat]
    grams = [gram / np.sqrt((gram**2).sum()) for gram in grams]
    count = len(grams)
    return sum((grams[i] * grams[j]).sum() for i in range(count) for j in range(count) if i != j) / count


def lucid_alignment(maps, decay):
    total = 0.0
    for distance in range(1, 5):
        for i in range(len(maps) - distance):
            total += ((maps[i] - maps[i + distance]) ** 2).mean() / decay**distance
    return -total


def test_an_image_to_compare_with_is_read_as_any_other(network):
    whole = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for objective in (visualize.inversion, visualize.caricature):
        expected = objective(network, whole / np.float32(255), "conv_2").activation
        np.testing.assert_allclose(objective(network, whole, "conv_2").activation, expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(UserError, match="divide them by 255"):
            objective(network, whole.astype(np.float32), "conv_2")
        with pytest.raises(UserError, match=r"\(batch, height, width, channels\) is required"):
            objective(network, whole[0], "conv_2")


def test_diversity_and_alignment_are_lucids():
    found = values(objectives.diversity("conv"))
    np.testing.assert_allclose(found.sum(), -lucid_diversity(MAPS) * 5 / 4, rtol=1e-9)
    same = values(objectives.diversity("conv"), np.stack([MAPS[0]] * 3))
    np.testing.assert_allclose(same, -1, rtol=1e-9)
    np.testing.assert_array_equal(values(objectives.diversity("conv"), MAPS[:1]), 0)
    for decay in (2.0, 3.0):
        found = values(objectives.alignment("conv", decay))
        np.testing.assert_allclose(found.sum(), lucid_alignment(MAPS, decay), rtol=1e-9)
    np.testing.assert_array_equal(values(objectives.alignment("conv"), MAPS[:1]), 0)
    both = values(2 * objectives.diversity("conv") - objectives.layer("conv"))
    expected = 2 * values(objectives.diversity("conv")) - values(objectives.layer("conv"))
    np.testing.assert_allclose(both, expected, rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_where_a_layer_is_silent_gradients_are_numbers(power):
    for objective in (
        objectives.direction("conv", VECTORS, power),
        objectives.Caricature("conv", OTHER.astype(np.float32), np.asarray([power], np.float32)),
        objectives.layer("conv"),
        objectives.diversity("conv"),
        objectives.Inversion("conv", np.zeros_like(OTHER, np.float32)),
    ):
        leaves = jax.tree.map(jnp.asarray, objective.broadcast(5))

        def total(maps, leaves=leaves):
            return leaves.values(jnp.zeros((5, 1)), {"conv": maps}, jnp.zeros((5, 4, 4, 3))).sum()

        assert np.isfinite(jax.grad(total)(jnp.zeros(MAPS.shape, jnp.float32))).all()


@pytest.fixture(scope="module")
def network():
    return tiny.network()


def activation(pixels, layer="conv_2"):
    return keras_vis.forward(keras_vis.parameters(SIDE), pixels.astype(np.float64))[1][layer]


def test_an_inversion_finds_the_way_back_and_a_caricature_exaggerates(network):
    generator = np.random.default_rng(4)
    photos = generator.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    goal = visualize.inversion(network, photos, "conv_1")
    long = Recipe("long", (Stage(60, lp=0.0),))
    images = visualize.render(network, goal, recipe=long)
    for image, photo in zip(images, photos, strict=True):
        notes, target = image.provenance, activation(photo, "conv_1")
        distance = ((activation(image.pixels, "conv_1") - target) ** 2).sum() / (target**2).sum()
        assert notes["activation_after"] == pytest.approx(-distance, rel=1e-3)
        assert notes["kind"] == "inversion" and notes["before_relu"] == []
    (image,) = visualize.render(network, visualize.caricature(network, photos[0], "conv_2"), recipe=SHORT)
    expected = dot_cosine(activation(image.pixels), activation(photos[0]), 1)
    assert image.provenance["activation_after"] == pytest.approx(expected, rel=1e-3)
    assert image.provenance["activation_after"] > image.provenance["activation_before"]
    with pytest.raises(UserError, match="is 6×6×5 for the images that are drawn, but 6×6×4"):
        objectives.Inversion("conv_2", np.zeros((1, 6, 6, 4))).bind(Target({"conv_2": (6, 6, 5)}, ()))
    with pytest.raises(UserError, match="number for each of its 5 channels, not 4"):
        objectives.direction("conv_2", np.ones(4)).bind(Target({"conv_2": (6, 6, 5)}, ()))


def test_vectors_and_powers_change_without_another_program(network):
    def draw(vectors, power, channel):
        objective = visualize.direction("conv_2", vectors, power) + 0.1 * visualize.channel("conv_1", channel)
        return visualize.render(network, objective + visualize.layer("conv_1"), recipe=SHORT)

    images = draw(VECTORS[:2, :5], 0.0, 1)
    programs = ascent.advance._cache_size(), ascent.measure._cache_size()
    others = draw(VECTORS[2:4, :5], 2.0, 3)
    assert (ascent.advance._cache_size(), ascent.measure._cache_size()) == programs
    assert not np.array_equal(images[0].pixels, others[0].pixels)
    assert images[0].provenance["before_relu"] == ["conv_1", "conv_2"]


def test_directions_have_files_of_their_own(network):
    names = {objectives.direction("conv_2", v).facts(0)["vector"] for v in VECTORS}
    assert len(names) == 5
    (image,) = visualize.render(network, visualize.direction("conv_2", VECTORS[0, :5]), recipe=SHORT, steps=1)
    assert (
        image.file_name == f"conv_2-direction-{objectives.direction('conv_2', VECTORS[0, :5]).facts(0)['vector']}.png"
    )
    assert visualize.Image(image.pixels, objectives.layer("conv_2").facts(0)).file_name == "conv_2-layer.png"


def test_diverse_images_differ_more_and_are_one_batch(network, tmp_path):
    def draw(weight):
        objective = visualize.channel("conv_2", [3] * 3) + weight * visualize.diversity("conv_1")
        images = visualize.render(network, objective, recipe=Recipe("long", (Stage(30, lp=0.0),)), batch_size=2)
        grams = np.stack([activation(image.pixels, "conv_1") for image in images])
        return lucid_diversity(grams) / 2, images

    (alike, images), (diverse, others) = draw(0.0), draw(30.0)
    assert diverse < alike < 1
    assert len(images) == 3 and "diversity(conv_1)" in others[0].provenance["objective"]
    assert not np.array_equal(images[0].pixels, images[1].pixels), "each starts from its own noise"
    files = [image.save(tmp_path) for image in others]
    assert [file.name[-6:] for file in files] == ["-1.png", "-2.png", "-3.png"], "none takes another's place"
    np.testing.assert_array_equal(visualize.Image.read(files[1]).pixels, others[1].pixels)
