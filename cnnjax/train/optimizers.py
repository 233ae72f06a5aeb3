"""From an OptimizerConfig to an optax optimizer and its learning-rate schedule."""

from typing import Any

import jax
import optax

from cnnjax.cli.config import OptimizerConfig
from cnnjax.errors import unknown

EPSILON = 1e-7  # Keras' default for Adam and RMSprop; optax's own is 1e-8


def create_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate at each of `total_steps` steps (counted from 0).

    "constant"; "warmup", linear from 0 over `config.warmup` steps, then constant; "cosine", from the learning rate to 0
    (Loshchilov & Hutter, 2017, without restarts); "warmup-cosine", both, with a warm-up no longer than the training.
    Raises UserError for another name.
    """
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    if config.schedule == "warmup":
        return optax.linear_schedule(0.0, config.learning_rate, max(config.warmup, 1))
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, max(total_steps, 1))
    if config.schedule == "warmup-cosine":
        warmup = min(config.warmup, max(total_steps - 1, 0))
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(total_steps, 1))
    raise unknown("schedule", config.schedule, ("constant", "warmup", "cosine", "warmup-cosine"))


def create(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The optax optimizer that `config` names, its schedule stretched over `total_steps`.

    adam and rmsprop take Keras' constants (learning rate 1e-3, β 0.9 and 0.999 or ρ 0.9, ε 1e-7), the article's stack.
    One detail stays optax's: Adam's ε is added to the bias-corrected root (Kingma & Ba, 2015, algorithm 1), Keras adds
    it before the correction. adamw decays every parameter (Loshchilov & Hutter, 2019). UserError for other names.
    """
    rate = create_schedule(config, total_steps)
    if config.name == "adam":
        optimizer = optax.adam(rate, eps=EPSILON)
    elif config.name == "adamw":
        optimizer = optax.adamw(rate, eps=EPSILON, weight_decay=config.weight_decay)
    elif config.name == "rmsprop":
        optimizer = optax.rmsprop(rate, decay=0.9, eps=EPSILON)
    elif config.name == "sgd":
        optimizer = optax.sgd(rate, momentum=config.momentum)
    else:
        raise unknown("optimizer", config.name, ("adam", "sgd", "rmsprop", "adamw"))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        # optax multiplies Python floats with integer counters, which strict promotion (our tests') would refuse.
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
