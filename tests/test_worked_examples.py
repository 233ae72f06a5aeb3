"""The article's worked numbers, section 2, 4.1 and 5, as the library's operations give them."""

import json

import jax
import numpy as np
import pytest
from scipy.signal import correlate2d

from cnnjax.article import worked_examples


@pytest.fixture(scope="module")
def every() -> worked_examples.Lessons:
    picture = np.asarray(jax.random.uniform(jax.random.key(3), (32, 32, 3)), np.float32)
    return worked_examples.every(picture)


def test_the_map_is_the_articles(every):
    assert every.convolution.map.tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


def test_products_are_the_articles_tables_and_sum_to_the_map(every):
    # Section 2.1's first two tables: 1x1 1x0 1x1 / 0x0 1x1 1x0 / 0x1 0x0 1x1 and its right neighbour.
    assert every.convolution.products[0, 0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert every.convolution.products[0, 1].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(every.convolution.products.sum((2, 3)), every.convolution.map)


def test_ten_filters_make_ten_maps_and_pooling_halves_them(every):
    assert every.volume.kernels.shape == (5, 5, 3, 10)
    assert len(every.volume.names) == 10
    assert every.volume.maps.shape == (32, 32, 10)
    assert every.volume.pooled.shape == (16, 16, 10)


def test_a_map_in_three_dimensions_is_the_sum_over_the_depth(every):
    picture, kernels = every.volume.picture.astype(float), every.volume.kernels.astype(float)
    for index in range(10):
        depth = [correlate2d(picture[..., c], kernels[..., c, index], "same") for c in range(3)]
        np.testing.assert_allclose(every.volume.maps[..., index], sum(depth), atol=1e-5)


def test_edge_filters_ignore_flat_areas():
    flat = worked_examples.volume(np.full((32, 32, 3), 0.7, np.float32))
    detectors = [i for i, name in enumerate(flat.names) if "edge" in name or "line" in name or name == "spot"]
    assert len(detectors) == 7
    assert np.abs(flat.maps[2:-2, 2:-2, detectors]).max() < 1e-6


def test_relu_and_pooling(every):
    np.testing.assert_array_equal(every.volume.rectified, np.maximum(every.volume.maps, 0))
    assert every.pooling.map.tolist() == [[6, 8], [3, 4]]


def test_stride_and_padding_set_the_maps_size(every):
    assert {stride: map_.shape for stride, map_ in every.strides.maps.items()} == {1: (5, 5), 2: (3, 3)}
    np.testing.assert_array_equal(every.strides.maps[2], every.strides.maps[1][::2, ::2])
    assert every.padding.same.shape == every.padding.picture.shape == (5, 5)
    np.testing.assert_array_equal(every.padding.same[1:-1, 1:-1], every.padding.valid)
    assert every.padding.padded[[0, -1]].sum() == every.padding.padded[:, [0, -1]].sum() == 0


def test_choices_are_counted(every):
    rows = {(row.size, row.count, row.stride, row.padding): row for row in every.choices}
    assert rows[3, 32, 1, "same"].parameters == 3 * 3 * 3 * 32 + 32
    assert rows[7, 32, 1, "same"].parameters == 7 * 7 * 3 * 32 + 32
    assert rows[3, 32, 2, "same"].shape == (16, 16, 32)
    assert rows[3, 32, 1, "valid"].shape == (30, 30, 32)


def test_gradient_descent_finds_the_filter(every):
    assert every.descent.losses[-1] < 1e-4 * every.descent.losses[0]
    np.testing.assert_allclose(every.descent.kernels[-1], worked_examples.FILTER, atol=0.01)


def test_dropout_is_drawn_anew_in_training_and_absent_at_test_time(every):
    first, second, test = every.dropout.masks
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    for masks in (first, second):
        hidden = np.concatenate(masks[:-1])
        assert set(np.unique(hidden)) == {0, 2}
        assert masks[-1].tolist() == [1]
    assert all((mask == 1).all() for mask in test)


def test_dropout_drops_its_rate():
    (masks, *_), *_ = worked_examples.dropout(rate=0.25, layers=(20_000, 1)).masks
    assert np.mean(masks == 0) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("depth", "size"), [(2, 5), (3, 7)])
def test_stacked_convolutions_see_as_much_as_one_larger(every, depth, size):
    field = next(f for f in every.fields if f.depth == depth)
    assert field.size == size
    seen = field.paths[0] != 0
    edge = (9 - size) // 2
    assert seen.sum() == size**2
    assert seen[edge:-edge, edge:-edge].all()
    # Every path takes one of nine steps in each layer.
    assert field.paths[0].sum() == 9**depth


def test_numbers_are_plain_data(every):
    numbers = worked_examples.numbers(every)
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["map"][0] == [4, 3, 4]
    assert numbers["flattened"] == 16 * 16 * 10
    assert [field["size"] for field in numbers["fields"]] == [5, 7]
