"""Kernels as int8: the rounding, the files, and the network that the package ships in this form."""

import hashlib
import json
import os
import struct
from importlib import resources
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnnjax import checksums, formats, models
from cnnjax.cli.export import export
from cnnjax.cli.presets import ALL_CLASSES
from cnnjax.cli.visualize import classes
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import bundled, int8, int8_writer, native, published

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SHIPPED = "a2725dc6e19da4b4a02746975da2b94e72e0d0eb4805d13257b6b31b580b0c2e"
LOCAL = "CNNJAX_VGG16_NOTOP"
"""An environment variable: a Keras file with VGG16's published convolutions, under any name."""
UNITS = (64, 64, 128, 128, *(256,) * 3, *(512,) * 6)


def shipped():
    return resources.files("cnnjax") / "weights" / "vgg16.int8.safetensors"


@pytest.fixture(scope="module")
def stored():
    return safetensors.numpy.load_file(shipped())


@pytest.fixture(scope="module")
def convolutions():
    return formats.load_bundled("vgg16", include_top=False)


# The rounding


def rounded(kernel):
    """By the definition, in float64: |w| up to max|w| on 127 steps, ties to the even one."""
    scales = np.abs(kernel.astype(np.float64)).reshape(-1, kernel.shape[-1]).max(0) / 127
    return np.round(np.divide(kernel, scales, out=np.zeros(kernel.shape), where=scales > 0)), scales


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_every_number_is_within_half_a_scale(kernel):
    whole, scales = int8.quantize(kernel)
    assert whole.dtype == np.int8 and scales.dtype == np.float32 and whole.min() >= -127
    expected, exact = rounded(kernel)
    np.testing.assert_allclose(scales, exact, rtol=1e-6, atol=1e-44)
    error = np.abs(whole.astype(np.float64) * scales - kernel)
    assert (error <= np.maximum(exact * (0.5 + 1e-4), 1e-40)).all()
    usual = exact > 1e-30
    assert np.abs(whole - expected)[..., usual].max(initial=0) <= 1  # float32's division may fall on the other side
    assert (np.abs(whole).reshape(-1, whole.shape[-1]).max(0)[usual] == 127).all()


def test_ties_go_to_the_even_number_and_empty_channels_stay_zero():
    kernel = np.array([[127, 0, 127], [0.5, 0, -0.5], [1.5, 0, -1.5], [2.5, 0, 2.49]], np.float32)
    whole, scales = int8.quantize(kernel)
    np.testing.assert_array_equal(scales, [1, 0, 1])
    np.testing.assert_array_equal(whole, [[127, 0, 127], [0, 0, 0], [2, 0, -2], [2, 0, 2]])
    smallest = np.full((2, 1), np.finfo(np.float32).smallest_subnormal)
    np.testing.assert_array_equal(int8.quantize(smallest)[0], [[0], [0]])
    np.testing.assert_array_equal(int8.quantize(smallest * 190)[0], [[127], [127]])
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            int8.quantize(np.array([[1, bad]], np.float32))


# Files of any network


@pytest.mark.parametrize("name, size", [("small-cnn", 36), ("vgg11-bn", (40, 64)), ("vgg13", 32), ("resnet18", 48)])
def test_every_network_of_ours_in_a_quarter_of_its_size(tmp_path, name, size):
    network = random_networks.network(name, size, width_multiplier=0.06)
    network = network.replace(provenance={"seed": 3, "file": "there.h5"})
    formats.save_int8(tmp_path / "w", network)
    loaded = formats.load(tmp_path / "w")
    assert loaded.config == network.config and loaded.class_names == network.class_names
    assert loaded.image_size == network.image_size and loaded.provenance["seed"] == 3
    assert loaded.provenance["rounding"] == int8_writer.ROUNDING and "file" not in loaded.provenance
    jax.tree.map(np.testing.assert_array_equal, loaded.normalizer, network.normalizer)
    jax.tree.map(np.testing.assert_array_equal, loaded.model_state, network.model_state)
    before, after = (models.flatten(one.params) for one in (network, loaded))
    for path, array in before.items():
        assert after[path].dtype == np.float32
        if array.ndim < 2:
            np.testing.assert_array_equal(after[path], array)
            continue
        whole, scales = rounded(np.asarray(array))
        np.testing.assert_allclose(after[path], whole * scales, atol=scales.max() * 1e-3)
    held = safetensors.numpy.load_file(tmp_path / "w")
    assert {path for path, array in held.items() if array.dtype == np.int8} == {
        f"params/{path}" for path, array in before.items() if array.ndim >= 2
    }
    # The same network gives the same bytes; what was read is already rounded.
    formats.save_int8(tmp_path / "again", network.replace(provenance={"seed": 3, "file": "elsewhere.h5"}))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "w").read_bytes()
    formats.save_int8(tmp_path / "twice", loaded)
    twice = models.flatten(formats.load(tmp_path / "twice").params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), twice, after)


