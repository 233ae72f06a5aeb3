from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import random_networks
from flax import nnx
from oracles import recipe

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.dropout import dropout
from cnnjax.models.layers import Conv, conv_block
from cnnjax.ops import max_pool

pytestmark = pytest.mark.usefixtures("quickly_compiled")
SIDE = 20
LABELS = jnp.array([0, 1, 1, 0])


@pytest.fixture(scope="module")
def small():
    return models.split(models.SmallCNN(image_size=SIDE, width_multiplier=0.25, rngs=nnx.Rngs(0)))


def test_the_articles_network():
    model = nnx.eval_shape(lambda: models.SmallCNN(rngs=nnx.Rngs(0)))
    graphdef, params, state = models.split(model)
    assert state == {}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5_681_345
    assert models.layer_shapes(graphdef, params, state, (150, 150, 3)) == {
        "conv_1": (150, 150, 32), "maxpool_1": (75, 75, 32), "conv_2": (75, 75, 64), "maxpool_2": (37, 37, 64),
        "conv_3": (37, 37, 128), "maxpool_3": (18, 18, 128), "conv_4": (18, 18, 128), "maxpool_4": (9, 9, 128),
        "flatten": (10368,), "dropout": (10368,), "dense_1": (512,), "dense_2": (256,), "output": (1,),
    }  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    """Values that PyTorch computed: see oracles/torch_values.py."""
    return np.load(Path(__file__).parent / "oracles" / "torch_values.npz")


def as_stored(array):
    return np.asarray(array) if np.size(array) <= 32 else recipe.sample(array, 64)


@pytest.fixture(scope="module")
def of_recipe(small):
    """The recipe's parameters for the same model."""
    params = jax.tree.map(jnp.asarray, recipe.small_cnn((8, 16, 32, 32), (128, 64), 1, SIDE))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, small[1])
    return params


def batch(step):
    return jnp.asarray(recipe.uniform(f"batch {step}", (4, SIDE, SIDE, 3)))


def test_logits_loss_and_gradients_against_torch(small, of_recipe, theirs):
    labels = jnp.asarray(recipe.labels(1, 2, 4))
    logits, value, (gradients, by_images) = networks.results(small[0], labels, of_recipe, batch(0))
    found = {"logits": logits, "loss": value, "images": by_images}
    found |= {f"gradient/{name}": gradient for name, gradient in models.flatten(gradients).items()}
    assert len(found) == 17
    for name, array in found.items():
        stored = theirs[f"small-cnn/{name}"]
        # A sum of large numbers that cancel is as exact as the sum of their magnitudes.
        large = np.abs(stored).max()
        np.testing.assert_allclose(as_stored(array), stored, rtol=1e-4, atol=1e-4 * large, err_msg=name)
        if np.size(array) > 32:
            large = np.abs(stored[2:]).max()
            np.testing.assert_allclose(as_stored(array)[2:], stored[2:], rtol=1e-4, atol=1e-4 * large, err_msg=name)


