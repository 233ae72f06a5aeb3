"""What is fixed before a run's first step: the arguments of `fit`, and what follows from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import optax

from cnnjax import files, limits, losses, models, runtime
from cnnjax.data import sampling
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit, as_split
from cnnjax.data.mixup import Mix
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.train import arguments, metrics, network_fits, run_dir, state, strategy
from cnnjax.train.metrics import EpochMetrics, Metric
from cnnjax.train.progress import OnProgress
from cnnjax.train.run_dir import Settings
from cnnjax.train.step import Augmentation, StepConfig
from cnnjax.train.strategy import Strategy

Callback = Callable[[EpochMetrics], object]
"""Called with every epoch's metrics, a plain dict of numbers: `print`, `wandb.log`, `mlflow.log_metrics`."""


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `fit`."""

    loss: losses.LossFunction
    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    seed: int
    augment: Augmentation | None
    mix: Mix | None
    metrics: Mapping[str, Metric] | None
    ema: float | None
    freeze: str | Sequence[str]
    precision: Literal["float32", "bfloat16"]
    microbatches: int
    remat: bool
    strategy: str
    run_dir: str | Path | None
    resume: bool
    config: Settings | None
    provenance: Settings | None
    early_stopping_patience: int
    checkpoint_every_steps: int
    weights_every_epochs: int
    dispatches_per_epoch: int
    workers: int
    callbacks: Sequence[Callback]
    on_progress: OnProgress | None
    tensorboard: bool
    profile_steps: int

    def __post_init__(self) -> None:
        arguments.check_loss(self.loss)
        arguments.check_metrics(self.metrics)
        arguments.check_augment(self.augment)
        arguments.check_mix(self.mix)
        arguments.check_callbacks(self.callbacks)
        least = {"epochs": 1, "batch_size": 1, "microbatches": 1}
        least |= dict.fromkeys(("early_stopping_patience", "checkpoint_every_steps", "dispatches_per_epoch"), 0)
        least |= dict.fromkeys(("workers", "profile_steps", "weights_every_epochs"), 0)
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UserError(f"{name}={getattr(self, name)} must be at least {minimum}")
        limits.check_seed(self.seed)
        if self.workers > max(64, 4 * runtime.cores()):
            raise UserError(f"workers={self.workers}: this machine has {runtime.cores()} CPU cores, so use a few dozen")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"steps_per_epoch={self.steps_per_epoch} must be at least 1, or None")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision={self.precision!r} must be 'float32' or 'bfloat16'")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema} must be in [0, 1)")
        for name in ("config", "provenance"):
            files.check_json(getattr(self, name), name)
        if (self.tensorboard or self.profile_steps or self.weights_every_epochs) and self.run_dir is None:
            raise UserError("tensorboard, profile_steps and weights_every_epochs need a run_dir to write to")

    def settings(self, source: str) -> Settings:
        """What config.json records: the caller's settings, or these. source: where the images really come from."""
        if self.config is not None:
            told = self.config.get("data")
            if not isinstance(told, Mapping) or _is_source(str(told.get("source", source)), source):
                return self.config
            kept = {name: told[name] for name in ("normalization",) if name in told}
            return {**self.config, "data": {"source": source, **kept}}
        names = ("epochs", "batch_size", "steps_per_epoch", "seed", "ema", "precision", "microbatches", "remat")
        plain = {name: getattr(self, name) for name in names}
        named = {name: run_dir.without_addresses(repr(getattr(self, name))) for name in ("loss", "augment", "mix")}
        freeze = [self.freeze] if isinstance(self.freeze, str) else list(self.freeze)
        return plain | {"freeze": freeze} | named


_OF_A_RUN = ("config", "best", "test", "seconds", "data", "checkpoint", "row", "epoch")
"""What a run notes in the provenance of the network that it trained."""


def _is_source(told: str, source: str) -> bool:
    """Whether settings name the source of a data set; folders may be written in several ways."""
    (kind, _, path), (other, _, place) = told.partition(":"), source.partition(":")
    if kind != "folder" or other != "folder":
        return kind == other
    return Path(path).expanduser().resolve() == Path(place).expanduser().resolve()


