"""More images against overfitting (article, section 4): 250 to 4,000 training images per class, the same steps.

    python experiments/ablations/images_per_class.py

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax import models
from cnnjax.cli import command_line


def images_per_class(
    *,
    counts: tuple[int, ...] = (250, 500, 1000, 2000, 4000),
    budget: Budget = BUDGET,
) -> None:
    """Compare numbers of training images; validation and test images are the same for all.

    Args:
        counts: Training images per class. The first ones of a larger set are those of a smaller one.
        budget: Images, epochs and seeds.
    """
    sets = {count: budget.images(count) for count in counts}

    def variant(count, seed):
        return models.SmallCNN(image_size=budget.image_size, rngs=nnx.Rngs(seed)), sets[count], {}

    compare("images-per-class", "images per class", counts, variant, budget)


if __name__ == "__main__":
    command_line.main(images_per_class)