def test_five_adam_steps_against_torch(small, of_recipe, theirs):
    graphdef, start = small[0], of_recipe
    labels, optimizer = jnp.asarray(recipe.labels(1, 2, 4)), optax.adam(1e-3)

    @jax.jit
    def step(params, state, images):
        value, gradients = jax.value_and_grad(partial(networks.loss, graphdef, labels))(params, images)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state = start, optimizer.init(start)
    with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in int32
        for i in range(5):
            params, state, value = step(params, state, batch(i) * (1 + i))
            np.testing.assert_allclose(value, theirs[f"small-cnn/adam/loss {i}"], rtol=1e-4)
    different = []
    for name, array in models.flatten(params).items():
        found, expected = as_stored(array), theirs[f"small-cnn/adam/{name}"]
        skipped = 2 if np.size(array) > 32 else 0  # the sums
        different += list(np.abs(found - expected)[skipped:] > 1e-5)
    # Where a gradient is next to nothing Adam's first steps are its sign: a few steps of 1e-3 may differ.
    assert len(different) == 665 and np.mean(different) < 5e-3
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, start)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_bias_and_relu_after_pooling_change_nothing():
    layer = Conv(3, 5, init=jax.nn.initializers.normal(), rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.array([-0.3, 0.1, 0.0, 0.2, -1e-3])
    images = networks.images(9)
    pooled, activations = conv_block(images, {"conv": layer}, "pool")
    assert activations["conv"].shape == (4, 9, 9, 5)
    np.testing.assert_array_equal(pooled, max_pool(activations["conv"]))
    np.testing.assert_array_equal(pooled, activations["pool"])
    weights = jax.random.normal(jax.random.key(3), pooled.shape)
    after = jax.grad(lambda x: (conv_block(x, {"conv": layer}, "pool")[0] * weights).sum())(images)
    before = jax.grad(lambda x: (max_pool(layer.relu(layer(x))) * weights).sum())(images)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_dropout_belongs_to_the_example(small):
    graphdef, params, _ = small
    images, keys = networks.images(SIDE, 6), jax.random.split(jax.random.key(5), 6)
    logits, activations, _ = models.apply(graphdef, params, {}, images, keys=keys)
    some = jnp.array([4, 1])
    again = models.apply(graphdef, params, {}, images[some], keys=keys[some]).activations["dropout"]
    np.testing.assert_array_equal(activations["dropout"][some] == 0, again == 0)
    np.testing.assert_allclose(activations["dropout"][some], again, rtol=1e-5, atol=1e-6)
    off, seen, _ = models.apply(graphdef, params, {}, images, train=True)
    np.testing.assert_array_equal(seen["dropout"], seen["flatten"])
    assert jnp.abs(off - logits).max() > 1e-3


def test_dropout_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 200)
    x = jnp.ones((200, 500))
    for rate in (0.2, 0.5):
        out = dropout(x, rate, keys, 0)
        assert set(np.unique(out)) == {0, np.float32(1 / (1 - rate))}
        deviation = (rate / (1 - rate) / x.size) ** 0.5
        assert abs(out.mean() - 1) < 5 * deviation
        assert abs((out == 0).mean() - rate) < 5 * (rate * (1 - rate) / x.size) ** 0.5
    assert (dropout(x, 0.5, keys, 0) != dropout(x, 0.5, keys, 1)).any()
    assert dropout(x, 0.0, keys, 0) is x


def test_initial_weights_are_keras():
    """Glorot-uniform: within ±sqrt(6 / (fan in + fan out)), of which it nearly fills the range; zero biases."""
    _, params, _ = models.split(models.SmallCNN(image_size=16, rngs=nnx.Rngs(0)))
    for name, fans in {"conv_2": 9 * (32 + 64), "dense_1": 128 + 512}.items():
        limit = (6 / fans) ** 0.5
        assert 0.99 * limit < jnp.abs(params[name]["kernel"]).max() <= limit
        assert not params[name]["bias"].any()


def test_one_logit_for_each_class():
    for classes in (1, 3, 14):
        model = nnx.eval_shape(partial(models.create, "small-cnn", image_size=16, num_classes=classes))
        shapes = models.layer_shapes(*models.split(model), (16, 16, 3))
        assert shapes["output"] == (classes,) and list(shapes)[-1] == "output"
    with pytest.raises(UserError, match="SmallCNN needs a positive num_classes, not 0"):
        models.create("small-cnn", image_size=16, num_classes=0)
    for width in (float("nan"), float("inf"), -1.0):
        with pytest.raises(UserError, match=f"SmallCNN needs a positive width_multiplier, not {width}"):
            models.create("small-cnn", width_multiplier=width)


def test_height_and_width_may_differ():
    graphdef, params, state = models.split(random_networks.model("small-cnn", image_size=(16, 33), channels=2))
    shapes = models.layer_shapes(graphdef, params, state, (16, 33, 2))
    assert shapes["maxpool_4"] == (1, 2, 128) and shapes["output"] == (1,)
    with pytest.raises(UserError, match=r"takes images of shape \(batch, 16, 33, 2\), not \(1, 33, 16, 2\)"):
        models.apply(graphdef, params, state, jnp.zeros((1, 33, 16, 2)))


def test_width_never_leaves_a_layer_empty():
    _, params, _ = models.split(models.SmallCNN(image_size=16, width_multiplier=1e-3, rngs=nnx.Rngs(0)))
    assert params["conv_1"]["kernel"].shape == (3, 3, 3, 1)


@pytest.mark.parametrize("shape", [(2, 21, 21, 3), (2, 21, 20, 3), (2, 20, 20, 1)])
def test_wrong_shape_names_both_shapes(shape):
    model = models.SmallCNN(image_size=SIDE, width_multiplier=0.1, rngs=nnx.Rngs(0))
    with pytest.raises(UserError) as error:
        model(jnp.zeros(shape))
    assert f"takes images of shape (batch, 20, 20, 3), not {shape}" in str(error.value)


def test_too_small_a_side():
    with pytest.raises(UserError, match="halves its input 4 times: use an image_size of 16 or more, not 15"):
        models.SmallCNN(image_size=15, rngs=nnx.Rngs(0))
