"""A PyTorch state dict under this package's names, and the other way round, by the table of architectures.

PyTorch's kernels are (output, input, row, column), and the inputs of the first dense layer are ordered by channel, row
and column. The scale of a norm is called weight there; `num_batches_tracked` is of no use without PyTorch's momentum.
"""

from typing import Any

from cnnjax.data.normalize import identity, imagenet
from cnnjax.formats.architectures import ARCHITECTURES, Architecture, Layer
from cnnjax.formats.lazy_tensors import Contents, Layout, Tensor

KINDS = {
    "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
    **dict.fromkeys(("conv", "dense", "flat"), {"weight": "kernel", "bias": "bias"}),
}
"""By the kind of a layer: PyTorch's names of its arrays → this package's."""
LAYOUTS: dict[str, Layout] = {"conv": "oihw", "dense": "oi", "flat": "ochw"}
IGNORED = "num_batches_tracked"


def contents(format: str, tensors: dict[str, Tensor], description: dict[str, Any] | None) -> Contents:
    """A state dict of torchvision or timm, or one that this package wrote."""
    architecture, layers = nearest({name.rpartition(".")[0] for name in tensors})
    found, unknown = {}, []
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        layer = layers.get(module)
        if kind == IGNORED:
            continue
        if layer is None or kind not in KINDS[layer.kind]:
            unknown.append(name)
            continue
        ours = KINDS[layer.kind][kind]
        layout = LAYOUTS[layer.kind] if ours == "kernel" else "ours"
        found[f"{layer.path}/{ours}"] = tensor._replace(layout=layout)
    normalizer = imagenet() if architecture.torch_normalizer == "imagenet" else identity()
    return Contents(format, found, unknown, normalizer, description)


def nearest(modules: set[str]) -> tuple[Architecture, dict[str, Layer]]:
    """The architecture whose modules these are, or nearly, and its layers by these names."""
    tables = [(known, known.torch_names(library)) for known in ARCHITECTURES.values() for library in (0, 1)]
    return min(tables, key=lambda table: len(modules.symmetric_difference(table[1])))


def torch_name(layer: Layer, kind: str) -> str:
    """torchvision's name of a layer's array: `kind` is "kernel", "bias", "scale", "mean" or "var"."""
    theirs = {ours: name for name, ours in KINDS[layer.kind].items()}
    return f"{layer.torch[0]}.{theirs[kind]}"