def test_logits_hardly_change():
    """Against float32, with a network that is trained; random kernels have no margin to speak of."""
    network = formats.load_bundled("vgg16-mini")
    params = {
        path: {name: _through(array) for name, array in leaves.items()} for path, leaves in network.params.items()
    }
    images = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    logits = jax.jit(lambda network, images: network(images)[0])
    exact, close = (np.asarray(logits(one, images)) for one in (network, network.replace(params=params)))
    assert 0 < np.abs(close - exact).max() < 0.05 * np.abs(exact).max()


def _through(array):
    if array.ndim < 2:
        return array
    whole, scales = int8.quantize(np.asarray(array))
    return jnp.asarray(whole.astype(np.float32) * scales)


def test_a_network_that_failed_is_not_rounded(tmp_path):
    network = random_networks.network("small-cnn", 36, width_multiplier=0.06)
    network.params["conv_2"]["kernel"] = network.params["conv_2"]["kernel"].at[0, 0, 0, 0].set(np.nan)
    with pytest.raises(UserError, match="conv_2/kernel has numbers that are not finite: train it again"):
        formats.save_int8(tmp_path / "w", network)
    assert not list(tmp_path.iterdir())


def rewritten(path, change):
    """The file with other tensors and a checksum that holds."""
    with safetensors.safe_open(path, "numpy") as file:
        text = file.metadata()["cnnjax"]
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, {"cnnjax": text, "sha256": native.checksum(text, tensors)})


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: t.update({"scales/params/conv_9/kernel": np.ones(3, "f4")}), "conv_9/kernel belongs to no int8"),
        (lambda t: t.update({"scales/params/conv_1/bias": np.ones(3, "f4")}), "conv_1/bias belongs to no int8"),
        (lambda t: t.update({"scales/params/conv_1/kernel": np.ones(9, "f4")}), r"float32 \(9,\), not float32 \(2,\)"),
        (lambda t: t.update({"scales/params/conv_1/kernel": np.ones(2)}), r"is float64 \(2,\), not float32 \(2,\)"),
        (lambda t: t.pop("scales/params/conv_1/kernel"), "conv_1/kernel as int8 .* but its network needs float32"),
        (lambda t: t["scales/params/conv_1/kernel"].fill(np.inf), "not finite in conv_1/kernel"),
    ],
)  # fmt: skip
def test_scales_that_do_not_fit(tmp_path, change, sentence):
    formats.save_int8(tmp_path / "w", random_networks.network("small-cnn", 36, width_multiplier=0.06))
    rewritten(tmp_path / "w", change)
    with pytest.raises(UserError, match=sentence):
        formats.load(tmp_path / "w")


@pytest.mark.parametrize("where", [0, 9, 300, 0.5, 0.9, -1])
def test_one_damaged_byte_anywhere_is_a_sentence(tmp_path, where):
    formats.save_int8(tmp_path / "w", random_networks.network("small-cnn", 36, width_multiplier=0.06))
    contents = bytearray((tmp_path / "w").read_bytes())
    contents[where if isinstance(where, int) else int(len(contents) * where)] ^= 2
    (tmp_path / "w").write_bytes(contents)
    with pytest.raises(UserError, match="is damaged or incomplete|is not a file of weights"):
        formats.load(tmp_path / "w")


def test_files_are_the_librarys_to_the_byte(tmp_path):
    """Up to the order of the metadata, which the library draws anew each time."""
    network = random_networks.network("vgg11-bn", 32, width_multiplier=0.06)
    formats.save_int8(tmp_path / "ours", network)
    contents = (tmp_path / "ours").read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    assert list(header.pop("__metadata__")) == ["cnnjax", "sha256"]
    safetensors.numpy.save_file(safetensors.numpy.load_file(tmp_path / "ours"), tmp_path / "theirs")
    theirs = (tmp_path / "theirs").read_bytes()
    (other,) = struct.unpack("<Q", theirs[:8])
    assert json.loads(theirs[8 : 8 + other]) == header and theirs[8 + other :] == contents[8 + length :]
    assert length % 8 == 0


