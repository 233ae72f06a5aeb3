"""What a finished run leaves: the best epoch's network, its curves, and its metrics on the test split."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cnnjax import distributed, models
from cnnjax.data.dataset import ArraySplit, LazySplit
from cnnjax.errors import UserError
from cnnjax.files import write_json
from cnnjax.network import Network
from cnnjax.train import by_class
from cnnjax.train.metrics import EpochMetrics
from cnnjax.train.plan import Plan


class Result(NamedTuple):
    """What a run returns: one dict of numbers an epoch, the best epoch's network, its metrics on the test split."""

    history: list[EpochMetrics]
    network: Network
    test: dict[str, Any]


def conclude(
    plan: Plan,
    history: list[EpochMetrics],
    best: tuple[models.Params, models.ModelState],
    row: EpochMetrics,
    tested: dict[str, float],
    split: ArraySplit | LazySplit,
) -> Result:
    """Write what a finished run leaves: the best epoch's arrays, its curves and its metrics on the test split.

    best: the arrays of the best epoch, whose metrics are `row`. tested: their metrics on the test split.
    """
    network, folder, (params, model_state) = plan.network, plan.folder, best
    test = tested | {"count": len(split), "epoch": row["epoch"]}
    numbers = by_class.counts(split.labels, len(network.class_names)) if "accuracy" in test else [1]
    if by_class.are_unequal(numbers):
        judged = network.replace(params=jax.device_get(params), model_state=jax.device_get(model_state))
        shares = distributed.run_on_primary(lambda: json.dumps(by_class.accuracy_by_class(judged, split)))
        test |= _by_class(json.loads(shares), dict(zip(network.class_names, numbers, strict=True)))
    notes = {"config": dict(plan.settings), "best": row, "test": test, **(plan.options.provenance or {})}
    notes["seconds"] = sum(row["seconds"] for row in history)
    notes["data"] = plan.dataset.provenance
    trained = network.replace(params=params, model_state=model_state, provenance=dict(network.provenance) | notes)
    if folder is not None:
        distributed.run_on_primary(save_network, folder / "weights.safetensors", trained)
        distributed.run_on_primary(_draw_curves, folder / "curves.png", history)
        distributed.run_on_primary(write_json, folder / "test.json", test)
    return Result(history, trained, test)


def kept_weights(plan: Plan, row: EpochMetrics) -> tuple[models.Params, models.ModelState] | None:
    """The parameters and state in the run's weights file, if they are those of the epoch `row` and intact."""
    from cnnjax import formats

    if plan.folder is None:
        return None
    path = plan.folder / "weights.safetensors"
    try:
        found = (
            formats.load(path) if plan.network.config is not None else formats.load(path, model=plan.network.model())
        )
    except UserError:
        return None
    best = found.provenance.get("best")
    if not isinstance(best, dict) or best.get("epoch") != row["epoch"] or best.get("valid_loss") != row["valid_loss"]:
        return None
    same = jax.tree.structure(found.params) == jax.tree.structure(plan.network.params)
    return (found.params, found.model_state) if same else None


def save_network(path: Path, network: Network) -> None:
    """Write a network in this package's format."""
    from cnnjax.formats.native import save

    save(path, network)


def _by_class(shares: dict[str, float], numbers: dict[str, int]) -> dict[str, Any]:
    """What test.json says of unequal classes."""
    balanced = shares.pop("balanced_accuracy")
    return {"balanced_accuracy": balanced, "accuracy_by_class": shares, "count_by_class": numbers}


def _draw_curves(path: Path, history: list[EpochMetrics]) -> None:
    from cnnjax import figures  # matplotlib takes a second to import

    figures.curves({"": history}, path)
