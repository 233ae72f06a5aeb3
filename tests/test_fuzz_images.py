"""A small part of `fuzz_images.py`: damaged images and odd command lines, from a seed."""

import signal

import fuzz_images
import pytest


def test_damaged_images_are_decoded_or_refused_in_bounded_time_and_memory():
    found = fuzz_images.decode_all(80, seed=1)
    assert sum(found["images"].values()) == 80 and 10 < found["images"]["read"] < 70
    assert found["slowest_seconds"] < fuzz_images.SECONDS and found["memory_mb"] << 20 < fuzz_images.BYTES


@pytest.mark.parametrize("seed", [1])
def test_odd_command_lines_end_in_one_sentence(seed):
    before = signal.getsignal(signal.SIGINT)
    try:
        codes = fuzz_images.run_all(12, seed)["codes"]
    finally:
        signal.signal(signal.SIGINT, before)
    assert sum(codes.values()) == 12 and codes[2] > 0
