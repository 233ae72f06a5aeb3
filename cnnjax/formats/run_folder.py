"""The folder of a run, or of one of its checkpoints, which Orbax wrote and `cnnjax.checksums` sealed.

A checkpoint holds the training state. Of it the parameters and the model's state are read, or their moving averages
where there are any. What else a network needs is in the run's folder, in `input.safetensors`.
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

from cnnjax import checksums, models
from cnnjax.data.normalize import identity
from cnnjax.formats import description, native
from cnnjax.formats.lazy_tensors import Contents, Damaged, Refused, Tensor

INPUT, WEIGHTS = "input.safetensors", "weights.safetensors"
PARTS = ("params", "model_state")
SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb")
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".keras", ".h5")


@contextmanager
def read(path: Path) -> Iterator[Contents]:
    """The weights of a finished run, the best epoch so far of an unfinished one, or a checkpoint; all verified.

    Raises Damaged if something is not as it was written, and Refused for another folder.
    """
    path = path.absolute()
    if (path / checksums.MANIFEST).exists():
        run, checkpoint, manifest = path.parent.parent, path, _verified(path)
    elif (path / WEIGHTS).exists():
        with native.read(path / WEIGHTS) as contents:
            yield contents
        return
    else:
        run = path.parent if path.name == "checkpoints" else path
        checkpoint, manifest = _best(run / "checkpoints")
    if not (run / INPUT).exists():
        raise Refused(
            f"{run} has no {INPUT}, which holds the classes and the normalizer: let the run end, or resume it"
        )
    with native.read(run / INPUT) as contents:
        fields = contents.description
    if fields is None:
        raise Damaged(f"its {INPUT} has no description")
    arrays = {name: np.asarray(array) for name, array in _arrays(checkpoint, manifest).items()}
    tensors = {name: Tensor(name, a.shape, a.dtype, _rows(a)) for name, a in arrays.items()}
    provenance = description.field("provenance", fields)
    notes = {"checkpoint": checkpoint.name} | ({"row": manifest["history"][-1]} if manifest["history"] else {})
    fields = fields | {provenance: fields.get(provenance, {}) | notes}
    yield Contents("a checkpoint of cnnjax", tensors, [], identity(), fields)


def _rows(array: np.ndarray) -> Any:
    return lambda first, last: (array if array.ndim else array.reshape(1))[first:last]


def _other(folder: Path) -> str:
    """Which file beside a folder of checkpoints that does not exist may be meant, as the end of a sentence."""
    files = sorted(path.name for path in folder.parent.glob("*") if path.suffix in ENDINGS)
    return f"; of the files in it, {files[0]} may be what you mean: give its path" if files else ""


def _best(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The intact checkpoint of the best epoch or, before there is one, the latest; and its manifest."""
    found = [path for path in folder.glob("*") if re.fullmatch(r"\d+(-partial)?", path.name)]
    if not found and any((folder.parent / name).is_file() for name in SAVED_MODEL):
        raise Refused(
            "it is a SavedModel of TensorFlow, which holds code: load it with the Keras that wrote it and save it as a "
            ".keras or .h5 file"
        )
    if not found:
        raise Refused(
            f"a folder must be that of a run, with {WEIGHTS} or checkpoints, or of one of its checkpoints"
            + _other(folder)
        )
    intact = {}
    for path in found:
        try:
            intact[path] = _verified(path)
        except Damaged as error:
            logging.getLogger(__name__).warning(f"{error}: it is skipped")
    if not intact:
        raise Damaged(f"no checkpoint in {folder} is intact")

    def rank(path: Path) -> tuple[float, ...]:
        step, _, partial = path.name.partition("-")
        if partial or not intact[path]["history"]:
            return -math.inf, -math.inf, int(step)
        row = intact[path]["history"][-1]
        loss = row["valid_loss"] if math.isfinite(row["valid_loss"]) else math.inf
        return -loss, row.get("valid_accuracy", 0.0), int(step)

    best = max(intact, key=rank)
    return best, intact[best]


def _verified(path: Path) -> dict[str, Any]:
    try:
        return checksums.verified(path)
    except (OSError, ValueError) as error:
        raise Damaged(f"the checkpoint {path.name}: {error}") from error


def _arrays(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The parameters and the model's state, or their averages, by name; compared with the manifest's checksums."""
    # Orbax takes a second to import, and no other format needs it.
    from orbax.checkpoint import v1 as ocp

    try:
        saved = ocp.metadata(path / "orbax").metadata
        like = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved)
        averaged = bool(saved["state"].get("ema"))
        abstract, place = (part["state"]["ema"] if averaged else part["state"] for part in (saved, like))
        for part in (part for part in PARTS if abstract.get(part)):
            place[part] = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract[part])
        loaded = ocp.load(path / "orbax", like)
    except Exception as error:  # Orbax and tensorstore raise many kinds
        raise Damaged(f"the checkpoint {path.name} cannot be read") from error
    state = loaded["state"]["ema"] if averaged else loaded["state"]
    found = {part: state[part] for part in PARTS if abstract.get(part)}
    known = _plain_names(manifest["arrays"])
    prefix = ("state", "ema") if averaged else ("state",)
    for name, array in checksums.leaves(found).items():
        if checksums.checksum(array) != known.get((*prefix, *_names(name))):
            raise Damaged(f"the checkpoint {path.name}: {name} has changed")
    return {name: array for part in found.values() for name, array in models.flatten(part).items()}


def _plain_names(sums: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """A manifest's checksums, by the names in their keys: ['state'].params['fc1'] and ['state']['params']['fc1']."""
    return {_names(key): value for key, value in sums.items()}


def _names(key: str) -> tuple[str, ...]:
    """state, params, fc1, kernel, "float32[2, 3]" from "['state'].params['fc1']['kernel'] float32[2, 3]"."""
    path, _, kind = key.partition(" ")
    return (*re.findall(r"[^\[\]'.]+", path), kind)
