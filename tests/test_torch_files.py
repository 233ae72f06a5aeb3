"""PyTorch's files as scripts leave them: what PyTorch wrote, and what `torch_files` writes like it."""

import argparse
from functools import lru_cache
from pathlib import Path

import compiling
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from oracles import numpy_nets

from cnnjax import formats
from cnnjax.cli.weights import describe
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.formats import build, torch_names, torch_pickle, torch_reader
from cnnjax.formats.description import Description
from cnnjax.formats.lazy_tensors import Bytes, Contents, Damaged, Tensor
from cnnjax.formats.options import Options

TORCH = Path(__file__).parent / "fixtures" / "torch"
"""What PyTorch wrote: see oracles/torch_values.py."""


@pytest.fixture(scope="module")
def tiny():
    return numpy_nets.filled(numpy_nets.vgg_shapes(numpy_nets.channels(11, (1, 1, 3, 5, 5)), 2, 2, 1))


FILES = (
    "zip.pth", "legacy.pth", "parameters.pth", "as-published.pth", "strided.pth",
    "checkpoint.pth.tar", "model_9.pth", "lightning.ckpt",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_pytorch_wrote(tmp_path, tiny, name):
    torch_files.save(tmp_path / "w.pth", tiny)
    network = formats.load(TORCH / name)
    assert network.digest == formats.load(tmp_path / "w.pth").digest
    assert network.config["name"] == "vgg11" and network.config["dense_units"] == 2
    np.testing.assert_array_equal(
        network.params["block2_conv1"]["kernel"], tiny["features.3.weight"].transpose(2, 3, 1, 0)
    )


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_resnet_as_the_children_of_a_sequential_network(tmp_path, prefix):
    """torch.nn.Sequential(*resnet.children()) numbers them: 2 and 3 are relu and pooling, 8 is the mean."""
    state = numpy_nets.filled(numpy_nets.resnet_shapes((2, 2, 2, 2)))
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}
    parts = {name: name.split(".", 1) for name in state}
    torch_files.save(tmp_path / "plain.pth", state)
    torch_files.save(
        tmp_path / "children.pth", {f"{prefix}{numbers[a]}.{b}": state[name] for name, (a, b) in parts.items()}
    )
    network = formats.load(tmp_path / "children.pth")
    assert network.config["name"] == "resnet18" and network.digest == formats.load(tmp_path / "plain.pth").digest


def test_what_a_script_saved_beside_the_parameters_is_named():
    beside = {name: formats.load(TORCH / name).provenance for name in FILES[-3:]}
    assert beside["checkpoint.pth.tar"]["in"] == beside["lightning.ckpt"]["in"] == "state_dict"
    assert beside["checkpoint.pth.tar"]["not read"] == ["arch", "best_acc1", "epoch", "optimizer", "scheduler"]
    assert beside["model_9.pth"]["in"] == "model" and beside["model_9.pth"]["other state dicts"] == ["model_ema"]
    assert beside["lightning.ckpt"]["prefix"] == "model."


def named(module, name, *arguments, state=None):
    return torch_files.Call(torch_files.Name(module, name), arguments, state)


