"""Attribution against Captum and pytorch-grad-cam (values stored by oracles/attribution_peers.py), at rtol 1e-4."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import keras_vis, recipe

from cnnjax import visualize

pytestmark = pytest.mark.usefixtures("quickly_compiled")

STORED = np.load(Path(__file__).parent / "oracles" / "attribution_peers.npz")
SIDE, TARGETS = 12, (1, 2, 0)
SHOWN = (recipe.uniform("attribution images", (3, SIDE, SIDE, 3)) + 1) / 2
NOISE = recipe.uniform("attribution noise", (4, SIDE, SIDE, 3)) * np.float32(3**0.5)


@pytest.fixture(scope="module")
def network():
    return tiny.network(SIDE)


@pytest.fixture(scope="module")
def louder():
    """With larger gradients, as the script has them for pytorch-grad-cam."""
    return tiny.network(SIDE, dense=keras_vis.parameters(SIDE)["dense"] * 30)


def close(ours, name, rtol=1e-4, factor=1.0):
    """To the stored values, small ones relative to a hundredth of the largest: they are sums that cancel."""
    theirs = STORED[name] * factor
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max() / 100)


def test_the_network_is_theirs(network):
    np.testing.assert_allclose(network(jnp.asarray(SHOWN))[0], STORED["logits"], rtol=1e-5, atol=1e-6)
    scores = visualize.scores(network, SHOWN, TARGETS)
    np.testing.assert_allclose(scores, STORED["logits"][range(3), TARGETS], rtol=1e-5)


def test_gradients(network):
    close(visualize.gradient(network, SHOWN, TARGETS, reduction="none"), "gradient")
    close(visualize.guided_backpropagation(network, SHOWN, TARGETS, reduction="none"), "guided_backpropagation")


def test_smooth_grad(network):
    found = visualize.smooth_grad(network, SHOWN, TARGETS, noise=NOISE, reduction="none", batch_size=5)
    close(found, "smooth_grad")


# Captum's trapezoid divides by the number of points, not of the intervals between them: its weights add up to 19/20.
@pytest.mark.parametrize(
    "rule, theirs, factor",
    [
        ("gauss-legendre", "gausslegendre", 1),
        ("midpoint", "riemann_middle", 1),
        ("trapezoid", "riemann_trapezoid", 20 / 19),
    ],
)
def test_integrated_gradients(network, rule, theirs, factor):
    found = visualize.integrated_gradients(network, SHOWN, TARGETS, rule=rule, steps=20, reduction="none")
    close(found, f"integrated_gradients/{theirs}", factor=factor)


def test_integrated_gradients_from_another_baseline(network):
    for baseline in (0.25, np.full((SIDE, SIDE, 3), 0.25), np.full(SHOWN.shape, 0.25)):
        found = visualize.integrated_gradients(network, SHOWN, TARGETS, baseline=baseline, steps=20, reduction="none")
        close(found, "integrated_gradients/from 0.25")


@pytest.mark.parametrize("name, window, stride", [("even", 4, 2), ("overlapping", (5, 5), (3, 3))])
def test_occlusion(network, name, window, stride):
    close(visualize.occlusion(network, SHOWN, TARGETS, window=window, stride=stride), f"occlusion/{name}")


@pytest.mark.parametrize("layer, theirs", [("conv_2", "relu_2"), ("pool_1", "pool_1")])
@pytest.mark.parametrize(
    "method, name",
    [
        (visualize.grad_cam, "GradCAM"),
        (visualize.grad_cam_plus_plus, "GradCAMPlusPlus"),
        (visualize.layer_cam, "LayerCAM"),
    ],
)
def test_class_activation(louder, method, name, layer, theirs):
    """Theirs also subtract each map's minimum, when they scale it; the layer's own maps are stored as they are."""
    found = method(louder, SHOWN, TARGETS, layer)
    low = found.min(axis=(1, 2), keepdims=True)
    close((found - low) / (1 - low), f"{name}/{theirs}")
    raw = STORED[f"{name}/{theirs}/layer"]
    places = np.clip((np.arange(SIDE) + 0.5) / 2 - 0.5, 0, 5)  # of the image's pixels in the layer
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(6)))
    enlarged = weights @ raw @ weights.T
    np.testing.assert_allclose(found, enlarged / enlarged.max(axis=(1, 2), keepdims=True), rtol=1e-4, atol=1e-6)


def test_a_different_class_is_far_off(network):
    """What the tolerance is worth."""
    with pytest.raises(AssertionError):
        close(visualize.gradient(network, SHOWN, (2, 2, 0), reduction="none"), "gradient")
