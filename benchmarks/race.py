"""One layer's filters, drawn by everyone: what keras-vis' recipe reaches, and how long who takes to get there.

Two targets. "end": the activation of the picture that the recipe ends with. "highest": that of the better of its two
passes' pictures; the second pass, which smooths, costs activation, so that "end" alone can be met by a few steps of
the first. The recipe's own seconds are the whole of it for "end", and for "highest" end with the better pass.
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
    """A contender after a piece of its work: a pass of one filter, or a chunk of steps of all."""

    seconds: float
    """Of this piece."""
    steps: int
    """In this piece, of each filter in it."""
    activations: dict[int, float]
    """By the filter's place: the mean of its map for its picture so far, as uint8 and without jitter."""


class Result(NamedTuple):
    """How far a contender came."""

    seconds: float
    steps: list[int]
    """By filter, until its target was reached, or all."""
    activations: list[float]
    """By filter, then."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(compare.Row):
    """One contender at one layer and target. Seconds are for all `filters` together.

    Where ours reached fewer than there are, its seconds are of all the steps that it may take; mind the ratio then.
    """

    target: str
    filters: int
    reached: int
    """Filters whose activation is at least the target's."""
    dead: int
    """Filters whose target is 0: there was nothing to reach. They count as not reached."""
    steps: float
    """Median over the filters: until the target was reached, or of all."""
    activation: float
    """Median over the filters, then."""
    step_seconds: float
    """Seconds per step and image, with all that belongs to it."""
    step_ratio: float
    """`step_seconds` over ours."""


def targets(looks: Sequence[Look], count: int) -> dict[str, list[float]]:
    """Both targets, by filter, from the keras-vis port's looks."""
    passes = [[look.activations[i] for look in looks if i in look.activations] for i in range(count)]
    return {"end": [each[-1] for each in passes], "highest": [max(each) for each in passes]}


def drawn(looks: Sequence[Look], count: int, target: str) -> Result:
    """Of someone who draws one filter after the other: to the end, or to the filter's own highest picture."""
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
    """Of someone who draws all filters at once: until the last of them has reached its goal, or to the end."""
    values = np.array([[look.activations[i] for i in range(len(goals))] for look in looks])
    met = values >= np.asarray(goals)
    first = np.where(met.any(axis=0), met.argmax(axis=0), len(looks) - 1)
    taken = np.cumsum([look.steps for look in looks])
    seconds = sum(look.seconds for look in looks[: first.max() + 1])
    return Result(seconds, taken[first].tolist(), values[first, range(len(goals))].tolist())


def require_agreement(maps: dict[str, np.ndarray]) -> None:
    """Raises UserError unless everyone's maps of one picture are ours, up to 1e-3 of the largest value."""
    ours = maps[OURS.who]
    for who, theirs in maps.items():
        error = np.abs(theirs - ours).max() / np.abs(ours).max() if theirs.shape == ours.shape else np.inf
        if not error <= AGREEMENT:
            raise UserError(
                f"{who}'s activations of one picture differ from cnnjax's by {error:.1e} of the largest, so the "
                "networks are not the same: use other weights, and full float32 precision"
            )


class Entrant:
    """A contender at work on one layer: its process, and the files in `folder` by which it tells how far it is."""

    def __init__(self, contender: compare.Contender, work: dict[str, Any], folder: Path) -> None:
        slug = contender.who.replace(" ", "-").replace(",", "")
        self.who, self.answer, self.maps = contender.who, folder / f"{slug}.json", folder / f"{slug}.npy"
        self.process = compare.Process(contender, work | {"answer": str(self.answer), "maps": str(self.maps)})

    def run(self, progress: Callable[[str], Any]) -> list[Look]:
        """All filters once, piece by piece."""
        looks, steps, done = [], 0, False
        while not done:
            seconds = sum(self.process.seconds(1))
            answer = json.loads(self.answer.read_text())
            looks.append(Look(seconds, answer["steps"], dict(answer["activations"])))
            steps, done = steps + answer["steps"] * len(answer["activations"]), answer["done"]
            progress(f"{self.who}, {steps} steps")
        return looks


def enter(contenders: Sequence[compare.Contender], work: dict[str, Any], folder: Path, entered: list[Entrant]) -> None:
    """Start everyone, into `entered`. Who cannot take part is named and left out; UserError for ours or the port."""
    for contender in tqdm(contenders, desc=f"{work['layer']}: compiling", unit=" contender", leave=False):
        try:
            entered.append(Entrant(contender, work, folder))
        except UserError as error:
            if contender in (OURS, PORT):
                raise
            tqdm.write(str(error))
    require_agreement({entrant.who: np.load(entrant.maps) for entrant in entered})


def race(
    contenders: Sequence[compare.Contender], work: dict[str, Any], rounds: int, folder: Path
) -> tuple[dict[str, list[dict[str, list[Look]]]], dict[str, float]]:
    """Everyone's looks, {who: looks} a round, and seconds to the end of the first call. Ours is each round's last.

    Raises UserError where the networks disagree, or ours or the port cannot take part.
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
        for row in compare.rows({"name": f"{work['layer']}, {target}", "batch_size": count}, seconds, first):
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
