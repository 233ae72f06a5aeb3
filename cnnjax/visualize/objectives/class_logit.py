"""The logit of a class."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError, unknown
from cnnjax.visualize.objectives.base import STATIC, Facts, Leaf, Objective, Target, at, indices_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassLogit(Objective):
    """See `class_logit`. names: what is still to be looked up in the network's classes, or ().

    index: of the classes; as long as there are names, of these.
    """

    index: Leaf
    names: tuple[str, ...] = field(default=(), metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if self.names:
            raise UserError(f"class_logit({self.names[0]!r}) is not bound to a network yet: give the class's number")
        if logits.shape[0] == 1:
            return jnp.where(jnp.asarray(self.index) == 1, logits[0], -logits[0])
        return logits[self.index]

    def bind(self, target: Target) -> Objective:
        known = target.class_names
        if not known:
            raise UserError("this network has no classes to draw: use one with its dense layers, at its own image size")
        for name in self.names:
            if name not in known:
                raise unknown("class", name, known)
        places = np.asarray(self.index).tolist() if self.names else []
        index = np.asarray([known.index(self.names[i]) for i in places], np.int32) if self.names else self.index
        wrong = [int(number) for number in np.asarray(index) if not 0 <= number < len(known)]
        if wrong:
            raise UserError(
                f"there is no class {wrong[0]}: the network's {len(known)} classes are 0 to {len(known) - 1}"
            )
        return ClassLogit(index)

    def own_numbers(self) -> Leaf:
        return self.index

    def describe(self, index: int) -> str:
        number = at(self.index, index)
        return f"class_logit({self.names[int(number)] if self.names else number})"

    def facts(self, index: int) -> Facts:
        return {"kind": "class", "class_index": at(self.index, index)}


def class_logit(classes: str | int | Sequence[str] | Sequence[int] | np.ndarray | jax.Array) -> Objective:
    """The logit of a class, by name or number; not its probability, which saturates (article, section 6.3).

    A network with one sigmoid logit has two classes: its logit is class 1's, its negative is class 0's.
    """
    names = [classes] if isinstance(classes, str) else classes
    if isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names):
        return ClassLogit(np.arange(len(names), dtype=np.int32), tuple(map(str, names)))
    return ClassLogit(indices_of(classes, "class"))  # type: ignore[arg-type]
