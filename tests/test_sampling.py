"""The order of examples: a pure function of the position in an endless stream."""

import jax
import numpy as np
import pytest

from cnnjax.data import sampling
from cnnjax.data.dataset import ArraySplit
from cnnjax.errors import UserError

KEY = jax.random.key(3)


def test_each_pass_holds_every_example_once_in_an_order_of_its_own():
    stream = sampling.example_indices(KEY, 0, 30, 10).reshape(3, 10)
    for one in stream:
        assert sorted(one) == list(range(10))
    assert not np.array_equal(stream[0], stream[1]) and not np.array_equal(stream[1], stream[2])


@pytest.mark.parametrize(("start", "count"), [(0, 7), (7, 10), (10, 10), (19, 2), (25, 1), (3, 25), (4, 0)])
def test_any_part_of_the_stream_is_that_part(start, count):
    whole = sampling.example_indices(KEY, 0, 30, 10)
    assert np.array_equal(sampling.example_indices(KEY, start, count, 10), whole[start : start + count])


def test_the_order_follows_the_key():
    assert np.array_equal(
        sampling.example_indices(KEY, 0, 20, 20), sampling.example_indices(jax.random.key(3), 0, 20, 20)
    )
    assert not np.array_equal(
        sampling.example_indices(KEY, 0, 20, 20), sampling.example_indices(jax.random.key(4), 0, 20, 20)
    )


def test_the_order_is_jaxs_own_permutation_and_a_key_may_be_given_as_its_data():
    one = [jax.random.permutation(jax.random.fold_in(KEY, number), 7) for number in (0, 1)]
    np.testing.assert_array_equal(sampling.example_indices(sampling.key_data(KEY), 0, 14, 7), np.concatenate(one))


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_padding_covers_every_example_once(size, batch):
    indices, mask = sampling.padded_batches(size, batch)
    assert indices.shape == mask.shape and indices.shape[1] == batch
    assert list(indices[mask]) == list(range(size))
    assert (~mask).sum() < batch and not indices[~mask].any()


def test_steps_per_epoch():
    assert sampling.steps_per_epoch(None, 20, 2000) == 100
    assert sampling.steps_per_epoch(0, 32, 2000) == 62
    assert sampling.steps_per_epoch(7, 32, 2000) == 7
    assert sampling.steps_per_epoch(0, 40, 40) == 1


def test_batch_larger_than_the_data_is_one_sentence():
    with pytest.raises(UserError, match="batch_size=41 is larger than the 40 training images: use 40 or less"):
        sampling.steps_per_epoch(0, 41, 40)


def test_take_gathers_images_with_their_labels():
    split = ArraySplit(np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3), np.arange(5, dtype=np.int32))
    on_device = jax.device_put(split)
    images, labels = sampling.gather(on_device, jax.numpy.array([4, 0, 4]))
    assert np.array_equal(images, split.images[[4, 0, 4]]) and np.array_equal(labels, [4, 0, 4])
