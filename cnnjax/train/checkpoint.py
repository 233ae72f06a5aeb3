"""Checkpoints of a run by Orbax: the latest and the best, saved in the background, verified when read.

Orbax notices truncated and missing files but restores flipped bytes without a word, so each leaf's CRC32 goes into the
checkpoint's metadata, with the history, and is compared on loading.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnnjax.errors import UserError
from cnnjax.train.metrics import Row, best, rank
from cnnjax.train.step import TrainState


class Checkpoints:
    """The checkpoints in a folder; a context that waits for what is still being written.

    Two are kept: the latest epoch and the best one, which is that of the lowest validation loss, among equals of
    the highest accuracy.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(1), policies.BestN(get_metric_fn=rank, n=1)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                # Orbax' default leaves out a save while the one before is still being written.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        except Exception as error:
            raise UserError(f"{self.folder} cannot hold checkpoints ({_first_line(error)}): use --fresh") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The step of the latest checkpoint."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(self, state: TrainState, history: list[Row]) -> None:
        """Start to save the state after the last epoch of `history`; the state may be donated at once."""
        host = jax.device_get(state)
        crc = {name: _checksum(leaf) for name, leaf in _leaves(host).items()}
        crc["history"] = _checksum(json.dumps(history).encode())
        self._orbax.save_checkpointables_async(
            history[-1]["step"],
            {"state": host},
            metrics={name: history[-1][name] for name in ("valid_accuracy", "valid_loss", "epoch")},
            custom_metadata={"history": history, "crc32": crc},
        )

    def load(self, like: TrainState, step: int | None = None) -> tuple[TrainState, list[Row]]:
        """The state (as NumPy arrays) and history at a step, by default the latest. `like` gives the expected shapes.

        Raises UserError, naming the folder, when the checkpoint is damaged or belongs to something else.
        """
        self._orbax.wait()
        step = self.latest if step is None else step
        where = f"the checkpoint {self.folder / str(step)}"
        remedy = "remove the run, or train again with --fresh"
        try:
            metadata = self._orbax.checkpointables_metadata(step).custom_metadata
            history, crc = metadata["history"], metadata["crc32"]
        except Exception as error:
            raise UserError(f"{where} is not one of cnnjax ({_first_line(error)}): {remedy}") from error
        # The names first: Orbax casts a changed dtype silently and is obscure about a missing key.
        different = _leaves(like).keys() ^ (crc.keys() - {"history"})
        if different:
            odd = min(different)
            raise UserError(f"{where} is of another network or optimizer ({odd}): {remedy}")
        try:
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
            state = self._orbax.load_checkpointables(step, {"state": like})["state"]
        except Exception as error:
            raise UserError(f"{where} cannot be read ({_first_line(error)}): {remedy}") from error
        actual = {name: _checksum(leaf) for name, leaf in _leaves(state).items()}
        actual["history"] = _checksum(json.dumps(history).encode())
        damaged = [name for name, value in actual.items() if crc.get(name) != value]
        if damaged:
            raise UserError(f"{where} is damaged ({damaged[0]} has changed since it was written): {remedy}")
        return state, history

    def load_best(self, like: TrainState, history: list[Row]) -> TrainState:
        """The state of the best epoch of `history`. Raises UserError as `load` does."""
        return self.load(like, best(history)["step"])[0]


def _leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree under a name that tells its place, type and shape."""
    leaves = jax.tree.leaves_with_path(tree)
    return {f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}": leaf for path, leaf in leaves}


def _checksum(data: Any) -> int:
    return zlib.crc32(data if isinstance(data, bytes) else np.ascontiguousarray(data).data)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:150]}" if lines else type(error).__name__
