"""Damaged images and odd command lines, from a seed: no traceback, no hang, memory in bounds.

    python tests/fuzz_images.py --images 2000 --commands 300 --seed 0

Images of eight formats are damaged in eight ways and decoded, in a process of its own whose memory is measured. What
decoding raises must be an exception (which training and `classify` report by name), never a crash, and it must end
soon. Command lines are put together from the flags of every command, with odd values, and run in one process: each
must end with code 0 or 2 and, for 2, with one sentence. A small part of both runs in the test suite.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

FORMATS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "JPEG2000": ".jp2",
    "AVIF": ".avif",
}  # fmt: skip
SECONDS = 30.0
BYTES = 2**30
"""By how much decoding may exceed what the process had before."""


def whole(rng: random.Random, kind: str) -> bytes:
    """An intact image of a format, of random size and mode."""
    width, height = rng.randint(1, 200), rng.randint(1, 200)
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "BMP": ("RGB", "L", "1"),
        "GIF": ("P", "L"),
        "PNG": ("RGB", "RGBA", "P", "LA", "I;16"),
    }
    mode = rng.choice(modes.get(kind, ("RGB", "L") if kind != "AVIF" else ("RGB",)))
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = Image.new("I;16", (width, height), 3000) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def damaged(rng: random.Random, content: bytes) -> bytes:
    """The content, damaged in one of eight ways."""
    data = bytearray(content)
    size, kind = len(data), rng.randrange(8)
    if kind == 0:
        return bytes(data[: rng.randrange(size)])
    if kind == 1:
        for _ in range(rng.randint(1, 40)):
            data[rng.randrange(size)] = rng.randrange(256)
    elif kind == 2:  # in the header, where sizes are
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(size, 64))] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 3:
        start = rng.randrange(size)
        data[start : start + rng.randint(1, 200)] = b""
    elif kind == 4:
        start = rng.randrange(size)
        data[start:start] = rng.randbytes(rng.randint(1, 500))
    elif kind == 5:
        start = rng.randrange(size)
        data[start:] = bytes(size - start)
    elif kind == 6:
        return bytes(data[: rng.randrange(size)]) + rng.randbytes(rng.randint(0, 300))
    else:
        other = rng.randrange(size)
        data = data[other:] + data[:other]
    return bytes(data)


def images(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of damaged images."""
    rng = random.Random(seed)
    for number in range(count):
        kind = list(FORMATS)[number % len(FORMATS)]
        yield f"{number}{FORMATS[kind]}", damaged(rng, whole(rng, kind))


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def decode_all(count: int, seed: int) -> dict[str, object]:
    """Decode damaged images; how many were read, what was raised, and the slowest and largest."""
    from cnnjax.data.decode import decode

    found: Counter[str] = Counter()
    slowest, before = 0.0, peak()
    warnings.simplefilter("ignore")  # Pillow's, on odd metadata
    for name, content in images(count, seed):
        started = time.perf_counter()
        try:
            image = decode(content, 32)
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8, name
            found["read"] += 1
        except Exception as error:
            found[type(error).__name__] += 1
        slowest = max(slowest, time.perf_counter() - started)
    return {"images": dict(found), "slowest_seconds": round(slowest, 2), "memory_mb": (peak() - before) >> 20}


VALUES = (
    "", " ", "-1", "0", "1e300", "nan", "inf", "-inf", "99999999999999999999", "true", "None", "[]", "{}", "()",
    "a" * 400, "procedural:", "../..", "/dev/null", "/dev/zero", "~", "~nobody/x", "folder:",
    "folder:/", "tfds:", "hub:", "folder:\n", "cat\x1b[31m", "\udce4", "猫", "$HOME", "%s%n", "'; rm", "0x10",
    "1_000", "½", "-", "--", "=", "\\", "1 2 3", "a,b",
)  # fmt: skip


