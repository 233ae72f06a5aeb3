"""The benchmark of plain Flax layers with a tiny workload: all contenders do the same work, and the command runs."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import plain_layers
import pytest

from cnnjax.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_step_by_hand_and_that_of_fit_have_the_same_losses(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "contenders")
    import ours_plain
    import plain_resnet

    work = {"model": "resnet18", "task": "train", "batch_size": 2, "image_size": 32, "width": 4}
    by_hand, ours = plain_resnet.prepare(work), ours_plain.prepare(work)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = [by_hand() for _ in range(3)]
    assert [ours() for _ in range(3)] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_plain_layers_as_a_user_runs_it(tmp_path):
    out = tmp_path / "plain_layers.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "plain_layers.py"),
        "--image-sizes",
        "32",
        "--batch-sizes",
        "2",
    ]
    done = subprocess.run(
        [*command, "--rounds", "1", "--calls", "1", "--out", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert [row["who"] for row in results["rows"]] == [contender.who for contender in plain_layers.WHO]
    median = {row["who"]: row["median"] for row in results["rows"]}
    (relative,) = results["relative_time"].values()
    assert relative == pytest.approx({who: median["cnnjax"] / median[who] for who in median if who != "cnnjax"})
    assert "(at most 1.0 is required)" in done.stdout
    assert out.with_suffix(".png").stat().st_size > 5000


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="must have the same number of values"):
        plain_layers.plain_layers(image_sizes=(32,))
