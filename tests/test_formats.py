"""Networks that Keras and PyTorch made and saved, read here, and ours, read there: the same numbers come out."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import json
import subprocess
import sys
from pathlib import Path

import compiling
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import safetensors.numpy
import torch_files
from flax import nnx
from networks import close
from oracles import numpy_nets
from oracles.numpy_autodiff import Value
from random_networks import random, same

from cnnjax import Network, formats, models
from cnnjax.checksums import digest
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import native, torch_names
from cnnjax.formats.architectures import ARCHITECTURES
from cnnjax.formats.infer import infer
from cnnjax.formats.lazy_tensors import Tensor

# Keras and NumPy 2 disagree about a keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def as_keras_wants_it(quickly_compiled):
    """Keras computes with JAX here, but not with the strict rules that this package's tests set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
UNITS = (8, 16, 32, 64, 64)
IMAGES = np.random.default_rng(0).random((8, 64, 64, 3), np.float32)
CONVOLUTIONS = [f"block{b}_conv{i}" for b, n in enumerate(STAGES[16], 1) for i in range(1, n + 1)]


def channels(number, units=UNITS):
    return [[width] * count for width, count in zip(units, STAGES[number], strict=True)]


@jax.jit
def run(network, images):
    """Logits, the gradient of their sum of squares, and every convolution's maps."""

    def energy(images):
        logits, activations = network(images)
        return (logits**2).sum(), (logits, activations)

    gradient, (logits, activations) = jax.grad(energy, has_aux=True)(images)
    return logits, gradient, {name: value for name, value in activations.items() if "_conv" in name}


@jax.jit
def logits_of(network, images):
    return network(images)[0]


def has(network, **expected):
    """The network is as these parts of its model's configuration say."""
    assert {name: network.config[name] for name in expected} == expected


def agree(ours, theirs):
    """Logits and maps to 1e-4; gradients too, in most images: where a relu or a maximum is a tie but for rounding, the
    gradient of one image takes another way, by a little."""
    close((ours[0], ours[2]), (theirs[0], theirs[2]))
    errors = np.abs(ours[1] - theirs[1]).max((1, 2, 3)) / np.abs(theirs[1]).max((1, 2, 3))
    assert np.sort(errors)[5] < 1e-4 and errors.max() < 0.1, errors


def numpy_run(state, images):
    """The same in NumPy, from the images as torchvision's users prepare them."""
    net, prepared = numpy_nets.Published(state), Value(numpy_nets.given(images))
    logits = net(prepared)
    logits.backward(2 * logits.data)
    maps = dict(zip(CONVOLUTIONS, (m.data for m in net.maps), strict=True))
    return logits.data, prepared.grad / numpy_nets.DEVIATION, maps


def numpy_logits(state, images):
    return numpy_nets.Published(state)(numpy_nets.given(images)).data


@pytest.fixture(scope="module")
def torchvision():
    return numpy_nets.filled(numpy_nets.vgg_shapes(channels(16), cells=2))


def test_torchvisions_vgg16_gives_its_numbers(tmp_path, torchvision):
    torch_files.save(tmp_path / "weights.pth", torchvision)
    network = formats.load(tmp_path / "weights.pth")
    has(network, name="vgg16", image_size=64)
    assert network.image_size == (64, 64) and network.normalizer.kind == "standard"
    assert network.class_names == tuple(f"class {i}" for i in range(5))
    agree(run(network, IMAGES), numpy_run(torchvision, IMAGES))


def timm_state(torchvision):
    """The same parameters in timm's modules, as its own loader turns torchvision's around."""
    shapes = numpy_nets.timm_shapes(channels(16), cells=2)
    return {name: value.reshape(shapes[name]) for name, value in zip(shapes, torchvision.values(), strict=True)}


def save_torch(kind, path, state):
    if kind in ("zip", "legacy"):
        torch_files.save(path, state, kind == "legacy")
    else:
        safetensors.numpy.save_file(timm_state(state) if kind == "timm" else state, path)


