"""The scaling benchmark with a tiny workload, and the model of larger machines."""

import json
import subprocess
import sys
from pathlib import Path

import prediction
import pytest
import scaling

from cnnjax.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_scaling_as_a_user_runs_it(tmp_path):
    out = tmp_path / "scaling.json"
    flags = ["--axes", "strong", "--devices", "1", "2", "--batch-size", "4", "--image-size", "16"]
    flags += ["--rounds", "1", "--calls", "1"]
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), *flags, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".png").stat().st_size > 5000
    results = json.loads(out.read_text())
    places = [(p["axis"], p["value"], p["who"], p["batch_size"]) for p in results["rows"]]
    assert places == [
        ("strong", 1, "mesh", 4), ("strong", 1, "pmap", 4), ("strong", 2, "mesh", 4), ("strong", 2, "pmap", 4),
    ]  # fmt: skip
    for p in results["rows"]:
        assert p["efficiency"] == pytest.approx(
            p["median"] / results["rows"][0]["median"]
        )  # forced devices share the cores
        assert 0 < p["slowest"] <= p["median"] <= p["fastest"]
    assert [(c["who"], c["devices"]) for c in results["costs"]] == [("jit", 1), ("mesh", 2), ("pmap", 2)]
    assert all(0 < c["among_many"] < c["alone"] for c in results["costs"])


def test_efficiency_of_separate_devices():
    rows = {(n, mode): scaling.compare.Row("w", "", t, t, t, 0.0, None, None)
            for n, mode, t in ((1, "jit", 1.0), (4, "mesh", 1.0), (4, "pmap", 2.0))}  # fmt: skip
    weak = scaling.points("weak", {1: 8, 4: 32}, rows, share_cores=False)
    assert {(p.value, p.who): p.efficiency for p in weak} == {
        (1, "mesh"): 1.0, (1, "pmap"): 1.0, (4, "mesh"): 1.0, (4, "pmap"): 0.5
    }  # fmt: skip


def test_errors_of_the_scaling_benchmark():
    with pytest.raises(UserError, match="--devices 2 4: 1 must be among them"):
        scaling.scaling(devices=(2, 4))
    with pytest.raises(UserError, match="a batch of 6 cannot be divided evenly among 4 devices"):
        scaling.scaling(devices=(1, 4), batch_size=6)


def test_a_ring_sends_each_byte_twice_except_the_chips_own():
    """Chunk by chunk, as a ring does it: n - 1 sends of 1/n to reduce, as many to gather."""
    for n in (2, 3, 8):
        sent = sum(1 / n for _ in range(n - 1)) * 2 * 1e9
        assert prediction.reduction((prediction.Level(n, 5e8),), 1e9) == pytest.approx(sent / 5e8)


def test_the_outer_level_exchanges_what_the_inner_one_scattered():
    inner, outer = prediction.Level(8, 4e9), prediction.Level(4, 1e9)
    apart = prediction.reduction((inner,), 1e9) + prediction.reduction((outer,), 1e9 / 8)
    assert prediction.reduction((inner, outer), 1e9) == pytest.approx(apart)


def test_the_prediction_for_vgg16(capsys):
    """Sources: 15.47 GMAC forward (He et al. 2016 count 15.3 without the dense layers), 138,357,544 parameters."""
    prediction.prediction(batch_size=128, share=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vgg16, 128 images per chip, 11.86 TFLOP, gradients 553.4 MB"
    machine, chips, compute, reduction, *_ = [cell for cell in lines[2].split("  ") if cell.strip()]
    assert (machine, int(chips)) == ("TPU v5e", 8)
    assert float(compute) == pytest.approx(1e3 * 3 * 2 * 15.47e9 * 128 / (0.5 * 197e12), rel=0.01)
    assert float(reduction) == pytest.approx(1e3 * 2 * 7 / 8 * 4 * 138357544 / 100e9, rel=0.01)
    assert len(lines) == 2 + 9


def test_errors_of_the_prediction():
    with pytest.raises(UserError, match="--share 1.5 from 0 to 1"):
        prediction.prediction(share=1.5)
