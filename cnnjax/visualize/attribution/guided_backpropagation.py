"""Guided backpropagation (Springenberg et al. 2015), whose relu passes only positive gradients back."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float

from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.reduction import reduce_channels
from cnnjax.visualize.attribution.relu_rule import with_guided_relu
from cnnjax.visualize.attribution.target import ClassIndex, class_scores, prepare


def guided_backpropagation(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    reduction: str = "max-abs",
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width ..."]:
    """Guided backpropagation (Springenberg et al. 2015): the gradient, of which each relu lets positive values pass.

    Do not take its maps for an explanation of the class: they hardly depend on the class, nor on the weights of the
    later layers (Adebayo et al. 2018; `attribution_metrics.cascading_randomization` shows it on any network). They
    resemble what an edge detector draws (Nie et al. 2018).

    Relus are found in the traced program, so no model needs to know of it: `jax.nn.relu`, `nnx.relu` and
    `jnp.maximum(x, 0)`, also inside of jax.jit, jax.checkpoint, jax.lax.scan and conditions. See `gradient` for the
    arguments. Raises UserError as it does, and for a network without relu, or with one where it cannot be replaced.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    slopes = accumulate(GuidedGradient(), network, images, classes, batch_size=batch_size)
    return reduce_channels(slopes, reduction)


@dataclass(frozen=True)
class GuidedGradient:
    """The gradient at the image with relu's rule replaced."""

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width channels"]:
        def score(images: jax.Array) -> jax.Array:
            return class_scores(network(images)[0], rows.classes).sum()

        return jax.grad(with_guided_relu(score, rows.images))(rows.images)
