"""Trained networks in files, of this package and of others, both ways. Nothing is ever unpickled or executed."""

import os
from pathlib import Path
from typing import Any

from cnnjax.errors import missing, unknown
from cnnjax.formats import bundled, published
from cnnjax.formats.bundled import load_bundled, load_with_head
from cnnjax.formats.int8_writer import save_int8
from cnnjax.formats.keras_writer import save_keras
from cnnjax.formats.native import save
from cnnjax.formats.reader import load
from cnnjax.formats.stablehlo import save_stablehlo
from cnnjax.formats.torch_writer import save_torchvision
from cnnjax.network import Network

__all__ = [
    "check_exists",
    "load",
    "load_bundled",
    "load_with_head",
    "resolve",
    "save",
    "save_int8",
    "save_keras",
    "save_stablehlo",
    "save_torchvision",
]


def resolve(weights: str, include_top: bool | None = True, **options: Any) -> Network:
    """The network that a string names: one in `bundled.NAMES` comes with the package, one in `published.FILES` is
    downloaded and cached, anything else is a path; "" is "vgg16-mini".

    Without `include_top` it has no dense layers; None takes them if they are there. "imagenet-notop" never has any.
    options: those of `load`.
    Raises UserError if there is none, or its file cannot be downloaded or read.
    """
    weights = weights or "vgg16-mini"
    if weights in bundled.NAMES:
        return load_bundled(weights, include_top=include_top, **options)
    if weights in published.FILES:
        has_top = not weights.endswith("-notop") or "new_head" in options
        found = load(published.fetch(weights), include_top=include_top if has_top else False, **options)
        known = {name: value for name, value in found.provenance.items() if name != "assumed"}
        return found.replace(provenance=known)
    check_exists(weights)
    return load(weights, include_top=include_top, **options)


def check_exists(weights: str) -> None:
    """Raises UserError if a string names no weights: neither a known name nor a path."""
    known = [*bundled.NAMES, *published.FILES]
    if weights in known or os.path.exists(weights):  # before Python 3.12, Path.exists raises for some names
        return
    if Path(weights).name == Path(weights).stem == weights:
        raise unknown("weights", weights, known)
    raise missing("there is no weights file", weights, "train one, or give the path of another")
