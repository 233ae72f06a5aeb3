"""Sweeps: a network trained for every combination of some values and for several seeds, and the tables of results."""

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optax

from cnnjax import files
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.printable import format_value
from cnnjax.train import loop, metrics
from cnnjax.train.members import Member, fit_members
from cnnjax.train.results import Result
from cnnjax.train.stack import Outcome

VALID_LOSS, VALID_ACCURACY = "validation loss at its lowest", "validation accuracy at the lowest loss"
TEST_ACCURACY = "test accuracy at the lowest loss"
_SHOWN = {VALID_LOSS: "validation loss", VALID_ACCURACY: "validation accuracy", TEST_ACCURACY: "test accuracy"}


@dataclass
class Combination:
    """One value of each swept setting, and what it gave: results, or sentences of runs that diverged, by seed."""

    values: Mapping[str, Any]
    results: dict[int, Result] = field(default_factory=dict)
    diverged: dict[int, str] = field(default_factory=dict)

    def add(self, seed: int, outcome: Outcome) -> None:
        """Take what the run of a seed gave."""
        if isinstance(outcome, Result):
            self.results[seed] = outcome
        else:
            self.diverged[seed] = str(outcome)

    def summary(self) -> dict[str, metrics.MeanStd]:
        """Mean and sample standard deviation over the seeds that did not diverge; see `summarize`."""
        return summarize(self.results)


