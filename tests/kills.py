"""Kill a training run at random moments, resume it each time, and compare its result with an undisturbed run's.

    python tests/kills.py --kills 20
    python tests/kills.py --kills 20 --loading stream processes

Each process draws its way of loading images from those named: resident, streamed by threads, streamed by processes.
Every other moment is drawn from the whole life of a process, its start included, the others from the time after the
start. A run that finishes before its moment is compared, and another one begins.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from safetensors import numpy as safetensors

from cnnjax.cli import command_line
from cnnjax.errors import UserError

ROOT = Path(__file__).parent.parent
TRAIN = ["experiments/train.py", "debug", "--data.source", "folder:images", "--data.image-size", "32",
         "--model.width-multiplier", "0.25", "--train.epochs", "5", "--train.strategy", "jit",
         "--train.dispatches-per-epoch", "5", "--train.checkpoint-every-steps", "2"]  # fmt: skip
LOADING = {
    "resident": ["--data.loading", "resident"],
    "stream": ["--data.loading", "stream"],
    "processes": ["--data.loading", "stream", "--data.workers", "2"],
}
CLOCKS = ("seconds", "images_per_second")


def kills(
    *,
    kills: int = 20,
    loading: tuple[Literal["resident", "stream", "processes"], ...] = ("resident",),
    seed: int = 0,
    folder: str = "",
) -> None:
    """Kill a run repeatedly at random moments, and resume it.

    Args:
        kills: How often.
        loading: Which ways of loading images take part.
        seed: Of the moments and of the choice among them.
        folder: Where the runs go. Empty makes a temporary folder.
    """
    for line in kill_repeatedly(Path(folder or tempfile.mkdtemp(prefix="cnnjax-kills-")), kills, loading, seed):
        print(line, flush=True)


def kill_repeatedly(folder: Path, kills: int, loading: Sequence[str], seed: int) -> Iterator[str]:
    """Kill a run `kills` times. Yields a line for each event; raises UserError where a run ends differently."""
    moments = random.Random(seed)
    _draw(folder / "images")
    for way in loading:
        _train(folder / f"first-{way}", way)  # fills the caches
    clock = time.time()
    _train(folder / "whole", loading[0])
    life, training = (time.time() - since for since in (clock, (folder / "whole" / "config.json").stat().st_mtime))
    expected = _end(folder / "whole")
    for way in loading:
        if _end(folder / f"first-{way}") != expected:
            raise UserError("two undisturbed runs differ: there is nothing to compare with")
    number, step, done, killed = 0, 0, 0, False
    while done < kills or killed:
        run, way = folder / f"run-{number}", moments.choice(loading)
        started = done % 2 == 0
        moment = moments.uniform(0, training if started else life) if done < kills else None
        killed = not _train(run, way, moment, started)
        if killed:
            before, step, done = step, _latest(run), done + 1
            since = "beginning to train" if started else "start"
            yield f"kill {done} ({way}), {moment:.2f} s after its {since}: {run.name} has {step} steps"
            if step < before:
                raise UserError(f"{run} had {before} steps and was set back")
        elif _end(run) != expected:
            raise UserError(f"{run} ended differently from the undisturbed {folder / 'whole'}")
        else:
            yield f"{run.name} ended like the undisturbed run, bit for bit"
            number, step = number + 1, 0


def _draw(folder: Path) -> None:
    """A data set of noise in folders, with as many images as the preset uses."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(80):
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{i}.png")


def _train(run: Path, way: str, moment: float | None = None, started: bool = False) -> bool:
    """Whether the run finished before the moment, counted from its start or, if `started`, from its training's."""
    command = [sys.executable, ROOT / TRAIN[0], *TRAIN[1:], *LOADING[way], "--run", run.name]
    command += ["--resume"] if run.exists() else []
    environment = os.environ | {"CNNJAX_CACHE": str(run.parent / "cache"), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile("w+") as said:
        before = _written(run)
        process = subprocess.Popen(command, cwd=run.parent, env=environment, stdout=said, stderr=said)
        while started and _written(run) == before and process.poll() is None:
            time.sleep(0.01)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        said.seek(0)
        text = said.read()
    if code or "damaged" in text:
        raise UserError(f"{run} went wrong, exit code {code}: {text}")
    return code is not None


def _written(run: Path) -> int:
    """When the history was last written, which a run does when it starts to train; 0 for never."""
    path = run / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def _latest(run: Path) -> int:
    return max((int(path.name.split("-")[0]) for path in (run / "checkpoints").glob("[0-9]*")), default=0)


def _end(run: Path) -> dict[str, Any]:
    """Everything that a run leaves except times: rows, test, best parameters, checksums of the last state."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = safetensors.load_file(run / "weights.safetensors")
    manifest = (run / "checkpoints" / str(_latest(run)) / "manifest.json").read_bytes().partition(b"\n")[2]
    return {
        "rows": [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows],
        "test": (run / "test.json").read_bytes(),
        "weights": {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in weights.items()},
        "arrays": json.loads(manifest)["arrays"],
    }


if __name__ == "__main__":
    command_line.main(kills)
