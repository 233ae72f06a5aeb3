"""From a `Config` to the objects that `train.fit` takes: data set, network, optimizer, loss and the rest."""

import dataclasses
import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from cnnjax import data, distributed, formats, losses, models
from cnnjax.cli.config import Config, DataConfig, ModelConfig
from cnnjax.cli.config_json import as_dict
from cnnjax.cli.weights import PREPROCESSING
from cnnjax.cli.weights import describe as describe_weights
from cnnjax.data import prefetch, sampling
from cnnjax.data.augment import Augment
from cnnjax.data.inventory import Inventory
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.printable import printable
from cnnjax.train import by_class, loop, metrics, optimizers, schedules

WARMUP_STEPS = schedules.WARMUP_STEPS
ADAMW_WEIGHT_DECAY = 1e-4
_MODEL_FLAGS = {"name": "--model.name", "width_multiplier": "--model.width-multiplier"}


def dataset(config: DataConfig, inventory: Inventory | None = None) -> data.Dataset:
    """The data set that the config describes; of a folder, the files of an inventory if one is given.

    Raises UserError as the sources of `cnnjax.data` do.
    """
    common = {"image_size": config.image_size, "seed": config.seed, "cache": config.cache}
    held_out = config.eval_per_class or 0.2
    common |= {"valid": held_out, "test": held_out}
    if config.source == "procedural":
        common |= {"per_class": config.per_class, "version": config.rendering}
        return data.procedural.load(config.classes or ("cat", "dog"), **common)
    per_class = config.per_class or None
    common |= {"per_class": per_class, "loading": config.loading, "adapt": True, "split_by": config.split_by}
    if inventory is not None:
        common["inventory"] = inventory
    return data.load(config.source, classes=config.classes, **common)


def describe(config: DataConfig, dataset: data.Dataset) -> str:
    """What was found and how much of it is used, in a sentence; nothing for rendered images, which are as asked for."""
    if config.source == "procedural":
        return ""
    classes, found = len(dataset.class_names), dataset.provenance.get("found")
    sizes = {
        "training": (len(dataset.train), config.per_class),
        "validation": (len(dataset.valid), config.eval_per_class),
    }
    parts = [found or f"{classes} classes"]
    parts.append(" and ".join(f"{number:,} images for {use}" for use, (number, _) in sizes.items()))
    fewer = [f"{wanted} a class for {use}" for use, (number, wanted) in sizes.items() if number < wanted * classes]
    if fewer:
        parts[-1] += f", because there are not {' and '.join(fewer)}"
    parts += [*_fewer_for_test(config, dataset), *_unequal(config, dataset)]
    return f"{config.source}: {'; '.join(parts)}"


def _fewer_for_test(config: DataConfig, dataset: data.Dataset) -> list[str]:
    """What is to be said of a test split of its own that is used in part."""
    held = dataset.inventory.splits.get("test", {}) if dataset.inventory is not None else {}
    sizes, wanted = [len(files) for files in held.values()], config.eval_per_class
    used = wanted * len(sizes)
    if not wanted or min(sizes, default=0) < wanted or used == sum(sizes):  # it is used as a whole
        return []
    return [f"{used:,} of the {sum(sizes):,} images of its test split: --data.eval-per-class 0 uses all"]


def _unequal(config: DataConfig, dataset: data.Dataset) -> list[str]:
    """What is to be said where classes have unequal numbers of images."""
    names, said = dataset.class_names, []
    used = by_class.counts(dataset.train.labels, len(names))
    if by_class.are_unequal(used):
        numbers = _listed(dict(zip(names, used, strict=True)))
        remedy = "--loss.class-weights balanced lets them count alike"
        said.append(f"the training classes are unequal ({numbers}): {remedy}")
    elif dataset.inventory is not None:
        held = {name: len(files) for name, files in dataset.inventory.splits["train"].items()}
        if config.per_class and by_class.are_unequal(list(held.values())):
            remedy = "--data.per-class 0 --data.eval-per-class 0 use all"
            said.append(f"the smallest class decides the numbers ({_listed(held)}): {remedy}")
    return said


def _listed(numbers: dict[str, int]) -> str:
    more = ", …" if len(numbers) > 10 else ""
    return ", ".join(f"{name} {number:,}" for name, number in list(numbers.items())[:10]) + more


def model(config: ModelConfig, num_classes: int, image_size: tuple[int, int], channels: int, seed: int) -> nnx.Module:
    """A new model for images (height, width) with this many channels. Two classes get one logit."""
    arguments = {
        "num_classes": 1 if num_classes == 2 else num_classes,
        "image_size": image_size,
        "channels": channels,
        "width_multiplier": config.width_multiplier,
        "dense_units": config.dense_units or None,
        "dropout": config.dropout,
    }
    known = _arguments(config.name)
    return models.create(config.name, seed, **{name: value for name, value in arguments.items() if name in known})


