"""Metrics of heat maps against SciPy, scikit-image's values, and networks whose right answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from scipy import ndimage, stats

from cnnjax import Network, models, visualize
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import attribution_metrics as metrics
from cnnjax.visualize.attribution_metrics.insertion_deletion import _ranks as ranks_of

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12


def images(count=3, height=SIDE, width=SIDE, channels=3, seed=0):
    return np.random.default_rng(seed).random((count, height, width, channels), dtype=np.float32)


class Linear(nnx.Module):
    """The logit is a weighted sum of the pixels, so that every true importance is known."""

    def __init__(self, weights):
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))

    def __call__(self, images):
        return (images * self.weights[...][None]).sum(axis=(1, 2, 3))[:, None]


@pytest.fixture(scope="module")
def linear():
    weights = np.random.default_rng(5).normal(size=(SIDE, SIDE, 3))
    model = Linear(weights)
    network = Network.create(model, normalizer=normalize.identity(), image_size=SIDE, channels=3)
    return network, weights


def test_pointing_game():
    maps = np.zeros((4, 6, 7), np.float32)
    maps[0, 2, 3] = 1
    maps[1, 2, 5] = 1
    maps[2] = 3
    maps[3, [0, 5], [0, 6]] = 2
    masks = np.zeros((4, 6, 7), bool)
    masks[:, 2:4, 2:4] = True
    masks[3, 0, 0] = True
    np.testing.assert_allclose(metrics.pointing_game(maps, masks), [1, 0, 4 / 42, 0.5])
    for tolerance in (1, 2, 9):
        near = ndimage.binary_dilation(masks, np.ones((1, 2 * tolerance + 1, 2 * tolerance + 1)))
        expected = [near[0, 2, 3], near[1, 2, 5], near[2].mean(), near[3, [0, 5], [0, 6]].mean()]
        np.testing.assert_allclose(metrics.pointing_game(maps, masks, tolerance), expected)
    with pytest.raises(UserError, match="do not fit masks"):
        metrics.pointing_game(maps, masks[:2])


def test_energy_in_mask():
    maps = np.float32([[[1, -5], [2, 1]], [[-1, -1], [0, 0]]])
    masks = np.array([[[True, True], [False, True]]] * 2)
    np.testing.assert_allclose(metrics.energy_in_mask(maps, masks), [0.5, 0.75])


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, (6, 40)), rng.normal(size=(6, 40)).round(1)
    first[5] = 3
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(first[:5], second[:5], strict=True)]
    found = metrics.rank_correlation(first, second)
    np.testing.assert_allclose(found[:5], expected, atol=1e-12)
    assert np.isnan(found[5])


def test_structural_similarity_by_scipys_filters():
    """The formula of scikit-image with its default window, the border that it leaves out cut off."""
    x, y = images(2, 15, 19, 1)[..., 0].astype(np.float64)

    def mean(values):
        return ndimage.uniform_filter(values, 7)[3:-3, 3:-3]

    ux, uy, scale = mean(x), mean(y), 49 / 48
    vx, vy, vxy = scale * (mean(x * x) - ux * ux), scale * (mean(y * y) - uy * uy), scale * (mean(x * y) - ux * uy)
    c1, c2 = 1e-4, 9e-4
    expected = ((2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))).mean()
    found = metrics.structural_similarity(np.stack([x, x]), np.stack([y, x]))
    np.testing.assert_allclose(found, [expected, 1], rtol=1e-9)
    # skimage.metrics.structural_similarity(x, y, data_range=1) of scikit-image 0.26.0
    np.testing.assert_allclose(found[0], -0.047940722, rtol=1e-6)
    with pytest.raises(UserError, match="window=7 of maps of 6×9 must be"):
        metrics.structural_similarity(np.zeros((1, 6, 9)), np.zeros((1, 6, 9)))


def test_parts_of_a_linear_network(linear):
    """Gradient times input is exact, so its ranks are the true ones; its negative's are the opposite."""
    network, weights = linear
    shown, parts = images(2), np.zeros((2, 5, SIDE, SIDE), bool)
    for part in range(4):
        parts[:, part, 3 * part : 3 * part + 3, 2:9] = True
    without = np.where(parts[..., None], 0, shown[:, None])
    importance = metrics.removal_importance(network, shown, without, 1, batch_size=4)
    expected = (np.where(parts[..., None], shown[:, None], 0) * weights).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(importance, expected, atol=1e-3)
    np.testing.assert_allclose(metrics.removal_importance(network, shown, without, 0), -importance, atol=1e-3)
    maps = visualize.gradient_times_input(network, shown, 1)
    np.testing.assert_allclose(metrics.map_importance(maps, parts), expected, atol=1e-3)
    np.testing.assert_allclose(metrics.part_correlation(maps, parts, importance), 1)
    np.testing.assert_allclose(metrics.part_correlation(-maps, parts, importance), -1)
    # Part 4 is nowhere to be seen: whatever importance it is said to have does not count.
    importance[:, 4] = 1e9
    np.testing.assert_allclose(metrics.part_correlation(maps, parts, importance), 1)
    parts[1, 1:] = False
    assert np.isnan(metrics.part_correlation(maps, parts, importance)[1])
    with pytest.raises(UserError, match="cannot be compared"):
        metrics.removal_importance(network, shown, without[:1])
    with pytest.raises(UserError, match="do not fit part masks"):
        metrics.map_importance(maps, parts[:, :, 1:])


