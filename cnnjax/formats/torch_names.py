"""A PyTorch state dict under this package's names, and the other way round, by the table of architectures.

PyTorch's kernels are (output, input, row, column), and the inputs of the first dense layer are ordered by channel, row
and column. The scale of a norm is called weight there; `num_batches_tracked` is of no use without PyTorch's momentum.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

from cnnjax.data.normalize import identity, imagenet
from cnnjax.formats.architectures import ARCHITECTURES, Architecture, Layer
from cnnjax.formats.lazy_tensors import Contents, Layout, Refused, Tensor, listed

KINDS = {
    "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
    **dict.fromkeys(("conv", "dense", "flat"), {"weight": "kernel", "bias": "bias"}),
}
"""By the kind of a layer: PyTorch's names of its arrays → this package's."""
LAYOUTS: dict[str, Layout] = {"conv": "oihw", "dense": "oi", "flat": "ochw"}
IGNORED = "num_batches_tracked"
FEATURES = "features."
"""Before the names where only this part of a network was saved."""
DEPTH = 3
"""Parts of a name that may be a prefix."""


WRAPPERS = (
    "module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
)  # fmt: skip
"""What DataParallel, torch.compile, Fabric, FSDP and checkpointed activations put into names, anywhere."""
REPARAMETRIZED = re.compile(r"(weight|bias)_(orig|mask|g|v|u)|parametrizations\..*")
"""The arrays from which PyTorch computes those of a layer anew at each call: pruning, weight and spectral norm."""
BESIDE = re.compile(
    r"(criterion|criteria|loss(es)?|loss_?f(n|unc|unction)|n_averaged|.*(metric|acc|auroc|f1|iou).*)(_\w+)?"
)
"""Modules that are kept with a network but are none of its layers: losses with weights, metrics."""
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
"""What torchvision's ResNet is called in torch.nn.Sequential(*resnet.children())."""
AVERAGES = re.compile(r".*(ema|swa|averag|teacher|momentum).*")


class Found(NamedTuple):
    """A network among a state dict's names.

    tensors: by their names without `prefix`. beside: names in the file of those that do not begin with it. matched: how
    many modules are layers of the architecture. averages: prefixes of the same network's averages.
    """

    prefix: str
    tensors: dict[str, Tensor]
    beside: list[str]
    architecture: Architecture
    layers: dict[str, Layer]
    matched: int
    averages: tuple[str, ...] = ()


def contents(format: str, tensors: dict[str, Tensor], description: dict[str, Any] | None) -> Contents:
    """A state dict of torchvision or timm, perhaps one that wrappers have renamed, or one that this package wrote.

    Raises Refused where two networks are in it.
    """
    network = _network(_unwrapped(tensors))
    found, unknown = {}, []
    for name, tensor in network.tensors.items():
        module, _, kind = name.rpartition(".")
        layer = network.layers.get(module)
        if layer is None or kind not in KINDS[layer.kind]:
            unknown += [] if kind == IGNORED else [(name, tensor.name)]
            _check_plain(name, tensor.name, network.layers)
            continue
        ours = KINDS[layer.kind][kind]
        layout = LAYOUTS[layer.kind] if ours == "kernel" else "ours"
        found[f"{layer.path}/{ours}"] = tensor._replace(layout=layout)
    unknown += [(name, name) for name in network.beside]
    ignored = sorted(theirs for name, theirs in unknown if BESIDE.fullmatch(name.partition(".")[0]))
    unknown = [(name, theirs) for name, theirs in unknown if theirs not in ignored]
    # What is not named as the convolutions are comes after them.
    body = {layer.torch[0].partition(".")[0] for layer in network.architecture.layers if layer.kind in ("conv", "norm")}
    head = [theirs for name, theirs in unknown if name.partition(".")[0] not in body]
    notes: dict[str, Any] = {"not read": ignored} if ignored else {}
    if network.averages:
        notes["other state dicts"] = list(network.averages)
    if network.prefix:
        notes["prefix"] = network.prefix
    normalizer = imagenet() if network.architecture.torch_normalizer == "imagenet" else identity()
    names = [theirs for _, theirs in unknown]
    return Contents(format, found, names, normalizer, description, notes=notes, head=head)


