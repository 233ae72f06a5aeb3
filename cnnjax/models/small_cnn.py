"""The article's own network (section 3): four convolutions with pooling, then two dense layers."""

import jax
from flax import nnx
from jax.nn.initializers import glorot_uniform
from jaxtyping import Array, Float, Key

from cnnjax.models.layers import Conv, Dense, block, dropout, require_images, require_side, scaled, widened

CHANNELS = (32, 64, 128, 128)


class SmallCNN(nnx.Module):
    """Convolutions of 32, 64, 128, 128 channels, each pooled; dropout; dense 512, 256 and the output.

    Initialised as Keras does by default: Glorot-uniform kernels, zero biases.
    Raises UserError for a side that four poolings reduce to nothing.
    """

    def __init__(
        self,
        *,
        side: int = 150,
        channels: int = 3,
        outputs: int = 1,
        width: float = 1.0,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        require_side("SmallCNN", side, len(CHANNELS))
        self.side, self.channels, self.dropout = side, channels, dropout
        init = glorot_uniform()
        inputs = channels
        for i, units in enumerate(CHANNELS, 1):
            setattr(self, f"conv_{i}", Conv(inputs, scaled(units, width), init=init, rngs=rngs))
            inputs = scaled(units, width)
        inputs *= (side >> len(CHANNELS)) ** 2
        self.dense_1 = Dense(inputs, scaled(512, width), init=init, rngs=rngs)
        self.dense_2 = Dense(scaled(512, width), scaled(256, width), init=init, rngs=rngs)
        self.output = Dense(scaled(256, width), outputs, init=init, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        keys: Key[Array, " batch"] | None = None,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch outputs"], dict[str, Array]]:
        """Logits, and each layer's activation (after relu) by name; with one typed key an example, dropout is on.

        Images are cleaned; layers compute in their type, the last one in float32. `remat` is that of `block`. Raises
        UserError for images of another shape.
        """
        require_images("SmallCNN", images, self.side, self.channels)
        activations: dict[str, Array] = {}
        x = images
        for i in range(1, len(CHANNELS) + 1):
            x, new = block(x, {f"conv_{i}": getattr(self, f"conv_{i}")}, f"maxpool_{i}", remat)
            activations |= new
        x = activations["flatten"] = x.reshape(len(x), -1)
        x = activations["dropout"] = dropout(x, self.dropout, keys, 0)
        x = activations["dense_1"] = jax.nn.relu(self.dense_1(x))
        x = activations["dense_2"] = jax.nn.relu(self.dense_2(x))
        x = activations["output"] = self.output(widened(x))
        return x, activations
