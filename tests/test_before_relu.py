"""What layers compute before their relu: found in any network, and followed by filters that noise leaves silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from oracles import keras_vis

from cnnjax import Network, models, visualize
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.train import strategy as strategies
from cnnjax.visualize import Recipe, Stage, before_relu, parameterizations, stages

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12
SHORT = Recipe("short", (Stage(12, lp=0.0),))


class Block(nnx.Module):
    """A module that returns what relu made, in one of several ways, as a submodule of a user's network would."""

    def __init__(self, relu, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.relu = relu

    def __call__(self, x):
        return self.relu(self.conv(x))


class Stack(nnx.Module):
    def __init__(self, relu):
        self.block = Block(relu, nnx.Rngs(0))
        self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(1))

    def __call__(self, images):
        return self.head(self.block(images).mean(axis=(1, 2)))


@jax.custom_vjp
def own_rule(x):
    return jax.nn.relu(x)


own_rule.defvjp(lambda x: (jax.nn.relu(x), x > 0), lambda positive, g: (jnp.where(positive, g, 0),))

RELUS = {
    "jax": jax.nn.relu,
    "nnx": nnx.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "jit": jax.jit(lambda x: jax.nn.relu(x * 2)),
    "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(x * 2)),
    "own rule": own_rule,
    "moved": lambda x: jnp.moveaxis(jax.nn.relu(jnp.moveaxis(x, 3, 1)), 1, 3),
}
NO_RELUS = {"gelu": nnx.gelu, "relu6": jax.nn.relu6, "shifted": lambda x: jax.nn.relu(x) + 1, "none": lambda x: x}


def network_of(model, image_size=16):
    return tiny.flax(model, (image_size, image_size))


def check(network, expected):
    """That exactly the expected layers are found, and that relu of what is found is the activation."""
    found = before_relu.relu_layers(network)
    assert found == set(expected)
    height, width, channels = network.image_shape
    images = jax.random.uniform(jax.random.key(1), (2, height, width, channels))
    logits, activations, before = jax.jit(lambda n, x: before_relu.run(n, x, tuple(sorted(found))))(network, images)
    plain = jax.jit(lambda n, x: n(x))(network, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, (logits, activations))
    assert set(before) == found
    for layer, value in before.items():
        np.testing.assert_allclose(np.maximum(value, 0), activations[layer], rtol=1e-5, atol=1e-5)
    assert all((before[layer] < 0).any() for layer in found if "conv" in layer or "bn" in layer)
    assert any((value < 0).any() for value in before.values())


@pytest.mark.parametrize("name", RELUS)
def test_relu_is_found_however_it_is_written(name):
    check(network_of(Stack(RELUS[name]), 8), ["block"])


@pytest.mark.parametrize("name", NO_RELUS)
def test_what_is_no_relu_is_not_found(name):
    assert before_relu.relu_layers(network_of(Stack(NO_RELUS[name]), 8)) == set()


def test_the_relus_of_our_networks_are_found():
    def create(name, image_size, **config):
        model = models.create(name, num_classes=3, image_size=image_size, width_multiplier=0.05, **config)
        return Network.create(model, normalizer=normalize.identity(), class_names=("a", "b", "c"))

    small = create("small-cnn", 16)
    # flatten and dropout hand a relu's values on.
    check(small, set(visualize.layer_shapes(small)) - {"output"})
    vgg = create("vgg11-bn", 32)
    # A convolution's activation is before its normalization here, and a pool's is a maximum.
    check(vgg, {name for name in visualize.layer_shapes(vgg) if "bn" in name} | {"fc1", "fc2"})
    resnet = create("resnet18", 32)
    blocks = {f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)}
    check(resnet, {"relu", *blocks})


def test_values_are_those_of_numpy():
    p, image = keras_vis.parameters(SIDE), np.random.default_rng(0).random((SIDE, SIDE, 3))
    pooled = keras_vis.forward(p, image * 255)[1]["pool_1"]
    expected = keras_vis._conv(pooled, p["kernel_2"]) + p["bias_2"]
    network = tiny.network()
    _, _, before = before_relu.run(network, jnp.asarray(image[None], jnp.float32), ("conv_2",))
    np.testing.assert_allclose(before["conv_2"][0], expected, rtol=1e-4, atol=1e-5)
    (image,) = visualize.render(network, visualize.channel("conv_2", 3), recipe=SHORT)
    after = keras_vis.forward(p, image.pixels)[1]["conv_2"][..., 3].mean()
    assert image.provenance["activation_after"] == pytest.approx(after, rel=1e-4), "told after relu all the same"
    assert image.provenance["before_relu"] == ["conv_2"]


