"""The command `train`: a preset, any of its values changed by flags, into a run's folder."""

import json
import statistics
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnjax import distributed
from cnnjax.cli import build, renamed
from cnnjax.cli.config import Config, DistributedConfig, as_dict
from cnnjax.cli.presets import PRESETS
from cnnjax.data.dataset import Dataset
from cnnjax.data.inventory import Inventory
from cnnjax.distributed import print_once, run_all_or_raise, run_on_primary
from cnnjax.errors import UserError
from cnnjax.files import write_json
from cnnjax.printable import printable
from cnnjax.train import by_class, diagnosis, metrics, run_data, run_dir, run_lock
from cnnjax.train.loop import Result

_ALONE = DistributedConfig()


def train(
    preset: str,
    config: Config,
    *,
    resume: bool = False,
    fresh: bool = False,
    seeds: tuple[int, ...] = (),
    distributed: DistributedConfig = _ALONE,
) -> None:
    """Train a network: a preset, with any of its values changed by flags.

    Args:
        resume: Continue the run in the folder.
        fresh: Delete the run in the folder first.
        seeds: Repeat the training with each of these seeds, into RUN/seed-N.
        distributed: Several hosts that train together.
    """
    _connect(distributed)
    if resume and fresh:
        raise UserError("--resume continues a run and --fresh deletes it: give one of them")
    folder = Path(config.run or f"runs/{preset}")
    if resume and not folder.exists():
        raise UserError(f"there is no run {folder} to resume: leave out --resume, or name another --run")
    config = _for_files(preset, config)
    build.check(config)
    runs = {}
    for seed in seeds or (config.train.seed,):
        place = folder / f"seed-{seed}" if seeds else folder
        runs[place] = replace(config, run=str(place), train=replace(config.train, seed=seed))
    with ExitStack() as locks:
        for place, one in runs.items():
            locks.enter_context(run_lock.locked(place))
            prepare(place, one, resume=resume, fresh=fresh)
        _train(config, runs, folder if seeds else None, resume)


def _train(config: Config, runs: Mapping[Path, Config], together: Path | None, resume: bool) -> None:
    """Train each run in its folder, and summarize them in the folder `together`."""
    dataset = run_all_or_raise(build.dataset, config.data, given_to(runs, resume))
    if found := build.describe(config.data, dataset):
        print_once(printable(found))
    if dataset.skipped:
        print_once(printable(f"left out {len(dataset.skipped)} unreadable images: {', '.join(dataset.skipped[:5])}"))
    results = {}
    for place, one in runs.items():
        result = results[one.train.seed] = build.fit(one, dataset, place, resume=resume)
        print_once(printable(f"{place}: {describe(result)}"))
        for sentence in run_on_primary(lambda result=result: _diagnose(result, dataset)).splitlines():
            print_once(f"warning: {sentence}")
        print_once(f"wrote {', '.join(str(place / name) for name in written(place))}")
    if together is not None:
        summary = summarize(results)
        run_on_primary(write_json, together / "summary.json", summary)
        print_once(f"{_table(summary)}\nwrote {together / 'summary.json'}")


def _for_files(preset: str, config: Config) -> Config:
    """The config without what a preset says of rendered images, where they come from elsewhere.

    These are the classes, and the steps of a warm-up, which follow from the number of images.
    """
    usual = PRESETS.get(preset)
    if usual is None or config.data.source == "procedural":
        return config
    if config.data.classes and config.data.classes == usual.data.classes:
        config = replace(config, data=replace(config.data, classes=()))
    if config.optimizer.warmup_steps and config.optimizer.warmup_steps == usual.optimizer.warmup_steps:
        config = replace(config, optimizer=replace(config.optimizer, warmup_steps=None))
    return config


def given_to(folders: Iterable[Path], resume: bool) -> Inventory | None:
    """The files that the first of these runs which has begun was given; None for new runs."""
    found = (run_data.read_inventory(folder) for folder in folders if resume and run_dir.has_results(folder))
    return next((inventory for inventory in found if inventory is not None), None)


