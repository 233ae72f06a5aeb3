"""Networks that Keras and PyTorch made and saved, read here, and ours, read there: the same numbers come out."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import copyreg
import json
import subprocess
import sys
from collections import OrderedDict
from functools import partial

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx
from networks import close
from oracles import torch_nets

from cnnjax import formats, models
from cnnjax.cli.config import ModelConfig
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import native
from cnnjax.visualize import layers

# Keras on TensorFlow and NumPy 2 disagree about a keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
UNITS = (8, 16, 32, 64, 64)
PICTURES = np.random.default_rng(0).random((8, 64, 64, 3), np.float32)
CONVOLUTIONS = [f"block{b}_conv{i}" for b, n in enumerate(STAGES[16], 1) for i in range(1, n + 1)]


def channels(number, units=UNITS):
    return [[width] * count for width, count in zip(units, STAGES[number], strict=True)]


@partial(jax.jit, static_argnums=1)
def _run(arrays, rest, images):
    """Logits, the gradient of their sum of squares, and every convolution's maps."""
    network = layers.unpack(arrays, rest)

    def energy(images):
        logits, activations = network.forward(network.params, images)
        return (logits**2).sum(), (logits, activations)

    gradient, (logits, activations) = jax.grad(energy, has_aux=True)(images)
    return logits, gradient, {name: value for name, value in activations.items() if "_conv" in name}


def run(network, images):
    return _run(*layers.pack(network), jnp.asarray(images))


def agree(ours, theirs):
    """Logits and maps to 1e-4; gradients too, in most pictures: where a relu or a maximum is a tie but for rounding,
    one picture's gradient takes another way, by a little."""
    close((ours[0], ours[2]), (theirs[0], theirs[2]))
    errors = np.abs(ours[1] - theirs[1]).max((1, 2, 3)) / np.abs(theirs[1]).max((1, 2, 3))
    assert np.sort(errors)[5] < 1e-4 and errors.max() < 0.1, errors


