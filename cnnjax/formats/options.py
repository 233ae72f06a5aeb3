"""The arguments of `formats.load`, checked before a file is looked at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from flax import nnx

from cnnjax import limits
from cnnjax.data.normalize import Normalizer
from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.network import to_class_names


@dataclass(frozen=True)
class Options:
    """The arguments of `formats.load`."""

    include_top: bool | None = True
    image_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    new_head: tuple[str, ...] = ()
    normalizer: Normalizer | None = None
    model: nnx.Module | None = None
    seed: int = 0
    dense_units: int | None = None
    keep_head: bool = False

    @classmethod
    def of(
        cls,
        *,
        image_size: int | tuple[int, int] | None = None,
        class_names: Sequence[str] = (),
        new_head: Sequence[str] = (),
        **others: Any,
    ) -> "Options":
        """From the arguments as they were given. Raises UserError for one that cannot be meant."""
        size = None if image_size is None else to_size(image_size)
        names, head = to_class_names(class_names), to_class_names(new_head, "new_head")
        if twice := [name for name, count in Counter(head).items() if count > 1]:
            raise UserError(f"new_head has {twice[0]!r} more than once: give each class a name of its own")
        if len(head) == 1:
            raise UserError(f"new_head has one class, {head[0]!r}: name two or more")
        _check_numbers(**{name: others[name] for name in ("seed", "dense_units") if name in others})
        return cls(image_size=size, class_names=names, new_head=head, **others)


def _check_numbers(seed: Any = 0, dense_units: Any = None) -> None:
    """Raises UserError for arguments of a new head that no head can have."""
    if not isinstance(seed, Integral):
        raise UserError(f"seed={seed!r} is no whole number: give one, such as 0")
    limits.check_seed(int(seed))
    if dense_units is not None and (not isinstance(dense_units, Integral) or dense_units < 1):
        raise UserError(f"dense_units={dense_units!r} is no number of outputs: give a whole number from 1 on, or None")
