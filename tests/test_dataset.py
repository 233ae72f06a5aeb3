"""Splits of every kind: resident, streamed, and a user's own; and data sets made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import runtime
from cnnjax.data import (
    ArraySplit,
    Dataset,
    LazySplit,
    Split,
    as_dataset,
    as_split,
    fit_normalizer,
    image_shape,
    load,
    prefetch,
    sampling,
)
from cnnjax.errors import UserError

KEY = jax.random.key(3)
SHAPE = (5, 7, 2)  # no square, and not three channels


class Foreign:
    """A user's own split: no class of this package's, and it counts how often it is read."""

    def __init__(self, size=22, floating=False, soft=False, change=None):
        self.size, self.floating, self.soft, self.change, self.reads = size, floating, soft, change or {}, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        self.reads.append(index)
        random = np.random.default_rng(index)
        image = random.random(SHAPE) if self.floating else random.integers(0, 256, SHAPE, np.uint8)
        label = np.eye(3)[index % 3] if self.soft else index % 3
        return {"image": image, "label": label} | self.change.get(index, {})


@pytest.fixture(params=["uint8", "float"])
def floating(request):
    return request.param == "float"


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda: 100)


def test_a_split_of_ones_own_becomes_resident(floating):
    foreign = Foreign(floating=floating)
    assert isinstance(foreign, Split) and image_shape(foreign) == SHAPE
    split = as_split(foreign)
    assert isinstance(split, ArraySplit) and not prefetch.is_streamed(split) and as_split(split) is split
    assert split.images.dtype == (np.float32 if floating else np.uint8) and image_shape(split) == SHAPE
    for index in (0, 21):
        np.testing.assert_array_equal(split.images[index], np.asarray(foreign[index]["image"], split.images.dtype))
    np.testing.assert_array_equal(split.labels, np.arange(22) % 3)
    assert split.labels.dtype == np.int32


@pytest.mark.parametrize("free", [4 * 22 * 70, 4 * 22 * 70 - 1])
def test_what_would_take_more_than_a_quarter_of_the_free_memory_is_streamed(monkeypatch, free):
    monkeypatch.setattr(runtime, "free_memory", lambda: free)
    assert prefetch.is_streamed(as_split(Foreign())) == (free < 4 * 22 * 70)


@pytest.mark.parametrize("soft", [False, True])
def test_a_streamed_split_of_ones_own_gives_the_resident_batches(little_memory, monkeypatch, floating, soft):
    foreign = Foreign(floating=floating, soft=soft)
    streamed = as_split(foreign)
    assert isinstance(streamed, LazySplit) and prefetch.is_streamed(streamed) and image_shape(streamed) == SHAPE
    assert sorted(foreign.reads) == list(range(22))  # once each
    monkeypatch.setattr(runtime, "free_memory", lambda: 2**30)
    resident = as_split(foreign)
    for first, host in ((0, (0, 1)), (7, (1, 2))):
        order = prefetch.Order(sampling.key_data(KEY), 22, 4, first, host)
        with prefetch.prefetch_batches(streamed, order, 0, 3, lambda chunk: chunk) as chunks:
            chunk = next(chunks)
        rows = np.stack([order[step] for step in range(3)])
        np.testing.assert_array_equal(chunk.images, resident.images[rows])
        np.testing.assert_array_equal(chunk.labels, resident.labels[rows])
        assert chunk.images.dtype == resident.images.dtype and chunk.labels.dtype == resident.labels.dtype


def test_worker_processes_read_a_split_of_ones_own_too(little_memory):
    streamed = as_split(Foreign())
    order = prefetch.Order(sampling.key_data(KEY), 22, 4)
    with prefetch.prefetch_batches(streamed, order, 1, 2, lambda chunk: chunk) as chunks:
        chunk = next(chunks)
    np.testing.assert_array_equal(chunk.images[1], streamed.images[order[1]])


def test_the_normalizer_is_that_of_the_resident_split(monkeypatch, floating):
    resident = as_split(Foreign(floating=floating))
    monkeypatch.setattr(runtime, "free_memory", lambda: 100)
    streamed = as_split(Foreign(floating=floating))
    for kind in ("mean", "standard", "zca"):
        found = [jax.tree.leaves(fit_normalizer(kind, split)) for split in (streamed, resident)]
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    assert streamed.images.fingerprint() != as_split(Foreign(21, floating=floating)).images.fingerprint()


def test_splits_are_indexed_and_iterated_by_example(little_memory):
    array = ArraySplit(jnp.asarray(np.zeros((3, *SHAPE), np.uint8)), jnp.arange(3, dtype=jnp.int32))
    for split in (array, as_split(Foreign(3))):
        examples = list(split)
        assert len(examples) == len(split) == 3
        assert [int(example["label"]) for example in examples] == [0, 1, 2]
        assert examples[0]["image"].shape == SHAPE and int(split[-1]["label"]) == 2
        assert repr(split) in ("ArraySplit(3 images, 5 × 7 × 2, uint8)", "LazySplit(3 images, 5 × 7 × 2, uint8)")


def test_a_resident_split_is_a_pytree():
    split = as_split(Foreign(4))
    assert isinstance(jax.device_put(split).images, jax.Array)
    shapes = jax.eval_shape(lambda split: split, split)
    assert isinstance(shapes, ArraySplit) and shapes.images.shape == (4, *SHAPE)
    assert jax.tree.structure(split) == jax.tree.structure(shapes)
    (path, _), _ = jax.tree_util.tree_flatten_with_path(split)[0]
    assert jax.tree_util.keystr(path) == ".images"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({3: {"image": np.zeros((5, 6, 2), np.uint8)}}, r"example 3 has an image of shape \(5, 6, 2\) and type uint8"),
        ({3: {"image": np.zeros(SHAPE)}}, "example 3 has an image of .* type float32, where the first has .* uint8"),
        ({0: {"image": np.full(SHAPE, 2.0)}}, r"example 0 of floating point must lie in \[0, 1\]"),
        ({0: {"image": np.zeros(5, np.uint8)}}, "example 0 must have the shape"),
        ({4: {"label": 0.5}}, "example 4 must be integers"),
        ({4: {"label": [0.5, 0.5]}}, "example 4 has a label unlike the first"),
    ],
)
def test_an_example_unlike_the_others_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        as_split(Foreign(change=change))


def test_an_example_that_changed_is_one_sentence(little_memory):
    foreign = Foreign()
    split = as_split(foreign)
    foreign.change = {5: {"image": np.zeros((5, 6, 2), np.uint8)}}
    with pytest.raises(UserError, match="example 5 has an image of shape"):
        split.images[np.array([4, 5])]


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (range(0), "the split is empty"),
        ([(1, 2)], 'example 0 of the split is no mapping with "image" and "label" .tuple.'),
        ([{"image": np.zeros((2, 2, 3), np.uint8)}], 'example 0 of the split is no mapping with "image" and "label"'),
    ],
)
def test_no_split_is_one_sentence(split, sentence):
    with pytest.raises(UserError, match=sentence):
        as_split(split)


def test_arrays_that_cannot_be_used_are_one_sentence():
    images, labels = np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int32)
    for some, others in ((images[0], labels), (images, labels[:3]), (images / 2, labels), (images, labels / 2)):
        split = jax.tree.unflatten(jax.tree.structure(ArraySplit(images, labels)), (some, others))  # without checks
        with pytest.raises(UserError, match="an ArraySplit with images .* build it with data.from_arrays"):
            as_split(split)
    with pytest.raises(UserError, match="the split is empty"):
        as_split(ArraySplit(images[:0], labels[:0]))


class Own:
    """A user's own data set."""

    def __init__(self, **changes):
        parts = {"train": Foreign(12), "valid": Foreign(6), "test": Foreign(5)} | changes
        for name, part in parts.items():
            setattr(self, name, part)


