"""A few of the damaged files that `python tests/fuzz_weights.py` reads by the thousand, in this process."""

import fuzz_weights
import pytest

from cnnjax import formats
from cnnjax.errors import UserError
from cnnjax.formats import keras_reader

COUNT, SEED = 70, 3


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return fuzz_weights.whole(tmp_path_factory.mktemp("whole"))


# HDF5 leaves what it could not close to be collected as garbage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files_are_refused_in_a_sentence(paths, tmp_path):
    found = {}
    for number in range(COUNT):
        name, contents = fuzz_weights.damaged(number, SEED, paths)
        (tmp_path / "damaged").write_bytes(contents)
        said = fuzz_weights.read(tmp_path / "damaged")
        assert said in ("read", "refused"), f"--only {number} --seed {SEED} ({name}): {said}"
        found.setdefault(said, set()).add(name)
    assert len(found["refused"]) == len(paths) == 7


def test_whole_files_are_read_and_a_number_gives_the_same_file(paths):
    for path in paths.values():
        assert fuzz_weights.read(path) == "read"
    assert fuzz_weights.damaged(5, 1, paths) == fuzz_weights.damaged(5, 1, paths)


@pytest.mark.parametrize("number", [122, 2068, 1487])
def test_what_the_hdf5_library_would_ask_gigabytes_for_or_follow_for_ever(paths, tmp_path, monkeypatch, number):
    """Found by the script."""
    monkeypatch.setattr(keras_reader, "SECONDS", 1)
    (tmp_path / "damaged").write_bytes(fuzz_weights.damaged(number, 11, paths)[1])
    with pytest.raises(UserError, match="does not end" if number == 1487 else "allocation failed|more memory"):
        formats.load(tmp_path / "damaged")
