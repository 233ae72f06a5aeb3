"""Batch normalization (Ioffe and Szegedy 2015) in a network of four blocks, at two learning rates.

    python experiments/ablations/batch_norm.py

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from dataclasses import replace

from blocks_cnn import BlocksCNN
from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax.cli import command_line

BLOCKS = [[32], [64], [128], [128]]


def batch_norm(*, learning_rates: tuple[float, ...] = (1e-3, 1e-2), budget: Budget = BUDGET) -> None:
    """Compare a network with and without batch normalization.

    Args:
        learning_rates: Each has a table of its own.
        budget: Images, epochs and seeds.
    """
    dataset = budget.images()

    def variant(norm, seed):
        return BlocksCNN(BLOCKS, norm=norm, image_size=budget.image_size, rngs=nnx.Rngs(seed)), dataset, {}

    for rate in learning_rates:
        compare(f"batch-norm-{rate:g}", "batch norm", (False, True), variant, replace(budget, learning_rate=rate))


if __name__ == "__main__":
    command_line.main(batch_norm)
