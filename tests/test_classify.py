"""The most probable classes of images in files, against one forward pass for each image and NumPy; and the command."""

import csv
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
from flax import nnx
from PIL import Image

from cnnjax import Network, classify, formats, models
from cnnjax.cli import main as cli
from cnnjax.data import imagenet
from cnnjax.data.example_image import CHELSEA, load_image
from cnnjax.data.normalize import fit_normalizer, identity
from cnnjax.errors import UserError, missing

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 32


def network(names, image_size=SIDE, channels=3):
    """Parameters from NumPy, with biases, such that no class takes all."""
    logits = 1 if len(names) == 2 else len(names)
    model = random_networks.model(
        "small-cnn", num_classes=logits, image_size=image_size, channels=channels, width_multiplier=0.25
    )
    rng = np.random.default_rng(3)

    def fill(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    params = jax.tree.map(fill, models.split(model)[1])
    images = rng.integers(0, 256, (9, SIDE, SIDE, channels), np.uint8)
    made = Network.create(model, normalizer=fit_normalizer("standard", images), class_names=names)
    return made.replace(params=params)


@pytest.fixture(scope="module")
def five():
    return network(("cat", "dog", "rabbit", "husky", "lamp"))


@pytest.fixture(scope="module")
def two():
    return network(("cat", "dog"))


@pytest.fixture
def folder(tmp_path):
    """Seven images of several sizes and kinds in two folders, one broken file, and files that are none."""
    rng = np.random.default_rng(1)
    place = tmp_path / "images"
    (place / "b").mkdir(parents=True)
    for index, (kind, size) in enumerate(
        [("png", 32), ("jpg", 80), ("webp", 40), ("png", 50), ("jpg", 33), ("png", 64)]
    ):
        rough = rng.integers(0, 256, (4, 5, 3), np.uint8)
        image = Image.fromarray(rough).resize((size, size + 7), Image.Resampling.BILINEAR)
        image.save(place / ("b" if index % 2 else "") / f"{index}.{kind}")
    (place / "broken.jpg").write_bytes((place / "b" / "1.jpg").read_bytes()[:200])
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"")
    return place


def expected(network, file):
    """float64 probabilities of one image, from a forward pass of its own."""
    shown = load_image(file, network.image_size, imagenet.crop(network.class_names))
    logits = np.asarray(network(jnp.asarray(shown)[None])[0], np.float64)[0]
    if len(logits) == 1:
        return np.array([1 - 1 / (1 + np.exp(-logits[0])), 1 / (1 + np.exp(-logits[0]))])
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def check(network, prediction):
    chances = expected(network, prediction.file)
    order = np.argsort(-chances)[: len(prediction.classes)]
    assert prediction.classes == tuple(network.class_names[i] for i in order)
    np.testing.assert_allclose(prediction.probabilities, chances[order], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_probabilities_are_those_of_one_image_after_the_other(five, folder, batch):
    files = classify.find_images([folder])
    found = list(classify.classify(five, files, top=3, batch_size=batch))
    assert [one.file for one in found] == files
    (broken,) = [one for one in found if isinstance(one, classify.UnreadableImage)]
    assert broken.file == folder / "broken.jpg" and "truncated" in broken.reason.lower()
    predictions = [one for one in found if isinstance(one, classify.Prediction)]
    assert len(predictions) == 6 and len({prediction.classes for prediction in predictions}) > 1
    for prediction in predictions:
        assert len(prediction.classes) == 3
        check(five, prediction)


def test_two_classes_of_one_sigmoid_logit(two, folder):
    files = [file for file in classify.find_images([folder]) if file.name != "broken.jpg"]
    for prediction in classify.classify(two, files):
        assert len(prediction.classes) == 2 and sum(prediction.probabilities) == pytest.approx(1)
        check(two, prediction)


class Brightness(nnx.Module):
    """One logit: the mean of the image, from -30 to 30."""

    def __call__(self, images):
        return (images.mean(axis=(1, 2, 3))[:, None] - 0.5) * 60


def test_a_large_logit_of_either_sign_keeps_its_small_probability():
    dark = Network.create(Brightness(), normalizer=identity(), image_size=2, channels=1)
    images = np.broadcast_to(np.array([0.0, 1.0, 0.5], np.float32)[:, None, None, None], (3, 2, 2, 1))
    tiny = np.exp(-30) / (1 + np.exp(-30))
    np.testing.assert_allclose(dark.probabilities(images), [[1, tiny], [tiny, 1], [0.5, 0.5]], rtol=1e-5)


def test_grey_and_oblong_images(folder):
    grey = network(("a", "b", "c"), (32, 48), 1)
    for found in classify.classify(grey, [folder / "0.png", folder / "b" / "1.jpg"]):
        assert found.image.shape == (32, 48, 1)
        colour = load_image(found.file, (32, 48)) * 255
        assert np.abs(found.image[..., 0] - colour @ np.array([0.299, 0.587, 0.114])).max() < 1
        np.testing.assert_allclose(sum(found.probabilities), 1, rtol=1e-5)
        expected = np.asarray(grey.probabilities(jnp.asarray(found.image[None], jnp.float32) / 255))[0]
        np.testing.assert_allclose(found.probabilities, np.sort(expected)[::-1], rtol=1e-4)


def test_imagenets_networks_see_the_middle_of_a_image():
    wide = network(imagenet.class_names())
    (prediction,) = classify.classify(wide, [CHELSEA])
    check(wide, prediction)
    with Image.open(CHELSEA) as chelsea:
        height = chelsea.height * 7 / 8
        left, top = (chelsea.width - height) / 2, (chelsea.height - height) / 2
        middle = chelsea.convert("RGB").resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + height, top + height)
        )
    assert np.abs(prediction.image.astype(float) - np.asarray(middle, float)).mean() < 2


