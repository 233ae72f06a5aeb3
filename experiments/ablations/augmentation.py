"""Augmentation by kind (article, section 4.3): each of the article's transformations alone, and all of them together.

    python experiments/ablations/augmentation.py
    python experiments/ablations/augmentation.py --kinds none flip all --budget.epochs 40

The table and the figure are written to runs/ablations. docs/explanation/ablations.md says more.
"""

from compare import BUDGET, Budget, compare
from flax import nnx

from cnnjax import data, models
from cnnjax.cli import command_line
from cnnjax.errors import unknown

NOTHING = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False}
KINDS = ("none", "flip", "rotation", "shift", "zoom", "all")  # 0.2 degrees of shear change nothing


def augmentation(*, kinds: tuple[str, ...] = KINDS, budget: Budget = BUDGET) -> None:
    """Compare kinds of augmentation.

    Args:
        kinds: Names of the article's transformations; none, or all of them.
        budget: Images, epochs and seeds.
    """
    dataset = budget.images()
    article = data.Augment()
    ranges = {kind: data.Augment(**NOTHING | {kind: getattr(article, kind)}) for kind in NOTHING}
    ranges |= {"none": None, "all": article}
    for kind in kinds:
        if kind not in ranges:
            raise unknown("kind", kind, ranges)

    def variant(kind, seed):
        model = models.SmallCNN(image_size=budget.image_size, rngs=nnx.Rngs(seed))
        return model, dataset, {"augment": ranges[kind]}

    compare("augmentation", "augmentation", kinds, variant, budget)


if __name__ == "__main__":
    command_line.main(augmentation)
