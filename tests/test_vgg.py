from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx
from jax.nn.initializers import he_normal
from oracles import numpy_autodiff, numpy_nets
from oracles.numpy_autodiff import Value

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.batch_norm import BatchNorm
from cnnjax.models.layers import Conv, conv_block

pytestmark = pytest.mark.usefixtures("quickly_compiled")
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


def test_logits_loss_and_gradients_against_numpy():
    graphdef, params, _ = models.split(
        models.VGG16(5, image_size=32, width_multiplier=0.125, dense_units=24, rngs=nnx.Rngs(0))
    )
    images = networks.images(32)
    net = numpy_nets.vgg(params)
    networks.close(networks.results(graphdef, LABELS, params, images), networks.numpy_results(net, LABELS, images))


def test_full_width_logits_against_numpy():
    """All 512 channels, at a small side with small dense layers."""
    graphdef, params, _ = models.split(models.VGG16(10, image_size=32, dense_units=64, rngs=nnx.Rngs(0)))
    images = networks.images(32, batch=1)
    expected = numpy_nets.vgg(params)(images).data
    networks.close(jax.jit(lambda p, x: models.apply(graphdef, p, {}, x).logits)(params, images), expected)


def test_initial_weights_keep_the_variance():
    """He-normal: the activations' mean square stays within a factor over thirteen layers."""
    model = models.VGG16(image_size=32, width_multiplier=0.25, include_top=False, rngs=nnx.Rngs(0))
    _, activations = model(networks.images(32))
    squares = [float((activations[f"block{b}_conv1"] ** 2).mean()) for b in range(1, 6)]
    assert 0.2 < squares[0] < 5 and max(squares) / min(squares) < 30


