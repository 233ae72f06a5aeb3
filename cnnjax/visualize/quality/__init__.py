"""How good drawn images are, as they are saved: measured against the images of a data set.

    better = visualize.quality.assess(images, network, dataset.test, class_names=dataset.class_names)
    better[0].provenance["quality"]

`assess` puts everything that applies to an image into its provenance. Each measure is also a function of its own.
"""

from cnnjax.visualize.quality.activation import compare_activations
from cnnjax.visualize.quality.assess import assess, summarize
from cnnjax.visualize.quality.features import channel_means, values_of
from cnnjax.visualize.quality.path import path_similarity, similarities
from cnnjax.visualize.quality.recognition import Recognition, recognized
from cnnjax.visualize.quality.robustness import robustness

__all__ = [
    "Recognition",
    "assess",
    "channel_means",
    "compare_activations",
    "path_similarity",
    "recognized",
    "robustness",
    "similarities",
    "summarize",
    "values_of",
]
