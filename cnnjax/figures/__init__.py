"""Arrays in, PNG files out. Only this package imports matplotlib, and only when it is itself imported.

Every function draws one figure about 760 CSS pixels wide, saves it at twice that resolution and, unless it says
otherwise, in at most 150 kB, and returns the path. `figures.worked_examples` holds the drawings that only the article's
page uses; it is imported by `cnnjax.article`.
"""

from cnnjax.figures.architecture import architecture as architecture
from cnnjax.figures.benchmarks import compare as compare
from cnnjax.figures.benchmarks import growth as growth
from cnnjax.figures.benchmarks import memory as memory
from cnnjax.figures.benchmarks import shares as shares
from cnnjax.figures.canvas import save as save
from cnnjax.figures.canvas import sheet as sheet
from cnnjax.figures.curves import curves as curves
from cnnjax.figures.curves import losses as losses
from cnnjax.figures.grids import augmented_samples as augmented_samples
from cnnjax.figures.grids import feature_map_grid as feature_map_grid
from cnnjax.figures.grids import image_grid as image_grid
from cnnjax.figures.grids import maps_in_a_row as maps_in_a_row
from cnnjax.figures.overlays import attribution_sheet as attribution_sheet
from cnnjax.figures.overlays import heat_overlay as heat_overlay
from cnnjax.figures.overlays import overlay as overlay
from cnnjax.figures.predictions import predictions as predictions
from cnnjax.figures.predictions import probabilities as probabilities
from cnnjax.figures.sweeps import sweep as sweep
