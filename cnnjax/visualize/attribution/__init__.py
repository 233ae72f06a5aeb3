"""Attribution: heat maps of what in an image speaks for a class.

    heat = visualize.integrated_gradients(network, photographs, "cat")

Every method is `method(network, images, class_index=None, *, batch_size=16, …)`, for float images in [0, 1] or uint8.
"""

from cnnjax.visualize.attribution.class_activation import grad_cam, grad_cam_plus_plus, layer_cam
from cnnjax.visualize.attribution.gradient import gradient, gradient_times_input
from cnnjax.visualize.attribution.guided_backpropagation import guided_backpropagation
from cnnjax.visualize.attribution.integrated_gradients import completeness_gap, integrated_gradients
from cnnjax.visualize.attribution.methods import METHODS, Method, attribute
from cnnjax.visualize.attribution.occlusion import occlusion
from cnnjax.visualize.attribution.reduction import to_display
from cnnjax.visualize.attribution.rise import rise, rise_masks
from cnnjax.visualize.attribution.smooth_grad import smooth_grad
from cnnjax.visualize.attribution.target import likeliest, scores

__all__ = [
    "METHODS",
    "Method",
    "attribute",
    "completeness_gap",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_times_input",
    "guided_backpropagation",
    "integrated_gradients",
    "layer_cam",
    "likeliest",
    "occlusion",
    "rise",
    "rise_masks",
    "scores",
    "smooth_grad",
    "to_display",
]
