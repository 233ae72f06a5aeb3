"""Writes what PyTorch computes and saves, so that no test needs PyTorch: torch_values.npz, torch_states.json and files.

    python tests/oracles/torch_values.py            # writes them
    python tests/oracles/torch_values.py --check    # compares them with the PyTorch that is installed

needs torch and torchvision (written with torch 2.14.1 and torchvision 0.29.1). Inputs are those of recipe.py and not
stored. Values are computed in float64; of large arrays the file has sums and samples, as recipe.sample takes them. The
files in tests/fixtures/torch are what torch.save writes of a VGG11 with next to no channels, alone and as training
scripts save it. test_oracles.py compares NumPy's networks with the values, and reads the files.
"""

import argparse
import copyreg
import json
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import recipe
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from oracles import numpy_nets, torch_nets, torch_resnet  # noqa: E402

HERE = Path(__file__).parent
FILES = HERE.parent / "fixtures" / "torch"
CONVOLUTIONS = {
    "same": ((7, 6), (3, 3), 1, "SAME"), "even": ((6, 5), (2, 4), 1, "SAME"), "valid": ((8, 7), (3, 2), 1, "VALID"),
    "wide": ((5, 5), (3, 3), 1, 3), "strided": ((9, 8), (3, 3), 2, 1), "one by one": ((7, 7), (1, 1), 1, 0),
}  # fmt: skip
POOLINGS = {"two": ((4, 6), 2, 2, 0), "odd": ((7, 5), 2, 2, 0), "three": ((7, 8), 3, 3, 0), "resnet": ((9, 8), 3, 2, 1)}
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam([p], lr=1e-2, eps=1e-7),
    "adamw": lambda p: torch.optim.AdamW([p], lr=1e-2, eps=1e-7, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD([p], lr=1e-2, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD([p], lr=1e-2, momentum=0.8, nesterov=True),
    "sgd with L2": lambda p: torch.optim.SGD([p], lr=1e-2, momentum=0.9, weight_decay=0.1),
}
START = np.array([1.0, -2.0, 0.5], np.float32)
SMALL = ((8, 16, 32, 32), (128, 64), 1, 20)
"""Of the article's network: channels, dense units, logits, and the images' side."""


def gradients(steps):
    """For an optimizer: of ordinary, small and tiny numbers."""
    return recipe.uniform("gradients", (steps, 3)) * np.float32([1, 1e-3, 1e-7])


def first(x):
    """An array with its channels last, as PyTorch wants it, in float64."""
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy()).double()


