"""One layer's filters, drawn by every contender: the activations that keras-vis' recipe reaches, and the time to them.

There are two targets. "end" is the activation of the image that the recipe ends with. "highest" is that of the better
of its two stages' images: the second stage, which smooths, lowers the activation, so that a few steps of the first can
reach "end". The recipe's own time is all of it for "end", and for "highest" until the end of the better stage.
"""

import dataclasses
import json
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import compare
import numpy as np
from tqdm import tqdm

from cnnjax.errors import UserError

OURS = compare.Contender(compare.OURS.who, "ours_filters")
PORT = compare.Contender("keras-vis port", "keras_vis", (("jit_compile", False),))
PORT_XLA = compare.Contender("keras-vis port, XLA", "keras_vis", (("jit_compile", True),))
TF_KERAS_VIS = compare.Contender("tf-keras-vis", "tf_keras_vis_filters")
WHO = {c.who: c for c in (OURS, PORT, PORT_XLA, TF_KERAS_VIS)}
TARGETS = ("end", "highest")
AGREEMENT = 1e-3


class Look(NamedTuple):
    """A contender after a part of its work: a stage of one filter, or some steps of all filters."""

    seconds: float
    """Of this part."""
    steps: int
    """In this part, of each filter in it."""
    activations: dict[int, float]
    """By the filter's index: the mean of its map for its image so far, as uint8 and without jitter."""


class Result(NamedTuple):
    """How far a contender came."""

    seconds: float
    steps: list[int]
    """For each filter, until its target was reached; all steps if it was not."""
    activations: list[float]
    """For each filter, after these steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(compare.Row):
    """One contender at one layer and target. Seconds are for all `filters` together.

    If cnnjax did not reach all targets, its seconds are those of all the steps that it may take, and the ratio does not
    compare like with like.
    """

    target: str
    filters: int
    reached: int
    """Filters whose activation is at least the target's."""
    dead: int
    """Filters whose target is 0, so that there was nothing to reach. They count as not reached."""
    steps: float
    """Median over the filters, until the target was reached; all steps if it was not."""
    activation: float
    """Median over the filters, after these steps."""
    step_seconds: float
    """Seconds per step and image, all overhead included."""
    step_ratio: float
    """`step_seconds` relative to cnnjax's."""


def targets(looks: Sequence[Look], count: int) -> dict[str, list[float]]:
    """Both targets, by filter, from the looks at the keras-vis port."""
    stages = [[look.activations[i] for look in looks if i in look.activations] for i in range(count)]
    return {"end": [each[-1] for each in stages], "highest": [max(each) for each in stages]}


def drawn(looks: Sequence[Look], count: int, target: str) -> Result:
    """The result of a contender that draws one filter after the other, to its end or to its highest activation."""
    seconds, steps, activations = 0.0, [], []
    for i in range(count):
        own = [look for look in looks if i in look.activations]
        values = [look.activations[i] for look in own]
        last = len(own) if target == "end" else int(np.argmax(values)) + 1
        seconds += sum(look.seconds for look in own[:last])
        steps.append(sum(look.steps for look in own[:last]))
        activations.append(values[last - 1])
    return Result(seconds, steps, activations)


def climbed(looks: Sequence[Look], goals: Sequence[float]) -> Result:
    """The result of a contender that draws all filters at once, until the last of them has reached its goal."""
    values = np.array([[look.activations[i] for i in range(len(goals))] for look in looks])
    met = values >= np.asarray(goals)
    first = np.where(met.any(axis=0), met.argmax(axis=0), len(looks) - 1)
    taken = np.cumsum([look.steps for look in looks])
    seconds = sum(look.seconds for look in looks[: first.max() + 1])
    return Result(seconds, taken[first].tolist(), values[first, range(len(goals))].tolist())


def check_agreement(maps: dict[str, np.ndarray]) -> None:
    """Raises UserError unless all contenders' maps of one image equal cnnjax's, up to 1e-3 of the largest value."""
    ours = maps[OURS.who]
    for who, theirs in maps.items():
        error = np.abs(theirs - ours).max() / np.abs(ours).max() if theirs.shape == ours.shape else np.inf
        if not error <= AGREEMENT:
            raise UserError(
                f"{who}'s activations of one image differ from cnnjax's by {error:.1e} of the largest, so the "
                "networks are not the same: use other weights, and full float32 precision"
            )


