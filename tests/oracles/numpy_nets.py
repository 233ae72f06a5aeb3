"""The networks of torchvision and timm, and those of this package, in NumPy: see numpy_autodiff.py.

`Net` takes parameters by this package's names. `Published` takes a state dict with PyTorch's names and layouts:
`filled` makes one, of what `vgg_shapes`, `timm_shapes`, `small_cnn_shapes` and `resnet_shapes` say. That their names,
order and shapes are torchvision's own is stored in torch_states.json.
"""

import numpy as np

from oracles import numpy_autodiff as ops
from oracles.numpy_autodiff import Value

VGG_COUNTS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def given(images):
    """Images in [0, 1] as torchvision's users prepare them."""
    return (np.asarray(images, np.float64) - MEAN) / DEVIATION


class Net:
    """Convolutions with relu, `blocks` of them before each pooling, then dense layers, the output last."""

    def __init__(self, params, blocks, names, relu=ops.relu):
        self.blocks, self.names, self.relu = blocks, names, relu
        self.params = {name: {kind: Value(array) for kind, array in arrays.items()} for name, arrays in params.items()}

    def __call__(self, images):
        x = images if isinstance(images, Value) else Value(images)
        for block in self.blocks:
            for name in block:
                x = self.relu(ops.conv(x, self.params[name]["kernel"], self.params[name]["bias"]))
            x = ops.max_pool(x)
        x = ops.reshape(x, x.shape[0], -1)
        for name in self.names:
            x = ops.dense(x, self.params[name]["kernel"], self.params[name]["bias"])
            x = self.relu(x) if name != self.names[-1] else x
        return x

    def gradients(self):
        """By this package's names, after `backward`."""
        return {name: {kind: value.grad for kind, value in arrays.items()} for name, arrays in self.params.items()}


def small_cnn(params, **options):
    return Net(params, [[f"conv_{i}"] for i in range(1, 5)], ["dense_1", "dense_2", "output"], **options)


def vgg(params, counts=VGG_COUNTS[16], **options):
    blocks = [[f"block{b}_conv{i + 1}" for i in range(count)] for b, count in enumerate(counts, 1)]
    return Net(params, blocks, ["fc1", "fc2", "predictions"], **options)