# Convolutions of one file, dense layers of another


def test_dense_layers_from_a_file_of_their_own(tmp_path):
    whole = random_networks.network("vgg11", (40, 64), width_multiplier=0.06)
    heads = ("fc1", "fc2", "predictions")
    body = {name: leaves for name, leaves in whole.params.items() if name not in heads}
    formats.save_int8(tmp_path / "whole", whole)
    formats.save_int8(tmp_path / "head", whole, layers=heads)
    formats.save_int8(tmp_path / "body", whole, layers=tuple(body))
    found = formats.load_with_head(tmp_path / "body", tmp_path / "head")
    random_networks.same(found, formats.load(tmp_path / "whole"))
    held = safetensors.numpy.load_file(tmp_path / "head")
    assert {name.split("/")[1] for name in held if name.startswith("params/")} == set(heads)
    with pytest.raises(UserError, match=r"head lacks block1_conv1/bias, .* which its network has"):
        formats.load(tmp_path / "head")
    with pytest.raises(UserError, match="body lacks fc1/bias"):
        formats.load_with_head(tmp_path / "body", tmp_path / "body")
    (tmp_path / "head").write_bytes((tmp_path / "head").read_bytes()[:-9])
    with pytest.raises(UserError, match="head is damaged or incomplete"):
        formats.load_with_head(tmp_path / "body", tmp_path / "head")


def test_a_bundled_network_is_named():
    with pytest.raises(UserError, match="unknown bundled network 'vgg-16': did you mean vgg16"):
        formats.load_bundled("vgg-16")
    with pytest.raises(UserError, match="unknown weights 'vgg161': did you mean vgg16"):
        formats.resolve("vgg161")
    assert formats.resolve("vgg16", include_top=False).class_names == ()
    assert "fc1" not in formats.resolve("vgg16-mini", include_top=False).params


# The real convolutions


def test_the_shipped_file_is_what_it_was():
    contents = shipped().read_bytes()
    assert hashlib.sha256(contents).hexdigest() == SHIPPED
    assert len(contents) <= 15_000_000