DTYPE = named("numpy", "dtype", "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
BESIDE = {
    "a Namespace with a function": argparse.Namespace(lr=0.1, collate=torch_files.Name("__main__", "collate")),
    "a path": named("pathlib", "PosixPath", "/", "x"),
    "a path of Python 3.13": named("pathlib._local", "PosixPath", "/", "x"),
    "a number of NumPy": named("numpy.core.multiarray", "scalar", DTYPE, named("_codecs", "encode", "x", "latin1")),
    "a number of NumPy 2": named("numpy._core.multiarray", "scalar", DTYPE, b"12345678"),
    "a schedule's method": named("builtins", "getattr", torch_files.Name("torch.optim.lr_scheduler", "X"), "anneal"),
    "another package's class": named("omegaconf.dictconfig", "DictConfig", state={"_content": {}}),
    "the script's own class": named("__main__", "Config", state={"lr": 0.1}),
    "an optimizer": {"state": {0: {"exp_avg": np.ones((3, 3, 3, 3), np.float32)}}, "param_groups": [{"params": [0]}]},
    "a set": {1, 2},
    "a date": named("datetime", "datetime", b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00"),
    "losses": [np.ones(3, np.float32), None, True, 2.5],
}


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_beside_the_parameters_matters(tmp_path, tiny, legacy):
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth").digest
    for saved in ({"net": tiny, **BESIDE}, tiny | BESIDE):
        torch_files.save(tmp_path / "w.pth", saved, legacy)
        network = formats.load(tmp_path / "w.pth")
        assert network.digest == digest and network.provenance["not read"] == sorted(BESIDE)


def renamed(before, state, after=""):
    return {before + name.replace("features.", f"features.{after}"): value for name, value in state.items()}


@pytest.mark.parametrize(
    "before, after",
    [("module.", ""), ("", "module."), ("_orig_mod.", ""), ("module._orig_mod.", ""), ("vgg16.", ""), ("model.", ""),
     ("net.backbone.", ""), ("model.module.", "_orig_mod."), ("classifier.", ""), ("_forward_module.", ""),
     ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module."), ("module.model.", "")],
)  # fmt: skip
def test_wrappers_prefixes_are_taken_off(tmp_path, tiny, before, after):
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth").digest
    extra = {"criterion.weight": np.ones(2, np.float32), "train_acc.tp": np.ones(2, np.int64)}
    torch_files.save(tmp_path / "w.pth", {"state_dict": renamed(before, tiny, after) | extra})
    network = formats.load(tmp_path / "w.pth")
    assert network.digest == digest
    assert network.provenance["not read"] == sorted(extra)
    if before.partition(".")[0] in ("vgg16", "model", "net", "classifier") or before == "module.model.":
        # Averages beside it are another network; those of a teacher, too.
        wrapped = "module." if before.startswith("module.") else ""
        torch_files.save(tmp_path / "w.pth", renamed(before, tiny) | renamed(f"{wrapped}ema.", tiny))
        both = formats.load(tmp_path / "w.pth")
        assert both.digest == digest and both.provenance["other state dicts"] == ["ema."]


def test_a_list_of_the_network_and_more(tmp_path, tiny):
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth").digest
    for saved in ([tiny, BESIDE["an optimizer"], 7], (7, tiny)):
        torch_files.save(tmp_path / "w.pth", saved)
        assert formats.load(tmp_path / "w.pth").digest == digest


def test_dicts_that_contain_themselves_are_followed_once(tmp_path, tiny):
    torch_files.save(tmp_path / "plain.pth", tiny)
    inner = {"net": tiny, "head": {"weight": np.ones((2, 5), np.float32)}}
    inner |= {f"again {i}": inner for i in range(300)}
    torch_files.save(tmp_path / "w.pth", {"state": inner, "epoch": 3})
    network = formats.load(tmp_path / "w.pth")
    assert network.digest == formats.load(tmp_path / "plain.pth").digest and network.provenance["in"] == "state.net"
    empty = {}
    empty |= {f"again {i}": empty for i in range(300)}
    torch_files.save(tmp_path / "w.pth", empty)
    with pytest.raises(UserError, match="it holds no state dict, but again 0, again 1"):
        formats.load(tmp_path / "w.pth")


def test_many_prefixes_take_no_time_for_each_pair_of_names():
    class Counted(str):
        calls = 0

        def startswith(self, *arguments):
            Counted.calls += 1
            return super().startswith(*arguments)

    kernel = Tensor("", (2, 2, 3, 3), np.dtype("f4"), lambda first, last: None)
    names = [Counted(f"part{i}.conv.weight") for i in range(2000)]
    torch_names._network({name: kernel._replace(name=name) for name in names})
    assert Counted.calls <= 10 * len(names)


def test_a_tensor_within_another_packages_object_is_skipped_in_old_files(tmp_path, tiny):
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth").digest
    hidden = named("omegaconf.dictconfig", "DictConfig", state={"weights": np.ones(7, np.float64)})
    torch_files.save(tmp_path / "w.pth", {"config": hidden, "net": tiny}, legacy=True)
    assert formats.load(tmp_path / "w.pth").digest == digest


@pytest.mark.parametrize("large", [{"shape": (10**400, 0, 3, 3)}, {"offset": 1 << 63}, {"shape": (1 << 40,) * 4}])
def test_a_tensor_larger_than_any_file_is_damage(large):
    storage = torch_pickle.Storage(np.dtype("f4"), "0", 0, 4)
    values = {"offset": 0, "shape": (1, 1, 2, 2), "strides": (4, 4, 2, 1)} | large
    with pytest.raises(Damaged, match="a tensor is larger than any file"):
        torch_pickle._tensor(storage, *values.values())


def test_a_transposed_tensor_is_read_once(tmp_path):
    array, asked = np.arange(640 * 70, dtype=np.float32).reshape(640, 70), []

    class Counted(Bytes):
        def read(self, offset, size):
            asked.append(size)
            return super().read(offset, size)

    (tmp_path / "numbers").write_bytes(array.tobytes())
    storage = torch_pickle.Storage(array.dtype, "0", 0, array.size)
    places, strided = {"0": (0, array.nbytes)}, torch_pickle.Strided(storage, 3, (64, 640), (1, 70))
    with (tmp_path / "numbers").open("rb") as opened:
        file = Counted(opened)
        tensor = torch_reader._located(file, "w", strided, places, lru_cache(2)(file.read))
        found = np.concatenate([tensor.rows(first, first + 16) for first in range(0, 64, 16)])
    np.testing.assert_array_equal(found, array[:, 3:67].T)
    assert sum(asked) <= array.nbytes


def test_what_fits_rgb_images_alone_is_not_given_to_grey_ones(tmp_path, tiny):
    """The usual normalizer of a format, a caller's, and what a Keras file tells, which has three numbers."""
    grey, path = tiny | {"features.0.weight": tiny["features.0.weight"][:, :1]}, tmp_path / "w.pth"
    torch_files.save(path, grey)
    network = formats.load(path)
    assert network.channels == 1 and network.normalizer.kind == "none"
    assert network.provenance["assumed"]["preprocessing"] == "grey in 0 to 1"
    symmetric = normalize.per_channel("standard", (0.5,) * 3, (2.0,) * 3)
    network = formats.load(path, normalizer=symmetric)
    assert network.normalizer.mean.tolist() == [0.5] and network.normalizer.scales.tolist() == [2.0]
    assert "preprocessing" not in network.provenance["assumed"]
    for wrong in (normalize.imagenet(), normalize.caffe()):
        with pytest.raises(UserError, match=r"images with 1 channel, but normalizer= is for 3: .*--weights-prepro"):
            formats.load(path, normalizer=wrong)
    told = Contents("Keras", {}, [], symmetric, tells_normalizer=True)
    found = Description({}, "", (), (64, 64), 2, symmetric, {})
    assert build._normalizer(path, told, Options(), found).mean.tolist() == [0.5, 0.5]
    with pytest.raises(UserError, match="images with 2 channels, but its preprocessing is for 3"):
        build._normalizer(path, told, Options(), found._replace(normalizer=normalize.imagenet()))


def test_oblong_images_are_asked_for(tmp_path):
    shapes = numpy_nets.vgg_shapes(numpy_nets.channels(11, (1, 1, 3, 5, 5)), 2, 2, (2, 3))
    torch_files.save(tmp_path / "w.pth", numpy_nets.filled(shapes))
    with pytest.raises(UserError, match=r"its network needs float32 \(20, 2\): give image_size=\(height, width\) of"):
        formats.load(tmp_path / "w.pth")
    assert formats.load(tmp_path / "w.pth", image_size=(64, 96)).image_size == (64, 96)
    with pytest.raises(UserError, match=r"its network needs float32 \(20, 2\)$"):
        formats.load(tmp_path / "w.pth", image_size=(64, 64))


def test_objects_as_keys(tmp_path, tiny):
    torch_files.save(tmp_path / "plain.pth", tiny)
    scores = {named("__main__", "Split", "train"): 0.9}
    torch_files.save(tmp_path / "w.pth", {"model": tiny, "scores": scores, **scores})
    network = formats.load(tmp_path / "w.pth")
    assert network.digest == formats.load(tmp_path / "plain.pth").digest
    assert network.provenance["not read"] == ["an object", "scores"]


@pytest.mark.parametrize(
    "names",
    [("weight_orig", "weight_mask"), ("weight_g", "weight_v"), ("parametrizations.weight.original",)],
)
def test_weights_that_are_computed_from_others_are_refused(tmp_path, tiny, names):
    other = {name: value for name, value in tiny.items() if name != "features.3.weight"}
    torch_files.save(tmp_path / "w.pth", other | {f"features.3.{name}": tiny["features.3.weight"] for name in names})
    with pytest.raises(UserError, match=r"the weights of features.3 are computed from others .*: before saving"):
        formats.load(tmp_path / "w.pth")


HEADS = {
    "the last layer a Sequential": {
        "classifier.6.0.weight": (3, 2), "classifier.6.0.bias": (3,), "classifier.6.3.weight": (2, 3),
        "classifier.6.3.bias": (2,),
    },
    "another classifier": {
        "classifier.0.weight": (7, 5), "classifier.0.bias": (7,), "classifier.2.weight": (1, 7),
        "classifier.2.bias": (1,),
    },
    "a head of another name": {"fc.weight": (2, 5), "fc.bias": (2,)},
    "an attention that is a convolution": {"pool.weight": (1, 5, 1, 1), "fc.weight": (2, 5), "fc.bias": (2,)},
    "nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_convolutions_under_ones_own_head(tmp_path, tiny, head):
    """Read without the dense layers, of which all are named; or with new ones."""
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth", include_top=False).digest
    kept = ("classifier.0", "classifier.3") if "Sequential" in head else ()
    body = {name: value for name, value in tiny.items() if name.startswith(("features", *kept))}
    own = numpy_nets.filled(HEADS[head])
    for before in ("", "model."):
        torch_files.save(tmp_path / "w.pth", {"state_dict": renamed(before, body) | renamed("", own)})
        if before and "a " not in head:
            torch_files.save(tmp_path / "w.pth", {"state_dict": renamed(before, body | own)})
        with pytest.raises(UserError, match="include_top=False"):
            formats.load(tmp_path / "w.pth")
        network = formats.load(tmp_path / "w.pth", include_top=False)
        assert network.digest == digest
        left = " ".join(network.provenance.get("left out", []))
        assert all(name in left or name.startswith("classifier.0") for name in own)
    with compiling.quickly():
        new = formats.load(tmp_path / "w.pth", new_head=("x", "y", "z"), image_size=40, dense_units=6)
    assert new.params["fc1"]["kernel"].shape == (5, 6) and new.params["predictions"]["bias"].shape == (3,)
    assert new.provenance["new head"]["layers"] == ["fc1", "fc2", "predictions"] and new.image_size == (40, 40)


def test_features_alone(tmp_path, tiny):
    """What `model.features.state_dict()` holds, and the same in a Sequential with one's own layers after it."""
    body = {name.removeprefix("features."): value for name, value in tiny.items() if name.startswith("features")}
    torch_files.save(tmp_path / "plain.pth", tiny)
    digest = formats.load(tmp_path / "plain.pth", include_top=False).digest
    torch_files.save(tmp_path / "w.pth", body)
    assert formats.load(tmp_path / "w.pth", include_top=False).digest == digest
    own = {"2.weight": np.ones((2, 5), np.float32), "2.bias": np.ones(2, np.float32)}
    torch_files.save(tmp_path / "w.pth", {f"0.{name}": value for name, value in body.items()} | own)
    network = formats.load(tmp_path / "w.pth", include_top=False)
    assert network.digest == digest and network.provenance["left out"] == ["2.weight", "2.bias"]


def test_double_precision_is_rounded_and_noted(tiny, tmp_path):
    torch_files.save(tmp_path / "w.pth", {name: value.astype(np.float64) / 3 for name, value in tiny.items()})
    network = formats.load(tmp_path / "w.pth")
    assert network.provenance["stored as"] == ["float64"]
    kernel = (tiny["features.3.weight"].astype(np.float64) / 3).astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(network.params["block2_conv1"]["kernel"], kernel)
    assert "its numbers are float64 and were rounded to float32" in " ".join(describe("w.pth", network))
    torch_files.save(tmp_path / "w.pth", {name: value.astype(np.float64) * 1e300 for name, value in tiny.items()})
    with pytest.raises(UserError, match="has numbers that are not finite in features"):
        formats.load(tmp_path / "w.pth")


@pytest.mark.parametrize("wrapped", [False, True])
def test_numpys_arrays_in_a_pickle_are_refused_by_name(tiny, tmp_path, wrapped):
    def inline(array):
        kind = torch_files.Call(
            torch_files.Name("numpy", "dtype"), ("f4", False, True), (3, "<", None, None, None, -1, -1, 0)
        )
        state = (1, array.shape, kind, False, array.tobytes())
        return torch_files.Call(
            torch_files.Name("numpy.core.multiarray", "_reconstruct"),
            (torch_files.Name("numpy", "ndarray"), (0,), b"b"),
            state,
        )

    arrays = {name: inline(value) for name, value in tiny.items() if value.ndim == 1}
    torch_files.save(tmp_path / "w.pth", {"state_dict": arrays, "epoch": 3} if wrapped else arrays)
    with pytest.raises(UserError, match=r"its arrays are NumPy's, .* and are not read: save tensors, as in torch.save"):
        formats.load(tmp_path / "w.pth")
    torch_files.save(tmp_path / "w.pth", {"weight": inline(np.zeros(2_000_000, np.float32))})
    with pytest.raises(UserError, match="its pickle has 8,.* it holds other data, such as NumPy arrays; save model"):
        formats.load(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_widened_without_loss_and_noted(tiny, kind):
    network = formats.load(TORCH / f"{kind}.pth")
    assert network.provenance["stored as"] == [kind]
    kernel = tiny["features.3.weight"].astype(kind).astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(network.params["block2_conv1"]["kernel"], kernel)
    assert network.params["fc1"]["kernel"].dtype == jnp.float32
