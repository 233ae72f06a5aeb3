"""The command `transfer`: other classes from few images, with a trained VGG's convolutions and from scratch."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnjax import data as sources
from cnnjax import figures, limits
from cnnjax.cli import build
from cnnjax.cli.config import Config, DataConfig
from cnnjax.cli.groups import given_to
from cnnjax.cli.presets import PRESETS
from cnnjax.cli.train import prepare
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.errors import UserError
from cnnjax.files import write_json
from cnnjax.formats.build import NEEDS_TOP
from cnnjax.network import Network
from cnnjax.printable import printable
from cnnjax.train import metrics, run_dir, run_lock
from cnnjax.train import transfer as transfer_
from cnnjax.train.loop import Result, load_intact, load_result
from cnnjax.train.metrics import EpochMetrics

NEW_CLASSES = ("fox", "axe")
SMALL_STEPS = 50  # steps in an epoch of the small networks
TITLES = {
    "head": "new head, base frozen",
    "fine-tune": "then block 5 fine-tuned",
    "small-cnn": "small CNN from scratch",
    "small-cnn-augmented": "small CNN, augmented",
}
_PRESETS = {"head": "new-head", "fine-tune": "fine-tune", "small-cnn": "cnn", "small-cnn-augmented": "cnn-augmented"}

_READING = Reading()


def transfer(
    *,
    weights: str = "",
    reading: Flags = _READING,
    data: DataConfig = PRESETS["fine-tune"].data,
    seeds: tuple[int, ...] = (0, 1, 2),
    head_epochs: int = PRESETS["new-head"].train.epochs,
    fine_tune_epochs: int = PRESETS["fine-tune"].train.epochs,
    small_epochs: int = 40,
    run: Path = Path("runs/transfer"),
    resume: bool = False,
    fresh: bool = False,
) -> None:
    """Learn other classes from few images: a trained VGG against a small CNN.

    Args:
        weights: The weights file of a VGG, vgg16 or vgg16-mini, which are part of the package, or imagenet (downloaded
            and kept). Empty uses vgg16-mini.
        data: Where the images come from. The procedural source renders fox and axe unless --data.classes names others.
        seeds: Each fixes the initial weights, the order of the images, dropout and augmentation. The images stay those
            of --data.seed.
        head_epochs: Passes over the features of the images and of their mirror images.
        fine_tune_epochs: Passes over the augmented images.
        small_epochs: Epochs of the small CNN, of 50 steps each; 15 without a lower validation loss end its training.
        run: The folder of the runs: seed-N/head and so on, with summary.json and curves.png beside them.
        resume: Continue the runs in the folder.
        fresh: Delete the runs in the folder first.
    """
    if resume and fresh:
        raise UserError("--resume continues runs and --fresh deletes them: give one of them")
    if not seeds:
        raise UserError("--seeds names no seed: give one or more")
    _check_numbers(seeds, {"head": head_epochs, "fine_tune": fine_tune_epochs, "small": small_epochs})
    base = _base(weights, reading)
    size = data.image_size if isinstance(data.image_size, tuple) else (data.image_size, data.image_size)
    transfer_.check_base(base, size)
    if data.source == "procedural" and not data.classes:
        data = replace(data, classes=NEW_CLASSES)
    data = data.with_rendering()
    epochs = {"head": head_epochs, "fine-tune": fine_tune_epochs, "small-cnn": small_epochs}
    origin: dict[str, Any] = {"weights": weights or "vgg16-mini", "digest": base.digest}
    plan = {seed: _configs(base, data, seed, run / f"seed-{seed}", epochs) for seed in seeds}
    with ExitStack() as locks:
        for name, config in (pair for configs in plan.values() for pair in configs.items()):
            locks.enter_context(run_dir.withdrawn_if_refused(Path(config.run)))
            locks.enter_context(run_lock.locked(Path(config.run)))
            more = {"base": origin} if name == "head" else {}
            prepare(Path(config.run), config, resume=resume, fresh=fresh, more=more)
        _compare(base.replace(provenance=origin), plan, data, run, resume)


def _check_numbers(seeds: Sequence[int], epochs: Mapping[str, int]) -> None:
    """Raises UserError for numbers of epochs and seeds that no run can have."""
    for name, number in epochs.items():
        if number < 1:
            raise UserError(f"{name}_epochs={number} must be at least 1")
    for seed in seeds:
        limits.check_seed(seed, "--seeds ")


def _base(weights: str, reading: Reading) -> Network:
    """The convolutions of a VGG. Raises UserError for another network, and says how else it learns other classes."""
    try:
        return load(weights, reading, False)
    except UserError as error:
        if not str(error).endswith(NEEDS_TOP):
            raise
        raise UserError(
            f"{error}; to train this one on with other classes use cnnjax train cnn --train.init-from {weights}, with "
            "its --model.name and --model.width-multiplier"
        ) from error


def _compare(
    base: Network, plan: Mapping[int, Mapping[str, Config]], data: DataConfig, run: Path, resume: bool
) -> None:
    """Train all runs, print and draw what they have reached."""
    folders = [Path(config.run) for configs in plan.values() for config in configs.values()]
    dataset = build.dataset(data, given_to(folders, resume))
    _check_batches(plan, dataset)
    results = _train_all(base, plan, dataset, resume)
    summary = {name: _summary(found) for name, found in results.items()}
    write_json(run / "summary.json", summary)
    for name, row in summary.items():
        columns = (f"{column} {metrics.describe_mean_std(value, is_share=True)}" for column, value in row.items())
        print(f"{TITLES[name]:34}" + "   ".join(columns))
    figure = _draw(results, summary, run / "curves.png")
    print(printable(f"wrote {figure}, {run / 'summary.json'} and each seed's runs beside them"))


def _check_batches(plan: Mapping[int, Mapping[str, Config]], dataset: sources.Dataset) -> None:
    """Raises UserError, before any run, where one of them needs more images for a batch than there are."""
    largest = max(config.train.batch_size for configs in plan.values() for config in configs.values())
    count, classes = len(dataset.train), len(dataset.class_names)
    if largest > count:
        raise UserError(
            f"the runs take up to {largest} images a step, and there are {count} for training: use --data.per-class "
            f"{max(1, count // classes)}, with which they take fewer, or add images"
        )


def _configs(base: Network, data: DataConfig, seed: int, folder: Path, epochs: Mapping[str, int]) -> dict[str, Config]:
    """The four runs of one seed, in order."""
    configs = {}
    for name, preset in _PRESETS.items():
        config = PRESETS[preset]
        train = replace(config.train, epochs=epochs[name.removesuffix("-augmented")], seed=seed)
        if data.per_class:  # there are at least two classes of so many images
            train = replace(train, batch_size=min(train.batch_size, 2 * data.per_class))
        model, images, optimizer = config.model, data, config.optimizer
        if name.startswith("small"):
            batch_size = min(train.batch_size, data.per_class or train.batch_size)
            train = replace(train, steps_per_epoch=SMALL_STEPS, batch_size=batch_size, early_stopping_patience=15)
            warmup_steps = min(optimizer.warmup_steps or build.WARMUP_STEPS, train.epochs * SMALL_STEPS)
            optimizer = replace(optimizer, warmup_steps=warmup_steps)
        else:
            own = base.config or {}
            model = replace(model, name=own["name"], width_multiplier=own["width_multiplier"])
            if base.normalizer.kind in ("none", "mean", "standard", "zca"):
                images = replace(data, normalization=base.normalizer.kind)  # the weights bring theirs
        if name == "fine-tune":
            train = replace(train, init_from=str(folder / "head" / "weights.safetensors"))
        changed = {"data": images, "model": model, "optimizer": optimizer, "train": train}
        configs[name] = replace(config, **changed, run=str(folder / name))
    return configs


def _train_all(
    base: Network, plan: Mapping[int, Mapping[str, Config]], dataset: sources.Dataset, resume: bool
) -> dict[str, dict[int, Result]]:
    """All runs of all seeds: name -> seed -> result."""
    results: dict[str, dict[int, Result]] = {name: {} for name in TITLES}
    features = None
    for seed, configs in plan.items():
        model = configs["head"].model
        height, width, _ = sources.image_shape(dataset.train)
        network = transfer_.replace_head(
            base,
            dataset.class_names,
            image_size=(height, width),
            dense_units=model.dense_units or None,
            dropout=model.dropout,
            seed=seed,
        )
        for name, config in configs.items():
            print(f"{TITLES[name]}, seed {seed}")
            folder = Path(config.run)
            done = _finished(name, config, network) if resume else None
            if done is not None:
                results[name][seed] = done
            elif name == "head":
                # The features do not depend on the head.
                features = features or transfer_.extract_features(network, dataset)
                optimizer = build.optimizer(config, build.total_steps(config, features))
                options = build.fit_options(config, features)
                options["config"] |= {"base": dict(base.provenance)}
                results[name][seed] = transfer_.fit_head(
                    network, features, optimizer, run_dir=folder, resume=resume, **options
                )
            else:
                results[name][seed] = build.fit(config, dataset, folder, resume=resume)
    return results


def _finished(name: str, config: Config, network: Network) -> Result | None:
    """What a finished run left, or None if it is to be trained, or its weights to be written again."""
    folder, train = Path(config.run), config.train
    history = run_dir.finished(folder, train.epochs, train.early_stopping_patience)
    if history is None:
        return None
    if name != "head":
        return load_intact(folder, history, network)
    try:
        return load_result(folder, history, network)
    except UserError:  # a command that was ended before `fit_head` wrote the whole network left the head alone
        return None


def _draw(results: Mapping[str, Mapping[int, Result]], summary: Mapping[str, Any], path: Path) -> Path:
    """The mean curves of the head, of fine-tuning and of the better small network."""
    small = max(("small-cnn", "small-cnn-augmented"), key=lambda name: summary[name]["test accuracy"]["mean"])
    shown = {name: [result.history for result in results[name].values()] for name in ("head", "fine-tune", small)}
    return figures.curves({TITLES[name]: _mean(histories) for name, histories in shown.items()}, path)


def _summary(results: Mapping[int, Result]) -> dict[str, Any]:
    """Over the seeds, with the parameters of the lowest validation loss."""
    best = {seed: metrics.best(result.history) for seed, result in results.items()}
    return {
        "validation accuracy": metrics.mean_std({seed: row["valid_accuracy"] for seed, row in best.items()}),
        "test accuracy": metrics.mean_std({seed: result.test["accuracy"] for seed, result in results.items()}),
    }


def _mean(histories: Sequence[Sequence[EpochMetrics]]) -> list[EpochMetrics]:
    """The mean over the seeds of every epoch that all of them have."""
    rows = zip(*histories, strict=False)
    return [{name: statistics.fmean(row[name] for row in same) for name in same[0]} for same in rows]
