"""The layers of a Keras file under this package's names: by their names, their config, or their order."""

import functools
import itertools
import math

import numpy as np

from cnnjax.formats.architectures import ARCHITECTURES, Architecture
from cnnjax.formats.keras_config import Config
from cnnjax.formats.lazy_tensors import Refused, Tensor, read_all

SUPPORTED = tuple(known for known in ARCHITECTURES.values() if known.keras_normalizer is not None)

Layers = dict[str, list[Tensor]]
"""Arrays by the names of their layers, in the file's order."""


def architecture(layers: Layers, config: Config | None) -> Architecture:
    """The network that a file holds, or the nearest. Raises Refused for a config that is of none."""
    if config is not None:
        for known in SUPPORTED:
            if _blocks(known) == config.blocks:
                return known
        blocks = ", ".join(map(str, config.blocks))
        raise Refused(f"its convolutions are in blocks of {blocks}, which neither a VGG nor a SmallCNN has")
    if _has_our_names(layers):
        return min(SUPPORTED, key=lambda known: len(layers.keys() ^ set(known.paths())))
    count = len(_of_rank(layers, 4))
    return min(SUPPORTED, key=lambda known: abs(count - len(known.paths(include_top=False))))


def arrays(
    layers: Layers, known: Architecture, config: Config | None
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The arrays by this package's names; the names of those that belong to no layer; and which of them come after the
    convolutions."""
    names = _our_names(layers, known, config)
    found: dict[str, Tensor] = {}
    unknown, head = [], []
    for name, tensors in layers.items():
        kernels, biases = ([t for t in tensors if (len(t.shape) > 1) == many] for many in (True, False))
        if name in names and len(kernels) <= 1 and len(biases) <= 1:
            found |= {f"{names[name]}/kernel": t for t in kernels} | {f"{names[name]}/bias": t for t in biases}
        else:
            unknown += [t.name for t in tensors]
            head += [t.name for t in tensors if max((len(t.shape) for t in tensors), default=0) < 4]
    flat = f"{known.top[0]}/kernel"
    if config is not None and config.channels_first and flat in found:
        last = found.get(f"{known.paths(include_top=False)[-1]}/kernel")
        found[flat] = _channels_last(found[flat], last.shape[-1] if last is not None and last.shape else 1)
    return found, unknown, head


def _our_names(layers: Layers, known: Architecture, config: Config | None) -> dict[str, str]:
    """The file's names of layers, with this package's."""
    convolutions, dense = _of_rank(layers, 4), _of_rank(layers, 2)
    body, top = known.paths(include_top=False), known.top
    if config is not None:
        if layers.keys() >= set(config.convolutions):
            convolutions = config.convolutions
        if layers.keys() >= set(config.dense):
            dense = config.dense
        if config.head_problem:
            dense = []
    elif _has_our_names(layers):
        return {name: name for name in layers if name in known.paths()}
    if len(convolutions) != len(body):
        return {name: name for name in layers if name in known.paths()}
    return dict(zip(convolutions, body, strict=True)) | (
        dict(zip(dense, top, strict=True)) if len(dense) == len(top) else {}
    )


def _has_our_names(layers: Layers) -> bool:
    # Keras itself calls dense layers dense_1 and dense_2, as the small network does.
    return any(name in known.paths() and "conv" in name for known in SUPPORTED for name in layers)


def _of_rank(layers: Layers, rank: int) -> list[str]:
    return [name for name, tensors in layers.items() if max((len(t.shape) for t in tensors), default=0) == rank]


def _blocks(known: Architecture) -> tuple[int, ...]:
    """How many convolutions it has before each pooling."""
    blocks = itertools.groupby(known.paths(include_top=False), key=lambda path: path.partition("_conv")[0])
    return tuple(len(list(layers)) for _, layers in blocks)


def _channels_last(tensor: Tensor, channels: int) -> Tensor:
    """A dense kernel whose rows go by channel, row and column, with rows by row, column and channel."""

    @functools.cache
    def whole() -> np.ndarray:
        block = read_all(tensor)
        return block.reshape(channels, -1, *block.shape[1:]).swapaxes(0, 1).reshape(block.shape)

    if not channels or len(tensor.shape) != 2 or tensor.shape[0] % channels or not math.prod(tensor.shape):
        return tensor  # its shape will be refused
    return tensor._replace(rows=lambda first, last: whole()[first:last])
