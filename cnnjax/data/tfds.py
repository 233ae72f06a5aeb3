"""Any image classification set of tensorflow-datasets, such as cats_vs_dogs.

The set is looked for, or downloaded and prepared, in the folder of tensorflow-datasets: $TFDS_DATA_DIR, or
~/tensorflow_datasets. TensorFlow is used only in the preparation of some sets; prepared ones are read without it.
"""

import contextlib
import functools
import importlib.util
import os
import queue
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from cnnjax.data.dataset import Dataset
from cnnjax.data.load_images import Loading, Source, assemble, brief
from cnnjax.data.splits import SPLIT_NAMES, ClassSample, Selection, choose, group_by_class, row_of, split_dataset
from cnnjax.errors import UserError, unknown
from cnnjax.image_size import to_size


def from_tfds(
    name: str,
    *,
    image_size: int | tuple[int, int] = 150,
    classes: Sequence[str] = (),
    per_class: int | None = None,
    valid: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
    split_by: Literal["seed", "name"] = "seed",
    adapt: bool = False,
    loading: Loading = "auto",
    cache: bool = True,
) -> Dataset:
    """The images of a tensorflow-datasets set, as RGB of one size, downloaded and prepared if necessary.

    The set's own validation and test splits are used if it has them; one that it lacks is drawn from its training
    images, disjointly, by `seed`. Images without a label are left out.

    Args:
        name: the set's name in tensorflow-datasets, with its configuration and version if wanted: "NAME/CONFIG:1.0.0".
        image_size, classes, per_class, valid, test, seed, split_by, adapt, loading, cache: as
            in `from_folder`.

    Raises UserError for an unknown set, one that is not for image classification, and one that cannot be prepared.
    """
    selection, size = Selection(per_class, valid, test, seed, adapt, split_by), to_size(image_size)
    place = f"tfds:{name}"
    builder = _prepared(name)
    image, label = _features(builder.info, place)
    splits = _splits(builder.info, place)
    known = builder.info.features[label].names
    names = choose(known, tuple(classes), place)

    # Records are read only for what is not in the cache.
    records = _Records(builder, image, place)

    @functools.cache
    def samples() -> Mapping[str, Mapping[str, ClassSample]]:
        pools = {}
        for split in splits:
            bar = tqdm(records.of(splits[split]), f"labels of {place}, {split}", unit=" images", delay=1.0)
            numbers = (int(record[label]) for record in bar)
            found = group_by_class((known[i] if i >= 0 else None for i in numbers), splits[split], names)
            if split == "train" or any(found.values()):  # competitions publish test images without labels
                pools[split] = found
        return split_dataset(pools, selection, place)

    sizes = {split: [builder.info.splits[own].num_examples, *_stamp(builder, own)] for split, own in splits.items()}
    source = Source(
        place=place,
        key={"source": "tfds", "name": builder.info.full_name, "folder": str(builder.data_path), "splits": sizes},
        class_names=names,
        count=sum(builder.info.splits[own].num_examples for own in splits.values()),
        samples=samples,
        read=records.read,
        provenance={"source": place},
    )
    return assemble(source, selection, image_size=size, loading=loading, cache=cache)


def _prepared(name: str) -> Any:
    """The builder of a set, prepared."""
    import tensorflow_datasets as tfds

    place = f"tfds:{name}"
    try:
        builder = tfds.builder(name)
        if builder.is_prepared():
            return builder
        if importlib.util.find_spec("array_record"):  # not available on every platform; TFRecord files work as well
            builder = tfds.builder(name, file_format="array_record")
        # Noticed before hundreds of megabytes are downloaded: the module that prepares the set uses TensorFlow.
        if hasattr(sys.modules[type(builder).__module__], "tf") and importlib.util.find_spec("tensorflow") is None:
            raise ModuleNotFoundError("tensorflow")
        check_reachable(getattr(builder, "url_infos", ()), place)
        builder.download_and_prepare()
    except UserError:
        raise
    except tfds.core.registered.DatasetNotFoundError:
        raise unknown("tensorflow-datasets set", name, tfds.list_builders(with_community_datasets=False)) from None
    except ImportError as error:
        if "tensorflow" in str(error).lower():
            raise UserError(f"{place} needs TensorFlow to prepare it: pip install 'cnnjax[tfds]'") from error
        raise UserError(f"{place} needs a package to prepare it that is not installed: {brief(error)}") from error
    except (ConnectionError, tfds.download.DownloadError, _requests_error()) as error:
        raise UserError(
            f"{place} cannot be downloaded ({type(error).__name__}): check the network, or copy the set, prepared "
            f"elsewhere, into {_data_dir()}"
        ) from error
    except Exception as error:  # every builder fails in its own way
        raise UserError(f"{place} cannot be prepared in {_data_dir()}: {brief(error)}") from error
    return builder