def network(config: Config, dataset: data.Dataset, begun: Path | None = None) -> Network:
    """A new network for the data set or, with `train.init_from`, that of a file.

    begun: the folder of a run that is resumed, whose own network serves if that file is gone.

    Raises UserError for a file whose network does not fit the config or the data set's classes.
    """
    *size, channels = data.image_shape(dataset.train)
    create = partial(model, config.model, len(dataset.class_names), (size[0], size[1]), channels, config.train.seed)
    if not config.train.init_from:
        return Network.create(create(), dataset, normalizer=config.data.normalization)
    # A run that goes on has all of it in its own folder.
    source = config.train.init_from
    gone = begun is not None and not Path(source).exists()
    told = config.train.init_preprocessing
    found = formats.resolve(
        str(begun if gone else source),
        normalizer=PREPROCESSING[told]() if told and not gone else None,
        include_top=None,
        new_head=tuple(dataset.class_names),
        keep_head=True,
        image_size=(size[0], size[1]),
        dense_units=config.model.dense_units or None,
        seed=config.train.seed,
    )
    _check_fits(found, config, channels)
    for sentence in describe_weights(source, found):
        distributed.print_once(printable(sentence.replace("--weights-preprocessing", "--train.init-preprocessing")))
    # The rate of dropout is the config's.
    graphdef, _, _ = models.split(nnx.eval_shape(create))
    origin: dict[str, Any] = {"weights": source, "digest": found.digest}
    if new := found.provenance.get("new head"):
        origin["new layers"] = new["layers"]
        made = f"{source}: {', '.join(new['layers'])} made new for {brief(dataset.class_names)}"
        distributed.print_once(printable(made))
    origin = found.provenance.get("init_from", {}) if gone else origin
    return found.replace(graphdef=graphdef, provenance={"init_from": origin})


def brief(names: Sequence[str], most: int = 4) -> str:
    """The classes in a sentence: all names, or how many there are."""
    return ", ".join(names) if len(names) <= most else f"{len(names)} classes"


def hyperparams(config: Config) -> dict[str, float]:
    """The numbers of the optimizer that `optimizer` can be given, where they are not 0 and the optimizer has them."""
    chosen = config.optimizer
    numbers = {"learning_rate": chosen.learning_rate, "weight_decay": _weight_decay(config)}
    numbers |= {"clip_norm": chosen.clip_norm, "momentum": chosen.momentum if chosen.name == "sgd" else 0.0}
    return {name: value for name, value in numbers.items() if value}


def _weight_decay(config: Config) -> float:
    given = config.optimizer.weight_decay
    if given is None:
        return ADAMW_WEIGHT_DECAY if config.optimizer.name == "adamw" else 0.0
    return given


def describe_warmup(config: Config, total_steps: int) -> str:
    """What is to be said of a warm-up that was shortened for a short run; nothing of any other."""
    steps = _warmup_steps(config, total_steps)
    if config.optimizer.warmup_steps is not None or not 0 < steps < WARMUP_STEPS:
        return ""
    return f"the learning rate rises over the first {steps} of {total_steps} steps, a quarter of this short run"


