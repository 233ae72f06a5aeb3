"""A long job as a sequence of named stages whose results are cached: finished stages are read back, others are run.

A stage's record, `STAGE/stage.json` in the job's folder, is written last and atomically, so that it exists only if the
stage is complete. It holds the stage's result (JSON-able data), its duration, and a fingerprint of its inputs. When the
inputs of a stage change, that stage and all later ones are run again.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax import files
from cnnjax.printable import printable

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""A stage's result: JSON-able data."""


class StageCache:
    """Runs the stages of one job in order, and prints which stage is running and how much time is left.

    After `run`, the dicts `results`, `seconds` and `titles` hold an entry for that stage.
    """

    def __init__(self, folder: Path, plan: Mapping[str, float], fresh: bool = False) -> None:
        """Args:

        folder: of the job; each stage gets a folder in it.
        plan: the names of all stages in order, with the seconds that each is expected to take. Only their ratios
            matter, since the estimate is scaled by the measured durations.
        fresh: delete the results of all stages first.

        Raises UserError if the folder cannot be written.
        """
        self.folder = files.make_folder(Path(folder))
        self.plan = dict(plan)
        self.results: dict[str, Result] = {}
        self.seconds: dict[str, float] = {}
        self.titles: dict[str, str] = {}
        self._measured = 0.0
        self._planned = 0.0
        self._previous = ""
        if fresh:
            for name in self.plan:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def run(self, name: str, title: str, inputs: Any, compute: Callable[[Path], Result]) -> Result:
        """Return the result of a stage: the cached one if its inputs are the same, else `compute(folder)`.

        title: what is printed. inputs: JSON-able data that the result depends on, besides the earlier stages.
        An interrupted stage finds its folder as it was left, if its inputs are the same.
        """
        content = self._previous + json.dumps(inputs, sort_keys=True)
        fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        self._previous = fingerprint
        self.titles[name] = title
        folder = self.folder / name
        label = f"[{list(self.plan).index(name) + 1}/{len(self.plan)}] {title}"
        done = _read(folder / "stage.json")
        if done is not None and done["fingerprint"] == fingerprint:
            print(f"{label}: already done, in {duration(done['seconds'])}")
            self.results[name], self.seconds[name] = done["result"], done["seconds"]
            return self.results[name]
        begun = _read(folder / "spent.json") or {}
        if done is not None or begun.get("fingerprint", fingerprint) != fingerprint:
            # These files were made from other inputs. They must not be mixed with new ones.
            shutil.rmtree(folder)
            begun = {}
        print(f"{label}; about {duration(self._left(name))} left for all stages", flush=True)
        files.make_folder(folder)
        result, seconds = _timed(folder, compute, {"fingerprint": fingerprint, "seconds": begun.get("seconds", 0.0)})
        _write(folder / "stage.json", {"fingerprint": fingerprint, "seconds": seconds, "result": result})
        self._measured += seconds
        self._planned += self.plan[name]
        self.results[name], self.seconds[name] = result, seconds
        return result

    def _left(self, name: str) -> float:
        """The estimated seconds until the last stage is finished, before stage `name` is run."""
        names = list(self.plan)
        pace = self._measured / self._planned if self._planned else 1.0
        return pace * sum(self.plan[later] for later in names[names.index(name) :])


def _timed(folder: Path, compute: Callable[[Path], Result], begun: dict[str, Any]) -> tuple[Result, float]:
    """The result, and the seconds that it took, including those of earlier, interrupted attempts.

    begun: the record of the attempt, which is in the folder from the start: a killed process could not write it later.
    """
    _write(folder / "spent.json", begun)
    start = time.perf_counter()
    try:
        result = compute(folder)
    except BaseException:
        _write(folder / "spent.json", begun | {"seconds": begun["seconds"] + time.perf_counter() - start})
        raise
    return result, begun["seconds"] + time.perf_counter() - start


def duration(seconds: float) -> str:
    """`95` → `1 min 35 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _write(path: Path, record: dict[str, Any]) -> None:
    record = json.loads(json.dumps(record))  # as it will be read: keys are strings
    files.write_json(path, record | {"sha256": _digest(record)})


def _read(path: Path) -> dict[str, Any] | None:
    """What was written; None, with a warning if there is a file, unless every number and letter is as it was."""
    try:
        record = json.loads(files.read_text(path))
        if record.pop("sha256") == _digest(record):
            return record
        reason = "it has changed since it was written"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error)
    logger.warning("%s cannot be used (%s): this stage is run again", path, printable(reason))
    return None


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
