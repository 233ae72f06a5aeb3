"""`from_arrays`: what counts as images and labels, how they are divided, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnjax.data import ArraySplit, from_arrays, image_shape
from cnnjax.errors import UserError

RANDOM = np.random.default_rng(0)


def numbered(labels, shape=(2, 3, 1), dtype=np.uint8):
    """Images that hold their own number, so that splits can be compared."""
    numbers = np.arange(len(labels)).reshape(-1, *[1] * len(shape))
    return np.broadcast_to(numbers, (len(labels), *shape)).astype(dtype)


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("shape", "dtype", "found", "kept"),
    [
        ((6, 4, 3), np.uint8, (6, 4, 3), np.uint8),
        ((28, 28, 1), np.float32, (28, 28, 1), np.float32),
        ((5, 7), np.uint8, (5, 7, 1), np.uint8),
        ((5, 7), np.float64, (5, 7, 1), np.float32),
        ((4, 4, 7), np.float16, (4, 4, 7), np.float32),
        ((4, 4, 2), jnp.bfloat16, (4, 4, 2), np.float32),
    ],
)
def test_kinds_of_images(shape, dtype, found, kept):
    images = RANDOM.integers(0, 2, (20, *shape)).astype(dtype)
    dataset = from_arrays(images, np.arange(20) % 2)
    for split, count in ((dataset.train, 12), (dataset.valid, 4), (dataset.test, 4)):
        assert isinstance(split, ArraySplit)
        assert split.images.shape == (count, *found) and split.images.dtype == kept
        assert split.labels.dtype == np.int32 and image_shape(split) == found
    assert dataset.provenance["source"] == "arrays" and dataset.class_names == ("0", "1")


def test_arrays_of_jax_and_columns_of_labels():
    labels = np.arange(10, dtype=np.uint8)[:, None] % 2
    dataset = from_arrays(jnp.asarray(numbered(labels)), labels, class_names=["cat", "dog"])
    assert dataset.class_names == ("cat", "dog") and dataset.train.labels.ndim == 1
    np.testing.assert_array_equal(dataset.train.labels, np.array(numbers(dataset.train)) % 2)


def test_distributions_stay_and_are_stratified_by_their_largest_entry():
    labels = np.eye(3)[np.arange(30) % 3] * 0.9 + 0.1 / 3
    dataset = from_arrays(numbered(labels), labels)
    assert dataset.train.labels.shape == (18, 3) and dataset.train.labels.dtype == np.float32
    assert np.bincount(dataset.valid.labels.argmax(1)).tolist() == [2, 2, 2]
    one_hot = from_arrays(numbered(labels), np.eye(3, dtype=int)[np.arange(30) % 3])
    assert numbers(one_hot.valid) == numbers(dataset.valid)


shares = st.one_of(st.floats(0.05, 0.6), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=8, max_size=90),
    valid=shares,
    test=shares,
    seed=st.integers(0, 2**40),
)
def test_splits_are_disjoint_counted_stratified_and_repeatable(labels, valid, test, seed):
    labels = np.array(labels)
    size = len(labels)
    counts = [round(share * size) if isinstance(share, float) else share for share in (valid, test)]
    assume(min(counts) > 0 and sum(counts) < size and labels.max() > 0)
    dataset = from_arrays(numbered(labels), labels, valid=valid, test=test, seed=seed)
    splits = (dataset.train, dataset.valid, dataset.test)
    assert [len(split) for split in splits] == [size - sum(counts), *counts]
    assert sorted(sum((numbers(split) for split in splits), [])) == list(range(size))
    for split in splits:
        assert numbers(split) == sorted(numbers(split))
        np.testing.assert_array_equal(split.labels, labels[numbers(split)])
    # Within one image of each class's exact share, in the first split that is drawn.
    exact = np.bincount(labels, minlength=5) * counts[0] / size
    assert (np.abs(np.bincount(dataset.valid.labels, minlength=5) - exact) < 1).all()
    again = from_arrays(numbered(labels), labels, valid=valid, test=test, seed=seed)
    assert [numbers(again.train), numbers(again.valid), numbers(again.test)] == [numbers(split) for split in splits]


def test_the_seed_chooses_and_validation_does_not_depend_on_test():
    labels = np.arange(100) % 2
    draws = [
        from_arrays(numbered(labels), labels, seed=seed, test=test) for seed, test in ((0, 0.2), (1, 0.2), (0, 0.4))
    ]
    first, other, more = (numbers(draw.valid) for draw in draws)
    assert first != other and first == more
    # As another machine must find them.
    assert first[:5] == FIRST


FIRST = [1, 8, 10, 11, 16]


def test_pairs_are_used_as_they_are():
    labels = np.arange(10) % 2
    images = numbered(labels)
    pair = (images[:3] + 100, [0, 1, 1])
    dataset = from_arrays(images, labels, valid=pair, test=(images[:2] + 200, [1, 0]))
    assert dataset.train.images is images and len(dataset.train) == 10
    assert numbers(dataset.valid) == [100, 101, 102] and dataset.valid.labels.tolist() == [0, 1, 1]
    assert numbers(dataset.test) == [200, 201]
    mixed = from_arrays(images, labels, valid=4, test=pair)
    assert len(mixed.train) == 6 and len(mixed.valid) == 4 and numbers(mixed.test) == [100, 101, 102]


def test_narrow_images_with_many_channels_are_images():
    for shape in ((1, 128, 16), (3, 7, 64), (4, 8, 8)):
        assert image_shape(from_arrays(numbered(LABELS, shape), LABELS).train) == shape


def test_it_shows_the_shape_and_classes_without_images():
    shown = repr(from_arrays(IMAGES, LABELS))
    assert shown == "Dataset(arrays: 2 classes (0, 1), images 2 × 3 × 1, train 6, valid 2, test 2)"
    assert repr(from_arrays(IMAGES, LABELS + 1)).endswith("test 2; no training images of 0)")


LABELS = np.arange(10) % 2
IMAGES = numbered(LABELS)
UNIT = IMAGES / np.float32(255)
REFUSED = {
    "lengths": ((IMAGES[:9], LABELS), {}, "there are 9 images and 10 labels"),
    "none": ((IMAGES[:0], LABELS[:0]), {}, "there are no images"),
    "shape": ((IMAGES[..., 0, 0], LABELS), {}, r"images must have the shape \(number, height, width, channels\)"),
    "integers": ((IMAGES.astype(int), LABELS), {}, "images must be uint8 .* and not int64: convert them"),
    "range": ((IMAGES.astype(np.float32), LABELS), {}, r"must lie in \[0, 1\], and these reach from 0 to 9"),
    "negative": ((UNIT - 0.5, LABELS), {}, r"must lie in \[0, 1\]"),
    "nan": ((np.where(IMAGES == 3, np.nan, UNIT), LABELS), {}, r"not finite \(NaN or infinity\)"),
    "label below 0": ((IMAGES, LABELS - 1), {}, "labels contain -1: class indices count from 0"),
    "label too high": ((IMAGES, LABELS + 1), {"class_names": ("a", "b")}, "labels contain 2, where there are 2 class"),
    "float labels": ((IMAGES, LABELS / 2), {}, "labels must be integers"),
    "whole floats": ((IMAGES, LABELS.astype(float)), {}, r"and not float64: convert them with labels.astype\(int\)"),
    "words": ((IMAGES, np.array(["cat", "dog"])[LABELS]), {}, r"and not <U3: number them with names, labels = np.uni"),
    "objects": ((IMAGES, np.array(["a", "b"], object)[LABELS]), {}, "and not object: number them with names, labels"),
    "one string": ((IMAGES, LABELS), {"class_names": "ab"}, "class_names='ab' is one string: give a list"),
    "channels first": ((np.zeros((10, 3, 8, 9), np.uint8), LABELS), {}, r"\(10, 3, 8, 9\) seem to have their channels"),
    "grey first": ((np.zeros((10, 1, 28, 28), np.uint8), LABELS), {}, "their channels first: bring them to"),
    "no distributions": ((IMAGES, np.ones((10, 2))), {}, "each row sums to 1; row 0 is not"),
    "a NaN in one": ((IMAGES, np.full((10, 2), np.nan)), {}, "each row sums to 1"),
    "columns": (
        (IMAGES, np.eye(2)[LABELS]),
        {"class_names": [*"abc"]},
        "distributions over 2 classes, where there are 3",
    ),
    "names twice": ((IMAGES, LABELS), {"class_names": [*"aa"]}, "class_names names a class twice"),
    "one class": ((IMAGES, LABELS * 0), {}, "at least two classes are required; found only 0"),
    "fraction": ((IMAGES, LABELS), {"valid": 1.5}, "valid=1.5 is neither a fraction"),
    "zero": ((IMAGES, LABELS), {"test": 0}, "test=0 is neither a fraction"),
    "truth": ((IMAGES, LABELS), {"test": True}, "test=True is neither a fraction"),
    "empty split": ((IMAGES, LABELS), {"valid": 0.01}, "valid=0.01 would take 0 of the 10 images"),
    "all": ((IMAGES, LABELS), {"valid": 10}, "valid=10 would take 10 of the 10 images"),
    "no training": ((IMAGES, LABELS), {"valid": 5, "test": 5}, "valid=5 and test=5 leave none of the 10 images"),
    "no pair": ((IMAGES, LABELS), {"valid": (IMAGES,)}, r"valid must be a fraction, .* or a pair \(images, labels\)"),
    "pair lengths": ((IMAGES, LABELS), {"test": (IMAGES, [0])}, "there are 10 test images and 1 test labels"),
    "pair shape": ((IMAGES, LABELS), {"test": (IMAGES[:, :1], LABELS)}, "the test images have shape"),
    "pair type": ((IMAGES, LABELS), {"test": (UNIT, LABELS)}, "the test images have shape .* and type float32"),
    "pair labels": ((IMAGES, LABELS), {"test": (IMAGES, np.eye(2)[LABELS])}, "the test labels and the others must be"),
    "pair classes": (
        (IMAGES, LABELS),
        {"test": (IMAGES, LABELS + 1), "class_names": [*"ab"]},
        "test labels contain 2, where there are 2 class_names",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_clear_sentence(case):
    arguments, options, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence) as caught:
        from_arrays(*arguments, **options)
    assert "\n" not in str(caught.value)
