"""Grad-CAM against gradients written out by hand, and on networks of several kinds."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import tiny
from flax import nnx
from oracles import keras_vis

from cnnjax import Network, models, visualize
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize.attribution.target import choose_layer

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12
PROGRAM = importlib.import_module("cnnjax.visualize.attribution.accumulate")._advance


def images(count=3, height=SIDE, width=SIDE, channels=3):
    return np.random.default_rng(0).random((count, height, width, channels), dtype=np.float32)


def enlarged(small, height, width):
    """Bilinear interpolation with the corners of the image half a pixel outside of the pixels' centres."""

    def weights(new, old):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old)[None]))

    return weights(height, small.shape[0]) @ small @ weights(width, small.shape[1]).T


def by_hand(activation, gradient):
    """(height, width, channels) each -> a map of SIDE × SIDE in [0, 1]."""
    cam = np.maximum((activation * gradient.mean(axis=(0, 1))).sum(axis=-1), 0)
    cam = enlarged(cam, SIDE, SIDE)
    return cam / cam.max() if cam.max() > 0 else cam


def test_the_last_layers_map_is_the_one_by_hand():
    """After conv_2 comes a dense layer alone, so the gradient of a logit is a column of its kernel."""
    network, p = tiny.network(), keras_vis.parameters(SIDE)
    shown = images()
    for class_index, wanted in ((1, [1] * 3), ([2, 0, 1], [2, 0, 1]), ("lamp", [2] * 3)):
        found = visualize.grad_cam(network, shown, class_index)
        assert found.shape == (3, SIDE, SIDE)
        for heat, image, index in zip(found, shown, wanted, strict=True):
            activation = keras_vis.forward(p, image * 255.0)[1]["conv_2"]
            gradient = p["dense"][:, index].reshape(activation.shape)
            np.testing.assert_allclose(heat, by_hand(activation, gradient), atol=2e-5)
            assert heat.min() >= 0 and (heat.max() == pytest.approx(1) or not heat.any())


def test_by_default_it_is_the_likeliest_class_and_one_logit_has_two_ends():
    network, shown = tiny.network(), images()
    chosen = [int(keras_vis.forward(keras_vis.parameters(SIDE), image * 255.0)[0].argmax()) for image in shown]
    np.testing.assert_array_equal(visualize.grad_cam(network, shown), visualize.grad_cam(network, shown, chosen))
    pair = tiny.network(logits=1, names=("cat", "dog"))
    p = keras_vis.parameters(SIDE)
    for index, sign in ((0, -1), (1, 1)):
        for heat, image in zip(visualize.grad_cam(pair, shown, index), shown, strict=True):
            activation = keras_vis.forward(p, image * 255.0)[1]["conv_2"]
            gradient = sign * p["dense"][:, 0].reshape(activation.shape)
            np.testing.assert_allclose(heat, by_hand(activation, gradient), atol=2e-5)


@pytest.mark.parametrize("name, layer", [("vgg11", "block5_conv2"), ("small-cnn", "conv_4"), ("resnet18", "layer4.1")])
def test_the_default_layer_is_the_last_one_before_pooling(name, layer):
    network = random_networks.network(name, 32, width_multiplier=0.05)
    assert choose_layer(network, None)[0] == layer


def test_another_layer_by_finite_differences():
    """The mean gradient of a channel is the change of the logit when the channel is raised everywhere."""
    network, shown = tiny.network(), images(1)

    def logit(raised):
        output = network.apply(jnp.asarray(shown), perturbations={"pool_1": raised})
        return float(output.logits[0, 1]), np.asarray(output.activations["pool_1"][0], np.float64)

    zeros, step = np.zeros((1, 6, 6, 4), np.float32), 1e-3
    weights = []
    for channel in range(4):
        up, down = zeros.copy(), zeros.copy()
        up[..., channel], down[..., channel] = step, -step
        weights.append((logit(jnp.asarray(up))[0] - logit(jnp.asarray(down))[0]) / (2 * step) / 36)
    expected = by_hand(logit(jnp.asarray(zeros))[1], np.broadcast_to(weights, (6, 6, 4)))
    np.testing.assert_allclose(visualize.grad_cam(network, shown, 1, "pool_1")[0], expected, atol=0.02)


