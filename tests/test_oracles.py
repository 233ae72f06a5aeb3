"""NumPy's networks compute what PyTorch computed (oracles/torch_values.py), so that other tests may ask NumPy.

Where PyTorch is installed, with the extra `peers`, the slow tests compare with it anew, in processes of its own:
PyTorch and JAX in one process can crash.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch_files
from oracles import numpy_autodiff as ops
from oracles import numpy_nets, recipe
from oracles.numpy_autodiff import Value

ORACLES = Path(__file__).parent / "oracles"
VALUES = np.load(ORACLES / "torch_values.npz")
STATES = json.loads((ORACLES / "torch_states.json").read_text())
NARROW = (3, 5, 8, 8, 8)


def same(name, found):
    known = VALUES[name]
    found = found if found.size <= 32 else recipe.sample(found, 64)
    np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-6 * np.abs(known).max(), err_msg=name)


@pytest.mark.parametrize(
    "name, sides, window, stride, padding",
    [
        ("same", (7, 6), (3, 3), 1, "SAME"), ("even", (6, 5), (2, 4), 1, "SAME"), ("valid", (8, 7), (3, 2), 1, "VALID"),
        ("wide", (5, 5), (3, 3), 1, 3), ("strided", (9, 8), (3, 3), 2, 1), ("one by one", (7, 7), (1, 1), 1, 0),
    ],
)  # fmt: skip
def test_convolutions(name, sides, window, stride, padding):
    x = Value(recipe.uniform(f"{name} x", (2, *sides, 3)))
    kernel = Value(recipe.uniform(f"{name} kernel", (*window, 3, 4)))
    y = ops.conv(x, kernel, None, stride, padding)
    y.backward(recipe.uniform(f"{name} g", y.shape))
    for kind, value in (("y", y.data), ("x", x.grad), ("kernel", kernel.grad)):
        same(f"conv/{name}/{kind}", value)


@pytest.mark.parametrize(
    "name, sides, window, stride, padding",
    [("two", (4, 6), 2, 2, 0), ("odd", (7, 5), 2, 2, 0), ("three", (7, 8), 3, 3, 0), ("resnet", (9, 8), 3, 2, 1)],
)
def test_pooling_with_ties(name, sides, window, stride, padding):
    x = Value(np.round(2 * recipe.uniform(f"{name} pool", (2, *sides, 3))))
    y = ops.max_pool(x, window, stride, padding)
    y.backward(recipe.uniform(f"{name} pool g", y.shape))
    same(f"pool/{name}/y", y.data)
    same(f"pool/{name}/x", x.grad)


SHAPES = {
    "vgg11": numpy_nets.vgg_shapes(numpy_nets.channels(11, NARROW), 7, 5, 1),
    "vgg13-bn": numpy_nets.vgg_shapes(numpy_nets.channels(13, NARROW), 7, 5, 1, batch_norm=True),
    "timm": numpy_nets.timm_shapes(numpy_nets.channels(16, NARROW), 7, 5, 2),
    "small-cnn": numpy_nets.small_cnn_shapes((4, 6, 8, 8), (9, 7), 5, 4),
    "resnet18": numpy_nets.resnet_shapes((2, 2, 2, 2), width=4),
    "resnet50": numpy_nets.resnet_shapes((1, 2, 1, 1), True, 4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_networks(name):
    side = 64 if name in ("timm", "small-cnn") else 32
    for kind, relu in (("gradient", ops.relu), ("guided", ops.guided_relu)):
        net = numpy_nets.Published(numpy_nets.filled(SHAPES[name]), relu)
        images = Value(recipe.uniform(f"{name} images", (2, side, side, 3)))
        logits = net(images)
        logits.backward(np.eye(5)[[1, 1]])
        same(f"published/{name}/logits", logits.data)
        same(f"published/{name}/{kind}", images.grad)


def test_their_names_and_shapes_are_torchvisions():
    units = (64, 128, 256, 512, 512)
    ours = {
        **{f"vgg{n}": numpy_nets.vgg_shapes(numpy_nets.channels(n, units), 4096, 1000) for n in (11, 13, 16, 19)},
        "vgg16_bn": numpy_nets.vgg_shapes(numpy_nets.channels(16, units), 4096, 1000, batch_norm=True),
        "resnet18": numpy_nets.resnet_shapes((2, 2, 2, 2), width=64, classes=1000),
        "resnet34": numpy_nets.resnet_shapes((3, 4, 6, 3), width=64, classes=1000),
        "resnet50": numpy_nets.resnet_shapes((3, 4, 6, 3), True, 64, 1000),
    }
    assert ours.keys() == STATES.keys()
    for name, shapes in ours.items():
        assert [(n, list(shape)) for n, shape in shapes.items()] == list(STATES[name].items()), name


def test_the_articles_network_in_training():
    net = numpy_nets.small_cnn(recipe.small_cnn((8, 16, 32, 32), (128, 64), 1, 20))
    images = Value(recipe.uniform("batch 0", (4, 20, 20, 3)))
    logits = net(images)
    loss = ops.cross_entropy(logits, recipe.labels(1, 2, 4))
    loss.backward()
    same("small-cnn/logits", logits.data)
    same("small-cnn/loss", loss.data)
    same("small-cnn/images", images.grad)
    for name, arrays in net.gradients().items():
        for kind, value in arrays.items():
            same(f"small-cnn/gradient/{name}/{kind}", value)


def test_batch_normalization_in_training():
    x = Value(2 * recipe.uniform("norm", (4, 5, 6, 3)) + 3)
    scale, bias = Value([0.5, -1.5, 2.0]), Value([0.1, 0.2, -0.3])
    y = ops.batch_norm(x, scale, bias)
    y.backward(recipe.uniform("norm g", (4, 5, 6, 3)))
    for name, value in {"y": y.data, "x": x.grad, "scale": scale.grad, "bias": bias.grad}.items():
        same(f"norm/{name}", value)


def live(*arguments):
    """Run a script that imports PyTorch."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs the extra `peers`")


@pytest.mark.slow
@needs_torch
def test_pytorch_still_computes_the_stored_values():
    assert live(ORACLES / "torch_values.py", "--check") == "as stored\n"


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_reads_what_the_tests_write(tmp_path, legacy):
    state = numpy_nets.filled(SHAPES["vgg13-bn"])
    torch_files.save(tmp_path / "w.pth", {"model": state, "epoch": 3}, legacy)
    np.savez(tmp_path / "expected.npz", **state)
    code = """
import sys, numpy, torch
found, expected = torch.load(sys.argv[1], weights_only=True), numpy.load(sys.argv[2])
assert found["epoch"] == 3 and list(found["model"]) == expected.files
for name, value in found["model"].items():
    numpy.testing.assert_array_equal(value.numpy(), expected[name])
"""
    live("-c", code, tmp_path / "w.pth", tmp_path / "expected.npz")
