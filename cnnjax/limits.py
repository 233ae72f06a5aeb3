"""Numbers that a machine cannot take: refused before anything is computed, with what they need and what there is."""

import math

from cnnjax import runtime
from cnnjax.errors import UserError

SEEDS = (-(2**31), 2**32 - 1)
"""The seeds that give different random keys. JAX takes 32 bits of a seed and leaves out the others silently."""
MAX_STEPS = 2**31 - 1
"""Steps of a run: they are counted in 32 bits."""


def check_seed(seed: int, name: str = "seed=") -> None:
    """Raises UserError for a seed that is not one of its own; `name` precedes it in the sentence."""
    if not SEEDS[0] <= seed <= SEEDS[1]:
        raise UserError(f"{name}{short(seed)} is no seed of its own: choose one from {SEEDS[0]:,} to {SEEDS[1]:,}")


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raises UserError where `what` needs more bytes than this host has free."""
    free = runtime.available_memory()
    if needed > free:
        raise UserError(f"{what} would take {gibibytes(needed)} of memory, and {gibibytes(free)} are free: {remedy}")


def check_image(image_size: tuple[int, int], count: int = 1) -> None:
    """Raises UserError where `count` RGB images of this size do not fit, or those that are decoded at the same time."""
    together = max(count, 3 * runtime.cores())  # what a decoder holds, and its result
    height, width = image_size
    what = f"{short(count)} images of {short(height)} × {short(width)} pixels" if count > 1 else (
        f"decoding images to {short(height)} × {short(width)} pixels"
    )  # fmt: skip
    check_memory(3 * height * width * together, what, "lower `image_size`" + " or their number" * (count > 1))


def gibibytes(size: int) -> str:
    """A number of bytes for people."""
    if size >= 2**70:
        return "more than 2^40 GiB"
    return f"{size / 2**30:,.1f} GiB" if size < 2**40 else f"{size // 2**30:,} GiB"


def short(number: int) -> str:
    """A whole number in at most about thirty characters."""
    return f"{number:,}" if abs(number) < 10**21 else f"10^{math.log10(abs(number)):.0f}"
