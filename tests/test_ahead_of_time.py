"""Programs for accelerators that are not present: what is read from them and, with their compiler, from a real one."""

import dataclasses
import json
import os
import subprocess
import sys

import ahead_of_time
import compiled
import machines
import pytest

from cnnjax import figures
from cnnjax.errors import UserError

HLO = """
%body (p: bf16[8]) -> bf16[8] {
  %c.1 = bf16[8,4,4,2]{0,3,2,1} convolution(%a, %b), window={size=3x3}, metadata={op_name="jit(f)/conv_general_dilated"}
  %c.2 = bf16[8,2]{1,0} convolution(%a, %b), metadata={op_name="jit(f)/dot_general"}
  %f.1 = bf16[8]{0} fusion(%c.1), backend_config={"estimated_cycles":"1200","iteration_bounds":["1"]}
  %f.2 = bf16[8]{0} fusion(%c.2), backend_config={"estimated_cycles":"34"}
  %s = bf16[8,4,4,2]{0,3,2,1} select-and-scatter(%x, %g, %zero), window={size=1x2x2x1 stride=1x2x2x1}, select=%ge
  %r.1 = (bf16[10]{0:T(256)}, /*index=1*/f32[3,2]{1,0}) all-reduce(%f.1, %f.2), to_apply=%add
  %r.2 = f32[] all-reduce-start(%f.1), to_apply=%add
  %r.3 = f32[] all-reduce-done(%r.2)
  %g.1 = (f32[8]{0}, u8[0]{0}) custom-call(%a, %b), custom_call_target="__cudnn$convForward"
}
"""


def test_what_is_read_from_a_compiled_program():
    assert compiled.read(HLO) == {
        "reductions": 2,
        "reduced_bytes": 10 * 2 + 6 * 4 + 4,
        "convolutions": 2,  # a plain one and cuDNN's, not the product
        "cudnn": 1,
        "cycles": 1234,
        "unknown_bytes": 2 * 256 * 2 + 256 * 2 // 4,
    }


def found(**values):
    numbers = {field.name: 0 for field in dataclasses.fields(compiled.Found)}
    return numbers | {"roofline": 0.1, "cycles": 10**8} | values


def test_times_follow_from_the_findings():
    machine = machines.MACHINES["TPU v5e-8"]
    parts = ahead_of_time.times(machine, 8, found(unknown_bytes=222 * 10**6, reduced_bytes=10**8))
    clock = 197e12 / (4 * 128 * 128 * 2)
    assert parts == pytest.approx((1e8 / clock, 1e6 / clock, 2 * 7 / 8 * 1e8 / 100e9))
    row = ahead_of_time.row("TPU v5e-8", "vgg16 mesh", found())
    # 15.47 G multiply-adds an image forward (Simonyan & Zisserman's configuration D at 224 pixels), thrice.
    assert row.flops == pytest.approx(128 * 3 * 2 * 15.47e9, rel=0.005)
    assert row.share == pytest.approx(row.flops / 197e12 / row.step)
    assert row.images_per_second == pytest.approx(1024 / row.step)
    assert ahead_of_time.row("8 × H100", "vgg16 mesh", found()).step is None


def test_results_are_kept_and_shown(tmp_path):
    names = [("TPU v5e-8", "vgg16 mesh"), ("8 × A100", "small-cnn pmap")]
    rows = {name: ahead_of_time.row(*name, found(cudnn=11)) for name in names}
    path = tmp_path / "rows.json"
    ahead_of_time.write(path, rows)
    again = ahead_of_time.earlier(path)
    assert again == rows and list(again) == names
    lines = ahead_of_time.table(list(again.values())).splitlines()
    assert len(lines) == 3 and "%" in lines[1] and " 11 " in lines[2]
    assert figures.shares([rows[names[0]]], tmp_path / "plot.png").stat().st_size > 1000
    path.write_text("{}")
    with pytest.raises(UserError, match="give another --out"):
        ahead_of_time.earlier(path)


def test_what_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="TPU v5e-8"):
        ahead_of_time.ahead_of_time(only=("TPU v5e",))
    with pytest.raises(UserError, match="vgg16 mesh"):
        ahead_of_time.ahead_of_time(programs=("vgg16 mess",))
    monkeypatch.setattr(machines, "missing", lambda platform: f"{platform}'s plug-in is not installed")
    with pytest.raises(UserError, match="nothing to compile with"):
        ahead_of_time.ahead_of_time(out=tmp_path / "none.json")
    assert "tpu: left out, tpu's plug-in is not installed" in capsys.readouterr().out


PROBE = """
import sys, json, jax, machines, compiled
chips = machines.devices(machines.MACHINES[sys.argv[1]])
program = compiled.training(compiled.Program("small-cnn", sys.argv[2], 150, images=8), chips).compile()
def layout(tree):
    return sorted({str(tuple(getattr(sharding, "spec", ()))) for sharding in jax.tree.leaves(tree)})

assert all(s.is_fully_replicated for s in jax.tree.leaves(program.output_shardings))
(state, sums, fixed, rows), _ = program.input_shardings
memory = program.memory_analysis()
used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
layouts = {"carry": layout((state, sums)), "fixed": layout(fixed), "rows": layout(rows)}
print(json.dumps(compiled.read(program.as_text()) | {"used": used, "chips": len(chips)} | layouts))
"""


def needs(platform):
    reason = machines.missing(platform)
    return pytest.mark.skipif(bool(reason), reason=reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    "machine",
    [
        pytest.param("TPU v5e-8", marks=needs("tpu")),
        pytest.param("8 × H100", marks=needs("cuda")),
    ],
)
def test_a_training_step_for_chips_that_are_not_here(machine):
    environment = os.environ | machines.ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROBE, machine, "mesh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    is_ = json.loads(done.stdout.splitlines()[-1])
    assert is_["chips"] == 8
    # The batch is cut along its axis, after that of steps; all else is everywhere, the result too.
    assert is_["rows"] == ["(None, 'data')"]
    assert all("data" not in spec for part in ("carry", "fixed") for spec in is_[part])
    assert 0 < is_["used"] < machines.MACHINES[machine].memory / 8
    # XLA's own convolutions: four forward, four kernel gradients, three input gradients.
    assert is_["convolutions"] == 11
    assert is_["cudnn"] == (11 if machine == "8 × H100" else 0)
    # One all-reduce a type of number: kernels' gradients, biases' and the metrics, the counts.
    assert 1 <= is_["reductions"] <= 3
    assert 2 * 5_600_000 < is_["reduced_bytes"] < 4 * 5_800_000