@pytest.mark.parametrize("kind", ["legacy", "safetensors", "timm"])
def test_pytorchs_other_files_are_the_same_network(tmp_path, torchvision, kind):
    for name in ("zip", kind):
        save_torch(name, tmp_path / name, torchvision)
    network = formats.load(tmp_path / kind)
    assert network.digest == formats.load(tmp_path / "zip").digest and network.image_size == (64, 64)


def test_at_torchvisions_size_the_first_dense_layer_sees_seven_by_seven(tmp_path):
    state = numpy_nets.filled(numpy_nets.vgg_shapes(channels(11, (3, 6, 13, 26, 26)), dense=7), 1)
    torch_files.save(tmp_path / "vgg11.pth", state)
    network = formats.load(tmp_path / "vgg11.pth")
    has(network, name="vgg11", image_size=224, dense_units=7)
    images = np.random.default_rng(1).random((2, 224, 224, 3), np.float32)
    close(logits_of(network, images), numpy_logits(state, images))


@pytest.mark.parametrize("number", [11, 13, 19])
def test_timms_smaller_and_larger_ones(tmp_path, number):
    state = numpy_nets.filled(numpy_nets.timm_shapes(channels(number, (3, 6, 13, 26, 26)), dense=9, cells=1))
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    network = formats.load(tmp_path / "model.safetensors")
    has(network, name=f"vgg{number}", width_multiplier=0.05, dense_units=9)
    images = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    with compiling.quickly():
        close(logits_of(network, images), numpy_logits(state, images))


@pytest.fixture(scope="module")
def keras_net():
    """keras.applications.VGG16 with random weights."""
    import keras

    net = keras.applications.VGG16(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None)
    rng = np.random.default_rng(0)
    net.set_weights([random(rng, w.shape) for w in net.get_weights()])
    return net


@pytest.fixture(scope="module")
def keras_expected(keras_net):
    """What Keras computes of the images, from its own preprocessing on."""
    from keras import Model, applications

    whole = Model(keras_net.input, [keras_net.get_layer(name).output for name in CONVOLUTIONS] + [keras_net.output])
    *maps, logits = whole(applications.vgg16.preprocess_input(IMAGES[:2] * 255))
    return np.asarray(logits), dict(zip(CONVOLUTIONS, map(np.asarray, maps), strict=True))


@jax.jit
def forward(network, images):
    logits, activations = network(images)
    return logits, {name: value for name, value in activations.items() if "_conv" in name}


