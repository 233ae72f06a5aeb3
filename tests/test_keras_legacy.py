"""HDF5 files as Keras before version 3 wrote them, by hand: what is in them is honoured, or refused by name."""

import json

import h5py
import keras_files
import numpy as np
import pytest
import random_networks

from cnnjax import formats, models
from cnnjax.errors import UserError

LAYERS = {**{f"conv_{i}": f"c{i}_0" for i in range(1, 5)}, "dense_1": "d1", "dense_2": "d2", "output": "d3"}
"""The layers of the article's network, and what they are called in `keras_files.network`."""


@pytest.fixture(scope="module")
def network():
    return random_networks.network("small-cnn", 36, ("cat", "dog"), width_multiplier=0.06)


def same(ours, theirs):
    ours, theirs = models.flatten(ours.params), models.flatten(theirs.params)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def save(path, network, config=None, *, backend=b"tensorflow", kernels=lambda kernel: kernel, attributes=None):
    """A file of Keras 2.2, whole if there is a config; `attributes` changes the lists of names."""
    attributes = attributes or (lambda group, name, names: group.attrs.__setitem__(name, names))
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            group = file.create_group("model_weights")
            file.create_group("optimizer_weights").create_dataset("iterations", data=3)
        group.attrs["keras_version"] = b"2.2.4"
        if backend is not None:
            group.attrs["backend"] = backend
        attributes(group, "layer_names", [name.encode() for name in (*LAYERS.values(), "flat")])
        for name, theirs in LAYERS.items():
            arrays = {kind: np.asarray(array) for kind, array in network.params[name].items()}
            if arrays["kernel"].ndim == 4:
                arrays["kernel"] = kernels(arrays["kernel"])
            layer, names = group.create_group(theirs), [f"{theirs}/{kind}:0" for kind in ("kernel", "bias")]
            attributes(layer, "weight_names", [name.encode() for name in names])
            for name, kind in zip(names, ("kernel", "bias"), strict=True):
                layer[name] = arrays[kind]
        group.create_group("flat").attrs["weight_names"] = np.zeros(0, "S1")
    return path


def config(generation="2.0", functional=False, **about):
    return keras_files.written(keras_files.network(), generation, functional) | about


@pytest.mark.parametrize("generation, functional", [("2.0", False), ("2.0", True), ("2.6", False), ("2.6", True)])
def test_whole_files(tmp_path, network, generation, functional):
    found = formats.load(save(tmp_path / "w.h5", network, config(generation, functional)))
    assert same(found, network) and found.image_size == (36, 40)


def test_weights_alone(tmp_path, network):
    assert same(formats.load(save(tmp_path / "w.h5", network)), network)


@pytest.mark.parametrize("whole", [True, False])
def test_theanos_kernels_are_turned(tmp_path, network, whole):
    about = config() if whole else None
    path = save(tmp_path / "w.h5", network, about, backend=b"theano", kernels=lambda kernel: kernel[::-1, ::-1])
    assert same(formats.load(path), network)
    assert same(formats.load(save(tmp_path / "w.h5", network, about, backend=b"cntk")), network)


@pytest.mark.parametrize("attribute", ["layer_names", "weight_names"])
def test_lists_of_names_in_parts(tmp_path, network, attribute):
    def in_parts(group, name, names):
        if name != attribute:
            group.attrs[name] = names
            return
        for part, first in enumerate(range(0, len(names), 1)):
            group.attrs[f"{name}{part}"] = names[first : first + 1]

    found = formats.load(save(tmp_path / "w.h5", network, config(), attributes=in_parts))
    assert same(found, network) and found.provenance["from"] == "Keras' HDF5 file"


def test_the_size_with_which_a_model_was_built(tmp_path, network):
    bare = config("2.6")
    del bare["config"]["layers"][0]
    assert formats.load(save(tmp_path / "w.h5", network, bare)).image_size == (32, 32), "the smallest that fits"
    bare["config"]["build_input_shape"] = [None, 44, 40, 3]
    assert formats.load(save(tmp_path / "w.h5", network, bare)).image_size == (44, 40)
    del bare["config"]["build_input_shape"]
    bare["build_config"] = {"input_shape": {"class_name": "__tuple__", "items": [None, 44, 40, 3]}}
    assert formats.load(save(tmp_path / "w.h5", network, bare)).image_size == (44, 40)


def test_what_keras_1_wrote_is_refused_by_name(tmp_path, network):
    old = config()
    for layer in old["config"]:
        if layer["class_name"] == "Conv2D":
            layer["class_name"] = "Convolution2D"
            layer["config"] |= {"nb_filter": 2, "nb_row": 3, "nb_col": 3, "border_mode": "same", "dim_ordering": "tf"}
    with pytest.raises(UserError, match=r"'c1_0' is one of Keras 1, .*: load it with Keras 2.0 to 2.3 and save it"):
        formats.load(save(tmp_path / "w.h5", network, old, backend=None))
    path = save(tmp_path / "w.h5", network, backend=None, kernels=lambda kernel: kernel.transpose(3, 2, 0, 1))
    with pytest.raises(
        UserError, match=r"c1_0: c1_0/kernel:0 has Keras 1's order of axes, .* for Theano: load it with"
    ):
        formats.load(path)


def test_other_files_of_tensorflow_are_named(tmp_path):
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(UserError, match=r"saved is not read: it is a SavedModel of TensorFlow, .*: load it with "):
        formats.load(folder)