def _warmup_steps(config: Config, total_steps: int) -> int:
    """The warm-up that is given; by default a quarter of the run at most."""
    chosen = config.optimizer
    if chosen.warmup_steps is not None:
        return chosen.warmup_steps
    if chosen.schedule not in schedules.WITH_WARMUP or total_steps < 2:  # one step has no room for a warm-up
        return 0
    return min(WARMUP_STEPS, max(1, total_steps // 4))


def optimizer(config: Config, total_steps: int, **numbers: Any) -> optax.GradientTransformation:
    """The optimizer with its schedule over `total_steps`. Raises UserError for a schedule that does not fit them.

    numbers: some of `hyperparams`, which may be traced, instead of the config's.
    """
    chosen, warmup_steps = config.optimizer, _warmup_steps(config, total_steps)
    peak = 1.0 if "learning_rate" in numbers else chosen.learning_rate
    schedule = schedules.create(chosen.schedule, peak, total_steps, warmup_steps, cycles=chosen.cycles)
    if "learning_rate" in numbers:
        schedule = schedules.scale(schedule, numbers["learning_rate"])
    return optimizers.create(
        chosen.name,
        schedule,
        momentum=numbers.get("momentum", chosen.momentum),
        nesterov=chosen.nesterov,
        weight_decay=numbers.get("weight_decay", _weight_decay(config)),
        clip_norm=numbers.get("clip_norm", chosen.clip_norm or None),
    )


def total_steps(config: Config, dataset: data.Dataset) -> int:
    """The steps of all epochs together."""
    return _steps_with(config, len(dataset.train))


def rendered_steps(config: Config) -> int:
    """The steps of all epochs together on rendered images, whose number the config says."""
    return _steps_with(config, (len(config.data.classes) or 2) * config.data.per_class)


def _steps_with(config: Config, images: int) -> int:
    chosen = config.train
    return chosen.epochs * sampling.steps_per_epoch(chosen.steps_per_epoch or None, chosen.batch_size, images)


def fit_options(config: Config, dataset: data.Dataset | None = None) -> dict[str, Any]:
    """The keyword arguments of `train.fit` that the config sets; class weights are those of a data set."""
    chosen, mix = config.train, config.mix
    augment = {part.name: getattr(config.augment, part.name) for part in dataclasses.fields(Augment)}
    weights: tuple[float, ...] = ()
    if config.loss.class_weights == "balanced" and dataset is not None:
        weights = by_class.balanced_weights(by_class.counts(dataset.train.labels, len(dataset.class_names)))
    return {
        "loss": losses.cross_entropy(config.loss.label_smoothing, weights),
        "epochs": chosen.epochs,
        "batch_size": chosen.batch_size,
        "steps_per_epoch": chosen.steps_per_epoch or None,
        "seed": chosen.seed,
        "augment": Augment(**augment) if config.augment.enabled else None,
        "mix": data.mixup(mix.mixup) if mix.mixup else data.cutmix(mix.cutmix) if mix.cutmix else None,
        "metrics": {f"top{k}": metrics.top_k(k) for k in chosen.top_k},
        "ema": chosen.ema or None,
        "freeze": chosen.freeze,
        "precision": chosen.precision,
        "microbatches": chosen.microbatches,
        "remat": chosen.remat,
        "strategy": chosen.strategy,
        "config": as_dict(config),
        "early_stopping_patience": chosen.early_stopping_patience,
        "checkpoint_every_steps": chosen.checkpoint_every_steps,
        "weights_every_epochs": chosen.weights_every_epochs,
        "dispatches_per_epoch": chosen.dispatches_per_epoch,
        "workers": _workers(config, dataset),
        "tensorboard": chosen.tensorboard,
        "profile_steps": chosen.profile,
    }


def _workers(config: Config, dataset: data.Dataset | None) -> int:
    """The number of processes that decode images, chosen by the data where the config does not say."""
    if config.data.workers is not None or dataset is None:
        return config.data.workers or 0
    return prefetch.choose_workers(dataset.train, accelerated=jax.default_backend() != "cpu")


def fit(config: Config, dataset: data.Dataset, run_dir: Path, *, resume: bool = False) -> loop.Result:
    """Train the network of a config, into a run's folder. Raises UserError and Preempted as `train.fit` does."""
    steps = total_steps(config, dataset)
    begun = run_dir if resume and any((run_dir / "checkpoints").glob("[0-9]*")) else None
    return loop.fit(
        network(config, dataset, begun),
        dataset,
        optimizer(config, steps),
        run_dir=run_dir,
        resume=resume,
        **fit_options(config, dataset),
    )


def _check_fits(found: Network, config: Config, channels: int) -> None:
    own = found.config or {}
    wanted = {"name": config.model.name, "width_multiplier": config.model.width_multiplier}
    pairs = [(_MODEL_FLAGS[name], own.get(name), value) for name, value in wanted.items()]
    if "dense_units" in own and (own["dense_units"] or 0) != config.model.dense_units:
        pairs.append(("--model.dense-units", own["dense_units"] or 0, config.model.dense_units))
    for flag, before, after in pairs:
        if before != after:
            raise UserError(
                f"the network of {config.train.init_from} has {flag} {before}, and this run {after}: give the "
                "network's, or leave out --train.init-from"
            )
    if found.channels != channels:
        raise UserError(
            f"the network of {config.train.init_from} takes images of {found.channels} channels, and these have "
            f"{channels}: give other weights, or leave out --train.init-from"
        )
    if found.normalizer.kind == "zca" and np.shape(found.normalizer.mean)[:2] != found.image_size:
        height, width = np.shape(found.normalizer.mean)[:2]
        raise UserError(
            f"the network of {config.train.init_from} whitens images of {height}×{width} pixels: use --data.image-size "
            f"{height} {width}"
        )


def _arguments(name: str) -> set[str]:
    """The names of the arguments of a model's constructor."""
    make = models.MODELS[name]
    while isinstance(make, partial):
        make = make.func
    return set(inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters)
