"""What a layer of a functional Keras model is called, and what it takes."""

from collections.abc import Iterator, Mapping
from typing import Any


def layer_name(layer: Mapping[str, Any]) -> str:
    """The name of a layer from its config."""
    return str(layer.get("name") or layer.get("config", {}).get("name", ""))


def sources(node: Any) -> Iterator[str]:
    """The names of the layers whose results a node takes, as Keras 2 or Keras 3 wrote it."""
    if isinstance(node, dict):
        waiting = [node.get("args", []), node.get("kwargs", {})]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
                yield str(value["config"]["keras_history"][0])
            elif isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
    elif isinstance(node, list) and node and isinstance(node[0], str):
        yield node[0]
    else:
        for part in node:
            yield str(part[0])
