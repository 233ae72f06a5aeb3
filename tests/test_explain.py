"""The command `explain`: its files, what it says, and one sentence for what it cannot do; and the sheet it draws."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import Network, figures, formats, models, visualize
from cnnjax.cli import explain as cli_explain
from cnnjax.cli import main as cli
from cnnjax.data.example_image import chelsea_face, load_image
from cnnjax.data.normalize import identity
from cnnjax.figures.overlays import overlay

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 16
QUICK = ("gradient", "grad-cam", "integrated-gradients")


@pytest.fixture(scope="module")
def network():
    model = models.create("small-cnn", num_classes=1, image_size=SIDE, width_multiplier=0.25)
    return Network.create(model, normalizer=identity(), class_names=("cat", "dog"))


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pair.safetensors"
    formats.save(path, network)
    return path


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    place = tmp_path / "images"
    (place / "b").mkdir(parents=True)
    for name in ("one.png", "b/one.png"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(place / name)
    return place


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", *(str(argument) for argument in arguments)])
    return stop.value.code


def test_it_writes_the_sheet_and_every_heat_map(network, weights, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run(folder, "--weights", weights, "--methods", *QUICK, "--layer", "conv_2", "--class-name", "dog", "--out", out)
        == 0
    )
    said = capsys.readouterr().out
    shown = np.stack([load_image(folder / name, SIDE) for name in ("b/one.png", "one.png")])
    odds = np.asarray(jax.jit(Network.probabilities)(network, jnp.asarray(shown)))
    for name, (_, dog) in zip(("b/one", "images/one"), odds, strict=True):
        assert f"{name}: dog {dog:.1%}" in said
        assert re.search(rf"integrated-gradients: {name} differs from black by -?[\d.e-]+; the sum of its map is", said)
    assert f"wrote {out}/explain.png and each heat map beside it (2 × 3 PNG files)" in said
    names = {f"{name}-{method}.png" for name in ("b-one", "images-one") for method in QUICK}
    assert {file.name for file in out.iterdir()} == names | {"explain.png"}
    heat = visualize.to_display(visualize.grad_cam(network, shown, "dog", "conv_2"))
    for index, name in enumerate(("b-one", "images-one")):
        with Image.open(out / f"{name}-grad-cam.png") as written:
            expected = 255 * overlay(shown[index], heat[index])
            np.testing.assert_allclose(np.asarray(written), expected, atol=1)
    with Image.open(out / "explain.png") as sheet:
        assert sheet.width > 1000


def test_rise_is_dark_where_its_map_is_smallest(network, weights, folder, tmp_path, monkeypatch):
    """Its values are probabilities, none of which need be near 0."""
    shown = {}
    monkeypatch.setattr(cli_explain.figures, "attribution_sheet", lambda images, maps, *_: shown.update(maps))
    assert run(folder, "--weights", weights, "--methods", "rise", "gradient", "--out", tmp_path / "out") == 0
    found = visualize.rise(network, np.stack([load_image(folder / name, SIDE) for name in ("b/one.png", "one.png")]))
    assert found.min() > 0.1
    for one, plain in zip(shown["rise"], found, strict=True):
        assert one.min() == 0 and np.median(one) == pytest.approx(
            np.median(plain - plain.min()) / np.percentile(plain - plain.min(), 99.5), abs=0.1
        )


def test_without_images_it_is_the_cat(network, weights, tmp_path, capsys):
    assert run("--weights", weights, "--methods", "gradient", "--out", tmp_path) == 0
    odds = np.asarray(jax.jit(Network.probabilities)(network, chelsea_face(SIDE)[None]))[0]
    likeliest = ("cat", "dog")[int(odds.argmax())]
    assert f"chelsea: {likeliest} {odds.max():.1%}" in capsys.readouterr().out
    assert (tmp_path / "chelsea-gradient.png").is_file()


def test_bad_input_is_one_sentence(network, weights, folder, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    bare = tmp_path / "bare.safetensors"
    many = tmp_path / "many"
    many.mkdir()
    for index in range(13):
        Image.new("RGB", (4, 4)).save(many / f"{index}.png")
    model = models.create("vgg11", image_size=32, width_multiplier=0.02, include_top=False)
    formats.save(bare, Network.create(model, normalizer=identity(), class_names=()))
    for words, sentence in (
        ((folder, "--methods", "grad-cm"), "unknown method 'grad-cm': did you mean grad-cam"),
        ((folder, "--layer", "conv_9"), "unknown layer 'conv_9': did you mean conv_"),
        ((folder, "--layer", "fc1"), "The layers are conv_1, "),
        ((folder, "--layer", "dense_1"), "'dense_1' has no maps"),
        (
            (folder, "--layer", "conv_1", "--methods", "gradient", "rise"),
            "--layer has no effect on gradient, rise",
        ),
        ((folder, "--class-name", "dgo"), "unknown class 'dgo': did you mean dog"),
        ((tmp_path / "broken.png",), "broken.png cannot be read as an image"),
        ((tmp_path / "missing.png",), "missing.png: give the path"),
        ((many,), "13 images are too many for one figure: name 12 at most"),
        ((folder, "--batch-size", 0), "--batch-size 0 must be at least 1"),
        ((folder, "--weights", bare), "without its dense layers"),
        ((folder, "--methods"), "no method was named"),
    ):
        chosen = () if "--weights" in words else ("--weights", weights)
        assert run(*words, *chosen, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if "error: " in line]
        assert len(lines) == 1 and sentence in lines[0] and "Traceback" not in said, said
        assert not (tmp_path / "out").exists()


def test_no_two_names_are_alike(network, folder):
    for place in ("one", "two", "three"):
        (folder / place).mkdir(exist_ok=True)
    files = [
        folder / "one" / "a.png",
        folder / "two" / "a.png",
        folder / "three" / "a-2.png",
        folder / "one" / "a b.png",
    ]
    for file in files:
        Image.new("RGB", (4, 4)).save(file)
    names = cli_explain.labels(files)
    assert names == ["one/a", "two/a", "a-2", "a b"] and len(cli_explain._read(network, files)) == 4
    assert cli_explain._file_names(names) == ["one-a", "two-a", "a-2", "a-b"]
    twice = [Path("x/a.png"), Path("x/a.jpg"), Path("y/x/b.png"), Path("z/x/b.png"), Path("c.png"), Path("c.png")]
    assert cli_explain.labels(twice) == ["a.png", "a.jpg", "y/x/b", "z/x/b", "c", "c"]
    assert cli_explain._file_names(["c", "c", "a/b", "a-b"]) == ["c", "c-2", "a-b", "a-b-2"]
    assert cli_explain.labels([]) == ["chelsea"]


def test_the_sheet_has_a_row_for_each_image_and_a_column_for_each_method(tmp_path):
    images = [np.zeros((8, 8, 3)), np.ones((8, 8, 1))]
    maps = {"a-method-with-a-long-name": [np.ones((8, 8)), np.zeros((8, 8))], "b": [np.zeros((8, 8))] * 2}
    figure = figures.attribution_sheet(images, maps, ["first", "second"], tmp_path / "sheet.png")
    with Image.open(figure) as opened:
        pixels = np.asarray(opened.convert("RGB"), float) / 255
    side, gap, scale = (760 - 16) / 3, 8, 2
    for row, image in enumerate(images):
        for column, shown in enumerate([image, *(overlay(image, found[row], 0.65) for found in maps.values())]):
            y = scale * (34 + row * (24 + side + gap) + 24 + side / 2)
            x = scale * (column * (side + gap) + side / 2)
            expected = np.broadcast_to(shown[4, 4], 3)
            np.testing.assert_allclose(pixels[round(y), round(x)], expected, atol=0.02)