@dataclass(frozen=True)
class Sweep:
    """All combinations, in the order of the grid, whose last setting varies fastest."""

    combinations: list[Combination]

    def best(self) -> Combination | None:
        """The combination of the lowest mean validation loss, among those of which no run diverged, if there are any.

        None if every run diverged.
        """
        some = [one for one in self.combinations if one.results]
        whole = [one for one in some if not one.diverged] or some
        return min(whole, key=lambda one: one.summary()[VALID_LOSS]["mean"], default=None)

    def as_dict(self) -> dict[str, Any]:
        """What `sweep.json` holds."""
        best = self.best()
        rows = [
            {"values": dict(one.values), "diverged": {str(seed): said for seed, said in one.diverged.items()}}
            | {"metrics": one.summary(), "best": one is best}
            for one in self.combinations
        ]
        return {"combinations": rows}

    def rows(self) -> list[list[str]]:
        """The table: a row of names, then one for each combination; the best is marked in the last column."""
        columns = [name for name in _SHOWN if any(name in one.summary() for one in self.combinations)]
        rows = [[*self.combinations[0].values, "runs", *(_SHOWN[name] for name in columns), ""]]
        best = self.best()
        for one in self.combinations:
            found, runs = one.summary(), str(len(one.results))
            if one.diverged:
                runs += f", {len(one.diverged)} diverged"
            numbers = [_number(found.get(name), "accuracy" in name) for name in columns]
            rows.append([*map(format_value, one.values.values()), runs, *numbers, "best" if one is best else ""])
        return rows

    def text(self) -> str:
        """The table in aligned columns."""
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """The table in Markdown."""
        head, *body = [[cell.replace("|", "\\|") for cell in row] for row in self.rows()]
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)) + "\n"

    def csv(self) -> str:
        """Every number: a line for each combination and seed, whose numbers are empty where the run diverged."""
        summaries = [one.summary() for one in self.combinations]
        names = list(dict.fromkeys(name for found in summaries for name in found))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.combinations[0].values, "seed", *names])
        for one, found in zip(self.combinations, summaries, strict=True):
            for seed in sorted([*one.results, *one.diverged]):
                numbers = [found[name]["seeds"].get(str(seed), "") if name in found else "" for name in names]
                writer.writerow([*map(format_value, one.values.values()), seed, *numbers])
        return text.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write sweep.json, sweep.csv, sweep.md and, unless every run diverged, sweep.png; the paths of the files."""
        files.write_json(folder / "sweep.json", self.as_dict())
        written = [folder / "sweep.json"]
        for name, text in (("sweep.csv", self.csv()), ("sweep.md", self.markdown())):
            files.atomic_write(folder / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf8"))
            written.append(folder / name)
        if self.best() is not None:
            from cnnjax import figures  # matplotlib takes a second to import

            points = [(dict(one.values), one.summary()) for one in self.combinations]
            shown = {title: name for name, title in _SHOWN.items() if name != VALID_ACCURACY}
            written.append(figures.sweep(points, shown, folder / "sweep.png"))
        return written


def sweep(
    network: Callable[[int], Network],
    dataset: loop.DatasetLike,
    optimizer: Callable[..., optax.GradientTransformation],
    *,
    over: Mapping[str, Sequence[Any]],
    seeds: Sequence[int] = (0,),
    run_dir: str | Path | None = None,
    stacked: bool | None = None,
    **options: Any,
) -> Sweep:
    """Train a network for every combination of an optimizer's numbers and every seed, with one compiled program.

    network: the new network of a seed. `seed` of `fit` is the same one.
    optimizer: a function of the numbers in `over`, by their names, such as
        `lambda learning_rate, weight_decay: optax.adamw(learning_rate, weight_decay=weight_decay)`. The numbers are
        traced. A schedule whose constructor decides by its peak is scaled: `lambda count: learning_rate * unit(count)`.
    over: argument of `optimizer` -> its values.
    run_dir: the folder for sweep.json, sweep.csv, sweep.md and sweep.png, and a run's folder for each network. With
        `resume=True` runs that are finished are read, and the others go on from their last checkpoints.
    stacked, options: see `train.fit_members`.

    Raises UserError for a value that is given twice, and as `train.fit` does. Runs that diverge are in the result.
    """
    check_grid(over, seeds)
    for name, values in over.items():
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{name}={value!r} is not a finite number: the optimizer's numbers are swept here")
    combinations = [Combination(values) for values in grid(over)]
    names = folder_names([one.values for one in combinations])
    places = [(one, name, seed) for one, name in zip(combinations, names, strict=True) for seed in seeds]
    members = []
    for one, name, seed in places:
        folder = None if run_dir is None else Path(run_dir) / name / f"seed-{seed}"
        numbers = {key: float(value) for key, value in one.values.items()}
        own = None  # what `fit` records, and the numbers
        if options.get("config") is not None:  # without these, config.json could not tell the runs apart
            own = {"seed": seed, "hyperparams": numbers} | dict(options["config"])
        members.append(Member(network(seed), numbers, seed, folder, own))
    options = {name: value for name, value in options.items() if name != "config"}
    outcomes = fit_members(members, dataset, optimizer, stacked=stacked, **options)
    for (one, _, seed), outcome in zip(places, outcomes, strict=True):
        one.add(seed, outcome)
    found = Sweep(combinations)
    if run_dir is not None:
        found.write(Path(run_dir))
    return found


def check_grid(over: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> None:
    """Raises UserError for a list without values, or with one twice."""
    for name, values in {**over, "seeds": seeds}.items():
        if not len(values):
            raise UserError(f"{name} has no values: give one or more")
        for i, value in enumerate(values):
            if value in values[:i]:
                raise UserError(f"{name} has the value {format_value(value)} twice: give each value once")


def grid(over: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of one value of each; the last name varies fastest."""
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def folder_names(combinations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A folder's name for each combination, such as `learning_rate-0.001_momentum-0.9`; no two are the same."""
    names: list[str] = []
    for values in combinations:
        parts = (f"{name}-{format_value(value)}" for name, value in values.items())
        name = re.sub(r"[^\w.+-]+", "-", "_".join(parts))[:120]
        names.append(f"{name}_{len(names)}" if name in names else name)
    return names


def summarize(results: Mapping[int, Result]) -> dict[str, metrics.MeanStd]:
    """Mean and (sample) standard deviation over the seeds; empty without results."""
    columns = {
        "training loss at the end": lambda r: _end(r, "train_loss"),
        "training accuracy at the end": lambda r: _end(r, "train_accuracy"),
        VALID_LOSS: lambda r: metrics.best(r.history)["valid_loss"],
        "validation loss at the end": lambda r: _end(r, "valid_loss"),
        VALID_ACCURACY: lambda r: metrics.best(r.history)["valid_accuracy"],
        "validation accuracy at the end": lambda r: _end(r, "valid_accuracy"),
        TEST_ACCURACY: lambda r: r.test["accuracy"],
    }
    has_accuracy = all("accuracy" in result.test for result in results.values())
    return {
        name: metrics.mean_std({seed: of(result) for seed, result in results.items()})
        for name, of in columns.items()
        if results and (has_accuracy or "accuracy" not in name)
    }


def _end(result: Result, name: str) -> float:
    """The mean of the last five epochs: at a constant learning rate single ones vary by points."""
    return statistics.fmean(row[name] for row in result.history[-5:])


def _number(found: metrics.MeanStd | None, is_share: bool) -> str:
    return "–" if found is None else metrics.describe_mean_std(found, is_share)
