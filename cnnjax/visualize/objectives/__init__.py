"""What an image is optimized for: objectives, which add, subtract and multiply.

An objective is a function `(logits, activations, image) -> scalar` of one example: its logits (classes,), its
activations by layer (height, width, channels) or (units,), and the image (height, width, channels) in display units,
0 to 255. `render` maximizes it; penalties are subtracted. An `Objective` may stand for several at once
(`channel("conv_2", range(8))`): each gets an image of its own, and one compiled program draws them all.

Channel numbers, class numbers, vectors, activations and factors are leaves of the pytree that an objective is, so that
they may change without compiling anything again; names of layers, and functions, are static.

An objective gives the same image whatever others are drawn with it. The exceptions are `diversity` and `alignment`,
which compare the images of a batch: then all objectives of a call are one batch.
"""

from cnnjax.visualize.objectives.alignment import Alignment, alignment
from cnnjax.visualize.objectives.base import (
    Combination,
    Constant,
    Facts,
    Function,
    Objective,
    ObjectiveFunction,
    Target,
    Term,
    as_objective,
    weighted,
    with_before_relu,
)
from cnnjax.visualize.objectives.caricature import Caricature, caricature
from cnnjax.visualize.objectives.channel import Channel, channel
from cnnjax.visualize.objectives.class_logit import ClassLogit, class_logit
from cnnjax.visualize.objectives.direction import Direction, direction
from cnnjax.visualize.objectives.diversity import Diversity, diversity
from cnnjax.visualize.objectives.inversion import Inversion, inversion
from cnnjax.visualize.objectives.layer import Layer, layer
from cnnjax.visualize.objectives.lp_norm import LpNorm, lp_norm
from cnnjax.visualize.objectives.neuron import Neuron, neuron
from cnnjax.visualize.objectives.total_variation import TotalVariation, total_variation

__all__ = [
    "Alignment",
    "Caricature",
    "Channel",
    "ClassLogit",
    "Combination",
    "Constant",
    "Direction",
    "Diversity",
    "Facts",
    "Function",
    "Inversion",
    "Layer",
    "LpNorm",
    "Neuron",
    "Objective",
    "ObjectiveFunction",
    "Target",
    "Term",
    "TotalVariation",
    "alignment",
    "as_objective",
    "caricature",
    "channel",
    "class_logit",
    "direction",
    "diversity",
    "inversion",
    "layer",
    "lp_norm",
    "neuron",
    "total_variation",
    "weighted",
    "with_before_relu",
]
