"""VGG (Simonyan & Zisserman 2015; article, section 5): blocks of 3×3 convolutions, each pooled, then dense layers."""

from collections.abc import Mapping
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.models import initializers
from cnnjax.models.batch_norm import BatchNorm
from cnnjax.models.dropout import dropout
from cnnjax.models.layers import (
    Conv,
    Dense,
    check_dropout,
    check_images,
    check_positive,
    check_size,
    conv_block,
    perturb,
    promote_to_f32,
    scale_width,
    size_config,
)

CHANNELS = (64, 128, 256, 512, 512)
NUM_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Layers with parameters → convolutions in each of the five blocks: the paper's configurations A, B, D and E."""


class VGG(nnx.Module):
    """`num_convs` convolutions in each block, then dense layers fc1, fc2, predictions; dropout on the first two.

    num_classes: number of logits; 1 is the sigmoid logit of two classes. image_size: height and width, or (height,
    width). dense_units: units of fc1 and fc2; None means 4096 · width_multiplier. batch_norm: whether each convolution
    is followed by batch normalization (block1_bn1, …), as in torchvision's `_bn` variants. Without `include_top` the
    network ends at block5_pool, which then takes the place of the logits, and accepts any size.
    He-normal kernels: they keep the variance through sixteen relus, where Glorot's halve it at each.
    Raises UserError for an image_size that five poolings reduce to nothing.
    """

    casts_parameters = True

    def __init__(
        self,
        num_convs: tuple[int, ...] = NUM_CONVS[16],
        num_classes: int = 1000,
        *,
        image_size: int | tuple[int, int] = 224,
        channels: int = 3,
        width_multiplier: float = 1.0,
        dense_units: int | None = None,
        dropout: float = 0.5,
        batch_norm: bool = False,
        include_top: bool = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_positive("VGG", num_classes=num_classes, channels=channels, width_multiplier=width_multiplier)
        check_dropout("VGG", dropout)
        if len(num_convs) != len(CHANNELS) or min(num_convs) < 1:
            raise UserError(f"VGG has {len(CHANNELS)} blocks of one or more convolutions: num_convs={num_convs}")
        self.image_size = to_size(image_size)
        check_size("VGG", self.image_size, len(num_convs))
        self.num_convs, self.num_classes, self.channels = tuple(num_convs), num_classes, channels
        self.width_multiplier, self.dense_units, self.dropout = width_multiplier, dense_units, dropout
        self.batch_norm, self.include_top, self.remat = batch_norm, include_top, remat
        init = initializers.he_normal()
        inputs = channels
        for b, (count, units) in enumerate(zip(num_convs, CHANNELS, strict=True), 1):
            outputs = scale_width(units, width_multiplier)
            for i in range(1, count + 1):
                setattr(self, f"block{b}_conv{i}", Conv(inputs, outputs, init=init, rngs=rngs))
                if batch_norm:
                    setattr(self, f"block{b}_bn{i}", BatchNorm(outputs, rngs=rngs))
                inputs = outputs
        if include_top:
            units = dense_units or scale_width(4096, width_multiplier)
            height, width = (size >> len(num_convs) for size in self.image_size)
            self.fc1 = Dense(inputs * height * width, units, init=init, rngs=rngs)
            self.fc2 = Dense(units, units, init=init, rngs=rngs)
            self.predictions = Dense(units, num_classes, init=init, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        keys: Key[Array, " batch"] | None = None,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
        """Logits, and each layer's activation by name.

        An activation is taken after relu; of a convolution that is followed by batch normalization, before it.
        Images are normalized; layers compute in their dtype, the last one in float32. With one typed key for each
        example dropout is on, whatever `train` is. See `models.apply` for perturbations. Raises UserError for images
        of another shape.
        """
        check_images("VGG", images, self.image_size if self.include_top else None, self.channels)
        activations: dict[str, Array] = {}
        x = images
        for b, count in enumerate(self.num_convs, 1):
            names = [f"block{b}_conv{i}" for i in range(1, count + 1)]
            layers = {name: getattr(self, name) for name in names}
            norms = {name: getattr(self, name.replace("conv", "bn")) for name in names if self.batch_norm}
            x, new = conv_block(x, layers, f"block{b}_pool", self.remat, perturbations, norms, train)
            activations |= new
        if self.include_top:
            flat = x.reshape(x.shape[0], -1)
            x = activations["flatten"] = perturb("flatten", flat, perturbations or {})
            x, new = self.head(x, keys=keys, perturbations=perturbations)
            activations |= new
        return x, activations

    def head(
        self,
        features: Float[Array, "batch features"],
        *,
        keys: Key[Array, " batch"] | None = None,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "batch num_classes"], dict[str, Array]]:
        """The dense layers, applied to the activation "flatten": the logits, and activations by name."""
        perturbations = perturbations or {}
        activations: dict[str, Array] = {}

        def record(name: str, x: Array) -> Array:
            activations[name] = x = perturb(name, x, perturbations)
            return x

        x = record("fc1", dropout(jax.nn.relu(self.fc1(features)), self.dropout, keys, 0))
        x = record("fc2", dropout(jax.nn.relu(self.fc2(x)), self.dropout, keys, 1))
        x = record("predictions", self.predictions(promote_to_f32(x)))
        return x, activations

    def config(self) -> dict[str, str | int | float | bool | list[int] | None]:
        """The arguments from which `models.create` makes this model, with its name. They can be written as JSON.

        The name of a network with other `num_convs` than the paper's is "vgg", which `models.create` does not know.
        """
        layers = next((layers for layers, num_convs in NUM_CONVS.items() if num_convs == self.num_convs), "")
        return {
            "name": f"vgg{layers}" + "-bn" * self.batch_norm,
            "num_classes": self.num_classes,
            "image_size": size_config(self.image_size),
            "channels": self.channels,
            "width_multiplier": self.width_multiplier,
            "dense_units": self.dense_units,
            "dropout": self.dropout,
            "include_top": self.include_top,
            "remat": self.remat,
        }


VGG11, VGG13, VGG16, VGG19 = (partial(VGG, NUM_CONVS[layers]) for layers in (11, 13, 16, 19))
