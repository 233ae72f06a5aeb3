"""What a trained network sees: feature maps, images that an objective likes most, and where a class was found.

    images = visualize.render(network, visualize.channel("block3_conv2", range(8)))
    images[0].save("runs/filters")

The nouns are lucid's: objectives, transforms, parameterizations; `render` takes them all.
"""

from cnnjax.visualize import recipes as recipes
from cnnjax.visualize.feature_maps import FeatureMaps, feature_maps
from cnnjax.visualize.grad_cam import grad_cam
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes
from cnnjax.visualize.objectives import Objective, channel, class_logit, lp_norm, neuron, total_variation
from cnnjax.visualize.optimizers import keras_vis_rmsprop
from cnnjax.visualize.parameterizations import Parameterization, pixels
from cnnjax.visualize.recipes import RECIPES, Recipe, Stage
from cnnjax.visualize.render import describe_input, render, render_classes, render_filters
from cnnjax.visualize.transforms import Transform, jitter

__all__ = [
    "RECIPES",
    "FeatureMaps",
    "Image",
    "Objective",
    "Parameterization",
    "Recipe",
    "Stage",
    "Transform",
    "at_image_size",
    "channel",
    "check_channels",
    "class_logit",
    "describe_input",
    "feature_maps",
    "grad_cam",
    "jitter",
    "keras_vis_rmsprop",
    "layer_shapes",
    "lp_norm",
    "neuron",
    "pixels",
    "recipes",
    "render",
    "render_classes",
    "render_filters",
    "total_variation",
]
