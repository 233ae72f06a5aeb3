"""The Network: made from a model and a dataset, a pytree for jit and grad, and its short name."""

import inspect
import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
from flax import nnx

from cnnjax import Network, data, models
from cnnjax.data import normalize
from cnnjax.data.as_unit import as_unit, one_as_unit
from cnnjax.errors import UserError
from cnnjax.image_size import to_size

pytestmark = pytest.mark.usefixtures("quickly_compiled")

RNG = np.random.default_rng(0)


class Norms(nnx.Module):
    """A plain Flax model with running statistics, a random stream and a list of layers; logits alone."""

    def __init__(self, channels, classes, *, rngs):
        self.blocks = nnx.List([nnx.Conv(channels, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, classes, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.dense(self.dropout(nnx.relu(x).mean((1, 2))))


def arrays(shape=(12, 16, 3), classes=3, count=24):
    images = RNG.integers(0, 256, (count, *shape)).astype(np.uint8)
    return data.from_arrays(images, np.arange(count) % classes, class_names=tuple("abcdefgh"[:classes]))


def small(**arguments):
    return models.create(
        "small-cnn", **({"num_classes": 3, "image_size": (16, 20), "width_multiplier": 0.1} | arguments)
    )


@pytest.fixture(scope="module")
def dataset():
    return arrays((16, 20, 3))


@pytest.fixture(scope="module")
def network(dataset):
    return Network.create(small(), dataset, provenance={"seed": 0})


def test_made_for_a_dataset(network, dataset):
    assert network.class_names == ("a", "b", "c") and network.provenance == {"seed": 0}
    assert (network.image_size, network.channels, network.image_shape) == ((16, 20), 3, (16, 20, 3))
    assert network.config == {
        "name": "small-cnn", "num_classes": 3, "image_size": [16, 20], "channels": 3, "width_multiplier": 0.1,
        "dropout": 0.5, "remat": False,
    }  # fmt: skip
    json.dumps(network.config)
    fitted = normalize.fit_normalizer("standard", dataset.train)
    jax.tree.map(np.testing.assert_array_equal, network.normalizer, fitted)


def test_images_are_normalized_once(network):
    images = jnp.asarray(RNG.random((2, 16, 20, 3), np.float32))
    logits, activations = network(images)
    given = (images - network.normalizer.mean[None, None, None]) * network.normalizer.scales[None, None, None]
    direct = models.apply(network.graphdef, network.params, network.model_state, given)
    np.testing.assert_allclose(logits, direct.logits, rtol=1e-5, atol=1e-6)
    assert list(activations) == list(direct.activations)
    np.testing.assert_array_equal(network.apply(images).logits, logits)
    model = network.model()
    np.testing.assert_allclose(model(given)[0], logits, rtol=1e-5, atol=1e-6)


def test_images_of_other_types(network):
    """uint8 is converted; float64 is float32, as everywhere in JAX, unless it is enabled."""
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3)).astype(np.uint8)
    expected = network(jnp.asarray(images, jnp.float32) / 255)[0]
    np.testing.assert_array_equal(network(images)[0], expected)
    np.testing.assert_array_equal(jax.jit(lambda network, images: network(images)[0])(network, images).shape, (2, 3))
    for given in (images / np.float64(255), (images / 255).astype(">f4"), (images / 255).astype(">f8")):
        np.testing.assert_allclose(network(given)[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(network.probabilities(images).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda images: images * 255, "values from 0 to 255, but floats are read as .* from 0 to 1: divide them"),
        (lambda images: (images - 0.5) / 0.2, "values from -2.5 to 2.5.*undo their normalization"),
        (lambda images: np.full_like(images, np.nan), "values that are not numbers"),
        (lambda images: images[0], r"shape \(12, 16, 3\) where .* add the batch axis with images\[None\]"),
        (lambda images: images[None], r"shape \(1, 2, 12, 16, 3\) where .* give \(batch, height, width, channels\)"),
        (lambda images: images.transpose(0, 3, 1, 2), r"channels come first, so transpose them with"),
        (lambda images: images[0].transpose(2, 0, 1), r"use images\.transpose\(1, 2, 0\)\[None\]"),
        (lambda images: images[:0], r"there are no images"),
        (lambda images: images[..., :1], "give images of 3 channels"),
        (lambda images: (images * 255).astype(np.int32), "type int32: give uint8 from 0 to 255, or floats from 0 to 1"),
        (lambda images: images > 0.5, "type bool"),
        (lambda images: np.ma.masked_array(images, images > 0.5), "masked array: fill it"),
    ],
)  # fmt: skip
def test_images_that_would_give_a_wrong_answer_are_refused(network, change, sentence):
    images = np.linspace(0, 1, 2 * 12 * 16 * 3, dtype=np.float32).reshape(2, 12, 16, 3)
    for call in (network, network.probabilities):
        with pytest.raises(UserError, match=sentence) as caught:
            call(change(images))
        assert "\n" not in str(caught.value)


def test_what_is_no_array_is_refused():
    with pytest.raises(UserError, match="images are of the type list: give an array of NumPy or JAX"):
        as_unit([np.zeros((16, 20, 3))], 3)
    with pytest.raises(UserError, match="start is of the type list"):
        one_as_unit([[[0.5]]], 1, "start")
    with pytest.raises(UserError, match="images are of the type float"):
        as_unit(0.5, 3)


@pytest.mark.parametrize("size", [(12,), (1, 2, 3), (0, 5)])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(UserError, match="is no image's size: give one positive whole number"):
        to_size(size)


def test_jit_takes_it_and_compiles_once_for_all_networks_of_a_model(network):
    traces = []

    @jax.jit
    def run(network, images):
        traces.append(1)
        return network(images)[0]

    images = jnp.zeros((1, *network.image_shape))
    other = Network.create(small(seed=5), normalizer=network.normalizer, class_names=network.class_names)
    other = other.replace(provenance={"another": "note"})
    np.testing.assert_array_equal(run(network, images), run(network.replace(provenance={}), images))
    assert not np.array_equal(run(network, images), run(other, images))
    assert len(traces) == 1
    run(network.replace(class_names=("x", "y", "z")), images)
    assert len(traces) == 2
    assert jax.tree.structure(network) == jax.tree.structure(other)
    assert hash(jax.tree.structure(network)) == hash(jax.tree.structure(other))


def test_gradients_and_maps_have_its_structure(network):
    images = jnp.asarray(RNG.random((2, 16, 20, 3), np.float32))
    gradient = jax.jit(jax.grad(lambda network: (network(images)[0] ** 2).sum()))(network)
    assert isinstance(gradient, Network) and gradient.class_names == network.class_names
    assert float(jnp.abs(gradient.params["conv_1"]["kernel"]).max()) > 0
    doubled = jax.tree.map(lambda a: 2 * a, network)
    np.testing.assert_array_equal(doubled.params["output"]["bias"], 2 * network.params["output"]["bias"])
    named = jax.tree_util.tree_leaves_with_path(network)
    assert jax.tree_util.keystr(named[0][0]) == ".params['conv_1']['bias']"
    shapes = jax.eval_shape(lambda n: n, network)
    assert shapes.params["conv_1"]["kernel"].shape == (3, 3, 3, 3)


def test_one_logit_stands_for_two_classes():
    one = Network.create(small(num_classes=1), arrays((16, 20, 3), 2))
    images = jnp.asarray(RNG.random((4, 16, 20, 3), np.float32))
    logit = one(images)[0][:, 0]
    np.testing.assert_allclose(one.probabilities(images)[:, 1], jax.nn.sigmoid(logit), rtol=1e-6)
    np.testing.assert_allclose(one.probabilities(images).sum(1), 1, rtol=1e-6)
    two = Network.create(small(num_classes=2), arrays((16, 20, 3), 2))
    np.testing.assert_allclose(two.probabilities(images), jax.nn.softmax(two(images)[0]), rtol=1e-6)


def test_a_plain_flax_model_with_state():
    dataset = arrays((9, 7, 1), 2)
    network = Network.create(Norms(1, 2, rngs=nnx.Rngs(0)), dataset, normalizer="mean")
    assert network.config is None and network.image_shape == (9, 7, 1)
    assert set(network.model_state) == {"blocks", "dropout"} and set(network.params) == {"blocks", "dense"}
    images = jnp.asarray(RNG.random((4, 9, 7, 1), np.float32))
    output = network.apply(images, train=True)
    changed = network.replace(model_state=output.model_state)
    assert changed.digest != network.digest
    assert not np.allclose(output.model_state["blocks"][1]["mean"], network.model_state["blocks"][1]["mean"])
    model = network.model()
    model.eval()
    np.testing.assert_allclose(network(images)[0], model(network.normalizer(images)), rtol=1e-5, atol=1e-6)
    assert repr(network) == "Network(Norms, 58 parameters, 9×7×1 images, 2 classes, normalizer 'mean')"


def test_without_a_dataset():
    network = Network.create(small(channels=1), normalizer=normalize.identity())
    assert network.class_names == ("class 0", "class 1", "class 2") and network.image_shape == (16, 20, 1)
    named = Network.create(small(), normalizer=normalize.identity(), class_names=["x", "y", "z"])
    assert named.class_names == ("x", "y", "z")
    base = random_networks.model("vgg11", image_size=32, width_multiplier=0.05, include_top=False)
    assert Network.create(base, normalizer=normalize.identity(), image_size=64).class_names == ()
    plain = Norms(3, 2, rngs=nnx.Rngs(0))
    made = Network.create(plain, normalizer=normalize.identity(), image_size=8, channels=3)
    assert made.image_size == (8, 8)


def test_class_names_and_provenance_as_numpy_has_them():
    labels = np.array([7, 5, 6, 5])
    create = partial(inspect.unwrap(Network.create.__func__), Network, normalizer=normalize.identity())
    network = create(small(), class_names=np.unique(labels))
    assert network.class_names == ("5", "6", "7") and all(type(name) is str for name in network.class_names)
    with pytest.raises(UserError, match="the provenance cannot be kept as JSON .*: use texts, numbers"):
        create(small(), provenance={"accuracy": np.float32(0.5)})


def test_one_text_is_no_sequence_of_class_names():
    with pytest.raises(UserError, match="class_names='cat' is one text: give a sequence of names"):
        Network.create(small(), normalizer=normalize.identity(), class_names="cat")
    # Published lists of ImageNet's classes have "crane" twice.
    cranes = ("crane", "crane", "heron")
    assert Network.create(small(), normalizer=normalize.identity(), class_names=cranes).class_names == cranes


def test_without_classes_there_are_no_probabilities():
    base = random_networks.model("vgg11", image_size=32, width_multiplier=0.05, include_top=False)
    network = Network.create(base, normalizer=normalize.identity())
    with pytest.raises(UserError, match="this network has no classes.*: use one with its dense layers"):
        network.probabilities(np.zeros((1, 32, 32, 3), np.float32))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({}, "normalizer='standard' is fitted to training images: pass a dataset, or a Normalizer"),
        ({"normalizer": normalize.identity(), "class_names": ("a", "b")}, "3 logits, for 3 classes, but .* 2 class"),
    ],
)
def test_what_is_missing_is_named(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Network.create(small(), **arguments)


def test_what_does_not_fit_is_named(dataset):
    with pytest.raises(UserError, match="pass image_size=..., or a dataset"):
        Network.create(Norms(3, 2, rngs=nnx.Rngs(0)), normalizer=normalize.identity())
    with pytest.raises(UserError, match=r"SmallCNN takes images of shape \(batch, 16, 16, 3\), not \(1, 16, 20, 3\)"):
        Network.create(small(image_size=16), dataset)
    with pytest.raises(UserError, match=r"the model Norms does not take images of the shape \(batch, 16, 20, 3\), .*3"):
        Network.create(Norms(1, 3, rngs=nnx.Rngs(0)), dataset)
    with pytest.raises(UserError, match="create it with num_classes=3"):
        Network.create(small(num_classes=5), dataset)


def test_the_digest_is_kept_where_the_arrays_are(network):
    before = network.digest
    assert network.replace(image_size=(20, 20)).__dict__["digest"] == before
    changed = network.replace(params=jax.tree.map(lambda a: a + 1, network.params))
    assert "digest" not in changed.__dict__ and changed.digest != before
    assert len(before) == 64


def test_short_name(network):
    count = sum(a.size for a in jax.tree.leaves(network.params))
    expected = f"Network(small-cnn, {count:,} parameters, 16×20×3 images, 3 classes, normalizer 'standard')"
    assert repr(network) == expected
    assert "small-cnn" in repr(network.replace(params={}, model_state={}))


UNCHANGED = """
import json, os, sys
import jax
def state():
    return {"environ": dict(os.environ), "jax": {k: repr(v) for k, v in jax.config.values.items()}}
before = state()
import cnnjax
from cnnjax import Network, data, formats, losses, models, train, visualize
assert cnnjax.__version__ and callable(cnnjax.configure) and "Network" in dir(cnnjax)
after = state()
for name in before:
    changed = {k for k in before[name].keys() | after[name].keys() if before[name].get(k) != after[name].get(k)}
    assert not changed, (name, changed)
assert not jax._src.xla_bridge._backends
print(json.dumps("ok"))
"""


def run(code, **environ):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "CNNJAX_"))}
    environ = kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environ
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing():
    assert run(UNCHANGED, HOME="/nonexistent", XLA_FLAGS="/nonexistent/flags").strip() == '"ok"'


MALLOC = """
import ctypes
import jax, flax
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc = ctypes.CDLL(None)
mallopt = libc.mallopt
asked = []
import cnnjax, cnnjax.runtime
cnnjax.runtime._keep_memory = lambda: asked.append(1)
from cnnjax import Network, data, formats, losses, models, train, visualize
assert not asked
# Above the default threshold, malloc maps a block apart from its heap: after M_MMAP_MAX = 0 it would not.
info = libc.mallinfo2
info.restype, libc.malloc.restype, libc.malloc.argtypes = Info, ctypes.c_void_p, [ctypes.c_size_t]
before = info().hblks
assert libc.malloc(200 << 20) and info().hblks == before + 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_importing_leaves_malloc_alone():
    run(MALLOC)


def test_importing_imports_little():
    """The parts of the package come when they are used."""
    code = "import sys, cnnjax; print(sorted(n for n in sys.modules if n.startswith(('cnnjax', 'jax', 'flax'))))"
    assert run(code).strip() == "['cnnjax', 'cnnjax.version']"
    with pytest.raises(AttributeError, match="module 'cnnjax' has no attribute 'nothing'"):
        import cnnjax

        _ = cnnjax.nothing
