"""Attribution methods against plain loops, jax.grad and NumPy; what batches, devices and models may change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import keras_vis, numpy_autodiff, numpy_nets
from oracles.numpy_autodiff import Value

from cnnjax import Network, models, visualize
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize.attribution.integrated_gradients import path
from cnnjax.visualize.attribution.relu_rule import with_guided_relu

# Programs that run a few times.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12
QUICK = {"smooth-grad": {"samples": 5}, "integrated-gradients": {"steps": 5}, "rise": {"samples": 7, "grid": 3}}
"""Few samples for each method, in numbers that batches do not divide."""


def images(count=3, height=SIDE, width=SIDE, channels=3, seed=0):
    return np.random.default_rng(seed).random((count, height, width, channels), dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    return tiny.network()


@pytest.fixture(scope="module")
def pair():
    """The article's network for two classes, with one logit."""
    model = models.create("small-cnn", num_classes=1, image_size=16, width_multiplier=0.1)
    return Network.create(model, normalizer=normalize.identity(), class_names=("cat", "dog"))


def run(method, network, shown, class_index=None, **changes):
    chosen = visualize.METHODS[method]
    return chosen.function(network, shown, class_index, **(QUICK.get(method, {}) | changes))


def test_the_gradient_is_that_of_jax(network):
    shown, classes = images(), [2, 0, 1]
    slopes = jax.vmap(jax.grad(lambda image, index: network(image[None])[0][0, index]), (0, 0))
    expected = np.asarray(slopes(jnp.asarray(shown), jnp.asarray(classes)))
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(visualize.gradient(network, shown, classes, reduction="none"), expected, **tolerance)
    np.testing.assert_allclose(visualize.gradient(network, shown, classes), abs(expected).max(-1), **tolerance)
    summed = visualize.gradient(network, shown, ["lamp", "rabbit", "hammer"], reduction="sum")
    np.testing.assert_allclose(summed, expected.sum(-1), **tolerance)
    found = visualize.gradient_times_input(network, shown, classes)
    np.testing.assert_allclose(found, (expected * shown).sum(-1), **tolerance)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dark=st.floats(0, 1), index=st.integers(0, 2))
def test_integrated_gradients_are_complete(network, seed, dark, index):
    """They add up to the logit's difference from the baseline, here computed in float64 without this package."""
    shown = images(2, seed=seed)
    found = visualize.integrated_gradients(network, shown, index, baseline=dark, steps=64)
    parameters = keras_vis.parameters(SIDE)
    for image, values in zip(shown, found, strict=True):
        ends = [keras_vis.forward(parameters, x * 255.0)[0][index] for x in (image, np.full_like(image, dark))]
        assert abs(values.sum() - (ends[0] - ends[1])) <= 0.01 * np.abs(values).sum() + 1e-5
    gap, difference = visualize.completeness_gap(network, shown, found, index, baseline=dark)
    np.testing.assert_allclose(found.reshape(2, -1).sum(1) - difference, gap, atol=1e-4)


def test_a_gap_above_the_tolerance_is_refused(network):
    shown = images()
    visualize.integrated_gradients(network, shown, 1, steps=50, tolerance=0.5)
    with pytest.raises(UserError, match=r"image \d differ from .* tolerance=1e-06: use more than steps=2"):
        visualize.integrated_gradients(network, shown, 1, steps=2, tolerance=1e-6)
    broken = network.replace(params=jax.tree.map(lambda leaf: jnp.nan * leaf, network.params))
    with pytest.raises(UserError, match="differ from its logit's difference by nan"):
        visualize.integrated_gradients(broken, shown, 1, steps=50, tolerance=0.5)


@pytest.mark.parametrize("rule, degree", [("gauss-legendre", 9), ("trapezoid", 1), ("midpoint", 1)])
def test_paths_integrate_polynomials(rule, degree):
    positions, weights = path(rule, 5)
    for power in range(degree + 1):
        assert np.sum(weights * positions**power) == pytest.approx(1 / (power + 1), rel=1e-5)


def test_occlusion_by_a_loop(network):
    shown, (window, stride) = images(2), ((5, 3), (4, 2))
    fall, count = np.zeros((2, SIDE, SIDE)), np.zeros((SIDE, SIDE))
    whole = np.asarray(network(jnp.asarray(shown))[0])[:, 1]
    for top in range(0, SIDE - window[0] + stride[0], stride[0]):
        for left in range(0, SIDE - window[1] + stride[1], stride[1]):
            place = slice(top, top + window[0]), slice(left, left + window[1])
            covered = shown.copy()
            covered[:, place[0], place[1]] = 0.2
            less = whole - np.asarray(network(jnp.asarray(covered))[0])[:, 1]
            fall[:, place[0], place[1]] += less[:, None, None]
            count[place] += 1
    assert count.min() == 1 < count.max()
    found = visualize.occlusion(network, shown, 1, window=window, stride=stride, fill=0.2, batch_size=7)
    np.testing.assert_allclose(found, fall / count, rtol=1e-4, atol=1e-5)


