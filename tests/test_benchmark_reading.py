"""The benchmark of reading, tiny: each reader really reads, and the rows say what was measured."""

import json

import pytest
import reading
import reading_once
import torch
from oracles import torch_nets

from cnnjax.errors import UserError


@pytest.mark.parametrize("format", ["torchvision-zip", "torchvision-pth", "torchvision-safetensors"])
def test_both_readers_read(tmp_path, monkeypatch, capsys, format):
    channels = [[3], [6], [13, 13], [26, 26], [26, 26]]
    models = []

    def model():
        models.append(torch_nets.TorchvisionVGG(channels, dense=7))
        return models[-1]

    monkeypatch.setattr(reading_once, "torch_model", model)
    path = tmp_path / "weights"
    reading_once.write(format=format, path=path)
    for who in ("cnnjax", "PyTorch", reading_once.ALL):
        reading_once.read(who=who, format=format, path=path)
        said = json.loads(capsys.readouterr().out)
        assert said["seconds"] > 0 and said["bytes"] < 200e6
    for read in models[1:]:
        assert torch.equal(models[0].classifier[0].weight, read.classifier[0].weight)


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
