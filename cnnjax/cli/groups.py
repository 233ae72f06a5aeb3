"""Runs of several configs: those that one compiled program can serve are trained by one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cnnjax.cli import build
from cnnjax.cli.config import Config, DataConfig
from cnnjax.cli.config_json import as_dict
from cnnjax.data.dataset import Dataset
from cnnjax.data.inventory import Inventory
from cnnjax.distributed import print_once, run_all_or_raise, run_on_primary
from cnnjax.errors import Diverged
from cnnjax.printable import printable
from cnnjax.train import by_class, diagnosis, metrics, run_data, run_dir
from cnnjax.train.loop import Result
from cnnjax.train.members import Member, fit_members
from cnnjax.train.stack import Outcome


def fit_all(runs: Mapping[Path, Config], *, resume: bool, stacked: bool | None = None) -> dict[Path, Outcome]:
    """Train each run in its folder, which is prepared, and print what each gave. Several share a program where one
    can serve them.

    stacked: see `train.fit_members`.
    """
    outcomes: dict[Path, Outcome] = {}
    loaded: tuple[DataConfig, Dataset] | None = None
    for group in divide(runs):
        first = next(iter(group.values()))
        if loaded is None or loaded[0] != first.data:
            loaded = None  # two sets of images need not be in memory at once
            same = [place for place, config in runs.items() if config.data == first.data]
            loaded = first.data, _load(first, given_to(same, resume))
        dataset = loaded[1]
        for place, outcome in zip(group, _outcomes(group, dataset, resume, stacked, len(runs)), strict=True):
            outcomes[place] = outcome
            _report(place, outcome, dataset)
    return outcomes


def divide(runs: Mapping[Path, Config]) -> list[dict[Path, Config]]:
    """The runs in groups, each of which one program can serve, in the order of their first runs."""
    groups: dict[str, dict[Path, Config]] = {}
    for place, config in runs.items():
        groups.setdefault(_program(config), {})[place] = config
    return list(groups.values())


def _program(config: Config) -> str:
    """What of a config decides about the program. A number that is 0 switches a part of the optimizer off."""
    values = as_dict(config)
    values["run"], values["train"]["seed"] = "", 0
    for name, value in build.hyperparams(config).items():
        values["optimizer"][name] = bool(value)
    return json.dumps(values, sort_keys=True)


def _load(config: Config, inventory: Inventory | None) -> Dataset:
    dataset = run_all_or_raise(build.dataset, config.data, inventory)
    if found := build.describe(config.data, dataset):
        print_once(printable(found))
    return dataset


def _outcomes(
    group: dict[Path, Config], dataset: Dataset, resume: bool, stacked: bool | None, count: int
) -> list[Outcome]:
    """Of the runs of a group; a run that diverges does not end the others, of which there are `count` in all."""
    try:
        return _fit_group(group, dataset, resume, stacked)
    except Diverged as error:  # a group of one run is an ordinary `fit`
        if count == 1:
            raise
        return [error]


def _fit_group(runs: Mapping[Path, Config], dataset: Dataset, resume: bool, stacked: bool | None) -> list[Outcome]:
    first = next(iter(runs.values()))
    steps = build.total_steps(first, dataset)
    if found := build.describe_warmup(first, steps):
        print_once(found)
    if len(runs) == 1 and not stacked:
        return [build.fit(first, dataset, next(iter(runs)), resume=resume)]
    numbers = [build.hyperparams(config) for config in runs.values()]
    varied = {name for name in numbers[0] if len({some[name] for some in numbers}) > 1}
    members = []
    for (place, config), some in zip(runs.items(), numbers, strict=True):
        begun = place if resume and run_dir.has_results(place) else None
        network = build.network(config, dataset, begun)
        own = {name: value for name, value in some.items() if name in varied}
        members.append(Member(network, own, config.train.seed, place, as_dict(config)))
    options: dict[str, Any] = build.fit_options(first, dataset)
    for name in ("seed", "config"):
        del options[name]
    return fit_members(
        members, dataset, partial(build.optimizer, first, steps), stacked=stacked, resume=resume, **options
    )


def given_to(folders: Iterable[Path], resume: bool) -> Inventory | None:
    """The files that the first of these runs which has begun was given; None for new runs."""
    found = (run_data.read_inventory(folder) for folder in folders if resume and run_dir.has_results(folder))
    return next((inventory for inventory in found if inventory is not None), None)


def _report(place: Path, outcome: Outcome, dataset: Dataset) -> None:
    if not isinstance(outcome, Result):
        print_once(f"warning: {printable(f'{place}: {outcome}')}")
        return
    print_once(printable(f"{place}: {describe(outcome)}"))
    for sentence in run_on_primary(lambda: _diagnose(outcome, dataset)).splitlines():
        print_once(f"warning: {sentence}")
    print_once(printable(f"wrote {', '.join(str(place / name) for name in written(place))}"))


def describe(result: Result) -> str:
    """A finished run in a sentence."""
    test = result.test
    # That of the weights: the best one's checkpoint may have been damaged.
    best = next((row for row in result.history if row["epoch"] == test.get("epoch")), metrics.best(result.history))
    more = ""
    if "accuracy_by_class" in test:
        shares = test["accuracy_by_class"] | {"balanced_accuracy": test["balanced_accuracy"]}
        more = f"; {by_class.describe(shares, test['count_by_class'])}"
    epochs = len(result.history)
    kept = "its only epoch has" if epochs == 1 else f"the best of {epochs} epochs is number {best['epoch']:.0f}, with"
    return (
        f"{kept} a validation accuracy of {best['valid_accuracy']:.1%}; "
        f"the test accuracy is {test['accuracy']:.1%} on {test['count']:.0f} images{more}"
    )


def written(folder: Path) -> list[str]:
    """What a run has left in its folder, the weights first."""
    names = ["weights.safetensors", *(name for name in run_dir.CONTENTS if name != "weights.safetensors")]
    return [name for name in names if (folder / name).exists()]


def _diagnose(result: Result, dataset: Dataset) -> str:
    flags = {"train.seed": "--train.seed", "learning_rate": "--optimizer.learning-rate"}
    text = "\n".join(diagnosis.diagnose(result.history, result.network, dataset))
    for name, flag in flags.items():
        text = text.replace(name, flag)
    return text.replace("schedule='warmup'", "--optimizer.schedule warmup")


def with_place(config: Config, place: Path, seed: int) -> Config:
    """The config of one run."""
    return replace(config, run=str(place), train=replace(config.train, seed=seed))
