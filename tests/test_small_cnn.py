from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import random_networks
import torch
from flax import nnx
from oracles import torch_nets

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.dropout import dropout
from cnnjax.models.layers import Conv, conv_block
from cnnjax.ops import max_pool

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


def test_logits_loss_and_gradients_against_torch(small):
    graphdef, params, _ = small
    images = networks.images(SIDE)
    net = torch_nets.small_cnn(params)
    networks.close(networks.results(graphdef, LABELS, params, images), networks.torch_results(net, LABELS, images))


def test_five_adam_steps_against_torch(small):
    graphdef, start, _ = small
    optimizer = optax.adam(1e-3)

    @jax.jit
    def train(params, batches):
        def step(carry, images):
            params, state = carry
            value, gradients = jax.value_and_grad(partial(networks.loss, graphdef, LABELS))(params, images)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), batches)

    batches = jnp.stack([networks.images(SIDE) * (1 + i) for i in range(5)])
    with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in int32
        (params, _), losses = train(start, batches)
    net = torch_nets.small_cnn(start)
    theirs = torch.optim.Adam(net.parameters(), lr=1e-3)
    expected = []
    for images in np.asarray(batches):
        theirs.zero_grad()
        value = torch_nets.loss(net(torch.tensor(images)), LABELS)
        value.backward()
        theirs.step()
        expected.append(value.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for ours, other in zip(jax.tree.leaves(params), jax.tree.leaves(net.arrays()), strict=True):
        # Where a gradient is next to nothing Adam's first steps are its sign: a few steps of 1e-3 may differ.
        assert np.mean(np.abs(ours - other) > 1e-5) < 2e-3
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
