"""The article's worked numbers (sections 2, 4.1 and 5), as this package's operations compute them."""

import json

import jax
import numpy as np
import pytest
from scipy.signal import correlate2d

from cnnjax.article import worked_examples

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def examples() -> worked_examples.WorkedExamples:
    image = np.asarray(jax.random.uniform(jax.random.key(3), (32, 32, 3)), np.float32)
    return worked_examples.compute_all(image)


def test_the_map_is_the_articles(examples):
    assert examples.convolution.map.tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


def test_products_are_the_articles_tables_and_sum_to_the_map(examples):
    # Section 2.1's first two tables: 1x1 1x0 1x1 / 0x0 1x1 1x0 / 0x1 0x0 1x1 and its right neighbour.
    assert examples.convolution.products[0, 0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert examples.convolution.products[0, 1].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(examples.convolution.products.sum((2, 3)), examples.convolution.map)


def test_ten_filters_make_ten_maps_and_pooling_halves_them(examples):
    assert examples.volume.kernels.shape == (5, 5, 3, 10)
    assert len(examples.volume.names) == 10
    assert examples.volume.maps.shape == (32, 32, 10)
    assert examples.volume.pooled.shape == (16, 16, 10)


def test_a_map_in_three_dimensions_is_the_sum_over_the_depth(examples):
    image, kernels = examples.volume.image.astype(float), examples.volume.kernels.astype(float)
    for index in range(10):
        depth = [correlate2d(image[..., c], kernels[..., c, index], "same") for c in range(3)]
        np.testing.assert_allclose(examples.volume.maps[..., index], sum(depth), atol=1e-5)


def test_edge_filters_ignore_flat_areas():
    flat = worked_examples.volume(np.full((32, 32, 3), 0.7, np.float32))
    detectors = [i for i, name in enumerate(flat.names) if "edge" in name or "line" in name or name == "spot"]
    assert len(detectors) == 7
    assert np.abs(flat.maps[2:-2, 2:-2, detectors]).max() < 1e-6


def test_relu_and_pooling(examples):
    np.testing.assert_array_equal(examples.volume.rectified, np.maximum(examples.volume.maps, 0))
    assert examples.pooling.map.tolist() == [[6, 8], [3, 4]]


def test_stride_and_padding_set_the_maps_size(examples):
    assert {stride: map_.shape for stride, map_ in examples.strides.maps.items()} == {1: (5, 5), 2: (3, 3)}
    np.testing.assert_array_equal(examples.strides.maps[2], examples.strides.maps[1][::2, ::2])
    assert examples.padding.same.shape == examples.padding.image.shape == (5, 5)
    np.testing.assert_array_equal(examples.padding.same[1:-1, 1:-1], examples.padding.valid)
    assert examples.padding.padded[[0, -1]].sum() == examples.padding.padded[:, [0, -1]].sum() == 0


def test_hyperparameters_set_shape_and_parameter_count(examples):
    rows = {(row.size, row.count, row.stride, row.padding): row for row in examples.hyperparameters}
    assert rows[3, 32, 1, "same"].parameters == 3 * 3 * 3 * 32 + 32
    assert rows[7, 32, 1, "same"].parameters == 7 * 7 * 3 * 32 + 32
    assert rows[3, 32, 2, "same"].shape == (16, 16, 32)
    assert rows[3, 32, 1, "valid"].shape == (30, 30, 32)


def test_gradient_descent_finds_the_filter(examples):
    assert examples.descent.losses[-1] < 1e-4 * examples.descent.losses[0]
    np.testing.assert_allclose(examples.descent.kernels[-1], worked_examples.FILTER, atol=0.01)


def test_dropout_is_drawn_anew_in_training_and_absent_at_test_time(examples):
    first, second, test = examples.dropout.masks
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
def test_stacked_convolutions_see_as_much_as_one_larger(examples, depth, size):
    field = next(f for f in examples.receptive_fields if f.depth == depth)
    assert field.size == size
    seen = field.paths[0] != 0
    edge = (9 - size) // 2
    assert seen.sum() == size**2
    assert seen[edge:-edge, edge:-edge].all()
    # Every path takes one of nine steps in each layer.
    assert field.paths[0].sum() == 9**depth


def test_numbers_are_plain_data(examples):
    numbers = worked_examples.numbers(examples)
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["map"][0] == [4, 3, 4]
    assert numbers["flattened"] == 16 * 16 * 10
    assert [field["size"] for field in numbers["receptive_fields"]] == [5, 7]
