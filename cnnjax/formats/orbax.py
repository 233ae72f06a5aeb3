"""The folder of a run, or of one of its checkpoints, as Orbax wrote it and `cnnjax.checksums` sealed it.

A checkpoint has parameters, and an optimizer's state, which is left where it is. What else a network needs is in its
run's folder, in `input.safetensors`.
"""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import checksums
from cnnjax.data.normalize import of_colours
from cnnjax.formats import safetensors_reader
from cnnjax.formats.lazy_tensors import Contents, Damaged, Refused, Tensor
from cnnjax.formats.network import flat

INPUT, WEIGHTS = "input.safetensors", "weights.safetensors"


@contextmanager
def read(path: Path) -> Iterator[Contents]:
    """A finished run's weights, an unfinished run's best epoch so far, or a checkpoint; verified to the last bit.

    Raises Damaged where it is not as it was written, and Refused for a folder that is neither.
    """
    path = path.absolute()
    if (path / checksums.MANIFEST).exists():
        run, checkpoint, sealed = path.parent.parent, path, _verified(path)
    elif (path / WEIGHTS).exists():
        with safetensors_reader.read(path / WEIGHTS) as contents:
            yield contents
        return
    else:
        run = path.parent if path.name == "checkpoints" else path
        checkpoint, sealed = _best(run / "checkpoints")
    if not (run / INPUT).exists():
        raise Refused(
            f"{run} has no {INPUT}, which tells the classes and the preprocessing: let it end, or go on with --resume"
        )
    with safetensors_reader.read(run / INPUT) as contents:
        about = contents.about
    arrays = flat(_parameters(checkpoint, sealed))
    tensors = {name: Tensor(name, a.shape, a.dtype, lambda i, j, a=a: a[i:j]) for name, a in arrays.items()}
    made = {"checkpoint": checkpoint.name} | ({"row": sealed["history"][-1]} if sealed["history"] else {})
    yield Contents("a checkpoint of cnnjax", tensors, [], of_colours("none"), about | {"made": about["made"] | made})


def _best(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The whole checkpoint of the best epoch, or before there is one, the latest, and its manifest."""
    found = [path for path in folder.glob("*") if re.fullmatch(r"\d+(-partial)?", path.name)]
    if not found:
        raise Refused(f"a folder must be that of a run, with {WEIGHTS} or checkpoints, or of one of its checkpoints")
    whole = {}
    for path in found:
        try:
            whole[path] = _verified(path)
        except Damaged as error:
            logging.getLogger(__name__).warning(f"{error}: passed over")
    if not whole:
        raise Damaged(f"none of the checkpoints in {folder} is whole")

    def rank(path: Path) -> tuple[float, ...]:
        step, _, partial = path.name.partition("-")
        if partial:
            return -math.inf, -math.inf, int(step)
        row = whole[path]["history"][-1]
        loss = row["valid_loss"] if math.isfinite(row["valid_loss"]) else math.inf
        return -loss, row["valid_accuracy"], int(step)

    best = max(whole, key=rank)
    return best, whole[best]


def _verified(path: Path) -> dict[str, Any]:
    try:
        return checksums.verified(path)
    except (OSError, ValueError) as error:
        raise Damaged(f"the checkpoint {path.name}: {error}") from error


def _parameters(path: Path, sealed: dict[str, Any]) -> dict[str, Any]:
    # Orbax takes a second to import, and no other format needs it.
    from orbax.checkpoint import v1 as ocp

    try:
        saved = ocp.metadata(path / "orbax").metadata
        like = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved)
        like["state"]["params"] = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), saved["state"]["params"])
        params = ocp.load(path / "orbax", like)["state"]["params"]
    except Exception as error:  # Orbax and tensorstore raise many kinds
        raise Damaged(f"the checkpoint {path.name} cannot be read") from error
    sums = {name.removeprefix("['state'].params"): crc for name, crc in sealed["arrays"].items()}
    for name, array in checksums.leaves(params).items():
        if checksums.checksum(array) != sums.get(name):
            raise Damaged(f"the checkpoint {path.name}: {name} has changed")
    return params
