"""What files of this package say about a network beside its arrays: plain JSON, in two versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.normalize import Normalizer, is_valid, per_channel
from cnnjax.errors import UserError
from cnnjax.formats.architectures import ARCHITECTURES
from cnnjax.network import Network, without_arrays

VERSION = 2
KEY = "cnnjax"
"""Where it is found in a file's metadata."""
LONGEST = 100_000
"""Pixels on a side, and channels, that an image may have."""
OLD_FIELDS = {"normalizer": "cleaning", "provenance": "made"}
"""Fields of version 2 → of version 1."""


class Description(NamedTuple):
    """All of a network but its arrays.

    config: what `models.create(**config)` makes the model from; None for a model of another class, whose name is then
    in `model_class`.
    """

    config: dict[str, Any] | None
    model_class: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    normalizer: Normalizer
    provenance: dict[str, Any]


def write(network: Network) -> dict[str, Any]:
    """A network's description, with the kind of its normalizer, but not the normalizer's arrays."""
    model = type(without_arrays(network.graphdef))
    # remat says how gradients were computed, and is no part of the network.
    config = {name: value for name, value in (network.config or {}).items() if name != "remat"}
    return {
        "version": VERSION,
        "model": config or {"class": f"{model.__module__}.{model.__qualname__}"},
        "class_names": network.class_names,
        "image_size": network.image_size,
        "channels": network.channels,
        "normalizer": network.normalizer.kind,
        "provenance": network.provenance,
    }


def write_complete(path: Path, network: Network) -> str:
    """A network's description with its normalizer, for files that can only hold the model's arrays.

    Raises UserError for whitening, which is more than some numbers for each channel.
    """
    normalizer = network.normalizer
    if normalizer.kind == "zca":
        raise UserError(
            f"{path} has no place for zca whitening, without which the network is of no use: export it to StableHLO, "
            "or train with the normalizer 'standard'"
        )
    values = {name: np.asarray(getattr(normalizer, name), np.float64).tolist() for name in ("mean", "scales")}
    return json.dumps(write(network) | {"normalizer": {"kind": normalizer.kind, **values}}, sort_keys=True)


def read(path: Path, fields: Mapping[str, Any]) -> Description:
    """Read what `write` wrote, with a Normalizer or its numbers as "normalizer".

    Raises UserError if a part is missing or malformed.
    """
    try:
        version = fields["version"]
        if version not in (1, VERSION):
            raise UserError(f"{path} has format version {str(version)[:20]}, not {VERSION}: use the cnnjax of it")
        names = tuple(map(str, fields["class_names"]))
        normalizer = _normalizer(fields[_field("normalizer", version)])
        provenance = _with_rendering(dict(fields[_field("provenance", version)]))
        if version == 1:
            size = int(fields["side"])
            model, image_size, channels = _old_model(fields, len(names), size), (size, size), 3
        else:
            height, width = map(int, fields["image_size"])
            model = {name: tuple(v) if isinstance(v, list) else v for name, v in fields["model"].items()}
            image_size, channels = (height, width), int(fields["channels"])
        if not all(0 < length <= LONGEST for length in (*image_size, channels)):
            raise ValueError(f"images of {image_size[0]:.6g}×{image_size[1]:.6g}×{channels:.6g}")
        config = None if "class" in model else model
        return Description(config, str(model.get("class", "")), names, image_size, channels, normalizer, provenance)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} lacks part of its description ({error}): train or fetch it again") from error


def field(name: str, fields: Mapping[str, Any]) -> str:
    """The name that a field of version 2 has in this description."""
    return _field(name, fields.get("version"))


def _field(name: str, version: Any) -> str:
    return OLD_FIELDS[name] if version == 1 else name


def _normalizer(value: Any) -> Normalizer:
    if not isinstance(value, Normalizer):
        value = per_channel(str(value["kind"]), value["mean"], value["scales"])
    if not is_valid(value):
        raise ValueError(f"the numbers of its normalizer {value.kind!r}")
    return value


def _old_model(fields: Mapping[str, Any], classes: int, size: int) -> dict[str, Any]:
    """The configuration of a model that the first edition described."""
    old = fields["model"]
    architecture = ARCHITECTURES[old["name"]]
    outputs = int(fields.get("outputs", 1 if classes == 2 else classes))
    optional = {
        "dropout": float(old["dropout"]),
        "dense_units": int(old["dense"]) or None,
        "include_top": classes > 0,
    }
    return {
        "name": architecture.name,
        # A model without its dense layers has no logits, but its constructor wants a number.
        "num_classes": outputs or 1,
        "image_size": (size, size),
        "channels": 3,
        "width_multiplier": float(old["width"]),
        **{name: value for name, value in optional.items() if name in architecture.arguments},
    }


def _with_rendering(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance that names the renderer's version, which was 3 before files recorded it."""
    config = provenance.get("config")
    images = config.get("data") if isinstance(config, dict) else None
    if not isinstance(images, dict) or images.get("source") != "procedural" or "rendering" in images:
        return provenance
    return provenance | {"config": {**config, "data": {**images, "rendering": 3}}}
