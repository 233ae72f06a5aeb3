"""The sentences on the page that depend on the numbers of a run.

Every function takes plain data (see `report.Article`) and returns plain text.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.article import overfitting
from cnnjax.train import metrics

ARTICLE = {
    "plain_accuracy": 0.73,
    "augmented_accuracy": 0.81,
    "small_parameters": 5_681_345,
    "vgg_parameters": 138_357_544,
    "vgg_error": 0.073,
    "overfits_after": 10,
    "dropout": 0.5,
}
"""The article's own numbers, which the page shows beside those of this run."""


def percent(fraction: float, digits: int = 1) -> str:
    """`0.8125` → `81.2%`. Only a fraction of exactly 0 or 1 is given as 0% or 100%."""
    text = f"{fraction:.{digits}%}"
    if fraction > 0 and float(text[:-1]) == 0:
        return f"<{10**-digits:.{digits}f}%"
    if fraction < 1 and float(text[:-1]) == 100:
        return f">{100 - 10**-digits:.{digits}f}%"
    return text


def significant(value: float) -> str:
    """Three digits, without powers of ten: `1498.2` → `1,500`, `0.33333` → `0.333`."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.10g}" if abs(rounded) >= 1e-4 else np.format_float_positional(rounded, trim="-")


def enumerate_names(names: Sequence[str]) -> str:
    """`["a", "b", "c"]` → `a, b and c`."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(count: int, noun: str, plural: str = "") -> str:
    """`counted(1, "map")` → `1 map`; `counted(3, "map")` → `3 maps`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def outcome(run: Mapping[str, Any]) -> dict[str, Any]:
    """One training run in a few numbers: its first, best (lowest validation loss) and last epochs; its overfitting."""
    history = run["history"]
    best, last = metrics.best(history), history[-1]
    smooth = overfitting.judge(history)
    return {
        "epochs": len(history),
        "best": best,
        "last": last,
        "first": history[0],
        "overfitted": smooth.overfitted,
        "smooth": smooth,
        "gap": last["train_accuracy"] - last["valid_accuracy"],
        "test": run["test"],
    }


def curve(run: Mapping[str, Any], name: str) -> str:
    """Describe the curves of one run, and call overfitting only what is (see `overfitting.judge`)."""
    numbers = outcome(run)
    best, last, first, smooth = numbers["best"], numbers["last"], numbers["first"], numbers["smooth"]
    change = "falls" if last["train_loss"] < first["train_loss"] else "does not fall: it goes"
    text = (
        f"{name}: the training loss {change} from {first['train_loss']:.2f} to {last['train_loss']:.2f} in "
        f"{counted(numbers['epochs'], 'epoch')}. The validation loss is lowest at epoch {best['epoch']:.0f} "
        f"({best['valid_loss']:.2f})"
    )
    if last["epoch"] == best["epoch"]:
        return f"{text}. This is the last epoch: the loss has not risen, so these curves do not show overfitting."
    text = f"{text} and {last['valid_loss']:.2f} at the end. "
    means = "In single epochs" if smooth.window == 1 else f"In means over {smooth.window} epochs"
    change = f"from {smooth.lowest:.2f} (around epoch {smooth.epoch}) to {smooth.end:.2f}"
    if smooth.overfitted:
        return (
            f"{text}{means} it rises {change}, while the training loss continues to fall, from "
            f"{smooth.train_lowest:.2f} to {smooth.train_end:.2f}: the network continues to memorize its training "
            f"images ({percent(last['train_accuracy'])} of them are classified correctly) while it becomes worse on "
            "new ones. This is overfitting."
        )
    if smooth.end <= smooth.lowest:
        return f"{text}{means} it is lowest at the end ({smooth.end:.2f}), so these curves do not show overfitting."
    return (
        f"{text}{means} it goes {change}, which is not the clear rise beside a falling training loss that the article "
        "calls overfitting."
    )


def gap(run: Mapping[str, Any]) -> str:
    """Compare training accuracy with validation accuracy at the end."""
    numbers = outcome(run)
    points = 100 * numbers["gap"]
    if points < 2:
        side = "above" if points >= 0 else "below"
        return f"At the end the training accuracy is {abs(points):.1f} points {side} the validation accuracy."
    return (
        f"At the end {percent(numbers['last']['train_accuracy'])} of the training images are classified correctly, but "
        f"only {percent(numbers['last']['valid_accuracy'])} of the validation images: a gap of {points:.1f} points."
    )


def comparison(plain: Mapping[str, Any], augmented: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Validation accuracy without and with augmentation, the difference in points, its standard error, a verdict.

    images: the number of validation images.
    """
    a, b = (outcome(run)["best"]["valid_accuracy"] for run in (plain, augmented))
    points = 100 * (b - a)
    error = 100 * math.sqrt((a * (1 - a) + b * (1 - b)) / images)
    if points > 2 * error:
        verdict = f"Augmentation raises validation accuracy by {points:.1f} points"
    elif points > 0:
        verdict = f"Augmentation raises validation accuracy by {points:.1f} points, which may be chance"
    elif points < -2 * error:
        verdict = f"In this run augmentation lowers validation accuracy by {-points:.1f} points"
    else:
        verdict = f"In this run augmentation does not raise validation accuracy ({points:+.1f} points)"
    verdict += f" (the standard error of the difference is {error:.1f} points, for {images:,} images)."
    return {"plain": a, "augmented": b, "points": points, "error": error, "verdict": verdict}


