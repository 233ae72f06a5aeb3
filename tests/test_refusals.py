"""Files that are not what they should be: one sentence, exit code 2, and nothing in them is executed."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import keras_files
import numpy as np
import pytest
import random_networks
import safetensors.numpy
import torch_files
from oracles import numpy_nets

from cnnjax import formats
from cnnjax.cli import command_line
from cnnjax.cli.export import export
from cnnjax.formats import description, safetensors_io
from cnnjax.formats import native as native_format
from cnnjax.train import metrics
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.state import TrainState

MARK = "executed"
CHANNELS = [[3], [6], [13, 13], [26, 26], [26, 26]]
# Orbax leaves unretrieved tasks behind when it meets a damaged file; Python reports them when it collects garbage.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Evil:
    """What is pickled here makes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


class Getattr:
    def __reduce__(self):
        return getattr, ("text", "upper")


def state():
    return numpy_nets.filled(numpy_nets.vgg_shapes(CHANNELS, dense=7, cells=1))


def network(name="vgg11"):
    made = random_networks.network(name, 32, ("a", "b", "c"), "none", width_multiplier=0.05)
    return made.replace(params=jax.tree.map(lambda a: jnp.full(a.shape, 0.1), made.params))


def batch_norm_state():
    return numpy_nets.filled(numpy_nets.vgg_shapes(CHANNELS, 7, 5, 1, batch_norm=True))


def resnet_state():
    return numpy_nets.filled(numpy_nets.resnet_shapes((2, 2, 2, 2), width=4))


def without(state, name):
    return {other: value for other, value in state.items() if other != name}


# Whole files, as the libraries write them; tests/test_formats.py shows that these are read.


def pth(path, tensors=None):
    torch_files.save(path, state() if tensors is None else tensors)


def legacy(path, tensors=None):
    torch_files.save(path, state() if tensors is None else tensors, legacy=True)


def safe(path, tensors=None):
    safetensors.numpy.save_file(tensors or state(), path)


def h5(path, change=lambda file: None):
    """Keras' older layout."""
    with h5py.File(path, "w") as file:
        arrays = network().params
        file.attrs["layer_names"] = [name.encode() for name in arrays]
        for name, layer in arrays.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            group["kernel:0"], group["bias:0"] = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        change(file)


def weights_h5(path, change=lambda file: None):
    """Keras 3's layout."""
    formats.save_keras(path.with_name("made.weights.h5"), network())
    path.with_name("made.weights.h5").rename(path)
    with h5py.File(path, "a") as file:
        del file.attrs["cnnjax"]
        change(file)


def keras(path, layers=None, change=lambda file: None, compression=zipfile.ZIP_STORED, config=None):
    weights_h5(path.with_name("w.h5"), change)
    known = keras_files.network((1, 1, 2, 2, 2), ("relu", "relu", "softmax"), outputs=3)
    made = keras_files.written([*(layers or []), *known], image_size=(32, 32))
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", config or json.dumps(made))
        archive.write(path.with_name("w.h5"), "model.weights.h5")
    path.with_name("w.h5").unlink()


def native(path):
    formats.save(path, network())


# What is done to them


def cut(make, share):
    def made(path):
        make(path)
        contents = path.read_bytes()
        path.write_bytes(contents[: int(len(contents) * share)])

    return made


def flipped(make, where):
    def made(path):
        make(path)
        contents = bytearray(path.read_bytes())
        place = contents.index(where)
        contents[place] ^= 1
        path.write_bytes(contents)

    return made


def tensors(save, **changes):
    """One of the tensors replaced (or, by None, taken out), or one more."""

    def made(path):
        changed = state()
        for name, change in changes.items():
            name = name.replace("__", ".")
            value = changed.pop(name, None)
            if change is not None:
                changed[name] = change(value)
        save(path, changed)

    return made


def renamed(save):
    def made(path):
        changed = state()
        changed["features.99.weight"] = changed.pop("features.3.weight")
        save(path, changed)

    return made


def nan(value):
    value = value.copy()
    value.reshape(-1)[-1] = np.nan
    return value