def test_any_object_with_three_splits_is_a_dataset():
    own = Own()
    dataset = as_dataset(own)
    assert isinstance(dataset.train, ArraySplit) and len(dataset.valid) == 6
    assert dataset.class_names == ("0", "1", "2") and dataset.provenance == {"source": "custom"}
    assert not own.test.reads
    assert len(dataset.test) == 5 and dataset.test is dataset.test
    assert as_dataset(Own(class_names=["a", "b", "c"])).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"class_names": ("a", "b")},
            "the training labels contain 2, and there are 2 class names: use labels from 0 to 1",
        ),
        (
            {"train": Foreign(9, soft=True), "class_names": "ab"},
            "training labels are distributions over 3 classes, and",
        ),
        ({"valid": Foreign(3, floating=True)}, "the training images are uint8 and the validation images float32"),
    ],
)
def test_splits_that_do_not_fit_are_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        as_dataset(Own(**changes))


@pytest.mark.parametrize("loaded", [True, False])
def test_the_test_images_have_the_shape_of_the_others(loaded):
    """Those in memory are checked at once, others when they are loaded."""
    test = ArraySplit(np.zeros((6, 4, 4, 2), np.uint8), (np.arange(6) % 3).astype(np.int32))
    sentence = r"training images have shape \(5, 7, 2\) and the test images \(4, 4, 2\): resize"
    if loaded:
        with pytest.raises(UserError, match=sentence):
            as_dataset(Own(test=test))
        return
    dataset = as_dataset(Dataset(Foreign(8), Foreign(6), lambda: test, ("a", "b", "c")))
    with pytest.raises(UserError, match=sentence):
        dataset.test  # noqa: B018


def test_a_missing_split_is_named():
    own = Own()
    del own.valid
    with pytest.raises(UserError, match="has no split 'valid': give an object with train, valid and test"):
        as_dataset(own)


def test_the_test_split_is_loaded_when_it_is_asked_for_and_once():
    calls = []

    def test():
        calls.append(1)
        return Foreign(4)

    dataset = Dataset(Foreign(8), Foreign(6), test, ("a", "b", "c"), provenance={"source": "folder:x"})
    assert repr(dataset) == "Dataset(folder:x: 3 classes (a, b, c), train 8, valid 6, test not loaded yet)"
    changed = dataset.replace(class_names=("c", "b", "a"))
    assert as_dataset(changed).class_names == ("c", "b", "a") and not calls
    assert len(dataset.test) == 4 and dataset.test is dataset.test and calls == [1]
    assert repr(dataset).endswith("test 4)") and changed.provenance == {"source": "folder:x"}


def test_sources_by_a_string():
    with pytest.raises(UserError, match="unknown data source 'foder:x': did you mean folder:"):
        load("foder:x")
    with pytest.raises(UserError, match="the data source 'folder:' is incomplete: write folder:PATH"):
        load("folder:")
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        load("folder:/nowhere", image_size=8)
    with pytest.raises(UserError, match="image_size=0 is no image's size"):
        load("folder:/nowhere", image_size=0)
