"""The benchmark of int8 against float32, with narrow networks of random kernels."""

import json
from pathlib import Path

import int8
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
from PIL import Image

from cnnjax import formats

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A network and itself rounded."""
    path = tmp_path_factory.mktemp("int8") / "w"
    exact = random_networks.network("vgg11", 32, (), width_multiplier=0.06, include_top=False)
    formats.save_int8(path, exact)
    return exact, formats.load(path, include_top=False)


@pytest.mark.slow
def test_the_change_of_the_maps_is_that_of_their_norms(pair):
    image = np.random.default_rng(0).random((32, 32, 3), np.float32)
    found = int8._relative_changes(*pair, jnp.asarray(image))
    maps = [jax.jit(lambda network, images: network(images)[1])(one, image[None]) for one in pair]
    assert list(found) == [name for name in maps[0] if "_conv" in name]
    for name, value in found.items():
        exact, rounded = (np.asarray(one[name], np.float64) for one in maps)
        np.testing.assert_allclose(value, np.sqrt(((rounded - exact) ** 2).sum() / (exact**2).sum()), rtol=1e-3)
        assert 1e-3 < value < 0.05


@pytest.mark.slow
def test_filters_drawn_by_both_stand_above_each_other(pair, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(formats, "resolve", lambda *_, **__: pair[0])
    monkeypatch.setattr(formats, "load_bundled", lambda *_, **__: pair[1])
    out = tmp_path / "int8.json"
    int8.int8(layers=("block2_conv1",), image_size=32, recipe="quick", steps=4, filters_image_size=32, out=out)
    said = capsys.readouterr().out
    assert f"wrote {out}" in said and "block2_conv1" in said
    row = json.loads(out.read_text())["filters"]["block2_conv1"]
    assert len(row["ratio"]) == len(row["channels"]) == 8 and any(row["ratio"])
    for before, ratio in zip(row["float32"], row["ratio"], strict=True):
        assert (ratio is None) == (before <= 0)
    with Image.open(Path(out).with_suffix(".png")) as sheet:
        assert sheet.width > 3 * sheet.height  # eight columns, two rows