def _check_plain(name: str, theirs: str, layers: dict[str, Layer]) -> None:
    """Raises Refused for an array from which one of a convolution or norm is computed."""
    for module, layer in layers.items():
        rest = name.removeprefix(f"{module}.")
        if layer.kind in ("conv", "norm") and rest != name and REPARAMETRIZED.fullmatch(rest):
            raise Refused(
                f"the weights of {module} are computed from others ({theirs}): before saving, make them plain with "
                "torch.nn.utils.prune.remove, remove_weight_norm or parametrize.remove_parametrizations"
            )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names without what wrappers put into them."""
    new = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in tensors}
    return {name: tensors[old] for name, old in new.items()} if len(new) == len(tensors) else tensors


def _network(tensors: dict[str, Tensor]) -> Found:
    """The known network that most of the names belong to, after a prefix that they may share."""
    convolutions = [name for name, tensor in tensors.items() if len(tensor.shape) == 4]
    prefixes, shares = {""}, Counter({"": len(convolutions)})
    for name in convolutions:
        parts = name.split(".")
        own = [".".join(parts[:count]) + "." for count in range(1, min(len(parts) - 1, DEPTH) + 1)]
        shares.update(own)
        prefixes.update(own[: max(0, len(parts) - 2)])
    likely = [prefix for prefix in sorted(prefixes) if 3 * shares[prefix] >= len(convolutions)]
    found = [_below(tensors, prefix, more) for prefix in likely for more in ("", FEATURES)]
    found.sort(key=lambda one: (-one.matched, len(one.beside), len(one.prefix), one.prefix))
    equal = [found[0]]
    for one in found[1:]:
        apart = all(not one.prefix.startswith(e.prefix) and not e.prefix.startswith(one.prefix) for e in equal)
        if one.matched == found[0].matched > 1 and apart:
            equal.append(one)
    plain = [one for one in equal if not AVERAGES.fullmatch(one.prefix)]
    if len(equal) == 1:
        return equal[0]
    if len(plain) != 1:
        raise Refused(f"it holds {len(equal)} networks, below {listed([one.prefix for one in equal])}: save one alone")
    averages = tuple(one.prefix for one in equal if one is not plain[0])
    known = {tensor.name for name, tensor in tensors.items() if name.startswith(averages)}
    return plain[0]._replace(averages=averages, beside=[name for name in plain[0].beside if name not in known])


def _below(tensors: dict[str, Tensor], prefix: str, more: str) -> Found:
    """What the names with a prefix are, without it and with `more` before them."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if own.keys() >= {"0.weight", "4.0.conv1.weight", "7.0.conv1.weight"}:
        parts = {name: name.partition(".") for name in own}
        own = {f"{CHILDREN.get(first, first)}.{rest}": own[name] for name, (first, _, rest) in parts.items()}
    own = {more + name: tensor for name, tensor in own.items()}
    beside = [tensor.name for name, tensor in tensors.items() if not name.startswith(prefix)]
    modules = {name.rpartition(".")[0] for name in own}
    architecture, layers = nearest(modules)
    return Found(prefix, own, beside, architecture, layers, len(modules & layers.keys()))


def nearest(modules: set[str]) -> tuple[Architecture, dict[str, Layer]]:
    """The architecture whose modules these are, or nearly, and its layers by these names."""
    tables = [(known, known.torch_names(library)) for known in ARCHITECTURES.values() for library in (0, 1)]
    return min(tables, key=lambda table: len(modules.symmetric_difference(table[1])))


def torch_name(layer: Layer, kind: str) -> str:
    """torchvision's name of a layer's array: `kind` is "kernel", "bias", "scale", "mean" or "var"."""
    theirs = {ours: name for name, ours in KINDS[layer.kind].items()}
    return f"{layer.torch[0]}.{theirs[kind]}"