def dataset(make, name, change):
    """One dataset of an HDF5 file replaced by what `change(file, name, array)` puts there."""

    def changed(file):
        array = file[name][...]
        del file[name]
        change(file, name, array)

    return lambda path: make(path, change=changed)


def put(change):
    def put_(file, name, array):
        file[name] = change(array)

    return put_


def h5_nan(array):
    array[..., 0] = np.nan
    return array


def external(file, name, array):
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["x"] = array
    file[name] = h5py.ExternalLink(str(Path(file.filename).with_name("other.h5")), "/x")


def elsewhere(file, name, array):
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(array.tobytes())
    file.create_dataset(name, array.shape, array.dtype, external=[(str(raw), 0, array.nbytes)])


def virtual(file, name, array):
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[...] = h5py.VirtualSource("/etc/other.h5", "x", array.shape)
    file.create_virtual_dataset(name, layout)


def soft(file, name, array):
    file["hidden"] = array
    file[name] = h5py.SoftLink("/hidden")


def vast(file, name, array):
    file.create_dataset(name, (3, 3, 3, 10**9), "f4", chunks=(3, 3, 3, 1000))


def cycle(file):
    file["layers/again"] = file["layers"]


def archive(path, pickled, data=(), compression=zipfile.ZIP_STORED):
    """A .pth by hand."""
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("archive/data.pkl", pickled)
        for key, contents in data:
            made.writestr(f"archive/data/{key}", contents)


def tensor_pickle(offset=0, shape=(2, 2), strides=(2, 1), count=4):
    """A state dict of one tensor, by hand, so that its numbers can lie."""

    def number(n):
        return b"J" + struct.pack("<i", n)

    def numbers(ns):
        return b"(" + b"".join(map(number, ns)) + b"t"

    def text(t):
        return b"X" + struct.pack("<I", len(t)) + t.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(strides)
    return b"\x80\x02}" + text("features.0.weight") + tensor + b"\x89}tRs."


def nested_key(times):
    """A tuple of a tuple twice of a tuple twice …, whose hash takes 2 ** times steps, as a key."""
    return b"\x80\x02})" + b"q\x00h\x00\x86" * times + b"Ns."


def repeated_pairs(times=20_000):
    """One long list of pairs, of which OrderedDict after OrderedDict is made."""
    pairs = b"](" + b"K\x01K\x02\x86" * times + b"eq\x01"
    return b"\x80\x02" + pairs + b"0" + b"ccollections\nOrderedDict\nh\x01\x85R0" * times + b"}."


def called(module, name, *arguments):
    """A checkpoint with a call beside its parameters."""
    call = torch_files.Call(torch_files.Name(module, name), arguments)
    return lambda path: pth(path, {"model": state(), "extra": call})


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def run(path):
    about = network("small-cnn")
    formats.save(path / "input.safetensors", about.replace(params={}, model_state={}))
    kept = TrainState(np.int32(1), about.params, {}, ())
    row = {"epoch": 1, "step": 1, "valid_loss": 1.0, "valid_accuracy": 0.5}
    with Checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save(kept, metrics.zeros(), [row])


