"""The benchmarks of growth and of the input pipeline with tiny workloads, and their error messages."""

import json
import subprocess
import sys
from pathlib import Path

import compare
import flops
import growth
import input_pipeline
import jpegs
import numpy as np
import pytest
from PIL import Image

from cnnjax import runtime
from cnnjax.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, out: Path, *flags: str) -> dict:
    """What the script writes; it must have drawn its plot as well."""
    command = [sys.executable, str(BENCHMARKS / script), *flags, "--rounds", "1", "--calls", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out} and {out.with_suffix('.png')}" in done.stdout
    assert out.with_suffix(".png").stat().st_size > 5000
    return json.loads(out.read_text())


@pytest.mark.slow
def test_growth_as_a_user_runs_it(tmp_path):
    flags = ["--who", "cnnjax", "--batch-sizes", "2", "--image-sizes", "16", "--devices", "2"]
    results = run("growth.py", tmp_path / "growth.json", *flags, "--batch-size", "2", "--image-size", "16")
    points = results["rows"]
    assert [(p["axis"], p["value"]) for p in points] == [
        ("batch_size", 2), ("image_size", 16), ("devices", 2)
    ]  # fmt: skip
    assert points[1] == points[0] | {"axis": "image_size", "value": 16}  # measured once
    for p in points:
        assert p["who"] == "cnnjax" and p["image_size"] == 16
        assert 0 < p["slowest"] <= p["median"] <= p["fastest"]
        work = {"model": "small-cnn", "task": "train", "batch_size": 1, "image_size": 16}
        assert p["flops_per_second"] == pytest.approx(flops.count(work) * p["median"])
        assert p["peak_share"] == pytest.approx(p["flops_per_second"] / results["peak"]["measured"])


def test_errors_of_the_growth_benchmark():
    with pytest.raises(
        UserError, match="a batch of 3 cannot be divided evenly among 2 devices: give another --batch-size"
    ):
        growth.growth(batch_size=3, devices=(1, 2))
    with pytest.raises(UserError, match="--image-sizes 0 is too small"):
        growth.growth(image_sizes=(0, 16))
    with pytest.raises(UserError, match="there is nothing to measure"):
        growth.growth(batch_sizes=(), image_sizes=(), devices=())


def test_more_devices_than_there_are_are_left_out(capfd):
    work = {"name": "tiny", "model": "small-cnn", "task": "train", "batch_size": 4, "image_size": 16, "mode": "mesh"}
    few = compare.Contender("2 devices", "ours_devices", (("devices", 2),), (("JAX_NUM_CPU_DEVICES", "1"),))
    assert compare.compare(work, [few], rounds=1, calls=1) == []
    said = capfd.readouterr().out
    assert "2 devices cannot take part: this machine has 1 device, not 2: give lower --devices" in said


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three JPEG files per class, of noise: compiling the renderer takes long."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(runtime.cache_dir() / "xla"))
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)
    monkeypatch.setattr(jpegs.procedural, "render", lambda name, keys, image_size: noise[: len(keys)])
    return jpegs.files(3)


def test_jpeg_files_are_made_once(folder):
    made = sorted(folder.glob("*/*.jpg"))
    names = [file.relative_to(folder).as_posix() for file in made]
    assert names == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg"]
    made[0].unlink()
    kept = made[1].stat().st_mtime_ns
    assert jpegs.files(3) == folder and made[0].exists() and made[1].stat().st_mtime_ns == kept
    with Image.open(made[0]) as image:
        assert (image.format, image.size) == ("JPEG", (500, 375))


@pytest.mark.slow
def test_the_input_pipeline_as_a_user_runs_it(folder, tmp_path):
    who = ["cnnjax", "cnnjax, from its cache"]
    flags = ["--per-class", "3", "--image-size", "16", "--batch-size", "2"]
    results = run("input_pipeline.py", tmp_path / "pipeline.json", "--who", *who, *flags)
    rows = results["rows"]
    assert [row["who"] for row in rows] == [*who, "cnnjax", "cnnjax, augmenting"]
    for row in rows[:2]:
        assert row["workload"] == "an epoch of 6 images" and row["flops_per_second"] is None
        assert row["images_per_second"] == pytest.approx(6 / row["median"])
    without, augmenting = rows[2:]
    assert results["augmentation_share"] == pytest.approx(1 - without["median"] / augmenting["median"])
    assert without["peak_share"] > 0


def test_the_share_of_augmentation():
    seconds = {"cnnjax": [0.9], "cnnjax, augmenting": [1.0]}
    rows = compare.rows({"name": "step"}, seconds, dict.fromkeys(seconds, 5.0))
    assert input_pipeline.augmentation_share(rows) == pytest.approx(0.1)


def test_the_input_pipeline_refuses_a_batch_larger_than_the_data():
    with pytest.raises(UserError, match="--batch-size 32 is larger than the 4 images"):
        input_pipeline.input_pipeline(per_class=2)
