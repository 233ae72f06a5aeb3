"""How good a heat map is, by what is known of the image or the network. No metric stands alone.

    correlation = attribution_metrics.part_correlation(maps, part_masks, importance)

`localization`: the object's mask is known. `parts`: there are images without one of the object's parts.
`insertion_deletion` and `randomization` need the network only.
"""

from cnnjax.visualize.attribution_metrics.insertion_deletion import Curve, blur, deletion, insertion
from cnnjax.visualize.attribution_metrics.localization import energy_in_mask, pointing_game
from cnnjax.visualize.attribution_metrics.parts import map_importance, part_correlation, removal_importance
from cnnjax.visualize.attribution_metrics.randomization import (
    Cascade,
    cascading_randomization,
    layers_from_top,
    randomize_layer,
)
from cnnjax.visualize.attribution_metrics.similarity import rank_correlation, structural_similarity

__all__ = [
    "Cascade",
    "Curve",
    "blur",
    "cascading_randomization",
    "deletion",
    "energy_in_mask",
    "insertion",
    "layers_from_top",
    "map_importance",
    "part_correlation",
    "pointing_game",
    "randomize_layer",
    "rank_correlation",
    "removal_importance",
    "structural_similarity",
]
