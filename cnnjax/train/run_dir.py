"""A run's folder: what is in it, when it may be written to, when it is finished."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from cnnjax.cli.config import Config, as_dict
from cnnjax.errors import UserError
from cnnjax.train import metrics

CONTENTS = (
    "config.json", "metrics.jsonl", "checkpoints", "input.safetensors", "weights.safetensors", "test.json",
    "tensorboard",
)  # fmt: skip
# What a resumed run may change, because no number depends on it (parallel, microbatches, remat: but by rounding).
FREE = (
    "run", "data.feed", "data.workers", "data.cache", "train.parallel", "train.calls_per_epoch",
    "train.checkpoint_steps", "train.tensorboard", "train.early_stopping", "train.microbatches", "train.remat",
)  # fmt: skip


def prepare(folder: Path, config: Config, resume: bool) -> None:
    """Make the folder and write config.json, unless that would lose or mix up something.

    Raises UserError for a folder that cannot be written, one that holds a run (without `resume`), or a config other
    than the one that the run to resume was started with.
    """
    path = folder / "config.json"
    if path.exists() and _has_results(folder):
        saved = _read(path)
        if not resume:
            state = "a finished run" if (folder / "test.json").exists() else "an unfinished run"
            raise UserError(
                f"{folder} holds {state}: add --resume to go on, --fresh to delete it, or name another --run"
            )
        _compare(saved, as_dict(config), folder)
    write(path, as_dict(config))


def require_shared(folder: Path) -> None:
    """Raises UserError unless this host sees the run that the first one has prepared."""
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not the folder that host 0 writes to: --run must be on a disk that all hosts share"
        )


def write(path: Path, values: dict[str, Any]) -> None:
    """Write JSON; an interruption leaves the old file. Raises UserError where it can't be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}): make room, or choose another folder with --run"
        ) from error


def clear(folder: Path) -> None:
    """Delete what a run wrote into the folder, and nothing else. Raises UserError when it cannot."""
    for path in [path for name in CONTENTS for path in (folder / name, *folder.glob(f".{name}.*"))]:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be deleted ({error.strerror}): choose another folder with --run") from error


def is_complete(history: list[metrics.Row], config: Config) -> bool:
    """Whether all epochs are done, or early stopping ended them: no lower validation loss for so many epochs."""
    patience = config.train.early_stopping
    return len(history) >= config.train.epochs or bool(0 < patience <= metrics.epochs_without_gain(history))


def finished(folder: Path, config: Config) -> list[metrics.Row] | None:
    """The history of a run that has nothing left to do, or None. Raises UserError when its files cannot be read."""
    if not all((folder / name).exists() for name in ("weights.safetensors", "test.json", "metrics.jsonl")):
        return None
    history = metrics.read(folder / "metrics.jsonl")
    return history if is_complete(history, config) else None


def _has_results(folder: Path) -> bool:
    """Whether there is anything to lose or to go on from. Before its first checkpoint a run may be started again."""
    return (folder / "weights.safetensors").exists() or any((folder / "checkpoints").glob("[0-9]*"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run's config: restore it, or start over with --fresh") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a run's config: restore it, or start over with --fresh")
    return values


def _compare(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    # A field that came later than the run has the default's meaning.
    old = _flatten(json.loads(json.dumps(as_dict(Config())))) | _flatten(saved)
    new = _flatten(json.loads(json.dumps(wanted)))
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after or name in FREE:
            continue
        # A schedule stretches over all epochs, so more of them would change the steps already made.
        constant = new.get("optimizer.schedule") in ("constant", "warmup")
        if name == "train.epochs" and constant and isinstance(before, int) and after > before:
            continue
        flag = "--" + name.replace("_", "-")
        raise UserError(
            f"{folder} was started with {flag} {before} and cannot be resumed with {after}: "
            "give the old value, start over with --fresh, or name another --run"
        )


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
