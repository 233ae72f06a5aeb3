"""Odd names, streams, paths and environments: all names can be shown, and what cannot be used is one sentence."""

import errno
import io
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from cnnjax import __main__, figures, files, runtime
from cnnjax.cli import command_line, interrupts, main, streams
from cnnjax.data import from_folder, tfds
from cnnjax.errors import UserError
from cnnjax.printable import printable, shortened


@pytest.mark.parametrize(
    "name, shown",
    [
        ("cat $5$ 猫.png", "cat $5$ 猫.png"),
        ("two\nlines\r\tx", "two\\nlines\\r\\tx"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        (os.fsdecode(b"k\xe4tzchen"), "k\\xe4tzchen"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud83d alone", "\\ud83d alone"),
    ],
)
def test_names_are_shown_in_one_line(name, shown):
    assert printable(name) == shown
    shown.encode("utf8")


def test_long_words_lose_their_middle():
    assert shortened("a b " + "c" * 200) == "a b " + "c" * 200
    assert len(shortened("x" * 5000)) == 181


class Broken(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self):
        raise OSError


def test_a_closed_pipe_ends_nothing_and_a_full_disk_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    with streams.guarded():
        print("one")
        print("two")
        sys.stdout.flush()
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    with streams.guarded(), pytest.raises(UserError, match="the standard output cannot be written .No space left"):
        print("one")
    monkeypatch.setattr(sys, "stdout", None)  # closed
    with streams.guarded():
        print("one")


@pytest.mark.parametrize("full", [True, False])
def test_what_is_kept_back_is_written_before_the_end(full):
    """Python keeps back what is printed; a command that ends must say itself that it could not be written."""
    command = [sys.executable, "-m", "cnnjax", "--help"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if full:
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=env)
    os.close(out)
    sentence = "error: the standard output cannot be written (No space left on device): make room there\n"
    assert (done.returncode, done.stderr) == ((2, sentence) if full else (0, ""))


def test_progress_without_standard_error_ends_nothing(monkeypatch):
    """A command that was started with 2>&-; and Ctrl-C does not write into another file, which may have its number."""
    written = []
    monkeypatch.setattr(interrupts.os, "write", lambda file, text: written.append(text))
    monkeypatch.setattr(interrupts.os, "_exit", lambda code: None)
    monkeypatch.setattr(sys, "stderr", None)
    with streams.guarded():
        tqdm.write("one", file=sys.stderr)
        assert list(tqdm([1, 2])) == [1, 2]
        interrupts._end_at_once()
    assert sys.stderr is None and written == []


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with streams.guarded():
        print("café \udce4")
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udce4\n"


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("~/x", "/me/x"),
        ("~", "/me"),
        ("--run=~/x", "/me/x"),
        ("folder:~/x", "/me/x"),
        ("--data.source=folder:~/x", "/me/x"),
        ("a~/x", None),
        ("--~", None),
        ("x\n~/y", None),
    ],
)
def test_the_home_folder_in_any_flag(monkeypatch, argument, expected):
    monkeypatch.setenv("HOME", "/me")
    found = command_line._expanded(argument)
    assert found == argument if expected is None else found == argument[: argument.index("~")] + expected


def failing(*arguments):
    with pytest.raises(SystemExit) as stop:
        main.main([str(argument) for argument in arguments])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("train", "debug", "--data.source", f"folder:{'a' * 5000}"), "File name too long"),
        (("train", "debug", "--run", "a" * 300), "File name too long"),
        (("classify", "a" * 5000), "File name too long"),
        (("classify", ".", "--weights", f"{'a' * 300}.pth"), "there is no weights file aaa"),
    ],
)
def test_long_paths_are_one_short_sentence(arguments, reason, capsys):
    failing(*arguments)
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1 and len(said) < 400, said


def test_control_characters_in_messages(tmp_path, capsys):
    failing("classify", tmp_path / "a\x1b[31m\nb")
    assert re.search(r"a\\x1b\[31m\\nb", capsys.readouterr().err)


