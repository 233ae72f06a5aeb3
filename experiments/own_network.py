"""Your own network: ResNet-18 of plain Flax layers, trained on arrays with label smoothing, mixup, EMA and clipping.

    python experiments/own_network.py

The model is an ordinary nnx.Module with BatchNorm, the data are arrays, the optimizer is an optax object. Replace any
of them. The run is in runs/own-network. `width` scales the channels; 64 is the paper's (He et al. 2016).
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnnjax import Network, configure, data, losses, train


class Block(nnx.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), stride, padding=1, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(outputs, momentum=0.9, scale_init=nnx.initializers.zeros, rngs=rngs)
        if stride > 1 or inputs != outputs:
            self.shortcut = nnx.Conv(inputs, outputs, (1, 1), stride, use_bias=False, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(y)) + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class ResNet18(nnx.Module):
    """Four stages of two blocks; a stem for small images."""

    def __init__(self, num_classes: int, channels: int = 3, width: int = 64, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(channels, width, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nnx.List(
            Block(sizes[stage] if i == 0 else sizes[stage + 1], sizes[stage + 1], 2 if stage and i == 0 else 1, rngs)
            for stage in range(4)
            for i in range(2)
        )
        self.dropout = nnx.Dropout(0.1)
        self.output = nnx.Linear(8 * width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.output(self.dropout(jnp.mean(x, (1, 2))))


def main() -> None:
    configure()
    images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), np.uint8)
    labels = (images[..., 0].mean((1, 2)) > images[..., 2].mean((1, 2))).astype(np.int32)
    dataset = data.from_arrays(images, labels, class_names=("blue", "red"))
    network = Network.create(ResNet18(2, width=8, rngs=nnx.Rngs(0)), dataset)
    result = train.fit(
        network,
        dataset,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        loss=losses.softmax_cross_entropy(label_smoothing=0.1),
        mix=data.mixup(0.2),
        ema=0.99,
        epochs=3,
        run_dir="runs/own-network",
        resume=True,
    )
    print(f"test accuracy {result.test['accuracy']:.1%}; see runs/own-network/curves.png")


if __name__ == "__main__":
    main()
