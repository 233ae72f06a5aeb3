"""VGG (Simonyan & Zisserman 2015; article, section 5): stages of 3×3 convolutions, each pooled, then a dense top."""

from functools import partial

import jax
from flax import nnx
from jax.nn.initializers import he_normal
from jaxtyping import Array, Float, Key

from cnnjax.models.layers import Conv, Dense, block, dropout, require_images, require_side, scaled, widened

CHANNELS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Layers with parameters → convolutions in each of the five blocks: the paper's configurations A, B, D and E."""


class VGG(nnx.Module):
    """`stages` convolutions in each block, then dense layers fc1, fc2 and predictions, with dropout on the first two.

    `dense`: units of fc1 and fc2; None means 4096 × width. Without `top` the network ends at block5_pool, which then
    takes the logits' place, and accepts any side.
    He-normal kernels: they keep the variance through sixteen relus, where Glorot's halve it at each.
    Raises UserError for a side that five poolings reduce to nothing.
    """

    def __init__(
        self,
        stages: tuple[int, ...] = STAGES[16],
        *,
        side: int = 224,
        channels: int = 3,
        outputs: int = 1000,
        width: float = 1.0,
        dense: int | None = None,
        dropout: float = 0.5,
        top: bool = True,
        rngs: nnx.Rngs,
    ):
        require_side("VGG", side, len(stages))
        self.stages, self.side, self.channels, self.dropout, self.top = stages, side, channels, dropout, top
        init = he_normal()
        inputs = channels
        for b, (count, units) in enumerate(zip(stages, CHANNELS, strict=True), 1):
            for i in range(1, count + 1):
                setattr(self, f"block{b}_conv{i}", Conv(inputs, scaled(units, width), init=init, rngs=rngs))
                inputs = scaled(units, width)
        if top:
            units = dense or scaled(4096, width)
            self.fc1 = Dense(inputs * (side >> len(stages)) ** 2, units, init=init, rngs=rngs)
            self.fc2 = Dense(units, units, init=init, rngs=rngs)
            self.predictions = Dense(units, outputs, init=init, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        keys: Key[Array, " batch"] | None = None,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
        """Logits, and each layer's activation (after relu) by name; with one typed key an example, dropout is on.

        Images are cleaned; layers compute in their type, the last one in float32. `remat` is that of `block`. Raises
        UserError for images of another shape.
        """
        require_images("VGG", images, self.side if self.top else None, self.channels)
        activations: dict[str, Array] = {}
        x = images
        for b, count in enumerate(self.stages, 1):
            names = [f"block{b}_conv{i}" for i in range(1, count + 1)]
            x, new = block(x, {name: getattr(self, name) for name in names}, f"block{b}_pool", remat)
            activations |= new
        if self.top:
            x = activations["flatten"] = x.reshape(len(x), -1)
            x, new = self.head(x, keys)
            activations |= new
        return x, activations

    def head(
        self, features: Float[Array, "batch features"], keys: Key[Array, " batch"] | None = None
    ) -> tuple[Float[Array, "batch outputs"], dict[str, Array]]:
        """What the dense layers make of `features` (block5_pool, flattened): the logits, and activations by name."""
        activations: dict[str, Array] = {}
        x = activations["fc1"] = dropout(jax.nn.relu(self.fc1(features)), self.dropout, keys, 0)
        x = activations["fc2"] = dropout(jax.nn.relu(self.fc2(x)), self.dropout, keys, 1)
        x = activations["predictions"] = self.predictions(widened(x))
        return x, activations


VGG11, VGG13, VGG16, VGG19 = (partial(VGG, STAGES[layers]) for layers in (11, 13, 16, 19))
