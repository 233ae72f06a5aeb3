"""This package's own files: what is written comes back, any damage is seen, and files of the first edition are read."""

import inspect
import json
import pickle
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import safetensors.numpy
from flax import nnx
from random_networks import same
from safetensors import safe_open

from cnnjax import Network, formats
from cnnjax.checksums import digest
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import native
from cnnjax.models import SmallCNN

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = (16, 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3)).astype(np.uint8)
FIRST = Path(__file__).parent / "fixtures" / "first_edition"


def make(kind="mean", names=("cat", "dog")):
    return random_networks.network("small-cnn", SIZE, names, kind, width_multiplier=0.1)


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture
def file(tmp_path, network):
    path = tmp_path / "w.safetensors"
    formats.save(path, network)
    return path


def parts(path):
    """The metadata and the tensors of a file."""
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


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
    same(loaded, network)
    assert loaded.normalizer.kind == kind and len(loaded.digest) == 64 and loaded.provenance == {"seed": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded, network)
    assert jax.tree.structure(loaded) == jax.tree.structure(network)  # so no program is compiled again for it
    images = jnp.asarray(IMAGES / 255, jnp.float32)
    for ours, theirs in zip(loaded(images), network(images), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", ["vgg11-bn", "resnet18", "resnet50"])
def test_running_statistics_heights_and_channels_come_back(tmp_path, name):
    network = random_networks.network(name, (40, 70), channels=1, width_multiplier=0.05, class_names=("a", "b"))
    formats.save(tmp_path / "w.safetensors", network)
    loaded = formats.load(tmp_path / "w.safetensors")
    same(loaded, network)
    assert jax.tree.leaves(loaded.model_state) and loaded.image_shape == (40, 70, 1)


class Own(nnx.Module):
    """A model of somebody else, with state of many kinds, and half precision."""

    def __init__(self, channels, *, rngs):
        self.layers = nnx.List([nnx.Conv(channels, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.narrow = nnx.Linear(4, 4, param_dtype=jnp.bfloat16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.calls = nnx.Variable(jnp.int32(7))
        self.seen = nnx.Variable(jnp.array([True, False]))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.dense(self.dropout(self.narrow(x.mean((1, 2)).astype(jnp.bfloat16)).astype(jnp.float32)))


@pytest.fixture(scope="module")
def own():
    model = Own(2, rngs=nnx.Rngs(3))
    normalizer = normalize.identity()
    return Network.create(model, normalizer=normalizer, image_size=(9, 7), channels=2, class_names=tuple("xyz"))


def test_any_model_is_saved_and_comes_back_with_its_class(tmp_path, own):
    path = tmp_path / "own.safetensors"
    formats.save(path, own)
    abstract = nnx.eval_shape(lambda: Own(2, rngs=nnx.Rngs(0)))
    for model in (abstract, Own(2, rngs=nnx.Rngs(5))):
        loaded = formats.load(path, model=model)
        assert loaded.digest == own.digest and loaded.class_names == ("x", "y", "z")
        assert loaded.image_shape == (9, 7, 2) and loaded.params["narrow"]["kernel"].dtype == jnp.bfloat16
        assert jax.tree.structure(loaded) == jax.tree.structure(own)
        key = loaded.model_state["dropout"]["rngs"]["key"]
        assert key == own.model_state["dropout"]["rngs"]["key"] and key.dtype == jax.random.key(0).dtype
        assert int(loaded.model_state["calls"]) == 7 and loaded.provenance == own.provenance
    assert parts(path)[0]["cnnjax"].count(f'"class": "{Own.__module__}.Own"') == 1
    assert formats.load(path, model=abstract, class_names=["p", "q", "r"]).class_names == ("p", "q", "r")
    with pytest.raises(UserError, match="has 3 classes, not the 1 of class_names: give a name for each"):
        formats.load(path, model=abstract, class_names=("a",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"new_head": ("cat",)}, "new_head has one class, 'cat': name two or more"),
        ({"new_head": "cat,dog"}, "new_head='cat,dog' is one text: give a sequence of names"),
        ({"new_head": ("cat", "dog", "cat")}, "new_head has 'cat' more than once"),
        ({"class_names": "ab"}, "class_names='ab' is one text"),
        ({"dense_units": -3}, "dense_units=-3 is no number of outputs"),
        ({"dense_units": 4.5}, "dense_units=4.5 is no number of outputs"),
        ({"seed": 1.5}, "seed=1.5 is no whole number"),
        ({"seed": 2**40}, "is no seed of its own"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(file, options, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        inspect.unwrap(formats.load)(file, **options)  # without the types that tests check
    assert str(file) not in str(error.value)


class Doubled(SmallCNN):
    """A subclass of one of this package's models, which computes something else from the same parameters."""

    def __call__(self, images, **options):
        logits, activations = super().__call__(images, **options)
        return 2 * logits, activations


def test_a_subclass_of_a_model_of_this_package_comes_back_as_itself(tmp_path):
    own = Doubled(3, image_size=SIZE, width_multiplier=0.1, rngs=nnx.Rngs(0))
    own = Network.create(own, normalizer=normalize.identity())
    assert own.config is None and own.model_name == "Doubled"
    formats.save(tmp_path / "own.safetensors", own)
    assert "holds a " in refusal(tmp_path / "own.safetensors")
    loaded = formats.load(tmp_path / "own.safetensors", model=own.model())
    np.testing.assert_array_equal(loaded(IMAGES)[0], own(IMAGES)[0])
    vgg = random_networks.model("vgg11-bn", image_size=32, width_multiplier=0.05)
    assert Network.create(vgg, normalizer=normalize.identity()).config["name"] == "vgg11-bn"


def test_without_its_class_one_sentence_asks_for_it(tmp_path, own):
    path = tmp_path / "own.safetensors"
    formats.save(path, own)
    sentence = refusal(path)
    assert f"holds a {Own.__module__}.Own, which is not one of this package's models: pass model=" in sentence
    with pytest.raises(UserError, match="lacks layers/1/kernel, .* and has .*dense/bias"):
        formats.load(path, model=nnx.eval_shape(lambda: Two(rngs=nnx.Rngs(0))))
    with pytest.raises(UserError, match="must be the file's own model"):
        formats.load(path, model=Own(2, rngs=nnx.Rngs(0)), new_head=("a", "b"))
    wider = nnx.eval_shape(lambda: Own(3, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match=r"layers/0/kernel as float32 \(3, 3, 2, 4\), but its network needs"):
        formats.load(path, model=wider)


class Two(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)])


def test_the_class_in_a_file_is_never_imported(tmp_path, own, monkeypatch):
    path = tmp_path / "own.safetensors"
    formats.save(path, own)
    about, tensors = parts(path)
    (tmp_path / "trap.py").write_text("open('executed', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    rewrite(path, tensors, about["cnnjax"].replace(f"{Own.__module__}.Own", "trap.Model"))
    assert "holds a trap.Model" in refusal(path)
    formats.load(path, model=nnx.eval_shape(lambda: Own(2, rngs=nnx.Rngs(0))))
    assert not (tmp_path / "executed").exists()


def test_a_file_of_our_model_can_be_given_the_model(file, network):
    same(formats.load(file, model=network.model()), network)


def test_what_a_run_keeps_beside_its_checkpoints(tmp_path, network, own):
    """A description without arrays, which says what the checkpoints' arrays belong to."""
    for name, whole in (("ours", network), ("own", own)):
        formats.save(tmp_path / name, whole.replace(params={}, model_state={}))
        assert (tmp_path / name).stat().st_size < 3000
    assert "lacks" in refusal(tmp_path / "ours")


# Files of the first edition


@pytest.mark.parametrize("name", ["small-cnn.safetensors", "vgg11.safetensors", "vgg11.weights.h5", "run",
                                  "vgg11-torchvision.safetensors"])  # fmt: skip
def test_files_of_the_first_edition_are_read(name, tmp_path):
    expected = json.loads((FIRST / "expected.json").read_text())[name]
    network = formats.load(FIRST / name)
    assert network.digest == expected["digest"] and list(network.class_names) == expected["class_names"]
    images = np.random.default_rng(1).random((2, *network.image_shape), np.float32)
    logits = jax.jit(lambda network, images: network(images)[0])(network, images)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=1e-5)
    if name == "run":
        assert network.provenance["checkpoint"] == "5" and network.provenance["row"]["valid_loss"] == 0.9
        assert formats.load(FIRST / name / "checkpoints" / "10").provenance["checkpoint"] == "10"
    formats.save(tmp_path / "again", network)
    same(formats.load(tmp_path / "again"), network)


def test_the_bundled_network_is_what_it_was():
    bundled = formats.load_bundled()
    assert bundled.digest == "6a0f7b54be3626b652a0d81fc1f0386de3448f98418c04845d65bcfc6182a6c9"
    assert (bundled.config["name"], bundled.config["width_multiplier"], bundled.image_size) == ("vgg16", 0.25, (64, 64))
    assert bundled.config["dense_units"] == 512 and len(bundled.class_names) == 14
    assert bundled.provenance["config"]["data"]["rendering"] == 3  # its file was written before there was a choice


# Checksums, damage, and files that are something else


def test_digest_sees_names_shapes_and_bytes():
    array = np.arange(6, dtype=np.float32)
    digests = {
        digest(arrays)
        for arrays in (
            {"a": array},
            {"b": array},
            {"a": array.reshape(2, 3)},
            {"a": array.view(np.int32)},
            {"a": array + 1},
        )
    }
    assert len(digests) == 5
    assert digest({"a": array, "b": -array}) == digest({"b": -array, "a": array})


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
    (tmp_path / "pytorch_model.bin").touch()
    assert "of the files in it, pytorch_model.bin may be what you mean: give its path" in refusal(tmp_path)


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
    assert "which is code and no weights" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Trap()))
    assert "which is code and no weights" in refusal(path)
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
    rewrite(file, tensors | {name: tensors[name].astype(np.int32)}, text)
    assert "as int32" in refusal(file)
    rewrite(file, tensors | {name: np.full_like(tensors[name], np.nan)}, text)
    assert "not finite in conv_2/bias" in refusal(file)


def test_descriptions_that_do_not_fit(file):
    about, tensors = parts(file)
    description = json.loads(about["cnnjax"])
    rewrite(file, tensors, json.dumps(description | {"version": 99}))
    assert "format version 99" in refusal(file)
    rewrite(file, tensors, json.dumps({k: v for k, v in description.items() if k != "channels"}))
    assert "lacks part of its description" in refusal(file)
    for model, sentence in (
        ({"name": "vgg12"}, "describes no model known here, 'vgg12'"),
        ({"name": "small-cnn", "wings": 2}, "no argument 'wings'"),
        ({"name": "small-cnn", "width_multiplier": "wide"}, "describes a model that cannot be made"),
        ({"name": "small-cnn", "num_classes": 10**12, "image_size": 16}, "but its network needs float32"),
        ("small-cnn", "lacks part of its description"),
    ):
        rewrite(file, tensors, json.dumps(description | {"model": model}))
        with pytest.raises(UserError, match=sentence):
            formats.load(file)
    rewrite(file, tensors | {"model_state/conv_1/bias": tensors["params/conv_1/bias"]})
    assert "conv_1/bias occurs twice" in refusal(file)


def test_a_folder_that_cannot_be_written(tmp_path, network):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        formats.save(tmp_path / "file" / "w.safetensors", network)


def test_bundled_network_or_a_clear_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(formats.bundled.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="has no weights/vgg16-mini.safetensors"):
        formats.load_bundled()
    (tmp_path / "weights").mkdir()
    network = make()
    formats.save(tmp_path / "weights" / "vgg16-mini.safetensors", network)
    assert formats.load_bundled().digest == network.digest
