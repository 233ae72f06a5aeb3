"""The uint8 cache: what is kept comes back, damage is noticed, and a cache that cannot be written stops nothing."""

import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from cnnjax.data.cache import cached
from cnnjax.data.dataset import Examples


class Source:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0
        random = np.random.default_rng(0)
        self.split = Examples(random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), np.arange(6, dtype=np.int32) % 2)

    def __call__(self) -> tuple[Examples, tuple[str, ...]]:
        self.calls += 1
        return self.split, ()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    return tmp_path / "data"


def assert_same(split, expected):
    np.testing.assert_array_equal(split.images, expected.images)
    np.testing.assert_array_equal(split.labels, expected.labels)
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_the_second_time_comes_from_the_cache(folder):
    source = Source()
    assert_same(cached("pets/train", {"side": 8}, Examples, source)[0], source.split)
    assert_same(cached("pets/train", {"side": 8}, Examples, source)[0], source.split)
    assert source.calls == 1
    (entry,) = folder.iterdir()
    assert entry.name.startswith("pets_train-")
    about = json.loads((entry / "entry.json").read_text())
    assert about["key"] == {"side": 8}
    assert about["images"]["shape"] == [6, 8, 8, 3]


def test_another_key_is_another_entry(folder):
    source = Source()
    cached("pets", {"side": 8}, Examples, source)[0]
    cached("pets", {"side": 9}, Examples, source)[0]
    assert source.calls == 2
    assert len(list(folder.iterdir())) == 2


def test_names_left_out_are_kept_too(folder):
    source = Source()
    for _ in range(2):
        assert cached("pets", {}, Examples, lambda: (source()[0], ("a/broken.jpg",)))[1] == ("a/broken.jpg",)
    assert source.calls == 1


def test_a_flipped_bit_in_a_name_left_out_is_noticed(folder, caplog):
    source = Source()
    cached("pets", {}, Examples, lambda: (source()[0], ("a/broken.jpg",)))
    (entry,) = folder.iterdir()
    about = entry / "entry.json"
    about.write_text(about.read_text().replace("a/broken.jpg", "a/brokel.jpg"))
    with caplog.at_level(logging.WARNING):
        assert cached("pets", {}, Examples, lambda: (source()[0], ("a/broken.jpg",)))[1] == ("a/broken.jpg",)
    assert source.calls == 2 and "is damaged: making it again" in caplog.text


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "entry.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_noticed_and_repaired(folder, caplog, file, damage):
    source = Source()
    cached("pets", {}, Examples, source)[0]
    (entry,) = folder.iterdir()
    content = bytearray((entry / file).read_bytes())
    if damage == "remove":
        (entry / file).unlink()
    elif damage == "truncate":
        (entry / file).write_bytes(content[: len(content) // 2])
    else:
        position = content.index(b'"crc32": ') + 9 if file == "entry.json" else len(content) - 1
        content[position] ^= 0x01
        (entry / file).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(cached("pets", {}, Examples, source)[0], source.split)
    assert source.calls == 2
    assert str(entry) in caplog.text
    assert_same(cached("pets", {}, Examples, source)[0], source.split)
    assert source.calls == 2


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    source = Source()
    with caplog.at_level(logging.WARNING):
        assert_same(cached("pets", {}, Examples, source)[0], source.split)
    assert "cannot keep pets in the cache" in caplog.text


def test_nothing_half_written_is_left(folder, monkeypatch):
    source = Source()

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    assert_same(cached("pets", {}, Examples, source)[0], source.split)
    assert list(folder.iterdir()) == []


def test_any_flipped_bit_in_the_head_of_an_array_is_a_warning_and_a_recomputation(folder, caplog):
    """NumPy parses it as Python and raises exceptions of many kinds, tokenize.TokenError among them."""
    source = Source()
    for place in range(0, 128, 5):
        cached("pets", {"side": 8}, Examples, source)
        (entry,) = folder.iterdir()
        contents = bytearray((entry / "labels.npy").read_bytes())
        contents[place] ^= 1 << place % 7
        (entry / "labels.npy").write_bytes(contents)
        calls = source.calls
        caplog.clear()
        assert_same(cached("pets", {"side": 8}, Examples, source)[0], source.split)
        if source.calls > calls:  # a bit of the filling may change nothing
            assert "making it again" in caplog.text
    assert source.calls > 15


FLIPS = """
import random, sys, warnings
from pathlib import Path

import jax
import jax.numpy as jnp
from jax._src import compilation_cache

if sys.argv[1] == "zlib":
    compilation_cache.zstd = compilation_cache.zstandard = None

import cnnjax

cnnjax.configure()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
x = jnp.ones((2, 8, 8, 3))
wanted = float(jax.jit(lambda x: jnp.tanh(x).sum())(x))
kept = {path: path.read_bytes() for path in Path(sys.argv[2]).rglob("*-cache")}
random.seed(0)
for _ in range(12):
    for path, contents in kept.items():
        damaged = bytearray(contents)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
    jax.clear_caches()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert float(jax.jit(lambda x: jnp.tanh(x).sum())(x)) == wanted
    assert any("persistent compilation cache" in str(one.message) for one in caught)
print("all", len(kept), "compiled again")
"""


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_flipped_bit_in_a_compiled_program_is_a_warning_and_a_compilation(tmp_path, compression):
    """JAX's own zstd frames have no checksum: a flipped bit was a segmentation fault."""
    if compression == "zstd":
        pytest.importorskip("zstandard")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"CNNJAX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("CNNJAX_RUNTIME", None)
    command = [sys.executable, "-c", FLIPS, compression, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"all [1-9]\d* compiled again\n", ended.stdout)