def save_legacy(path, net, published=False):
    """As Keras 2 wrote weights, or as Keras 1 did, whose VGG16 file is the one that is published."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        if not published:
            legacy_h5_format.save_weights_to_hdf5_group(file, net)
            return
        file.attrs["layer_names"] = [layer.name.encode() for layer in net.layers]
        for layer in net.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{kind}_1:0" for kind in "Wb"][: len(layer.weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group[name] = weight


def load_legacy(path, net):
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path) as file:
        legacy_h5_format.load_weights_from_hdf5_group(file, net)


@pytest.mark.parametrize("kind", ["vgg16.h5", "published.h5", "vgg16.weights.h5", "vgg16.keras"])
def test_keras_files_give_keras_numbers(tmp_path, keras_net, keras_expected, kind):
    path = tmp_path / kind
    if kind == "vgg16.weights.h5":
        keras_net.save_weights(path)
    elif kind == "vgg16.keras":
        keras_net.save(path)
    else:
        save_legacy(path, keras_net, kind == "published.h5")
    network = formats.load(path)
    has(network, name="vgg16", width_multiplier=1.0, dense_units=None, dropout=0.5, image_size=64, channels=3)
    assert network.normalizer.kind == "caffe" and len(network.class_names) == 5
    close(forward(network, IMAGES[:2]), keras_expected)
    if kind == "published.h5":
        twin = type(keras_net).from_config(keras_net.get_config())
        load_legacy(path, twin)
        np.testing.assert_array_equal(twin.get_weights()[0], keras_net.get_weights()[0])


def test_keras_convolutions_alone(tmp_path, keras_net):
    """`_notop.h5` has no logits, so one must say that one wants it."""
    import keras

    base = keras.Model(keras_net.input, keras_net.get_layer("block5_pool").output)
    save_legacy(tmp_path / "notop.h5", base)
    with pytest.raises(UserError, match="holds a vgg16 without its dense layers.*include_top=False"):
        formats.load(tmp_path / "notop.h5")
    network = formats.load(tmp_path / "notop.h5", include_top=False)
    assert network.class_names == () and network.image_size == (224, 224)
    ours, activations = jax.jit(lambda network, images: network(images))(network, IMAGES[:2])
    assert "fc1" not in activations
    close(ours, base(keras.applications.vgg16.preprocess_input(IMAGES[:2] * 255)))
    formats.save(tmp_path / "w.safetensors", network)
    same(formats.load(tmp_path / "w.safetensors", include_top=False), network)


# Ours, taken elsewhere


def ours(name, image_size, class_names=("cat", "dog", "fox"), kind="standard", width_multiplier=0.06, **arguments):
    return random_networks.network(name, image_size, class_names, kind, width_multiplier=width_multiplier, **arguments)


@pytest.fixture(scope="module", params=["vgg11", "small-cnn"])
def network(request):
    return ours(request.param, (70, 100) if request.param == "vgg11" else 36)


def images_for(network, count=4):
    return np.random.default_rng(2).random((count, *network.image_shape), np.float32)


def normalized(network):
    return np.asarray(network.normalizer(jnp.asarray(images_for(network))))


def logits(network):
    return logits_of(network, images_for(network))


def in_order(network):
    return [network.params[name] for name in ARCHITECTURES[network.config["name"]].paths()]


def keras_twin(network):
    """A Keras model of the same layers, its names Keras' own."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input(network.image_shape)
    blocks = {"small-cnn": (1, 1, 1, 1), "vgg11": STAGES[11]}[network.config["name"]]
    arrays = in_order(network)
    units = [a["bias"].shape[0] for a in arrays]
    for count in blocks:
        for _ in range(count):
            x = k.Conv2D(units.pop(0), 3, padding="same", activation="relu")(x)
        x = k.MaxPooling2D()(x)
    x = k.Dropout(0.5)(k.Flatten()(x))
    x = k.Dense(units.pop(0), activation="relu")(x)
    x = k.Dense(units.pop(0), activation="relu")(x)
    return keras.Model(inputs, k.Dense(units.pop(0))(x))


def test_keras_loads_what_we_write(tmp_path, network):
    path = tmp_path / "ours.weights.h5"
    formats.save_keras(path, network)
    twin = keras_twin(network)
    twin.load_weights(path)
    close(logits(network), np.asarray(twin(normalized(network))))
    same(formats.load(path), network)


def test_keras_application_loads_what_we_write(tmp_path):
    import keras

    network = ours("vgg16", 32, width_multiplier=1.0)
    formats.save_keras(tmp_path / "ours.weights.h5", network)
    twin = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None)
    twin.load_weights(tmp_path / "ours.weights.h5")
    close(logits(network), np.asarray(twin(normalized(network))))


def test_a_small_network_that_keras_made_and_saved(tmp_path, network):
    """By its layers' order, since their names are Keras' own; a `.keras` file has the size of the images."""
    twin = keras_twin(network)
    twin.set_weights([a for layer in in_order(network) for a in (layer["kernel"], layer["bias"])])
    twin.save(tmp_path / "twin.keras")
    loaded = formats.load(tmp_path / "twin.keras")
    assert loaded.image_size == network.image_size and loaded.digest == network.digest
    assert loaded.normalizer.kind == ("caffe" if network.config["name"] == "vgg11" else "none")


