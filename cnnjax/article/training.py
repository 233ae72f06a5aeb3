"""The article's two training runs (section 4): the small network, without and with augmentation."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optax
from flax import nnx

from cnnjax import models, train
from cnnjax.data import procedural
from cnnjax.data.augment import Augment
from cnnjax.data.dataset import Dataset
from cnnjax.network import Network
from cnnjax.train import optimizers, schedules

STEPS_PER_EPOCH = 100  # The article's, for 2,000 training images.
PLAIN_BATCH_SIZE, AUGMENTED_BATCH_SIZE = 20, 32
LEARNING_RATE = 1e-3
# The article trains without a warm-up. Without it, Adam's first steps, which all have the same sign, add up over the
# 10,368 inputs of dense_1 and silence conv_4 at image size 150.
WARMUP_STEPS = 500
CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class TrainingRun:
    """One of the two runs. The numbers that are not here are the article's, and the same for both.

    image_size: in pixels. per_class, eval_per_class: training images, and validation and test images, of each class.
    """

    image_size: int
    per_class: int
    eval_per_class: int
    epochs: int
    batch_size: int
    augment: Augment | None
    seed: int

    @property
    def steps_per_epoch(self) -> int | None:
        """The article's; with a smaller training set, None: one pass over it."""
        return STEPS_PER_EPOCH if self.per_class * len(CLASSES) >= 2000 else None

    @property
    def total_steps(self) -> int:
        images = self.per_class * len(CLASSES)
        return self.epochs * (self.steps_per_epoch or max(1, images // self.batch_size))

    @property
    def warmup_steps(self) -> int:
        return min(WARMUP_STEPS, self.total_steps)

    def record(self) -> dict[str, Any]:
        """All settings as JSON-able data: what the page shows, and what a resumed run is compared with."""
        return {
            "data": {
                "source": "procedural",
                "classes": list(CLASSES),
                "image_size": self.image_size,
                "per_class": self.per_class,
                "eval_per_class": self.eval_per_class,
                "seed": self.seed,
                "rendering": procedural.version_for(self.image_size),
                "normalization": "standard",
            },
            "augment": {"enabled": self.augment is not None, **asdict(self.augment or Augment())},
            "model": nnx.eval_shape(self._model).config(),
            "optimizer": {
                "name": "adam",
                "learning_rate": LEARNING_RATE,
                "schedule": "warmup",
                "warmup_steps": self.warmup_steps,
            },
            "train": {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "steps_per_epoch": self.steps_per_epoch,
                "seed": self.seed,
                "strategy": "jit",
            },
        }

    def fit(self, dataset: Dataset, run_dir: Path) -> train.Result:
        """Train the network, or continue an interrupted run in the same folder."""
        return train.fit(
            Network.create(self._model(), dataset, normalizer="standard"),
            dataset,
            self._optimizer(),
            epochs=self.epochs,
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.seed,
            augment=self.augment,
            strategy="jit",
            run_dir=run_dir,
            resume=True,
            config=self.record(),
        )

    def _model(self) -> models.SmallCNN:
        return models.create("small-cnn", self.seed, num_classes=len(CLASSES) - 1, image_size=self.image_size)

    def _optimizer(self) -> optax.GradientTransformation:
        schedule = schedules.create(
            "warmup", LEARNING_RATE, total_steps=self.total_steps, warmup_steps=self.warmup_steps
        )
        return optimizers.create("adam", schedule)
