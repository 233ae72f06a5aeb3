"""The command `sweep`: a preset for every combination of some values, and for several seeds."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from cnnjax.cli import groups
from cnnjax.cli.check import check
from cnnjax.cli.config import Config, DistributedConfig
from cnnjax.cli.train import connect, for_files, prepare
from cnnjax.distributed import print_once, run_all_or_raise, run_on_primary
from cnnjax.errors import UserError, missing, unknown
from cnnjax.printable import format_value, printable
from cnnjax.train import metrics, run_dir, run_lock, sweeps

NAMED = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
_ALONE = DistributedConfig()
_SAME = run_dir.RESUME_MUTABLE - {"early_stopping_patience", "microbatches", "run"}
_STACKED = {"auto": None, "yes": True, "no": False}


def sweep(
    preset: str,
    config: Config,
    *,
    over: NAMED = (),
    seeds: tuple[int, ...] = (),
    stacked: Literal["auto", "yes", "no"] = "auto",
    resume: bool = False,
    fresh: bool = False,
    distributed: DistributedConfig = _ALONE,
) -> None:
    """Train a preset for every combination of some values, and for several seeds.

    For example, nine networks of three learning rates and three seeds:

      cnnjax sweep cnn --over optimizer.learning-rate 1e-4 3e-4 1e-3 \\
          --seeds 0 1 2

    Several --over make a grid. A table of means and deviations is printed.

    The folder is that of --run, or runs/PRESET-sweep. In it are:

      sweep.json, sweep.csv, sweep.md  means, deviations and every number
      sweep.png                        results against the first swept field
      FIELD-VALUE/seed-N/              the run of each network

    Args:
        over: A field and its values, such as optimizer.learning-rate 1e-4 3e-4 1e-3. In a value that consists of
            several, commas join these, such as train.freeze block1,block2.
        seeds: Train each combination with each of these seeds.
        stacked: yes trains networks that differ in seed, learning rate, weight decay, momentum or clipping all at once,
            in one stack; no trains them one after another, with one compiled program. auto is yes on accelerators.
        resume: Continue the runs in the folder, and start those that are not there.
        fresh: Delete the runs of these combinations in the folder first.
        distributed: Several hosts that train together.
    """
    connect(distributed)
    if resume and fresh:
        raise UserError("--resume continues runs and --fresh deletes them: give one of them")
    if not over:
        raise UserError("--over is missing: name what is swept, such as --over optimizer.learning-rate 1e-4 1e-3")
    folder = Path(config.run or f"runs/{preset}-sweep")
    if resume and not folder.exists():
        raise missing("there is no sweep to resume in", folder, "leave out --resume, or name another --run")
    chosen = parse(over)
    seeds = seeds or (config.train.seed,)
    sweeps.check_grid(chosen, seeds)
    combinations = [sweeps.Combination(values) for values in sweeps.grid(chosen)]
    names = sweeps.folder_names([one.values for one in combinations])
    runs: dict[Path, Config] = {}
    places: dict[Path, tuple[sweeps.Combination, int]] = {}
    for one, name in zip(combinations, names, strict=True):
        changed = for_files(preset, with_values(config, one.values))
        run_all_or_raise(partial(check, changed, resume=resume))
        for seed in seeds:
            place = folder / name / f"seed-{seed}"
            runs[place], places[place] = groups.with_place(changed, place, seed), (one, seed)
    with ExitStack() as locks:
        for place, changed in runs.items():
            locks.enter_context(run_dir.withdrawn_if_refused(place))
            locks.enter_context(run_lock.locked(place))
            prepare(place, changed, resume=resume, fresh=fresh)
        for place, outcome in groups.fit_all(runs, resume=resume, stacked=_STACKED[stacked]).items():
            one, seed = places[place]
            one.add(seed, outcome)
    found = sweeps.Sweep(combinations)
    written = run_on_primary(lambda: ", ".join(map(str, found.write(folder))))
    print_once(f"\n{found.text()}\n{_best(found)}\nwrote {printable(written)}")


def _best(found: sweeps.Sweep) -> str:
    best = found.best()
    if best is None:
        return "every run diverged: sweep smaller learning rates"
    values = ", ".join(f"{name} {format_value(value)}" for name, value in best.values.items())
    accuracy = metrics.describe_mean_std(best.summary()[sweeps.TEST_ACCURACY], is_share=True)
    return f"the lowest validation loss has {values}, with a test accuracy of {accuracy}"


def parse(over: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    """Field -> values, from the command line's words. Raises UserError for a field or value that does not exist."""
    known, found = fields(Config), {}
    for words in over:
        if not words:
            raise UserError("--over names no field: write --over optimizer.learning-rate 1e-4 1e-3, for example")
        name = words[0].removeprefix("--").replace("_", "-")
        if name not in known:
            same = [field for field in known if field.rpartition(".")[2] == name]
            raise unknown("field to sweep", words[0], [repr(field) for field in same or known])
        last = name.rpartition(".")[2].replace("-", "_")
        if name == "train.seed":
            raise UserError("--over train.seed is written --seeds: use --seeds 0 1 2, for example")
        if name == "run" or last in _SAME:
            reason = "it is where the runs are written" if name == "run" else "results do not depend on it"
            raise UserError(f"--over {name} cannot be swept, because {reason}: sweep another field")
        if name in found:
            raise UserError(f"--over {name} is given twice: give all its values together")
        if len(words) < 2:
            raise UserError(f"--over {name} has no values: write them after the name")
        found[name] = [_value(name, known[name], word) for word in words[1:]]
    return found


def fields(kind: type, prefix: str = "") -> dict[str, Any]:
    """Every field of a config as it is written after --over, and its type."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        written = prefix + name.replace("_", "-")
        found |= fields(hint, f"{written}.") if dataclasses.is_dataclass(hint) else {written: hint}
    return found


def _value(name: str, hint: Any, word: str) -> Any:
    """A word as a value of the type; the config itself checks its range."""
    found = list(_readings(hint, word))
    if not found:
        raise UserError(f"--over {name} does not accept {word!r}: give {_describe(hint)}")
    return found[0]


def _readings(hint: Any, word: str) -> Iterator[Any]:
    """The values that the word may mean, the likeliest first."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        yield from (part for part in parts if str(part) == word)
    elif origin in (types.UnionType, typing.Union):
        for part in parts:
            yield from _readings(part, word)
    elif origin is tuple:
        words = word.split(",") if word else []
        kinds = parts[:1] * len(words) if parts[1:] == (...,) else parts
        values = [list(_readings(kind, one)) for kind, one in zip(kinds, words, strict=False)]
        if len(kinds) == len(words) and all(values):
            yield tuple(some[0] for some in values)
    elif hint is types.NoneType:
        if word.lower() == "none":
            yield None
    elif hint is bool:
        if word.lower() in ("true", "false"):
            yield word.lower() == "true"
    elif hint in (int, float):
        try:
            yield hint(word)
        except ValueError:
            return
    else:
        yield word


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(part) for part in parts)
    if origin is tuple:
        return "values joined by commas"
    names = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "none"}
    return names.get(hint, "text")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with some fields changed, named as after --over. Raises UserError for values out of range."""
    for name, value in values.items():
        section, _, last = name.replace("-", "_").rpartition(".")
        part = dataclasses.replace(getattr(config, section), **{last: value})
        config = dataclasses.replace(config, **{section: part})
    return config
