"""A run that is killed repeatedly ends like an undisturbed one; CNNJAX_KILLS=20 kills it 20 times."""

import os
from contextlib import nullcontext

import compiling
import kills
import pytest

SEVERAL = int(os.environ.get("CNNJAX_KILLS", "5"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "loading"),
    [(1, ["resident"]), (SEVERAL, ["resident", "stream"])],
    ids=["once", "repeatedly"],
)
def test_killed_at_random_moments_a_run_ends_the_same_bit_for_bit(tmp_path, number, loading):
    with compiling.quickly() if number == 1 else nullcontext():
        lines = list(kills.kill_repeatedly(tmp_path, number, loading, seed=0))
    assert sum(line.startswith("kill ") for line in lines) == number
    assert lines[-1].endswith("ended like the undisturbed run, bit for bit")
