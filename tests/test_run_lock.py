"""One command at a time in the folder of a run, and Ctrl-C."""

import fcntl
import os
import signal
import subprocess
import sys
import types

import pytest
from locks import other

from cnnjax.cli import interrupts
from cnnjax.errors import UserError
from cnnjax.train import preemption
from cnnjax.train.run_lock import NAME, locked


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        with locked(folder / ".." / "run"):  # the same process
            assert (folder / NAME).read_text() == str(os.getpid())
        with pytest.raises(BlockingIOError):
            other(folder / NAME)
    assert list(folder.iterdir()) == []
    file = other(folder / NAME)
    with pytest.raises(UserError, match="run is in use by the process 4711: wait until it ends, or"), locked(folder):
        pass
    os.close(file)  # as the system does when a process ends
    with locked(folder):
        assert (folder / NAME).exists()


def test_links_in_a_circle_are_one_sentence(tmp_path):
    (tmp_path / "run").symlink_to("run")
    with pytest.raises(UserError, match="run cannot be written .*choose another run_dir"), locked(tmp_path / "run"):
        pass


def test_a_lock_on_a_deleted_file_keeps_nobody_out(tmp_path, monkeypatch):
    taken = fcntl.flock

    def flock(file, how):
        taken(file, how)
        if (tmp_path / "first").exists():
            (tmp_path / "first").unlink()
            (tmp_path / NAME).unlink()  # by the process that had it before

    (tmp_path / "first").touch()
    monkeypatch.setattr("cnnjax.train.run_lock.fcntl.flock", flock)
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text() == str(os.getpid())


def test_where_there_are_no_locks_nothing_is_kept_out(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("cnnjax.train.run_lock.fcntl.flock", flock)
    with locked(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass


def test_ctrl_c_again(monkeypatch):
    clock, ended = [0.0], []
    monkeypatch.setattr(interrupts, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(interrupts.os, "_exit", ended.append)
    monkeypatch.setattr(interrupts.os, "write", lambda file, text: None)
    handler = interrupts.Interrupts()
    with pytest.raises(KeyboardInterrupt):
        handler()
    clock[0] = 0.06
    handler()  # does not disturb the end that the first began
    assert ended == []
    clock[0] = 1.5
    handler()
    assert ended == [130] and sys.stderr is not None


def test_ctrl_c_ends_the_process_at_once_while_it_imports_and_when_its_work_has_ended(monkeypatch):
    """A traceback of an import otherwise, and a crash of XLA's threads or a second Ctrl-C during Python's end."""
    ended, said = [], []
    monkeypatch.setattr(interrupts.os, "_exit", ended.append)
    monkeypatch.setattr(interrupts.os, "write", lambda file, text: said.append(text))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.begin()
        signal.raise_signal(signal.SIGINT)
        assert ended == [130] and said == [b"\ninterrupted before anything was begun\n"]
        interrupts.listen()
        interrupts.end()  # an exception that no signal caused
        assert ended == [130]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.end()
        assert ended == [130, 130]
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_listens_before_it_imports_anything_slow():
    """Of this package, too, its main module and what that imports on the way."""
    code = "import cnnjax.__main__, sys; print([m for m in ('jax', 'numpy', 'tyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_somebody_elses_handler_stays(monkeypatch):
    def own(*_):
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        interrupts.listen()
        assert signal.getsignal(signal.SIGINT) is own
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts.listen()
        assert isinstance(signal.getsignal(signal.SIGINT), interrupts.Interrupts)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sigterm_before_the_first_step_acts_at_once():
    def ended(*_):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        with pytest.raises(SystemExit), preemption.watch_sigterm(lambda: False) as came:
            os.kill(os.getpid(), signal.SIGTERM)
        assert came()
    finally:
        signal.signal(signal.SIGTERM, before)
