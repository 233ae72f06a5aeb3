"""Streamed batches equal those of a resident split, whoever decodes them; and the errors when decoding fails."""

import dataclasses
import os
import signal
import sys
import types
from multiprocessing import active_children

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import from_folder, prefetch, sampling
from cnnjax.errors import UserError

KEY = jax.random.key(3)
BATCH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise: 18 images a class for every split, two of them broken."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(18):
            pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"ä {number}.jpg")
    for number in (0, 5, 6, 7, 11):
        (root / "cat" / f"ä {number}.jpg").write_bytes(b"broken")
    return root


def load(folder, **changes):
    return from_folder(folder, **{"image_size": 8, "per_class": 9, "valid": 2, "test": 2} | changes)


@pytest.fixture(scope="module")
def resident(folder):
    return load(folder, loading="resident")


@pytest.fixture(scope="module")
def streamed(folder):
    return load(folder, loading="stream")


def batches(split, steps, workers=0, **changes):
    rows = prefetch.Order(sampling.key_data(KEY), len(split.labels), BATCH, **changes)
    with prefetch.prefetch_batches(split, rows, workers, 1, lambda chunk: chunk) as chunks:
        return [jax.tree.map(lambda a: a[0], next(chunks)) for _ in range(steps)]


def expected(split, steps, first=0):
    """The resident split's batches, from the arrays themselves."""
    indices = sampling.example_indices(KEY, first * BATCH, steps * BATCH, len(split.labels)).reshape(steps, BATCH)
    return [(split.images[row], split.labels[row]) for row in indices]


def reading(split, read):
    """The split with another way to its files."""
    return dataclasses.replace(split, images=dataclasses.replace(split.images, read=read))


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for (images, labels), (other, others) in zip(found, wanted, strict=True):
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(images, other)
        np.testing.assert_array_equal(labels, others)


def test_the_index_holds_the_resident_images_with_broken_ones_replaced(folder, resident, streamed):
    assert streamed.skipped == resident.skipped and streamed.skipped
    for name in ("train", "valid"):
        split, wanted = getattr(streamed, name), getattr(resident, name)
        assert split.images.shape == wanted.images.shape and len(split.images) == len(wanted.images)
        np.testing.assert_array_equal(split.labels, wanted.labels)
        np.testing.assert_array_equal(split.images[np.arange(len(split.images))], wanted.images)
        np.testing.assert_array_equal(split.images[1], wanted.images[1])
    test, wanted = streamed.test, resident.test
    np.testing.assert_array_equal(test.images[np.arange(len(test.labels))], wanted.images)


@pytest.mark.parametrize("first", [0, 3, 11])
def test_the_same_batches_as_of_the_resident_split_from_any_step_on(resident, streamed, first):
    assert_same(batches(streamed.train, 10, first=first), expected(resident.train, 10, first))


def test_worker_processes_change_nothing(resident, streamed):
    """Of one worker and of two, over the end of a pass; afterwards they are gone."""
    for workers in (1, 2):
        assert_same(batches(streamed.train, 9, workers, first=2), expected(resident.train, 9, 2))
    assert not active_children()


@pytest.mark.parametrize(
    ("script", "guarded"), [("import cnnjax", False), ('if __name__ == "__main__":\n    run()', True), (None, False)]
)
def test_a_script_that_workers_would_run_again_is_asked_to_guard_itself(tmp_path, monkeypatch, script, guarded):
    """None: a script on standard input has a name of which there is no file. A notebook has none."""
    if script is not None:
        (tmp_path / "mine.py").write_text(script)
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    prefetch.check_workers(2)
    main.__file__ = str(tmp_path / "mine.py")
    prefetch.check_workers(0)
    if guarded:
        prefetch.check_workers(2)
    else:
        with pytest.raises(UserError, match=r"workers=2: each worker .*mine.py again .* below if __name__"):
            prefetch.check_workers(2)


def test_accelerators_have_processes_for_small_files(streamed, resident, monkeypatch):
    monkeypatch.setattr(prefetch.runtime, "cores", lambda: 12)
    assert 300 < streamed.train.images.mean_file_size() < 2**14
    assert prefetch.choose_workers(streamed.train, accelerated=True) == 8
    assert prefetch.choose_workers(streamed.train, accelerated=False) == 0
    assert prefetch.choose_workers(resident.train, accelerated=True) == 0
    large = reading(streamed.train, lambda name: bytes(2**15))
    assert large.images.mean_file_size() == 2**15
    assert prefetch.choose_workers(large, accelerated=True) == 0


def test_workers_use_no_shared_memory(streamed, monkeypatch):
    """In a container /dev/shm has 64 MB, and a worker that fills it is killed."""
    from multiprocessing import shared_memory

    monkeypatch.setattr(shared_memory, "SharedMemory", None)  # raises where batches come through it
    assert len(batches(streamed.train, 2, 1)) == 2


def test_hosts_share_out_every_batch(resident, streamed):
    parts = [batches(streamed.train, 6, host=(index, 2)) for index in range(2)]
    assert {len(labels) for part in parts for _, labels in part} == {BATCH // 2}
    whole = [tuple(map(np.concatenate, zip(*both, strict=True))) for both in zip(*parts, strict=True)]
    assert_same(whole, expected(resident.train, 6))


def test_a_chunk_is_a_number_of_batches_and_is_placed(resident, streamed):
    rows, seen = prefetch.Order(sampling.key_data(KEY), 18, BATCH), []
    with prefetch.prefetch_batches(streamed.train, rows, 0, 3, lambda chunk: seen.append(chunk) or len(seen)) as chunks:
        assert [next(chunks), next(chunks)] == [1, 2]
        assert seen[0].images.shape == (3, BATCH, 8, 8, 3) and seen[0].labels.shape == (3, BATCH)
        assert len(seen) <= 4  # no further ahead than promised
    wanted = expected(resident.train, 6)
    assert_same([batch for chunk in seen[:2] for batch in zip(*chunk, strict=True)], wanted)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_one_sentence(folder, tmp_path, monkeypatch, workers):
    split = load(folder, loading="stream").train
    missing = reading(split, lambda name: tmp_path / name)
    with pytest.raises(
        UserError, match="could be read before and now .*No such file.*restore the file, .* resume=True"
    ):
        batches(missing, 1, workers)


def test_a_worker_that_dies_is_one_sentence(streamed):
    """While it decodes, as for want of memory."""
    with pytest.raises(UserError, match="a process that decodes images died .*exit code -9.*lower `workers`"):
        batches(reading(streamed.train, lambda name: os.kill(os.getpid(), signal.SIGKILL)), 1, workers=1)