def test_rise_by_a_loop(network):
    shown = images(2)
    masks = np.asarray(visualize.rise_masks(jax.random.key(3), 9, SIDE, SIDE, grid=4))
    expected = np.zeros((2, SIDE, SIDE))
    for mask in masks:
        logits = np.asarray(network(jnp.asarray(shown * mask[None, :, :, None]))[0], np.float64)
        odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected += odds[[0, 1], [2, 0]][:, None, None] * mask
    found = visualize.rise(network, shown, [2, 0], key=jax.random.key(3), samples=9, grid=4, batch_size=5)
    np.testing.assert_allclose(found, expected / 9 / 0.5, rtol=1e-4)
    given = visualize.rise(network, shown, [2, 0], masks=masks)
    np.testing.assert_allclose(given, expected / 9 / masks.mean(), rtol=1e-4)


def test_rise_masks_are_the_papers():
    """Bernoulli cells, enlarged: their mean is `keep` everywhere, they are smooth, and each is shifted on its own."""
    masks = np.asarray(visualize.rise_masks(jax.random.key(0), 2000, 13, 17, grid=4, keep=0.3))
    assert masks.shape == (2000, 13, 17) and masks.min() >= 0 and masks.max() <= 1
    # A mask's pixel has at most the variance of a single cell: four standard errors, for 221 pixels.
    assert np.abs(masks.mean(axis=0) - 0.3).max() < 4.5 * np.sqrt(0.21 / 2000)
    # Between the centres of two neighbouring cells, 25 / 4 pixels or 20 / 4 apart, a value changes by 1 at most.
    assert np.abs(np.diff(masks, axis=1)).max() <= 1 / 4 + 1e-6 and np.abs(np.diff(masks, axis=2)).max() <= 1 / 4 + 1e-6
    assert len({tuple(np.round(mask.ravel(), 4)) for mask in masks[:50]}) > 45
    alone = visualize.rise_masks(jax.random.key(0), 3, 13, 17, grid=4, keep=0.3)
    np.testing.assert_array_equal(alone, masks[:3])


@pytest.mark.parametrize("method", visualize.METHODS)
def test_uint8_images_are_those_divided_by_255(network, method):
    whole = np.rint(255 * images()).astype(np.uint8)
    expected = run(method, network, whole / np.float32(255))
    np.testing.assert_allclose(run(method, network, whole), expected, rtol=1e-4, atol=1e-6)


def test_a_baseline_of_uint8_is_divided_by_255_too(network):
    whole, dark = (np.rint(255 * part * images()).astype(np.uint8) for part in (1, 0.2))
    expected = visualize.integrated_gradients(
        network, whole / np.float32(255), 1, baseline=dark / np.float32(255), steps=5
    )
    found = visualize.integrated_gradients(network, whole, 1, baseline=dark, steps=5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", visualize.METHODS)
def test_an_image_alone_is_as_in_a_batch_of_any_size(network, method):
    """Batches of 10 rows are shared out among the eight devices of the tests; those of 3 run on one."""
    shown = images(5)
    together = run(method, network, shown, 1, batch_size=10)
    assert together.shape == (5, SIDE, SIDE) and np.abs(together).max() > 0
    assert not np.allclose(together[2], together[3], rtol=0.05)
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * np.abs(together).max()}
    np.testing.assert_allclose(run(method, network, shown, 1, batch_size=3), together, **tolerance)
    np.testing.assert_allclose(run(method, network, shown[2:3], 1, batch_size=3), together[2:3], **tolerance)


@pytest.mark.parametrize("method", visualize.METHODS)
def test_one_logit_has_two_ends(pair, method):
    """By default the likeliest class is explained; class 0's gradient is the negative of class 1's."""
    shown = images(3, 16, 16)
    likeliest = [int(logit > 0) for logit in np.asarray(pair(jnp.asarray(shown))[0])[:, 0]]
    options = {"reduction": "sum"} if method in ("gradient", "gradient-times-input", "smooth-grad") else {}
    if visualize.METHODS[method].takes_layer:
        options = {"layer": "conv_2"}
    ends = [run(method, pair, shown, index, **options) for index in ("cat", "dog")]
    expected = [ends[index][i] for i, index in enumerate(likeliest)]
    np.testing.assert_array_equal(run(method, pair, shown, **options), expected)
    if "reduction" in options or method in ("integrated-gradients", "occlusion"):
        np.testing.assert_allclose(ends[0], -ends[1], rtol=1e-3, atol=1e-6)
    else:
        assert not np.allclose(ends[0], ends[1], rtol=0.01)


