"""Whether a network and a data set belong together: told before anything is computed."""

from collections.abc import Sequence

from cnnjax import losses
from cnnjax.data.dataset import ArraySplit, LazySplit, image_shape
from cnnjax.errors import UserError
from cnnjax.network import Network, checked_logits_shape

_USUAL = (losses.cross_entropy(), losses.softmax_cross_entropy(), losses.sigmoid_cross_entropy())


def check_network(network: object) -> None:
    """Raises UserError for what is not a `Network`, such as its model."""
    if not isinstance(network, Network):
        raise UserError(
            f"the network must be a cnnjax.Network, and not {type(network).__name__}: give Network.create(model, "
            "dataset)"
        )


def check_fits(
    network: Network, split: ArraySplit | LazySplit, class_names: Sequence[str], loss: losses.LossFunction
) -> None:
    """Raises UserError for a network of other classes than these, or one that cannot take the split's images."""
    height, width, channels = image_shape(split)
    checked_logits_shape(network.replace(image_size=(height, width), channels=channels))
    names = network.class_names
    if names and len(names) != len(class_names) and not _may_differ(names, class_names, loss):
        raise UserError(
            f"the network has {_listed(names)}, and the data set {_listed(class_names)}: make one for these with "
            "Network.create(model, dataset), or load it with new_head=dataset.class_names"
        )


def _may_differ(names: Sequence[str], wanted: Sequence[str], loss: losses.LossFunction) -> bool:
    """Whether other numbers of classes are no mistake.

    With a loss of one's own what looks like logits may be something else, such as an embedding, if nobody has named its
    classes. A data set whose classes are not named either may lack images of the last ones.
    """
    if not _are_numbers(names):
        return False
    own_loss = losses.evaluation_of(loss) not in _USUAL
    return own_loss or (len(names) > len(wanted) and _are_numbers(wanted))


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether classes have the names that they are given where nobody names them."""
    return all(name.removeprefix("class ") == str(i) for i, name in enumerate(names))


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
