"""All attribution methods by name, and one call for any of them."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Key

from cnnjax.errors import unknown
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.class_activation import grad_cam, grad_cam_plus_plus, layer_cam
from cnnjax.visualize.attribution.gradient import gradient, gradient_times_input
from cnnjax.visualize.attribution.guided_backpropagation import guided_backpropagation
from cnnjax.visualize.attribution.integrated_gradients import integrated_gradients
from cnnjax.visualize.attribution.occlusion import occlusion
from cnnjax.visualize.attribution.rise import rise
from cnnjax.visualize.attribution.smooth_grad import smooth_grad
from cnnjax.visualize.attribution.target import ClassIndex


class Method(NamedTuple):
    """function: `function(network, images, class_index, *, batch_size, …)`. sentence: what its map shows.

    from_zero: 0 says that a pixel does not matter. Otherwise only differences within a map say something.
    """

    function: Callable[..., Float[np.ndarray, "images height width"]]
    sentence: str
    from_zero: bool = True

    @property
    def takes_layer(self) -> bool:
        return "layer" in inspect.signature(self.function).parameters

    @property
    def takes_key(self) -> bool:
        return "key" in inspect.signature(self.function).parameters


METHODS: dict[str, Method] = {
    "gradient": Method(gradient, "how much the logit changes with each pixel (saliency)"),
    "gradient-times-input": Method(gradient_times_input, "the gradient times the pixel"),
    "smooth-grad": Method(smooth_grad, "the mean gradient of noisy copies"),
    "integrated-gradients": Method(integrated_gradients, "each pixel's share of the logit's difference from black"),
    "guided-backpropagation": Method(
        guided_backpropagation, "positive gradients only: edges, hardly dependent on class or later weights"
    ),
    "grad-cam": Method(grad_cam, "a layer's channels, weighted by their mean gradient"),
    "grad-cam++": Method(grad_cam_plus_plus, "a layer's channels, weighted by their positive gradients"),
    "layer-cam": Method(layer_cam, "a layer's positions, weighted by their positive gradients"),
    "occlusion": Method(occlusion, "the fall of the logit when a window is covered"),
    "rise": Method(rise, "the probability that random masks leave to the class", from_zero=False),
}
"""Every method by its name on the command line."""


def attribute(
    network: Network,
    images: Images,
    method: str,
    class_index: ClassIndex | None = None,
    *,
    layer: str | None = None,
    key: Key[Array, ""] | None = None,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """The heat maps of a method by its name in `METHODS`, with its defaults: what in each image speaks for a class.

    layer, key: for the methods that take one; others pass them by. See `gradient` for the other arguments. Raises
    UserError as the methods do, and for an unknown one.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    chosen = METHODS[method]
    options: dict[str, str | Key[Array, ""] | None] = {"layer": layer} if chosen.takes_layer else {}
    if chosen.takes_key:
        options["key"] = key
    return chosen.function(network, images, class_index, batch_size=batch_size, **options)
