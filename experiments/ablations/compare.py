"""Trains the variants of an ablation over several seeds, and writes its table and figure. Not a command of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optax
from flax import nnx

from cnnjax import Network, configure, data, train
from cnnjax.train.sweeps import Combination

Variant = Callable[[Any, int], tuple[nnx.Module, data.Dataset, dict[str, Any]]]
"""(value, seed) -> the new model, its images and further options of `train.fit`."""


@dataclass(frozen=True)
class Budget:
    """Which images, and how long every variant is trained."""

    image_size: int = 64
    """Height and width in pixels."""
    per_class: int = 1000
    """Training images per class."""
    held_out: int = 500
    """Validation images per class, and as many test images."""
    epochs: int = 20
    """Epochs of 100 steps of 20 images."""
    steps_per_epoch: int = 100
    learning_rate: float = 1e-3
    """Of Adam, at its peak; it rises through a quarter of the run, 500 steps at most, as in the presets."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the initial weights, the order of the images, dropout and augmentation. The images are the same for all."""
    run: Path = Path("runs/ablations")
    """The folder of the runs. Finished ones are found there, and others continued."""

    def images(self, per_class: int = 0) -> data.Dataset:
        """Cats and dogs, rendered once and then read from the cache."""
        return data.procedural.load(
            image_size=self.image_size,
            per_class=per_class or self.per_class,
            valid=self.held_out,
            test=self.held_out,
        )


BUDGET = Budget()


def compare(name: str, setting: str, values: Sequence[Any], variant: Variant, budget: Budget) -> train.Sweep:
    """Train `variant(value, seed)` for every value and seed, and print the table of means and deviations."""
    configure()
    found, folder = train.Sweep([Combination({setting: value}) for value in values]), budget.run / name
    # With 100 steps of warm-up the seeds of one variant differed by 16 points of validation accuracy.
    warmup = max(1, min(500, budget.epochs * budget.steps_per_epoch // 4))
    rate = optax.linear_schedule(0.0, budget.learning_rate, warmup)
    for one in found.combinations:
        value = one.values[setting]
        for seed in budget.seeds:
            model, dataset, options = variant(value, seed)
            options = {"epochs": budget.epochs, "batch_size": 20, "steps_per_epoch": budget.steps_per_epoch} | options
            place = folder / f"{setting}-{value}" / f"seed-{seed}"
            network = Network.create(model, dataset)
            one.add(
                seed, train.fit(network, dataset, optax.adam(rate), seed=seed, run_dir=place, resume=True, **options)
            )
    written = ", ".join(map(str, found.write(folder)))
    print(f"\n{found.text()}\nwrote {written}")
    return found
