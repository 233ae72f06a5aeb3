import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from oracles import keras_vis
from PIL import Image

from cnnjax import Network, formats, models, visualize
from cnnjax.cli import film
from cnnjax.cli import visualize as visualize_
from cnnjax.data import example_image, normalize
from cnnjax.errors import UserError
from cnnjax.visualize import at_image_size, feature_maps, layer_shapes

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def image(side=12):
    return np.random.default_rng(0).random((side, side, 3), dtype=np.float32)


def standardized(maps):
    """The article's own lines, on maps without a blank one: (x - μ)/σ · 64 + 128, clipped."""
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


def test_maps_are_the_articles_and_blank_ones_are_marked(network):
    found = feature_maps(network, image(), ["conv_1", "conv_2"])
    assert list(found) == ["conv_1", "conv_2"]
    activations = network(jnp.asarray(image())[None])[1]
    for layer, channels in (("conv_1", [0, 1, 2, 3]), ("conv_2", [0, 2, 3])):
        expected = np.moveaxis(np.asarray(activations[layer][0]), -1, 0)
        maps = found[layer]
        assert maps.maps.dtype == np.uint8
        assert np.abs(maps.maps[channels] - standardized(expected[channels])).max() < 1.01, "truncation, no more"
        np.testing.assert_allclose(maps.mean, expected.mean((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(maps.largest, expected.max((1, 2)), rtol=1e-5)
    assert found["conv_2"].blank.tolist() == [False, True, False, False, True]
    assert (found["conv_2"].maps[[1, 4]] == 128).all()
    assert not found["conv_1"].blank.any()


def test_channels_by_number_by_list_and_by_layer(network):
    full = feature_maps(network, image(), ["conv_1", "conv_2"], 5)
    assert full["conv_1"].channels == (0, 1, 2, 3) and full["conv_2"].channels == (0, 1, 2, 3, 4)
    some = feature_maps(network, image(), ["conv_1", "conv_2"], {"conv_1": [3, 1], "conv_2": 2})
    assert some["conv_1"].channels == (3, 1) and some["conv_2"].channels == (0, 1)
    np.testing.assert_array_equal(some["conv_1"].maps, full["conv_1"].maps[[3, 1]])


def test_a_string_is_one_layer(network):
    (name, found), *others = feature_maps(network, image(), "conv_1").items()
    assert name == "conv_1" and not others
    np.testing.assert_array_equal(found.maps, feature_maps(network, image(), ["conv_1"])["conv_1"].maps)


def test_what_is_not_there_is_one_sentence(network):
    with pytest.raises(UserError, match=r"layer 'conv_9'.*conv_"):
        feature_maps(network, image(), ["conv_9"])
    with pytest.raises(UserError, match="channel 19"):
        feature_maps(network, image(), ["conv_1"], [19])
    with pytest.raises(UserError, match="'predictions' has no maps"):
        feature_maps(network, image(), ["predictions"])
    with pytest.raises(UserError, match="no layer was named: choose some of conv_1, pool_1"):
        feature_maps(network, image(), [])
    with pytest.raises(UserError, match="unknown layer 'conv1': did you mean conv_1"):
        feature_maps(network, image(), ["conv_1"], {"conv1": [3]})
    with pytest.raises(UserError, match=r"the shape \(1, 12, 12, 3\) where one image"):
        feature_maps(network, image()[None], ["conv_1"])
    with pytest.raises(UserError, match=r"divide them by 255, or give them as uint8"):
        feature_maps(network, 255 * image(), ["conv_1"])


def test_the_commands_show_grey_images_to_networks_of_one_channel(tmp_path, capsys):
    model = models.create("small-cnn", num_classes=2, image_size=16, channels=1, width_multiplier=0.1)
    weights = tmp_path / "grey.safetensors"
    formats.save(weights, Network.create(model, normalizer=normalize.identity()))
    visualize_.feature_maps(weights=str(weights), layer=("conv_1",), include_top=True, out=tmp_path)
    film.feature_maps(weights=str(weights), layer=("conv_1",), channels=2, out=tmp_path / "maps.gif")
    assert (tmp_path / "feature-maps.png").exists() and "conv_1: 16×16" in capsys.readouterr().out
    rgb = np.random.default_rng(1).integers(0, 256, (5, 4, 3), np.uint8)
    grey = example_image.in_channels(rgb.astype(np.float32) / 255, 1)
    expected = np.asarray(Image.fromarray(rgb).convert("L"), np.float32)[..., None]
    np.testing.assert_allclose(255 * grey, expected, atol=1)


def test_images_that_leave_nothing_of_a_layer_are_refused():
    class Pooled(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.deep = nnx.Conv(3, 2, (3, 3), rngs=rngs), nnx.Conv(2, 2, (3, 3), rngs=rngs)

        def __call__(self, images):
            x = nnx.max_pool(nnx.relu(self.conv(images)), (4, 4), (4, 4))
            return nnx.relu(self.deep(x)).mean(axis=(1, 2))

    network = tiny.flax(Pooled(nnx.Rngs(0)), (12, 12))
    with pytest.raises(UserError, match=r"layer 'deep' is empty \(0×0×2\) for images of this size: give larger"):
        visualize.render(network, visualize.channel("deep", 0), image_size=3)
    with pytest.raises(UserError, match="this VGG's convolutions take no images of 16×16: a pooling window"):
        at_image_size(vgg(), 16)


def vgg():
    model = models.create("vgg11", image_size=32, width_multiplier=0.02, num_classes=2)
    return Network.create(model, normalizer=normalize.identity())


def test_a_uint8_image_is_the_one_divided_by_255(network):
    whole = np.rint(255 * image()).astype(np.uint8)
    expected = feature_maps(network, whole / np.float32(255), ["conv_2"], np.int64(3))["conv_2"]
    found = feature_maps(network, whole, ["conv_2"], np.int64(3))["conv_2"]
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    assert found.channels == (0, 1, 2)


def test_layers_without_maps_or_channels_are_refused_in_one_sentence():
    dense = tiny.flax(tiny.Dense(4 * 4 * 3, rngs=nnx.Rngs(0)), (4, 4))
    assert layer_shapes(dense) == {"brightness": (), "hidden": (5,), "head": (3,)}
    with pytest.raises(UserError, match="layer 'hidden' has no maps, nor has any other"):
        feature_maps(dense, image(4), ["hidden"])
    with pytest.raises(UserError, match="layer 'head' has no maps, nor has any other"):
        visualize.grad_cam(dense, image(4)[None])
    with pytest.raises(UserError, match="layer 'brightness' has no channels"):
        visualize.render(dense, visualize.channel("brightness", 0))


def test_another_image_size_is_shown_to_a_vggs_convolutions_alone():
    model = models.create("vgg11", image_size=32, num_classes=3, width_multiplier=0.05)
    vgg = Network.create(model, normalizer=normalize.identity(), class_names=("a", "b", "c"))
    larger = at_image_size(vgg, (48, 64))
    assert layer_shapes(larger)["block1_conv1"] == (48, 64, 3) and "fc1" not in layer_shapes(larger)
    assert not larger.class_names and larger.digest == vgg.digest
    shown = np.random.default_rng(0).random((48, 64, 3), dtype=np.float32)
    ours = feature_maps(vgg, shown, ["block1_conv1"])["block1_conv1"]
    assert ours.maps.shape == (3, 48, 64)
    kernel = vgg.params["block1_conv1"]["kernel"]
    expected = jax.lax.conv_general_dilated(
        shown[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours.mean, np.maximum(expected[0], 0).mean((0, 1)), rtol=1e-5)
    small = Network.create(
        models.create("small-cnn", image_size=32, width_multiplier=0.1), normalizer=normalize.identity()
    )
    with pytest.raises(UserError, match="only takes images of 32×32, not 48×48"):
        at_image_size(small, 48)


def test_a_resnet_takes_any_image_size_and_keeps_its_classes():
    model = models.create("resnet18", num_classes=3, width_multiplier=0.05)
    network = Network.create(model, normalizer=normalize.identity(), image_size=32)
    larger = at_image_size(network, (48, 40))
    assert larger.class_names == network.class_names and larger.image_size == (48, 40)
    shapes = layer_shapes(network, (48, 40))
    layer = "layer2.0.conv2"
    shown = np.random.default_rng(0).random((48, 40, 3), dtype=np.float32)
    assert feature_maps(network, shown, [layer], 2)[layer].maps.shape == (2, *shapes[layer][:2])


def test_models_of_flax_layers_have_maps_by_their_paths():
    network = tiny.flax(tiny.Plain(1, rngs=nnx.Rngs(0)), (10, 14), 1)
    shown = np.random.default_rng(0).random((10, 14, 1), dtype=np.float32)
    found = feature_maps(network, shown, ["conv", "deep"], [1, 3])
    assert found["conv"].maps.shape == (2, 10, 14) and found["deep"].maps.shape == (2, 5, 7)
    expected = np.moveaxis(np.asarray(network(shown[None])[1]["deep"][0]), -1, 0)[[1, 3]]
    assert np.abs(found["deep"].maps - standardized(expected)).max() < 1.01
