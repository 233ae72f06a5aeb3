"""What can be known of a config to be wrong before any image is loaded and any folder touched."""

import math
from functools import partial

import jax
from flax import nnx

from cnnjax import formats, limits, models, procedural
from cnnjax.cli import build
from cnnjax.cli.config import Config, DataConfig
from cnnjax.data.folder import check_folder
from cnnjax.errors import unknown
from cnnjax.image_size import to_size


def check(config: Config, *, resume: bool = False) -> None:
    """Raises UserError for what is wrong with a config without its data, before any image is loaded.

    resume: whether a run goes on, which has all of `train.init_from` in its own folder.
    """
    build.fit_options(config)
    _check_source(config.data)
    if config.train.init_from and not resume:
        formats.check_exists(config.train.init_from)
    _check_size(config)
    steps = config.train.epochs * config.train.steps_per_epoch
    build.optimizer(config, steps or 10**9)


def _check_source(config: DataConfig) -> None:
    """Raises UserError for a folder that is not there, and for classes that cannot be rendered."""
    kind, _, place = config.source.partition(":")
    if kind == "folder":
        check_folder(place)
    if kind == "procedural":
        for name in config.classes:
            if name not in procedural.KNOWN:
                raise unknown("procedural class", name, procedural.KNOWN)


def _check_size(config: Config) -> None:
    """Raises UserError for images, or a model of them, that cannot fit into this machine's memory."""
    size = to_size(config.data.image_size)
    limits.check_image(size)
    if config.data.source == "procedural":
        limits.check_image(
            size, (len(config.data.classes) or 2) * max(config.data.per_class, config.data.eval_per_class)
        )
    create = partial(build.model, config.model, len(config.data.classes) or 2, size, 3, config.train.seed)
    wide = config.model.width_multiplier > 4 or config.model.dense_units > 2**14 or max(size) > 512
    if not wide:  # what is usual needs no look
        return
    _, params, _ = models.split(nnx.eval_shape(create))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    # Adam keeps two numbers for each parameter, beside its gradient.
    what = f"training a model of {limits.short(count)} parameters"
    limits.check_memory(16 * count, what, "use a narrower model, or smaller images")
