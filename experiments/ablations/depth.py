"""Depth: one to four blocks of a convolution and pooling, with as many channels as the small network's.

    python experiments/ablations/depth.py

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from blocks_cnn import BlocksCNN
from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax.cli import command_line

CHANNELS = (32, 64, 128, 128)


def depth(*, depths: tuple[int, ...] = (1, 2, 3, 4), budget: Budget = BUDGET) -> None:
    """Compare numbers of blocks.

    Args:
        depths: Blocks, 1 to 4.
        budget: Images, epochs and seeds.
    """
    dataset = budget.images()

    def variant(blocks, seed):
        channels = [[units] for units in CHANNELS[:blocks]]
        return BlocksCNN(channels, image_size=budget.image_size, rngs=nnx.Rngs(seed)), dataset, {}

    compare("depth", "blocks", depths, variant, budget)


if __name__ == "__main__":
    command_line.main(depth)
