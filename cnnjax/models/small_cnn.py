"""The article's own network (section 4): four convolutions with pooling, then two dense layers."""

from collections.abc import Mapping

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from cnnjax.image_size import to_size
from cnnjax.models import initializers
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

CHANNELS = (32, 64, 128, 128)


class SmallCNN(nnx.Module):
    """Convolutions of 32, 64, 128, 128 channels, each pooled; dropout; dense layers of 512, 256 and the output.

    num_classes: number of logits; 1 is the sigmoid logit of two classes. image_size: height and width, or (height,
    width). Initialized as Keras does by default: Glorot-uniform kernels, zero biases.
    Raises UserError for an image_size that four poolings reduce to nothing.
    """

    casts_parameters = True

    def __init__(
        self,
        num_classes: int = 1,
        *,
        image_size: int | tuple[int, int] = 150,
        channels: int = 3,
        width_multiplier: float = 1.0,
        dropout: float = 0.5,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_positive("SmallCNN", num_classes=num_classes, channels=channels, width_multiplier=width_multiplier)
        check_dropout("SmallCNN", dropout)
        self.image_size = to_size(image_size)
        check_size("SmallCNN", self.image_size, len(CHANNELS))
        self.num_classes, self.channels, self.width_multiplier = num_classes, channels, width_multiplier
        self.dropout, self.remat = dropout, remat
        init = initializers.glorot_uniform()
        inputs = channels
        for i, units in enumerate(CHANNELS, 1):
            setattr(self, f"conv_{i}", Conv(inputs, scale_width(units, width_multiplier), init=init, rngs=rngs))
            inputs = scale_width(units, width_multiplier)
        inputs *= (self.image_size[0] >> len(CHANNELS)) * (self.image_size[1] >> len(CHANNELS))
        units = scale_width(512, width_multiplier), scale_width(256, width_multiplier)
        self.dense_1 = Dense(inputs, units[0], init=init, rngs=rngs)
        self.dense_2 = Dense(*units, init=init, rngs=rngs)
        self.output = Dense(units[1], num_classes, init=init, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        keys: Key[Array, " batch"] | None = None,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "batch num_classes"], dict[str, Array]]:
        """Logits, and each layer's activation (after relu) by name.

        Images are normalized; layers compute in their dtype, the last one in float32. With one typed key for each
        example dropout is on, whatever `train` is. See `models.apply` for perturbations. Raises UserError for images
        of another shape.
        """
        check_images("SmallCNN", images, self.image_size, self.channels)
        perturbations = perturbations or {}
        activations: dict[str, Array] = {}

        def record(name: str, x: Array) -> Array:
            activations[name] = x = perturb(name, x, perturbations)
            return x

        x = images
        for i in range(1, len(CHANNELS) + 1):
            layers = {f"conv_{i}": getattr(self, f"conv_{i}")}
            x, new = conv_block(x, layers, f"maxpool_{i}", self.remat, perturbations)
            activations |= new
        x = record("flatten", x.reshape(x.shape[0], -1))
        x = record("dropout", dropout(x, self.dropout, keys, 0))
        x = record("dense_1", jax.nn.relu(self.dense_1(x)))
        x = record("dense_2", jax.nn.relu(self.dense_2(x)))
        x = record("output", self.output(promote_to_f32(x)))
        return x, activations

    def config(self) -> dict[str, str | int | float | bool | list[int] | None]:
        """The arguments from which `models.create` makes this model, with its name. They can be written as JSON."""
        return {
            "name": "small-cnn",
            "num_classes": self.num_classes,
            "image_size": size_config(self.image_size),
            "channels": self.channels,
            "width_multiplier": self.width_multiplier,
            "dropout": self.dropout,
            "remat": self.remat,
        }
