"""The race to the same activation by the recipe lucid: when a target is reached, whether the networks are the same."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import lucid_filters
import numpy as np
import pytest
from lucid_filters import Drawn

from cnnjax import formats, visualize
from cnnjax.errors import UserError
from cnnjax.visualize import before_relu
from cnnjax.visualize.layers import at_image_size

ROOT = Path(__file__).parents[1]


def drawn(times, *filters):
    return Drawn(np.array(times, float), np.array(filters, float).T)


def test_targets_are_reached_between_looks_and_by_the_highest_so_far():
    one = drawn([0, 10, 20, 30], [0, 4, 2, 8], [-5, -5, 5, 5])
    np.testing.assert_allclose(lucid_filters.seconds_to(one, np.array([2, 0])), [5, 15])
    np.testing.assert_allclose(lucid_filters.seconds_to(one, np.array([6, 5])), [25, 20])
    twice = drawn([0, 20, 40, 60], [0, 4, 2, 8], [-5, -5, 5, 5])
    assert lucid_filters.ratio(one, twice) == pytest.approx(2)
    assert lucid_filters.ratio(twice, one) == pytest.approx(0.5)
    (ours, theirs) = lucid_filters.rows(
        [{lucid_filters.OURS.who: one, "peer": twice}], {lucid_filters.OURS.who: 1.0, "peer": 2.0}
    )
    assert ours.to_target == (1, 1, 1) and theirs.to_target == theirs.all_steps == pytest.approx((2, 2, 2))
    assert "2.00× (2.00 to 2.00)" in lucid_filters.table([ours, theirs])


def in_torch(code, *arguments):
    """Run this in a process of its own, since PyTorch and JAX in one can crash."""
    start = "import sys, numpy as np, torch\nfrom contenders import torch_lucid\n"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT}"}
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs the extra `peers`")


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("name", ["vgg16-mini", "vgg16"])
def test_pytorchs_network_is_the_one_that_judges(name, tmp_path, quickly_compiled):
    network, layer = formats.load_bundled(name, include_top=False), "block2_conv1"
    lucid_filters.write_arrays(tmp_path / "arrays.npz", network, layer)
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    np.save(tmp_path / "image.npy", image)
    code = """
arrays, image, out = sys.argv[1:]
with torch.no_grad():
    found = torch_lucid.build(arrays)(torch.tensor(np.load(image)).permute(0, 3, 1, 2))
np.save(out, found.permute(0, 2, 3, 1).numpy())
"""
    in_torch(code, tmp_path / "arrays.npz", tmp_path / "image.npy", tmp_path / "out.npy")
    network = at_image_size(network, 32)
    ours = np.asarray(before_relu.run(network, jnp.asarray(image), (layer,))[2][layer])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), ours, atol=2e-4 * np.abs(ours).max())


def test_a_layer_that_is_not_there(tmp_path):
    network = formats.load_bundled("vgg16-mini", include_top=False)
    with pytest.raises(UserError, match="'block9' is none"):
        lucid_filters.write_arrays(tmp_path / "arrays.npz", network, "block9")


@pytest.mark.slow
@needs_torch
def test_pytorchs_image_is_lucids(tmp_path):
    params = np.random.default_rng(0).normal(0, 0.1, (1, 3, 12, 7, 2)).astype(np.float32)
    np.save(tmp_path / "params.npy", params)
    code = """
found = torch_lucid.to_images(torch.tensor(np.load(sys.argv[1])), 12)[0].permute(1, 2, 0).numpy()
np.save(sys.argv[2], found)
"""
    in_torch(code, tmp_path / "params.npy", tmp_path / "out.npy")
    real, imag = (jnp.asarray(np.moveaxis(params[0, ..., i], 0, -1)) for i in (0, 1))
    ours = visualize.fourier().to_image(visualize.parameterizations.Spectrum(real, imag, 12))
    np.testing.assert_allclose(255 * np.load(tmp_path / "out.npy"), ours, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("tensorflow") and find_spec("keras")), reason="needs the extra `peers`")
def test_lucid_filters_as_a_user_runs_it(tmp_path):
    tiny = [
        "--layer",
        "block2_conv2",
        "--channels",
        8,
        21,
        "--image-size",
        48,
        "--steps",
        8,
        "--every",
        4,
        "--rounds",
        1,
    ]
    command = [sys.executable, ROOT / "benchmarks/lucid_filters.py", *tiny, "--out", tmp_path / "found.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 3 and all(row["to_target"][0] > 0 for row in found["rows"])
