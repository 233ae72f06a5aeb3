"""ResNet against values that torchvision's computed (oracles/torchvision_resnet.py), and by itself."""

from functools import partial
from pathlib import Path

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_networks
from flax import nnx
from oracles import recipe

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.ops import overlapping_max_pool

pytestmark = pytest.mark.usefixtures("quickly_compiled")

STEPS, CLASSES, LEARNING_RATE = 5, 10, 0.01
NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_layout(path, array):
    """An array's name and layout in torchvision, from its flattened path here."""
    *layer, kind = path.split("/")
    array = np.asarray(array)
    if kind == "kernel":
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return ".".join([*layer, NAMES[kind]]), array


def from_recipe(params):
    """The same parameters with the recipe's values."""

    def value(path, array):
        name, seen = torch_layout("/".join(str(key.key) for key in path), np.zeros(array.shape))
        new = recipe.parameter(name, seen.shape)
        return jnp.asarray(new.transpose(2, 3, 1, 0) if new.ndim == 4 else new.T)

    return jax.tree_util.tree_map_with_path(value, params)


@pytest.fixture(scope="module")
def small():
    return models.split(random_networks.model("resnet18", num_classes=3, width_multiplier=0.125))


@pytest.mark.parametrize(
    ("kind", "parameters", "features"),
    [
        (models.ResNet18, 11_689_512, 512),
        (models.ResNet34, 21_797_672, 512),
        (models.ResNet50, 25_557_032, 2048),
    ],
)
def test_parameters_are_torchvisions(kind, parameters, features):
    graphdef, params, state = models.split(nnx.eval_shape(lambda: kind(rngs=nnx.Rngs(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    shapes = models.layer_shapes(graphdef, params, state, (224, 224, 3))
    assert shapes["conv1"] == (112, 112, 64) and shapes["maxpool"] == (56, 56, 64)
    assert shapes["layer4.1"] == (7, 7, features) and shapes["avgpool"] == (features,) and shapes["fc"] == (1000,)


def test_layers_of_a_bottleneck():
    graphdef, params, state = models.split(nnx.eval_shape(lambda: models.ResNet50(rngs=nnx.Rngs(0))))
    shapes = models.layer_shapes(graphdef, params, state, (64, 96, 3))
    names = [name for name in shapes if name.startswith("layer2.0")]
    layers = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1"]
    assert names == [*(f"layer2.0.{layer}" for layer in layers), "layer2.0"]
    # The stride is in the 3×3 convolution.
    assert shapes["layer2.0.conv1"] == (16, 24, 128) and shapes["layer2.0.conv2"] == (8, 12, 128)


@pytest.mark.slow
def test_five_steps_of_sgd_against_torchvision():
    """Logits, losses, parameters and running statistics after each step, then the logits in evaluation."""
    stored = np.load(Path(__file__).parent / "oracles" / "resnet18.npz")
    graphdef, params, state = models.split(models.create("resnet18", num_classes=CLASSES))
    params = from_recipe(params)
    optimizer = optax.sgd(LEARNING_RATE, momentum=0.9)

    @jax.jit
    def step(params, state, opt_state, images, labels):
        def loss(params):
            output = models.apply(graphdef, params, state, images, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
            return losses.mean(), output

        (value, output), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), output.model_state, opt_state, value, output.logits

    opt_state = optimizer.init(params)
    for number in range(1, STEPS + 1):
        batch = recipe.images(number), recipe.labels(number, CLASSES)
        params, state, opt_state, value, logits = step(params, state, opt_state, *batch)
        np.testing.assert_allclose(value, stored[f"{number}/loss"], rtol=1e-4)
        expected = stored[f"{number}/logits"]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        arrays = models.flatten(params) | models.flatten(state)
        assert len(arrays) == sum(name.startswith(f"{number}/") for name in stored) - 2
        for path, array in arrays.items():
            name, array = torch_layout(path, array)
            found, expected = recipe.sample(array), stored[f"{number}/{name}"]
            # Sums relative to the sum of magnitudes, elements to the largest one, as logits: relative to the mean
            # magnitude, rounding alone makes 1.6e-4 of one element on some CPUs.
            np.testing.assert_allclose(found[:2] / expected[1], expected[:2] / expected[1], rtol=0, atol=1e-4)
            largest = max(np.abs(expected[2:]).max(), expected[1] / array.size)
            np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-4, atol=1e-4 * largest)
    logits = jax.jit(lambda *a: models.apply(graphdef, *a).logits)(params, state, recipe.images(STEPS + 1))
    expected = stored["eval/logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def gradients(graphdef, params, state, images, train=True):
    @jax.jit
    def run(params, state, images):
        def loss(params, images):
            output = models.apply(graphdef, params, state, images, train=train)
            return (output.logits**2).sum(), output

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, images)

    with compiling.quickly():
        return run(params, state, images)


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50")), "vgg11-bn"]
)
def test_remat_changes_nothing(name):
    """The running statistics are updated once."""
    graphdef, params, state = models.split(
        random_networks.model(name, num_classes=3, width_multiplier=0.06, image_size=32)
    )
    images = recipe.images(0, 4, 32)
    (loss, output), found = gradients(models.with_remat(graphdef, params, state, True), params, state, images)
    (plain, expected), without = gradients(graphdef, params, state, images)
    np.testing.assert_allclose(loss, plain, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), output.model_state, expected.model_state)
    # The gradient of a bias before a batch normalization is zero but for rounding, which is that of far larger terms.
    rounding = 1e-6 * max(np.abs(b).max() for b in jax.tree.leaves(without))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=max(1e-5 * np.abs(b).max(), rounding))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), expected.model_state, state)
    assert all(jax.tree.leaves(moved))