@pytest.fixture(scope="module")
def keras_cnn():
    """Makes an article's network in Keras, with other layers before it or in another data format."""
    import keras
    from keras import layers as k

    def make(before=(), flatten="channels_last", data_format="channels_last", outputs=1, last="sigmoid"):
        x = inputs = keras.Input((36, 52, 3) if data_format == "channels_last" else (3, 36, 52))
        for one in before:
            x = one(x)
        for units in (2, 4, 8, 8):
            x = k.Conv2D(units, 3, padding="same", activation="relu", data_format=data_format)(x)
            x = k.MaxPooling2D(data_format=data_format)(x)
        x = k.Dropout(0.5)(k.Flatten(data_format=flatten)(x))
        for units in (32, 16):
            x = k.Dense(units, activation="relu")(x)
        return keras.Model(inputs, k.Dense(outputs, activation=last)(x))

    return make


@pytest.mark.parametrize(
    "flatten, data_format, last",
    [
        ("channels_last", "channels_first", "sigmoid"),
        ("channels_first", "channels_first", "softmax"),
        ("rescaled",) * 3,
    ],
)
def test_what_a_config_says_gives_keras_numbers(tmp_path, keras_cnn, flatten, data_format, last):
    from keras import layers as k

    images = np.random.default_rng(3).random((2, 36, 52, 3), np.float32)
    if flatten == "rescaled":
        net, given = keras_cnn([k.RandomFlip(), k.Rescaling(1 / 127.5, offset=-1)]), images * 255
    else:
        outputs = 3 if last == "softmax" else 1
        net = keras_cnn((), flatten, data_format, outputs, last)
        given = images.transpose(0, 3, 1, 2)
    expected = np.asarray(net(given, training=False))
    for ending in ("keras", "h5"):
        net.save(tmp_path / f"w.{ending}")
        network = formats.load(tmp_path / f"w.{ending}")
        assert network.image_size == (36, 52)
        found = np.asarray(network.probabilities(images))
        close(found[:, 1:] if expected.shape[1] == 1 else found, expected)


@pytest.mark.parametrize("module", ["vgg16", "mobilenet_v2", "densenet"])
def test_preprocessing_within_the_model_is_the_normalizer(tmp_path, keras_cnn, module):
    """`preprocess_input` as Keras' own tutorials call it: caffe's, tf's and torch's."""
    import keras

    preprocess = getattr(keras.applications, module).preprocess_input
    net = keras_cnn([preprocess])
    images = np.random.default_rng(3).random((2, 36, 52, 3), np.float32)
    expected = np.asarray(net(images * 255, training=False))
    for ending in ("keras", "h5"):
        net.save(tmp_path / f"w.{ending}")
        network = formats.load(tmp_path / f"w.{ending}")
        assert network.normalizer.kind == ("caffe" if module == "vgg16" else "standard")
        close(np.asarray(network.probabilities(images))[:, 1:], expected)


@pytest.mark.parametrize("kind", ["nested", "flat", "functional"])
def test_a_keras_backbone_under_ones_own_head(tmp_path, kind):
    import keras
    from keras import layers as k

    body = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    if kind == "nested":
        net = keras.Sequential([body, k.Flatten(), k.Dense(8, activation="relu"), k.Dense(1, activation="sigmoid")])
    else:
        x = inputs = keras.Input((32, 32, 3)) if kind == "functional" else body.input
        x = body(x) if kind == "functional" else body.output
        net = keras.Model(inputs, k.Dense(2)(k.Dense(8, activation="relu")(k.GlobalAveragePooling2D()(x))))
    kernels = [w for w in body.get_weights() if w.ndim == 4]
    for ending in ("keras", "h5", "weights.h5"):
        path = tmp_path / f"w.{ending}"
        (net.save_weights if ending == "weights.h5" else net.save)(path)
        with pytest.raises(UserError, match="include_top=False"):
            formats.load(path)
        network = formats.load(path, include_top=False)
        has(network, name="vgg16", include_top=False)
        found = [network.params[name]["kernel"] for name in CONVOLUTIONS]
        assert all(np.array_equal(a, b) for a, b in zip(found, kernels, strict=True))
        assert len(network.provenance["left out"]) == 4 and all("dense" in n for n in network.provenance["left out"])
        path.unlink()