def guided(net, shown, index):
    """NumPy's gradient of a logit by the images."""
    x = Value(shown)
    logits = net(x)
    logits.backward(np.eye(logits.shape[1])[[index] * len(shown)])
    return x.grad


def test_guided_backpropagation_of_a_vgg():
    """Whose last convolutions are pooled before relu; with and without jax.checkpoint."""
    model = models.create("vgg11", num_classes=3, image_size=32, width_multiplier=0.05)
    network = Network.create(model, normalizer=normalize.identity())
    shown = images(2, 32, 32)
    net = numpy_nets.vgg(network.params, (1, 1, 2, 2, 2), relu=numpy_autodiff.guided_relu)
    expected = guided(net, shown, 1)
    graphdef = models.with_remat(network.graphdef, network.params, network.model_state, True)
    for one in (network, network.replace(graphdef=graphdef)):
        found = visualize.guided_backpropagation(one, shown, 1, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(visualize.gradient(network, shown, 1, reduction="none") - expected).max() > np.abs(expected).max() / 9


def test_a_resnets_gradients_and_maps():
    state = numpy_nets.filled(numpy_nets.resnet_shapes((1, 1, 1, 1), width=4, classes=3))
    make = nnx.jit(lambda rngs: models.ResNet((1, 1, 1, 1), False, 3, width_multiplier=1 / 16, rngs=rngs))
    model = make(nnx.Rngs(0))  # one program for all parameters
    network = Network.create(model, normalizer=normalize.identity(), image_size=32)
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

    def theirs(entry, leaf):
        *layer, kind = (str(key.key) for key in entry[1:])
        value = state[".".join([*layer, names[kind]])]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert value.shape == leaf.shape
        return jnp.asarray(value)

    params, model_state = jax.tree_util.tree_map_with_path(theirs, (network.params, network.model_state))
    network = network.replace(params=params, model_state=model_state)
    shown = images(2, 32, 32)
    expected = guided(numpy_nets.Published(state, numpy_autodiff.guided_relu), shown, 2)
    found = visualize.guided_backpropagation(network, shown, 2, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    for method in ("grad-cam++", "layer-cam"):
        heat = run(method, network, shown, 2, layer="layer2.0")
        assert heat.shape == (2, 32, 32) and heat.max() == pytest.approx(1)


def test_a_plain_flax_model_of_another_size_and_grey():
    network = tiny.flax(tiny.Plain(1, rngs=nnx.Rngs(0)), (10, 14), 1)
    shown = images(2, 9, 15, 1)

    def logit(image, relu=nnx.relu):
        model = network.model()
        model.eval()
        x = relu(model.norm(model.conv(image[None])))
        return model.head(relu(model.deep(x)).mean(axis=(1, 2)))[0, 1]

    @jax.custom_vjp
    def cut(x):
        return nnx.relu(x)

    cut.defvjp(lambda x: (nnx.relu(x), x), lambda x, g: (jnp.where(x > 0, nnx.relu(g), 0.0),))
    for method, relu in ((visualize.gradient, nnx.relu), (visualize.guided_backpropagation, cut)):
        expected = jnp.stack([jax.grad(lambda x, relu=relu: logit(x, relu))(image) for image in jnp.asarray(shown)])
        found = method(network, shown, 1, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert visualize.layer_cam(network, shown, 1, "conv").shape == (2, 9, 15)


def test_relu_is_found_wherever_it_is():
    """In jit, checkpoint, scan, a condition, under vmap, as maximum, with constants; and what is not relu stays."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4)), jnp.float32)
    forms = {
        "relu": jax.nn.relu,
        "jit": jax.jit(jax.nn.relu),
        "maximum": lambda x: jnp.maximum(x, 0.0),
        "reversed": lambda x: jnp.maximum(0.0, x),
        "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(x) * 1.0),
        "cond": lambda x: jax.lax.cond(x.sum() > -1e9, jax.nn.relu, jnp.sin, x),
        "vmap": jax.vmap(jax.nn.relu),
        "relu6": lambda x: jax.nn.relu6(x / 100) * 100,
    }

    def network(form):
        def scalar(x):
            for kernel in weights:
                x = form(jnp.tanh(x) @ kernel)
            return x.sum()

        return scalar

    def scanned(x):
        return jax.lax.scan(lambda x, kernel: (jax.nn.relu(jnp.tanh(x) @ kernel), None), x, weights)[0].sum()

    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
    expected, x64 = np.ones((5, 4)), [np.asarray(x, np.float64)]
    for kernel in np.asarray(weights, np.float64):
        x64.append(np.maximum(np.tanh(x64[-1]) @ kernel, 0))
    for kernel, before, after in reversed(list(zip(np.asarray(weights), x64, x64[1:], strict=False))):
        expected = (np.maximum(expected, 0) * (after > 0)) @ kernel.T * (1 - np.tanh(before) ** 2)
    for name, function in {**{name: network(form) for name, form in forms.items()}, "scan": scanned}.items():
        found = jax.grad(with_guided_relu(function, x))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.abs(jax.grad(function)(x) - expected).max() > 0.1
    with pytest.raises(UserError, match="this network has none"):
        with_guided_relu(lambda x: jnp.maximum(x, 1.0).sum() + jnp.maximum(x, -x).sum(), x)


def test_what_follows_from_the_key(network):
    shown = images(1)
    for method in ("smooth-grad", "rise"):
        first, again, other = (run(method, network, shown, 1, key=jax.random.key(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.allclose(first, other, rtol=0.01)


def test_by_name(network):
    found = visualize.attribute(network, images(1), "rise", 1, key=jax.random.key(1), layer="passed by")
    np.testing.assert_array_equal(found, visualize.rise(network, images(1), 1, key=jax.random.key(1)))


def test_display():
    maps = np.array([[[-3.0, 1], [2, 4]], [[0, 0], [0, 0]], [[0, 0], [0, 5]]], np.float32)
    shown = visualize.to_display(maps, 100)
    np.testing.assert_allclose(shown, [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    assert visualize.to_display(maps, 50)[0].max() == 1
    np.testing.assert_allclose(visualize.to_display(maps, 50)[2], [[0, 0], [0, 1]])


def test_what_cannot_be_done_is_one_sentence(network):
    shown = images()
    for message, call in {
        "unknown method 'grad-cm': did you mean grad-cam": lambda: visualize.attribute(network, shown, "grad-cm"),
        "unknown class 'lmp': did you mean lamp": lambda: visualize.gradient(network, shown, "lmp"),
        "no class 3": lambda: visualize.rise(network, shown, 3),
        "2 classes for 3 images": lambda: visualize.gradient(network, shown, [0, 1]),
        "unknown rule 'simpson'": lambda: visualize.integrated_gradients(network, shown, rule="simpson"),
        "at least 2 for rule": lambda: visualize.integrated_gradients(network, shown, rule="trapezoid", steps=1),
        r"baseline has shape \(3,\)": lambda: visualize.integrated_gradients(network, shown, baseline=np.ones(3)),
        "the baseline has values from 127 to 127": lambda: visualize.integrated_gradients(
            network, shown, baseline=127.0
        ),
        "baseline has values from nan": lambda: visualize.completeness_gap(
            network, shown, shown, baseline=float("nan")
        ),
        "fill=128.0 must be from 0 to 1": lambda: visualize.occlusion(network, shown, fill=128.0),
        "unknown reduction 'mean'": lambda: visualize.gradient(network, shown, reduction="mean"),
        "window=13 does not fit": lambda: visualize.occlusion(network, shown, window=13),
        "stride=5 must be": lambda: visualize.occlusion(network, shown, window=4, stride=5),
        "keep=1.5 above 0": lambda: visualize.rise(network, shown, keep=1.5),
        "samples=0": lambda: visualize.smooth_grad(network, shown, samples=0),
        "batch_size=0": lambda: visualize.gradient(network, shown, batch_size=0),
        "there are no images": lambda: visualize.gradient(network, shown[:0]),
        "values from .*divide them by 255": lambda: visualize.grad_cam(network, 255 * shown),
        "values that are not numbers": lambda: visualize.rise(network, np.nan * shown),
        r"add the batch axis with images\[None\]": lambda: visualize.gradient(network, shown[0]),
        "channels come first": lambda: visualize.occlusion(network, shown.transpose(0, 3, 1, 2)),
        "no classes": lambda: visualize.gradient(network.replace(class_names=()), shown),
        r"layer 'conv_9'.*conv_": lambda: visualize.layer_cam(network, shown, layer="conv_9"),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
