"""The weights that a command is given, and flags for what files of other libraries do not tell."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cnnjax import distributed, formats
from cnnjax.cli.command_line import describe_fields
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.printable import printable

PREPROCESSING = {
    "unit": normalize.identity,
    "raw": normalize.raw,
    "symmetric": lambda: normalize.per_channel("standard", (0.5,) * 3, (2.0,) * 3),
    "imagenet": normalize.imagenet,
    "caffe": normalize.caffe,
}
MOST = 1 << 20
"""Bytes of a file of class names."""


@dataclass(frozen=True)
class Reading:
    """What a weights file may not tell."""

    weights_image_size: int | tuple[int, int] | None = None
    """Size in pixels of the images that the weights were trained on, one number or height and width. By default the
    file's, or the smallest that its dense layers allow."""
    weights_preprocessing: Literal["unit", "raw", "symmetric", "imagenet", "caffe"] | None = None
    """What the weights were trained on: RGB in 0 to 1 (unit), in 0 to 255 (raw) or in -1 to 1 (symmetric), RGB minus
    ImageNet's means and divided by its deviations, as torchvision has it (imagenet), or BGR in 0 to 255 minus its
    means, as Keras has it for VGG (caffe). By default the file's, or what is usual for its format."""
    weights_classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the network's outputs, or a text file with one on each line. By default the
    file's, or those of ImageNet for a thousand outputs."""


describe_fields(Reading)
Flags = Annotated[Reading, tyro.conf.arg(name="")]


def load(weights: str, reading: Reading, include_top: bool | None = True) -> Network:
    """The network that `weights` names, as `formats.resolve` reads it. Says what was assumed and what was left out.

    Raises UserError as `formats.resolve` does.
    """
    options: dict[str, Any] = {}
    if reading.weights_image_size is not None:
        options["image_size"] = reading.weights_image_size
    if reading.weights_preprocessing is not None:
        options["normalizer"] = PREPROCESSING[reading.weights_preprocessing]()
    if reading.weights_classes:
        options["class_names"] = class_names(reading.weights_classes)
    try:
        network = formats.resolve(weights, include_top, **options)
    except UserError as error:
        # Messages name arguments, of which a command may have others of the same name.
        text, _, _ = str(error).partition(" of class_names: ")
        if text == str(error):
            raise
        raise UserError(
            f"{text} of --weights-classes: name as many, or train on with other classes, --train.init-from"
        ) from error
    for sentence in describe(weights, network):
        distributed.print_once(printable(sentence))
    return network


def class_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """The names, or the lines of the one file that is given.

    Raises UserError for a file that cannot be read or holds no names.
    """
    path = Path(os.path.expanduser(given[0]))  # pathlib raises for unknown users
    if len(given) > 1 or not path.is_file():
        return given
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"--weights-classes {path} has {path.stat().st_size:,} bytes: give a file of class names")
        lines = path.read_text("utf-8-sig").splitlines()  # Windows begins with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the class names in {path} ({error}): give a text file in UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"--weights-classes {path} is empty: write the name of one class on each line")
    return names


def describe(weights: str, network: Network) -> list[str]:
    """What was assumed of a file and what of it was not used, a sentence each."""
    notes, sentences = network.provenance, []
    if assumed := notes.get("assumed"):
        flags = {
            "image size": "--weights-image-size",
            "preprocessing": "--weights-preprocessing",
            "class names": "--weights-classes",
        }
        values = "; ".join(f"{name} {value} ({flags[name]})" for name, value in assumed.items())
        sentences.append(f"{weights} does not say all; assumed: {values}")
    used = [f"read its {notes['in']}"] if "in" in notes else []
    for name in ("left out", "not read", "other state dicts"):
        if found := notes.get(name):
            used.append(f"{'not read' if name == 'other state dicts' else name}: {', '.join(map(str, found))}")
    if "float64" in notes.get("stored as", ()):
        used.append("its numbers are float64 and were rounded to float32")
    if used and notes.get("file"):
        sentences.append(f"{weights}: {'; '.join(used)}")
    return sentences
