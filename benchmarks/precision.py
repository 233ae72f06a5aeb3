"""The effect of bfloat16, microbatches and rematerialization on the loss: fifty steps of each, compared with float32.

    python benchmarks/precision.py

Initial parameters, order, augmentation and dropout are the same, so only rounding, and what it leads to, differs. For
scale, the same training with other dropout and augmentation is shown too. Where training is unstable, as at the
presets' learning rates without their warm-up, rounding changes fifty steps as much as that does.
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
from cnnjax.cli import build, command_line
from cnnjax.cli.config import Config
from cnnjax.cli.presets import preset as find_preset
from cnnjax.data import sampling
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, strategy
from cnnjax.train.state import create_state
from cnnjax.train.step import StepConfig

REFERENCE, NOISE = "float32", "other dropout and augmentation"


@dataclass(frozen=True)
class Deviation:
    """The losses of one variant compared with the reference's, as shares of the reference's mean.

    mean, largest: of the absolute differences, over steps and seeds. spread: standard deviation of the seeds' means.
    at_the_end: the difference of the means over the last ten steps, with its sign.
    """

    preset: str
    who: str
    mean: float
    spread: float
    largest: float
    at_the_end: float


def variants(microbatches: int) -> dict[str, dict[str, Any]]:
    """Name -> what is changed in the config of the training."""
    both = {"microbatches": microbatches, "remat": True}
    return {
        REFERENCE: {},
        "bfloat16": {"precision": "bfloat16"},
        f"{microbatches} microbatches": {"microbatches": microbatches},
        "remat": {"remat": True},
        f"bfloat16, {microbatches} microbatches, remat": both | {"precision": "bfloat16"},
    }


def losses(chosen: Config, dataset: data.Dataset, changes: dict[str, Any], seed: int, noise: int) -> Iterator[float]:
    """The loss of every step. seed: of initial parameters and order. noise: of dropout and augmentation."""
    chosen = replace(chosen, train=replace(chosen.train, seed=seed, **changes))
    network, split, batch_size = build.network(chosen, dataset), dataset.train, chosen.train.batch_size
    steps, options = chosen.train.steps_per_epoch, build.fit_options(chosen)
    graphdef, params, model_state = network.graphdef, network.params, network.model_state
    if options["remat"]:
        graphdef = models.with_remat(graphdef, params, model_state, True)
    config = StepConfig(
        graphdef,
        optimizers.with_standard_promotion(build.optimizer(chosen, steps)),
        num_classes=len(dataset.class_names),
        **{name: options[name] for name in ("loss", "augment", "precision", "microbatches")},
    )
    where = strategy.make_strategy("jit", batch_size, microbatches=options["microbatches"])
    state = strategy.replicate(where, create_state(params, model_state, config.tx))
    fixed = strategy.replicate(where, (jax.random.key(noise), network.normalizer, split))
    program = strategy.compile_train_steps(where, config, state, *fixed, 1, batch_size)
    for step in range(steps):
        indices = sampling.example_indices(jax.random.key(seed), step * batch_size, batch_size, len(split))
        state, sums = program(state, strategy.replicate(where, metrics.zeros()), indices[None])
        yield metrics.compute(sums)["loss"]


def small(name: str, image_size: int, per_class: int, batch_size: int, steps: int, learning_rate: float) -> Config:
    """A preset with few and small images, and a constant learning rate."""
    chosen = find_preset(name)
    return replace(
        chosen,
        data=replace(chosen.data, image_size=image_size, per_class=per_class, eval_per_class=1),
        optimizer=replace(chosen.optimizer, schedule="constant", learning_rate=learning_rate, warmup_steps=None),
        train=replace(chosen.train, batch_size=batch_size, steps_per_epoch=steps),
    )


def deviation(preset: str, who: str, curves: np.ndarray, reference: np.ndarray) -> Deviation:
    """Compare losses of shape (seeds, steps)."""
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
    batch_size: int = 32,
    steps: int = 50,
    learning_rate: float = 2e-4,
    microbatches: int = 4,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("benchmarks/results/precision.json"),
) -> None:
    """Train some steps with each variant and compare their losses.

    Args:
        presets: The presets that give the network, the optimizer and the augmentation.
        image_size: Height and width in pixels.
        per_class: Training images per class.
        batch_size: Images per step.
        steps: The number of steps.
        learning_rate: A constant learning rate.
        microbatches: Parts that a batch is divided into.
        seeds: Seeds of the initial parameters, the order, dropout and augmentation.
        out: The file for the results.
    """
    if not presets or not seeds:
        raise UserError("there is nothing to compare: give --presets and --seeds")
    every = variants(microbatches) | {NOISE: {}}
    curves: dict[str, dict[str, np.ndarray]] = {}
    with tqdm(total=len(presets) * len(every) * len(seeds) * steps, unit=" steps", dynamic_ncols=True) as bar:
        for preset in presets:
            # In so few steps a preset's warm-up would be all there is, and without it its learning rate is too high.
            chosen = small(preset, image_size, per_class, batch_size, steps, learning_rate)
            bar.set_description("images")
            dataset = build.dataset(chosen.data)
            curves[preset] = {}
            for who, changes in every.items():
                bar.set_description(f"{preset}, {who}")
                rows = []
                for seed in seeds:
                    one = losses(chosen, dataset, changes, seed, seed + (who == NOISE))
                    rows.append([(loss, bar.update())[0] for loss in one])
                curves[preset][who] = np.array(rows)
    rows = [
        deviation(preset, who, some, compared[REFERENCE])
        for preset, compared in curves.items()
        for who, some in compared.items()
        if who != REFERENCE
    ]
    head = ("preset", "compared with float32 in one batch", "mean", "over seeds", "largest", "last ten steps")
    shares = [(f"{r.mean:.3%}", f"± {r.spread:.3%}", f"{r.largest:.3%}", f"{r.at_the_end:+.3%}") for r in rows]
    print(compare.aligned(head, [(r.preset, r.who, *some) for r, some in zip(rows, shares, strict=True)]))
    about = {
        "image_size": image_size,
        "per_class": per_class,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seeds": seeds,
        "losses": {name: {who: some.tolist() for who, some in compared.items()} for name, compared in curves.items()},
    }
    compare.write(out, rows, jax.devices()[0].device_kind, about)
    plot = figures.losses(
        {name: {w: s[0] for w, s in some.items()} for name, some in curves.items()}, out.with_suffix(".png")
    )
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(precision)
