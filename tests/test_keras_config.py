"""What Keras' configs say is honoured or refused by the layer's name: every generation, nothing skipped."""

import copy

import jax.numpy as jnp
import keras_files
import numpy as np
import pytest
from keras_files import layer, network, written

from cnnjax.formats import keras_config
from cnnjax.formats.lazy_tensors import Refused

VGG16 = (2, 2, 3, 3, 3)
ALL = [(generation, functional) for generation in keras_files.GENERATIONS for functional in (False, True)]


@pytest.mark.parametrize("generation, functional", ALL)
@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), VGG16])
def test_every_generation_sequential_and_functional(generation, functional, blocks):
    found = keras_config.read(written(network(blocks), generation, functional))
    names = [f"c{number}_{i}" for number, count in enumerate(blocks, 1) for i in range(count)]
    assert (found.blocks, found.convolutions, found.dense) == (blocks, names, ["d1", "d2", "d3"])
    assert found.head_problem == "" and found.image_size == (36, 40) and not found.channels_first
    assert found.normalizer is None


def changed(name, **options):
    """The article's network with other options of a layer."""
    layers = copy.deepcopy(network())
    (one,) = [one for one in layers if one["config"]["name"] == name]
    one["config"] |= options
    return layers


def inserted(before, *new):
    layers = network()
    place = [one["config"]["name"] for one in layers].index(before)
    return [*layers[:place], *new, *layers[place:]]


def activation(kind, **options):
    """An activation that is a layer."""
    return {"class_name": kind, "config": {"name": kind.lower(), **options}}


BODY = {
    "elu": (changed("c2_0", activation="elu"), "'c2_0' has the activation elu"),
    "tanh": (changed("c1_0", activation="tanh"), "'c1_0' has the activation tanh"),
    "relu6": (changed("c1_0", activation="relu6"), "'c1_0' has the activation relu6"),
    "no activation": (changed("c3_0", activation="linear"), "'c3_0' has no relu after it"),
    "a function": (
        changed("c1_0", activation={"module": "builtins", "class_name": "function", "config": "gelu"}),
        "'c1_0' has the activation gelu",
    ),
    "one's own function": (
        changed("c1_0", activation={"module": "mine", "class_name": "function", "config": "mish"}),
        "'c1_0' has the activation mish",
    ),
    "a layer as activation": (
        changed("c1_0", activation=activation("LeakyReLU", alpha=0.3)),
        "'leakyrelu' is a LeakyReLU",
    ),
    "a relu with a slope": (
        changed("c1_0", activation=activation("ReLU", negative_slope=0.1, max_value=None, threshold=0.0)),
        "has negative_slope=0.1",
    ),
    "a relu layer with a slope": (inserted("p2", layer("ReLU", "r", negative_slope=0.2)), "'r' (ReLU) has negative_s"),
    "a relu with a slope of Keras 2": (
        inserted("p2", layer("ReLU", "r", negative_slope={"class_name": "__numpy__", "value": 0.2})),
        "'r' (ReLU) has negative_slope=0.2",
    ),
    "a relu with a maximum": (inserted("p2", layer("ReLU", "r", max_value=6.0)), "'r' (ReLU) has max_value=6.0"),
    "a relu with a threshold": (inserted("p2", layer("ReLU", "r", threshold=1.0)), "'r' (ReLU) has threshold=1.0"),
    "no padding": (changed("c1_0", padding="valid"), "'c1_0' (Conv2D) has padding=valid, not same"),
    "strides": (changed("c1_0", strides=[2, 2]), "'c1_0' (Conv2D) has strides=[2, 2]"),
    "dilation": (changed("c4_0", dilation_rate=[2, 2]), "'c4_0' (Conv2D) has dilation_rate=[2, 2]"),
    "groups": (changed("c4_0", groups=2), "'c4_0' (Conv2D) has groups=2"),
    "a larger kernel": (changed("c4_0", kernel_size=[5, 5]), "'c4_0' (Conv2D) has kernel_size=[5, 5]"),
    "no bias": (changed("c4_0", use_bias=False), "'c4_0' (Conv2D) has use_bias=False"),
    "an option that is not known": (changed("c4_0", lora_rank=4), "has lora_rank=4, which is not known"),
    "a larger pool": (changed("p1", pool_size=[3, 3]), "'p1' (MaxPooling2D) has pool_size=[3, 3]"),
    "an overlapping pool": (changed("p1", strides=[1, 1]), "'p1' (MaxPooling2D) has strides=[1, 1]"),
    "a padded pool": (changed("p3", padding="same"), "'p3' (MaxPooling2D) has padding=same"),
    "a mean": (inserted("p2", layer("AveragePooling2D", "a")), "'a' is a AveragePooling2D"),
    "batch normalization": (inserted("p1", layer("BatchNormalization", "b")), "'b' is a BatchNormalization"),
    "edges": (inserted("c1_0", layer("ZeroPadding2D", "z", padding=[1, 1])), "'z' is a ZeroPadding2D"),
    "code": (inserted("p1", layer("Lambda", "f", function=["4wEAAAA", None, None])), "'f' is a Lambda, which is code"),
    "an operation of TensorFlow": (inserted("c1_0", layer("TFOpLambda", "tf.subtract")), "TFOpLambda, which is code"),
    "integers": (changed("c1_0", dtype={"class_name": "QuantizedDTypePolicy", "config": {"name": "int8"}}), "in int8"),
    "one's own layer": (inserted("p1", layer("Attention", "at")), "'at' is a Attention"),
    "two data formats": (changed("c2_0", data_format="channels_first"), "have different data formats"),
    "rescaling in the middle": (inserted("p2", layer("Rescaling", "s", scale=2.0, offset=0.0)), "'s' is where neither"),
    "400 digits": (inserted("c1_0", layer("Rescaling", "s", scale=10**400, offset=0.0)), "'s' rescales by"),
    "rescaling by nothing": (inserted("c1_0", layer("Rescaling", "s", scale=0.0, offset=0.0)), "'s' rescales by"),
    "nothing": ([], "its config has no convolutions"),
}  # fmt: skip
HEAD = {
    "tanh": (changed("d1", activation="tanh"), "'d1' has the activation tanh"),
    "elu": (changed("d2", activation="elu"), "'d2' has the activation elu"),
    "linear": (changed("d1", activation="linear"), "'d2' is where a network here has its relu"),
    "softmax of one": (changed("d3", activation="softmax"), "ends in softmax, but networks of 1 output end in"),
    "sigmoids of three": (network(outputs=3), "ends in sigmoid, but networks of 3 outputs end in"),
    "a relu at the end": (changed("d3", activation="relu"), "'d3' ends in relu"),
    "a tanh at the end": (changed("d3", activation="tanh"), "'d3' has the activation tanh"),
    "a mean": (inserted("flat", layer("GlobalAveragePooling2D", "g")), "'g' is where a network here has its flatten"),
    "fewer layers": (network(dense=("relu", "sigmoid")), "'d2' is where a network here has its relu"),
    "more layers": (network(dense=("relu", "relu", "relu", "sigmoid")), "'d3' ends in relu, but networks of 4 outputs"),
    "normalization": (inserted("d2", layer("LayerNormalization", "n")), "'n' is a LayerNormalization"),
    "code": (inserted("d2", layer("Lambda", "f")), "'f' is a Lambda, which is code"),
    "no bias": (changed("d2", use_bias=False), "'d2' (Dense) has use_bias=False"),
}  # fmt: skip


