"""The names that torchvision and timm give a VGG's parameters, and the same scheme for the small network.

Their layers count relus and poolings too: `features.0`, `features.2`, … Kernels are (output, input, row, column), and
the first dense layer's inputs go by channel, row, column. Sources: torchvision/models/vgg.py, timm/models/vgg.py,
which turns `classifier.0` into a 7 × 7 convolution `pre_logits.fc1`, `classifier.3` into `pre_logits.fc2` and
`classifier.6` into `head.fc`.
"""

from typing import Any

from cnnjax.cli.config import ModelConfig
from cnnjax.data.normalize import imagenet, of_colours
from cnnjax.formats import architecture
from cnnjax.formats.lazy_tensors import Contents, Refused, Tensor
from cnnjax.models import small_cnn, vgg

TORCHVISION = ("classifier.0", "classifier.3", "classifier.6")
TIMM = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
SMALL = ("classifier.1", "classifier.3", "classifier.5")
MODELS = (ModelConfig(name="small-cnn"), *(ModelConfig(name=f"vgg{n}") for n in vgg.STAGES))


def modules(model: ModelConfig, top: tuple[str, ...] = ()) -> dict[str, str]:
    """Our layers' names → torch's; `top` names the dense ones, by default as torchvision does."""
    small = model.name == "small-cnn"
    stages = (1,) * len(small_cnn.CHANNELS) if small else vgg.STAGES[int(model.name.removeprefix("vgg"))]
    places, place = [], 0
    for count in stages:
        places += [place + 2 * i for i in range(count)]
        place += 2 * count + 1
    top = top or (SMALL if small else TORCHVISION)
    return dict(zip(architecture.layers(model), [f"features.{i}" for i in places] + list(top), strict=True))


def contents(format: str, tensors: dict[str, Tensor], about: dict[str, Any] | None) -> Contents:
    """A state dict under our names. Raises Refused for a network with batch normalisation."""
    if any(name.endswith("running_mean") for name in tensors):
        count = sum(1 for name, t in tensors.items() if name.endswith(".weight") and len(t.shape) == 4)
        raise Refused(
            f"it is a VGG{count + 3 if count < 17 else ''}_bn, with batch normalisation, which is another "
            "network: fetch the weights without _bn in their name"
        )
    layers = {name.rpartition(".")[0] for name in tensors}
    tables = [modules(model, TIMM if layers & set(TIMM) and model.name != "small-cnn" else ()) for model in MODELS]
    table = min(tables, key=lambda table: len(set(table.values()) ^ layers))
    ours = {theirs: name for name, theirs in table.items()}
    *convolutions, first, _, _ = table
    last = tensors.get(f"{table[convolutions[-1]]}.bias")
    found, left = {}, []
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer not in ours or kind not in ("weight", "bias"):
            left.append(name)
        elif kind == "bias":
            found[f"{ours[layer]}/bias"] = tensor
        elif ours[layer] == first:
            channels = tensor.shape[1] if len(tensor.shape) == 4 else (last.shape if last and last.shape else (1,))[0]
            square = len(tensor.shape) == 2 or tensor.shape[2:3] == tensor.shape[3:]
            found[f"{first}/kernel"] = tensor._replace(layout="ochw" if square else "ours", channels=channels)
        else:
            found[f"{ours[layer]}/kernel"] = tensor._replace(layout="oihw" if ours[layer] in convolutions else "oi")
    return Contents(format, found, left, of_colours("none") if first == "dense_1" else imagenet(), about)
