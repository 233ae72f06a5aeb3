"""The report of a user with an accelerator, in small."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import accelerator
import jax
import peak
import pytest
from accelerator import Row, Work

from cnnjax.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TIMED = {"images_per_second": 4.0, "slowest": 2.0, "fastest": 8.0, "flops_per_second": 5e12, "first": 1.0}
WORK = Work("train", "vgg16", 224, 128, "bfloat16")


@pytest.mark.slow
def test_the_tiny_report_as_a_user_runs_it(tmp_path):
    out = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    rows = [Row(**row) for row in results["rows"]]
    tasks = [row.task for row in rows]
    assert tasks[: len(accelerator.TINY)] == [work.task for work in accelerator.TINY] and not results["left_out"]
    for row in rows:
        assert not row.error and 0 < row.slowest <= row.images_per_second <= row.fastest
        assert row.peak_share > 0 and row.first > 0 and row.device == results["device"]
    table = out.with_suffix(".md").read_text()
    assert table.count("\n| ") == len(rows) + 2 and "small-cnn" in table


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    tried = []

    def time(work, seconds):
        tried.append(work.batch_size)
        if work.batch_size > 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return TIMED

    monkeypatch.setattr(accelerator, "_time", time)
    row = accelerator.measure(WORK, 1.0)
    assert tried == [128, 64, 32] and row.batch_size == 32 and row.images_per_second == 4.0 and not row.error


def test_what_fails_is_a_line_of_the_table(monkeypatch):
    def fail(work, seconds):
        raise ValueError("no such kernel\nsecond line")

    monkeypatch.setattr(accelerator, "_time", fail)
    row = accelerator.measure(WORK, 1.0)
    assert row.error == "ValueError: no such kernel"
    line = accelerator.markdown([row]).splitlines()[2]
    assert line.startswith("| train | vgg16 | bfloat16 |") and "no such kernel" in line
    assert line.count("|") == accelerator.markdown([row]).splitlines()[0].count("|")


def test_shares_refer_to_the_makers_peak():
    row = Row("train", "vgg16", "bfloat16", 1, 224, 128, **TIMED)
    limit = peak.Peak("H100", "bfloat16", measured=6e12, published=1e13)
    assert accelerator.with_share(row, {"bfloat16": limit}).peak_share == 0.5
    other = dataclasses.replace(row, dtype="float32")
    assert accelerator.with_share(other, {"bfloat16": limit}).peak_share is None


@pytest.mark.slow
def test_every_full_workload_can_be_prepared_abstractly():
    for work in (*accelerator.FULL, accelerator.SCALED):
        described = {"model": work.model, "image_size": work.image_size, "batch_size": work.batch_size}
        task = "input-gradient" if work.task == "ascent" else work.task
        assert accelerator.flops.count(described | {"task": task, "layer": work.layer}) > 1e9


def test_times_must_be_positive():
    with pytest.raises(UserError, match="both must be above 0"):
        accelerator.accelerator(seconds=0)