@pytest.mark.parametrize("case", BODY)
@pytest.mark.parametrize("generation, functional", [("2.6", False), ("3", True)])
def test_what_no_network_here_does_is_refused_by_name(case, generation, functional):
    layers, sentence = BODY[case]
    with pytest.raises(Refused) as error:
        keras_config.read(written(layers, generation, functional))
    assert sentence in str(error.value)


@pytest.mark.parametrize("case", HEAD)
def test_another_head_is_only_in_the_way_of_itself(case):
    layers, sentence = HEAD[case]
    found = keras_config.read(written(layers))
    assert sentence in found.head_problem, found.head_problem
    assert found.blocks == (1, 1, 1, 1) and len(found.convolutions) == 4


SAME = {
    "relu as a layer": [
        *(copy.deepcopy(one) for one in inserted("p1", layer("ReLU", "r"))),
    ],
    "relu after pooling": inserted("c2_0", layer("ReLU", "r")),
    "relu after the last pooling": inserted("flat", layer("ReLU", "r")),
    "relu by Activation": inserted("p1", layer("Activation", "a", activation="relu")),
    "augmentation and dropout": inserted(
        "c1_0", layer("RandomFlip", "f", mode="horizontal"), layer("GaussianNoise", "g", stddev=0.1)
    ),
    "logits": changed("d3", activation="linear"),
    "softmax": network(dense=("relu", "relu", "softmax"), outputs=3),
    "softmax as a layer": [
        *network(dense=("relu", "relu", None), outputs=3),
        layer("Softmax", "s", axis=-1),
    ],
    "half precision": changed("c1_0", dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}),
}
for case, name in (("relu as a layer", "c1_0"), ("relu after pooling", "c1_0"), ("relu by Activation", "c1_0"),
                   ("relu after the last pooling", "c4_0")):  # fmt: skip
    next(one for one in SAME[case] if one["config"]["name"] == name)["config"]["activation"] = "linear"


@pytest.mark.parametrize("case", SAME)
def test_what_is_the_same_is_honoured(case):
    for generation in keras_files.GENERATIONS:
        found = keras_config.read(written(SAME[case], generation, functional=True))
        assert found.head_problem == "" and found.blocks == (1, 1, 1, 1), case


