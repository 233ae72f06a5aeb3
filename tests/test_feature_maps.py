import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import keras_vis

from cnnjax import formats
from cnnjax.cli.config import ModelConfig
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.models import create, split
from cnnjax.visualize import feature_maps, layers


def picture(side=12):
    return np.random.default_rng(0).random((side, side, 3), dtype=np.float32)


def standardised(maps):
    """The article's own lines, on maps without a dead one: (x - μ)/σ · 64 + 128, clipped."""
    maps = np.float64(maps)
    maps = (maps - maps.mean((1, 2), keepdims=True)) / maps.std((1, 2), keepdims=True)
    return np.clip(maps * 64 + 128, 0, 255)


@pytest.fixture(scope="module")
def network():
    parameters = keras_vis.parameters(12)
    kernel, bias = parameters["kernel_2"], parameters["bias_2"]
    bias[1] = -1e3  # never fires
    kernel[..., 4], bias[4] = 0, 0.7  # always the same
    return tiny.network(kernel_2=kernel, bias_2=bias)


def test_maps_are_the_articles_and_dead_ones_are_marked(network):
    found = feature_maps.compute(network, picture(), ["conv_1", "conv_2"])
    assert list(found) == ["conv_1", "conv_2"]
    activations = network.forward(network.params, jnp.asarray(picture())[None])[1]
    for layer, channels in (("conv_1", [0, 1, 2, 3]), ("conv_2", [0, 2, 3])):
        expected = np.moveaxis(np.asarray(activations[layer][0]), -1, 0)
        maps = found[layer]
        assert maps.maps.dtype == np.uint8
        assert np.abs(maps.maps[channels] - standardised(expected[channels])).max() < 1.01, "truncation, no more"
        np.testing.assert_allclose(maps.mean, expected.mean((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(maps.largest, expected.max((1, 2)), rtol=1e-5)
    assert found["conv_2"].dead.tolist() == [False, True, False, False, True]
    assert (found["conv_2"].maps[[1, 4]] == 128).all()
    assert not found["conv_1"].dead.any()


def test_channels_by_number_by_list_and_by_layer(network):
    full = feature_maps.compute(network, picture(), ["conv_1", "conv_2"], 5)
    assert full["conv_1"].channels == (0, 1, 2, 3) and full["conv_2"].channels == (0, 1, 2, 3, 4)
    some = feature_maps.compute(network, picture(), ["conv_1", "conv_2"], {"conv_1": [3, 1], "conv_2": 2})
    assert some["conv_1"].channels == (3, 1) and some["conv_2"].channels == (0, 1)
    np.testing.assert_array_equal(some["conv_1"].maps, full["conv_1"].maps[[3, 1]])


def test_what_is_not_there_is_one_sentence(network):
    with pytest.raises(UserError, match=r"layer 'conv_9'.*conv_"):
        feature_maps.compute(network, picture(), ["conv_9"])
    with pytest.raises(UserError, match="channel 19"):
        feature_maps.compute(network, picture(), ["conv_1"], [19])
    with pytest.raises(UserError, match="'predictions' has no maps"):
        feature_maps.compute(network, picture(), ["predictions"])
    with pytest.raises(UserError, match="no layer was named: choose some of conv_1, pool_1"):
        feature_maps.compute(network, picture(), [])


def test_another_side_is_shown_to_a_vggs_convolutions_alone():
    config = ModelConfig(name="vgg11", width=0.05)
    graph, params = split(create(config, side=32, num_classes=3, seed=0))

    nothing = normalize.fit("none", np.zeros((1, 2, 2, 3), np.uint8))
    vgg = formats.network(graph, params, config, 32, ("a", "b", "c"), nothing, {"by": "test"})
    larger = layers.at_side(vgg, 48)
    assert layers.shapes(larger)["block1_conv1"] == (48, 48, 3) and "fc1" not in layers.shapes(larger)
    ours = feature_maps.compute(vgg, picture(48), ["block1_conv1"])["block1_conv1"]
    kernel = params["block1_conv1"]["kernel"]
    expected = jax.lax.conv_general_dilated(
        picture(48)[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours.mean, np.maximum(expected[0], 0).mean((0, 1)), rtol=1e-5)
    small = create(ModelConfig(), side=32, num_classes=2, seed=0)
    graph, params = split(small)
    with pytest.raises(UserError, match="only takes pictures of side 32, not 48"):
        layers.at_side(formats.network(graph, params, ModelConfig(), 32, ("a", "b"), nothing), 48)