class Published:
    """A state dict as a network, in evaluation. The architecture is told by the names."""

    def __init__(self, state, relu=ops.relu):
        self.state, self.relu, self.maps = state, relu, []

    def __call__(self, images):
        """Logits of prepared images; `maps` then has the activation after each relu of the convolutions."""
        x, self.maps = images if isinstance(images, Value) else Value(images), []
        return self._resnet(x) if "layer1.0.conv1.weight" in self.state else self._vgg(x)

    def _conv(self, name, x, stride=1, padding="SAME"):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        bias = None if bias is None else Value(bias)
        return ops.conv(x, Value(np.transpose(weight, (2, 3, 1, 0))), bias, stride, padding)

    def _norm(self, name, x):
        scale, bias, mean, var = (self.state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        return ops.batch_norm(x, Value(scale), Value(bias), (mean, var))

    def _dense(self, name, x):
        weight = self.state[f"{name}.weight"]
        return ops.dense(x, Value(weight.reshape(len(weight), -1).T), Value(self.state[f"{name}.bias"]))

    def _vgg(self, x):
        """`features` counts convolutions, norms, relus and poolings: a gap of two is a relu and a pooling."""
        numbers = sorted({int(name.split(".")[1]) for name in self.state if name.startswith("features.")})
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            name = f"features.{number}"
            x = self._norm(name, x) if f"{name}.running_mean" in self.state else self._conv(name, x)
            if following != number + 1:
                x = self.relu(x)
                self.maps.append(x)
                if following != number + 2:
                    x = ops.max_pool(x)
        # PyTorch flattens channels first.
        height, width, channels = x.shape[1:]
        order = np.arange(height * width * channels).reshape(height, width, channels).transpose(2, 0, 1).reshape(-1)
        flat = ops.reshape(x, x.shape[0], -1)
        x = Value(flat.data[:, order], (flat,), lambda gradient: (gradient[:, np.argsort(order)],))
        names = [name.removesuffix(".weight") for name in self.state if name.endswith(".weight")]
        names = [name for name in names if not name.startswith("features")]
        for name in names:
            x = self._dense(name, x)
            x = self.relu(x) if name != names[-1] else x
        return x

    def _resnet(self, x):
        x = self.relu(self._norm("bn1", self._conv("conv1", x, 2, 3)))
        x = ops.max_pool(x, 3, 2, 1)
        blocks = sorted({tuple(name.split(".")[:2]) for name in self.state if name.startswith("layer")})
        for stage, number in blocks:
            name, strided = f"{stage}.{number}", 2 if stage != "layer1" and number == "0" else 1
            bottleneck = f"{name}.conv3.weight" in self.state
            y, shortcut = x, x
            for i in (1, 2, 3) if bottleneck else (1, 2):
                side = self.state[f"{name}.conv{i}.weight"].shape[2]
                stride = strided if i == (2 if bottleneck else 1) else 1
                y = self._norm(f"{name}.bn{i}", self._conv(f"{name}.conv{i}", y, stride, side // 2))
                y = self.relu(y) if i < (3 if bottleneck else 2) else y
            if f"{name}.downsample.0.weight" in self.state:
                shortcut = self._norm(f"{name}.downsample.1", self._conv(f"{name}.downsample.0", x, strided, 0))
            x = self.relu(ops.add(y, shortcut))
        return self._dense("fc", ops.mean_of_positions(x))


def channels(number, units):
    """Of each block's convolutions."""
    return [[width] * count for width, count in zip(units, VGG_COUNTS[number], strict=True)]


def filled(shapes, seed=0):
    """Arrays for these names: kernels that keep the variance, small biases, positive scales and variances."""
    rng, state = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros((), np.int64)
        elif len(shape) == 1 and name.endswith(("weight", "running_var")):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan = np.prod(shape[1:]) if len(shape) > 1 else 200
            state[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / fan) ** 0.5)
    return state


def _features(blocks, norm):
    shapes, place, inputs = {}, 0, 3
    for block in blocks:
        for outputs in block:
            shapes |= _layer(f"features.{place}", (outputs, inputs, 3, 3))
            if norm:
                shapes |= _norm_shapes(f"features.{place + 1}", outputs)
            place, inputs = place + (3 if norm else 2), outputs
        place += 1
    return shapes


def _layer(name, shape, bias=True):
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def _norm_shapes(name, units):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (units,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def vgg_shapes(blocks, dense=32, classes=5, cells=7, batch_norm=False):
    """torchvision.models.VGG's, with other channels and, for small images, fewer `cells` before the dense layers."""
    height, width = cells if isinstance(cells, tuple) else (cells, cells)
    shapes = _features(blocks, batch_norm) | _layer("classifier.0", (dense, blocks[-1][-1] * height * width))
    return shapes | _layer("classifier.3", (dense, dense)) | _layer("classifier.6", (classes, dense))


def timm_shapes(blocks, dense=32, classes=5, cells=7):
    """timm.models.vgg.VGG's: dense layers as convolutions in `pre_logits`, the last in `head.fc`."""
    shapes = _features(blocks, False) | _layer("pre_logits.fc1", (dense, blocks[-1][-1], cells, cells))
    return shapes | _layer("pre_logits.fc2", (dense, dense, 1, 1)) | _layer("head.fc", (classes, dense))


def small_cnn_shapes(units, dense, outputs, cells):
    """The article's network, named by torchvision's scheme: dropout is the classifier's first module."""
    shapes = _features([[one] for one in units], False) | _layer("classifier.1", (dense[0], units[-1] * cells * cells))
    return shapes | _layer("classifier.3", dense[::-1]) | _layer("classifier.5", (outputs, dense[1]))


def resnet_shapes(counts, bottleneck=False, width=8, classes=5):
    """torchvision.models.ResNet's; timm's names are the same."""
    shapes = _layer("conv1", (width, 3, 7, 7), False) | _norm_shapes("bn1", width)
    inputs = width
    for stage, count in enumerate(counts, 1):
        units = width << stage - 1
        outputs = units * 4 if bottleneck else units
        for block in range(count):
            name = f"layer{stage}.{block}"
            sides = ((units, 1), (units, 3), (outputs, 1)) if bottleneck else ((units, 3), (units, 3))
            before = inputs
            for i, (after, side) in enumerate(sides, 1):
                shapes |= _layer(f"{name}.conv{i}", (after, before, side, side), False)
                shapes |= _norm_shapes(f"{name}.bn{i}", after)
                before = after
            if block == 0 and (stage > 1 or inputs != outputs):
                shapes |= _layer(f"{name}.downsample.0", (outputs, inputs, 1, 1), False)
                shapes |= _norm_shapes(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes | _layer("fc", (classes, inputs))
