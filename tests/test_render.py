import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import keras_vis

from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import image_io, layers, objectives, parameterizations, recipes, render
from cnnjax.visualize.recipes import RECIPES, Pass, Recipe

SHORT = Recipe("short", (Pass(12, jitter=2), Pass(6, jitter=2, tv=0.001)))
SIDE = 12


def noise(seed=0, side=SIDE):
    x = np.random.default_rng(seed).random((side, side, 3))
    return (x - x.mean()) / x.std() * 12.75 + 127.5


def objective_of(layer):
    return objectives.class_ if layer is None else lambda channel: objectives.filter_(layer, channel)


@functools.cache
def compiled(layer):
    """(params, index, tv, state) -> (score, gradient, state after one step)."""

    def one(params, index, tv, state):
        score = render.scorer(tiny.network()._replace(params=params), objective_of(layer), index[None], tv, 10.0)
        gradient = jax.grad(lambda x: score(x)[0].sum())(state.image)
        return score(state.image)[0][0], gradient[0], render.step(score, state)

    return jax.jit(one)


def climb(layer, index, image, steps, tv, dtype=jnp.float64):
    """The scores before each step, the first gradient, and the states after each step."""
    params = tiny.network(dtype=dtype).params
    state = render.start(jnp.asarray(image, dtype)[None])
    results = []
    for _ in range(steps):
        results.append(compiled(layer)(params, jnp.int32(index), jnp.asarray(tv, dtype), state))
        state = results[-1][2]
    scores, gradients, states = zip(*results, strict=True)
    return np.array(scores), gradients[0], states


@pytest.fixture(scope="module")
def drawn():
    return render.filters(tiny.network(), "conv_2", range(5), SHORT)