def command_lines(count: int, seed: int, flags: Callable[[str], list[str]]) -> Iterator[list[str]]:
    """Odd command lines: commands, presets and flags that exist, or nearly, with values that do not fit."""
    from cnnjax.cli.main import COMMANDS
    from cnnjax.cli.presets import PRESETS

    rng = random.Random(seed)
    for _ in range(count):
        command = rng.choice(list(COMMANDS))
        line = [command if rng.random() > 0.05 else rng.choice((command[:-1], command.upper(), "", "--" + command))]
        if command == "train":
            line.append(rng.choice(list(PRESETS)) if rng.random() > 0.1 else rng.choice(VALUES))
        for _ in range(rng.randint(1, 4)):
            known = flags(command) or ["--help"]
            flag = rng.choice(known)
            if rng.random() < 0.1:
                flag = flag[:-1] if rng.random() < 0.5 else flag.replace("-", "_")
            value = rng.choice(VALUES)
            line += [f"{flag}={value}"] if rng.random() < 0.3 else [flag, value] if rng.random() < 0.8 else [flag]
        rng.shuffle(line) if rng.random() < 0.05 else None
        yield line


def run_all(count: int, seed: int) -> dict[str, object]:
    """Run odd command lines in this process, in an empty folder; work itself is cut short. Raises where one fails."""
    from cnnjax.cli import command_line, main

    known: dict[str, list[str]] = {}

    def flags(command: str) -> list[str]:
        if command not in known:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                loaded = main.COMMANDS[command].load()
                if main.COMMANDS[command].has_presets:
                    from cnnjax.cli.presets import PRESETS

                    loaded = command_line.with_preset(loaded, "debug", PRESETS["debug"])
                known[command] = command_line.flags_of(loaded) if callable(loaded) else []
        return known.get(command, [])

    with tempfile.TemporaryDirectory() as folder:
        deep = Path(folder) / "a" / "b" / "c"  # what is written to ../.. or to ~ stays within
        deep.mkdir(parents=True)
        with contextlib.chdir(deep), mock.patch.dict(os.environ, HOME=folder):
            return _run_lines(command_lines(count, seed, flags))


def _run_lines(lines: Iterator[list[str]]) -> dict[str, object]:
    from cnnjax.cli import main

    codes: Counter[int] = Counter()
    slowest = 0.0
    for line in lines:
        out, err = io.StringIO(), io.StringIO()
        started = time.perf_counter()
        try:
            # What a valid line would go on to do takes minutes and is tested elsewhere.
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _without_work():
                main.main(line)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            raise AssertionError(f"{line!r} ended in {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.perf_counter() - started)
        codes[int(code or 0)] += 1
        said = err.getvalue()
        assert code in (0, 2), (line, code, said)
        assert "Traceback" not in said and (code == 0 or said.strip() or out.getvalue()), (line, said)
        if said.startswith("error:"):
            assert said.count("\n") == 1, (line, said)
        assert time.perf_counter() - started < SECONDS, (line, "took too long")
    return {"codes": dict(codes), "slowest_seconds": round(slowest, 2)}


class _Reached(SystemExit):
    """A command line was valid: its work began."""


@contextlib.contextmanager
def _without_work() -> Iterator[None]:
    def reached(*_: object, **__: object) -> None:
        raise _Reached(0)

    with contextlib.ExitStack() as stack:
        for name in (
            "cnnjax.cli.build.dataset",
            "cnnjax.formats.resolve",
            "cnnjax.formats.load",
            "cnnjax.article.run.run",
        ):
            with contextlib.suppress(ImportError, AttributeError):
                stack.enter_context(mock.patch(name, reached))
        yield


def main_() -> int:
    """Fuzz as the flags say; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="decode in this process, and print JSON")
    chosen = parser.parse_args()
    if chosen.here:
        print(json.dumps(decode_all(chosen.images, chosen.seed)))
        return 0
    # A crash of a decoder ends the process that decodes.
    command = [sys.executable, __file__, "--here", "--images", str(chosen.images), "--seed", str(chosen.seed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 60, check=False)
    print(result.stdout or result.stderr)
    found = json.loads(result.stdout) if result.returncode == 0 else {}
    good = bool(found) and found["slowest_seconds"] < SECONDS and found["memory_mb"] << 20 < BYTES
    try:
        print(json.dumps(run_all(chosen.commands, chosen.seed)))
    except AssertionError:
        traceback.print_exc()
        good = False
    print("good" if good else "BAD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main_())