def test_pytorch_gets_what_we_write(tmp_path, network):
    """Its names and shapes, and with these arrays the same logits."""
    path = tmp_path / "ours.safetensors"
    formats.save_torchvision(path, network)
    units = [a["bias"].shape[0] for a in in_order(network)]
    if network.config["name"] == "small-cnn":
        shapes = numpy_nets.small_cnn_shapes(units[:4], tuple(units[4:6]), units[6], cells=2)
    else:
        shape = [[units[0]], [units[1]], units[2:4], units[4:6], units[6:8]]
        shapes = numpy_nets.vgg_shapes(shape, units[-2], 3, cells=(2, 3))
    written = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in written.items()} == shapes
    in_torchs_order = {name: written[name] for name in shapes}
    close(logits(network), numpy_nets.Published(in_torchs_order)(normalized(network)).data)
    same(formats.load(path), network)


# Batch normalization: torchvision's _bn variants, and ResNets of torchvision and timm


def normed(name):
    """A state with batch normalization as torchvision builds it, its images' size and what it is here."""
    if name == "vgg13-bn":
        shapes = numpy_nets.vgg_shapes(channels(13, (3, 6, 13, 26, 26)), 9, 5, 1, batch_norm=True)
        return numpy_nets.filled(shapes), 32, {"width_multiplier": 0.05, "dense_units": 9}
    counts = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}[name]
    shapes = numpy_nets.resnet_shapes(counts, name == "resnet50", 4)
    return numpy_nets.filled(shapes), 48, {"width_multiplier": 0.062}


@pytest.mark.parametrize("name", ["vgg13-bn", "resnet18", pytest.param("resnet34", marks=pytest.mark.slow), "resnet50"])
def test_running_statistics_go_both_ways(tmp_path, name):
    state, size, expected = normed(name)
    safetensors.numpy.save_file(state, tmp_path / "theirs.safetensors")
    torch_files.save(tmp_path / "theirs.pth", state)
    network = formats.load(tmp_path / "theirs.pth", image_size=size)
    has(network, name=name, channels=3, num_classes=5, image_size=size, **expected)
    assert network.normalizer.kind == "standard" and network.class_names == tuple(f"class {i}" for i in range(5))
    assert formats.load(tmp_path / "theirs.safetensors").digest == network.digest
    images = np.random.default_rng(1).random((3, size, size, 3), np.float32)
    with compiling.quickly():
        close(logits_of(network, images), numpy_logits(state, images))

    formats.save_torchvision(tmp_path / "ours.safetensors", network)
    written = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert written.keys() == state.keys()
    for key, value in state.items():
        assert written[key].dtype == value.dtype
        np.testing.assert_array_equal(written[key], value)
    same(formats.load(tmp_path / "ours.safetensors"), network)


def test_a_resnet_takes_other_classes(tmp_path):
    state, _, _ = normed("resnet18")
    torch_files.save(tmp_path / "w.pth", state)
    head = formats.load(tmp_path / "w.pth", new_head=("a", "b"), image_size=(40, 64))
    assert head.params["fc"]["bias"].shape == (1,) and head.provenance["left out"] == ["fc"]
    assert head.image_size == (40, 64)
    np.testing.assert_array_equal(head.model_state["bn1"]["mean"], state["bn1.running_mean"])
    with pytest.raises(UserError, match="a resnet18, which needs its dense layers: only a VGG does without them"):
        formats.load(tmp_path / "w.pth", include_top=False)


def test_resnet50s_real_names_and_widths_are_known():
    """At width 1 the names and shapes are torchvision's; nothing is read, since the arrays are abstract."""
    states = json.loads((Path(__file__).parent / "oracles" / "torch_states.json").read_text())
    tensors = {n: Tensor(n, tuple(shape), np.dtype("f4"), None) for n, shape in states["resnet50"].items()}
    contents = torch_names.contents("", tensors, None)
    found = infer({name: tensor.shape_here for name, tensor in contents.tensors.items()})
    assert not contents.unknown and found.config == {
        "name": "resnet50", "num_classes": 1000, "image_size": (224, 224), "channels": 3, "width_multiplier": 1.0,
    }  # fmt: skip