def test_the_shipped_file_holds_the_convolutions_and_their_credit(stored):
    names = [f"block{b}_conv{i}" for b, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
    inputs = (3, *UNITS[:-1])
    expected = {}
    for name, before, units in zip(names, inputs, UNITS, strict=True):
        expected[f"params/{name}/kernel"] = (np.int8, (3, 3, before, units))
        expected[f"scales/params/{name}/kernel"] = expected[f"params/{name}/bias"] = (np.float32, (units,))
    found = {name: (a.dtype.type, a.shape) for name, a in stored.items() if not name.startswith("normalizer/")}
    assert found == expected
    assert sum(stored[f"params/{name}/{kind}"].size for name in names for kind in ("kernel", "bias")) == 14_714_688
    with safetensors.safe_open(shipped(), "numpy") as file:
        about = json.loads(file.metadata()["cnnjax"])
    assert about["version"] == 2 and about["model"]["name"] == "vgg16" and about["normalizer"] == "caffe"
    assert about["image_size"] == [224, 224] and about["model"]["include_top"] is False
    assert "CC BY 4.0" in about["provenance"]["licence"] and "Simonyan" in about["provenance"]["credit"]
    assert "Keras" in about["provenance"]["credit"] and "int8" in about["provenance"]["changes"]


def test_the_shipped_scales_are_those_of_the_definition(stored, convolutions):
    for name, scales in stored.items():
        if not name.startswith("scales/"):
            continue
        whole = stored[name.removeprefix("scales/")]
        assert (np.abs(whole.astype(int)).reshape(-1, whole.shape[-1]).max(0) == 127).all() and (scales > 0).all()
        layer = name.split("/")[2]
        kernel = np.asarray(convolutions.params[layer]["kernel"])
        np.testing.assert_array_equal(kernel, whole.astype(np.float32) * scales)
        np.testing.assert_array_equal(int8.quantize(kernel)[0], whole)


def test_its_first_filters_are_edges_and_colours(convolutions):
    """Keras' documentation shows them; of an untrained layer neither would hold."""
    kernel = np.asarray(convolutions.params["block1_conv1"]["kernel"])
    assert convolutions.normalizer.kind == "caffe" and convolutions.image_size == (224, 224)
    sums = np.abs(kernel.sum((0, 1))).max(0) / np.abs(kernel).sum((0, 1)).max(0)
    assert (sums < 0.2).sum() >= 20  # edges: what is added on one side is taken off on the other
    shapes = models.layer_shapes(convolutions.graphdef, convolutions.params, {}, (32, 48, 3))
    assert shapes["block5_conv3"] == (2, 3, 512) and shapes["block5_pool"] == (1, 1, 512)


@pytest.mark.parametrize("name", ["vgg16", "vgg16-twin"])
def test_the_shipped_dense_layers_belong_to_these_convolutions(convolutions, name):
    heads = [shipped().parent / head for head in bundled.VGG16_HEADS.values()]
    assert sum(head.stat().st_size for head in heads) <= 6_000_000
    network = formats.load_bundled(name)
    other = formats.load_bundled(next(one for one in bundled.VGG16_HEADS if one != name))
    assert not np.allclose(network.params["fc1"]["kernel"], other.params["fc1"]["kernel"], atol=0.01)
    assert network.class_names == ALL_CLASSES and network.image_size == (96, 96)
    assert network.provenance["base"] == convolutions.digest == int8_writer.convolutions_digest(network)
    assert network.provenance["data"]["version"] == 4 and "vgg16_head.py" in network.provenance["command"]
    assert "CC BY 4.0" in network.provenance["licence"]


def keras_file(path, network):
    """A `_notop.h5` as Keras 1 wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in network.params]
        for name, leaves in network.params.items():
            group = file.create_group(name)
            names = [f"{name}_W_1:0", f"{name}_b_1:0"]
            group.attrs["weight_names"] = [entry.encode() for entry in names]
            for entry, kind in zip(names, ("kernel", "bias"), strict=True):
                group[entry] = np.asarray(leaves[kind])


def test_the_command_makes_the_same_bytes_of_any_file_of_these_numbers(tmp_path, monkeypatch, capsys):
    network = random_networks.network("vgg16", 224, (), normalize.caffe(), width_multiplier=0.06, include_top=False)
    monkeypatch.setattr(int8_writer, "VGG16_CONVOLUTIONS", [int8_writer.convolutions_digest(network)])
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    keras_file(tmp_path / "mine.h5", network)
    (tmp_path / "weights").mkdir()
    contents = (tmp_path / "mine.h5").read_bytes()
    known = published.File(
        "https://nowhere.invalid/notop.h5", f"md5:{hashlib.md5(contents).hexdigest()}", len(contents)
    )
    (tmp_path / "weights" / "notop.h5").write_bytes(contents)
    monkeypatch.setitem(published.FILES, "imagenet-notop", known)
    export("imagenet-notop", to="int8", out=tmp_path / "a")
    export(str(tmp_path / "mine.h5"), to="int8", out=tmp_path / "b")
    export(str(tmp_path / "a"), to="cnnjax", out=tmp_path / "c")
    export(str(tmp_path / "c"), to="int8", out=tmp_path / "d", include_top=False)
    digests = [checksums.file_digest(tmp_path / name) for name in "abd"]
    assert digests == [digests[0]] * 3
    assert capsys.readouterr().out.count(f"sha256 {digests[0]}") == 3
    assert formats.load(tmp_path / "a", include_top=False).provenance["credit"].startswith("Karen Simonyan")
    with pytest.raises(UserError, match="the network of imagenet-notop has no classes, only convolutions"):
        classes(weights="imagenet-notop", out=tmp_path / "pictures")


def test_the_published_file_becomes_the_shipped_one(tmp_path):
    """Needs the file: from the cache, where --weights imagenet-notop leaves it, or any file of the same numbers."""
    path = Path(os.environ.get(LOCAL) or published.folder() / published.FILES["imagenet-notop"].name)
    if not path.is_file():
        pytest.skip(f"neither {path} nor a file named by {LOCAL} is there, and tests do not download")
    export(str(path), to="int8", out=tmp_path / "w")
    assert checksums.file_digest(tmp_path / "w") == SHIPPED


def test_options_of_the_shipped_network_are_those_of_load():
    """A size as one number, and names as a list, as from the command line."""
    network = formats.load_bundled("vgg16", image_size=96, class_names=list(ALL_CLASSES))
    assert network.image_size == (96, 96) and network.class_names == ALL_CLASSES
    hash(jax.tree.structure(network))
