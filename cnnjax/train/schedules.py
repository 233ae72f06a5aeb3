"""Learning-rate schedules by name, for a run of a known length. Any function of the step works as well in optax."""

import optax
from jaxtyping import Array

from cnnjax.errors import UserError, unknown

SCHEDULES = ("constant", "warmup", "cosine", "warmup-cosine", "cosine-restarts", "one-cycle")
WITH_WARMUP = ("warmup", "warmup-cosine")
"""The schedules that use `warmup_steps`."""
WARMUP_STEPS = 500
"""Steps of a warm-up, by default of the commands, where these are at most a quarter of the run."""


def create(
    name: str, learning_rate: float, total_steps: int, warmup_steps: int = 0, *, cycles: int = 3
) -> optax.Schedule:
    """The learning rate as a function of the step, counted from 0, in a run of `total_steps` steps.

    name:
        "constant": always `learning_rate`.
        "warmup": linear from 0 over `warmup_steps`, then constant.
        "cosine": from `learning_rate` to 0 along half a cosine (Loshchilov & Hutter, 2017, "SGDR: stochastic gradient
            descent with warm restarts", with a single cycle).
        "warmup-cosine": linear from 0 over `warmup_steps`, then a cosine to 0 over the other steps.
        "cosine-restarts": `cycles` cosines of equal length, each from `learning_rate` to 0 (the same paper, T_mult 1).
        "one-cycle": a cosine from `learning_rate` / 25 up to it over 30% of the run, then one down to
            `learning_rate` / 250,000 (Smith & Topin, 2017, "Super-convergence").

    Raises UserError for another name, for a warm-up that does not fit into the run or that the schedule does not have,
    and for more cycles than steps.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    total_steps = max(total_steps, 1)
    _check_warmup(name, warmup_steps, total_steps)
    match name:
        case "constant":
            return optax.constant_schedule(learning_rate)
        case "warmup":
            if not warmup_steps:
                return optax.constant_schedule(learning_rate)
            return optax.linear_schedule(0.0, learning_rate, warmup_steps)
        case "cosine":
            return optax.cosine_decay_schedule(learning_rate, total_steps)
        case "warmup-cosine":
            return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total_steps)
        case "cosine-restarts":
            return _cosine_restarts(learning_rate, total_steps, cycles)
        case _:
            return optax.cosine_onecycle_schedule(total_steps, learning_rate)


def scale(schedule: optax.Schedule, factor: float | Array) -> optax.Schedule:
    """The schedule times a factor, which may be traced. Every schedule above is that of learning rate 1, scaled."""
    return lambda count: factor * schedule(count)


def _check_warmup(name: str, warmup_steps: int, total_steps: int) -> None:
    if warmup_steps < 0:
        raise UserError(f"warmup_steps={warmup_steps} must not be negative")
    if warmup_steps and name not in WITH_WARMUP:
        raise UserError(
            f"the schedule {name!r} has no warm-up, but warmup_steps={warmup_steps}: "
            f"choose {' or '.join(WITH_WARMUP)}, or warmup_steps=0"
        )
    longest = total_steps - 1 if name == "warmup-cosine" else total_steps
    if warmup_steps > longest:
        steps = "1 step" if total_steps == 1 else f"{total_steps} steps"
        raise UserError(
            f"warmup_steps={warmup_steps} is too long for a run of {steps} with the schedule {name!r}: "
            f"choose at most {longest}, or train for longer"
        )


def _cosine_restarts(learning_rate: float, total_steps: int, cycles: int) -> optax.Schedule:
    if not 1 <= cycles <= total_steps:
        raise UserError(f"cycles={cycles} must be at least 1 and at most the number of steps, {total_steps}")
    ends = [round(total_steps * i / cycles) for i in range(cycles + 1)]
    lengths = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    return optax.join_schedules([optax.cosine_decay_schedule(learning_rate, n) for n in lengths], ends[1:-1])
