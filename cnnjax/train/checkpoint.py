"""Checkpoints of a run: written by Orbax in the background, sealed with a manifest, verified when a run is opened.

A checkpoint is written under the name `unfinished` and renamed when all of it is on the disk, so what a kill leaves
half-written is never used. Orbax restores flipped bytes without a warning: `manifest.json` holds a checksum of every
file, of every array and, in its first line, of itself. A checkpoint that has changed is named and skipped.

On several hosts all take part in Orbax's writing and reading; the primary host does the rest and informs the others.
"""

import errno
import glob
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import checksums, distributed
from cnnjax.errors import Diverged, UserError
from cnnjax.train import metrics
from cnnjax.train.memory_checkpoints import History
from cnnjax.train.metrics import EpochMetrics, best
from cnnjax.train.state import TrainState
from cnnjax.train.tree_dict import as_dict, from_dict

logger = logging.getLogger(__name__)


class Checkpoints:
    """The complete checkpoints in a folder; a context that waits for what is still being written.

    `30` is the state after an epoch that ended with step 30, `34-partial` one within an epoch. The two latest are
    kept, and the best epoch's: that of the lowest validation loss, among equals of the highest accuracy.

    Opening it reads every file. A damaged checkpoint is logged as a warning and the one before it takes its place.
    Raises UserError when none is left, or the folder cannot be written.
    """

    def __init__(self, folder: Path, thread: ThreadPoolExecutor | None = None):
        """`thread` writes and reads; several runs that train together share one, as Orbax does one thing at a time."""
        self.folder = folder.absolute()
        self._thread, self._is_own = thread or ThreadPoolExecutor(1), thread is None
        self._saving: Future | None = None
        # Of the complete ones, by name.
        self._manifests: dict[str, dict[str, Any]] = json.loads(distributed.run_on_primary(self._open))
        self.step = max((_age(name)[0] for name in self._manifests), default=0)
        """The step of the latest checkpoint, including one that is still being written."""

    def _open(self) -> str:
        manifests = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("unfinished", "removed"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            found = self._folders()
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot hold checkpoints ({_reason(error)}): choose another run_dir, or start over"
            ) from error
        for path in found:
            try:
                manifests[path.name] = checksums.verified(path)
            except (OSError, ValueError) as error:
                logger.warning("the checkpoint %s is damaged (%s): it is skipped", path, _reason(error))
        if found and not manifests:
            raise UserError(f"every checkpoint in {self.folder} is damaged: start over in an empty run_dir")
        return json.dumps(manifests)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_own:
            self._thread.shutdown()
        try:
            self.wait()
        except UserError as error:
            if raised is None:
                raise
            if error is not raised:
                logger.warning(error)

    @property
    def latest(self) -> str | None:
        """The name of the latest complete checkpoint."""
        return max(self._manifests, key=_age, default=None)

    def describe(self) -> str:
        """Where the latest complete checkpoint is, in words."""
        return f"the last good checkpoint is {self.folder / self.latest}" if self.latest else "no checkpoint was made"

    def save(self, state: TrainState, sums: metrics.Sums, history: History) -> None:
        """Start to save the state, the running epoch's sums and the rows of those before; all may be donated at once.

        Raises UserError as `wait` does, for the save before this one.
        """
        self.wait()
        host = as_dict({"state": state, "sums": sums})
        self.step = int(host["state"]["step"])
        name = str(self.step) if history and history[-1]["step"] == self.step else f"{self.step}-partial"
        self._saving = self._thread.submit(self._write, name, host, history)
        if distributed.is_multi_process():
            self.wait()  # Orbax lets hosts meet by collectives, which must not mix with those of training

    def wait(self) -> None:
        """Wait until the last save is on the disk. Raises UserError, naming the last good checkpoint, if it failed.

        The error is Diverged where the parameters were not finite. It is raised once.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def load(
        self, state: TrainState, sums: metrics.Sums, name: str | None = None
    ) -> tuple[TrainState, metrics.Sums, History]:
        """What was saved, as NumPy arrays, by default the latest. `state` and `sums` give the expected shapes.

        Raises UserError, naming the folder, when the checkpoint was damaged since it was opened or is of another run.
        """
        from orbax.checkpoint import v1 as ocp  # slow to import: 0.2 s

        self.wait()
        name = name or self.latest
        if name is None:
            raise UserError(f"there is no checkpoint in {self.folder}: train first")
        where, manifest = f"the checkpoint {self.folder / name}", self._manifests[name]
        expected = {"state": state, "sums": sums}
        like = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), as_dict(expected, jax.eval_shape))
        # The names first: Orbax casts a changed dtype silently and is obscure about a missing key.
        if different := checksums.leaves(like).keys() ^ manifest["arrays"].keys():
            raise UserError(
                f"{where} is of another network, optimizer or metrics ({min(different)}): start over in another run_dir"
            )
        try:
            # Beside a save of another run Orbax's threads would not wait for its folder to be made.
            host = self._thread.submit(ocp.load, str(self.folder / name / "orbax"), like).result()
        except Exception as error:
            raise UserError(f"{where} cannot be read ({_reason(error)}): resume the run again") from error
        found = checksums.leaves(host)
        changed = [leaf for leaf, array in found.items() if checksums.checksum(array) != manifest["arrays"][leaf]]
        if distributed.any_process(bool(changed)):
            raise UserError(f"{where} is damaged ({' '.join(changed[:1])} has changed): resume the run again")
        loaded = from_dict(host, expected)
        return loaded["state"], jax.tree.map(jnp.asarray, loaded["sums"]), manifest["history"]

    def load_best(self, like: TrainState, history: History) -> tuple[TrainState, EpochMetrics]:
        """The state and metrics of the best epoch in `history` that has a complete checkpoint. Raises as `load`."""
        self.wait()
        row = best(self._complete(history))
        sums = metrics.zeros(tuple(name.removeprefix("train_") for name in row if name.startswith("train_")))
        return self.load(like, sums, str(row["step"]))[0], row

    def _write(self, name: str, host: dict[str, Any], history: History) -> None:
        from orbax.checkpoint import v1 as ocp

        target = self.folder / name
        try:
            distributed.run_on_primary(self._prepare, host)
            with _plain(self.folder) as folder:
                ocp.save(str(folder / "unfinished" / "orbax"), host)  # returns when all hosts have written
            self._manifests = json.loads(distributed.run_on_primary(self._offer, name, host, history))
        except Exception as error:
            if distributed.is_primary():
                shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
            kind = Diverged if isinstance(error, Diverged) else UserError
            raise kind(
                f"{target} could not be saved ({_reason(error)}): {self.describe()}; fix the cause, then resume the run"
            ) from error

    def _prepare(self, host: dict[str, Any]) -> None:
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host["state"]["params"])):
            raise Diverged("its parameters are not finite: lower the learning rate")
        # Orbax would notice a full disk too, but with pages of its threads' errors.
        if shutil.disk_usage(self.folder).free < sum(leaf.nbytes for leaf in jax.tree.leaves(host)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        shutil.rmtree(self.folder / "unfinished", ignore_errors=True)

    def _offer(self, name: str, host: dict[str, Any], history: History) -> str:
        """Seal what Orbax has written, give it its name and remove what is not kept; the manifests of what is."""
        unfinished, target = self.folder / "unfinished", self.folder / name
        checksums.seal(unfinished, host, history)
        if target.exists():  # a damaged one
            self._remove(target)
        unfinished.rename(target)
        self._manifests[name] = checksums.verified(target)
        keep = sorted(self._manifests, key=_age)[-2:]
        keep += [str(best(kept)["step"])] if (kept := self._complete(history)) else []
        for path in self._folders():
            if path.name not in keep:
                self._remove(path)
        return json.dumps({name: self._manifests[name] for name in keep})

    def _complete(self, history: History) -> History:
        return [row for row in history if str(row["step"]) in self._manifests]

    def _folders(self) -> list[Path]:
        found = (path for path in self.folder.iterdir() if re.fullmatch(r"\d+(-partial)?", path.name))
        return [path for path in found if path.is_dir()]

    def _remove(self, path: Path) -> None:
        # Under another name first: killed halfway, it is not taken for a damaged one.
        shutil.rmtree(path.rename(self.folder / "removed"))


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """The folder by a path without the characters of a pattern: Orbax looks for what it has written by `glob`.

    With them it finds nothing, and the checkpoint cannot be read.
    """
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


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
