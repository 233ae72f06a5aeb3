"""Films of an ascent and of training: their frames are the images that `render` draws, and the files can be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import tiny
from flax import nnx
from PIL import Image, ImageSequence

from cnnjax import Network, formats, visualize
from cnnjax.cli import film
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import Recipe, Stage, films

pytestmark = pytest.mark.usefixtures("quickly_compiled")
OBJECTIVE = visualize.channel("conv_2", [1, 0, 2])


def network(seed: int = 0, width: float = 0.1) -> Network:
    model = random_networks.model("small-cnn", num_classes=2, image_size=16, width_multiplier=width, seed=seed)
    return Network.create(model, normalizer=normalize.identity(), class_names=("cat", "dog"))


@pytest.fixture(scope="module")
def recorded():
    recorder = films.Recorder(every=5)
    images = visualize.render(
        network(), OBJECTIVE, recipe="lucid", steps=12, batch_size=2, frames=recorder, on_progress=lambda done: None
    )
    return images, recorder.films()


def test_frames_are_the_images_on_the_way(recorded):
    images, made = recorded
    assert len(made) == 3 and {one.titles for one in made} == {("step 0", "step 5", "step 10", "step 12")}
    assert made[0].frames.shape == (4, 16, 16, 3) and made[0].frames.dtype == np.uint8
    shorter = films.Recorder(every=5)
    visualize.render(network(), OBJECTIVE[2], recipe="lucid", steps=5, frames=shorter)
    # The third filter alone, five steps long, ends where the film's second frame is.
    assert np.abs(made[2].frames[1].astype(int) - shorter.films()[0].frames[-1]).max() <= 2
    assert np.abs(made[2].frames[1].astype(int) - made[2].frames[0]).mean() > 2
    # Who watches changes nothing.
    for image, other in zip(images, visualize.render(network(), OBJECTIVE, recipe="lucid", steps=12), strict=True):
        assert np.abs(image.pixels.astype(int) - other.pixels).max() <= 2


@pytest.mark.parametrize("name, exact", [("a.gif", False), ("a.webp", True), ("a.png", True)])
def test_files_hold_every_frame_and_repeat(recorded, tmp_path, name, exact):
    made = recorded[1][0]
    path = made.save(tmp_path / name, milliseconds=40, scale=2)
    with Image.open(path) as opened:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
        assert opened.info.get("loop", 0) == 0
    height, width, _ = frames[0].shape
    assert len(frames) == 4 and height == 32 + films.TITLE + 5 and 32 < width < 64
    left = (width - 32) // 2
    bound = 0 if exact else 12  # GIF has 256 colours
    assert np.abs(frames[-1][:32:2, left : left + 32 : 2].astype(int) - made.frames[-1]).mean() <= bound
    # Below is "step N", in black on white; each number looks different.
    below = [frame[32:] for frame in frames]
    assert all(strip.min() < 64 and (strip > 192).mean() > 0.5 for strip in below)
    assert all(np.abs(strip.astype(int) - below[0]).max() > 128 for strip in below[1:])


def test_a_grey_film(tmp_path):
    grey = films.Film(np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1) * 8)
    with Image.open(grey.save(tmp_path / "grey.webp")) as opened:
        opened.seek(1)
        np.testing.assert_array_equal(np.asarray(opened.convert("L")), grey.frames[1, ..., 0])


def test_training_is_mapped_over_its_states():
    states = [network(seed) for seed in (1, 2)]
    born = films.of_training(states, OBJECTIVE[:2], steps=6, titles=("epoch 0", "epoch 1"))
    assert [one.provenance["channel"] for one in born] == [1, 0] and born[0].titles == ("epoch 0", "epoch 1")
    for place, state in enumerate(states):
        images = visualize.render(state, OBJECTIVE[:2], recipe="lucid", steps=6)
        for one, image in zip(born, images, strict=True):
            assert np.abs(one.frames[place].astype(int) - image.pixels).max() <= 3
    assert np.abs(born[0].frames[0].astype(int) - born[0].frames[1]).mean() > 1


def test_a_film_of_training_follows_every_part_of_a_recipe():
    """Stages of several sizes that start from the last one's image, raw input, and the last image kept."""
    stages = (Stage(3, (visualize.jitter(2),), lp=0.0, scale=0.75), Stage(3, tv=1e-3, lp=0.0))
    recipe = Recipe("all", stages, raw=True, keep_last=True, parameterization=visualize.pixels(standardize=False))
    model = tiny.Plain(rngs=nnx.Rngs(0))
    states = [Network.create(model, normalizer=normalize.caffe(), image_size=(16, 20), channels=3)]
    states += [states[0].replace(params=jax.tree.map(lambda x: -x, states[0].params))]
    objective = visualize.channel("deep", [1, 4])
    born = films.of_training(states, objective, recipe=recipe)
    for place, state in enumerate(states):
        for one, image in zip(born, visualize.render(state, objective, recipe=recipe), strict=True):
            assert np.abs(one.frames[place].astype(int) - image.pixels).max() <= 2
    with pytest.raises(UserError, match="states of one model"):
        films.of_training([states[0], states[1].replace(normalizer=normalize.identity())], objective)


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="every=0 must be at least 1"):
        films.Recorder(0)
    with pytest.raises(UserError, match="there are no networks"):
        films.of_training([], OBJECTIVE)
    with pytest.raises(UserError, match="not states of one model"):
        films.of_training([network(), network(width=0.2)], OBJECTIVE)
    with pytest.raises(UserError, match="must return a scalar"):
        films.of_training([network()], lambda logits, activations, image: logits)
    with pytest.raises(UserError, match="was not a finite number in any step"):
        films.of_training([network()], lambda logits, activations, image: jnp.log(-1 - logits.sum() ** 2), steps=4)
    with pytest.raises(UserError, match="recipe 'filters' weighs its penalty"):
        films.of_training([network()], OBJECTIVE, recipe="filters")
    still = films.Film(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(UserError, match="there are 2 titles for 1 frames: give one for each"):
        films.Film(still.frames, ("one", "two")).save(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"a.mp4 is no film that can be written: end its name in .gif"):
        still.save(tmp_path / "a.mp4")
    for wrong in ({"scale": 0}, {"milliseconds": -1}, {"milliseconds": 65_536}, {"hold": 10**7}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}=.* must be"):
            still.save(tmp_path / "a.gif", **wrong)
    with pytest.raises(UserError, match="columns=0: give at least one"):
        films.tile([still], columns=0)
    with pytest.raises(UserError, match="there are no frames"):
        films.Film(still.frames[:0]).save(tmp_path / "a.gif")


def test_the_commands_write_films(tmp_path, capsys):
    for epoch in range(2):
        formats.save(tmp_path / "weights" / f"epoch-{epoch:04d}.safetensors", network(epoch))
    film.training(run=tmp_path, layer="conv_2", channels=(0, 1), steps=6, out=tmp_path / "born.gif")
    weights = str(tmp_path / "weights" / "epoch-0000.safetensors")
    film.ascent(layer="conv_2", weights=weights, channels=(0, 1), steps=6, every=3, out=tmp_path / "ascent.webp")
    film.feature_maps(weights=weights, layer=("conv_1", "conv_2"), channels=2, out=tmp_path / "maps.gif")
    frames = {}
    for name in ("born.gif", "ascent.webp", "maps.gif"):
        with Image.open(tmp_path / name) as opened:
            frames[name] = opened.n_frames, opened.size
    # Titles are wider than the images here.
    (count, (width, height)), below = frames["born.gif"], films.TITLE + 5
    assert count == 2 and width > 34 and height == 16 + below
    assert frames["ascent.webp"][0] == 3 and frames["ascent.webp"][1][1] == 16 + below
    assert frames["maps.gif"][0] == 2
    assert f"born.gif: 2 frames of {width}×{height}" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no run .*nowhere: train one with --train.weights-every-epochs 1"):
        film.training(run=tmp_path / "nowhere", layer="conv_2", out=tmp_path / "a.gif")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="has the weights of 0 epochs, and a film needs two: train with --train.weig"):
        film.training(run=tmp_path / "run", layer="conv_2", out=tmp_path / "a.gif")
    for name in ("input", "weights"):
        (tmp_path / "run" / f"{name}.safetensors").touch()
    with pytest.raises(UserError, match="no weights of its epochs, .*: train with --train.weights-every-epochs 1"):
        film.training(run=tmp_path / "run", layer="conv_2", out=tmp_path / "a.gif")
    with pytest.raises(UserError, match="conv2.*conv_2"):
        film.ascent(layer="conv2", weights=weights, out=tmp_path / "refused" / "a.gif")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(UserError, match=r"--out .*a.mp4 is no film"):
        film.ascent(layer="conv_2", out=tmp_path / "a.mp4")
    with pytest.raises(UserError, match="scale=0 must be"):
        film.ascent(layer="conv_2", scale=0, out=tmp_path / "a.gif")
    with pytest.raises(UserError, match="milliseconds=0 must be"):
        film.feature_maps(milliseconds=0, out=tmp_path / "a.gif")


def test_films_side_by_side():
    one, two = films.Film(np.zeros((2, 3, 4, 3), np.uint8)), films.Film(np.ones((2, 3, 4, 3), np.uint8))
    tiled = films.tile([one, two, one], columns=2)
    assert tiled.frames.shape == (2, 8, 10, 3)
    assert (tiled.frames[:, :3, 6:] == 1).all() and (tiled.frames[:, 3:5] == 255).all()
    with pytest.raises(UserError, match="different lengths or sizes"):
        films.tile([one, films.Film(np.zeros((1, 3, 4, 3), np.uint8))])
