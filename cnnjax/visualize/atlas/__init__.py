"""Every filter of a network: its picture, what of a data set fires it most, and how selective it is, on one page.

atlas.build(network, atlas.Data(dataset.valid, "procedural"), "runs/atlas")
"""

from cnnjax.visualize.atlas.build import RECIPE, Atlas, Data, Watch, build
from cnnjax.visualize.atlas.selection import Layer, choose_layers
from cnnjax.visualize.atlas.table import STATES

__all__ = ["RECIPE", "STATES", "Atlas", "Data", "Layer", "Watch", "build", "choose_layers"]
