"""Checkpoints of a run: written by Orbax in the background, sealed with a manifest, verified when a run is opened.

A checkpoint is written under the name `unfinished` and renamed when all of it is on the disk, so what a kill leaves
half-written is never offered. Orbax restores flipped bytes without a word: `manifest.json` holds a checksum of every
file, of every array and, in its first line, of itself. What is not as it was written is named and passed over.

On several hosts all take part in Orbax's writing and reading; the first does the rest and tells the others.
"""

import errno
import json
import logging
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnnjax import distributed
from cnnjax.checksums import checksum as _checksum
from cnnjax.checksums import leaves as _leaves
from cnnjax.checksums import seal as _seal
from cnnjax.checksums import verified as _verified
from cnnjax.errors import UserError
from cnnjax.train import metrics
from cnnjax.train.metrics import Row, best
from cnnjax.train.step import TrainState


class Checkpoints:
    """The whole checkpoints in a folder; a context that waits for what is still being written.

    `30` is the state after an epoch that ended with step 30, `34-partial` one within an epoch. The two latest are
    kept, and the best epoch's: that of the lowest validation loss, among equals of the highest accuracy.

    Opening reads every file. A damaged checkpoint is logged as a warning and the one before it takes its place; raises
    UserError when none is left, or the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._thread = ThreadPoolExecutor(1)
        self._saving: Future | None = None
        # Of the whole ones, by name.
        self._manifests: dict[str, dict[str, Any]] = json.loads(distributed.run_on_primary(self._open))
        self.step = max((_age(name)[0] for name in self._manifests), default=0)
        """The step of the latest checkpoint, be it still in the making."""

    def _open(self) -> str:
        manifests = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("unfinished", "removed"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            found = self._folders()
        except OSError as error:
            raise UserError(f"{self.folder} cannot hold checkpoints ({_reason(error)}): use --fresh") from error
        for path in found:
            try:
                manifests[path.name] = _verified(path)
            except (OSError, ValueError) as error:
                logging.getLogger(__name__).warning(f"the checkpoint {path} is damaged ({_reason(error)}): passed over")
        if found and not manifests:
            raise UserError(f"no checkpoint in {self.folder} is whole: start over with --fresh")
        return json.dumps(manifests)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, raised: BaseException | None, trace: Any) -> None:
        self._thread.shutdown()
        try:
            self.wait()
        except UserError as error:
            if raised is None:
                raise
            if error is not raised:
                logging.getLogger(__name__).warning(error)

    @property
    def latest(self) -> str | None:
        """The name of the latest whole checkpoint."""
        return max(self._manifests, key=_age, default=None)

    def told(self) -> str:
        """Where the latest whole checkpoint is, in words."""
        return f"the last good checkpoint is {self.folder / self.latest}" if self.latest else "no checkpoint was made"

    def save(self, state: TrainState, sums: metrics.Sums, history: list[Row]) -> None:
        """Start to save the state, the running epoch's sums and the rows of those before; all may be donated at once.

        Raises UserError as `wait` does, for the save before this one.
        """
        self.wait()
        host = jax.device_get({"state": state, "sums": sums})
        self.step = int(host["state"].step)
        name = str(self.step) if history and history[-1]["step"] == self.step else f"{self.step}-partial"
        self._saving = self._thread.submit(self._write, name, host, history)
        if distributed.is_multi_process():
            self.wait()  # Orbax lets hosts meet by collectives, which must not mix with those of training

    def wait(self) -> None:
        """Wait until the last save is on the disk. Raises UserError, naming the last good checkpoint, if it failed."""
        if self._saving is not None:
            self._saving.result()

    def load(self, like: TrainState, name: str | None = None) -> tuple[TrainState, metrics.Sums, list[Row]]:
        """What was saved, as NumPy arrays, by default the latest. `like` gives the expected shapes.

        Raises UserError, naming the folder, when the checkpoint was damaged since it was opened or is of another run.
        """
        self.wait()
        name = self.latest if name is None else name
        where, manifest = f"the checkpoint {self.folder / name}", self._manifests[name]
        like = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), {"state": like, "sums": metrics.zeros()})
        # The names first: Orbax casts a changed dtype silently and is obscure about a missing key.
        if different := _leaves(like).keys() ^ manifest["arrays"].keys():
            raise UserError(f"{where} is of another network or optimizer ({min(different)}): start over with --fresh")
        try:
            host = ocp.load(self.folder / name / "orbax", like)
        except Exception as error:
            raise UserError(f"{where} cannot be read ({_reason(error)}): run again with --resume") from error
        changed = [leaf for leaf, array in _leaves(host).items() if _checksum(array) != manifest["arrays"][leaf]]
        if distributed.any_process(bool(changed)):
            raise UserError(f"{where} is damaged ({' '.join(changed[:1])} has changed): run again with --resume")
        return host["state"], host["sums"], manifest["history"]

    def load_best(self, like: TrainState, history: list[Row]) -> tuple[TrainState, Row]:
        """The state and row of the best epoch of `history` whose checkpoint is whole. Raises UserError as `load`."""
        self.wait()
        row = best(self._whole(history))
        return self.load(like, str(row["step"]))[0], row

    def _write(self, name: str, host: dict[str, Any], history: list[Row]) -> None:
        target = self.folder / name
        try:
            distributed.run_on_primary(self._prepare, host)
            ocp.save(self.folder / "unfinished" / "orbax", host)  # returns when all hosts have written
            self._manifests = json.loads(distributed.run_on_primary(self._offer, name, host, history))
        except Exception as error:
            if distributed.is_primary():
                shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
            raise UserError(
                f"{target} could not be saved ({_reason(error)}): {self.told()}; mend that and go on with --resume"
            ) from error

    def _prepare(self, host: dict[str, Any]) -> None:
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host["state"].params)):
            raise ValueError("its parameters are not finite: lower --optimizer.learning-rate")
        # Orbax would notice a full disk too, but with pages of its threads' errors.
        if shutil.disk_usage(self.folder).free < sum(leaf.nbytes for leaf in jax.tree.leaves(host)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        shutil.rmtree(self.folder / "unfinished", ignore_errors=True)

    def _offer(self, name: str, host: dict[str, Any], history: list[Row]) -> str:
        """Seal what Orbax has written, give it its name and remove what is not kept; the manifests of what is."""
        unfinished, target = self.folder / "unfinished", self.folder / name
        _seal(unfinished, host, history)
        if target.exists():  # a damaged one
            self._remove(target)
        unfinished.rename(target)
        self._manifests[name] = _verified(target)
        keep = sorted(self._manifests, key=_age)[-2:]
        keep += [str(best(whole)["step"])] if (whole := self._whole(history)) else []
        for path in self._folders():
            if path.name not in keep:
                self._remove(path)
        return json.dumps({name: self._manifests[name] for name in keep})

    def _whole(self, history: list[Row]) -> list[Row]:
        return [row for row in history if str(row["step"]) in self._manifests]

    def _folders(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if re.fullmatch(r"\d+(-partial)?", path.name)]

    def _remove(self, path: Path) -> None:
        # Under another name first: killed halfway, it is not taken for a damaged one.
        shutil.rmtree(path.rename(self.folder / "removed"))


def _age(name: str) -> tuple[int, bool]:
    step, _, partial = name.partition("-")
    return int(step), not partial


def _reason(error: Exception) -> str:
    """An error in a few words; Orbax and tensorstore put the system's own at the end of a long line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    system = re.search(r"([^:]+) \[os_error_code=", said)
    return system[1].strip() if system else said[:150]
