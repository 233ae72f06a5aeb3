"""The drawings that only the article's page uses: one for each of `cnnjax.article.worked_examples`.

They are here, and not in `cnnjax.article`, because matplotlib is imported in `cnnjax.figures` only. `cnnjax.figures`
itself does not import them, so that it does not depend on `cnnjax.article`.
"""

from pathlib import Path

from cnnjax.article.worked_examples import WorkedExamples
from cnnjax.figures.worked_examples import connections, moving, volumes, windows
from cnnjax.figures.worked_examples.learned_filter import descent


def draw_all(examples: WorkedExamples, folder: Path | str) -> dict[str, Path]:
    """Draw the figures of section 2, and those of dropout and receptive fields: name -> PNG or GIF in `folder`."""
    folder = Path(folder)
    plan = {
        "operands": (windows.operands, examples.convolution),
        "windows": (windows.sliding, examples.convolution),
        "volume": (volumes.volume, examples.volume),
        "maps": (volumes.maps, examples.volume),
        "two-maps": (volumes.two_maps, examples.volume),
        "relu": (windows.relu, examples.volume),
        "strides": (windows.strides, examples.strides),
        "padding": (windows.padding, examples.padding),
        "pooling": (windows.pooling, examples.pooling),
        "pooled": (volumes.pooled, examples.volume),
        "flattened": (volumes.flattened, examples.volume),
        "descent": (descent, examples.descent),
        "dropout": (connections.dropout, examples.dropout),
        "receptive-fields": (connections.receptive_fields, examples.receptive_fields),
    }
    films = {
        "windows-moving": (moving.convolution, examples.convolution),
        "strides-moving": (moving.strides, examples.strides),
        "padding-moving": (moving.padding, examples.padding),
        "pooling-moving": (moving.pooling, examples.pooling),
        "dropout-moving": (moving.dropout, examples.dropout_steps),
    }
    return {
        name: draw(example, folder / f"{name}.{ending}")
        for ending, part in (("png", plan), ("gif", films))
        for name, (draw, example) in part.items()
    }