def test_the_table_has_every_model_with_its_layers():
    assert ARCHITECTURES.keys() == models.MODELS.keys()
    for name, architecture in ARCHITECTURES.items():
        network = random_networks.network(name, width_multiplier=0.05)
        arrays = random_networks.shapes(network.params) | random_networks.shapes(network.model_state)
        assert {array.rpartition("/")[0] for array in arrays} == set(architecture.paths()), name


RUN = """
import sys
for name in ("cnnjax", "flax", "orbax", "tensorflow", "torch", "keras"):
    sys.modules[name] = None  # importing it raises ImportError
import jax, numpy, pathlib, safetensors.numpy
path, images = sys.argv[1], numpy.load(sys.argv[2])
tensors = safetensors.numpy.load_file(path + ".safetensors")
program = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
logits = program.call(tensors, images)
found = {"logits": logits}
if "small" in sys.argv:
    found["one"] = program.call(tensors, images[:1])
    found["gradient"] = jax.grad(lambda images: (program.call(tensors, images) ** 2).sum())(images)
numpy.savez(sys.argv[3], **found)
"""


@pytest.mark.parametrize(
    "name, kind",
    [
        ("vgg11", "standard"),
        ("small-cnn", "zca"),
        pytest.param("vgg11-bn", "mean", marks=pytest.mark.slow),
        ("resnet18", "standard"),
    ],
)
def test_stablehlo_runs_where_this_package_is_not(tmp_path, name, kind):
    network = ours(name, (32, 40), kind=kind)
    formats.save_stablehlo(tmp_path / "net.stablehlo", network)
    np.save(tmp_path / "images.npy", images_for(network))
    arguments = [tmp_path / "net.stablehlo", tmp_path / "images.npy", tmp_path / "out.npz", name.partition("-")[0]]
    with compiling.quickly():
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([sys.executable, "-c", "import jax.export" + RUN, *arguments], check=True, cwd=tmp_path, env=env)
        expected = logits(network)
    found = np.load(tmp_path / "out.npz")
    close(found["logits"], expected)
    same(formats.load(tmp_path / "net.stablehlo.safetensors"), network)
    if name != "small-cnn":
        return
    close(found["one"], expected[:1])
    energy = jax.jit(jax.grad(lambda images: (network(images)[0] ** 2).sum()))
    close(found["gradient"], energy(jnp.asarray(images_for(network))))


