"""Keras' configs as its generations since 2.0 write them, without Keras."""

GENERATIONS = ("2.0", "2.6", "3")
INITIALIZER = {"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg", "seed": None}}


def layer(kind, name, **options):
    """A layer with what Keras writes of one that is used as in a VGG; `options` change that."""
    own = {
        "Conv2D": {
            "filters": 4, "kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "data_format": "channels_last",
            "dilation_rate": [1, 1], "activation": "relu", "use_bias": True, "kernel_initializer": INITIALIZER,
            "bias_initializer": {"class_name": "Zeros", "config": {}}, "kernel_regularizer": None,
            "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None, "bias_constraint": None,
        },
        "MaxPooling2D": {
            "pool_size": [2, 2], "padding": "valid", "strides": [2, 2], "data_format": "channels_last",
        },
        "Flatten": {"data_format": "channels_last"},
        "Dropout": {"rate": 0.5, "noise_shape": None, "seed": None},
        "Dense": {
            "units": 4, "activation": "relu", "use_bias": True, "kernel_initializer": INITIALIZER,
            "bias_initializer": {"class_name": "Zeros", "config": {}}, "kernel_regularizer": None,
            "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None, "bias_constraint": None,
        },
        "ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    }.get(kind, {})  # fmt: skip
    return {"class_name": kind, "config": {"name": name, "trainable": True, **own, **options}}


def network(blocks=(1, 1, 1, 1), dense=("relu", "relu", "sigmoid"), outputs=1):
    """The layers of the article's network, or of a VGG."""
    layers = []
    for number, count in enumerate(blocks, 1):
        layers += [layer("Conv2D", f"c{number}_{i}") for i in range(count)]
        layers.append(layer("MaxPooling2D", f"p{number}"))
    layers += [layer("Flatten", "flat"), layer("Dropout", "drop")]
    for number, activation in enumerate(dense, 1):
        units = outputs if number == len(dense) else 4
        layers.append(layer("Dense", f"d{number}", activation=activation, units=units))
    return layers


def written(layers, generation="3", functional=False, image_size=(36, 40)):
    """The config of a model of these layers."""
    shape = [None, *image_size, 3]
    if layers and layers[0]["config"].get("data_format") == "channels_first":
        shape = [None, 3, *image_size]
    if generation == "3":
        layers = [layer_of_keras_3(one) for one in layers]
    first = {"class_name": "InputLayer", "config": {"name": "input_1", "sparse": False, "dtype": "float32"}}
    if generation == "3":
        first["config"] |= {"batch_shape": shape, "ragged": False}
    else:
        first["config"]["batch_input_shape"] = shape
    if functional:
        return _functional([first, *layers], generation)
    if generation == "2.0":
        # The shape is that of the first layer, and the layers are the whole config.
        changed = {**layers[0], "config": {**layers[0]["config"], "batch_input_shape": shape, "dtype": "float32"}}
        return {"class_name": "Sequential", "config": [changed, *layers[1:]]}
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": [first, *layers]}}


def layer_of_keras_3(one):
    own = dict(one["config"])
    if own.get("activation") == "relu":  # a function, as it is written where it was given as one
        own["activation"] = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "f"}
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    own.setdefault("dtype", policy)
    if one["class_name"] == "Conv2D":
        own.setdefault("groups", 1)
    extra = {"module": "keras.layers", "registered_name": None, "build_config": {"input_shape": [None]}}
    return {**one, "config": own, **extra}


def _functional(layers, generation):
    linked = []
    for one, before in zip(layers, [None, *layers], strict=False):
        name = one["config"]["name"]
        source = before and before["config"]["name"]
        if generation == "3":
            tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None], "keras_history": [source, 0, 0]}}
            nodes = [{"args": [tensor], "kwargs": {}}] if source else []
        else:
            nodes = [[[source, 0, 0, {}]]] if source else []
        linked.append({**one, "name": name, "inbound_nodes": nodes})
    ends = [[layers[0]["config"]["name"], 0, 0]], [[layers[-1]["config"]["name"], 0, 0]]
    kind = {"2.0": "Model", "2.6": "Functional", "3": "Functional"}[generation]
    config = {"name": "model", "layers": linked, "input_layers": ends[0], "output_layers": ends[1]}
    return {"class_name": kind, "config": config}
