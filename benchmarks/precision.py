"""What bfloat16, microbatches and rematerialisation do to the loss: fifty steps of each beside float32 in one batch.

    python benchmarks/precision.py

Initial parameters, order, augmentation and dropout are the same, so all that differs is rounding, and what becomes of
it. Beside them, for scale: the same training with other dropout and augmentation. Where training is unstable, as at
the presets' rates without their warm-up, fifty steps make as much of rounding as of that noise.
Writes benchmarks/results/precision.json and a plot next to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import compare
import jax
import numpy as np
from tqdm import tqdm

from cnnjax import data, figures, models
from cnnjax.cli import command_line, config
from cnnjax.data import normalize, sampling
from cnnjax.data.dataset import Split
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, strategy
from cnnjax.train.step import Task, create_state

REFERENCE, NOISE = "float32", "other dropout and augmentation"


@dataclass(frozen=True)
class Deviation:
    """Of one way's losses from the reference's, as shares of the latter's mean: mean and largest, over steps and seeds
    (`spread`: the standard deviation of the seeds' means), and of the means over the last ten steps, signed."""

    preset: str
    who: str
    mean: float
    spread: float
    largest: float
    at_the_end: float


def ways(microbatches: int) -> dict[str, dict[str, Any]]:
    """Name -> what is changed in a `Task`."""
    some = {"microbatches": microbatches, "remat": True}
    return {
        REFERENCE: {},
        "bfloat16": {"precision": "bfloat16"},
        f"{microbatches} microbatches": {"microbatches": microbatches},
        "remat": {"remat": True},
        f"bfloat16, {microbatches} microbatches, remat": some | {"precision": "bfloat16"},
    }


def losses(
    chosen: config.Config, split: Split, classes: int, changes: dict[str, Any], seed: int, noise: int
) -> Iterator[float]:
    """Every step's loss, one after another. `seed`: of initial parameters and order; `noise`: of dropout and
    augmentation."""
    batch, rule = chosen.train.batch_size, optimizers.create(chosen.optimizer, chosen.train.steps_per_epoch)
    way = strategy.choose("jit", batch, microbatches=changes.get("microbatches", 1))
    made = models.create(chosen.model, image_size=chosen.data.image_size, num_classes=classes, seed=seed)
    graph, params = models.split(made)
    key, cleaning = jax.random.key(noise), normalize.fit(chosen.data.cleaning, split.images)
    task, state = Task(graph, rule, chosen.augment, **changes), create_state(params, rule)
    fixed = strategy.replicate(way, (key, cleaning, split))
    state = strategy.replicate(way, state)
    program = strategy.trainer(way, task, state, *fixed, 1, batch)
    for step in range(chosen.train.steps_per_epoch):
        indices = sampling.order(jax.random.key(seed), step * batch, batch, len(split.labels))[None]
        state, sums = program(state, strategy.replicate(way, metrics.zeros()), indices)
        yield metrics.means(sums)["loss"]


def deviation(preset: str, who: str, curves: np.ndarray, reference: np.ndarray) -> Deviation:
    """Of losses (seeds, steps)."""
    scale = reference.mean(1)
    apart = np.abs(curves - reference) / scale[:, None]
    means = apart.mean(1)
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    ends = (curves[:, -10:] - reference[:, -10:]).mean(1) / scale
    return Deviation(preset, who, float(means.mean()), float(spread), float(apart.max()), float(ends.mean()))


def precision(
    *,
    presets: tuple[str, ...] = ("cnn", "vgg16-mini"),
    image_size: int = 64,
    per_class: int = 200,
    batch: int = 32,
    steps: int = 50,
    learning_rate: float = 2e-4,
    microbatches: int = 4,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("benchmarks/results/precision.json"),
) -> None:
    """Train some steps in each way and compare their losses.

    Args:
        presets: Whose network, optimizer and augmentation.
        image_size: Height and width in pixels.
        per_class: Training pictures a class.
        batch: Images per step.
        steps: How many.
        learning_rate: Constant.
        microbatches: Parts of a batch.
        seeds: Of the initial parameters, the order and what is random in a step.
        out: The file for the results.
    """
    if not presets or not seeds:
        raise UserError("there is nothing to compare: give --presets and --seeds")
    every = ways(microbatches) | {NOISE: {}}
    curves: dict[str, dict[str, np.ndarray]] = {}
    with tqdm(total=len(presets) * len(every) * len(seeds) * steps, unit=" steps", dynamic_ncols=True) as bar:
        for preset in presets:
            chosen = config.preset(preset)
            chosen = replace(chosen, data=replace(chosen.data, image_size=image_size, per_class=per_class, eval_per_class=1),
                             train=replace(chosen.train, batch_size=batch, steps_per_epoch=steps))  # fmt: skip
            # Of so few steps a preset's warm-up would be all that is seen, and without it its rate is too high.
            rule = replace(chosen.optimizer, schedule="constant", learning_rate=learning_rate)
            chosen = replace(chosen, optimizer=rule)
            bar.set_description("pictures")
            found = data.load(chosen.data)
            curves[preset] = {}
            for who, changes in every.items():
                bar.set_description(f"{preset}, {who}")
                rows = []
                for seed in seeds:
                    one = losses(chosen, found.train, len(found.class_names), changes, seed, seed + (who == NOISE))
                    rows.append([(loss, bar.update())[0] for loss in one])
                curves[preset][who] = np.array(rows)
    rows = [
        deviation(preset, who, some, ways_[REFERENCE])
        for preset, ways_ in curves.items()
        for who, some in ways_.items()
        if who != REFERENCE
    ]
    head = ("preset", "beside float32 in one batch", "mean", "over seeds", "largest", "last ten steps")
    shares = [(f"{r.mean:.3%}", f"± {r.spread:.3%}", f"{r.largest:.3%}", f"{r.at_the_end:+.3%}") for r in rows]
    print(compare.aligned(head, [(r.preset, r.who, *some) for r, some in zip(rows, shares, strict=True)]))
    told = {name: {who: some.tolist() for who, some in ways_.items()} for name, ways_ in curves.items()}
    about = {
        "image_size": image_size,
        "per_class": per_class,
        "batch_size": batch,
        "learning_rate": learning_rate,
        "seeds": seeds,
        "losses": told,
    }
    compare.write(out, rows, jax.devices()[0].device_kind, about)
    plot = figures.losses(
        {name: {w: s[0] for w, s in some.items()} for name, some in curves.items()}, out.with_suffix(".png")
    )
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(precision)