def test_padded_pools_of_even_maps_and_other_channels():
    layers = [copy.deepcopy(one) for one in network()]
    for one in layers:
        if one["class_name"] == "MaxPooling2D":
            one["config"]["padding"] = "same"
    assert keras_config.read(written(layers, image_size=(32, 48))).blocks == (1, 1, 1, 1)
    with pytest.raises(Refused, match="padding=same"):
        keras_config.read(written(layers, image_size=(32, 40)))
    for flatten, expected in (("channels_last", True), ("channels_first", False)):
        for one in layers:
            if "data_format" in one["config"]:
                one["config"]["data_format"] = flatten if one["class_name"] == "Flatten" else "channels_first"
        found = keras_config.read(written(layers, image_size=(32, 48)))
        assert found.channels_first == expected and found.image_size == (32, 48)


def test_rescaling_is_the_normalizer():
    def normalizer(scale, offset=0.0):
        first = layer("Rescaling", "s", scale=scale, offset=offset)
        return keras_config.read(written(inserted("c1_0", first))).normalizer

    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
    assert normalizer(1 / 255).kind == "none"
    for scale, offset in ((1 / 127.5, -1.0), (1.0, 0.0), ([1 / 50, 1 / 60, 1 / 70], [-2.0, -1.0, 0.5])):
        expected = images * 255 * np.float32(scale) + np.float32(offset)
        np.testing.assert_allclose(normalizer(scale, offset)(jnp.asarray(images)), expected, rtol=1e-5, atol=1e-5)


def operations(*after):
    """The functional network of Keras 3 with operations on its input: (kind, name, the operation's second argument)."""
    config = written(network(), functional=True)
    layers, name = config["config"]["layers"], "input_1"
    for kind, own, value in after:
        taken = {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
        node = {"args": [taken] if value is None else [taken, value], "kwargs": {}}
        layers.append({"class_name": kind, "name": own, "config": {"name": own}, "inbound_nodes": [node]})
        name = own
    (first,) = [one for one in layers if one["config"]["name"] == "c1_0"]
    first["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = name
    return config


def test_operations_on_the_input_are_the_normalizer():
    tensor = {"class_name": "__tensor__", "config": {"value": [[[[2.0, 4.0, 8.0]]]], "dtype": "float32"}}
    config = operations(("Subtract", "a", 10.0), ("Multiply", "b", 3), ("Divide", "c", tensor), ("Add", "d", 0.5))
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
    expected = (images * 255 - 10) * 3 / np.float32([2, 4, 8]) + 0.5
    found = keras_config.read(config).normalizer
    np.testing.assert_allclose(found(jnp.asarray(images)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "operation",
    [
        ("Add", "a", None),
        ("Divide", "a", 0),
        ("Multiply", "a", 0.0),
        ("Multiply", "a", True),
        ("Add", "a", 10**400),
        ("Divide", "a", 1e-300),
        ("Add", "a", {"class_name": "__tensor__", "config": {"value": [1.0, 2.0]}}),
        ("Power", "a", 2),
        ("GetItem", "a", [{"class_name": "__ellipsis__", "config": {}}, 1]),
    ],
)
def test_other_operations_on_the_input_are_refused_by_name(operation):
    with pytest.raises(Refused, match="its layer 'a' "):
        keras_config.read(operations(operation))


def test_models_within_models_and_branches():
    inner = {**written(network()[:-5], functional=True), "name": "vgg"}
    inner["config"]["name"] = "vgg"
    for functional in (False, True):
        found = keras_config.read(written([inner, *network()[-5:]], "2.6", functional))
        assert found.blocks == (1, 1, 1, 1) and found.dense == ["d1", "d2", "d3"] and not found.head_problem
    config = written(network(), functional=True)
    tensors = config["config"]["layers"][5]["inbound_nodes"][0]["args"]
    tensors.append({"class_name": "__keras_tensor__", "config": {"keras_history": ["c1_0", 0, 0]}})
    with pytest.raises(Refused, match="'c3_0' has 2 inputs, and no network here branches so"):
        keras_config.read(config)
    deep = inner
    for _ in range(20):
        deep = {"class_name": "Sequential", "config": {"name": "s", "layers": [deep]}}
    with pytest.raises(Refused, match="nested too deep"):
        keras_config.read(deep)


@pytest.mark.parametrize(
    "config",
    [{}, {"config": 3}, {"config": {"layers": 3}}, {"config": {"layers": [3]}}, {"config": {"layers": [{}]}},
     {"config": [{"class_name": "Dense", "config": None}]}, {"config": {"layers": [{"class_name": [], "config": {}}]}},
     {"config": {"layers": [{"class_name": "Dense", "config": {}, "inbound_nodes": 3}]}},
     {"config": {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": "x"}}]}}],
)  # fmt: skip
def test_configs_that_are_none(config):
    with pytest.raises(Refused):
        keras_config.read(config)