def last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def operations():
    found = {}
    for name, (sides, window, stride, padding) in CONVOLUTIONS.items():
        x = first(recipe.uniform(f"{name} x", (2, *sides, 3))).requires_grad_()
        kernel = torch.tensor(recipe.uniform(f"{name} kernel", (*window, 3, 4))).double().permute(3, 2, 0, 1)
        kernel.requires_grad_()
        amounts = [e for n in window[::-1] for e in ((n - 1) // 2, n // 2)]
        edges = amounts if padding == "SAME" else [0 if padding == "VALID" else padding] * 4
        y = F.conv2d(F.pad(x, edges), kernel, stride=stride)
        y.backward(first(recipe.uniform(f"{name} g", last(y).shape)))
        values = last(y), last(x.grad), kernel.grad.permute(2, 3, 1, 0).numpy()
        found |= {f"conv/{name}/{kind}": value for kind, value in zip(("y", "x", "kernel"), values, strict=True)}
    for name, (sides, window, stride, padding) in POOLINGS.items():
        # Few different numbers, so that there are ties.
        x = first(np.round(2 * recipe.uniform(f"{name} pool", (2, *sides, 3)))).requires_grad_()
        y = F.max_pool2d(x, window, stride, padding)
        y.backward(first(recipe.uniform(f"{name} pool g", last(y).shape)))
        found |= {f"pool/{name}/y": last(y), f"pool/{name}/x": last(x.grad)}
    for name, make in OPTIMIZERS.items():
        params = torch.tensor(START, requires_grad=True)
        optimizer = make(params)
        for gradient in gradients(5):
            params.grad = torch.tensor(gradient)
            optimizer.step()
        found[f"optimizer/{name}"] = params.detach().numpy()
    return found


class GuidedRelu(torch.autograd.Function):
    """As the paper has it, and as Captum's hooks do."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return gradient.clamp(min=0) * (x > 0)


class Guided(nn.Module):
    def forward(self, x):
        return GuidedRelu.apply(x)


def published():
    """The networks of other libraries in evaluation: logits, and gradients by the images, ordinary and guided."""
    nets = {
        "vgg11": torch_nets.TorchvisionVGG(numpy_nets.channels(11, (3, 5, 8, 8, 8)), 7, 5, 1),
        "vgg13-bn": torch_nets.TorchvisionVGG(numpy_nets.channels(13, (3, 5, 8, 8, 8)), 7, 5, 1, batch_norm=True),
        "timm": torch_nets.TimmVGG(numpy_nets.channels(16, (3, 5, 8, 8, 8)), 7, 5, 2),
        "small-cnn": torch_nets.SmallCNN((4, 6, 8, 8), (9, 7), 5, 4),
        "resnet18": torch_resnet.ResNet((2, 2, 2, 2), width=4),
        "resnet50": torch_resnet.ResNet((1, 2, 1, 1), True, 4),
    }
    found, relu = {}, F.relu
    for name, net in nets.items():
        state = numpy_nets.filled({n: tuple(v.shape) for n, v in net.state_dict().items()})
        net.load_state_dict({n: torch.tensor(v) for n, v in state.items()})
        net.double().eval()
        side = 64 if name in ("timm", "small-cnn") else 32
        images = recipe.uniform(f"{name} images", (2, side, side, 3))
        for kind in ("gradient", "guided"):
            if kind == "guided":
                F.relu = GuidedRelu.apply
                for module in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
                    for key in [k for k, m in module.named_children() if isinstance(m, nn.ReLU)]:
                        setattr(module, key, Guided())
            x = first(images).requires_grad_()
            logits = net(x)
            logits[:, 1].sum().backward()
            found[f"published/{name}/{kind}"] = last(x.grad)
        F.relu = relu
        found[f"published/{name}/logits"] = logits.detach().numpy()
    return found


def training():
    """The article's network: loss and gradients, five steps of Adam; and batch normalization in training."""
    found = {}
    net = torch_nets.small_cnn(recipe.small_cnn(*SMALL)).double()
    labels = recipe.labels(1, 2, 4)
    x = first(recipe.uniform("batch 0", (4, SMALL[3], SMALL[3], 3))).permute(0, 2, 3, 1).requires_grad_()
    value = torch_nets.loss(net(x), labels)
    value.backward()
    found["small-cnn/logits"], found["small-cnn/loss"] = net(x).detach().numpy(), value.detach().numpy()
    found["small-cnn/images"] = x.grad.numpy()
    for name, arrays in net.arrays(lambda p: p.grad).items():
        found |= {f"small-cnn/gradient/{name}/{kind}": value for kind, value in arrays.items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(5):
        optimizer.zero_grad()
        images = torch.tensor(recipe.uniform(f"batch {step}", (4, SMALL[3], SMALL[3], 3))).double() * (1 + step)
        value = torch_nets.loss(net(images), labels)
        value.backward()
        optimizer.step()
        found[f"small-cnn/adam/loss {step}"] = value.detach().numpy()
    for name, arrays in net.arrays().items():
        found |= {f"small-cnn/adam/{name}/{kind}": value for kind, value in arrays.items()}
    norm = nn.BatchNorm2d(3).double()
    norm.weight.data = torch.tensor([0.5, -1.5, 2.0]).double()
    norm.bias.data = torch.tensor([0.1, 0.2, -0.3]).double()
    x = first(2 * recipe.uniform("norm", (4, 5, 6, 3)) + 3).requires_grad_()
    y = norm(x)
    y.backward(first(recipe.uniform("norm g", (4, 5, 6, 3))))
    values = {"y": last(y), "x": last(x.grad), "scale": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()}
    values |= {"mean": norm.running_mean.numpy(), "var": norm.running_var.numpy()}
    return found | {f"norm/{name}": value for name, value in values.items()}


def states():
    """Names, in order, and shapes of real state dicts of torchvision."""
    from torchvision import models

    found = {}
    with torch.device("meta"):
        for name in ("vgg11", "vgg13", "vgg16", "vgg19", "vgg16_bn", "resnet18", "resnet34", "resnet50"):
            found[name] = {n: list(v.shape) for n, v in getattr(models, name)(weights=None).state_dict().items()}
    return found


def tiny():
    """A VGG11 with next to no channels, whose numbers are those of `numpy_nets.filled`."""
    net = torch_nets.TorchvisionVGG(numpy_nets.channels(11, (1, 1, 3, 5, 5)), 2, 2, 1)
    state = numpy_nets.filled({n: tuple(v.shape) for n, v in net.state_dict().items()})
    net.load_state_dict({n: torch.tensor(v) for n, v in state.items()})
    return net


def old_parameter(self, protocol):
    return copyreg.__newobj__, (torch.nn.Parameter, self.data), (self.requires_grad, False, OrderedDict())


def write_files(folder):
    """The same parameters in every way in which they are found."""
    folder.mkdir(parents=True, exist_ok=True)
    net = tiny()
    state = net.state_dict()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    net(torch.zeros(1, 3, 32, 32)).sum().backward()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    wrapped = OrderedDict((n.replace("features.", "features.module."), v) for n, v in state.items())
    wrapped._metadata = state._metadata
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(dict(net.named_parameters()), folder / "parameters.pth", _use_new_zipfile_serialization=False)
    # torchvision's file is of 2017: parameters are made first and told afterwards what they need.
    reduce, torch.nn.Parameter.__reduce_ex__ = torch.nn.Parameter.__reduce_ex__, old_parameter
    as_published = OrderedDict(net.named_parameters())
    torch.save(as_published, folder / "as-published.pth", _use_new_zipfile_serialization=False)
    torch.nn.Parameter.__reduce_ex__ = reduce
    # Views of one storage, turned around: what a state dict may hold as well.
    turned = {n: v.transpose(0, -1).contiguous().transpose(0, -1) for n, v in state.items()}
    torch.save(turned, folder / "strided.pth")
    torch.save({n: v.to(torch.bfloat16) for n, v in state.items()}, folder / "bfloat16.pth")
    torch.save({n: v.half() for n, v in state.items()}, folder / "float16.pth")
    # pytorch/examples' imagenet/main.py
    checkpoint = {"epoch": 3, "arch": "vgg11", "state_dict": wrapped, "best_acc1": torch.tensor(71.6)}
    checkpoint |= {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    torch.save(checkpoint, folder / "checkpoint.pth.tar")
    # torchvision's references/classification/train.py, with a moving average
    reference = {"model": state, "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    reference |= {"epoch": 9, "args": argparse.Namespace(model="vgg11", lr=0.1, output_dir=Path("runs/vgg"))}
    torch.save(reference | {"model_ema": averaged.state_dict()}, folder / "model_9.pth")
    # Lightning
    lightning = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4.0", "callbacks": {}, "loops": {}}
    lightning |= {"state_dict": OrderedDict((f"model.{n}", v) for n, v in state.items())}
    lightning |= {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1}}
    torch.save(lightning, folder / "lightning.ckpt")


def stored(values):
    """What the file has of each array: all of a small one, samples of a large one."""
    return {n: v if v.size <= 32 else recipe.sample(v, 64) for n, v in values.items()}


def check(found):
    known = np.load(HERE / "torch_values.npz")
    assert set(known.files) == set(found)
    for name, value in found.items():
        np.testing.assert_allclose(value, known[name], rtol=1e-5, atol=1e-6 * np.abs(known[name]).max(), err_msg=name)
    if "torchvision" in sys.modules:
        assert states() == json.loads((HERE / "torch_states.json").read_text())
    state = tiny().state_dict()
    for path in FILES.iterdir():
        read = torch.load(path, weights_only=False)
        read = read.get("state_dict", read.get("model", read))
        names = [n.replace("module.", "").removeprefix("model.") for n in read]
        assert names == list(state), path
        kind = next(iter(read.values())).dtype
        assert all(torch.equal(v, state[n].to(kind)) for n, v in zip(names, read.values(), strict=True)), path


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = stored(operations() | published() | training())
    if "--check" in sys.argv:
        check(found)
        print("as stored")
    else:
        np.savez_compressed(HERE / "torch_values.npz", **{n: v.astype(np.float32) for n, v in found.items()})
        (HERE / "torch_states.json").write_text(json.dumps(states(), indent=0).replace("\n", " ") + "\n")
        write_files(FILES)
        for path in (HERE / "torch_values.npz", HERE / "torch_states.json", *sorted(FILES.iterdir())):
            print(path, path.stat().st_size, "bytes")