def test_blur_is_scipys():
    shown = images(2, 9, 14)
    for sigma in (0.7, 2.5, 6.0):
        expected = ndimage.gaussian_filter(shown.astype(np.float64), (0, sigma, sigma, 0), mode="reflect")
        np.testing.assert_allclose(metrics.blur(shown, sigma), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["insertion", "deletion"])
def test_insertion_and_deletion_by_a_loop(kind):
    network, shown = tiny.network(), images(2)
    maps = images(2, channels=1, seed=3)[..., 0]  # no two values are equal
    blurred = ndimage.gaussian_filter(shown.astype(np.float64), (0, 2, 2, 0), mode="reflect").astype(np.float32)
    start, end = (blurred, shown) if kind == "insertion" else (shown, blurred)
    counts = [0, 29, 58, 86, 115, 144]
    expected = np.zeros((2, 6))
    for i in range(2):
        order = np.argsort(-maps[i].ravel())
        for j, count in enumerate(counts):
            mixed = start[i].reshape(-1, 3).copy()
            mixed[order[:count]] = end[i].reshape(-1, 3)[order[:count]]
            logits = np.asarray(network(jnp.asarray(mixed.reshape(1, SIDE, SIDE, 3)))[0], np.float64)[0]
            expected[i, j] = np.exp(logits[1]) / np.exp(logits).sum()
    found = getattr(metrics, kind)(network, shown, maps, 1, sigma=2.0, steps=5, batch_size=5)
    np.testing.assert_allclose(found.shares, np.array(counts) / 144)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(found.area, np.trapezoid(expected, np.array(counts) / 144, axis=1), rtol=1e-4)
    assert np.ptp(expected, axis=1).min() > 0.01


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_a_mask_may_be_a_map(kind):
    mask = np.zeros((1, 12, 12), kind)
    mask[:, 3:6, 3:6] = True if kind is bool else 255
    assert set(ranks_of(mask)[mask > 0]) == set(range(9))


