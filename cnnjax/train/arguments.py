"""Arguments of `fit` that are functions: the usual mistakes, told before anything is computed."""

from collections.abc import Iterable, Mapping

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.signatures import check_takes

BUILT_IN = (
    *("loss", "accuracy", "count", "finite", "epoch"),
    *("balanced_accuracy", "accuracy_by_class", "count_by_class"),
)
"""Names of the history and of the result on the test split."""


def check_optimizer(optimizer: object) -> None:
    """Raises UserError for what is not an optimizer of optax, such as its name."""
    if isinstance(optimizer, str):
        raise UserError(
            f"optimizer={optimizer!r} must be an optimizer of optax, and not a name: give "
            f"train.optimizers.create({optimizer!r}, learning_rate)"
        )
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise UserError(
            f"the optimizer must be one of optax, and not {_name(optimizer)}: give one such as "
            "train.optimizers.create('adam', 1e-3) or optax.adam(1e-3)"
        )


def check_loss(loss: object) -> None:
    """Raises UserError unless the loss and its terms are functions of (logits, labels, activations)."""
    if isinstance(loss, str):
        raise UserError(f"loss={loss!r} must be a function, and not a name: give one such as losses.cross_entropy()")
    if isinstance(loss, losses.Loss):
        for term in (loss.function, loss.plain, *loss.auxiliary):
            if term is not None:
                check_loss(term)
        return
    check_takes(loss, ("logits", "labels", "activations"), "the loss")


def check_metrics(metrics: object) -> None:
    """Raises UserError unless these are functions of (logits, labels), by names that are not used already."""
    if metrics is None:
        return
    if not isinstance(metrics, Mapping):
        raise UserError("metrics must be functions by name: give a dict, such as {'top5': train.metrics.top_k(5)}")
    for name, metric in metrics.items():
        if name in BUILT_IN:
            raise UserError(
                f"metrics: {name!r} is a name that the results of a run use already: choose another name for this "
                f"metric, such as 'my_{name}'"
            )
        check_takes(metric, ("logits", "labels"), f"the metric {name!r}:")


def check_augment(augment: object) -> None:
    """Raises UserError unless this is None or a function of (keys, images)."""
    if augment is None:
        return
    if isinstance(augment, bool | str | type):
        raise UserError(
            f"augment={_name(augment)} must be a function, or None for no augmentation: give data.Augment() for the "
            "usual one"
        )
    check_takes(augment, ("keys", "images"), "the augmentation")


def check_mix(mix: object) -> None:
    """Raises UserError unless this is None or what `data.mixup` or `data.cutmix` returns."""
    if mix is not None and (isinstance(mix, type) or not hasattr(mix, "combine")):
        raise UserError(f"mix={_name(mix)} must be data.mixup(), data.cutmix(), or None for no mixing")


def check_callbacks(callbacks: object) -> None:
    """Raises UserError unless these are functions in a list."""
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str):
        raise UserError(f"callbacks={_name(callbacks)} must be a list of functions: give callbacks=[function]")
    for one in callbacks:
        if not callable(one):
            raise UserError(f"callbacks: {one!r} is no function: give functions that take an epoch's metrics")


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
