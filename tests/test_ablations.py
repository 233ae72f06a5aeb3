"""Every ablation trains all of its variants, and writes its table, its figure and a run for each seed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "ablations"
TINY = ["--budget.image-size", "32", "--budget.per-class", "16", "--budget.held-out", "8", "--budget.epochs", "1",
        "--budget.steps-per-epoch", "2", "--budget.seeds", "0", "1"]  # fmt: skip
FLAGS = {
    "dropout": ["--rates", "0", "0.5"],
    "augmentation": ["--kinds", "none", "rotation", "all"],
    "images_per_class": ["--counts", "10", "16"],
    "kernel_size": [],
    "depth": ["--depths", "1", "3"],
    "batch_norm": ["--learning-rates", "0.01"],
}
VARIANTS = {"dropout": 2, "augmentation": 3, "images_per_class": 2, "kernel_size": 3, "depth": 2, "batch_norm": 2}

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def test_every_ablation_is_tried_here():
    commands = {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}
    assert commands == FLAGS.keys() == VARIANTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_an_ablation_writes_its_table(name, tmp_path):
    command = [sys.executable, FOLDER / f"{name}.py", *TINY, *FLAGS[name], "--budget.run", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    (table,) = tmp_path.glob("*/sweep.json")
    found = json.loads(table.read_text())["combinations"]
    assert len(found) == VARIANTS[name]
    for row in found:
        accuracy = row["metrics"]["test accuracy at the lowest loss"]
        assert accuracy["seeds"].keys() == {"0", "1"} and 0 <= accuracy["mean"] <= 1
    assert (table.parent / "sweep.png").stat().st_size > 5000
    assert len(list(tmp_path.glob("*/*/seed-*/weights.safetensors"))) == 2 * VARIANTS[name]
    assert f"wrote {table}" in ended.stdout
