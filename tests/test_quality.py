"""Measures of quality against NumPy, SciPy and cases whose answer is known."""

import json

import numpy as np
import pytest
import random_networks
import scipy.ndimage
import scipy.stats
import tiny
from flax import nnx
from oracles import keras_vis
from PIL import Image as PIL

from cnnjax import data as sources
from cnnjax import formats, visualize
from cnnjax.cli import quality as command
from cnnjax.cli import visualize as commands
from cnnjax.data.dataset import ArraySplit
from cnnjax.errors import UserError
from cnnjax.visualize import Image, quality
from cnnjax.visualize.atlas.statistics import collect
from cnnjax.visualize.quality import moves

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 12


def photos(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def forward(pixels):
    return keras_vis.forward(keras_vis.parameters(SIDE), pixels.astype(np.float64))


@pytest.fixture(scope="module")
def network():
    return tiny.network()


@pytest.fixture(scope="module")
def data():
    """Noise, of another colour in each class."""
    labels = np.arange(60, dtype=np.int32) % 3
    tints = np.asarray([[1, 0.3, 0.1], [0.2, 1, 0.4], [0.5, 0.1, 1]])[labels]
    return ArraySplit((photos(60, seed=1) * tints[:, None, None]).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def drawn():
    """Two filters of each of two layers, and three classes."""
    pixels = photos(7, seed=2)
    filters = [("conv_1", 0), ("conv_2", 3), ("conv_1", 2), ("conv_2", 1)]
    notes = [{"kind": "filter", "layer": layer, "channel": channel} for layer, channel in filters]
    notes += [{"kind": "class", "class": name} for name in tiny.NAMES]
    return [Image(one, note) for one, note in zip(pixels, notes, strict=True)]


def value(image, pixels):
    logits, activations = forward(pixels)
    notes = image.provenance
    if notes["kind"] == "class":
        return logits[tiny.NAMES.index(notes["class"])]
    return activations[notes["layer"]][..., notes["channel"]].mean()


def test_values_are_those_of_numpy(network, drawn):
    found = quality.values_of(drawn, network)
    np.testing.assert_allclose(found, [value(image, image.pixels) for image in drawn], rtol=1e-4)
    other = photos(7, seed=5)
    found = quality.values_of(drawn, network, other)
    np.testing.assert_allclose(found, [value(*pair) for pair in zip(drawn, other, strict=True)], rtol=1e-4)


def test_activations_are_compared_with_those_on_data(network, data, drawn):
    statistics = collect(network, data, {"conv_1": 4, "conv_2": 5}, batch_size=16)
    found = quality.compare_activations(drawn, network, statistics)
    for image, one in zip(drawn[:4], found, strict=False):
        layer, channel = image.provenance["layer"], image.provenance["channel"]
        means = np.stack([forward(photo)[1][layer].mean((0, 1)) for photo in data.images])
        own = forward(image.pixels)[1][layer].mean((0, 1))
        assert one["over_maximum"] == pytest.approx(own[channel] / means[:, channel].max(), rel=1e-4)
        assert one["over_percentile"] == pytest.approx(own[channel] / np.quantile(means[:, channel], 0.999), rel=1e-4)
        scores = (own - means.mean(0)) / means.std(0)
        assert one["rank"] == 1 + (scores > scores[channel]).sum() and one["ranked_channels"] == len(own)
    assert found[4:] == [{}] * 3
    ranks = [one["rank"] for one in found[:4]]
    assert len(set(ranks)) > 1, "a case where all ranks are the same would show little"


def test_a_channel_that_is_silent_on_data_has_no_ratio(data, drawn):
    bias = keras_vis.parameters(SIDE)["bias_2"]
    bias[3] = -1e3
    quiet = tiny.network(bias_2=bias)
    statistics = collect(quiet, data, {"conv_1": 4, "conv_2": 5}, batch_size=16)
    found = quality.compare_activations(drawn[:2], quiet, statistics)[1]
    assert found == {"over_maximum": None, "over_percentile": None, "rank": None, "ranked_channels": 4}


def test_a_twin_recognizes_by_names(network, drawn):
    p = keras_vis.parameters(SIDE)
    order = [2, 0, 1]
    twin = tiny.network(
        dense=p["dense"][:, order], bias=p["bias"][order], names=tuple(tiny.NAMES[index] for index in order)
    )
    logits = np.stack([forward(image.pixels)[0] for image in drawn[4:]])
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = quality.recognized(drawn[4:], network, twin)
    np.testing.assert_allclose(found.probabilities, np.diag(odds), rtol=1e-4)
    np.testing.assert_array_equal(found.likeliest, logits.argmax(1) == np.arange(3))
    np.testing.assert_allclose(found.twin_probabilities, found.probabilities, rtol=1e-4)
    np.testing.assert_array_equal(found.twin_likeliest, found.likeliest)
    assert quality.recognized(drawn[4:], network).twin_likeliest is None
    with pytest.raises(UserError, match="does not know the class 'rabbit'"):
        quality.recognized(drawn[4:], tiny.network(names=("a", "b", "c")))


def test_moving_and_turning_are_scipys():
    images = photos(2, seed=3)
    for shift in ((8, 0), (-3, 0), (0, 2), (0, -8)):
        expected = scipy.ndimage.shift(images, (0, *shift, 0), order=0, mode="nearest")
        np.testing.assert_array_equal(moves.moved_by(images, *shift), expected)
    np.testing.assert_array_equal(moves.turned_by(images, 90), np.rot90(images, -1, (1, 2)))
    expected = scipy.ndimage.rotate(images.astype(float), -5, (1, 2), reshape=False, order=1, mode="nearest")
    assert np.abs(moves.turned_by(images, 5) - expected).max() <= 1


def test_what_is_kept_is_the_least_of_each_kind(network, drawn):
    found = quality.robustness(drawn, network, shift=2)
    for image, one in zip(drawn, found, strict=True):
        before = value(image, image.pixels)
        if before <= 0:
            assert one == {"shift": None, "rotation": None, "jpeg": None}
            continue
        shifted = [moves.moved_by(image.pixels[None], *by)[0] for by in ((2, 0), (-2, 0), (0, 2), (0, -2))]
        assert one["shift"] == pytest.approx(min(value(image, pixels) for pixels in shifted) / before, rel=1e-3)
        jpeg = moves.as_jpeg(image.pixels[None], 75)[0]
        assert one["jpeg"] == pytest.approx(value(image, jpeg) / before, rel=1e-3)
    assert any(one["shift"] is not None for one in found)
    flat = [Image(np.full((SIDE, SIDE, 3), 90, np.uint8), drawn[1].provenance)]
    kept = quality.robustness(flat, network)[0]
    assert [kept[name] for name in ("shift", "rotation", "jpeg")] == pytest.approx([1, 1, 1], abs=0.02)


@pytest.mark.parametrize("similarity", ["spearman", "pearson", "cosine"])
def test_similarities_are_scipys(similarity):
    first, second = np.random.default_rng(0).integers(0, 6, (2, 3, 9)).astype(float)
    oracle = {
        "spearman": lambda a, b: scipy.stats.spearmanr(a, b).statistic,
        "pearson": lambda a, b: scipy.stats.pearsonr(a, b).statistic,
        "cosine": lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b),
    }[similarity]
    expected = [[oracle(a, b) for b in second] for a in first]
    np.testing.assert_allclose(quality.similarities(first, second, similarity), expected, rtol=1e-9, atol=1e-12)


def test_the_path_of_a_kind_is_one_and_that_of_any_other_nought():
    """Natural images of two kinds; drawn ones of the first kind, of the second, and of neither."""
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(3, 200))
    natural = np.concatenate([kind + 0.8 * generator.normal(size=(12, 200)) for kind in kinds[:2]])
    drawn = np.stack([kind + 0.8 * generator.normal(size=200) for kind in kinds])
    same, other = [range(12)] * 3, [range(12, 24)] * 3
    for similarity in ("spearman", "pearson", "cosine"):
        found = quality.path_similarity({"a": drawn}, {"a": natural}, same, other, similarity=similarity)["a"]
        np.testing.assert_allclose(found, [1, 0, 0], atol=0.25)
        # By hand, for one of them.
        sims = [quality.similarities(drawn[:1], rows, similarity).mean() for rows in (natural[:12], natural[12:])]
        pairs = quality.similarities(natural[:12], natural[:12], similarity)[~np.eye(12, dtype=bool)].mean()
        across = quality.similarities(natural[:12], natural[12:], similarity).mean()
        assert found[0] == pytest.approx((sims[0] - across) / (pairs - across))
    alike = {"a": np.stack([natural[0]] * 24)}
    assert np.isnan(quality.path_similarity({"a": drawn}, alike, same, other)["a"]).all()
    with pytest.raises(UserError, match="at least two natural images"):
        quality.path_similarity({"a": drawn}, {"a": natural}, [[0]] * 3, other)


