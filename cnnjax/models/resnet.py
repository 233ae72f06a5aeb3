"""ResNet (He et al. 2016) as torchvision has it: with the stride in the 3×3 convolutions ("v1.5"), and its names."""

from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.models import initializers
from cnnjax.models.batch_norm import BatchNorm, Statistics
from cnnjax.models.layers import (
    Conv,
    Dense,
    check_images,
    check_positive,
    perturb,
    promote_to_f32,
    scale_width,
    size_config,
)
from cnnjax.ops import overlapping_max_pool, recompute

CHANNELS = (64, 128, 256, 512)
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Layers with parameters → residual blocks in each of the four stages; those of ResNet50 are bottlenecks."""
EXPANSION = 4
"""A bottleneck's outputs, in units of the channels inside of it."""


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions, or a bottleneck of a 1×1, a 3×3 and a 1×1 one, added to the input.

    Each convolution is normalized (bn1, …). Where the input has another shape than the output, `downsample`, a 1×1
    convolution and its normalization, brings it to that shape.
    """

    def __init__(self, inputs: int, units: int, *, stride: int, bottleneck: bool, rngs: nnx.Rngs):
        init = initializers.variance_scaling(2.0, "fan_out", "normal")
        outputs = units * EXPANSION if bottleneck else units
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        strided = 2 if bottleneck else 1
        self.num_convs, before = len(sizes), inputs
        for i, size in enumerate(sizes, 1):
            after = outputs if i == len(sizes) else units
            step = stride if i == strided else 1
            setattr(self, f"conv{i}", Conv(before, after, size, stride=step, bias=False, init=init, rngs=rngs))
            setattr(self, f"bn{i}", BatchNorm(after, rngs=rngs))
            before = after
        if stride != 1 or inputs != outputs:
            shortcut = Conv(inputs, outputs, 1, stride=stride, bias=False, init=init, rngs=rngs)
            self.downsample = nnx.List([shortcut, BatchNorm(outputs, rngs=rngs)])

    def __call__(
        self,
        x: Float[Array, "batch height width inputs"],
        name: str,
        *,
        train: bool = False,
        remat: bool = False,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "batch out_height out_width outputs"], dict[str, Array]]:
        """The block's output, and its layers' outputs by name; the names begin with the block's own.

        With `remat` a gradient keeps x alone of all that, and computes the rest again.
        """

        def run(x: Array) -> tuple[Array, tuple[dict[str, Array], dict[str, Statistics]]]:
            recorder = _Recorder(perturbations or {}, f"{name}.", train)
            y, shortcut = x, x
            for i in range(1, self.num_convs + 1):
                y = recorder.conv(f"conv{i}", getattr(self, f"conv{i}"), y)
                y = recorder.norm(f"bn{i}", getattr(self, f"bn{i}"), y)
                if i < self.num_convs:
                    y = jax.nn.relu(y)
            if hasattr(self, "downsample"):
                shortcut = recorder.conv("downsample.0", self.downsample[0], x)
                shortcut = recorder.norm("downsample.1", self.downsample[1], shortcut)
            y = jax.nn.relu(y + shortcut)
            y = recorder.activations[name] = perturb(name, y, recorder.perturbations)
            return y, (recorder.activations, recorder.statistics)

        y, (activations, statistics) = run(x)
        if remat:
            y = activations[name] = recompute(lambda x: run(x)[0], x)
        for norm, values in statistics.items():
            (self.downsample[1] if norm == "downsample.1" else getattr(self, norm)).update(values)
        return y, activations


class ResNet(nnx.Module):
    """A strided 7×7 convolution, max pooling, four stages of residual blocks, the mean over positions, a dense layer.

    num_blocks: residual blocks in each stage. num_classes: number of logits; 1 is the sigmoid logit of two classes.
    image_size: the usual size of its images, height and width or (height, width); images of any size are accepted.
    Initialized as torchvision does: normal kernels of variance 2 / fan out, and PyTorch's uniform dense layer.
    """

    casts_parameters = True

    def __init__(
        self,
        num_blocks: tuple[int, ...] = NUM_BLOCKS[50],
        bottleneck: bool = True,
        num_classes: int = 1000,
        *,
        image_size: int | tuple[int, int] = 224,
        channels: int = 3,
        width_multiplier: float = 1.0,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_positive("ResNet", num_classes=num_classes, channels=channels, width_multiplier=width_multiplier)
        if len(num_blocks) != len(CHANNELS):
            raise UserError(f"ResNet has {len(CHANNELS)} stages, so num_blocks={num_blocks} needs as many numbers")
        self.num_blocks, self.bottleneck, self.num_classes = tuple(num_blocks), bottleneck, num_classes
        self.image_size, self.channels = to_size(image_size), channels
        self.width_multiplier, self.remat = width_multiplier, remat
        inputs = scale_width(CHANNELS[0], width_multiplier)
        init = initializers.variance_scaling(2.0, "fan_out", "normal")
        self.conv1 = Conv(channels, inputs, 7, stride=2, bias=False, init=init, rngs=rngs)
        self.bn1 = BatchNorm(inputs, rngs=rngs)
        for stage, (count, units) in enumerate(zip(num_blocks, CHANNELS, strict=True), 1):
            units, blocks = scale_width(units, width_multiplier), nnx.List([])
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(ResidualBlock(inputs, units, stride=stride, bottleneck=bottleneck, rngs=rngs))
                inputs = units * EXPANSION if bottleneck else units
            setattr(self, f"layer{stage}", blocks)
        self.fc = Dense(inputs, num_classes, init=initializers.variance_scaling(1 / 3, "fan_in", "uniform"), rngs=rngs)
        limit = np.float32(inputs**-0.5)
        self.fc.bias[...] = limit * initializers.draw(rngs.params(), (num_classes,), "uniform")

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        keys: Key[Array, " batch"] | None = None,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "batch num_classes"], dict[str, Array]]:
        """Logits, and each layer's output by torchvision's names: "conv1", "layer1.0.bn2", "layer1.0", "fc".

        Outputs of convolutions and of normalizations are taken as they are, before relu; those of residual blocks
        after it. Images are normalized; layers compute in their dtype, the last one in float32. In training BatchNorm
        uses the statistics of the batch. Without dropout, `keys` are not used. See `models.apply` for perturbations.
        Raises UserError for images of another number of channels.
        """
        check_images("ResNet", images, None, self.channels)
        recorder = _Recorder(perturbations or {}, "", train)
        x = recorder.norm("bn1", self.bn1, recorder.conv("conv1", self.conv1, images))
        self.bn1.update(recorder.statistics["bn1"])
        x = recorder.record("relu", jax.nn.relu(x))
        x = recorder.record("maxpool", overlapping_max_pool(x))
        for stage in range(1, len(CHANNELS) + 1):
            for i, block in enumerate(getattr(self, f"layer{stage}")):
                name = f"layer{stage}.{i}"
                x, new = block(x, name, train=train, remat=self.remat, perturbations=perturbations)
                recorder.activations |= new
        x = recorder.record("avgpool", promote_to_f32(x).mean((1, 2)))
        x = recorder.record("fc", self.fc(x))
        return x, recorder.activations

    def config(self) -> dict[str, str | int | float | bool | list[int] | None]:
        """The arguments from which `models.create` makes this model, with its name. They can be written as JSON.

        The name of a network with other blocks than the paper's is "resnet", which `models.create` does not know.
        """
        kinds = {(blocks, layers >= 50): layers for layers, blocks in NUM_BLOCKS.items()}
        return {
            "name": f"resnet{kinds.get((self.num_blocks, self.bottleneck), '')}",
            "num_classes": self.num_classes,
            "image_size": size_config(self.image_size),
            "channels": self.channels,
            "width_multiplier": self.width_multiplier,
            "remat": self.remat,
        }


class _Recorder:
    """Calls layers; collects their outputs by name, with perturbations added, and the new running statistics."""

    def __init__(self, perturbations: Mapping[str, Array], prefix: str, train: bool):
        self.perturbations, self.prefix, self.train = perturbations, prefix, train
        self.activations: dict[str, Array] = {}
        self.statistics: dict[str, Statistics] = {}

    def record(self, name: str, x: Array) -> Array:
        name = self.prefix + name
        self.activations[name] = x = perturb(name, x, self.perturbations)
        return x

    def conv(self, name: str, layer: Conv, x: Array) -> Array:
        return self.record(name, layer(x))

    def norm(self, name: str, layer: BatchNorm, x: Array) -> Array:
        y, self.statistics[name] = layer.normalize(x, train=self.train)
        return self.record(name, y)


ResNet18, ResNet34 = (partial(ResNet, NUM_BLOCKS[layers], False) for layers in (18, 34))
ResNet50 = partial(ResNet, NUM_BLOCKS[50], True)