def test_batches_change_nothing_and_share_one_program():
    network, shown = tiny.network(), images(5)
    together = visualize.grad_cam(network, shown, 2, batch_size=5)
    before = PROGRAM._cache_size()
    np.testing.assert_allclose(visualize.grad_cam(network, shown, 2, batch_size=2), together, atol=1e-6)
    visualize.grad_cam(network, shown[:4], [0, 1, 2, 0], batch_size=2)
    assert PROGRAM._cache_size() == before + 1


def test_a_plain_flax_model_of_another_size_and_grey():
    network = tiny.flax(tiny.Plain(1, rngs=nnx.Rngs(0)), (10, 14), 1)
    shown = images(2, 9, 15, 1)
    # After the last convolution come relu, the mean and a dense layer.
    activation = np.asarray(network(jnp.asarray(shown))[1]["deep"], np.float64)
    kernel = np.asarray(network.params["head"]["kernel"], np.float64)
    largest = 0.0
    for index in range(3):
        found = visualize.grad_cam(network, shown, index, "deep")
        assert found.shape == (2, 9, 15)
        gradient = (activation > 0) * kernel[:, index] / (activation.shape[1] * activation.shape[2])
        for heat, values, slope in zip(found, activation, gradient, strict=True):
            cam = enlarged(np.maximum((values * slope.mean(axis=(0, 1))).sum(axis=-1), 0), 9, 15)
            largest = max(largest, cam.max())
            np.testing.assert_allclose(heat, cam / (cam.max() or 1), atol=2e-5)
    assert largest > 0


@pytest.mark.parametrize("name, size", [("resnet18", 32), ("vgg11", 32), ("small-cnn", 32)])
def test_models_of_this_package_at_every_layer_with_maps(name, size):
    """The first and the last layer's maps by jax.grad of what follows, and every layer's gradient arrives."""
    model = (
        models.create(name, image_size=size, num_classes=3, width_multiplier=0.1)
        if name != "resnet18"
        else (models.create(name, num_classes=3, width_multiplier=0.05))
    )
    network = Network.create(model, normalizer=normalize.identity(), image_size=size)
    shown = images(1, size, size)
    shapes = {layer: shape for layer, shape in visualize.layer_shapes(network).items() if len(shape) == 3}
    last = {"resnet18": "layer4.1", "vgg11": "block5_conv2", "small-cnn": "conv_4"}[name]
    np.testing.assert_array_equal(visualize.grad_cam(network, shown, 1), visualize.grad_cam(network, shown, 1, last))

    @jax.jit
    def slopes(perturbations):
        def logit(perturbations):
            return network.apply(jnp.asarray(shown), perturbations=perturbations).logits[0, 1]

        return jax.grad(logit)(perturbations)

    gradients = slopes({layer: jnp.zeros((1, *shape)) for layer, shape in shapes.items()})
    activations = network(jnp.asarray(shown))[1]
    for layer in (next(iter(shapes)), last):
        means = np.asarray(gradients[layer], np.float64)[0].mean(axis=(0, 1))
        cam = enlarged(np.maximum((np.asarray(activations[layer], np.float64)[0] * means).sum(axis=-1), 0), size, size)
        found = visualize.grad_cam(network, shown, 1, layer)[0]
        np.testing.assert_allclose(found, cam / (cam.max() or 1), atol=1e-4)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values()), "each layer's gradient arrives"


def test_what_does_not_exist_is_one_sentence():
    network, shown = tiny.network(), images()
    with pytest.raises(UserError, match=r"layer 'conv_9'.*conv_"):
        visualize.grad_cam(network, shown, 0, "conv_9")
    with pytest.raises(UserError, match="'predictions' has no maps"):
        visualize.grad_cam(network, shown, 0, "predictions")
    with pytest.raises(UserError, match="no class 3"):
        visualize.grad_cam(network, shown, 3)
    with pytest.raises(UserError, match="2 classes for 3 images"):
        visualize.grad_cam(network, shown, [0, 1])
    with pytest.raises(UserError, match="no classes"):
        visualize.grad_cam(network.replace(class_names=()), shown)
