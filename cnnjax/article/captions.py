"""What the page says about a run: sentences that follow from its numbers, and change when they do.

Every function takes plain data (see `report.Article`) and returns plain text.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ARTICLE = {
    "plain_accuracy": 0.73,
    "augmented_accuracy": 0.81,
    "small_parameters": 5_681_345,
    "vgg_parameters": 138_357_544,
    "vgg_error": 0.073,
    "overfits_after": 10,
    "dropout": 0.5,
}
"""What the article states and the page sets beside this run's numbers."""

# Overfitting: validation loss so far above its lowest, and training loss so far below it. The second condition keeps
# the noise of a constant learning rate from passing for it.
_TURNED, _MEMORISED = 1.05, 0.75


def percent(share: float, digits: int = 1) -> str:
    """`0.8125` → `81.2%`; never 0% or 100% for a share that is neither."""
    words = f"{share:.{digits}%}"
    if share > 0 and float(words[:-1]) == 0:
        return f"<{10**-digits:.{digits}f}%"
    if share < 1 and float(words[:-1]) == 100:
        return f">{100 - 10**-digits:.{digits}f}%"
    return words


def listed(names: Sequence[str]) -> str:
    """`["a", "b", "c"]` → `a, b and c`."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def many(count: int, noun: str, plural: str = "") -> str:
    """`many(1, "map")` → `1 map`; `many(3, "map")` → `3 maps`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def outcome(run: Mapping[str, Any]) -> dict[str, Any]:
    """One training run in a few numbers: its kept (lowest validation loss) and last epochs, and whether it overfits."""
    history = run["history"]
    best, last = min(history, key=lambda epoch: epoch["valid_loss"]), history[-1]
    # The mean of the last three epochs, since a single one may be an accident.
    tail = statistics.fmean(epoch["valid_loss"] for epoch in history[-3:])
    fitted = statistics.fmean(epoch["train_loss"] for epoch in history[-3:])
    after = last["epoch"] - best["epoch"]
    return {
        "epochs": len(history),
        "best": best,
        "last": last,
        "first": history[0],
        "turned": after > 0 and tail > _TURNED * best["valid_loss"] and fitted < _MEMORISED * tail,
        "rise": tail / best["valid_loss"] - 1,
        "gap": last["train_accuracy"] - last["valid_accuracy"],
        "test": run["test"],
    }


def curve(run: Mapping[str, Any], name: str) -> str:
    """What one run's curves show."""
    o = outcome(run)
    best, last, first = o["best"], o["last"], o["first"]
    fell = last["train_loss"] < first["train_loss"]
    words = (
        f"{name}: training loss {'falls' if fell else 'does not fall: it goes'} from {first['train_loss']:.2f} to "
        f"{last['train_loss']:.2f} in {many(o['epochs'], 'epoch')}; validation loss is lowest at epoch {best['epoch']} "
        f"({best['valid_loss']:.2f}) and "
    )
    if o["turned"]:
        words += (
            f"then rises to {last['valid_loss']:.2f}: the network goes on memorising its training pictures "
            f"({percent(last['train_accuracy'])} of them right) while it gets worse at new ones. That is overfitting."
        )
    elif last["epoch"] == best["epoch"]:
        words += "that is the last epoch: it has not turned up, so these curves show no overfitting yet."
    else:
        words += (
            f"ends at {last['valid_loss']:.2f}, which is not a clear rise: "
            "these curves do not show the overfitting that the article describes."
        )
    return words


def gap(run: Mapping[str, Any]) -> str:
    """How far training accuracy is above validation accuracy at the end."""
    o = outcome(run)
    points = 100 * o["gap"]
    if points < 2:
        side = "above" if points >= 0 else "below"
        return f"At the end training accuracy is {abs(points):.1f} points {side} validation accuracy."
    return (
        f"At the end {percent(o['last']['train_accuracy'])} of the training pictures are right but only "
        f"{percent(o['last']['valid_accuracy'])} of the validation pictures, a gap of {points:.1f} points."
    )


def comparison(plain: Mapping[str, Any], augmented: Mapping[str, Any], pictures: int) -> dict[str, Any]:
    """Validation accuracy without and with augmentation, the difference in points, its standard error, a verdict."""
    a, b = (outcome(run)["best"]["valid_accuracy"] for run in (plain, augmented))
    points = 100 * (b - a)
    error = 100 * math.sqrt((a * (1 - a) + b * (1 - b)) / pictures)
    if points > 2 * error:
        verdict = f"Augmentation raises validation accuracy by {points:.1f} points"
    elif points > 0:
        verdict = f"Augmentation raises validation accuracy by {points:.1f} points, which may be chance"
    elif points < -2 * error:
        verdict = f"In this run augmentation lowers validation accuracy, by {-points:.1f} points"
    else:
        verdict = f"In this run augmentation does not raise validation accuracy ({points:+.1f} points)"
    verdict += f" (standard error of the difference {error:.1f} points with {pictures:,} pictures)."
    return {"plain": a, "augmented": b, "points": points, "error": error, "verdict": verdict}


