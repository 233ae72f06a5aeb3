"""`from_hub` without the network: through `datasets` itself if it is installed, else through a stand-in for it."""

import importlib.util
import io
import sys
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import from_hub, load, prefetch, sampling
from cnnjax.errors import UserError


class StandIn:
    """The few features of `datasets` that are used, as they behave in version 5."""

    class Image:
        def __init__(self, decode=True):
            self.decode = decode

    class ClassLabel:
        def __init__(self, names):
            self.names, self.dtype = names, "int64"

    class Value:
        def __init__(self, dtype):
            self.dtype = dtype

    class Dataset:
        def __init__(self, columns, features):
            self.columns, self.features = columns, features

        @classmethod
        def from_dict(cls, columns, features):
            return cls(columns, features)

        def __len__(self):
            return len(next(iter(self.columns.values())))

        def __getitem__(self, key):
            if isinstance(key, int):
                for name, feature in self.features.items():
                    assert not (isinstance(feature, StandIn.Image) and feature.decode), f"{name} is decoded"
            return {name: values[key] for name, values in self.columns.items()}

        def select_columns(self, names):
            return type(self)(*({name: part[name] for name in names} for part in (self.columns, self.features)))

        def cast_column(self, name, feature):
            return type(self)(self.columns, self.features | {name: feature})

    @staticmethod
    def Features(features):
        return features

    DatasetDict = dict


@pytest.fixture(params=["stand-in", "datasets"])
def datasets(request, monkeypatch, tmp_path):
    """The module, whose `load_dataset` gives what a test puts into `sets`."""
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    if request.param == "datasets":
        if importlib.util.find_spec("datasets") is None:
            pytest.skip("datasets is not installed (the extra hub)")
        import datasets as module
    else:
        module = ModuleType("datasets")
        vars(module).update({name: getattr(StandIn, name) for name in vars(StandIn) if not name.startswith("_")})
        monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    return module


def load_dataset(name, config=None, *, revision=None):
    if name == "offline":
        raise ConnectionError("Couldn't reach 'offline' on the Hub\n(LocalEntryNotFoundError)")
    return SETS[name, config, revision]()


SETS = {}


def png(kind, number):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (100 * kind, number, 7)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(datasets, start, count, label=None, hidden=False):
    """`count` images of ants and bees; green is the number from `start` on."""
    label = label or datasets.ClassLabel(names=["ant", "bee"])
    kinds = [number % 2 for number in range(start, start + count)]
    values = [["ant", "bee"][kind] if getattr(label, "dtype", "") == "string" else kind for kind in kinds]
    columns = {
        "mask": [png(1, 255)] * count,
        "image": [png(kind, number) for kind, number in zip(kinds, range(start, start + count), strict=True)],
        "label": [-1 if hidden else value for value in values],
    }
    features = {"mask": datasets.Image(), "image": datasets.Image(), "label": label}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def greens(split):
    return sorted(int(image[0, 0, 1]) for image in split.images)


def check(split):
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.images[:, 0, 0, 0], 100 * split.labels)


def test_own_splits_are_used_and_images_without_labels_are_not(datasets):
    SETS["toy", None, None] = lambda: datasets.DatasetDict(
        {
            "train": table(datasets, 0, 12),
            "validation": table(datasets, 100, 4),
            "test": table(datasets, 200, 4, hidden=True),
        }
    )
    dataset = from_hub("toy", image_size=(8, 6), per_class=3, valid=2, test=2)
    assert dataset.class_names == ("ant", "bee") and dataset.provenance["source"] == "hub:toy"
    assert dataset.train.images.shape == (6, 8, 6, 3) and "hub:toy" in repr(dataset)
    assert greens(dataset.valid) == [100, 101, 102, 103]
    # The test images have no labels: the test split is drawn from the training images.
    drawn = greens(dataset.train) + greens(dataset.test)
    assert len(set(drawn)) == 10 and max(drawn) < 12
    for split in (dataset.train, dataset.valid, dataset.test):
        check(split)
    again = load("hub:toy", image_size=(8, 6), per_class=3, valid=2, test=2)
    np.testing.assert_array_equal(again.train.images, dataset.train.images)
    assert greens(from_hub("toy", image_size=8, per_class=3, valid=2, test=2, seed=1).test) != greens(dataset.test)
    assert from_hub("toy", image_size=8, classes=("bee", "ant")).class_names == ("bee", "ant")


@pytest.mark.parametrize(("dtype", "names"), [("string", ("ant", "bee")), ("int64", ("0", "1"))])
def test_labels_that_are_text_or_numbers_and_a_config_with_one_split(datasets, dtype, names):
    SETS["plain", "all", "v1"] = lambda: datasets.DatasetDict(
        {"everything": table(datasets, 0, 20, datasets.Value(dtype))}
    )
    dataset = from_hub("plain", config="all", revision="v1", image_size=8)
    assert dataset.class_names == names
    assert [len(split) for split in (dataset.train, dataset.valid, dataset.test)] == [12, 4, 4]
    assert (dataset.provenance["config"], dataset.provenance["revision"]) == ("all", "v1")
    check(dataset.train)


def test_streamed_as_resident(datasets):
    SETS["toy", None, None] = lambda: datasets.DatasetDict({"train": table(datasets, 0, 20)})
    streamed, resident = (from_hub("toy", image_size=8, loading=loading) for loading in ("stream", "resident"))
    order = prefetch.Order(sampling.key_data(jax.random.key(0)), 12, 4)
    with prefetch.prefetch_batches(streamed.train, order, 0, 3, lambda chunk: chunk) as chunks:
        chunk = next(chunks)
    rows = np.stack([order[step] for step in range(3)])
    np.testing.assert_array_equal(chunk.images, resident.train.images[rows])
    np.testing.assert_array_equal(chunk.labels, resident.train.labels[rows])


def test_one_clear_sentence(datasets):
    words = {"word": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    SETS["words", None, None] = lambda: {"train": SimpleNamespace(features=words)}
    SETS["pieces", None, None] = lambda: {"one": None, "two": None}

    def broken():
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']")

    SETS["broken", None, None] = broken
    for name, sentence in {
        "offline": r"^hub:offline cannot be downloaded \(ConnectionError: Couldn't reach .*check the name and the net",
        "broken": r"^hub:broken cannot be loaded: ValueError: Config name is missing\. Please pick one .*$",
        "words": "^hub:words is not an image classification set: its columns are word, label; choose",
        "pieces": "^hub:pieces has no split 'train', only one, two",
    }.items():
        with pytest.raises(UserError, match=sentence) as caught:
            from_hub(name, image_size=8)
        assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^hub:mnist needs the package datasets: pip install 'cnnjax\[hub\]'$"):
        from_hub("mnist")
