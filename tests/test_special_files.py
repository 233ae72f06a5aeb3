"""What is read in the folder of a run must be a regular file: a pipe would be waited for, a device never ends."""

import os
import signal

import pytest

from cnnjax import formats
from cnnjax.cli.main import main
from cnnjax.errors import UserError
from cnnjax.files import check_regular, read_text
from cnnjax.train import metrics, run_data, run_dir, run_lock
from cnnjax.visualize.atlas.store import Store


@pytest.fixture(autouse=True)
def ends_soon():
    def late(*_):
        raise TimeoutError("it waits for what never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["a pipe", "a device"])
def special(request):
    """Puts something that is no regular file at a path."""
    return os.mkfifo if request.param == "a pipe" else lambda path: os.symlink("/dev/zero", path)


READERS = {
    "config.json": lambda folder: run_dir.prepare(folder, {}, resume=True),
    "test.json": run_dir.read_test,
    "data.json": run_data.read_inventory,
    "metrics.jsonl": lambda folder: metrics.read(folder / "metrics.jsonl"),
    "weights.safetensors": formats.load,
    "checkpoints/3/manifest.json": formats.load,
    ".lock": lambda folder: run_lock.locked(folder).__enter__(),
    "settings.json": lambda folder: Store(folder, {"steps": 3}),
}


@pytest.mark.parametrize("name", READERS)
def test_each_file_of_a_run_is_one_sentence(tmp_path, special, name):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    special(tmp_path / name)
    with pytest.raises(UserError) as error:
        READERS[name](tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_link_to_a_regular_file_is_one(tmp_path):
    (tmp_path / "a").write_text("ä", encoding="utf8")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_text(check_regular(tmp_path / "b")) == "ä"


def test_resume_says_so(tmp_path, capsys):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(SystemExit) as stop:
        main(["train", "debug", "--run", str(tmp_path), "--resume"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "config.json cannot be read as a run's settings (it is not a regular file): restore it" in said