def test_evaluation_uses_the_running_statistics(small):
    graphdef, params, state = small
    images = jnp.asarray(recipe.images(0, 4))
    output = models.apply(graphdef, params, state, images)
    alone = models.apply(graphdef, params, state, images[:1])
    np.testing.assert_allclose(output.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, output.model_state, state)


@pytest.mark.slow
def test_any_size_and_channels():
    graphdef, params, state = models.split(
        random_networks.model("resnet18", channels=1, num_classes=1, width_multiplier=0.05)
    )
    for size in [(28, 28), (33, 40), (1, 2)]:
        logits = models.apply(graphdef, params, state, jnp.ones((2, *size, 1)), train=True).logits
        assert logits.shape == (2, 1) and jnp.isfinite(logits).all()
    with pytest.raises(UserError, match=r"ResNet takes images of shape \(batch, height, width, 1\), not"):
        models.apply(graphdef, params, state, jnp.ones((2, 28, 28, 3)))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(small):
    graphdef, params, state = small
    output = models.apply(graphdef, params, state, jnp.asarray(recipe.images(0), jnp.bfloat16), train=True)
    assert output.activations["layer4.1.bn2"].dtype == jnp.bfloat16 and output.logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(output.model_state)} == {jnp.dtype("float32")}
    wide = models.apply(graphdef, params, state, jnp.asarray(recipe.images(0)), train=True)
    assert jnp.abs(output.logits - wide.logits).max() < 0.1 * jnp.abs(wide.logits).max()


def test_initial_weights_are_torchvisions():
    """Kaiming-normal kernels with fan out; uniform dense layer within ±1 / √inputs; norms 1 and 0."""
    _, params, state = models.split(models.create("resnet18", num_classes=100))
    kernel = params["layer3"][0]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 256)) ** 0.5, rtol=0.01)
    assert jnp.abs(kernel).max() > 4 * kernel.std()  # not truncated
    for array in params["fc"].values():
        assert 0.95 * 512**-0.5 < jnp.abs(array).max() <= 512**-0.5
    norm = params["layer1"][0]["bn1"]
    assert (norm["scale"] == 1).all() and not norm["bias"].any()
    assert (state["bn1"]["var"] == 1).all() and not state["bn1"]["mean"].any()


@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (1, 1, 5, 1), (1, 6, 2, 2)])
def test_overlapping_max_pool(shape):
    """As lax.reduce_window has it, also where there are ties."""
    x = jnp.round(4 * recipe.uniform("pool", shape)) / 4

    def plain(x):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    np.testing.assert_array_equal(overlapping_max_pool(x), plain(x))
    weights = recipe.uniform("weights", plain(x).shape)
    found, expected = (
        jax.grad(lambda x, pool=pool: (pool(x) * weights).sum())(x) for pool in (overlapping_max_pool, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jnp.isnan(overlapping_max_pool(x.at[0, 0, 0, 0].set(jnp.nan))[0, 0, 0, 0])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_a_tpu_gets_windows_of_overlapping_max_pool(platform):
    gradient = jax.jit(jax.grad(lambda x: overlapping_max_pool(x).sum()))
    text = gradient.trace(jnp.ones((2, 8, 8, 3))).lower(lowering_platforms=(platform,)).as_text()
    assert ("select_and_scatter" in text) == (platform == "tpu")
    assert ("stablehlo.pad" in text) == (platform != "tpu")
