import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cnnjax import formats, models
from cnnjax.cli.config import ModelConfig
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import native

SIDE = 16
PICTURES = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3)).astype(np.uint8)


def make(kind="mean", names=("cat", "dog"), model=None):
    model = model or ModelConfig(width=0.1)
    graph, params = models.split(models.create(model, side=SIDE, num_classes=len(names), seed=3))
    return formats.network(graph, params, model, SIDE, names, normalize.fit(kind, PICTURES), {"seed": 3})


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture
def file(tmp_path, network):
    path = tmp_path / "w.safetensors"
    formats.save(path, network)
    return path


def parts(path):
    """The description, its metadata and the tensors of a file."""
    contents = path.read_bytes()
    about = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])["__metadata__"]
    return about, safetensors.numpy.load(contents)


def rewrite(path, tensors, text=None):
    """As someone would who knows how to make the checksum right."""
    text = text or parts(path)[0]["cnnjax"]
    meta = {"cnnjax": text, "sha256": native.checksum(text, tensors)}
    path.write_bytes(safetensors.numpy.save(tensors, meta))


def refusal(path):
    with pytest.raises(UserError) as error:
        formats.load(path)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("kind", ["none", "mean", "standard", "zca"])
def test_round_trip(tmp_path, kind):
    network = make(kind, names=("a", "b", "c"))
    formats.save(tmp_path / "new" / "w.safetensors", network)
    loaded = formats.load(tmp_path / "new" / "w.safetensors")
    assert loaded.digest == network.digest and len(loaded.digest) == 64
    assert (loaded.model, loaded.side, loaded.class_names, loaded.made) == (
        network.model,
        SIDE,
        ("a", "b", "c"),
        {"seed": 3},
    )
    assert loaded.cleaning.kind == kind
    jax.tree.map(np.testing.assert_array_equal, (loaded.params, loaded.cleaning), (network.params, network.cleaning))
    images = jnp.asarray(PICTURES / 255, jnp.float32)
    for ours, theirs in zip(
        loaded.forward(loaded.params, images), network.forward(network.params, images), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_forward_cleans(network):
    images = jnp.asarray(PICTURES / 255, jnp.float32)
    expected = models.apply(network.graph, network.params, images - images.mean((0, 1, 2))[None, None, None])[0]
    np.testing.assert_allclose(network.forward(network.params, images)[0], expected, rtol=1e-4, atol=1e-5)


def test_digest_sees_names_shapes_and_bytes():
    array = np.arange(6, dtype=np.float32)
    digests = {
        formats.digest(arrays)
        for arrays in (
            {"a": array},
            {"b": array},
            {"a": array.reshape(2, 3)},
            {"a": array.view(np.int32)},
            {"a": array + 1},
        )
    }
    assert len(digests) == 5
    assert formats.digest({"a": array, "b": -array}) == formats.digest({"b": -array, "a": array})


def test_any_flipped_byte_is_seen(file):
    contents = file.read_bytes()
    header = 8 + int.from_bytes(contents[:8], "little")
    places = np.random.default_rng(0).integers(0, header, 30).tolist()
    places += np.random.default_rng(1).integers(header, len(contents), 30).tolist()
    for place in (*places, 0, len(contents) - 1):
        changed = bytearray(contents)
        changed[place] ^= 1
        file.write_bytes(changed)
        # A space between the header's parts means nothing.
        if chr(contents[place]) != " ":
            refusal(file)


def test_missing_and_unreadable(tmp_path):
    assert "there is no weights file" in refusal(tmp_path / "none.safetensors")
    assert "a folder must be that of a run" in refusal(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_truncated(file, keep):
    contents = file.read_bytes()
    file.write_bytes(contents[: keep if isinstance(keep, int) else int(len(contents) * keep)])
    assert "damaged" in refusal(file)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_foreign_files(tmp_path):
    path = tmp_path / "foreign"
    path.write_bytes(pickle.dumps(Trap()))
    assert "asks for _pytest.outcomes." in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Trap()))
    assert "asks for _pytest.outcomes." in refusal(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "is damaged or incomplete" in refusal(path)
    path.write_bytes(b"a JPEG, or anything else")
    assert "is not a file of weights" in refusal(path)
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)
    assert "holds no network known here, but a:" in refusal(path)


def test_tensors_that_do_not_fit(file):
    _, tensors = parts(file)
    text = parts(file)[0]["cnnjax"]
    name = "params/conv_2/bias"
    rewrite(file, {k: v for k, v in tensors.items() if k != name}, text)
    assert "lacks conv_2/bias" in refusal(file)
    rewrite(file, tensors | {"params/conv_9/bias": np.zeros(3, np.float32)}, text)
    assert "has conv_9/bias, which its network does not have" in refusal(file)
    rewrite(file, tensors | {name: np.zeros(99, np.float32)}, text)
    assert "conv_2/bias as float32 (99,), but its network needs float32" in refusal(file)
    rewrite(file, tensors | {name: tensors[name].astype(np.float64)}, text)
    assert "as float64" in refusal(file)
    rewrite(file, tensors | {name: np.full_like(tensors[name], np.nan)}, text)
    assert "not finite in conv_2/bias" in refusal(file)


def test_descriptions_that_do_not_fit(file):
    about, tensors = parts(file)
    description = json.loads(about["cnnjax"])
    rewrite(file, tensors, json.dumps(description | {"version": 99}))
    assert "format version 99" in refusal(file)
    rewrite(file, tensors, json.dumps({k: v for k, v in description.items() if k != "side"}))
    assert "lacks part of its description" in refusal(file)


def test_a_folder_that_cannot_be_written(tmp_path, network):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        formats.save(tmp_path / "file" / "w.safetensors", network)


def test_shipped_network_or_a_clear_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(formats.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="has no weights/vgg16-mini.safetensors"):
        formats.shipped()
    (tmp_path / "weights").mkdir()
    network = make()
    formats.save(tmp_path / "weights" / "vgg16-mini.safetensors", network)
    assert formats.shipped().digest == network.digest