@dataclass
class Plan:
    """One call of `fit`; its settings are checked when they are first asked for."""

    network: Network
    dataset: Dataset
    tx: optax.GradientTransformation
    options: Options
    optimizer: Callable[..., optax.GradientTransformation] | None = None
    """`tx` as a function of `hyperparams`, for a run that shares a program with others."""
    hyperparams: Mapping[str, float] | None = None
    name: str = ""
    """Of one run among several, in a few words."""

    def __post_init__(self) -> None:
        network_fits.check_network(self.network)
        notes = self.network.provenance
        if not notes.keys().isdisjoint(_OF_A_RUN):  # what an earlier run reached is not what this one does
            origin = {"digest": self.network.digest, "provenance": dict(notes)}
            self.network = self.network.replace(provenance={"init_from": origin})

    @cached_property
    def settings(self) -> Settings:
        """What config.json records."""
        found = self.options.settings(str(self.dataset.provenance.get("source", "custom")))
        if self.options.config is None and self.hyperparams:  # else runs of a sweep could not be told apart
            found = {**found, "hyperparams": dict(self.hyperparams)}
        return found

    @cached_property
    def folder(self) -> Path | None:
        return None if self.options.run_dir is None else Path(self.options.run_dir)

    @cached_property
    def train_split(self) -> ArraySplit | LazySplit:
        return as_split(self.dataset.train)

    @cached_property
    def valid_split(self) -> ArraySplit | LazySplit:
        return as_split(self.dataset.valid)

    @cached_property
    def steps(self) -> int:
        """Steps in an epoch."""
        chosen = self.options
        steps = sampling.steps_per_epoch(chosen.steps_per_epoch, chosen.batch_size, len(self.train_split))
        if steps * chosen.epochs > limits.MAX_STEPS:
            raise UserError(
                f"epochs={limits.short(chosen.epochs)} of {limits.short(steps)} steps each are more than "
                f"{limits.MAX_STEPS:,} steps: lower one of them"
            )
        return steps

    def check_network(self) -> None:
        """Raises UserError for a network of other classes than the data set's, or that cannot take its images."""
        network_fits.check_fits(self.network, self.train_split, self.dataset.class_names, self.options.loss)

    def check_memory(self, copies: int = 1) -> None:
        """Raises UserError where a step, or so many at once, cannot fit into the memory of this host or of a device.

        What is counted is the least that a step needs: parameters, the gradients of those that are trained, the
        optimizer's state and, unless they are computed again, the activations of a device's part of a batch.
        """
        network, options = self.network, self.options
        _, trained = state.partition_params(network.params, state.frozen_layers(options.freeze, network.params))
        kept = network.params, trained, jax.eval_shape(self.tx.init, trained)
        needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
        if not options.remat:
            images = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
            found = jax.eval_shape(lambda network, images: network.apply(images)[:2], network, images)
            activations = jax.tree.leaves(found)
            each = sum(math.prod(leaf.shape) * (2 if options.precision == "bfloat16" else 4) for leaf in activations)
            part = max(1, options.batch_size // (options.microbatches * self.strategy.devices))
            needed += each * part
        needed *= copies
        free = runtime.free_memory()
        if needed > free:
            at_once = f" for {copies} networks at once" if copies > 1 else ""
            raise UserError(
                f"a step of batch_size={options.batch_size}{at_once} with images of {network.image_size[0]} × "
                f"{network.image_size[1]} pixels takes {limits.gibibytes(needed)} of memory or more, and "
                f"{limits.gibibytes(free)} are free: lower one of them, or use a smaller model"
            )

    @cached_property
    def strategy(self) -> Strategy:
        chosen = self.options
        return strategy.make_strategy(chosen.strategy, chosen.batch_size, microbatches=chosen.microbatches)

    @cached_property
    def step_config(self) -> StepConfig:
        options, network = self.options, self.network
        graphdef = network.graphdef
        if options.remat:
            graphdef = models.with_remat(graphdef, network.params, network.model_state, True)
        found = {"accuracy": metrics.accuracy} if _classifies(network, self.train_split) else {}
        return StepConfig(
            graphdef,
            self.tx,
            options.loss,
            found | dict(options.metrics or {}),
            num_classes=max(2, len(network.class_names)),
            augment=options.augment,
            mix=options.mix,
            ema=options.ema,
            precision=options.precision,
            cast_params=options.precision != "float32" and not getattr(network.model(), "casts_parameters", False),
            microbatches=options.microbatches,
            frozen=state.frozen_layers(options.freeze, network.params),
            optimizer=self.optimizer,
        )

    def is_complete(self, history: list[EpochMetrics]) -> bool:
        return run_dir.is_complete(history, self.options.epochs, self.options.early_stopping_patience)


def _classifies(network: Network, split: ArraySplit | LazySplit) -> bool:
    """Whether accuracy means something: the labels are classes, or distributions over them."""
    return bool(network.class_names) and split.labels.ndim <= 2
