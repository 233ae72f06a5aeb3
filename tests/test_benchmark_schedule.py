"""What is read from a program that is compiled for GPUs, and from a real one where there is a compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import machines
import pytest
import schedule

from cnnjax.errors import UserError

HLO = """
%fused (p: f32[3,3,64,512]) -> f32[512,3,3,64] {
  ROOT %transpose.1 = f32[512,3,3,64]{3,2,1,0} transpose(%p), dimensions={3,0,1,2}
  %small = f32[8,3]{1,0} transpose(%q), dimensions={1,0}
}

%body (p: bf16[8]) -> bf16[8] {
  %all-reduce-start = bf16[1000]{0} all-reduce-start(%g), to_apply=%add
  %c.1 = (f32[8,4,4,2]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %all-reduce-done = bf16[1000]{0} all-reduce-done(%all-reduce-start)
  %all-reduce-start.2 = f32[700]{0} all-reduce-start(%g2), to_apply=%add
  %f = f32[8]{0} fusion(%all-reduce-done), kind=kLoop
  %all-reduce-done.2 = f32[700]{0} all-reduce-done(%all-reduce-start.2)
  %c.2 = (f32[8,2,4,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn$convForward"
  ROOT %r = f32[50]{0} all-reduce(%f), to_apply=%add
}
"""  # noqa: E501


def test_what_is_read_from_a_scheduled_program():
    kernel = 512 * 3 * 3 * 64 * 4
    assert schedule.read(HLO) == schedule.Schedule(
        channels_last=1,
        channels_first=1,
        transposed=kernel,
        largest=kernel,
        all_reduces=3,
        reduced=2000 + 2800 + 200,
        hidden=2000,
    )


def test_options_have_values_of_their_types():
    assert schedule.parse("a=true,b=-12,c=x") == {"a": True, "b": -12, "c": "x"}
    for wrong in ("a", "a=", "a=true,b"):
        with pytest.raises(UserError, match="has no value: write NAME=VALUE"):
            schedule.parse(wrong)


def test_what_is_not_there_is_named(monkeypatch):
    with pytest.raises(UserError, match="unknown machine with GPUs 'TPU v5e-8'"):
        schedule.schedule(machines=("TPU v5e-8",))
    with pytest.raises(UserError, match="did you mean vgg16 mesh"):
        schedule.schedule(programs=("vgg16 mess",))
    monkeypatch.setattr(schedule, "missing", lambda platform: f"{platform}'s plug-in is not installed")
    with pytest.raises(UserError, match="cuda's plug-in is not installed"):
        schedule.schedule()


@pytest.mark.slow
@pytest.mark.skipif(bool(machines.missing("cuda")), reason=machines.missing("cuda"))
def test_gradients_are_summed_while_convolutions_run(tmp_path):
    """On H100s, by the option that the training step sets; with the compiler's own choice they are not."""
    option = "xla_gpu_enable_analytical_sol_latency_estimator"
    hidden = []
    for options in ({}, {option: True}):
        text = tmp_path / "program.txt"
        command = [sys.executable, str(Path(schedule.__file__).with_name("compiled.py")), "8 × H100", "vgg16 mesh"]
        environment = os.environ | machines.ENVIRONMENT
        subprocess.run([*command, json.dumps(options), str(text)], env=environment, check=True, capture_output=True)
        found = schedule.read(text.read_text())
        hidden.append(found.hidden / found.reduced)
    assert hidden[0] > 0.8 > 0.2 > hidden[1]