def torch_run(net, images):
    """The same in PyTorch, from the pictures as torchvision's users prepare them."""
    given = torch.tensor(images, requires_grad=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    maps, logits = net.maps(((given - mean) / deviation).permute(0, 3, 1, 2))
    (logits**2).sum().backward()
    maps = [m.detach().permute(0, 2, 3, 1).numpy() for m in maps]
    return logits.detach().numpy(), given.grad.numpy(), dict(zip(CONVOLUTIONS, maps, strict=True))


@pytest.fixture(scope="module")
def torchvision():
    return torch_nets.TorchvisionVGG(channels(16), cells=2).randomised()


@pytest.fixture(scope="module")
def expected(torchvision):
    return torch_run(torchvision, PICTURES)


def timm_state(torchvision):
    """The same parameters in timm's modules, as its own loader turns torchvision's around."""
    net = torch_nets.TimmVGG(channels(16), cells=2)
    old = torchvision.state_dict()
    state = {name: value for name, value in old.items() if name.startswith("features")}
    for theirs, name, shape in (
        ("classifier.0", "pre_logits.fc1", (-1, 64, 2, 2)),
        ("classifier.3", "pre_logits.fc2", (-1, 32, 1, 1)),
        ("classifier.6", "head.fc", (-1, 32)),
    ):
        state |= {f"{name}.weight": old[f"{theirs}.weight"].reshape(shape), f"{name}.bias": old[f"{theirs}.bias"]}
    net.load_state_dict(state)
    return {name: value.contiguous() for name, value in net.state_dict().items()}


def old_parameter(self, protocol):
    return copyreg.__newobj__, (torch.nn.Parameter, self.data), (self.requires_grad, False, OrderedDict())


def save_torch(kind, path, net):
    state = net.state_dict()
    if kind == "zip":
        torch.save(state, path)
    elif kind == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "legacy parameters":
        torch.save(dict(net.named_parameters()), path, _use_new_zipfile_serialization=False)
    elif kind == "legacy, as published":
        # torchvision's file is of 2017: parameters are made first and told afterwards what they need.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Parameter, "__reduce_ex__", old_parameter)
            torch.save(OrderedDict(net.named_parameters()), path, _use_new_zipfile_serialization=False)
        assert torch.load(path, weights_only=True).keys() == state.keys()
    elif kind == "strided":
        # Views of one storage, turned around: what a state dict may hold as well.
        torch.save({n: v.transpose(0, -1).contiguous().transpose(0, -1) for n, v in state.items()}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        safetensors.torch.save_file(timm_state(net), path)


@pytest.mark.parametrize(
    "kind", ["zip", "legacy", "legacy parameters", "legacy, as published", "strided", "safetensors", "timm"]
)
def test_pytorchs_files_give_pytorchs_numbers(tmp_path, torchvision, expected, kind):
    path = tmp_path / "weights"
    save_torch(kind, path, torchvision)
    network = formats.load(path)
    assert network.model.name == "vgg16" and network.side == 64 and network.cleaning.kind == "standard"
    assert network.class_names == tuple(f"class {i}" for i in range(5))
    agree(run(network, PICTURES), expected)


def test_at_torchvisions_side_the_first_dense_layer_sees_seven_by_seven(tmp_path):
    net = torch_nets.TorchvisionVGG(channels(11, (3, 6, 13, 26, 26)), dense=7).randomised(1)
    torch.save(net.state_dict(), tmp_path / "vgg11.pth")
    network = formats.load(tmp_path / "vgg11.pth")
    assert (network.model.name, network.side, network.model.dense) == ("vgg11", 224, 7)
    images = np.random.default_rng(1).random((2, 224, 224, 3), np.float32)
    logits = jax.jit(network.forward)(network.params, jnp.asarray(images))[0]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    close(logits, net(((torch.tensor(images) - mean) / deviation).permute(0, 3, 1, 2)).detach().numpy())


@pytest.mark.parametrize("number", [11, 13, 19])
def test_timms_smaller_and_larger_ones(tmp_path, number):
    net = torch_nets.TimmVGG(channels(number, (3, 6, 13, 26, 26)), dense=9, cells=1).randomised()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    network = formats.load(tmp_path / "model.safetensors")
    assert network.model == ModelConfig(name=f"vgg{number}", width=0.05, dense=9)
    images = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    cleaned = normalize.clean(normalize.imagenet(), jnp.asarray(images))
    logits = network.forward(network.params, jnp.asarray(images))[0]
    close(logits, net(torch.tensor(np.asarray(cleaned)).permute(0, 3, 1, 2)).detach().numpy())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_without_loss_and_noted(tmp_path, torchvision, kind):
    halves = {name: value.to(kind) for name, value in torchvision.state_dict().items()}
    torch.save(halves, tmp_path / "half.pth")
    network = formats.load(tmp_path / "half.pth")
    assert network.made["stored as"] == [str(kind).removeprefix("torch.")]
    kernel = halves["features.2.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(network.params["block1_conv2"]["kernel"], kernel)
    assert network.params["fc1"]["kernel"].dtype == jnp.float32


@pytest.fixture(scope="module")
def keras_net():
    """keras.applications.VGG16 with random weights."""
    import keras

    net = keras.applications.VGG16(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None)
    rng = np.random.default_rng(0)
    net.set_weights([random(rng, w.shape) for w in net.get_weights()])
    return net


def random(rng, shape):
    fan = np.prod(shape[:-1]) if len(shape) > 1 else 200
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan) ** 0.5)


@pytest.fixture(scope="module")
def keras_expected(keras_net):
    """What Keras computes of the pictures, from its own preprocessing on."""
    import tensorflow as tf
    from keras import Model, applications

    whole = Model(keras_net.input, [keras_net.get_layer(name).output for name in CONVOLUTIONS] + [keras_net.output])
    images = tf.constant(PICTURES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        *maps, logits = whole(applications.vgg16.preprocess_input(images * 255))
        energy = tf.reduce_sum(logits**2)
    gradient = tape.gradient(energy, images)
    maps = dict(zip(CONVOLUTIONS, (m.numpy() for m in maps), strict=True))
    return logits.numpy(), gradient.numpy(), maps


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
    assert network.model == ModelConfig(name="vgg16") and network.side == 64
    assert network.cleaning.kind == "caffe" and len(network.class_names) == 5
    agree(run(network, PICTURES), keras_expected)
    if kind == "published.h5":
        twin = type(keras_net).from_config(keras_net.get_config())
        load_legacy(path, twin)
        np.testing.assert_array_equal(twin.get_weights()[0], keras_net.get_weights()[0])


def test_keras_convolutions_alone(tmp_path, keras_net):
    """`_notop.h5` has no logits, so one must say that one wants it."""
    import keras

    base = keras.Model(keras_net.input, keras_net.get_layer("block5_pool").output)
    save_legacy(tmp_path / "notop.h5", base)
    with pytest.raises(UserError, match="holds a vgg16 without its dense layers.*--no-top"):
        formats.load(tmp_path / "notop.h5")
    network = formats.load(tmp_path / "notop.h5", top=False)
    assert network.class_names == () and network.side == 224
    ours, activations = jax.jit(network.forward)(network.params, jnp.asarray(PICTURES))
    assert "fc1" not in activations
    close(ours, base.predict(keras.applications.vgg16.preprocess_input(PICTURES * 255), verbose=0))
    formats.save(tmp_path / "w.safetensors", network)
    again = formats.load(tmp_path / "w.safetensors", top=False)
    assert again.digest == network.digest and again.cleaning.kind == "caffe"


# Ours, taken elsewhere


def ours(name, side, names=("cat", "dog", "fox"), kind="standard", width=0.06):
    model = ModelConfig(name=name, width=width)
    graph, shapes = models.split(
        nnx.eval_shape(lambda: models.create(model, side=side, num_classes=len(names), seed=0))
    )
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda a: jnp.asarray(random(rng, a.shape)), shapes)
    pictures = np.random.default_rng(0).integers(0, 256, (6, side, side, 3)).astype(np.uint8)
    return formats.network(graph, params, model, side, names, normalize.fit(kind, pictures), {"seed": 3})


@pytest.fixture(scope="module", params=["vgg11", "small-cnn"])
def network(request):
    return ours(request.param, 70 if request.param == "vgg11" else 36)


def pictures(network):
    return np.random.default_rng(2).random((4, network.side, network.side, 3), np.float32)


def cleaned(network):
    return np.asarray(normalize.clean(network.cleaning, jnp.asarray(pictures(network))))


def logits(network):
    return jax.jit(network.forward)(network.params, jnp.asarray(pictures(network)))[0]


def same(a, b):
    assert a.digest == b.digest and a[2:5] == b[2:5] and a.made == b.made
    jax.tree.map(np.testing.assert_array_equal, a.cleaning, b.cleaning)


def keras_twin(network):
    """A Keras model of the same layers, its names Keras' own."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input((network.side, network.side, 3))
    blocks = {"small-cnn": (1, 1, 1, 1), "vgg11": STAGES[11]}[network.model.name]
    arrays = list(network.params.values())
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
    close(logits(network), twin.predict(cleaned(network), verbose=0))
    same(formats.load(path), network)


def test_keras_application_loads_what_we_write(tmp_path):
    import keras

    network = ours("vgg16", 32, width=1.0)
    formats.save_keras(tmp_path / "ours.weights.h5", network)
    twin = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None)
    twin.load_weights(tmp_path / "ours.weights.h5")
    close(logits(network), twin.predict(cleaned(network), verbose=0))


def test_a_small_network_that_keras_made_and_saved(tmp_path, network):
    """By its layers' order, since their names are Keras' own; a `.keras` file tells the pictures' side."""
    twin = keras_twin(network)
    twin.set_weights([a for layer in network.params.values() for a in (layer["kernel"], layer["bias"])])
    twin.save(tmp_path / "twin.keras")
    loaded = formats.load(tmp_path / "twin.keras")
    assert loaded.side == network.side and loaded.digest == network.digest
    assert loaded.cleaning.kind == ("caffe" if network.model.name == "vgg11" else "none")


def test_pytorch_loads_what_we_write(tmp_path, network):
    path = tmp_path / "ours.safetensors"
    formats.save_torchvision(path, network)
    units = [a["bias"].shape[0] for a in network.params.values()]
    if network.model.name == "small-cnn":
        net = torch_nets.SmallCNN(units[:4], units[4:6], units[6], cells=2)
    else:
        shape = [[units[0]], [units[1]], units[2:4], units[4:6], units[6:8]]
        net = torch_nets.TorchvisionVGG(shape, units[-2], 3, cells=2)
    net.load_state_dict(safetensors.torch.load_file(path))
    given = torch.tensor(cleaned(network)).permute(0, 3, 1, 2)
    close(logits(network), net.eval()(given).detach().numpy())
    same(formats.load(path), network)


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


@pytest.mark.parametrize("name, kind", [("vgg11", "standard"), ("small-cnn", "zca")])
def test_stablehlo_runs_where_this_package_is_not(tmp_path, name, kind):
    network = ours(name, 32, kind=kind)
    formats.save_stablehlo(tmp_path / "net.stablehlo", network)
    np.save(tmp_path / "images.npy", pictures(network))
    arguments = [tmp_path / "net.stablehlo", tmp_path / "images.npy", tmp_path / "out.npz", name.partition("-")[0]]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", "import jax.export" + RUN, *arguments], check=True, cwd=tmp_path, env=env)
    found = np.load(tmp_path / "out.npz")
    expected = logits(network)
    close(found["logits"], expected)
    same(formats.load(tmp_path / "net.stablehlo.safetensors"), network)
    if name == "vgg11":
        return
    close(found["one"], expected[:1])
    energy = jax.jit(jax.grad(lambda images: (network.forward(network.params, images)[0] ** 2).sum()))
    close(found["gradient"], energy(jnp.asarray(pictures(network))))


# Parts of a file, which must be asked for


def test_a_new_head_and_no_top_are_asked_for(tmp_path):
    network = ours("vgg11", 40)
    formats.save_torchvision(tmp_path / "w", network)
    head = formats.load(tmp_path / "w", new_head=("a", "b", "c", "d"), seed=5)
    assert head.class_names == ("a", "b", "c", "d") and head.params["predictions"]["kernel"].shape[1] == 4
    np.testing.assert_array_equal(head.params["fc2"]["kernel"], network.params["fc2"]["kernel"])
    assert head.made["left out"] == ["predictions"] and head.made["new head"]["seed"] == 5
    two = formats.load(tmp_path / "w", new_head=("cat", "dog"))
    assert two.params["predictions"]["bias"].shape == (1,)
    base = formats.load(tmp_path / "w", top=False, side=100)
    assert base.side == 100 and "fc1" not in base.params and base.class_names == ()
    assert base.made["left out"] == ["fc1", "fc2", "predictions"]
    named = formats.load(tmp_path / "w", class_names=("x", "y", "z"), side=63)
    assert named.class_names == ("x", "y", "z") and named.side == 63
    for arguments, sentence in (
        ({"side": 64}, "pictures of side 32 to 63, not 64"),
        ({"class_names": ("x", "y")}, "has 3 classes, not the 2 that were named"),
        ({"new_head": ("x", "y"), "top": False}, "a new head needs the layers before it"),
    ):
        with pytest.raises(UserError, match=sentence):
            formats.load(tmp_path / "w", **arguments)
    small = ours("small-cnn", 32)
    formats.save(tmp_path / "small", small)
    with pytest.raises(UserError, match="only a VGG does without them"):
        formats.load(tmp_path / "small", top=False)


def test_two_softmax_outputs_stay_two(tmp_path):
    """Our own networks of two classes have one sigmoid logit; another library's may have two."""
    net = torch_nets.TorchvisionVGG(channels(11), classes=2, cells=1).randomised()
    torch.save(net.state_dict(), tmp_path / "two.pth")
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


def test_the_digest_is_that_of_the_parameters(tmp_path):
    network = ours("small-cnn", 32)
    assert network.digest == formats.digest({"/".join(k): v for k, v in _flat(network.params)})
    formats.save(tmp_path / "w", network)
    header = (tmp_path / "w").read_bytes()[8:]
    about = json.loads(header[: header.index(b"}}") + 2].split(b" ", 0)[0])["__metadata__"]
    assert about["sha256"] == native.checksum(about["cnnjax"], safetensors.numpy.load_file(tmp_path / "w"))


def _flat(params):
    return [((layer, kind), array) for layer, arrays in params.items() for kind, array in arrays.items()]
