"""Why VGG has filters of 3×3 (article, section 5): two of them see as much as one of 5×5, with fewer parameters.

    python experiments/ablations/kernel_size.py

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from blocks_cnn import BlocksCNN
from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax.cli import command_line

BLOCKS = {"one 5x5": ([[32], [64], [64]], 5), "two 3x3": ([[32, 32], [64, 64], [64, 64]], 3)}
BLOCKS |= {"one 3x3": ([[32], [64], [64]], 3)}


def kernel_size(*, budget: Budget = BUDGET) -> None:
    """Compare one convolution of 5×5 in each block with two of 3×3, whose receptive field is the same, and with one.

    Args:
        budget: Images, epochs and seeds.
    """
    dataset = budget.images()

    def variant(name, seed):
        blocks, kernel = BLOCKS[name]
        return BlocksCNN(blocks, kernel=kernel, image_size=budget.image_size, rngs=nnx.Rngs(seed)), dataset, {}

    compare("kernel-size", "convolutions", tuple(BLOCKS), variant, budget)


if __name__ == "__main__":
    command_line.main(kernel_size)
