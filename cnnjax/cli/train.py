"""The command `train`: a preset, any of its values changed by flags, into a run's folder."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnjax import distributed
from cnnjax.cli import build, groups, renamed
from cnnjax.cli.check import check
from cnnjax.cli.config import Config, DistributedConfig
from cnnjax.cli.config_json import as_dict
from cnnjax.cli.presets import PRESETS
from cnnjax.distributed import print_once, run_all_or_raise, run_on_primary
from cnnjax.errors import UserError, missing
from cnnjax.files import read_text, write_json
from cnnjax.printable import printable
from cnnjax.train import metrics, run_dir, run_lock, schedules
from cnnjax.train.loop import Result
from cnnjax.train.sweeps import summarize

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

    In place of a preset, the config.json of an earlier run gives its settings.

    The run's folder is that of --run, or runs/PRESET. In it are:

      config.json          every setting
      data.json            which image files each split has, of a folder
      metrics.jsonl        the numbers of each epoch
      curves.png           loss and accuracy, of training and validation
      checkpoints/         what --resume continues from
      input.safetensors    the classes, and how images are normalized
      weights.safetensors  the network of the best epoch
      test.json            its results on the test images

    Args:
        resume: Continue the run in the folder.
        fresh: Delete the run in the folder first.
        seeds: Repeat the training with each of these seeds, into RUN/seed-N.
        distributed: Several hosts that train together.
    """
    connect(distributed)
    if resume and fresh:
        raise UserError("--resume continues a run and --fresh deletes it: give one of them")
    folder = Path(config.run or f"runs/{preset}")
    if resume and not folder.exists():
        raise missing("there is no run to resume in", folder, "leave out --resume, or name another --run")
    config = for_files(preset, config)
    run_all_or_raise(partial(check, config, resume=resume))
    runs = {}
    for seed in seeds or (config.train.seed,):
        place = folder / f"seed-{seed}" if seeds else folder
        runs[place] = groups.with_place(config, place, seed)
    with ExitStack() as locks:
        for place, one in runs.items():
            locks.enter_context(run_dir.withdrawn_if_refused(place))
            locks.enter_context(run_lock.locked(place))
            prepare(place, one, resume=resume, fresh=fresh)
        _train(runs, folder if seeds else None, resume)


def _train(runs: Mapping[Path, Config], together: Path | None, resume: bool) -> None:
    """Train each run in its folder, and summarize them in the folder `together`."""
    outcomes = {runs[place].train.seed: outcome for place, outcome in groups.fit_all(runs, resume=resume).items()}
    results = {seed: outcome for seed, outcome in outcomes.items() if isinstance(outcome, Result)}
    if together is not None and results:
        summary = summarize(results)
        run_on_primary(write_json, together / "summary.json", summary)
        print_once(f"{_table(summary)}\nwrote {printable(together / 'summary.json')}")
    for outcome in outcomes.values():
        if not isinstance(outcome, Result):
            raise outcome


def for_files(preset: str, config: Config) -> Config:
    """The config without what a preset says of rendered images or of its own length, where these are others.

    These are the classes, if the images come from elsewhere, and the steps of a warm-up, if they do, if the run is too
    short for it or if another schedule has none. The renderer's version is filled in. Raises UserError for ranges of
    augmentation that are changed while it is off.
    """
    config = replace(config, data=config.data.with_rendering())
    usual = PRESETS.get(preset)
    if usual is None:
        return config
    _check_augmentation(usual, config)
    rendered = config.data.source == "procedural"
    if not rendered and config.data.classes and config.data.classes == usual.data.classes:
        config = replace(config, data=replace(config.data, classes=()))
    warmup_steps = config.optimizer.warmup_steps
    of_preset = warmup_steps and warmup_steps == usual.optimizer.warmup_steps
    has_room = rendered and warmup_steps and warmup_steps < build.rendered_steps(config)
    if of_preset and not (has_room and config.optimizer.schedule in schedules.WITH_WARMUP):
        config = replace(config, optimizer=replace(config.optimizer, warmup_steps=None))
    return config


def _check_augmentation(usual: Config, config: Config) -> None:
    """Raises UserError for a flag that has no effect, because the training images are not transformed."""
    names = [part.name for part in fields(config.augment) if part.name != "enabled"]
    changed = [name for name in names if getattr(config.augment, name) != getattr(usual.augment, name)]
    if changed and not config.augment.enabled:
        flags = " and ".join(f"--augment.{name}" for name in changed)
        verb = "has" if len(changed) == 1 else "have"
        raise UserError(f"{flags} {verb} no effect without augmentation: add --augment.enabled, or leave it out")


def prepare(
    folder: Path, config: Config, *, resume: bool, fresh: bool, more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Refuse a folder that cannot be used before any image is loaded; with `fresh` delete the run in it first.

    more: settings that are recorded beside those of the config.
    """
    if fresh:
        run_on_primary(run_dir.clear, folder)
    run_on_primary(_prepare, folder, as_dict(config) | dict(more), resume)


def _prepare(folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    if resume and _is_first_edition(folder) and not (folder / "test.json").exists():
        raise UserError(
            f"{folder} was begun by an older version of cnnjax, whose checkpoints cannot be continued: start over with "
            f"--fresh, or start a new run from its weights with --train.init-from {folder}"
        )
    try:
        run_dir.prepare(folder, settings, resume)
    except UserError as error:
        hint = "" if resume or not (folder / "config.json").exists() else "; --fresh deletes it and starts over"
        raise UserError(f"{error}{hint}") from error


def _is_first_edition(folder: Path) -> bool:
    try:
        values = json.loads(read_text(folder / "config.json"))
    except (OSError, ValueError):
        return False
    data = values.get("data") if isinstance(values, dict) else None
    return isinstance(data, dict) and not data.keys().isdisjoint(renamed.FIELDS["DataConfig"])


def connect(hosts: DistributedConfig) -> None:
    """Find the other hosts that train together, if there are any."""
    distributed.initialize(hosts.coordinator, hosts.count, hosts.index, hosts.connect_timeout)


def _table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    shown = ((name, metrics.describe_mean_std(row, "accuracy" in name)) for name, row in summary.items())
    return "\n".join(f"{name:40}{text}" for name, text in shown)