def test_one_program_serves_full_and_last_batches(five, folder):
    before = classify._top_classes._cache_size()
    list(classify.classify(five, classify.find_images([folder]), top=4, batch_size=3))
    assert classify._top_classes._cache_size() == before + 1


def test_images_are_found_once_in_order(folder):
    files = classify.find_images([folder / "b" / "3.png", folder, folder / "notes.txt"])
    names = [file.relative_to(folder).as_posix() for file in files]
    assert names == ["b/3.png", "0.png", "2.webp", "4.jpg", "b/1.jpg", "b/5.png", "broken.jpg", "notes.txt"]


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["classify", *(str(argument) for argument in arguments)])
    return stop.value.code


@pytest.fixture(scope="module")
def weights(five, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "five.safetensors"
    formats.save(path, five)
    return path


def test_the_command_prints_draws_and_writes_a_table(five, folder, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "--weights", weights, "--out", out, "--top", 2) == 0
    said = capsys.readouterr()
    with (out / "classify.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    good = [file for file in classify.find_images([folder]) if file.name != "broken.jpg"]
    assert [(row["file"], row["rank"]) for row in rows] == [(str(file), rank) for file in good for rank in ("1", "2")]
    for file, first, second in zip(good, rows[::2], rows[1::2], strict=True):
        chances = expected(five, file)
        order = np.argsort(-chances)[:2]
        assert [first["class"], second["class"]] == [five.class_names[i] for i in order]
        told = [float(first["probability"]), float(second["probability"])]
        np.testing.assert_allclose(told, chances[order], rtol=2e-4)
        assert f"{file}: {first['class']} {told[0]:.1%}, {second['class']} " in said.out
    assert re.search(r"left out: .*broken\.jpg cannot be read as an image \(.*[Tt]runcated", said.out)
    assert f"wrote {out}/classify.png (6 of 6 images) and {out}/classify.csv" in said.out
    with Image.open(out / "classify.png") as figure:
        pixels = np.asarray(figure.convert("RGB"), float)
    # Each image at its place at the left, blown up, and bars at the right.
    height = len(pixels) / 6
    side = round((height * 6 + 28) / 6 - 28)  # a gap of 14 CSS pixels, drawn at twice the size
    for row, prediction in enumerate(classify.classify(five, good)):
        top = round(row * (side + 28))
        shown = Image.fromarray(np.uint8(pixels[top : top + side, :side])).resize((SIDE, SIDE), Image.Resampling.BOX)
        assert np.abs(np.asarray(shown, float) - prediction.image).mean() < 12
    assert (pixels[:, 400:] < 200).any(axis=-1).mean() > 0.02


def test_the_bundled_network_calls_the_cat_a_cat(tmp_path, capsys):
    assert run(CHELSEA, "--out", tmp_path / "out") == 0
    assert "chelsea.png: cat " in capsys.readouterr().out


def test_a_figure_of_many_images_is_spread_over_them(weights, tmp_path, capsys):
    place = tmp_path / "thirty"
    place.mkdir()
    for index in range(30):
        Image.new("RGB", (8, 8), (index * 8, 0, 0)).save(place / f"{index:02}.png")
    assert run(place, "--weights", weights, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "(12 of 30 images)" in said
    assert re.findall(r"/(\d\d)\.png: ", said) == [f"{i * 30 // 12:02}" for i in range(12)]
    assert len((tmp_path / "out" / "classify.csv").read_text().splitlines()) == 1 + 30 * 5
    for index in range(12):  # those that were shown
        (place / f"{index * 30 // 12:02}.png").write_bytes(b"broken")
    assert run(place, "--weights", weights, "--out", tmp_path / "again") == 0
    assert "(1 of 18 images)" in capsys.readouterr().out


def sentence(capsys, *arguments):
    assert run(*arguments) == 2
    said = capsys.readouterr().err.splitlines()
    return next(line for line in said if "error: " in line)


def test_bad_input_is_one_sentence(folder, weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out", "--weights", weights)
    assert "no image was named" in sentence(capsys, *out)
    assert "there is no image missing.png: give the path" in sentence(capsys, "missing.png", *out)
    assert re.search(r"the folder .*empty contains no images \(\.jpg", sentence(capsys, tmp_path / "empty", *out))
    none = sentence(capsys, folder / "broken.jpg", folder / "notes.txt", *out)
    assert "none of the 2 files could be read as an image" in none
    (tmp_path / "out" / "classify.csv").write_text("of an earlier call")
    assert re.search("--top.0 must be at least 1", sentence(capsys, folder, "--top", 0, *out))
    assert (tmp_path / "out" / "classify.csv").read_text() == "of an earlier call"
    assert "unknown weights 'imagenett': did you mean imagenet" in sentence(capsys, folder, "--weights", "imagenett")
    assert "there is no weights file nix/net.h5" in sentence(capsys, folder, "--weights", "nix/net.h5", *out[:2])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file on a full disk")
def test_a_full_disk_is_one_sentence(folder, weights, tmp_path, capsys):
    (tmp_path / "classify.csv").symlink_to("/dev/full")
    said = sentence(capsys, folder / "0.png", "--out", tmp_path, "--weights", weights)
    assert "classify.csv (No space left on device): free some space, or choose another --out" in said


def test_convolutions_alone_classify_nothing(five):
    with pytest.raises(UserError, match="no classes, only convolutions"):
        next(classify.classify(five.replace(class_names=()), [CHELSEA]))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("photo/cat.jpg", "photos"),
        ("photos/kat.jpg", "photos/cat.jpg"),
        ("photos/zebra.jpg", None),
        ("elsewhere/cat.jpg", None),
        ("photos/cat.jpg/1.jpg", None),
    ],
)
def test_a_missing_path_gets_the_nearest_that_exists(tmp_path, given, meant):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    advice = f" (did you mean {tmp_path / meant}?)" if meant else ""
    found = str(missing("there is no image", tmp_path / given, "…"))
    assert found == f"there is no image {tmp_path / given}{advice}: …"


def test_a_path_that_no_system_can_have_is_missing(tmp_path):
    for path in ("null\0byte", "x" * 5000, str(tmp_path)):
        assert str(missing("there is no image", path, "…")) == f"there is no image {path}: …"
