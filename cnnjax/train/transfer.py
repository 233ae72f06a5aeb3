"""Transfer: a trained VGG's convolutions with new dense layers, which learn other classes from few pictures.

As in Chollet (2016), "Building powerful image classification models using very little data": the convolutions see every
picture once, and what they make of it (the bottleneck features) trains the dense layers, in seconds. What follows, the
last block trained along at a small rate, is an ordinary run (`loop.fit`) with `train.start` the file that `fit_head`
leaves and `train.frozen` the blocks before.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from cnnjax import formats, models
from cnnjax.cli.config import Config, ModelConfig, as_dict
from cnnjax.data import normalize, sampling
from cnnjax.data.dataset import Dataset, Split
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, run_dir, strategy
from cnnjax.train.loop import Result
from cnnjax.train.step import DROPOUT, TrainState, create_state, example_keys, example_losses, unit

BATCH = 64  # pictures at a time through the convolutions
HEAD = ("fc1", "fc2", "predictions")


class Features(NamedTuple):
    """What the convolutions make of a split's pictures, on the device."""

    values: Float[Array, "pictures features"]
    labels: Int[Array, " pictures"]


class Bottleneck(NamedTuple):
    """The features of a data set, computed when first asked for: of the training pictures as they are and then, if that
    was wished, mirrored.
    """

    train: Callable[[], Features]
    valid: Callable[[], Features]
    test: Callable[[], Features]


def require(base: formats.Network, side: int) -> None:
    """Raises UserError for a base that is no VGG, or whose whitening does not fit pictures of this side."""
    if not base.model.name.startswith("vgg"):
        raise UserError(f"the weights are a {base.model.name}'s: give those of a VGG, whose convolutions can be kept")
    if base.cleaning.kind == "zca" and side != base.side:
        raise UserError(f"the weights whiten pictures of side {base.side}, not {side}: use --data.side {base.side}")


def adopt(
    base: formats.Network, model: ModelConfig, side: int, class_names: tuple[str, ...], seed: int
) -> formats.Network:
    """The network `model` for these classes: the convolutions and the cleaning of `base`, new dense layers.

    The base may have dense layers or none; its convolutions take pictures of any side. Raises UserError as `require`
    does, for a base of another kind or width than the model's, a side that five poolings reduce to nothing, and fewer
    than two classes.
    """
    require(base, side)
    for name in ("name", "width"):
        own, wanted = getattr(base.model, name), getattr(model, name)
        if own != wanted:
            raise UserError(f"the weights have --model.{name} {own}, not {wanted}: give theirs")
    graph, params = models.split(models.create(model, side=side, num_classes=len(class_names), seed=seed))
    params = {name: leaves if name in HEAD else base.params[name] for name, leaves in params.items()}
    return formats.network(graph, params, model, side, class_names, base.cleaning, {"base": base.digest})


def bottleneck(network: formats.Network, dataset: Dataset, *, mirrored: bool = True) -> Bottleneck:
    """The features of every picture of `dataset`, each split's computed once and kept on the device.

    They depend on the convolutions alone: networks with other dense layers and seeds can share them.
    """
    base = {name: leaves for name, leaves in network.params.items() if name not in HEAD}
    # No feature depends on the head; the graph wants one.
    head = {name: jax.tree.map(jnp.zeros_like, network.params[name]) for name in HEAD}
    way = strategy.choose("auto", jax.device_count())

    def features(fixed: Any, images: Array) -> Array:
        base, cleaning, flip = fixed
        images = unit(images)
        images = normalize.clean(cleaning, jnp.where(flip, images[:, :, ::-1], images))
        return models.apply(network.graph, base | head, images)[1]["flatten"]

    compute = strategy.mapper(way, features, BATCH)

    def of(split: Split, what: str, flips: tuple[bool, ...] = (False,)) -> Features:
        count = len(split.labels)
        with tqdm(total=count * len(flips), desc=f"features of {what} pictures", unit=" images", delay=1.0) as bar:
            fixed = strategy.replicate(way, (base, network.cleaning))
            values = [compute((*fixed, jnp.asarray(flip)), split, bar.update) for flip in flips]
        return Features(jnp.concatenate(values), jnp.tile(jnp.asarray(split.labels), len(flips)))

    return Bottleneck(
        cache(lambda: of(dataset.train, "training", (False, True) if mirrored else (False,))),
        cache(lambda: of(dataset.valid, "validation")),
        cache(lambda: of(dataset.load_test(), "test")),
    )