def map_statistics(maps: Mapping[str, np.ndarray], shown: int = 8) -> list[dict[str, Any]]:
    """How sparse the activations of each layer are: the content of `feature_maps["layers"]`.

    maps: layer -> activations (height, width, channels). shown: how many of the first maps the page shows.
    A map is blank if it is zero everywhere, that is, if its filter found nothing in the image.
    """
    rows = []
    for layer, values in maps.items():
        blank = (np.asarray(values) == 0).all(axis=(0, 1))
        rows.append(
            {
                "layer": layer,
                "shape": list(values.shape),
                "zero_fraction": float((np.asarray(values) == 0).mean()),
                "blank": int(blank.sum()),
                "shown_blank": [int(channel) for channel in np.flatnonzero(blank[:shown])],
            }
        )
    return rows


def sparsity(layers: Sequence[Mapping[str, Any]]) -> str:
    """State whether the feature maps become sparser with depth, as the article says."""
    fractions = [layer["zero_fraction"] for layer in layers]
    first, last = layers[0], layers[-1]
    ends = f"from {percent(fractions[0])} in {first['layer']} to {percent(fractions[-1])} in {last['layer']}"
    if fractions[-1] <= fractions[0]:
        text = f"In this run the maps do not become sparser with depth: the fraction of zeros changes {ends}."
    elif all(a <= b for a, b in zip(fractions, fractions[1:], strict=False)):
        text = f"The maps become sparser at every step: the fraction of zeros rises {ends}."
    else:
        text = f"The maps become sparser, though not at every step: the fraction of zeros rises {ends}."
    blank = [layer for layer in layers if layer["blank"]]
    if not blank:
        return f"{text} No map is completely blank."
    counts = [f"{layer['blank']} of {layer['shape'][-1]} in {layer['layer']}" for layer in blank]
    return f"{text} Completely blank maps: {enumerate_names(counts)}."


def blanks(layers: Sequence[Mapping[str, Any]]) -> str:
    """List the blank ones among the maps that are shown."""
    names = [
        f"{layer['layer']} {', '.join(map(str, layer['shown_blank']))}" for layer in layers if layer["shown_blank"]
    ]
    if not names:
        return "None of these maps is blank."
    return f"Channels whose map is blank for this image are hatched: {'; '.join(names)}."


def filters(layer: str, images: Sequence[Mapping[str, Any]]) -> str:
    """State how far gradient ascent raised the activations of a layer's filters, and which filters stayed inactive."""
    active = [image for image in images if not image["inactive"]]
    inactive = [str(image["channel"]) for image in images if image["inactive"]]
    text = f"{layer}: "
    if active:
        before = statistics.median(image["activation_before"] for image in active)
        after = statistics.median(image["activation_after"] for image in active)
        text += f"the median activation is {significant(before)} for the initial noise and "
        text += f"{significant(after)} for these images"
        failed = [str(image["channel"]) for image in active if not _raised(image)]
        if failed:
            text += f"; it was not raised for {enumerate_names(failed)}"
        text += ". "
    if not inactive:
        return text + "No filter stayed inactive."
    subject, pronoun = ("Filter", "it") if len(inactive) == 1 else ("Filters", "them")
    return text + f"{subject} {enumerate_names(inactive)} stayed inactive: no image of the ascent activated {pronoun}."


def filter_total(layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Count the filters of all layers."""
    images = [image for layer in layers.values() for image in layer]
    inactive = sum(image["inactive"] for image in images)
    raised = sum(not image["inactive"] and _raised(image) for image in images)
    text = f"Of {counted(len(images), 'filter')}, {raised} have a higher activation for their image than for its noise"
    return f"{text}; {inactive or 'none'} stayed inactive."


def _raised(image: Mapping[str, Any]) -> bool:
    return image["activation_after"] > image["activation_before"]


def median_activation(images: Sequence[Mapping[str, Any]]) -> str:
    """The median of the activations of saved images, to three digits."""
    return significant(statistics.median(image["activation_after"] for image in images))


def classes(images: Sequence[Mapping[str, Any]]) -> str:
    """Count the class images for which the network predicts the class that was optimized."""
    median = statistics.median(image["probability_after"] for image in images)
    wrong = [f"{image['class']} (predicted: {image['top1']})" for image in images if image["top1"] != image["class"]]
    text = (
        f"For the saved images, the network predicts the optimized class in {len(images) - len(wrong)} of "
        f"{len(images)} cases. The median probability of that class is {percent(median)}."
    )
    return f"{text} The exceptions are {enumerate_names(wrong)}." if wrong else text


def photo(prediction: Sequence[Mapping[str, Any]], truth: str = "cat") -> str:
    """State the network's prediction for the photograph of a `truth`, and whether it is right; not if that is empty."""
    ranked = sorted(prediction, key=lambda row: -row["probability"])
    best = ranked[0]
    text = f"The network's prediction for the photograph is {best['name']} ({percent(best['probability'])})"
    if not truth:
        return f"{text}."
    if best["name"] == truth:
        return f"{text}, which is right."
    rank = next((i for i, row in enumerate(ranked, 1) if row["name"] == truth), None)
    if rank is None:
        return f"{text}; it has no class {truth}."
    probability = percent(ranked[rank - 1]["probability"])
    return f"{text}, which is wrong: {truth} is ranked {_ordinal(rank)}, with {probability}."


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}.get(number, f"number {number}")