def test_all_of_it_goes_into_the_provenance(network, data, drawn):
    told = []
    twin = tiny.network(dense=-keras_vis.parameters(SIDE)["dense"])
    found = quality.assess(drawn, network, data, class_names=tiny.NAMES, twin=twin, on_progress=told.append)
    assert sum(told) == 60 and len(found) == 7
    for image, before in zip(found, drawn, strict=True):
        assert "quality" not in before.provenance and np.array_equal(image.pixels, before.pixels)
        one = json.loads(json.dumps(image.provenance))["quality"]
        assert {"shift", "rotation", "jpeg", "path", "path_median"} <= set(one)
        assert list(one["path"]) == ["conv_1", "pool_1", "conv_2"]
        extra = {"recognized", "recognized_by_twin"} if image.provenance["kind"] == "class" else {"rank"}
        assert extra <= set(one)
    sentence = quality.summarize(found)
    for part in ("below 1", "of 4 drive", "of 3 recognized by the network", "by its twin", "under JPEG", "path like"):
        assert part in sentence
    assert quality.summarize(drawn) == ""
    plain = quality.assess(drawn[4:], network, data)
    assert all("path" not in image.provenance["quality"] for image in plain), "of classes without names of labels"


def test_an_image_of_the_data_takes_its_path_and_one_of_another_kind_does_not(network):
    """Data of two kinds, bright at the left and bright at the right; an image of the first kind, one of the second."""
    ramp = np.linspace(0, 200, SIDE)[None, None, :, None] + np.zeros((30, SIDE, SIDE, 3))
    pictures = np.concatenate([ramp, ramp[:, :, ::-1]]) + np.random.default_rng(0).uniform(0, 55, (60, SIDE, SIDE, 3))
    tint = np.concatenate([np.full(30, 1.0), np.full(30, 0.2)])[:, None, None, None] * [1.0, 0.6, 0.1]
    data = ArraySplit((pictures * tint).astype(np.uint8), np.repeat(np.arange(2, dtype=np.int32), 30))
    names = ("left", "right")
    pair = tiny.network(logits=1, names=names)
    images = [Image(data.images[i], {"kind": "class", "class": "left"}) for i in (*range(9, 19), *range(40, 50))]
    found = quality.assess(images, pair, data, class_names=names)
    paths = np.asarray([image.provenance["quality"]["path_median"] for image in found])
    assert paths[:10].mean() == pytest.approx(1, abs=0.3) and paths[10:].mean() == pytest.approx(0, abs=0.3)


