"""Where pictures come from: every source gives a `Dataset` of uint8 splits."""

from cnnjax.cli.config import DataConfig
from cnnjax.data.dataset import Dataset, Split

__all__ = ["Dataset", "Split", "load"]


def load(config: DataConfig) -> Dataset:
    """The data set that `config.source` names. Raises UserError, one sentence, for whatever is wrong with it."""
    # Each source is imported when it is asked for: none should wait for another's libraries.
    match config.source.partition(":")[0]:
        case "procedural":
            from cnnjax import procedural as source
        case "folder":
            from cnnjax.data import folder as source
        case _:
            from cnnjax.data import tfds as source
    return source.load(config)
