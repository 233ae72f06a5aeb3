"""This package from JPEG files to a trained epoch: decode and resize once, then every step in one program."""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from cnnjax import data, models
from cnnjax.cli import config
from cnnjax.data import normalize, sampling
from cnnjax.train import metrics, optimizers, strategy
from cnnjax.train.step import Task, create_state


def prepare(work: dict) -> Callable[[], None]:
    """A call that goes from the files in work["folder"] to an epoch trained with the article's augmentation."""
    base = config.preset("cnn-augmented")
    source = f"folder:{work['folder']}"
    pictures = replace(base.data, source=source, side=work["side"], per_class=0, eval_per_class=1, cache=False)
    batch, steps = work["size"], work["batch"] // work["size"]
    graph, params = models.split(models.create(base.model, side=work["side"], num_classes=2, seed=0))
    task = Task(graph, optimizers.create(base.optimizer, steps), base.augment)
    way = strategy.choose("jit", batch)
    key, order_key = jax.random.split(jax.random.key(0))
    state = strategy.replicate(way, create_state(params, task.optimizer))
    program = None

    def call() -> None:
        nonlocal state, program
        split = data.load(pictures).train
        split_, cleaning, step_key = strategy.replicate(
            way, (split, normalize.fit(pictures.cleaning, split.images), key)
        )
        if program is None:
            program = strategy.trainer(way, task, state, step_key, cleaning, split_, steps, batch)
        indices = np.asarray(sampling.order(order_key, 0, steps * batch, len(split.labels))).reshape(steps, batch)
        state, sums = program(state, strategy.replicate(way, metrics.zeros()), indices, split_)
        jax.block_until_ready((state, sums))

    return call