class Entrant:
    """A contender at work on one layer: its process, and the files in `folder` in which it reports its progress."""

    def __init__(self, contender: compare.Contender, work: dict[str, Any], folder: Path) -> None:
        slug = contender.who.replace(" ", "-").replace(",", "")
        self.who, self.answer, self.maps = contender.who, folder / f"{slug}.json", folder / f"{slug}.npy"
        self.process = compare.Process(contender, work | {"answer": str(self.answer), "maps": str(self.maps)})

    def run(self, progress: Callable[[str], Any]) -> list[Look]:
        """Draw all filters once, part by part."""
        looks, steps, done = [], 0, False
        while not done:
            seconds = sum(self.process.seconds(1))
            answer = json.loads(self.answer.read_text())
            looks.append(Look(seconds, answer["steps"], dict(answer["activations"])))
            steps, done = steps + answer["steps"] * len(answer["activations"]), answer["done"]
            progress(f"{self.who}, {steps} steps")
        return looks


def enter(contenders: Sequence[compare.Contender], work: dict[str, Any], folder: Path, entered: list[Entrant]) -> None:
    """Start all contenders, into `entered`. One that cannot take part is named and left out.

    Raises UserError if that is cnnjax or the port.
    """
    for contender in tqdm(contenders, desc=f"{work['layer']}: compiling", unit=" contender", leave=False):
        try:
            entered.append(Entrant(contender, work, folder))
        except UserError as error:
            if contender in (OURS, PORT):
                raise
            tqdm.write(str(error))
    check_agreement({entrant.who: np.load(entrant.maps) for entrant in entered})


def race(
    contenders: Sequence[compare.Contender], work: dict[str, Any], rounds: int, folder: Path
) -> tuple[dict[str, list[dict[str, list[Look]]]], dict[str, float]]:
    """The looks {who: looks} of each round, and the seconds to the end of the first call. cnnjax is last in each round.

    Raises UserError if the networks disagree, or cnnjax or the port cannot take part.
    """
    order, found = random.Random(work["seed"]), []
    entered: list[Entrant] = []
    try:
        enter(contenders, work, folder, entered)
        *others, ours = sorted(entered, key=lambda entrant: entrant.who == OURS.who)
        with tqdm(total=rounds * len(entered), desc=work["layer"], unit=" turns", leave=False) as bar:
            for _ in range(rounds):
                looks = {}
                for entrant in [*order.sample(others, len(others)), ours]:
                    if entrant is ours:
                        goals = targets(looks[PORT.who], len(work["channels"]))["highest"]
                        Path(work["targets"]).write_text(json.dumps(goals))
                    looks[entrant.who] = entrant.run(bar.set_postfix_str)
                    bar.update()
                found.append(looks)
    finally:
        for entrant in entered:
            entrant.process.close()
    return found, {entrant.who: entrant.process.first for entrant in entered}


def rows(work: dict[str, Any], rounds: Sequence[dict[str, list[Look]]], first: dict[str, float]) -> list[Row]:
    """A row for each target and contender. Seconds are of all rounds; steps and activations of the last one."""
    count, found = len(work["channels"]), []
    for target in TARGETS:
        results = []
        for looks in rounds:
            goals = targets(looks[PORT.who], count)[target]
            results.append(
                {
                    who: climbed(own, goals) if who == OURS.who else drawn(own, count, target)
                    for who, own in looks.items()
                }
            )
        seconds = {who: [result[who].seconds for result in results] for who in first}
        pace = {who: statistics.median(step_seconds(looks[who]) for looks in rounds) for who in first}
        for row in compare.rows({"name": f"{work['layer']}, {target}", "images": count}, seconds, first):
            last = results[-1][row.who]
            found.append(
                Row(
                    **vars(row),
                    target=target,
                    filters=count,
                    reached=sum(a >= goal > 0 for a, goal in zip(last.activations, goals, strict=True)),
                    dead=sum(goal == 0 for goal in goals),
                    steps=statistics.median(last.steps),
                    activation=statistics.median(last.activations),
                    step_seconds=pace[row.who],
                    step_ratio=pace[row.who] / pace[OURS.who],
                )
            )
    return found


def step_seconds(looks: Sequence[Look]) -> float:
    """Seconds per step and image."""
    return sum(look.seconds for look in looks) / sum(look.steps * len(look.activations) for look in looks)