class Plain(nnx.Module):
    """Flax's own layers, with running statistics and random state."""

    def __init__(self, channels, *, rngs):
        self.layers = nnx.List([nnx.Conv(channels, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout, self.dense = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.dense(self.dropout(nnx.relu(x).mean((1, 2))))


class Counting(Plain):
    def __call__(self, x):
        return super().__call__(x) / len(x)


def plain(model=Plain):
    made = model(2, rngs=nnx.Rngs(0))
    return Network.create(made, normalizer=normalize.identity(), image_size=(9, 7), channels=2)


def test_stablehlo_of_any_model(tmp_path):
    formats.save_stablehlo(tmp_path / "net", plain())
    program = jax.export.deserialize(bytearray((tmp_path / "net").read_bytes()))
    tensors = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    images = images_for(plain(), 5)
    close(program.call(tensors, images), logits_of(plain(), images))
    with pytest.raises(UserError, match=r"cannot be exported for batches of any size .* use x.shape\[0\]"):
        formats.save_stablehlo(tmp_path / "net", plain(Counting))


# Parts of a file, which must be asked for


def test_a_new_head_and_no_top_are_asked_for(tmp_path):
    network = ours("vgg11", 40)
    formats.save_torchvision(tmp_path / "w", network)
    head = formats.load(tmp_path / "w", new_head=("a", "b", "c", "d"), seed=5)
    assert head.class_names == ("a", "b", "c", "d") and head.params["predictions"]["kernel"].shape[1] == 4
    np.testing.assert_array_equal(head.params["fc2"]["kernel"], network.params["fc2"]["kernel"])
    assert head.provenance["left out"] == ["predictions"] and head.provenance["new head"]["seed"] == 5
    two = formats.load(tmp_path / "w", new_head=("cat", "dog"))
    assert two.params["predictions"]["bias"].shape == (1,)
    base = formats.load(tmp_path / "w", include_top=False, image_size=(100, 90))
    assert base.image_size == (100, 90) and "fc1" not in base.params and base.class_names == ()
    assert base.provenance["left out"] == ["fc1", "fc2", "predictions"]
    named = formats.load(tmp_path / "w", class_names=("x", "y", "z"), image_size=63)
    assert named.class_names == ("x", "y", "z") and named.image_size == (63, 63)
    for arguments, sentence in (
        ({"image_size": (40, 64)}, "images of width 32 to 63, not 64"),
        ({"class_names": ("x", "y")}, "has 3 classes, not the 2 of class_names"),
        ({"new_head": ("x", "y"), "include_top": False}, "a new head needs dense layers"),
    ):
        with pytest.raises(UserError, match=sentence):
            formats.load(tmp_path / "w", **arguments)
    small = ours("small-cnn", 32)
    formats.save(tmp_path / "small", small)
    with pytest.raises(UserError, match="only a VGG does without them"):
        formats.load(tmp_path / "small", include_top=False)


def test_two_softmax_outputs_stay_two(tmp_path):
    """Our own networks of two classes have one sigmoid logit; another library's may have two."""
    torch_files.save(tmp_path / "two.pth", numpy_nets.filled(numpy_nets.vgg_shapes(channels(11), 32, 2, 1)))
    network = formats.load(tmp_path / "two.pth")
    assert network.class_names == ("class 0", "class 1") and network.params["predictions"]["bias"].shape == (2,)
    formats.save(tmp_path / "two.safetensors", network)
    same(formats.load(tmp_path / "two.safetensors"), network)


def test_writers_refuse_what_would_not_be_read(tmp_path):
    with pytest.raises(UserError, match="call it w.weights.h5"):
        formats.save_keras(tmp_path / "w.h5", ours("vgg11", 32))
    whitened = ours("small-cnn", 32, kind="zca")
    for save, name in ((formats.save_keras, "w.weights.h5"), (formats.save_torchvision, "w")):
        with pytest.raises(UserError, match="no place for zca whitening"):
            save(tmp_path / name, whitened)
        assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for save in (formats.save_keras, formats.save_torchvision, formats.save_stablehlo):
        with pytest.raises(UserError, match="cannot write"):
            save(tmp_path / "file" / "w.weights.h5", ours("vgg11", 32))


def test_what_other_libraries_do_not_have_is_refused(tmp_path):
    own = plain()
    for save, name in ((formats.save_keras, "w.weights.h5"), (formats.save_torchvision, "w")):
        with pytest.raises(UserError, match=r"Network\(Plain, .*\) is no model of this package: use save"):
            save(tmp_path / name, own)
    with pytest.raises(UserError, match="not of resnet18: write it for torchvision or as stablehlo"):
        formats.save_keras(tmp_path / "w.weights.h5", ours("resnet18", 32))
    assert not list(tmp_path.iterdir())


def test_the_digest_is_that_of_the_parameters(tmp_path):
    network = ours("small-cnn", 32)
    assert network.digest == digest(models.flatten(network.params))
    normed = ours("vgg11-bn", 32)
    assert normed.digest != digest(models.flatten(normed.params))
    formats.save(tmp_path / "w", network)
    header = (tmp_path / "w").read_bytes()[8:]
    about = json.loads(header[: header.index(b"}}") + 2].split(b" ", 0)[0])["__metadata__"]
    assert about["sha256"] == native.checksum(about["cnnjax"], safetensors.numpy.load_file(tmp_path / "w"))
