"""A trained network on to other classes: `train.init_from` keeps what it can and makes the last layers new."""

from dataclasses import replace

import numpy as np
import pytest
import random_networks
import torch_files
from oracles import numpy_nets

from cnnjax import data, formats, models
from cnnjax.cli import build
from cnnjax.cli.config import Config, DataConfig, ModelConfig, TrainConfig
from cnnjax.errors import UserError
from cnnjax.formats.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("quickly_compiled")
OTHERS = ("ant", "bee")
NARROW = ("small-cnn", "vgg11", "vgg11-bn", "resnet18", "resnet50")
"""One of each family, with and without batch normalization; the others differ in the number of layers."""
QUICK_FIRST = (*NARROW[:-1], pytest.param(NARROW[-1], marks=pytest.mark.slow))


def dataset(names=OTHERS, size=32, channels=3):
    labels = np.arange(6 * len(names)) % len(names)
    images = random_networks.images((size, size, channels), len(labels))
    return data.from_arrays(images, labels, class_names=names, valid=2, test=2)


def config(name, path, width=0.05, **model):
    return Config(
        data=DataConfig(),
        model=ModelConfig(name=name, width_multiplier=width, **model),
        train=TrainConfig(init_from=str(path)),
    )


def trained(tmp_path, name, image_size=32, names=("cat", "dog", "fox"), **options):
    network = random_networks.network(name, image_size, names, width_multiplier=0.05, **options)
    formats.save(tmp_path / "weights.safetensors", network)
    return network, tmp_path / "weights.safetensors"


def kept(before, after):
    """The layers whose arrays are the same."""
    old = models.flatten(before.params) | models.flatten(before.model_state)
    new = models.flatten(after.params) | models.flatten(after.model_state)
    same = {name for name in new if name in old and np.array_equal(old[name], new[name])}
    return {name.rpartition("/")[0] for name in same}


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_other_classes_get_a_new_last_layer(tmp_path, capsys, name):
    before, path = trained(tmp_path, name)
    after = build.network(config(name, path), dataset())
    *body, last = ARCHITECTURES[name].paths()
    assert kept(before, after) == set(body)
    assert after.class_names == OTHERS and after.params[last.split("/")[0]]["bias"].shape == (1,)
    assert after.provenance["init_from"]["new layers"] == [last]
    assert capsys.readouterr().out == f"{path}: {last} made new for ant, bee\n"
    np.testing.assert_array_equal(after.normalizer.mean, before.normalizer.mean)


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_images_of_another_size(tmp_path, name):
    before, path = trained(tmp_path, name, names=OTHERS)
    after = build.network(config(name, path), dataset(size=64))
    known = ARCHITECTURES[name]
    assert after.image_size == (64, 64)
    assert kept(before, after) == set(known.paths(include_top=not known.fixed_size))


def test_the_same_classes_keep_all(tmp_path, capsys):
    before, path = trained(tmp_path, "small-cnn", names=OTHERS)
    after = build.network(config("small-cnn", path), dataset())
    assert after.digest == before.digest == after.provenance["init_from"]["digest"]
    assert not capsys.readouterr().out
    assert build.network(config("small-cnn", path), dataset(OTHERS[::-1])).digest != before.digest


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_a_resnet_of_pytorch_under_ones_own_head(tmp_path, prefix):
    state = numpy_nets.filled(numpy_nets.resnet_shapes((2, 2, 2, 2), width=4))
    own = {"fc.0.weight": (6, 32), "fc.0.bias": (6,), "fc.3.weight": (3, 6), "fc.3.bias": (3,)}
    state = {name: value for name, value in state.items() if not name.startswith("fc")} | numpy_nets.filled(own)
    torch_files.save(tmp_path / "w.pth", {"model": {prefix + name: value for name, value in state.items()}})
    with pytest.raises(UserError, match="a resnet18 under another head is read with a new_head"):
        formats.load(tmp_path / "w.pth")
    after = build.network(config("resnet18", tmp_path / "w.pth", width=0.062), dataset())
    np.testing.assert_array_equal(after.params["conv1"]["kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(after.model_state["bn1"]["var"], state["bn1.running_var"])
    assert after.params["fc"]["kernel"].shape == (32, 1)


def test_preprocessing_is_assumed_aloud_or_told(tmp_path, capsys):
    state = numpy_nets.filled(numpy_nets.resnet_shapes((2, 2, 2, 2), width=4))
    torch_files.save(tmp_path / "w.pth", {"state_dict": state, "epoch": 3})
    given = config("resnet18", tmp_path / "w.pth", width=0.062)
    build.network(given, dataset())
    said = capsys.readouterr().out
    assert "assumed: preprocessing RGB in 0 to 1 minus (0.485, 0.456, 0.406)" in said and "not read: epoch" in said
    assert "(--train.init-preprocessing)" in said and "image size" not in said
    told = build.network(replace(given, train=replace(given.train, init_preprocessing="raw")), dataset())
    assert told.normalizer.kind == "raw" and "assumed:" not in capsys.readouterr().out


def test_the_bundled_convolutions_by_their_name():
    after = build.network(config("vgg16", "vgg16", width=1.0, dense_units=8), dataset())
    assert after.params["fc1"]["kernel"].shape == (512, 8) and after.class_names == OTHERS
    known = formats.load_bundled("vgg16", include_top=False)
    assert kept(known, after) == set(known.params)


def test_what_does_not_fit_is_refused(tmp_path):
    _, path = trained(tmp_path, "small-cnn", kind="zca")
    with pytest.raises(UserError, match=r"whitens images of 32×32 pixels: use --data.image-size 32 32"):
        build.network(config("small-cnn", path), dataset(size=48))
    with pytest.raises(UserError, match="takes images of 3 channels, and these have 1"):
        build.network(config("small-cnn", path), dataset(channels=1))
    with pytest.raises(UserError, match="has --model.name small-cnn, and this run vgg11"):
        build.network(config("vgg11", path), dataset())
    wide = config("small-cnn", path)
    with pytest.raises(UserError, match="has --model.width-multiplier 0.05, and this run 0.5"):
        build.network(replace(wide, model=replace(wide.model, width_multiplier=0.5)), dataset())
