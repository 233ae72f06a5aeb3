"""What a network says to pictures in files: the likeliest classes of each, with their probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cnnjax import runtime
from cnnjax.data import imagenet
from cnnjax.data.decode import decode
from cnnjax.data.folder import ENDINGS
from cnnjax.errors import UserError
from cnnjax.formats import Network


class Answer(NamedTuple):
    """One picture's likeliest classes, the likeliest first. picture: as the network saw it."""

    file: Path
    picture: UInt8[np.ndarray, "side side 3"]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Broken(NamedTuple):
    """A file that cannot be read as a picture, and why."""

    file: Path
    reason: str


def find_pictures(places: Sequence[Path]) -> list[Path]:
    """The files in `places`; in the stead of a folder all pictures below it, by their endings, sorted.

    Raises UserError for a place that is not there, or a folder without pictures.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            found = sorted(f for f in place.rglob("*") if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
            if not found:
                raise UserError(f"the folder {place} holds no pictures ({', '.join(ENDINGS)}): give another")
            files += found
        elif place.exists():
            files.append(place)
        else:
            raise UserError(f"there is no picture {place}: give the path of a JPEG, PNG or WebP file, or of a folder")
    return list(dict.fromkeys(files))


def probabilities(logits: Float[Array, "batch outputs"]) -> Float[Array, "batch classes"]:
    """Softmax; of one sigmoid logit, which speaks for class 1, the probabilities of both classes."""
    if logits.shape[1] == 1:
        return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=1))
    return jax.nn.softmax(logits)


def classify(network: Network, files: Sequence[Path], top: int = 5, batch: int = 16) -> Iterator[Answer | Broken]:
    """The `top` likeliest classes of each file, in the files' order, as soon as they are known.

    One compiled program for all, the last batch filled up; threads decode the next batch while the device works on one.
    Pictures are framed as the network's were (`imagenet.crop`). Raises UserError for a network without classes.
    """
    if not network.class_names:
        raise UserError("these weights have no classes, only convolutions: give weights with their dense layers")
    if min(top, batch) < 1:
        raise UserError(f"--top {top} and --batch {batch} must be at least 1")
    top, size = min(top, len(network.class_names)), min(batch, max(len(files), 1))

    # Cleaning is an argument, too: whitening's arrays are too large to be constants of a program.
    @jax.jit
    def run(params, cleaning, pictures):
        logits = network._replace(cleaning=cleaning).forward(params, pictures.astype(jnp.float32) / 255)[0]
        return jax.lax.top_k(probabilities(logits), top)

    read = partial(_read, side=network.side, crop=imagenet.crop(network.class_names))
    before: Iterable[Answer | Broken] = ()
    with ThreadPoolExecutor(runtime.cores()) as threads:
        for start in range(0, len(files), size):
            group = files[start : start + size]
            pictures = list(threads.map(read, group))
            shown = np.zeros((size, network.side, network.side, 3), np.uint8)
            for slot, picture in enumerate(pictures):
                if not isinstance(picture, Broken):
                    shown[slot] = picture
            found = run(network.params, network.cleaning, shown)
            yield from before
            before = _answers(network.class_names, group, pictures, found)
    yield from before


def _read(file: Path, side: int, crop: float) -> np.ndarray | Broken:
    try:
        return decode(file, side, crop)
    except Exception as error:  # Pillow's decoders raise many kinds
        return Broken(file, str(error) or type(error).__name__)


def _answers(
    names: tuple[str, ...], group: Sequence[Path], pictures: list[np.ndarray | Broken], found: Sequence[Array]
) -> Iterator[Answer | Broken]:
    """Waits for the device, not before the first is asked for."""
    chances, classes = map(np.asarray, found)
    for index, (file, picture) in enumerate(zip(group, pictures, strict=True)):
        if isinstance(picture, Broken):
            yield picture
        else:
            yield Answer(file, picture, tuple(names[c] for c in classes[index]), tuple(map(float, chances[index])))
