"""The layers of a Keras model in the order of computation, from its config; models within the model too."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnjax.formats import keras_preprocessing
from cnnjax.formats.keras_nodes import layer_name, sources
from cnnjax.formats.lazy_tensors import Refused

DEPTH = 8
"""Models within models."""
MODELS = ("Sequential", "Functional", "Model")


def chain(config: Mapping[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """Every layer in the order of computation, those of models within the model too."""
    if depth > DEPTH:
        raise Refused("its models are nested too deep")
    layers = keras_preprocessing.collapse(_layers(config))
    functional = any(layer.get("inbound_nodes") for layer in layers)
    for layer in _in_order(layers) if functional else layers:
        if layer.get("class_name") in MODELS:
            yield from chain(layer, depth + 1)
        else:
            yield layer


def _layers(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    inner = config.get("config")
    layers = inner if isinstance(inner, list) else inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise Refused("its config lists no layers: only functional and sequential models are read")
    return layers


def _in_order(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers of a functional model, each of which must take the result of the one before it."""
    after: dict[str, dict[str, Any]] = {}
    first = []
    for layer in layers:
        name = layer_name(layer)
        nodes = layer.get("inbound_nodes") or []
        if len(nodes) > 1:
            raise Refused(f"its layer {name!r} is used {len(nodes)} times")
        taken = list(sources(nodes[0])) if nodes else []
        if len(taken) > 1:
            raise Refused(f"its layer {name!r} has {len(taken)} inputs, and no network here branches so")
        if not taken:
            first.append(layer)
        elif taken[0] in after:
            raise Refused(f"its layer {taken[0]!r} has several layers after it, and no network here branches so")
        else:
            after[taken[0]] = layer
    if len(first) != 1:
        raise Refused(f"it has {len(first)} inputs, and the networks here have one")
    chain = first
    while len(chain) <= len(layers) and layer_name(chain[-1]) in after:
        chain = [*chain, after[layer_name(chain[-1])]]
    if len(chain) != len(layers):
        raise Refused("its layers do not follow one another")
    return chain
