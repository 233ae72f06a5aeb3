"""The likeliest classes of pictures in files, against one forward pass a picture and NumPy; and the command."""

import csv
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cnnjax import classify, formats, models
from cnnjax.cli import command_line
from cnnjax.cli.config import ModelConfig
from cnnjax.data import imagenet
from cnnjax.data.example_image import CHELSEA, load_picture
from cnnjax.data.normalize import fit
from cnnjax.errors import UserError

SCRIPT = Path(__file__).parent.parent / "experiments" / "classify.py"
SIDE = 32


def script():
    spec = importlib.util.spec_from_file_location("classify_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def network(names):
    """Parameters from NumPy, with biases, such that no class takes all."""
    config = ModelConfig(name="small-cnn", width=0.25)
    empty = nnx.eval_shape(lambda: models.create(config, side=SIDE, num_classes=len(names), seed=0))
    graph, shapes = models.split(empty)
    rng = np.random.default_rng(3)

    def fill(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    pictures = rng.integers(0, 256, (9, SIDE, SIDE, 3), np.uint8)
    return formats.network(graph, jax.tree.map(fill, shapes), config, SIDE, names, fit("standard", pictures))


@pytest.fixture(scope="module")
def five():
    return network(("cat", "dog", "rabbit", "husky", "lamp"))


@pytest.fixture(scope="module")
def two():
    return network(("cat", "dog"))


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of several sizes and kinds in two folders, one broken file, and files that are none."""
    rng = np.random.default_rng(1)
    place = tmp_path / "pictures"
    (place / "b").mkdir(parents=True)
    for index, (kind, size) in enumerate(
        [("png", 32), ("jpg", 80), ("webp", 40), ("png", 50), ("jpg", 33), ("png", 64)]
    ):
        rough = rng.integers(0, 256, (4, 5, 3), np.uint8)
        picture = Image.fromarray(rough).resize((size, size + 7), Image.Resampling.BILINEAR)
        picture.save(place / ("b" if index % 2 else "") / f"{index}.{kind}")
    (place / "broken.jpg").write_bytes((place / "b" / "1.jpg").read_bytes()[:200])
    (place / "notes.txt").write_text("no picture")
    (place / ".hidden.png").write_bytes(b"")
    return place


def expected(network, file):
    """float64 probabilities of one picture, from a forward pass of its own."""
    shown = load_picture(file, network.side, imagenet.crop(network.class_names))
    logits = np.asarray(network.forward(network.params, jnp.asarray(shown)[None])[0], np.float64)[0]
    if len(logits) == 1:
        return np.array([1 - 1 / (1 + np.exp(-logits[0])), 1 / (1 + np.exp(-logits[0]))])
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def check(network, answer):
    chances = expected(network, answer.file)
    order = np.argsort(-chances)[: len(answer.classes)]
    assert answer.classes == tuple(network.class_names[i] for i in order)
    np.testing.assert_allclose(answer.probabilities, chances[order], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_probabilities_are_those_of_one_picture_after_the_other(five, folder, batch):
    files = classify.find_pictures([folder])
    found = list(classify.classify(five, files, top=3, batch=batch))
    assert [one.file for one in found] == files
    (broken,) = [one for one in found if isinstance(one, classify.Broken)]
    assert broken.file == folder / "broken.jpg" and "truncated" in broken.reason.lower()
    answers = [one for one in found if isinstance(one, classify.Answer)]
    assert len(answers) == 6 and len({answer.classes for answer in answers}) > 1
    for answer in answers:
        assert len(answer.classes) == 3
        check(five, answer)


def test_two_classes_of_one_sigmoid_logit(two, folder):
    files = [file for file in classify.find_pictures([folder]) if file.name != "broken.jpg"]
    for answer in classify.classify(two, files):
        assert len(answer.classes) == 2 and sum(answer.probabilities) == pytest.approx(1)
        check(two, answer)


def test_a_large_logit_of_either_sign_keeps_its_small_probability():
    found = np.asarray(classify.probabilities(jnp.array([[-30.0], [30.0], [0.0]])))
    tiny = np.exp(-30) / (1 + np.exp(-30))
    np.testing.assert_allclose(found, [[1, tiny], [tiny, 1], [0.5, 0.5]], rtol=1e-5)


def test_imagenets_networks_see_the_middle_of_a_picture():
    wide = network(imagenet.class_names())
    (answer,) = classify.classify(wide, [CHELSEA])
    check(wide, answer)
    with Image.open(CHELSEA) as chelsea:
        height = chelsea.height * 7 / 8
        left, top = (chelsea.width - height) / 2, (chelsea.height - height) / 2
        middle = chelsea.convert("RGB").resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + height, top + height)
        )
    assert np.abs(answer.picture.astype(float) - np.asarray(middle, float)).mean() < 2


def test_one_program_serves_full_and_last_batches(five, folder, monkeypatch):
    traced = []
    forward = formats.Network.forward
    monkeypatch.setattr(
        formats.Network, "forward", lambda *args: traced.append(args[2].shape) or forward(*args), raising=True
    )
    list(classify.classify(five, classify.find_pictures([folder]), batch=3))
    assert traced == [(3, SIDE, SIDE, 3)]


def test_pictures_are_found_once_in_order(folder):
    files = classify.find_pictures([folder / "b" / "3.png", folder, folder / "notes.txt"])
    names = [file.relative_to(folder).as_posix() for file in files]
    assert names == ["b/3.png", "0.png", "2.webp", "4.jpg", "b/1.jpg", "b/5.png", "broken.jpg", "notes.txt"]


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        command_line.main(script(), [str(argument) for argument in arguments])
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
    good = [file for file in classify.find_pictures([folder]) if file.name != "broken.jpg"]
    assert [(row["file"], row["rank"]) for row in rows] == [(str(file), rank) for file in good for rank in ("1", "2")]
    for file, first, second in zip(good, rows[::2], rows[1::2], strict=True):
        chances = expected(five, file)
        order = np.argsort(-chances)[:2]
        assert [first["class"], second["class"]] == [five.class_names[i] for i in order]
        told = [float(first["probability"]), float(second["probability"])]
        np.testing.assert_allclose(told, chances[order], rtol=2e-4)
        assert f"{file}: {first['class']} {told[0]:.1%}, {second['class']} " in said.out
    assert re.search(r"left out: .*broken\.jpg cannot be read as a picture \(.*[Tt]runcated", said.out)
    assert f"wrote {out}/classify.png (6 of 6 pictures) and {out}/classify.csv" in said.out
    with Image.open(out / "classify.png") as figure:
        pixels = np.asarray(figure.convert("RGB"), float)
    # Each picture at its place at the left, blown up, and bars at the right.
    height = len(pixels) / 6
    side = round((height * 6 + 28) / 6 - 28)  # a gap of 14 CSS pixels, drawn at twice the size
    for row, answer in enumerate(classify.classify(five, good)):
        top = round(row * (side + 28))
        shown = Image.fromarray(np.uint8(pixels[top : top + side, :side])).resize((SIDE, SIDE), Image.Resampling.BOX)
        assert np.abs(np.asarray(shown, float) - answer.picture).mean() < 12
    assert (pixels[:, 400:] < 200).any(axis=-1).mean() > 0.02


def test_the_shipped_network_calls_the_cat_a_cat(tmp_path, capsys):
    assert run(CHELSEA, "--out", tmp_path / "out") == 0
    assert "chelsea.png: cat " in capsys.readouterr().out


def test_a_figure_of_many_pictures_is_spread_over_them(weights, tmp_path, capsys):
    place = tmp_path / "thirty"
    place.mkdir()
    for index in range(30):
        Image.new("RGB", (8, 8), (index * 8, 0, 0)).save(place / f"{index:02}.png")
    assert run(place, "--weights", weights, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "(12 of 30 pictures)" in said
    assert re.findall(r"/(\d\d)\.png: ", said) == [f"{i * 30 // 12:02}" for i in range(12)]
    assert len((tmp_path / "out" / "classify.csv").read_text().splitlines()) == 1 + 30 * 5
    for index in range(12):  # those that were shown
        (place / f"{index * 30 // 12:02}.png").write_bytes(b"broken")
    assert run(place, "--weights", weights, "--out", tmp_path / "again") == 0
    assert "(1 of 18 pictures)" in capsys.readouterr().out


def sentence(capsys, *arguments):
    assert run(*arguments) == 2
    said = capsys.readouterr().err.splitlines()
    return next(line for line in said if "error: " in line)


def test_bad_input_is_one_sentence(folder, weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out", "--weights", weights)
    assert "no picture was named" in sentence(capsys, *out)
    assert "there is no picture missing.png: give the path" in sentence(capsys, "missing.png", *out)
    assert re.search(r"the folder .*empty holds no pictures \(\.jpg", sentence(capsys, tmp_path / "empty", *out))
    none = sentence(capsys, folder / "broken.jpg", folder / "notes.txt", *out)
    assert "none of the 2 files could be read as a picture" in none
    assert "--top 0 and --batch 16 must be at least 1" in sentence(capsys, folder, "--top", 0, *out)
    assert "unknown weights 'imagenett': did you mean imagenet" in sentence(capsys, folder, "--weights", "imagenett")
    assert "there is no weights file nix/net.h5" in sentence(capsys, folder, "--weights", "nix/net.h5", *out[:2])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file on a full disk")
def test_a_full_disk_is_one_sentence(folder, weights, tmp_path, capsys):
    (tmp_path / "classify.csv").symlink_to("/dev/full")
    said = sentence(capsys, folder / "0.png", "--out", tmp_path, "--weights", weights)
    assert "classify.csv (No space left on device): make room, or choose another --out" in said


def test_convolutions_alone_classify_nothing(five):
    with pytest.raises(UserError, match="no classes, only convolutions"):
        next(classify.classify(five._replace(class_names=()), [CHELSEA]))
