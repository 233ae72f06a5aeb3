"""Grad-CAM (Selvaraju et al. 2017), Grad-CAM++ (Chattopadhay et al. 2018), LayerCAM (Jiang et al. 2021).

Each weighs the activation of a layer by the gradient of the class's logit with respect to it, adds the channels, sets
what is negative to 0, and enlarges the map to the image. They differ in the weights.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.target import ClassIndex, choose_layer, class_scores, prepare


def grad_cam(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    layer: str | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """A heat map in [0, 1] for each image in [0, 1]: what in it speaks for a class, at the size of the image.

    The channels of the layer's activation, each weighted by the mean gradient of the class's logit with respect to it,
    are added; what is negative counts as 0; the map is enlarged to the image by bilinear interpolation and divided by
    its maximum. A map is 0 everywhere if nothing in the layer speaks for the class.

    class_index: a class by number or name, one for all images or one for each; by default the likeliest of each. With
    one sigmoid logit, class 1's is the logit and class 0's its negative. layer: by default the last one with height
    and width, before it is pooled. batch_size: images at a time; one program serves them all.

    Raises UserError for a network without classes, or an unknown class or layer.
    """
    return _class_activation("grad-cam", network, images, class_index, layer, batch_size)


def grad_cam_plus_plus(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    layer: str | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """Grad-CAM++ (Chattopadhay et al. 2018): as Grad-CAM, with positive gradients only, weighted at each position.

    A position's weight is g² / (2g² + g³·ΣA) (equation 19, in which the score is exp of the logit; like other
    implementations this one takes the logit's gradient g), where A is the channel's activation. It finds several
    objects of a class where Grad-CAM finds the largest. See `grad_cam` for the arguments and errors.
    """
    return _class_activation("grad-cam++", network, images, class_index, layer, batch_size)


def layer_cam(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    layer: str | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """LayerCAM (Jiang et al. 2021): each position of each channel is weighted by its own positive gradient.

    Without a mean over positions it also works at early layers, whose maps are finer. See `grad_cam` for the arguments
    and errors.
    """
    return _class_activation("layer-cam", network, images, class_index, layer, batch_size)


@dataclass(frozen=True)
class ClassActivation:
    """The map of one image. kind: whose weights; shape: of the layer's activation."""

    kind: str
    layer: str
    shape: tuple[int, int, int]

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image[:2]

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width"]:
        def score(perturbation: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = network.apply(rows.images, perturbations={self.layer: perturbation})
            assert isinstance(output.logits, jax.Array), "a network has classes only if its logits are one array"
            return class_scores(output.logits, rows.classes).sum(), output.activations[self.layer]

        zeros = jnp.zeros((len(rows.images), *self.shape), rows.images.dtype)
        gradient, activation = jax.grad(score, has_aux=True)(zeros)
        maps = jax.nn.relu((_weights(self.kind, gradient, activation) * activation).sum(axis=-1))
        maps = jax.image.resize(maps, rows.images.shape[:3], "bilinear")
        largest = maps.max(axis=(1, 2), keepdims=True)
        return maps / jnp.where(largest > 0, largest, 1.0)


def _weights(
    kind: str, gradient: Float[Array, "rows height width channels"], activation: Array
) -> Float[Array, "rows _height _width channels"]:
    """What the activation is multiplied by: one number for each channel, or for each position."""
    if kind == "grad-cam":
        return gradient.mean(axis=(1, 2), keepdims=True)
    positive = jax.nn.relu(gradient)
    if kind == "layer-cam":
        return positive
    # g² / (2g² + g³·ΣA) = 1 / (2 + g·ΣA) where g is positive, without the underflow of small gradients' powers.
    below = 2 + positive * activation.sum(axis=(1, 2), keepdims=True)
    return jnp.where(below > 0, positive / jnp.where(below > 0, below, 1.0), 0.0).sum(axis=(1, 2), keepdims=True)


def _class_activation(
    kind: str,
    network: Network,
    images: Images,
    class_index: ClassIndex | None,
    layer: str | None,
    batch_size: int,
) -> Float[np.ndarray, "images height width"]:
    network, images, classes = prepare(network, images, class_index, batch_size)
    method = ClassActivation(kind, *choose_layer(network, layer))
    return accumulate(method, network, images, classes, batch_size=batch_size)
