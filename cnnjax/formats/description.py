"""What our files tell beside their arrays: plain JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.cli.config import ModelConfig, as_dict, from_dict
from cnnjax.data.normalize import Cleaning, is_whole, of_colours
from cnnjax.errors import UserError
from cnnjax.formats.architecture import SMALL_TOP, TOP, Architecture
from cnnjax.formats.network import Network

VERSION = 1
KEY = "cnnjax"
"""Under which it is found in the metadata of a file."""


class Description(NamedTuple):
    """All of a network but its parameters."""

    architecture: Architecture
    class_names: tuple[str, ...]
    cleaning: Cleaning
    made: dict[str, Any]

    @classmethod
    def of(cls, path: Path, about: dict[str, Any]) -> "Description":
        """Read what `write` wrote, or one whose "cleaning" is a Cleaning. Raises UserError when a part is not there."""
        try:
            if about["version"] != VERSION:
                raise UserError(
                    f"{path} has format version {about['version']}, not {VERSION}: use the cnnjax that wrote it"
                )
            names, cleaning = tuple(map(str, about["class_names"])), about["cleaning"]
            if not isinstance(cleaning, Cleaning):
                cleaning = of_colours(cleaning["kind"], cleaning["mean"], cleaning["scales"])
            if not is_whole(cleaning):
                raise ValueError(f"the numbers of its cleaning {cleaning.kind!r}")
            outputs = int(about.get("outputs", 1 if len(names) == 2 else len(names)))
            model = from_dict(ModelConfig, about["model"])
            return cls(
                Architecture(model, int(about["side"]), outputs, bool(names)), names, cleaning, dict(about["made"])
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} lacks part of its description ({error}): train or fetch it again") from error


def write(network: Network) -> dict[str, Any]:
    """A network's description without its cleaning's arrays."""
    top = SMALL_TOP if network.model.name == "small-cnn" else TOP
    last = network.params.get(top[-1])
    return {
        "version": VERSION,
        "model": as_dict(network.model),
        "side": network.side,
        "class_names": network.class_names,
        **({"outputs": last["bias"].shape[0]} if last else {}),
        "made": network.made,
    }


def text(path: Path, network: Network) -> str:
    """A network's whole description, for files whose arrays are the network's alone.

    Raises UserError for a network whose cleaning is more than numbers for each colour.
    """
    cleaning = network.cleaning
    if cleaning.kind == "zca":
        raise UserError(
            f"{path} has no place for zca whitening, without which the network is of no use: export it to StableHLO, "
            "or train with --data.cleaning standard"
        )
    values = {name: np.asarray(getattr(cleaning, name), np.float64).tolist() for name in ("mean", "scales")}
    return json.dumps(write(network) | {"cleaning": {"kind": cleaning.kind, **values}}, sort_keys=True)