def damaged_run(path):
    run(path)
    largest = max((path / "checkpoints").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    contents = bytearray(largest.read_bytes())
    contents[len(contents) // 2] ^= 1
    largest.write_bytes(contents)


def resealed_run(**changes):
    """A run whose checkpoint has another manifest with the right seal; None takes an entry out."""

    def made(path):
        run(path)
        (file,) = (path / "checkpoints").glob("*/manifest.json")
        manifest = json.loads(file.read_text().partition("\n")[2]) | changes
        text = json.dumps({name: value for name, value in manifest.items() if value is not None} if changes else {})
        file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")

    return made


def resealed(**changes):
    """A file of ours that says other things, with the right checksum."""

    def made(path):
        arrays, about = native_format.arrays(network()), description.write(network())
        about |= changes
        text = json.dumps({name: value for name, value in about.items() if value is not None}, sort_keys=True)
        sums = {"cnnjax": text, "sha256": native_format.checksum(text, arrays)}
        safetensors_io.write(path, arrays, sums)

    return made


def without_input(path):
    run(path)
    (path / "input.safetensors").unlink()


def write(contents):
    return lambda path: path.write_bytes(contents)


LEFT, LACKS = "which its network does not have", "which its network has"
LAMBDA = {"class_name": "Lambda", "config": {"name": "f", "function": ["4wEAAAA", None, None]}}
RESIZING = {"class_name": "Resizing", "config": {"name": "scale"}}
VALID = {"class_name": "Conv2D", "config": {"name": "c", "padding": "valid", "strides": [1, 1]}}
CODE = "which is code and no weights: nothing was executed"
OPCODES = "that weights do not need: nothing was executed"
CASES = {
    # PyTorch's zip archives
    "zip: cut": (cut(pth, 0.6), "is damaged or incomplete"),
    "zip: nearly whole": (cut(pth, 0.999), "is damaged or incomplete"),
    "zip: local header": (flipped(pth, b"PK\x03\x04"), "is not a file of weights"),
    "zip: pickle damaged": (flipped(pth, b"_rebuild_tensor_v2"), "checksum of 'archive/data.pkl' does not hold"),
    "zip: numbers damaged": (flipped(pth, state()["features.3.weight"].tobytes()), "does not hold"),
    "keras: config damaged": (flipped(keras, b"batch_shape"), "the checksum of 'config.json' does not hold"),
    "zip: renamed": (renamed(pth), f"lacks block2_conv1/kernel, {LACKS} and has features.99.weight, {LEFT}"),
    "zip: missing": (tensors(pth, features__0__bias=None), f"lacks block1_conv1/bias, {LACKS}"),
    "zip: the last bias missing": (tensors(pth, classifier__6__bias=None), f"lacks predictions/bias, {LACKS}"),
    "zip: the last layer missing": (
        tensors(pth, classifier__6__bias=None, classifier__6__weight=None),
        f"lacks predictions/bias, predictions/kernel, {LACKS}",
    ),
    "zip: no outputs": (tensors(pth, classifier__6__bias=lambda v: v[:0]), "classifier.6.bias as float32 (0,)"),
    "zip: no channels": (
        tensors(pth, features__0__weight=lambda v: v[:0]),
        "features.0.weight as float32 (0, 3",
    ),
    "zip: no convolution": (
        lambda path: pth(path, {n: v for n, v in state().items() if n.startswith("classifier")}),
        "holds no network known here, but classifier.",
    ),
    "zip: left over": (tensors(pth, extra=lambda _: np.zeros(2, np.float32)), f"has extra, {LEFT}"),
    "zip: shape": (tensors(pth, features__3__bias=lambda v: v[:-1]), "features.3.bias as float32 (5,), but"),
    "zip: rank": (tensors(pth, features__3__weight=lambda v: v[0]), "but its network needs float32 (3, 3, 3"),
    "zip: type": (
        tensors(pth, features__3__bias=lambda v: v.astype(np.int32)),
        "as int32 (6,), but its network needs",
    ),
    "zip: integers": (
        tensors(pth, features__3__bias=lambda v: v.astype(np.int64)),
        "as int64 (6,), but its network needs",
    ),
    "zip: not finite": (tensors(pth, classifier__3__weight=nan), "not finite in classifier.3.weight"),
    "zip: statistics of a network without them": (
        tensors(pth, **{"features__0__running_mean": lambda _: np.zeros(3, np.float32)}),
        f"has features.0.running_mean, {LEFT}",
    ),
    "zip: some of a network's statistics are missing": (
        lambda path: pth(path, without(batch_norm_state(), "features.1.running_var")),
        f"lacks block1_bn1/var, {LACKS}",
    ),
    "zip: a ResNet's statistics are not finite": (
        lambda path: pth(path, resnet_state() | {"bn1.running_var": np.full(4, np.inf, np.float32)}),
        "not finite in bn1.running_var",
    ),
    "zip: a ResNet's block is missing": (
        lambda path: pth(path, without(resnet_state(), "layer2.1.conv2.weight")),
        f"lacks layer2/1/conv2/kernel, {LACKS}",
    ),
    "zip: a ResNet of other blocks": (
        lambda path: pth(path, resnet_state() | {"layer2.2.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}),
        f"has layer2.2.conv1.weight, {LEFT}",
    ),
    "zip: a list": (lambda path: pth(path, [np.zeros(2, np.float32)]), "it holds no state dict"),
    "zip: a number": (lambda path: pth(path, {"epoch": 3}), "it holds no state dict, but epoch: save"),
    "zip: a whole module": (
        lambda path: pth(path, torch_files.Call(torch_files.Name("torch.nn.modules.linear", "Linear"), (2, 2))),
        "asks for torch.nn.modules.linear.Linear, " + CODE,
    ),
    "zip: executes": (lambda path: pth(path, {"a": Evil()}), f"asks for {os.system.__module__}.system, {CODE}"),
    "zip: eval": (called("builtins", "eval", "1"), f"builtins.eval, {CODE}"),
    "zip: Popen": (called("subprocess", "Popen", "touch executed"), f"subprocess.Popen, {CODE}"),
    "zip: a function of PyTorch": (called("torch.hub", "load", "x"), f"torch.hub.load, {CODE}"),
    "zip: a function of NumPy": (called("numpy", "load", "x"), f"numpy.load, {CODE}"),
    "zip: a function of another package": (called("pip", "main", []), f"pip.main, {CODE}"),
    "zip: nested tuples as a key": (lambda path: archive(path, nested_key(60)), "keys are neither texts nor numbers"),
    "legacy: nested tuples as a key": (write(nested_key(60)), "keys are neither texts nor numbers"),
    "zip: pairs again and again": (lambda path: archive(path, repeated_pairs()), "repeats itself too often"),
    "zip: a pickle without an end": (lambda path: archive(path, b"}" * (1 << 23)), "it holds other data"),
    "zip: two networks": (
        lambda path: pth(path, {f"{part}.{n}": v for part in "ab" for n, v in state().items()}),
        "it holds 2 networks, below a., b.: save one alone",
    ),
    "zip: two state dicts": (
        lambda path: pth(path, {"first": state(), "second": state()}),
        "it holds 2 state dicts, first, second: save the one",
    ),
    "zip: a network under another head": (
        lambda path: pth(path, {"backbone": state(), "head": {"weight": np.ones((2, 5), np.float32)}}),
        "has head.weight, which its network does not have: a vgg11 under another head is read without it",
    ),
    "zip: executes later": (lambda path: pth(path, state() | {"z": Evil()}), CODE),
    "zip: getattr": (lambda path: pth(path, {"a": Getattr()}), "builtin__.getattr, " + CODE),
    "zip: protocol 4": (lambda path: archive(path, pickle.dumps(Evil(), 4)), f"system, {CODE}"),
    "zip: protocol 0": (lambda path: archive(path, pickle.dumps(Evil(), 0)), CODE),
    "zip: INST": (lambda path: archive(path, b"(S'touch executed'\nios\nsystem\n."), OPCODES),
    "zip: OBJ": (lambda path: archive(path, b"(ccollections\nOrderedDict\no."), OPCODES),
    "zip: BUILD of what is no dict": (
        lambda path: archive(path, b"\x80\x02ctorch._utils\n_rebuild_parameter\n}b."),
        "changes what is neither a tensor nor a dict",
    ),
    "zip: NEWOBJ of an empty state dict": (
        lambda path: archive(path, b"\x80\x02ccollections\nOrderedDict\n)\x81."),
        "it holds no state dict, but nothing",
    ),
    "zip: a vast memo": (lambda path: archive(path, b"\x80\x02Nr\xff\xff\xff\xff."), "it holds no state dict"),
    "zip: pickle cut": (lambda path: archive(path, b"\x80\x02("), "its pickle cannot be read"),
    "zip: no numbers": (lambda path: archive(path, tensor_pickle()), "the numbers of features.0.weight are not there"),
    "zip: outside": (lambda path: archive(path, tensor_pickle(offset=1), [(0, bytes(16))]), "larger than its storage"),
    "zip: before": (lambda path: archive(path, tensor_pickle(offset=-1), [(0, bytes(16))]), "a negative shape"),
    "zip: strides": (
        lambda path: archive(path, tensor_pickle(strides=(100, 1)), [(0, bytes(16))]),
        "larger than its storage",
    ),
    "zip: repeated": (
        lambda path: archive(path, tensor_pickle(shape=(10**9, 2), strides=(0, 1)), [(0, bytes(16))]),
        "larger than its storage",
    ),
    "zip: too short": (lambda path: archive(path, tensor_pickle(), [(0, bytes(12))]), "larger than its storage"),
    "zip: a bomb": (
        lambda path: archive(path, tensor_pickle(), [(0, bytes(10**7))], zipfile.ZIP_DEFLATED),
        "is compressed in it",
    ),
    "zip: nothing of ours": (
        lambda path: zipfile.ZipFile(path, "w").writestr("../../etc/passwd", "x"),
        "neither PyTorch's nor Keras'",
    ),
    # PyTorch's files from before 1.6
    "legacy: cut": (cut(legacy, 0.7), "it ends too early"),
    "legacy: cut in the pickle": (cut(legacy, 0.02), "its pickle cannot be read"),
    "legacy: renamed": (renamed(legacy), f"has features.99.weight, {LEFT}"),
    "legacy: shape": (tensors(legacy, classifier__6__bias=lambda v: v[:-1]), "but its network needs"),
    "legacy: not finite": (tensors(legacy, features__0__weight=nan), "not finite in features.0.weight"),
    "legacy: executes": (lambda path: legacy(path, {"a": Evil()}), f"system, {CODE}"),
    "legacy: another pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "but not one of PyTorch's"),
    "legacy: a pickle that executes": (lambda path: path.write_bytes(pickle.dumps(Evil())), f"system, {CODE}"),
    # Keras 1 and 2
    "h5: cut": (cut(h5, 0.5), "is damaged or incomplete"),
    "h5: only its signature": (write(b"\x89HDF\r\n\x1a\n" + bytes(100)), "is damaged or incomplete"),
    "h5: renamed": (
        lambda path: h5(path, lambda f: f.move("block2_conv1", "other")),
        "block2_conv1 is not there",
    ),
    "h5: one missing": (
        lambda path: h5(path, lambda f: f["fc1"].attrs.update(weight_names=[b"kernel:0"])),
        f"lacks fc1/bias, {LACKS}",
    ),
    "h5: shape": (dataset(h5, "fc1/bias:0", put(lambda a: a[:-1])), "but its network needs float32"),
    "h5: type": (dataset(h5, "fc1/bias:0", put(np.int32)), "as int32"),
    "h5: text": (dataset(h5, "fc1/bias:0", put(lambda a: np.array([b"x"] * len(a), object))), "but its network needs"),
    "h5: not finite": (dataset(h5, "fc2/kernel:0", put(h5_nan)), "not finite in fc2: kernel:0"),
    "h5: external link": (dataset(h5, "fc1/bias:0", external), "is a link to another place, which is not followed"),
    "h5: soft link": (dataset(h5, "fc1/bias:0", soft), "is a link to another place, which is not followed"),
    "h5: numbers elsewhere": (dataset(h5, "fc1/bias:0", elsewhere), "keeps its numbers in other files"),
    "h5: virtual": (dataset(h5, "fc1/bias:0", virtual), "keeps its numbers in other files"),
    "h5: vast": (dataset(h5, "block1_conv1/kernel:0", vast), "no file of weights is like that"),
    # Keras 3
    "weights.h5: cut": (cut(weights_h5, 0.8), "is damaged or incomplete"),
    "weights.h5: missing": (lambda path: weights_h5(path, lambda f: f.pop("layers/conv2d_3")), f"{LACKS}"),
    "weights.h5: left over": (
        lambda path: weights_h5(path, lambda f: f.create_dataset("layers/batch_norm/vars/0", data=np.ones(3, "f4"))),
        f"has layers/batch_norm/vars/0, {LEFT}",
    ),
    "weights.h5: not finite": (dataset(weights_h5, "layers/dense/vars/1", put(h5_nan)), "not finite in layers/dense"),
    "weights.h5: type": (dataset(weights_h5, "layers/dense/vars/1", put(np.int32)), "as int32"),
    "weights.h5: external link": (dataset(weights_h5, "layers/dense/vars/1", external), "is a link to another place"),
    "weights.h5: a circle": (lambda path: weights_h5(path, cycle), "its groups are nested too deep"),
    "weights.h5: groups in one another": (
        lambda path: weights_h5(path, lambda f: [f.__setitem__(f"layers/{i}", f["layers"]) for i in range(9)] and None),
        "its groups are nested too deep",
    ),
    "weights.h5: nothing": (lambda path: h5py.File(path, "w").close(), "holds no network known here, but no arrays"),
    # .keras
    "keras: cut": (cut(keras, 0.9), "its table of contents cannot be read"),
    "keras: Lambda": (lambda path: keras(path, [LAMBDA]), "its layer 'f' is a Lambda, which is code: nothing was exec"),
    "keras: another layer": (lambda path: keras(path, [RESIZING]), "its layer 'scale' is a Resizing"),
    "keras: another padding": (lambda path: keras(path, [VALID]), "its layer 'c' (Conv2D) has padding=valid, not same"),
    "keras: not finite": (dataset(keras, "layers/conv2d/vars/0", put(h5_nan)), "not finite in layers/conv2d/vars/0"),
    "keras: shape": (dataset(keras, "layers/conv2d/vars/1", put(lambda a: a[:-1])), "but its network needs"),
    "keras: external link": (dataset(keras, "layers/conv2d/vars/1", external), "is a link to another place"),
    "keras: a bomb": (lambda path: keras(path, compression=zipfile.ZIP_DEFLATED), "'config.json' is compressed in it"),
    "keras: config": (lambda path: keras(path, config="{"), "its config is not JSON"),
    "keras: config without layers": (lambda path: keras(path, config="{}"), "its config lists no layers"),
    # Safetensors
    "safetensors: cut": (cut(safe, 0.9), "file not fully covered"),
    "safetensors: a vast header": (write((10**15).to_bytes(8, "little") + b"{}"), "header too large"),
    "safetensors: no JSON": (write(header({})[:8] + b"{" + bytes(9)), "invalid JSON in header"),
    "safetensors: a name twice": (
        write((25).to_bytes(8, "little") + b'{"a": {}, "a": {}}       '),
        "invalid JSON in header",
    ),
    "safetensors: overlapping": (
        write(header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4))),
        "invalid offset for tensor",
    ),
    "safetensors: outside": (
        write(header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, bytes(4))),
        "file not fully covered",
    ),
    "safetensors: a lie": (
        write(header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, bytes(4))),
        "invalid shape, data type, or offset for tensor",
    ),
    "safetensors: negative": (
        write(header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, bytes(4))),
        "invalid JSON in header: invalid value",
    ),
    "safetensors: a gap": (
        write(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8))),
        "invalid offset for tensor",
    ),
    "safetensors: more than it says": (
        write(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8))),
        "file not fully covered",
    ),
    "safetensors: a shape that overflows": (
        write(header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4))),
        "overflow computing buffer size",
    ),
    "safetensors: metadata that are no text": (
        write(
            header({"__metadata__": {"a": 1}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
        ),
        "invalid JSON in header",
    ),
    "safetensors: a type of eight bits": (
        write(header({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1))),
        "a has the type F8_E4M3, which networks do not use",
    ),
    "safetensors: a description that is no JSON": (
        lambda path: safetensors.numpy.save_file(state(), path, {"cnnjax": "{"}),
        "its description is not JSON",
    ),
    "safetensors: renamed": (renamed(safe), f"has features.99.weight, {LEFT}"),
    "safetensors: type": (tensors(safe, features__0__bias=lambda v: v.astype(np.int32)), "as int32"),
    "safetensors: not finite": (tensors(safe, features__6__bias=nan), "not finite in features.6.bias"),
    "safetensors: another network": (
        lambda path: safe(path, {"stem.weight": np.zeros(3, np.float32)}),
        "holds no network known",
    ),
    # Ours
    "native: cut": (cut(native, 0.9), "is damaged or incomplete"),
    "native: a flipped bit": (flipped(native, np.float32(0.1).tobytes()), "its checksum does not hold"),
    "native: a class renamed": (flipped(native, b'\\"b\\"'), "is damaged or incomplete"),
    "run: a flipped bit": (damaged_run, "is intact): train or fetch it again"),
    "native: a negative size": (resealed(image_size=[-1, -1]), "lacks part of its description (images of -1×-1×3)"),
    "native: no size": (resealed(image_size=None), "lacks part of its description ('image_size')"),
    "native: a vast size": (resealed(image_size=[10**12, 32]), "lacks part of its description (images of 1e+12×32×3)"),
    "native: a size that is a list of lists": (resealed(image_size=[[], []]), "lacks part of its description"),
    "native: an endless size": (resealed(image_size=[float("inf"), 32]), "lacks part of its description"),
    "native: no channels": (resealed(channels=0), "lacks part of its description (images of 32×32×0)"),
    "native: a list for a model": (resealed(model=["vgg11"]), "lacks part of its description"),
    "native: another model": (resealed(model={"name": "vgg99"}), "describes no model known here, 'vgg99'"),
    "native: a model without arguments": (resealed(model={"name": "vgg11"}), "but its network needs"),
    "native: a senseless width": (
        resealed(model={"name": "vgg11", "width_multiplier": "wide", "num_classes": 3, "image_size": 32}),
        "describes a model that cannot be made",
    ),
    "native: no class names": (resealed(class_names=None), "lacks part of its description ('class_names')"),
    "native: another version": (resealed(version=[7]), "has format version [7], not 2"),
    "native: another normalizer": (resealed(normalizer="x"), "lacks part of its description"),
    "native: provenance that is a number": (resealed(provenance=3), "lacks part of its description"),
    "run: an empty manifest": (resealed_run(), "is intact): train or fetch it again"),
    "run: a list for a history": (resealed_run(history=3), "is intact): train or fetch it again"),
    "run: rows without a loss": (resealed_run(history=[{}]), "is intact): train or fetch it again"),
    "run: no arrays": (resealed_run(arrays=None), "is intact): train or fetch it again"),
    "run: a list for arrays": (resealed_run(arrays=[1]), "is intact): train or fetch it again"),
    "run: files elsewhere": (resealed_run(files={"../../../dev/zero": "x"}), "is intact): train or fetch it again"),
    "run: no input.safetensors": (without_input, "has no input.safetensors, which holds the classes"),
    "run: empty": (lambda path: path.mkdir(), "a folder must be that of a run"),
    # Neither
    "empty": (write(b""), "is damaged or incomplete"),
    "a JPEG": (write(b"\xff\xd8\xff\xe0" + bytes(100)), "is not a file of weights"),
    "text": (write(b"import os; os.system('touch executed')"), "is not a file of weights"),
    "a pipe": (lambda path: os.mkfifo(path), "is not a regular file: give a file of weights"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a pointer of Git LFS": (write(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "with git lfs pull"),
    "a web page": (write(b"<!DOCTYPE html><html><title>Google Drive"), "but a web page"),
    "compressed": (write(b"\x1f\x8b\x08" + bytes(100)), "compressed with gzip: unpack it first"),
    "missing": (lambda path: None, "there is no weights file"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_is_executed(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make, sentence = CASES[case]
    path = tmp_path / "file"
    make(path)
    with pytest.raises(SystemExit) as stop:
        command_line.main(export, [str(path), "--to", "cnnjax", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert str(path) in said and sentence in said, said
    assert not (tmp_path / MARK).exists() and not (tmp_path / "out").exists()


def test_what_would_be_executed_would_be_seen(tmp_path, monkeypatch):
    """The pickles above do execute where pickles are read as Python reads them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / MARK).exists()


def test_whole_files_are_read(tmp_path):
    """So that what is refused above is refused for what was done to it."""
    for make in (pth, legacy, safe, h5, weights_h5, keras, native):
        path = tmp_path / make.__name__
        make(path)
        assert formats.load(path).config["name"] == "vgg11", make
        path.unlink()
    (tmp_path / "run").mkdir()
    run(tmp_path / "run")
    for part in ("", "checkpoints", "checkpoints/1"):
        loaded = formats.load(tmp_path / "run" / part)
        assert loaded.digest == network("small-cnn").digest and loaded.class_names == ("a", "b", "c")
        assert loaded.provenance["checkpoint"] == "1"