def check_reachable(urls: Iterable[str], place: str, seconds: float = 5.0) -> None:
    """Raises UserError where none of the hosts of these addresses answers: tensorflow-datasets would try for minutes.

    With a proxy nothing is checked.
    """
    parts = map(urllib.parse.urlsplit, urls)
    hosts = {url.hostname: url.port or (80 if url.scheme == "http" else 443) for url in parts if url.hostname}
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("https_proxy", "http_proxy", "all_proxy")):
        return
    answers: queue.Queue[bool] = queue.Queue()

    def ask(host: tuple[str, int]) -> None:
        try:
            socket.create_connection(host, timeout=seconds).close()
            answers.put(True)
        except OSError:
            answers.put(False)

    if not hosts:
        return
    for host in hosts.items():  # names may be looked up for longer than the time limit
        threading.Thread(target=ask, args=(host,), daemon=True).start()
    end = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        for _ in hosts:
            if answers.get(timeout=max(0.01, end - time.monotonic())):
                return
    raise UserError(
        f"{place} is not prepared in {_data_dir()}, and {', '.join(sorted(hosts)[:3])} cannot be reached to download "
        "it: check the network, or copy the set, prepared elsewhere, into that folder"
    )


def _requests_error() -> type[Exception]:
    import requests

    return requests.exceptions.RequestException


def _data_dir() -> str:
    return os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")


def _features(info: Any, place: str) -> tuple[str, str]:
    """The names of the image and of the class in a record."""
    import tensorflow_datasets as tfds

    features = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    # A record may have several images (or labels): then the choice of the set's authors counts.
    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    images.sort(key=lambda name: name not in (*supervised, "image"))
    labels.sort(key=lambda name: name not in (*supervised, "label"))
    if not images or not labels or np.dtype(features[images[0]].np_dtype).name not in ("uint8", "uint16"):
        raise UserError(
            f"{place} is not an image classification set: its records hold {', '.join(features) or 'no features'}; "
            "choose a set with an image and a class label, such as cats_vs_dogs"
        )
    return images[0], labels[0]


def _splits(info: Any, place: str) -> dict[str, str]:
    """Our names of the splits to the set's own."""
    splits = {SPLIT_NAMES[own]: own for own in info.splits if own in SPLIT_NAMES}
    if "train" not in splits and len(info.splits) == 1:
        splits = {"train": next(iter(info.splits))}
    if "train" not in splits:
        raise UserError(f"{place} has no split 'train', only {', '.join(info.splits)}: choose another set")
    return splits


class _Records:
    """The records of a prepared set's splits, by index, with the images still encoded; opened when needed.

    Another process receives the builder, and opens the files itself.
    """

    def __init__(self, builder: Any, image: str, place: str) -> None:
        self._builder, self._image, self._place = builder, image, place
        self._open: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return _Records, (self._builder, self._image, self._place)

    def read(self, candidate: str) -> bytes:
        """The encoded image of a candidate, SPLIT[INDEX]."""
        split, row = row_of(candidate)
        return bytes(self.of(split)[row][self._image])

    def of(self, split: str) -> Sequence[Mapping[str, Any]]:
        with self._lock:
            if split not in self._open:
                self._open[split] = self._opened(split)
            return self._open[split]

    def _opened(self, split: str) -> Sequence[Mapping[str, Any]]:
        import tensorflow_datasets as tfds

        info = self._builder.info
        undecoded = dict.fromkeys(info.features, tfds.decode.SkipDecoding())
        if info.file_format in tfds.core.file_adapters.FileFormat.with_random_access():
            return self._builder.as_data_source(split, decoders=undecoded)
        if info.file_format == tfds.core.FileFormat.TFRECORD:
            return _TFRecords(info.splits[split], info.features, undecoded, self._place)
        raise UserError(
            f"{self._place} is prepared as {info.file_format.value} in {self._builder.data_path}, which cannot be read "
            "here: set TFDS_DATA_DIR to another folder to prepare it again"
        )


def _stamp(builder: Any, split: str) -> list[int]:
    statuses = [os.stat(path) for path in builder.info.splits[split].filepaths]
    return [sum(status.st_size for status in statuses), max((status.st_mtime_ns for status in statuses), default=0)]


class _TFRecords(Sequence):
    """The records of TFRecord files by index, without TensorFlow.

    A record is its length (8 bytes, little endian), a checksum of that (4), the content, a checksum of the content (4).
    """

    def __init__(self, split: Any, features: Any, decoders: Mapping[str, Any], place: str) -> None:
        self._features, self._decoders = features, decoders
        self._places: list[tuple[Path, int, int]] = []
        for path in map(Path, split.filepaths):
            size, position = path.stat().st_size, 0
            with path.open("rb") as file:
                while position + 16 <= size:
                    file.seek(position)
                    (length,) = struct.unpack("<Q", file.read(8))
                    self._places.append((path, position + 12, length))
                    position += length + 16
            if position != size:
                raise UserError(f"{place}: the file {path} is damaged: delete the set's folder to prepare it again")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        path, position, length = self._places[index]
        with path.open("rb") as file:
            file.seek(position)
            content = file.read(length)
        return self._features.deserialize_example_np(content, decoders=self._decoders)
