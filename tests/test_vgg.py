import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import torch
from flax import nnx
from oracles import torch_nets

from cnnjax import models
from cnnjax.cli.config import ModelConfig
from cnnjax.errors import UserError

LABELS = jnp.array([0, 4, 2, 2])


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (models.VGG11, 132_863_336),
        (models.VGG13, 133_047_848),
        (models.VGG16, 138_357_544),
        (models.VGG19, 143_667_240),
    ],
)
def test_parameters_are_the_papers(kind, parameters):
    """Counts as torchvision documents them."""
    assert count(models.split(nnx.eval_shape(lambda: kind(rngs=nnx.Rngs(0))))[1]) == parameters


def test_layers_of_vgg16():
    shapes = models.layer_shapes(*models.split(nnx.eval_shape(lambda: models.VGG16(rngs=nnx.Rngs(0)))), (224, 224, 3))
    blocks = [
        [*(f"block{b}_conv{i}" for i in range(1, n + 1)), f"block{b}_pool"] for b, n in enumerate((2, 2, 3, 3, 3), 1)
    ]
    assert list(shapes) == [*sum(blocks, []), "flatten", "fc1", "fc2", "predictions"]
    assert shapes["block1_conv1"] == (224, 224, 64) and shapes["block5_conv3"] == (14, 14, 512)
    assert shapes["block5_pool"] == (7, 7, 512) and shapes["fc1"] == (4096,) and shapes["predictions"] == (1000,)


def test_logits_loss_and_gradients_against_torch():
    graph, params = models.split(models.VGG16(side=32, width=0.125, dense=24, outputs=5, rngs=nnx.Rngs(0)))
    images = networks.images(32)
    net = torch_nets.vgg(params)
    networks.close(networks.results(graph, LABELS, params, images), networks.torch_results(net, LABELS, images))


def test_full_width_logits_against_torch():
    """All 512 channels, at a small side with small dense layers."""
    graph, params = models.split(models.VGG16(side=32, dense=64, outputs=10, rngs=nnx.Rngs(0)))
    images = networks.images(32, batch=1)
    net = torch_nets.vgg(params)
    with torch.no_grad():
        expected = net(torch.tensor(np.asarray(images))).numpy()
    networks.close(jax.jit(lambda p, x: models.apply(graph, p, x)[0])(params, images), expected)


def test_initial_weights_keep_the_variance():
    """He-normal: the activations' mean square stays within a factor over thirteen layers."""
    model = models.VGG16(side=32, width=0.25, top=False, rngs=nnx.Rngs(0))
    _, activations = model(networks.images(32))
    squares = [float((activations[f"block{b}_conv1"] ** 2).mean()) for b in range(1, 6)]
    assert 0.2 < squares[0] < 5 and max(squares) / min(squares) < 30


def test_without_top_any_side():
    model = models.VGG11(width=0.05, top=False, rngs=nnx.Rngs(0))
    for side in (32, 70):
        shapes = models.layer_shapes(*models.split(model), (side, side, 3))
        assert list(shapes)[-1] == "block5_pool" and shapes["block5_pool"] == (side // 32, side // 32, 26)
    features, activations = model(networks.images(32, batch=1))
    assert features is activations["block5_pool"] and jnp.abs(features).max() > 0
    with pytest.raises(UserError, match=r"\(batch, height, width, 3\), not \(1, 32, 32, 1\)"):
        model(jnp.zeros((1, 32, 32, 1)))


def test_dropout_on_both_dense_layers():
    graph, params = models.split(models.VGG11(side=32, width=0.05, dense=200, outputs=3, rngs=nnx.Rngs(0)))
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def run(images, keys):
        activations = models.apply(graph, params, images, keys)[1]
        return {name: activations[name] for name in ("fc1", "fc2")}

    on, off = (run(networks.images(32), k) for k in (keys, None))
    others = run(networks.images(32)[::-1], keys[::-1])
    for name in ("fc1", "fc2"):
        dropped = (on[name] == 0).mean() - (off[name] == 0).mean()
        assert 0.1 < dropped < 0.4  # half of those that relu leaves
        np.testing.assert_array_equal(on[name] == 0, others[name][::-1] == 0)
    assert ((on["fc1"] == 0) != (on["fc2"] == 0)).any()


def test_create_takes_the_table_and_the_width():
    config = ModelConfig(name="vgg13", width=0.125, dense=16)
    model = nnx.eval_shape(lambda: models.create(config, side=32, num_classes=2, seed=0))
    _, params = models.split(model)
    assert {"block1_conv2", "block5_conv2"} <= params.keys() and "block3_conv3" not in params
    assert params["predictions"]["kernel"].shape == (16, 1) and params["block1_conv1"]["kernel"].shape == (3, 3, 3, 8)
    _, params = models.split(nnx.eval_shape(lambda: models.VGG11(width=0.125, rngs=nnx.Rngs(0))))
    assert params["fc2"]["kernel"].shape == (512, 512)


def test_too_small_a_side():
    with pytest.raises(UserError, match="use a side of 32 or more, not 31"):
        models.VGG16(side=31, rngs=nnx.Rngs(0))