def test_a_better_map_has_the_larger_insertion(linear):
    network, weights = linear
    shown = images(2)
    maps = ((shown - metrics.blur(shown, 1.2)) * weights.astype(np.float32)).sum(axis=-1)
    areas = [
        (metrics.insertion(network, shown, m, 1).area, metrics.deletion(network, shown, m, 1).area)
        for m in (maps, -maps)
    ]
    assert (areas[0][0] > areas[1][0]).all() and (areas[0][1] < areas[1][1]).all()
    for wrong in ({"steps": 0}, {"steps": 145}, {"sigma": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            metrics.insertion(network, shown, maps, **wrong)
    with pytest.raises(UserError, match="do not fit images"):
        metrics.deletion(network, shown, maps[:1])


@pytest.fixture(scope="module")
def small():
    model = models.create("small-cnn", num_classes=3, image_size=16, width_multiplier=0.25)
    return Network.create(model, normalizer=normalize.identity())


def test_layers_from_the_top_are_redrawn_one_after_another(small):
    names = metrics.layers_from_top(small)
    assert names == ("output", "dense_2", "dense_1", "conv_4", "conv_3", "conv_2", "conv_1")
    assert metrics.layers_from_top(tiny.network()) == ("bias", "dense", "bias_2", "kernel_2", "bias_1", "kernel_1")
    plain = tiny.flax(tiny.Plain(rngs=nnx.Rngs(0)), (10, 14))
    assert metrics.layers_from_top(plain) == ("head", "deep", "norm", "conv")
    resnet = Network.create(
        nnx.jit(lambda rngs: models.ResNet((1, 1, 1, 1), False, 3, width_multiplier=0.05, rngs=rngs))(nnx.Rngs(0)),
        normalizer=normalize.identity(),
        image_size=32,
    )
    found = metrics.layers_from_top(resnet)
    assert found[0] == "fc" and found[-2:] == ("bn1", "conv1") and len(found) == 1 + 2 + 4 * 4 + 3 * 2
    assert found.index("layer4.0.conv2") < found.index("layer4.0.conv1") < found.index("layer3.0.conv2")


def test_a_redrawn_layer_is_as_before_training():
    network = tiny.flax(tiny.Plain(rngs=nnx.Rngs(0)), (10, 14))
    changed = metrics.randomize_layer(network, "norm", jax.random.key(0))
    np.testing.assert_array_equal(changed.params["norm"]["scale"], 1)
    np.testing.assert_array_equal(changed.params["norm"]["bias"], 0)
    np.testing.assert_array_equal(changed.model_state["norm"]["var"], 1)
    assert np.all(changed.params["deep"]["kernel"] == network.params["deep"]["kernel"])
    wide = Network.create(models.create("small-cnn", num_classes=1, image_size=16), normalizer=normalize.identity())
    kernel = metrics.randomize_layer(wide, "conv_3", jax.random.key(0)).params["conv_3"]["kernel"]
    assert kernel.shape == (3, 3, 64, 128)
    assert np.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02) and abs(np.mean(kernel)) < 0.001
    other = metrics.randomize_layer(wide, "conv_3", jax.random.key(1)).params["conv_3"]["kernel"]
    assert abs(np.corrcoef(kernel.ravel(), other.ravel())[0, 1]) < 0.02


def test_cascading_randomization(small):
    shown, key = images(2, 16, 16), jax.random.key(0)

    def edges(network, images, classes):
        return np.abs(np.diff(images.sum(axis=-1), axis=1, append=0))

    found = metrics.cascading_randomization(small, shown, edges, 1, key=key)
    assert found.layers == metrics.layers_from_top(small) and found.similarity.shape == (7, 2)
    np.testing.assert_allclose(found.rank_correlation, 1)
    np.testing.assert_allclose(found.similarity, 1)
    chosen = metrics.cascading_randomization(small, shown, visualize.gradient, 1, key=key, layers=["dense_1", "conv_1"])
    assert chosen.layers == ("dense_1", "conv_1")
    network = small
    for number, name in enumerate(metrics.layers_from_top(small)):
        network = metrics.randomize_layer(network, name, jax.random.fold_in(key, number))
    after, before = (visualize.gradient(one, shown, 1).reshape(2, -1) for one in (network, small))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(after, before, strict=True)]
    np.testing.assert_allclose(chosen.rank_correlation[1], expected, atol=1e-6)
    assert np.abs(chosen.rank_correlation[1]).max() < 0.5
    assert metrics.cascading_randomization(small, shown, edges, 1, key=key, layers=()).layers == found.layers
    with pytest.raises(UserError, match="window=1 of maps of 16×16 must be from 2"):
        metrics.structural_similarity(images(2, 16, 16)[..., 0], images(2, 16, 16)[..., 0], 1)
    with pytest.raises(UserError, match="unknown layer 'conv_9'"):
        metrics.cascading_randomization(small, shown, edges, key=key, layers=["conv_9"])