def test_without_top_any_side():
    model = models.VGG11(width_multiplier=0.05, include_top=False, rngs=nnx.Rngs(0))
    for side in (32, 70):
        shapes = models.layer_shapes(*models.split(model), (side, side, 3))
        assert list(shapes)[-1] == "block5_pool" and shapes["block5_pool"] == (side // 32, side // 32, 26)
    features, activations = model(networks.images(32, batch=1))
    assert features is activations["block5_pool"] and jnp.abs(features).max() > 0
    with pytest.raises(UserError, match=r"\(batch, height, width, 3\), not \(1, 32, 32, 1\)"):
        model(jnp.zeros((1, 32, 32, 1)))


def test_a_block_with_batch_norm_against_numpy():
    """Two training steps' outputs and running statistics, gradients of the second, then evaluation."""
    random, rngs = np.random.default_rng(0), nnx.Rngs(0)
    layers = {f"conv{i}": Conv(a, b, init=he_normal(), rngs=rngs) for i, (a, b) in enumerate([(3, 5), (5, 4)], 1)}
    norms = {f"conv{i}": BatchNorm(units, rngs=rngs) for i, units in enumerate([5, 4], 1)}
    for layer, norm in zip(layers.values(), norms.values(), strict=True):
        # A negative scale does not commute with the maximum.
        for variable in (layer.bias, norm.bias, norm.scale):
            variable[...] = jnp.asarray(random.normal(size=variable[...].shape), jnp.float32)

    def theirs(images, statistics=(None, None)):
        x, made, seen = Value(images), [], []
        inputs = x
        for layer, norm, known in zip(layers.values(), norms.values(), statistics, strict=True):
            own = [Value(v[...]) for v in (layer.kernel, layer.bias, norm.scale, norm.bias)]
            x = numpy_autodiff.conv(x, *own[:2])
            seen.append((x.data.mean((0, 1, 2)), x.data.reshape(-1, x.shape[-1]).var(0, ddof=1)))
            x = numpy_autodiff.relu(numpy_autodiff.batch_norm(x, *own[2:], known))
            made.append(own)
        return numpy_autodiff.max_pool(x), inputs, made, seen

    @partial(jax.jit, static_argnums=2)
    def run(x, state, train):
        layers, norms = nnx.merge(graphdef, state)
        out = conv_block(x, layers, "pool", norms=norms, train=train)[0]
        return out, nnx.state((layers, norms))

    graphdef, state = nnx.split((layers, norms))
    running = [(np.zeros(5), np.ones(5)), (np.zeros(4), np.ones(4))]
    for step in range(2):
        images = networks.images(9) * (1 + step) + 3
        expected, inputs, made, seen = theirs(images)
        out, state = run(images, state, True)
        networks.close(out, expected.data)
        running = [
            tuple(0.9 * old + 0.1 * new for old, new in zip(*pair, strict=True))
            for pair in zip(running, seen, strict=True)
        ]
        found = nnx.merge(graphdef, state)[1]
        networks.close([(n.mean[...], n.var[...]) for n in found.values()], running)
    expected.backward(3 * expected.data**2)

    # Differentiated apart from the update of the running statistics, which belongs to the outer trace.
    gradient, by_state = jax.jit(jax.grad(lambda x, s: (run(x, s, True)[0] ** 3).sum(), (0, 1)))(images, state)
    networks.close(gradient, inputs.grad)
    networks.close(by_state[0]["conv1"]["kernel"][...], made[0][0].grad)
    networks.close(by_state[1]["conv2"]["scale"][...], made[1][2].grad)
    networks.close(run(images, state, False)[0], theirs(images, running)[0].data)


def test_batch_norm_variants_have_torchvisions_parameters():
    """Counts as torchvision documents them."""
    for name, parameters in {"vgg11-bn": 132_868_840, "vgg16-bn": 138_365_992}.items():
        graphdef, params, state = models.split(nnx.eval_shape(lambda name=name: models.create(name)))
        assert count(params) == parameters
        shapes = models.layer_shapes(graphdef, params, state, (224, 224, 3))
        assert list(shapes)[:3] == [
            "block1_conv1",
            "block1_bn1",
            "block1_conv2" if name == "vgg16-bn" else "block1_pool",
        ]
        assert {"block1_bn1", "block5_bn1"} <= state.keys() and state["block5_bn1"]["mean"].shape == (512,)


def test_dropout_on_both_dense_layers():
    graphdef, params, _ = models.split(
        models.VGG11(3, image_size=32, width_multiplier=0.05, dense_units=200, rngs=nnx.Rngs(0))
    )
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def run(images, keys):
        activations = models.apply(graphdef, params, {}, images, keys=keys).activations
        return {name: activations[name] for name in ("fc1", "fc2")}

    on, off = (run(networks.images(32), k) for k in (keys, None))
    others = run(networks.images(32)[::-1], keys[::-1])
    for name in ("fc1", "fc2"):
        dropped = (on[name] == 0).mean() - (off[name] == 0).mean()
        assert 0.1 < dropped < 0.4  # half of those that relu leaves
        np.testing.assert_array_equal(on[name] == 0, others[name][::-1] == 0)
    assert ((on["fc1"] == 0) != (on["fc2"] == 0)).any()


def test_create_takes_the_table_and_the_width():
    arguments = {"width_multiplier": 0.125, "dense_units": 16, "image_size": 32}
    model = nnx.eval_shape(lambda: models.create("vgg13", num_classes=1, **arguments))
    _, params, _ = models.split(model)
    assert {"block1_conv2", "block5_conv2"} <= params.keys() and "block3_conv3" not in params
    assert params["predictions"]["kernel"].shape == (16, 1) and params["block1_conv1"]["kernel"].shape == (3, 3, 3, 8)
    _, params, _ = models.split(nnx.eval_shape(lambda: models.VGG11(width_multiplier=0.125, rngs=nnx.Rngs(0))))
    assert params["fc2"]["kernel"].shape == (512, 512)


def test_too_small_a_side():
    with pytest.raises(UserError, match="use an image_size of 32 or more, not 31"):
        models.VGG16(image_size=31, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_convs": (2, 2)}, r"VGG has 5 blocks of one or more convolutions: num_convs=\(2, 2\)"),
        ({"num_convs": (0, 1, 1, 1, 1)}, "VGG has 5 blocks"),
        ({"dropout": 1.5}, "VGG needs a dropout from 0 to below 1, not 1.5"),
        ({"dropout": -0.2}, "not -0.2"),
        ({"dropout": float("nan")}, "not nan"),
    ],
)
def test_arguments_that_make_no_network(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        nnx.eval_shape(lambda: models.VGG(**{"image_size": 32, "rngs": nnx.Rngs(0)} | changes))
