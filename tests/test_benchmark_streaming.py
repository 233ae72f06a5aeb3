"""The benchmark of streaming with a tiny workload, and its error messages."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jpegs
import pytest
import streaming
from PIL import Image

from cnnjax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "streaming.py"


@pytest.mark.slow
def test_streaming_as_a_user_runs_it(tmp_path):
    out = tmp_path / "streaming.json"
    who = ["cnnjax", "cnnjax, processes", "PyTorch DataLoader"]
    flags = ["--workloads", "small", "--small", "32", "--few", "8", "--many", "16", "--batch-size", "4", "--cores", "1"]
    command = [sys.executable, str(SCRIPT), "--who", *who, *flags, "--rounds", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    # The extra `test` has no PyTorch: a peer that is not installed is left out of the table.
    assert [row["who"] for row in results["rows"]] == (who if find_spec("torch") else who[:2])
    rates = [32 / row["median"] for row in results["rows"]]
    assert results["images_per_second_per_core"] == pytest.approx(rates) and results["cores_used"] == 1
    few, many = results["peak_memory"]["8"], results["peak_memory"]["16"]
    assert few > 2**26 and results["growth"] == many / few
    assert out.with_suffix(".png").stat().st_size > 5000


def test_tiny_files_are_made_once_and_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    folder = jpegs.tiny(502)
    assert len(list(folder.glob("*/*.jpg"))) == 1004 and jpegs.tiny(502) == folder
    contents = [(folder / "cat" / f"{number}.jpg").read_bytes() for number in (0, 1, 500, 501)]
    assert contents[:2] == contents[2:] and contents[0] != contents[1]
    with Image.open(folder / "dog" / "501.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="unknown workload 'large': choose one of small, photographs"):
        streaming.streaming(workloads=("large",))
    with pytest.raises(UserError, match="--small 10 is too few for batches of 32: give 32 or more"):
        streaming.streaming(small=10)
    with pytest.raises(UserError, match="the loader's memory cannot be measured: .*there is no folder nowhere"):
        streaming.peak_memory(Path("nowhere"))
