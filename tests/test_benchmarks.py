"""The benchmarks' machinery on tiny workloads: who takes part, what is written, and that the contenders agree."""

import json
import subprocess
import sys
from pathlib import Path

import compare
import flops
import jax
import jax.numpy as jnp
import numpy as np
import peak
import pytest
from flax import nnx

from cnnjax.analysis.jaxpr_analysis import Walk
from cnnjax.analysis.jaxpr_rules import Value
from cnnjax.errors import UserError

ROOT = Path(__file__).parents[1]


def test_rows_are_medians_and_ratios():
    seconds = {"cnnjax": [0.2, 0.1, 0.4], "other": [0.3, 0.9, 0.5]}
    found = compare.rows({"name": "work", "batch_size": 10}, seconds, {"cnnjax": 1.0, "other": 2.0})
    assert [(r.who, r.median, r.low, r.high) for r in found] == [("cnnjax", 0.2, 0.1, 0.4), ("other", 0.5, 0.3, 0.9)]
    assert [r.ratio for r in found] == [1.0, 2.5]
    assert [r.images_per_second for r in found] == [50.0, 20.0]
    assert "2.50×" in compare.table(found)


def test_rows_have_flops_and_their_share_of_the_peak():
    seconds, first = {"cnnjax": [0.2], "other": [0.5]}, {"cnnjax": 1.0, "other": 2.0}
    found = compare.rows({"name": "work", "flops": 4 * 10**9}, seconds, first, peak=40e9)
    assert [r.flops_per_second for r in found] == [20e9, 8e9]
    assert [r.peak_share for r in found] == [0.5, 0.2]
    assert compare.table(found).splitlines()[2].split()[-5:] == ["8.0", "20%", "2.0", "s", "2.50×"]
    (row, _) = compare.rows({"name": "work"}, seconds, first, peak=40e9)
    assert row.flops_per_second is None and row.peak_share is None
    assert "GFLOP/s" in compare.table([row]) and "%" not in compare.table([row])


@pytest.mark.parametrize(
    ("model", "image_size", "task"),
    [("small-cnn", 32, "train"), ("small-cnn", 33, "forward"), ("vgg16", 32, "train"), ("vgg16", 48, "input-gradient")],
)
def test_flops_are_those_of_the_traced_step(model, image_size, task, monkeypatch):
    """Oracle: every convolution and dot in the jaxpr of the plain Flax contender's own gradient."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "contenders")
    import plain_flax

    work = {"model": model, "image_size": image_size, "task": task, "batch_size": 2, "layer": "block4_conv2"}
    graph, params, rest = nnx.split(
        nnx.eval_shape(lambda: plain_flax.build(model, image_size, nnx.Rngs(0))), nnx.Param, ...
    )

    def value(params, rest, images):
        network = nnx.merge(graph, params, rest)
        network.eval()
        return (network.convolve(images, (4, 2)) if task == "input-gradient" else network(images)).sum()

    step = {"train": jax.grad(value), "forward": value, "input-gradient": jax.grad(value, argnums=2)}[task]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        traced = jax.make_jaxpr(step)(
            params, rest, jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
        ).jaxpr
    walk = Walk()
    walk.run(traced, [Value() for _ in traced.invars])
    assert flops.count(work) == sum(walk.flops.values())


@pytest.mark.slow
def test_the_peak_is_measured_in_a_process_of_its_own():
    found = peak.measure()
    assert np.isfinite(found.measured) and found.measured > 1e8
    assert (found.device, found.published, found.flops_per_second) == ("cpu", None, found.measured)


def test_an_accelerators_peak_is_the_published_one():
    assert peak.published("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak.published("TPU v5 lite", "float32") == peak.published("TPU v5 lite", "bfloat16") == 197e12
    assert peak.Peak("TPU v4", "float32", 2e14, 275e12).flops_per_second == 275e12


def test_an_unknown_contender_is_named():
    with pytest.raises(UserError, match="there is no contender 'Cafe': choose among cnnjax, plain Flax"):
        compare.chosen(["Cafe"])


def test_a_contender_that_cannot_take_part_is_left_out(capfd):
    broken = compare.Contender("nobody", "no_such_file")
    work = {"name": "tiny", "model": "small-cnn", "task": "forward", "batch_size": 2, "image_size": 16}
    (row,) = compare.compare(work, [compare.OURS, broken], rounds=1, calls=1)
    assert row.who == "cnnjax"
    assert 0 < row.median < row.first
    assert "nobody cannot take part (ModuleNotFoundError" in capfd.readouterr().out


def test_step_time_as_a_user_runs_it(tmp_path):
    pytest.importorskip("torch", reason="a peer: pip install -e '.[peers]'")
    out = tmp_path / "results" / "step.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "step_time.py"), "--workloads", "small-train"]
    command += ["--who", "cnnjax", "PyTorch eager", "--image-size", "16", "--batch-size", "2", "--rounds", "2"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}" in done.stdout
    results = json.loads(out.read_text())
    assert {row["who"] for row in results["rows"]} == {"cnnjax", "PyTorch eager"}
    assert all(np.isfinite(row["median"]) and row["median"] > 0 for row in results["rows"])
    assert "jax" in results["versions"]
    work = {"model": "small-cnn", "task": "train", "batch_size": 2, "image_size": 16}
    for row in results["rows"]:
        assert row["flops_per_second"] == pytest.approx(flops.count(work) / row["median"])
        assert row["peak_share"] == pytest.approx(row["flops_per_second"] / results["peak"]["measured"])
    assert out.with_suffix(".png").stat().st_size > 5000
