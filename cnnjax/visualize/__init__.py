"""What a trained network sees: feature maps, images that an objective likes most, and where a class was found.

    images = visualize.render(network, visualize.channel("block3_conv2", range(8)))
    images[0].save("runs/filters")

The nouns are lucid's: objectives, transforms, parameterizations; `render` takes them all.
"""

from cnnjax.visualize import atlas as atlas
from cnnjax.visualize import attribution_metrics as attribution_metrics
from cnnjax.visualize import films as films
from cnnjax.visualize import quality as quality
from cnnjax.visualize import recipes as recipes
from cnnjax.visualize.attribution import (
    METHODS,
    attribute,
    completeness_gap,
    grad_cam,
    grad_cam_plus_plus,
    gradient,
    gradient_times_input,
    guided_backpropagation,
    integrated_gradients,
    layer_cam,
    occlusion,
    rise,
    rise_masks,
    scores,
    smooth_grad,
    to_display,
)
from cnnjax.visualize.feature_maps import FeatureMaps, feature_maps
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes
from cnnjax.visualize.objectives import (
    Objective,
    alignment,
    caricature,
    channel,
    class_logit,
    direction,
    diversity,
    inversion,
    layer,
    lp_norm,
    neuron,
    total_variation,
)
from cnnjax.visualize.optimizers import keras_vis_rmsprop
from cnnjax.visualize.parameterizations import (
    Parameterization,
    color_statistics,
    fourier,
    maco,
    magnitude_spectrum,
    pixels,
)
from cnnjax.visualize.recipes import RECIPES, Recipe, Stage
from cnnjax.visualize.render import describe_input, render, render_classes, render_filters
from cnnjax.visualize.transforms import Transform, crop, jitter, noise, pad, rotate, scale, window

__all__ = [
    "METHODS",
    "RECIPES",
    "FeatureMaps",
    "Image",
    "Objective",
    "Parameterization",
    "Recipe",
    "Stage",
    "Transform",
    "alignment",
    "at_image_size",
    "atlas",
    "attribute",
    "attribution_metrics",
    "caricature",
    "channel",
    "check_channels",
    "class_logit",
    "color_statistics",
    "completeness_gap",
    "crop",
    "describe_input",
    "direction",
    "diversity",
    "feature_maps",
    "films",
    "fourier",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_times_input",
    "guided_backpropagation",
    "integrated_gradients",
    "inversion",
    "jitter",
    "keras_vis_rmsprop",
    "layer",
    "layer_cam",
    "layer_shapes",
    "lp_norm",
    "maco",
    "magnitude_spectrum",
    "neuron",
    "noise",
    "occlusion",
    "pad",
    "pixels",
    "quality",
    "recipes",
    "render",
    "render_classes",
    "render_filters",
    "rise",
    "rise_masks",
    "rotate",
    "scale",
    "scores",
    "smooth_grad",
    "to_display",
    "total_variation",
    "window",
]
