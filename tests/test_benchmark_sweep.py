"""The benchmark of a sweep's stack: both contenders train the same networks, and the command runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sweep

from cnnjax.errors import UserError

ROOT = Path(__file__).parents[1]


def test_stacked_and_in_turn_the_same_networks_are_trained(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "contenders")
    import ours_stack

    work = {"model": "small-cnn", "batch_size": 4, "image_size": 36, "networks": 3}
    stacked, in_turn = (ours_stack.prepare(work | {"stacked": how}) for how in (True, False))
    for _ in range(3):
        losses = stacked()
        assert losses == pytest.approx(in_turn(), rel=1e-5)
    assert len({round(loss, 6) for loss in losses}) == 3  # three networks, not one


@pytest.mark.slow
def test_the_benchmark_as_a_user_runs_it(tmp_path):
    out = tmp_path / "sweep.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "sweep.py"), "--networks", "1", "2", "--image-size", "36"]
    done = subprocess.run(
        [*command, "--batch-size", "2", "--rounds", "1", "--calls", "1", "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert [row["who"] for row in results["rows"]] == [sweep.STACKED.who, sweep.IN_TURN.who] * 2
    first, second = results["rows"][2:]
    assert list(results["gains"].values())[1] == pytest.approx(second["median"] / first["median"])
    assert out.with_suffix(".png").stat().st_size > 5000


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="must be 1 or more"):
        sweep.sweep(networks=(0,))
