"""The benchmark of reading, tiny: each reader really reads, and the rows say what was measured."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import reading
import reading_once

from cnnjax.errors import UserError

ROOT = Path(__file__).parents[1]


CODE = """
import sys
from pathlib import Path
import torch
import reading_once
from oracles import torch_nets

channels, models = [[3], [6], [13, 13], [26, 26], [26, 26]], []

def model():
    models.append(torch_nets.TorchvisionVGG(channels, dense=7))
    return models[-1]

reading_once.torch_model = model
format, path = sys.argv[1], Path(sys.argv[2])
reading_once.write(format=format, path=path)
for who in ("PyTorch", reading_once.ALL, "cnnjax"):
    reading_once.read(who=who, format=format, path=path)
for read in models[1:]:
    assert torch.equal(models[0].classifier[0].weight, read.classifier[0].weight)
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("torch"), reason="needs the extra `peers`")
@pytest.mark.parametrize("format", ["torchvision-zip", "torchvision-pth", "torchvision-safetensors"])
def test_both_readers_read(tmp_path, format):
    """In a process of its own, since PyTorch and JAX in one can crash."""
    paths = [ROOT, ROOT / "benchmarks", ROOT / "tests"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, format, tmp_path / "weights"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 3 and all(one["seconds"] > 0 and one["bytes"] < 200e6 for one in said)


def test_rows_are_medians_and_ratios_to_ours(tmp_path, monkeypatch):
    turns = {"cnnjax": [1.0, 5.0, 2.0], "PyTorch": [4.0, 4.0, 1.0]}
    asked, order = [], ["cnnjax", "PyTorch", reading_once.ALL]

    def once(command, **flags):
        if command == "write":
            (tmp_path / "vgg16.pth").write_bytes(bytes(1000))
            return {}
        asked.append(flags["who"])
        return {"seconds": turns[flags["who"]].pop(0), "bytes": 1500}

    monkeypatch.setattr(reading, "once", once)
    turns[reading_once.ALL] = [3.0, 3.0, 3.0]
    ours, theirs, all_ = reading.measure("torchvision-zip", 3, tmp_path, reading.tqdm(disable=True))
    assert asked == [*order[::-1], *order, *order[::-1]]
    assert (ours.seconds, ours.spread, ours.peak_ratio, ours.time_ratio) == (2.0, (1.0, 5.0), 1.5, 1.0)
    assert (theirs.seconds, theirs.time_ratio, theirs.turns) == (4.0, 0.5, [4.0, 4.0, 1.0])
    assert all_.seconds == 3.0
    assert not (tmp_path / "vgg16.pth").exists()
    with pytest.raises(UserError, match="unknown format 'h5'"):
        reading.reading(formats=("h5",))
