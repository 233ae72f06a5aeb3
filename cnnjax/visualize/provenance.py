"""What is recorded about a drawn image: what it is of, how it was drawn, and what the network makes of it."""

from dataclasses import replace

import numpy as np

from cnnjax.data import normalize
from cnnjax.network import Json, Network
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.objectives import Objective
from cnnjax.visualize.stages import Drawn, Plan


def shared_facts(plan: Plan, digest: str, replaced: dict[str, object]) -> dict[str, Json]:
    """Provenance that all images of one call have in common."""
    network = plan.network
    changed = [name for name, value in replaced.items() if value is not None]
    return {
        "weights": digest,
        "model": network.model_name,
        "image_size": list(network.image_size),
        "recipe": plan.recipe.name,
        **({"replaced": changed} if changed else {}),
        "input": normalize.describe(network.normalizer, network.channels),
        "before_relu": list(plan.before_relu),
        "seed": plan.seed,
        **({} if plan.patience is None else {"patience": plan.patience}),
        **({} if plan.dtype is None else {"compute_dtype": plan.dtype}),
    }


def to_image(network: Network, objective: Objective, drawn: Drawn, index: int, shared: dict[str, Json]) -> Image:
    """Image number `index` of a batch, with all that is known about it."""
    facts: dict[str, Json] = dict(objective.facts(index))
    (before, odds_before), (after, odds_after) = drawn.before, drawn.after
    after_all: dict[str, Json] = {
        "steps": int(drawn.steps[index]),
        "activation_before": float(before[index]),
        "activation_after": float(after[index]),
    }
    if facts["kind"] in ("filter", "neuron"):
        after_all["silent_on_noise"] = bool(before[index] == 0)
        after_all["failed"] = not after[index] > before[index]
        after_all["inactive"] = bool(drawn.peak[index] == 0)
    if facts["kind"] == "class" and odds_before is not None and odds_after is not None:
        number = int(objective.numbers()[index])
        facts["class"] = network.class_names[number]
        after_all["probability_before"] = float(odds_before[index, number])
        after_all["probability_after"] = float(odds_after[index, number])
    alpha = None if drawn.alpha is None else np.asarray(drawn.alpha[index])
    return Image(np.asarray(drawn.pixels[index]), facts | shared | after_all, alpha)


def told_apart(images: list[Image]) -> list[Image]:
    """The images, each with a number in its provenance where several would have one and the same file name."""
    names = [image.file_name for image in images]
    return [
        replace(image, provenance=image.provenance | {"number": names[:place].count(name) + 1})
        if names.count(name) > 1
        else image
        for place, (image, name) in enumerate(zip(images, names, strict=True))
    ]
