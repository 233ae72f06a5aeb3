"""Names of the first edition and what they are called now, for flags on the command line and for `config.json`."""

from collections.abc import Collection, Mapping
from typing import Any

FIELDS: dict[str, dict[str, str]] = {
    "DataConfig": {"side": "image_size", "feed": "loading", "cleaning": "normalization"},
    "ModelConfig": {"width": "width_multiplier", "dense": "dense_units"},
    "OptimizerConfig": {"warmup": "warmup_steps"},
    "TrainConfig": {
        "parallel": "strategy",
        "calls_per_epoch": "dispatches_per_epoch",
        "checkpoint_steps": "checkpoint_every_steps",
        "early_stopping": "early_stopping_patience",
        "start": "init_from",
        "frozen": "freeze",
    },
}
"""By config: the first edition's field -> the field."""

_OPTIONS = {
    "--side": "--image-size",
    "--filters-side": "--filters-image-size",
    "--batch": "--batch-size",
    "--top": "--include-top",
    "--no-top": "--no-include-top",
    "--hosts.coordinator": "--distributed.coordinator",
    "--hosts.count": "--distributed.count",
    "--hosts.index": "--distributed.index",
    "--hosts.patience": "--distributed.connect-timeout",
}
_SECTIONS = {"DataConfig": "data", "ModelConfig": "model", "OptimizerConfig": "optimizer", "TrainConfig": "train"}

FLAGS: dict[str, str] = {
    f"--{_SECTIONS[config]}.{old.replace('_', '-')}": f"--{_SECTIONS[config]}.{new.replace('_', '-')}"
    for config, names in FIELDS.items()
    for old, new in names.items()
} | _OPTIONS
"""The first edition's flag -> the flag."""


def upgrade(config: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config (or of a part of one) as the first edition wrote them, with today's names.

    It wrote options that the chosen optimizer or schedule did not use; these are left out. Before there was a choice,
    the renderer's version was 3.
    """
    names = FIELDS.get(config, {})
    new = {names.get(name, name): value for name, value in values.items()}
    if config == "OptimizerConfig" and "warmup" in values:
        if new.get("name") != "adamw":
            new.pop("weight_decay", None)
        if "warmup" not in str(new.get("schedule")):
            new.pop("warmup_steps")
    if config == "DataConfig" and "source" in new:
        new.setdefault("rendering", 3)
    return new


def new_name(flag: str, flags: Collection[str]) -> str | None:
    """What a flag of the first edition is called now, if it is one of `flags`; else None."""
    found = FLAGS.get(flag.replace("_", "-"))
    return found if found in flags else None