def prepare(folder: Path, config: Config, *, resume: bool, fresh: bool) -> None:
    """Refuse a folder that cannot be used before any image is loaded; with `fresh` delete the run in it first."""
    if fresh:
        run_on_primary(run_dir.clear, folder)
    run_on_primary(_prepare, folder, config, resume)


def _prepare(folder: Path, config: Config, resume: bool) -> None:
    if resume and _is_first_edition(folder) and not (folder / "test.json").exists():
        raise UserError(
            f"{folder} was begun by an older version of cnnjax, whose checkpoints cannot be continued: start over with "
            f"--fresh, or start a new run from its weights with --train.init-from {folder}"
        )
    try:
        run_dir.prepare(folder, as_dict(config), resume)
    except UserError as error:
        hint = "" if resume or not (folder / "config.json").exists() else "; --fresh deletes it and starts over"
        raise UserError(f"{error}{hint}") from error


def _is_first_edition(folder: Path) -> bool:
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    data = values.get("data") if isinstance(values, dict) else None
    return isinstance(data, dict) and not data.keys().isdisjoint(renamed.FIELDS["DataConfig"])


def describe(result: Result) -> str:
    """A finished run in a sentence."""
    test = result.test
    # That of the weights: the best one's checkpoint may have been damaged.
    best = next((row for row in result.history if row["epoch"] == test.get("epoch")), metrics.best(result.history))
    more = ""
    if "accuracy_by_class" in test:
        shares = test["accuracy_by_class"] | {"balanced_accuracy": test["balanced_accuracy"]}
        more = f"; {by_class.describe(shares, test['count_by_class'])}"
    return (
        f"the best of {len(result.history)} epochs is number {best['epoch']:.0f}, with a validation accuracy of "
        f"{best['valid_accuracy']:.1%}; the test accuracy is {test['accuracy']:.1%} on {test['count']:.0f} images{more}"
    )


def written(folder: Path) -> list[str]:
    """What a run has left in its folder, the weights first."""
    names = ["weights.safetensors", *(name for name in run_dir.CONTENTS if name != "weights.safetensors")]
    return [name for name in names if (folder / name).exists()]


def summarize(results: Mapping[int, Result]) -> dict[str, Any]:
    """Mean and (sample) standard deviation over the seeds."""
    columns = {
        "training loss at the end": [_end(r, "train_loss") for r in results.values()],
        "training accuracy at the end": [_end(r, "train_accuracy") for r in results.values()],
        "validation loss at its lowest": [metrics.best(r.history)["valid_loss"] for r in results.values()],
        "validation loss at the end": [_end(r, "valid_loss") for r in results.values()],
        "validation accuracy at the lowest loss": [metrics.best(r.history)["valid_accuracy"] for r in results.values()],
        "validation accuracy at the end": [_end(r, "valid_accuracy") for r in results.values()],
        "test accuracy at the lowest loss": [r.test["accuracy"] for r in results.values()],
    }
    return {name: metrics.mean_std(dict(zip(results, values, strict=True))) for name, values in columns.items()}


def _diagnose(result: Result, dataset: Dataset) -> str:
    flags = {"train.seed": "--train.seed", "learning_rate": "--optimizer.learning-rate"}
    text = "\n".join(diagnosis.diagnose(result.history, result.network, dataset))
    for name, flag in flags.items():
        text = text.replace(name, flag)
    return text.replace("schedule='warmup'", "--optimizer.schedule warmup")


def _connect(hosts: DistributedConfig) -> None:
    distributed.initialize(hosts.coordinator, hosts.count, hosts.index, hosts.connect_timeout)


def _end(result: Result, name: str) -> float:
    """The mean of the last five epochs: at a constant learning rate single ones vary by points."""
    return statistics.fmean(row[name] for row in result.history[-5:])


def _table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(f"{name:40}{row['mean']:8.3f} ± {row['deviation']:.3f}" for name, row in summary.items())