def fit_head(
    config: Config, network: formats.Network, features: Bottleneck, folder: Path, *, resume: bool = False
) -> Result:
    """Train the dense layers of `network` on the features and leave a run in `folder`, without checkpoints.

    An epoch is one compiled scan. A run that was interrupted starts again: that costs seconds; a finished one returns
    at once with `resume`. The best epoch's layers are kept, as by `fit`, whose Result and UserErrors these are.
    """
    run_dir.prepare(folder, config, resume)
    if (history := run_dir.finished(folder, config)) is not None:
        test = json.loads((folder / "test.json").read_text())
        return Result(history, formats.load(folder / "weights.safetensors"), test)
    history, params = _train(config, network, features)
    row, split = metrics.best(history), features.test()
    test = metrics.means(_evaluate(network.graph, params, split)) | {"count": len(split.labels), "epoch": row["epoch"]}
    made = network.made | {"config": as_dict(replace(config, run="")), "best": row, "test": test}
    made["seconds"] = sum(row["seconds"] for row in history)
    kept = formats.network(
        network.graph, params, network.model, network.side, network.class_names, network.cleaning, made
    )
    formats.save(folder / "weights.safetensors", kept)
    metrics.rewrite(folder / "metrics.jsonl", history)
    run_dir.write(folder / "test.json", test)
    return Result(history, kept, test)


def _train(config: Config, network: formats.Network, features: Bottleneck) -> tuple[list[metrics.Row], Any]:
    """The history, and all parameters after its best epoch."""
    pictures, valid = features.train(), features.valid()
    batch, epochs, size = config.train.batch_size, config.train.epochs, len(pictures.labels)
    steps = sampling.steps_per_epoch(config.train.steps_per_epoch, batch, size)
    descent = optimizers.create(config.optimizer, steps * epochs)
    order_key, step_key = jax.random.split(jax.random.key(config.train.seed))
    state = create_state({name: network.params[name] for name in HEAD}, descent)
    # All in one place from the first call on: what comes from elsewhere would have the program compiled twice.
    state, params, step_key = jax.device_put((state, network.params, step_key), pictures.values.sharding)
    history, best = [], state.params
    with tqdm(total=epochs * steps * batch, desc="dense layers", unit=" images", dynamic_ncols=True) as bar:
        while not run_dir.is_complete(history, config):
            started, first = time.perf_counter(), len(history) * steps
            order = sampling.order(order_key, first * batch, steps * batch, size).reshape(steps, batch)
            state, sums = _epoch(network.graph, descent, state, params, pictures, order, step_key)
            row = {f"train_{name}": value for name, value in metrics.means(sums).items()}
            found = metrics.means(_evaluate(network.graph, params | state.params, valid))
            row |= {f"valid_{name}": value for name, value in found.items()}
            if not math.isfinite(row["train_loss"]):
                raise UserError(
                    f"the training loss is no longer finite in step {first + int(sums['finite']) + 1}: lower the "
                    f"learning rate (it is {config.optimizer.learning_rate})"
                )
            seconds = time.perf_counter() - started
            row = {"epoch": len(history) + 1, "step": first + steps, **row}
            history.append(row | {"images_per_second": steps * batch / seconds, "seconds": seconds})
            best = state.params if metrics.best(history) is history[-1] else best
            bar.update(steps * batch)
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("train_loss", "valid_loss", "valid_accuracy")})
    return history, params | best


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    graph: Any,
    descent: Any,
    state: TrainState,
    params: Any,
    features: Features,
    rows: Int[Array, "steps batch"],
    key: Any,
) -> tuple[TrainState, metrics.Sums]:
    """One step a row of indices, each as `step.train_step` does it, from the features on."""
    fold = jax.vmap(jax.random.fold_in, (0, None))

    def advance(carry: Any, row: Array) -> tuple[Any, None]:
        state, sums = carry
        keys = fold(example_keys(key, state.step, jnp.arange(len(row))), DROPOUT)
        values, labels = features.values[row], features.labels[row]

        def mean_loss(head: Any) -> tuple[Array, tuple[Array, Array]]:
            logits = models.head(graph, params | head, values, keys)
            losses = example_losses(logits, labels)
            return losses.mean(), (losses, logits)

        gradient, (losses, logits) = jax.grad(mean_loss, has_aux=True)(state.params)
        more = metrics.measure(losses, logits, labels, jnp.ones(labels.shape, bool))
        updates, opt_state = descent.update(gradient, state.opt_state, state.params)
        state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        return (state, metrics.add(sums, more)), None

    return lax.scan(advance, (state, metrics.zeros()), rows)[0]


@partial(jax.jit, static_argnums=0)
def _evaluate(graph: Any, params: Any, features: Features) -> metrics.Sums:
    logits = models.head(graph, params, features.values)
    losses = example_losses(logits, features.labels)
    return metrics.measure(losses, logits, features.labels, jnp.ones(features.labels.shape, bool))
