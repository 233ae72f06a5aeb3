"""A run's folder: what is in it, when it may be written to, when it is finished."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnjax import files
from cnnjax.errors import UserError
from cnnjax.train import metrics, schedules

logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]
"""JSON-able settings, nested by part or not: what `config.json` holds."""

CONTENTS = (
    "config.json", "data.json", "metrics.jsonl", "checkpoints", "input.safetensors", "weights.safetensors", "test.json",
    "curves.png", "tensorboard", "profile", "weights",
)  # fmt: skip
RESUME_MUTABLE = frozenset((
    "run", "loading", "workers", "cache", "strategy", "dispatches_per_epoch", "checkpoint_every_steps", "tensorboard",
    "early_stopping_patience", "microbatches", "remat", "profile", "profile_steps", "callbacks", "weights_every_epochs",
    "base.weights",
))  # fmt: skip
"""Settings that a resumed run may change, because no number depends on them, or only by rounding.

With BatchNorm `microbatches` is different: the statistics are those of each part of a batch.
"""


def prepare(folder: Path, settings: Settings, resume: bool) -> None:
    """Make the folder and write config.json, unless that would lose or mix up something.

    Raises UserError for a folder that cannot be written, one that holds a run (without `resume`), or settings other
    than those with which the run to resume was started.
    """
    path = folder / "config.json"
    if path.exists() and has_results(folder):
        saved = _read(path)
        if not resume:
            state = "a finished run" if (folder / "test.json").exists() else "an unfinished run"
            raise UserError(f"{folder} holds {state}: continue it with resume=True, or choose another run_dir")
        _compare(saved, settings, folder)
    files.write_json(path, dict(settings))


@contextlib.contextmanager
def withdrawn_if_refused(folder: Path) -> Iterator[None]:
    """Delete a folder that was made within, if a UserError ends the block while the folder holds settings alone."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except UserError:
        if made and folder.is_dir() and {path.name for path in folder.iterdir()} <= {"config.json"}:
            with contextlib.suppress(OSError):
                (folder / "config.json").unlink(missing_ok=True)
                for place in made:  # up to the first that holds something else
                    place.rmdir()
        raise


def check_shared(folder: Path) -> None:
    """Raises UserError unless this host sees the run that the primary host has prepared."""
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not the folder that host 0 writes to: the run_dir must be on a disk that all hosts share"
        )


def clear(folder: Path) -> None:
    """Delete what a run wrote into the folder, and nothing else. Raises UserError when it cannot."""
    for path in [path for name in CONTENTS for path in (folder / name, *folder.glob(f".{name}.*"))]:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be deleted ({error.strerror}): choose another run_dir") from error


def is_complete(history: list[metrics.EpochMetrics], epochs: int, patience: int) -> bool:
    """Whether all epochs are done, or the validation loss has not fallen for `patience` (if not 0) epochs."""
    return len(history) >= epochs or bool(0 < patience <= metrics.epochs_without_improvement(history))


def finished(folder: Path, epochs: int, patience: int) -> list[metrics.EpochMetrics] | None:
    """The history of a run that has nothing left to do, or None.

    With a checkpoint, damaged files are no obstacle: the run is resumed and writes them again. Raises UserError when
    they cannot be read and there is none.
    """
    if not all((folder / name).exists() for name in ("weights.safetensors", "test.json", "metrics.jsonl")):
        return None
    try:
        history = metrics.read(folder / "metrics.jsonl")
        read_test(folder)
    except UserError as error:
        if not has_checkpoints(folder):
            raise
        logger.warning("%s; it is written again", str(error).partition(":")[0])
        return None
    return history if is_complete(history, epochs, patience) else None


def read_test(folder: Path) -> dict[str, Any]:
    """What test.json holds. Raises UserError when it cannot be read."""
    path = folder / "test.json"
    try:
        test = json.loads(files.read_text(path))
        if isinstance(test, dict) and all(isinstance(test.get(name), int | float) for name in ("loss", "count")):
            return test
        reason = "it holds no results"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
    raise UserError(f"{path} cannot be read as a run's results ({reason}): restore it, or start over")


def has_results(folder: Path) -> bool:
    """Whether there is anything to lose or to continue. Before its first checkpoint a run may be started again."""
    return (folder / "weights.safetensors").exists() or has_checkpoints(folder)


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has left checkpoints, be they intact or not."""
    return any((folder / "checkpoints").glob("[0-9]*"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(files.read_text(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(
            f"{path} cannot be read as a run's settings ({reason}): restore it, or choose another run_dir"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a run's settings: restore it, or choose another run_dir")
    return values


def _compare(saved: Settings, wanted: Settings, folder: Path) -> None:
    """Raises UserError when a setting that both know, and that must not change, has changed."""
    old, new = _flatten(saved), _flatten(json.loads(json.dumps(wanted)))
    if old.get("data.source") == "procedural":
        old.setdefault("data.rendering", 3)  # the only one before settings recorded it
    for name in sorted(old.keys() & new.keys()):
        before, after, last = old[name], new[name], name.rpartition(".")[2]
        if isinstance(before, str) and last in ("loss", "augment", "mix"):
            before = without_addresses(before)
        if before == after or last in RESUME_MUTABLE or name in RESUME_MUTABLE:
            continue
        if name == "base.digest":
            raise UserError(
                f"{folder} was begun with other weights, {old.get('base.weights')}: pass those, or choose another "
                "run_dir"
            )
        # A folder may be moved, or its path be written in another way: data.json says which images are meant.
        if name == "data.source" and _are_folders(before, after) and (folder / "data.json").exists():
            continue
        # A schedule stretches over all epochs, so more of them would change the steps already made.
        if last == "epochs" and _is_constant(new, before) and isinstance(before, int) and after > before:
            continue
        raise UserError(
            f"{folder} was started with {name}={before} and cannot be resumed with {after}: "
            "pass the old value, or choose another run_dir"
        )


def _is_constant(settings: Settings, epochs: Any) -> bool:
    """Whether the learning rate does not depend on the number of epochs, so that a resumed run may be longer.

    A warm-up whose steps are not given lasts at most a quarter of the run: it is the whole one if the run already has
    four times its steps.
    """
    schedule, steps = settings.get("optimizer.schedule", "constant"), settings.get("train.steps_per_epoch")
    if schedule != "warmup" or settings.get("optimizer.warmup_steps") is not None:
        return schedule in ("constant", "warmup")
    return isinstance(steps, int) and isinstance(epochs, int) and epochs * steps >= 4 * schedules.WARMUP_STEPS


def without_addresses(text: str) -> str:
    """What Python says of a function or object, without where it is in memory, which no other process can repeat."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _are_folders(*sources: Any) -> bool:
    return all(str(source).startswith("folder:") for source in sources)


def _flatten(values: Settings, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
