"""Arrays in, PNG files out. This package alone imports matplotlib, and only when it is itself imported.

Every function draws one figure for the article's page, about 760 CSS pixels wide, saves it at twice that resolution and
at most about 150 kB, and returns the path.
"""

from pathlib import Path

from cnnjax.article.worked_examples import Lessons
from cnnjax.figures import networks, training, volumes, windows
from cnnjax.figures.answers import answers as answers
from cnnjax.figures.canvas import save as save
from cnnjax.figures.canvas import sheet as sheet
from cnnjax.figures.grids import augmented_samples as augmented_samples
from cnnjax.figures.grids import feature_map_grid as feature_map_grid
from cnnjax.figures.grids import maps_in_a_row as maps_in_a_row
from cnnjax.figures.grids import picture_grid as picture_grid
from cnnjax.figures.memory import memory as memory
from cnnjax.figures.networks import receptive_fields as receptive_fields
from cnnjax.figures.speed import contest as contest
from cnnjax.figures.speed import growth as growth
from cnnjax.figures.speed import shares as shares
from cnnjax.figures.training import best_epoch as best_epoch
from cnnjax.figures.training import curves as curves
from cnnjax.figures.training import losses as losses
from cnnjax.figures.training import probabilities as probabilities
from cnnjax.figures.volumes import architecture as architecture


def lessons(lessons: Lessons, folder: Path | str) -> dict[str, Path]:
    """All figures of section 2, and those of dropout and receptive fields: name -> PNG in `folder`."""
    folder = Path(folder)
    plan = {
        "operands": (windows.operands, lessons.convolution),
        "windows": (windows.sliding, lessons.convolution),
        "volume": (volumes.volume, lessons.volume),
        "maps": (volumes.maps, lessons.volume),
        "two-maps": (volumes.two_maps, lessons.volume),
        "relu": (windows.relu, lessons.volume),
        "strides": (windows.strides, lessons.strides),
        "padding": (windows.padding, lessons.padding),
        "pooling": (windows.pooling, lessons.pooling),
        "pooled": (volumes.pooled, lessons.volume),
        "flattened": (volumes.flattened, lessons.volume),
        "descent": (training.descent, lessons.descent),
        "dropout": (networks.dropout, lessons.dropout),
        "receptive-fields": (networks.receptive_fields, lessons.fields),
    }
    return {name: draw(lesson, folder / f"{name}.png") for name, (draw, lesson) in plan.items()}
