"""This package from JPEG files to a trained epoch: decode and resize the files, then train on the resident images."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import workloads

from cnnjax import data, models, runtime
from cnnjax.data import sampling
from cnnjax.data.normalize import Normalizer, fit_normalizer
from cnnjax.train import metrics
from cnnjax.train.state import TrainState, create_state
from cnnjax.train.step import Batch, StepConfig, train_step

runtime.configure()


def prepare(work: dict) -> Callable[[], None]:
    """A call that goes from the files in work["folder"] to an epoch trained with the article's augmentation."""
    batch_size, steps = work["batch_size"], work["images"] // work["batch_size"]
    graphdef, params, model_state = models.split(workloads.create("small-cnn", work["image_size"]))
    config = StepConfig(graphdef, workloads.optimizer("small-cnn"), augment=data.Augment())
    key, order_key = jax.random.split(jax.random.key(0))
    state = create_state(params, model_state, config.tx)
    positions = np.arange(batch_size, dtype=np.int32)

    # `strategy.compile_train_steps` would compile anew for every call's images.
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(
        state: TrainState, sums: metrics.Sums, normalizer: Normalizer, split: data.ArraySplit, indices: jax.Array
    ) -> tuple[TrainState, metrics.Sums]:
        batch = Batch(*sampling.gather(split, indices), positions)
        state, more = train_step(config, state, batch, key, normalizer)
        return state, metrics.add(sums, more)

    def call() -> None:
        nonlocal state
        split = data.from_folder(
            work["folder"], image_size=work["image_size"], valid=1, test=1, loading="resident", cache=False
        ).train
        normalizer, split, sums = fit_normalizer("standard", split), jax.device_put(split), metrics.zeros()
        order = np.asarray(sampling.example_indices(order_key, 0, steps * batch_size, len(split)))
        for indices in order.reshape(steps, batch_size):
            state, sums = step(state, sums, normalizer, split, indices)
        jax.block_until_ready((state, sums))

    return call
