"""The most probable classes of images in files, according to a network."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from cnnjax import runtime
from cnnjax.data import imagenet
from cnnjax.data.decode import decode, to_grey
from cnnjax.data.folder_names import label_in
from cnnjax.data.image_files import ENDINGS, images_below
from cnnjax.errors import UserError, missing
from cnnjax.network import Network
from cnnjax.train import by_class


class Prediction(NamedTuple):
    """One image's most probable classes, in descending order. image: as the network sees it, before normalization."""

    file: Path
    image: UInt8[np.ndarray, "height width channels"]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class UnreadableImage(NamedTuple):
    """A file that cannot be read as an image, and why."""

    file: Path
    reason: str


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the image files in and below the given folders, sorted within each folder. No file twice.

    Raises UserError for a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [path / file.name for file in images_below(path, path)]
            if not found:
                raise UserError(f"the folder {path} contains no images ({', '.join(ENDINGS[:6])}, …): give another one")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise missing("there is no image", path, "give the path of a JPEG, PNG or WebP file, or of a folder")
    return list(dict.fromkeys(files))


def label_of(file: Path, names: Sequence[str]) -> str | None:
    """The class that a file's path names: that of the nearest folder, or of the file's own name (cat.12.jpg); or None.

    Capital letters make no difference.
    """
    known = {name.lower(): name for name in names}
    for folder in file.absolute().parents:
        if folder.name.lower() in known:
            return known[folder.name.lower()]
    return known.get((label_in(file.stem) or "").lower())


def score(answers: Mapping[Path, str], names: Sequence[str]) -> str | None:
    """How many of the answers are the classes that the files' paths name, in a sentence; None unless two classes occur.

    answers: the most probable class of each file.
    """
    labels = {file: label for file in answers if (label := label_of(file, names)) is not None}
    counts = Counter(labels.values())
    if len(counts) < 2:
        return None
    right = Counter(label for file, label in labels.items() if answers[file] == label)
    shares = {name: right[name] / count for name, count in counts.items()}
    total = f"{right.total() / counts.total():.1%} of the {counts.total():,} images whose paths name a class are right"
    balanced = sum(shares.values()) / len(shares)
    return f"{total}; {by_class.describe(shares | {'balanced_accuracy': balanced}, counts)}"


def classify(
    network: Network, files: Sequence[Path], top: int = 5, batch_size: int = 16
) -> Iterator[Prediction | UnreadableImage]:
    """The `top` most probable classes of each file, in the files' order, as soon as they are known.

    One compiled program serves all batches, the last one being padded; threads decode the next batch while the device
    works on one. Images are framed as the network's training images were (`imagenet.crop`); for a network of one
    channel they become grey.

    Raises UserError for a network without classes, or one whose images are neither RGB nor grey.
    """
    if not network.class_names:
        raise UserError("these weights have no classes, only convolutions: give weights with their dense layers")
    if network.channels not in (1, 3):
        raise UserError(f"the network's images have {network.channels} channels: files are read as RGB or grey only")
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    top, size = min(top, len(network.class_names)), min(batch_size, max(len(files), 1))
    crop = imagenet.crop(network.class_names)
    read = partial(_read, image_size=network.image_size, channels=network.channels, crop=crop)
    before: Iterable[Prediction | UnreadableImage] = ()
    with ThreadPoolExecutor(runtime.cores()) as threads:
        for start in range(0, len(files), size):
            group = files[start : start + size]
            images = list(threads.map(read, group))
            batch = np.zeros((size, *network.image_shape), np.uint8)
            for slot, image in enumerate(images):
                if not isinstance(image, UnreadableImage):
                    batch[slot] = image
            found = _top_classes(network, batch, top)
            yield from before
            before = _predictions(network.class_names, group, images, found)
    yield from before


@partial(jax.jit, static_argnames=("top",))
def _top_classes(
    network: Network, images: UInt8[Array, "batch height width channels"], top: int
) -> tuple[Float[Array, "batch {top}"], Int32[Array, "batch {top}"]]:
    """The largest probabilities, in descending order, and their classes."""
    values, indices = jax.lax.top_k(network.probabilities(images.astype(jnp.float32) / 255), top)
    return values, indices


def _read(file: Path, image_size: tuple[int, int], channels: int, crop: float) -> np.ndarray | UnreadableImage:
    try:
        image = decode(file, image_size, crop)
    except Exception as error:  # Pillow's decoders raise many kinds
        return UnreadableImage(file, str(error) or type(error).__name__)
    return to_grey(image) if channels == 1 else image


def _predictions(
    names: tuple[str, ...],
    group: Sequence[Path],
    images: list[np.ndarray | UnreadableImage],
    found: tuple[Array, Array],
) -> Iterator[Prediction | UnreadableImage]:
    """Waits for the device, not before the first is asked for."""
    probabilities, classes = map(np.asarray, found)
    for index, (file, image) in enumerate(zip(group, images, strict=True)):
        if isinstance(image, UnreadableImage):
            yield image
        else:
            chosen = tuple(names[number] for number in classes[index])
            yield Prediction(file, image, chosen, tuple(map(float, probabilities[index])))