def shy():
    """A network whose filter 1 of conv_2 is silent on noise and can fire, and whose filter 2 cannot."""
    bias = keras_vis.parameters(SIDE)["bias_2"]
    noise = np.stack([keras_vis.forward(keras_vis.parameters(SIDE), noise_of(seed))[1]["conv_2"] for seed in range(9)])
    bias[1] -= noise[..., 1].max() + 0.1
    bias[2] = -1e3
    return tiny.network(bias_2=bias)


def noise_of(seed):
    x = np.random.default_rng(seed).random((SIDE, SIDE, 3))
    return (x - x.mean()) / x.std() * 12.75 + 127.5


def test_a_silent_start_is_no_inactive_filter():
    def draw(**options):
        images = visualize.render_filters(shy(), "conv_2", [0, 1, 2], recipe=SHORT, **options)
        return [[image.provenance[key] for key in ("silent_on_noise", "failed", "inactive")] for image in images]

    loud, silent, gone = [False, False, False], [True, False, False], [True, True, True]
    assert draw() == [loud, silent, gone]
    assert draw(before_relu=False) == [loud, gone, gone]


def test_the_recipe_decides_unless_it_is_told():
    network, few = tiny.network(), {"steps": 2, "image_size": SIDE}
    objective = visualize.channel("conv_2", 1) + visualize.class_logit(0)

    def layers(objective=objective, **options):
        (image,) = visualize.render(network, objective, **few, **options)
        return image.provenance["before_relu"]

    assert layers(objective + visualize.neuron("pool_1", 0)) == ["conv_2"]
    after = [recipe.name for recipe in visualize.RECIPES.values() if not recipe.before_relu]
    assert after == ["article-filters", "article-classes", "deepdream"]
    with pytest.raises(UserError, match="layer 'pool_1' is not the result of a relu"):
        layers(objective + visualize.neuron("pool_1", 0), before_relu=True)


def test_functions_and_penalties_see_the_activations_after_relu():
    seen = []

    def lowest(logits, activations, image):
        seen.append(set(activations))
        return activations["conv_2"].min()

    objective = visualize.channel("conv_2", 0) - 0 * visualize.objectives.as_objective(lowest)
    visualize.render(tiny.network(), objective, recipe=SHORT, steps=1, penalty=lowest)
    assert all("conv_2" in names for names in seen)


def test_a_quiet_filter_is_smoothed_by_what_it_has_gained():
    """keras_vis in NumPy: the total variation counts as the gain before relu, where the value after relu is nothing."""
    p, network = keras_vis.parameters(SIDE), shy()
    bias = np.asarray(network.params["bias_2"])
    images = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    noise = np.stack([noise_of(seed) for seed in (1, 2)]).astype(np.uint8)

    def driven(image, channel):
        pooled = keras_vis.forward(p, image.astype(float))[1]["pool_1"]
        return (keras_vis._conv(pooled, p["kernel_2"])[..., channel] + bias[channel]).mean()

    def roughness(image):
        x = image.astype(float)
        return ((x[1:, :-1] - x[:-1, :-1]) ** 2 + (x[:-1, 1:] - x[:-1, :-1]) ** 2).sum() / x.size

    objective = jax.tree.map(jnp.asarray, visualize.channel("conv_2", [1, 2]))
    found = stages._relative_weights(
        network,
        objective,
        parameterizations.as_argument(parameterizations.Pixels()),
        jnp.asarray(images, jnp.float32),
        3.0,
        strategies.rows_strategy(1),
        ("conv_2",),
        jnp.asarray(noise),
    )
    expected = []
    for image, start, channel in zip(images, noise, (1, 2), strict=True):
        pooled = keras_vis.forward(p, image.astype(float))[1]["pool_1"]
        fires = np.maximum(keras_vis._conv(pooled, p["kernel_2"])[..., channel] + bias[channel], 0).mean()
        gain = driven(image, channel) - driven(start, channel)
        expected.append(3.0 * max(fires, gain) / roughness(image))
        assert (fires > gain) == (channel == 1), "one weighs by its value, the other by its gain"
    np.testing.assert_allclose(found, expected, rtol=1e-3)