def test_the_command_compares_with_a_folder_of_images_and_prints(network, drawn, tmp_path, capsys):
    for number, pixels in enumerate(photos(20, seed=8)):
        PIL.fromarray(pixels).save(tmp_path / f"{number}.png")
    flags = command.Flags(True, f"folder:{tmp_path}", 1)
    comparison = command.prepare(network, None, flags)._replace(twin=network)
    found = command.measure(drawn, network, visualize.RECIPES["filters"], comparison)
    printed = capsys.readouterr().out
    assert "compared with 20 images" in printed and "of 3 recognized by its twin" in printed
    line = command.describe(found[0])
    assert "× the data's maximum, rank" in line and "kept under shift" in line
    assert "; path 0.5" in command.describe(Image(photos(1)[0], {"quality": {"path_median": 0.5}}))
    unranked = {"quality": {"over_maximum": 0.9, "rank": None, "ranked_channels": 0}}
    assert command.describe(Image(photos(1)[0], unranked)) == "; 0.9 × the data's maximum"
    assert command.describe(found[4]).count("recognized") == 1 and command.describe(drawn[0]) == ""


def test_the_names_of_the_data_are_its_own(network, monkeypatch):
    """The embedded data set renders all of its classes for a network that has others."""
    rendered = sources.from_arrays(photos(8), np.arange(8) % 2, valid=2, test=2, class_names=("lamp", "bridge"))
    monkeypatch.setattr(sources.procedural, "load", lambda *_, **__: rendered)
    flags = command.Flags(True, "procedural", 1)
    assert command.prepare(network, None, flags).data.class_names == ("lamp", "bridge")
    with pytest.raises(UserError, match="procedural have 3 channels, and the network takes 1: compare with .*folder:"):
        command.prepare(tiny.flax(tiny.Plain(1, rngs=nnx.Rngs(0)), (SIDE, SIDE), 1), None, flags)
    with pytest.raises(UserError, match="rendered images are square, and the network takes 12×16: compare with .*fold"):
        command.prepare(tiny.flax(tiny.Plain(3, rngs=nnx.Rngs(0)), (12, 16), 3), None, flags)


