"""Names of the first edition and what they are called now, for flags on the command line and for `config.json`."""

from collections.abc import Collection

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


def new_name(flag: str, flags: Collection[str]) -> str | None:
    """What a flag of the first edition is called now, if it is one of `flags`; else None."""
    found = FLAGS.get(flag.replace("_", "-"))
    return found if found in flags else None