def map_statistics(maps: Mapping[str, np.ndarray], shown: int = 8) -> list[dict[str, Any]]:
    """How sparse each layer's activations (height, width, channels) are: what `feature_maps["layers"]` holds.

    A map is blank when it is zero everywhere: its filter found nothing in this picture.
    """
    rows = []
    for layer, values in maps.items():
        blank = (np.asarray(values) == 0).all(axis=(0, 1))
        rows.append(
            {
                "layer": layer,
                "shape": list(values.shape),
                "zero_share": float((np.asarray(values) == 0).mean()),
                "blank": int(blank.sum()),
                "shown_blank": [int(channel) for channel in np.flatnonzero(blank[:shown])],
            }
        )
    return rows


def sparsity(layers: Sequence[Mapping[str, Any]]) -> str:
    """Whether the feature maps become sparser with depth, as the article says."""
    shares = [layer["zero_share"] for layer in layers]
    first, last = layers[0], layers[-1]
    ends = f"from {percent(shares[0])} in {first['layer']} to {percent(shares[-1])} in {last['layer']}"
    if shares[-1] <= shares[0]:
        words = f"Here the maps do not become sparser with depth: the share of zeros goes {ends}."
    elif all(a <= b for a, b in zip(shares, shares[1:], strict=False)):
        words = f"The maps become sparser at every step: the share of zeros rises {ends}."
    else:
        words = f"The maps become sparser, though not at every step: the share of zeros rises {ends}."
    blank = [layer for layer in layers if layer["blank"]]
    if not blank:
        return f"{words} No map is blank altogether."
    counts = [f"{layer['blank']} of {layer['shape'][-1]} in {layer['layer']}" for layer in blank]
    return f"{words} Blank altogether: {listed(counts)}."


def blanks(layers: Sequence[Mapping[str, Any]]) -> str:
    """Which of the maps shown are blank."""
    named = [
        f"{layer['layer']} {', '.join(map(str, layer['shown_blank']))}" for layer in layers if layer["shown_blank"]
    ]
    if not named:
        return "None of the maps shown is blank."
    return f"Blank in this picture, and hatched: channel {'; '.join(named)}."


def filters(layer: str, pictures: Sequence[Mapping[str, Any]]) -> str:
    """How far the ascent raised a layer's filters, and which are dead."""
    alive = [picture for picture in pictures if not picture["dead"]]
    dead = [str(picture["channel"]) for picture in pictures if picture["dead"]]
    words = f"{layer}: "
    if alive:
        before = statistics.median(picture["activation_before"] for picture in alive)
        after = statistics.median(picture["activation_after"] for picture in alive)
        words += f"median activation {before:.3g} on the starting noise, {after:.3g} on these pictures"
        failed = [
            str(picture["channel"]) for picture in alive if picture["activation_after"] <= picture["activation_before"]
        ]
        if failed:
            words += f"; not raised: {listed(failed)}"
        words += ". "
    if dead:
        verb = "is" if len(dead) == 1 else "are"
        words += f"{'Filter' if len(dead) == 1 else 'Filters'} {listed(dead)} {verb} dead: nothing made it fire."
        words = words if len(dead) == 1 else words.replace("made it fire", "made them fire")
    else:
        words += "No filter is dead."
    return words


def filter_total(layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All layers' filters counted."""
    pictures = [picture for layer in layers.values() for picture in layer]
    dead = sum(picture["dead"] for picture in pictures)
    raised = sum(
        not picture["dead"] and picture["activation_after"] > picture["activation_before"] for picture in pictures
    )
    words = f"Of {len(pictures)} filters, {raised} fire more on their picture than on the noise it grew from"
    return f"{words}; {dead or 'none'} {'is' if dead <= 1 else 'are'} dead."


def classes(pictures: Sequence[Mapping[str, Any]]) -> str:
    """For how many class pictures the network's first choice is the class asked for."""
    sure = statistics.median(picture["probability_after"] for picture in pictures)
    wrong = [f"{p['class']} (it says {p['top1']})" for p in pictures if p["top1"] != p["class"]]
    words = (
        f"Shown the saved files, the network's first choice is the class asked for in {len(pictures) - len(wrong)} of "
        f"{len(pictures)}; the median probability that it gives that class is {percent(sure)}."
    )
    return f"{words} Not so for {listed(wrong)}." if wrong else words


def photo(prediction: Sequence[Mapping[str, Any]], truth: str = "cat") -> str:
    """What the network makes of the photograph of a `truth`; no verdict when that is empty."""
    ranked = sorted(prediction, key=lambda row: -row["probability"])
    best = ranked[0]
    words = f"Its first guess for the photograph is {best['name']} ({percent(best['probability'])})"
    if not truth:
        return f"{words}."
    if best["name"] == truth:
        return f"{words}, which is right."
    place = next((i for i, row in enumerate(ranked, 1) if row["name"] == truth), None)
    if place is None:
        return f"{words}; it knows no {truth}."
    chance = percent(ranked[place - 1]["probability"])
    return f"{words}, which is wrong: {truth} comes {_ordinal(place)}, with {chance}."


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}.get(number, f"number {number}")
