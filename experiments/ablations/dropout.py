"""Dropout against overfitting (article, section 4.1): the small network that drops 0, 25, 50 and 75% of its features.

    python experiments/ablations/dropout.py
    python experiments/ablations/dropout.py --budget.epochs 5 --budget.seeds 0

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax import models
from cnnjax.cli import command_line


def dropout(*, rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75), budget: Budget = BUDGET) -> None:
    """Compare rates of dropout.

    Args:
        rates: Shares of the features that a training step leaves out.
        budget: Images, epochs and seeds.
    """
    dataset = budget.images()

    def variant(rate, seed):
        return models.SmallCNN(image_size=budget.image_size, dropout=rate, rngs=nnx.Rngs(seed)), dataset, {}

    compare("dropout", "dropout", rates, variant, budget)


if __name__ == "__main__":
    command_line.main(dropout)