def test_a_backend_that_does_not_start_is_one_sentence(monkeypatch, capsys):
    code = compile("def start(error): raise error", "/somewhere/xla_bridge.py", "exec")
    place = {}
    exec(code, place)
    for error, sentence in (
        (RuntimeError("Unable to initialize backend 'x': no\nmore"), "(Unable to initialize backend 'x': no): unset"),
        (AssertionError(), "JAX cannot start its backend (no reason given): unset JAX_PLATFORMS (x), or set it to cpu"),
    ):
        monkeypatch.setenv("JAX_PLATFORMS", "x")
        with pytest.raises(SystemExit) as stop:
            command_line.main_without_command(lambda error=error: place["start"](error))
        assert stop.value.code == 2 and sentence in capsys.readouterr().err
    filtered = RuntimeError("Unable to initialize backend 'tpu'")
    try:  # as JAX leaves it where it removes its frames
        place["start"](RuntimeError("as it was"))
    except RuntimeError as error:
        filtered.__cause__ = error
    with pytest.raises(SystemExit):
        command_line.main_without_command(lambda: (_ for _ in ()).throw(filtered))
    assert "(Unable to initialize backend 'tpu'): unset JAX_PLATFORMS" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="something else"):
        command_line.main_without_command(lambda: (_ for _ in ()).throw(RuntimeError("something else")))


def test_programs_that_may_not_be_compiled_are_one_sentence(capsys):
    def train():
        with jax.disable_jit():
            jax.jit(lambda x: x + 1).lower(1.0).compile()(1.0)

    with pytest.raises(SystemExit) as stop:
        command_line.main_without_command(train)
    assert stop.value.code == 2 and "JAX_DISABLE_JIT forbids it: unset it" in capsys.readouterr().err


def test_a_variable_that_jax_refuses_is_one_sentence(capsys):
    """JAX reads its variables while it is imported, so that one of its functions does it here."""
    with pytest.raises(SystemExit) as stop, __main__.importing():
        jax.config.update("jax_default_matmul_precision", "bogus")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: JAX refuses one of its environment variables (")
    with pytest.raises(ValueError, match="another"), __main__.importing():
        raise ValueError("another")


def test_a_file_of_flags_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "flags.txt")
    with pytest.raises(UserError, match="XLA_FLAGS=flags.txt names a file of flags that does not exist"):
        runtime._set_xla_flags()


def test_without_internet_it_takes_seconds_to_say_so(monkeypatch):
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    asked = []

    def refuse(host, timeout):
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UserError, match="tfds:x is not prepared in .*, and a.example, b.example cannot be reached"):
        tfds.check_reachable(["https://a.example/1", "http://b.example/2", "https://a.example/3"], "tfds:x")
    assert sorted(asked) == [("a.example", 443), ("b.example", 80)]
    tfds.check_reachable([], "tfds:x")
    monkeypatch.setattr(socket, "create_connection", lambda host, timeout: io.BytesIO())
    tfds.check_reachable(["https://a.example/1"], "tfds:x")


NAMES = ("cat_$5_$10", "two\nlines", os.fsdecode(b"k\xe4tzchen"), "猫", "\x1b[31m", "a" * 200)


def test_names_in_figures(tmp_path):
    images = [np.zeros((8, 8, 3), np.uint8)] * len(NAMES)
    values = [[0.6, 0.4]] * len(NAMES)
    path = figures.predictions(images, NAMES, [(name, "x_{") for name in NAMES], values, tmp_path / "names.png")
    with Image.open(path) as drawn:
        assert drawn.size[1] > 6 * 120


def test_classes_of_any_name(tmp_path):
    for name in NAMES[:5]:
        folder = os.fsencode(tmp_path) + b"/" + os.fsencode(name)
        os.mkdir(folder)
        for number in range(3):
            Image.new("RGB", (9, 9)).save(os.fsdecode(folder) + f"/{number}.png")
    dataset = from_folder(tmp_path, image_size=8, valid=1, test=1, cache=False)
    assert dataset.class_names == tuple(sorted(NAMES[:5])) and len(dataset.train) == 5
    by_name = from_folder(tmp_path, image_size=8, valid=0.4, test=0.3, split_by="seed", cache=False)
    assert by_name.class_names == dataset.class_names


def test_a_read_only_disk_is_one_sentence(tmp_path, monkeypatch):
    """There, removing a file that does not exist is an error of its own."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "hidden")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match=r"cannot write .*config\.json \(Read-only file system\): make room"):
        files.write_json(tmp_path / "config.json", {})
