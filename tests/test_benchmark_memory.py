"""The benchmarks of memory and of precision with tiny workloads, and their error messages."""

import json
import subprocess
import sys
from pathlib import Path

import memory
import numpy as np
import precision
import pytest

from cnnjax import data, figures
from cnnjax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_memory_as_a_user_runs_it(tmp_path):
    out = tmp_path / "memory.json"
    flags = [
        "--model",
        "small-cnn",
        "--image-size",
        "16",
        "--batch-size",
        "8",
        "--precisions",
        "bfloat16",
        "--microbatches",
        "2",
        "--out",
        str(out),
    ]
    command = [sys.executable, str(BENCHMARKS / "memory.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out} and {out.with_suffix('.png')}" in done.stdout
    assert out.with_suffix(".png").stat().st_size > 5000
    results = json.loads(out.read_text())
    ways = [(row["precision"], row["microbatches"], row["remat"]) for row in results["rows"]]
    assert ways == [("bfloat16", 2, False), ("bfloat16", 2, True)]
    for row in results["rows"]:
        # Parameters and Adam's state, all in float32, are updated in place.
        assert row["arguments"] >= row["alias"] >= 2 * 4 * 430_000
        assert row["peak"] >= row["arguments"] + row["temporary"]
        assert row["flops"] == 1 if not row["remat"] else 1.2 < row["flops"] < 1.5


def test_rematerialization_costs_less_than_a_forward_pass():
    """A third of VGG16's step, up to the dense layers and the first layer's input gradient, which is never computed."""
    work = {"model": "vgg16", "image_size": 224, "batch_size": 4, "task": "train"}
    assert memory.recomputed(work) == pytest.approx(4 / 3, abs=0.005)


def test_errors_of_the_memory_benchmark():
    with pytest.raises(UserError, match="--microbatches 3 does not divide the batch of 32"):
        memory.memory(microbatches=(1, 3))
    with pytest.raises(UserError, match="there is nothing to compile"):
        memory.memory(precisions=())


@pytest.mark.slow
def test_losses_and_their_deviations(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8), np.arange(8, dtype=np.int32) % 2
    dataset = data.from_arrays(images, labels, valid=(images, labels), test=(images, labels))
    config = Config(
        data=DataConfig(image_size=16),
        model=ModelConfig(width_multiplier=0.5),
        optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=4, steps_per_epoch=3),
    )
    one = list(precision.losses(config, dataset, {}, 0, 0))
    other = list(precision.losses(config, dataset, {"microbatches": 2}, 0, 0))
    noisy = list(precision.losses(config, dataset, {}, 0, 1))
    assert len(one) == 3 and one[0] == pytest.approx(np.log(2), abs=0.3)
    reference = np.array([one])
    assert precision.deviation("p", "w", np.array([other]), reference).mean < 1e-5
    assert precision.deviation("p", "w", np.array([noisy]), reference).mean > 1e-5
    drawn = figures.losses({"p": {"float32": one, "2 microbatches": other, "noise": noisy}}, tmp_path / "losses.png")
    assert drawn.stat().st_size > 5000
    with pytest.raises(UserError, match="nothing to compare"):
        precision.precision(presets=())


def test_deviations_are_shares_of_the_mean_loss():
    reference = np.array([[2.0] * 20, [1.0] * 20])
    found = precision.deviation("p", "w", reference * np.array([[1.1], [0.9]]), reference)
    assert (found.mean, found.spread, found.largest) == pytest.approx((0.1, 0.0, 0.1), abs=1e-12)
    assert found.at_the_end == pytest.approx(0.0)