@pytest.mark.parametrize("layer, index", [("conv_1", 2), ("conv_2", 3), (None, 1)])
@pytest.mark.parametrize("tv", [0.0, 10.0])
def test_loss_gradient_and_one_step_are_keras_vis(layer, index, tv):
    p, image = keras_vis.parameters(SIDE), noise()
    loss, gradient = keras_vis.loss_and_gradient(p, image, layer, index, tv)
    with jax.enable_x64(True):
        scores, ours, states = climb(layer, index, image, 1, tv)
        after = np.asarray(states[0].image[0])
    np.testing.assert_allclose(scores[0], -loss, rtol=1e-5)
    np.testing.assert_allclose(ours, -gradient, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(after, keras_vis.minimize(p, image, layer, index, 1, tv), rtol=1e-5)
    moved = np.abs(after - image)
    assert np.median(moved) == pytest.approx(20**0.5, rel=1e-3), "the first step is 4.47 · sign"


@pytest.mark.parametrize("layer, index, tv", [("conv_2", 3, 0.0), ("conv_2", 0, 10.0), (None, 2, 0.1)])
def test_twenty_steps_are_keras_vis_and_not_its_later_regression(layer, index, tv):
    p, image = keras_vis.parameters(SIDE), noise(1)
    expected = keras_vis.minimize(p, image, layer, index, 20, tv)
    with jax.enable_x64(True):
        state = climb(layer, index, image, 20, tv)[2][-1]
        best = np.asarray(state.best_image[0])
        shown = parameterizations.deprocess(state.best_image)[0]
    np.testing.assert_allclose(best, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shown, keras_vis.deprocess(expected))
    other = keras_vis.minimize(p, image, layer, index, 20, tv, norm="l2")
    assert not np.allclose(best, other, rtol=1e-2), "the L2-normalised gradient must not pass for the real one"


def test_a_float32_step_is_close_too():
    p, image = keras_vis.parameters(SIDE), noise(2)
    state = climb("conv_2", 3, image, 1, 0.0, jnp.float32)[2][-1]
    difference = np.abs(np.asarray(state.image[0]) - keras_vis.minimize(p, image, "conv_2", 3, 1, 0.0))
    assert np.quantile(difference, 0.99) < 1e-3


def test_the_best_is_the_image_after_the_step_whose_score_before_it_was_highest():
    ramp = np.linspace(100, 150, SIDE)[:, None, None] + np.zeros((1, SIDE, 3))
    scores, _, states = climb("conv_2", 3, ramp, 4, 0.1, jnp.float32)
    chosen = int(scores.argmax())
    assert 0 < chosen < 3, "the case must be one where neither the first nor the last is the best"
    np.testing.assert_array_equal(states[-1].best_image, states[chosen].image)


def test_activations_rise_and_are_those_of_the_saved_picture(drawn):
    network = tiny.network()
    for channel, picture in enumerate(drawn):
        facts = picture.provenance
        logits, activations = keras_vis.forward(keras_vis.parameters(SIDE), picture.image)
        assert facts["activation_after"] == pytest.approx(activations["conv_2"][..., channel].mean(), rel=1e-4)
        assert facts["activation_after"] > facts["activation_before"]
        assert facts["layer"] == "conv_2" and facts["channel"] == channel and not facts["dead"]
        assert facts["weights"] == network.digest and facts["steps"] == 18 and facts["recipe"] == "short"


def test_a_filter_alone_is_the_filter_in_company_bit_for_bit(drawn):
    alone = render.filters(tiny.network(), "conv_2", [3], SHORT)[0]
    np.testing.assert_array_equal(alone.image, drawn[3].image)
    order = [3, 1, 0, 4, 2, 2, 1]
    others = render.filters(tiny.network(), "conv_2", order, SHORT, batch=5)
    np.testing.assert_array_equal([p.image for p in others], [drawn[i].image for i in order])
    another = render.filters(tiny.network(), "conv_2", [3], SHORT, seed=1)[0]
    assert not np.array_equal(another.image, drawn[3].image)


def test_progress_is_told_in_full_and_changes_nothing(drawn):
    told = []
    watched = render.filters(tiny.network(), "conv_2", range(5), SHORT, on_progress=told.append)
    assert sum(told) == 5 * SHORT.steps and len(told) >= 3
    np.testing.assert_array_equal([p.image for p in watched], [p.image for p in drawn])


def test_a_filter_that_never_fires_is_marked_dead():
    bias = keras_vis.parameters(SIDE)["bias_2"]
    bias[1] = -1e3
    dead = render.filters(tiny.network(bias_2=bias), "conv_2", range(5), SHORT)
    assert [p.provenance["dead"] for p in dead] == [False, True, False, False, False]
    assert dead[1].provenance["activation_after"] == 0


def test_the_second_pass_starts_from_the_first_ones_saved_picture():
    network, still = tiny.network(), Pass(9, jitter=0)
    smooth = Pass(4, jitter=0, tv=5.0)
    first = render.filters(network, "conv_2", [3], Recipe("one", (still,)))[0]
    both = render.filters(network, "conv_2", [3], Recipe("two", (still, smooth)))[0]
    state = climb("conv_2", 3, first.image, 4, 5.0, jnp.float32)[2][-1]
    by_hand = np.asarray(parameterizations.deprocess(state.best_image)[0], int)
    assert np.abs(by_hand - both.image).max() <= 1
    assert not np.array_equal(both.image, first.image)


def test_a_share_of_smoothing_serves_activations_of_any_size():
    def draw(scale, relative):
        p = keras_vis.parameters(SIDE)
        network = tiny.network(kernel_2=p["kernel_2"] * scale, bias_2=p["bias_2"] * scale)
        passes = Pass(9, jitter=0, lp=0.0), Pass(6, jitter=0, tv=3.0 if relative else 0.003, lp=0.0, relative=relative)
        return np.asarray(render.filters(network, "conv_2", [3], Recipe("two", passes))[0].image, int)

    assert np.abs(draw(1.0, True) - draw(1024.0, True)).max() <= 2
    assert np.abs(draw(1.0, False) - draw(1024.0, False)).max() > 10


def test_one_program_for_all_channels_passes_step_counts_and_weights_of_a_layer():
    network = tiny.network()
    before = render._advance._cache_size()
    render.filters(network, "conv_1", [0, 1], SHORT)
    render.filters(network, "conv_1", [3, 2], Recipe("other", (Pass(7, jitter=0.3, tv=3.0),)), seed=4)
    other = network._replace(params=jax.tree.map(lambda x: x * 2, network.params), seal="e" * 64)
    render.filters(other, "conv_1", [1, 2], SHORT)
    assert render._advance._cache_size() == before + 1


def test_a_batch_is_one_convolution_a_layer_and_deeper_layers_are_dropped():
    def convolutions(layer, batch):
        arrays, rest = layers.pack(tiny.network())

        def gradient(arrays, images):
            targets = jnp.arange(batch, dtype=jnp.int32)
            score = render.scorer(layers.unpack(arrays, rest), objective_of(layer), targets, 1.0, 10.0)
            return jax.grad(lambda x: score(x)[0].sum())(images)

        lowered = jax.jit(gradient).lower(arrays, jnp.zeros((batch, SIDE, SIDE, 3)))
        lines = lowered.as_text().splitlines()
        assert not any("while" in line for line in lines)
        convolving = [line for line in lines if "stablehlo.convolution" in line]
        assert all(f"tensor<{batch}x" in line for line in convolving)
        return len(convolving), lowered.compile().cost_analysis()["flops"]

    (alone, few), (together, many) = convolutions("conv_2", 1), convolutions("conv_2", 4)
    assert alone == together and many < 5 * few
    assert convolutions("conv_1", 4)[1] < 0.8 * many


def test_two_classes_of_one_sigmoid_are_opposite_ends_of_its_logit():
    network = tiny.network(outputs=1, names=("cat", "dog"))
    cat, dog = render.classes(network, recipe=SHORT)
    for picture, sign in ((cat, -1), (dog, 1)):
        facts = picture.provenance
        logit = keras_vis.forward(keras_vis.parameters(SIDE), picture.image)[0][0]
        assert facts["activation_after"] == pytest.approx(sign * logit, rel=1e-3)
        assert facts["probability_after"] == pytest.approx(1 / (1 + np.exp(-sign * logit)), rel=1e-3)
        assert facts["probability_after"] > facts["probability_before"]
    assert (cat.provenance["class"], dog.provenance["class"]) == ("cat", "dog")


def test_classes_by_name_raise_their_probability():
    lamp, rabbit = render.classes(tiny.network(), ["lamp", "rabbit"], SHORT)
    assert lamp.provenance["class_index"] == 2 and rabbit.provenance["class_index"] == 0
    assert lamp.provenance["probability_after"] > lamp.provenance["probability_before"]


def test_what_is_not_there_is_one_sentence():
    network = tiny.network()
    with pytest.raises(UserError, match=r"layer 'conv2'.*conv_2"):
        render.filters(network, "conv2", [0], SHORT)
    with pytest.raises(UserError, match="no channel 5: its 5 channels are 0 to 4"):
        render.filters(network, "conv_2", [0, 5], SHORT)
    with pytest.raises(UserError, match=r"class 'hamer'.*hammer"):
        render.classes(network, ["hamer"], SHORT)


def test_a_saved_picture_carries_its_provenance(drawn, tmp_path):
    path = image_io.save(drawn[2], tmp_path / "new" / image_io.file_name(drawn[2]))
    assert path.name == "conv_2-2.png" and path.with_suffix(".json").exists()
    read = image_io.read(path)
    np.testing.assert_array_equal(read.image, drawn[2].image)
    assert read.provenance == drawn[2].provenance
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        image_io.save(drawn[2], tmp_path / "file" / "a.png")


def test_the_articles_recipes_are_the_articles():
    filters, classes = RECIPES["article-filters"], RECIPES["article-classes"]
    assert filters.steps * 40 + classes.steps * 12 == 27_200
    assert [(p.steps, p.tv, p.lp, p.jitter) for p in filters.passes] == [(300, 0, 10, 0.05), (200, 10, 10, 0.05)]
    assert [(p.steps, p.tv, p.lp, p.jitter) for p in classes.passes] == [(300, 0, 10, 16), (300, 10, 10, 16)]


class Cleaned(tiny.Tiny):
    def forward(self, params, images):
        return super().forward(params, normalize.clean(self.cleaning, images))


def test_the_article_feeds_raw_pictures_to_caffes_weights_and_to_no_others():
    caffe = Cleaned(*tiny.network())._replace(cleaning=normalize.caffe())
    raw, plain = (Recipe("short", (Pass(3, jitter=1, lp=0.01),), raw=raw) for raw in (True, False))

    def draw(network, recipe):
        (picture,) = render.filters(network, "conv_2", [1], recipe)
        return picture.image, picture.provenance["input"]

    as_article, told = draw(caffe, raw)
    assert told == "RGB in 0 to 255, nothing subtracted"
    np.testing.assert_array_equal(as_article, draw(caffe._replace(cleaning=normalize.raw()), plain)[0])
    usual, told = draw(caffe, plain)
    assert told.startswith("BGR in 0 to 255 minus") and (usual != as_article).any()
    other = caffe._replace(cleaning=normalize.imagenet())
    assert draw(other, raw)[1] == normalize.told(normalize.imagenet())
    assert "nothing subtracted" in render.told(caffe, raw)
    assert "only Caffe's weights are fed raw by recipe short" in render.told(other, raw)
    assert recipes.recipe("article", "filters").raw and recipes.recipe("article", "classes").name == "article-classes"
