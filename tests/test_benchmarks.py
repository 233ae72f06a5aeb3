"""The benchmarks' machinery on tiny workloads: who takes part, what is written, and that the contenders agree."""

import json
import subprocess
import sys
from pathlib import Path

import contest
import numpy as np
import pytest

from cnnjax.errors import UserError

ROOT = Path(__file__).parents[1]


def test_rows_are_medians_and_ratios():
    seconds = {"cnnjax": [0.2, 0.1, 0.4], "other": [0.3, 0.9, 0.5]}
    found = contest.rows({"name": "work", "batch": 10}, seconds, {"cnnjax": 1.0, "other": 2.0})
    assert [(r.who, r.median, r.low, r.high) for r in found] == [("cnnjax", 0.2, 0.1, 0.4), ("other", 0.5, 0.3, 0.9)]
    assert [r.ratio for r in found] == [1.0, 2.5]
    assert [r.images_per_second for r in found] == [50.0, 20.0]
    assert "2.50×" in contest.table(found)


def test_an_unknown_contender_is_named():
    with pytest.raises(UserError, match="there is no contender 'Cafe': choose among cnnjax, plain Flax"):
        contest.chosen(["Cafe"])


def test_a_contender_that_cannot_take_part_is_left_out(capfd):
    broken = contest.Contender("nobody", "no_such_file")
    work = {"name": "tiny", "model": "small-cnn", "task": "forward", "batch": 2, "side": 16}
    (row,) = contest.contest(work, [contest.OURS, broken], rounds=1, calls=1)
    assert row.who == "cnnjax"
    assert 0 < row.median < row.first
    assert "nobody cannot take part (ModuleNotFoundError" in capfd.readouterr().out


def test_step_time_as_a_user_runs_it(tmp_path):
    out = tmp_path / "results" / "step.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "step_time.py"), "--workloads", "small-train"]
    command += ["--who", "cnnjax", "plain Flax", "PyTorch eager", "--side", "16", "--batch", "2", "--rounds", "2"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}" in done.stdout
    results = json.loads(out.read_text())
    assert {row["who"] for row in results["rows"]} == {"cnnjax", "plain Flax", "PyTorch eager"}
    assert all(np.isfinite(row["median"]) and row["median"] > 0 for row in results["rows"])
    assert "jax" in results["versions"]
    assert out.with_suffix(".png").stat().st_size > 5000
