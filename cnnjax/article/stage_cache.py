"""A long job as named stages, each done once: finished ones are found again, an interrupted one is repeated.

`runs/article/STAGE/stage.json` is written last and at once, so it is there only if the stage is complete. It holds the
stage's result (plain JSON data), how long it took and a fingerprint of what it was made from: when that changes, the
stage and those after it are made anew.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

Result = dict[str, Any]


def make_folder(folder: Path) -> Path:
    """Make a folder that can be written to. Raises UserError when it can't."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another folder") from None
    return folder


class Stages:
    """Runs the stages of one job in order and says what is running and how long is left.

    `plan` names every stage with the seconds that it takes on a 2-core machine; only their ratios matter, since the
    estimate is scaled by how long the finished ones really took.
    """

    def __init__(self, folder: Path, plan: Mapping[str, float], fresh: bool = False) -> None:
        self.folder = make_folder(Path(folder))
        self.plan = dict(plan)
        self.results: dict[str, Result] = {}
        self.seconds: dict[str, float] = {}
        self.titles: dict[str, str] = {}
        self._measured = 0.0
        self._planned = 0.0
        self._upstream = ""
        if fresh:
            for name in self.plan:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def run(self, name: str, title: str, inputs: Any, make: Callable[[Path], Result]) -> Result:
        """The stage's result: read back if it is finished and its inputs are the same, else made by `make(folder)`."""
        fingerprint = hashlib.sha256((self._upstream + json.dumps(inputs, sort_keys=True)).encode()).hexdigest()[:16]
        self._upstream = fingerprint
        self.titles[name] = title
        folder = self.folder / name
        number = list(self.plan).index(name) + 1
        done = _read(folder / "stage.json")
        if done is not None and done["fingerprint"] == fingerprint:
            print(f"[{number}/{len(self.plan)}] {title}: done before, in {duration(done['seconds'])}")
            self.results[name], self.seconds[name] = done["result"], done["seconds"]
            return self.results[name]
        if done is not None:
            # Made from something else: what lies there must not be mixed with the new.
            shutil.rmtree(folder)
        print(f"[{number}/{len(self.plan)}] {title} · about {duration(self._left(name))} left in all", flush=True)
        make_folder(folder)
        start = time.perf_counter()
        spent = _read(folder / "spent.json") or {"seconds": 0.0}
        try:
            result = make(folder)
        except BaseException:
            _write(folder / "spent.json", {"seconds": spent["seconds"] + time.perf_counter() - start})
            raise
        seconds = spent["seconds"] + time.perf_counter() - start
        _write(folder / "stage.json", {"fingerprint": fingerprint, "seconds": seconds, "result": result})
        self._measured += seconds
        self._planned += self.plan[name]
        self.results[name], self.seconds[name] = result, seconds
        return result

    def _left(self, name: str) -> float:
        names = list(self.plan)
        pace = self._measured / self._planned if self._planned else 1.0
        return pace * sum(self.plan[later] for later in names[names.index(name) :])


def duration(seconds: float) -> str:
    """`95` → `1 min 35 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