def test_a_twin_that_cannot_judge_is_refused_before_anything_is_drawn(network, monkeypatch):
    names = {
        "convolutions": random_networks.network("vgg11", 32, (), width_multiplier=0.05, include_top=False),
        "larger": random_networks.network("vgg11", 32, width_multiplier=0.05),
        "others": tiny.network(names=("hammer", "lamp", "bridge")),
    }
    monkeypatch.setattr(formats, "resolve", names.get)
    for name, sentence in (
        ("convolutions", "--twin convolutions has no classes, only convolutions: give weights with their dense layers"),
        ("larger", "--twin larger classifies images of 32×32, and those drawn have 64×64: give"),
        ("others", "--twin others does not know the class 'rabbit': give a network of the same classes"),
    ):
        with pytest.raises(UserError, match=sentence):
            flags = command.Flags(True, "procedural", 1, name)
            command.prepare(network, None if name == "others" else 64, flags, tiny.NAMES)


def test_images_are_kept_when_the_data_cannot_be_read(network, tmp_path, monkeypatch):
    for number, pixels in enumerate(photos(3)):
        PIL.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    monkeypatch.setattr(commands, "load", lambda *_: network)
    options = {"quality": True, "quality_images": f"folder:{tmp_path}", "steps": 4, "recipe": "quick"}
    with pytest.raises(UserError, match="2.png cannot be read as an image"):
        commands.filters(layer="conv_1", channels=(0, 1), out=tmp_path / "out", **options)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_images_of_one_kind_and_size_only(network, data, drawn):
    with pytest.raises(UserError, match="not of the kind 'layer'"):
        quality.assess([Image(drawn[0].pixels, {"kind": "layer", "layer": "conv_1"})], network, data)
    with pytest.raises(UserError, match="images of 2 sizes"):
        quality.assess([drawn[0], Image(drawn[0].pixels[:6], drawn[0].provenance)], network, data)


def test_what_is_compared_with_is_checked(network, data, drawn):
    shown = np.random.default_rng(0).random((2, *network.image_shape), np.float32)
    for images in (shown, np.rint(255 * shown).astype(np.uint8)):
        expected = np.asarray(network(images)[1]["conv_1"]).mean(axis=(1, 2))
        np.testing.assert_allclose(quality.channel_means(network, images, ["conv_1"])["conv_1"], expected, rtol=1e-4)
    with pytest.raises(UserError, match="divide them by 255"):
        quality.channel_means(network, 255 * shown, ["conv_1"])
    with pytest.raises(UserError, match="unknown layer 'conv1': did you mean conv_1"):
        quality.channel_means(network, shown, ["conv1"])
    with pytest.raises(UserError, match="unknown layer 'conv1': did you mean conv_1"):
        quality.assess(drawn, network, data, layers=["conv1"])
    with pytest.raises(UserError, match="is no seed of its own"):
        quality.assess(drawn, network, data, seed=2**40)
    with pytest.raises(UserError, match="no images to compare with"):
        quality.assess(drawn, network, ArraySplit(shown[:0], np.zeros(0, np.int32)))


def test_what_cannot_be_read_is_said_before_anything_is_drawn(network, tmp_path, monkeypatch):
    """Drawing takes minutes: all of it would be lost."""
    monkeypatch.setattr(commands, "load", lambda *_: network)
    monkeypatch.setattr(visualize, "render_classes", None)
    monkeypatch.setattr(visualize, "render_filters", None)
    options = {"out": tmp_path / "out"}
    with pytest.raises(UserError, match="did you mean vgg16-twin"):
        commands.classes(twin="vgg16-twn", **options)
    with pytest.raises(UserError, match="there is no image"):
        commands.filters(layer="conv_1", quality=True, quality_images=f"folder:{tmp_path / 'none'}", **options)
    with pytest.raises(UserError, match="0 images of each class leave nothing"):
        commands.filters(layer="conv_1", quality=True, quality_per_class=0, **options)
    with pytest.raises(UserError, match="no effect without --quality"):
        commands.filters(layer="conv_1", quality_per_class=3, **options)
    assert not (tmp_path / "out").exists()


def test_labels_may_be_distributions(network, drawn):
    images, labels = photos(12, seed=3), np.arange(12) % 2
    pair = tiny.network(logits=1, names=("left", "right"))
    made = [Image(images[0], {"kind": "class", "class": "left"})]
    hard, soft = (
        quality.assess(made, pair, ArraySplit(images, given), class_names=("left", "right"))
        for given in (labels.astype(np.int32), np.eye(2, dtype=np.float32)[labels] * 0.8 + 0.1)
    )
    assert hard[0].provenance == soft[0].provenance
