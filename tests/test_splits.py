"""Sampling: disjoint, counted, and a function of the seed alone."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnjax.data.splits import Selection, choose, split_dataset
from cnnjax.errors import UserError

counts = st.integers(3, 60)


def pool(name, count):
    return {name: [f"{name}/{index}" for index in range(count)]}


def selection(per_class=5, held_out=2, seed=0):
    return Selection(per_class or None, held_out, held_out, seed)


@settings(max_examples=150, deadline=None)
@given(
    cats=counts,
    dogs=counts,
    per_class=st.integers(0, 30),
    held_out=st.integers(1, 15),
    seed=st.integers(-5, 2**40),
    own=st.sets(st.sampled_from(["valid", "test"])),
)
def test_draws_are_disjoint_counted_and_repeatable(cats, dogs, per_class, held_out, seed, own):
    assume(min(cats, dogs) >= (per_class or 1) + held_out * (2 - len(own)))
    asked = selection(per_class, held_out, seed)
    pools = {"train": pool("train/cat", cats) | pool("train/dog", dogs)}
    for split in own:
        pools[split] = pool("train/cat", held_out + 3) | pool("train/dog", held_out)
        pools[split] = {name: [f"{split}:{file}" for file in files] for name, files in pools[split].items()}
    draws = split_dataset(pools, asked, "here")
    assert draws == split_dataset(dict(reversed(pools.items())), asked, "here")
    for name, count in {"train/cat": cats, "train/dog": dogs}.items():
        candidates = [file for split in draws.values() for file in split[name].candidates]
        assert len(set(candidates)) == len(candidates)
        everything = {file for files in pools.values() for file in files[name]}
        assert set(candidates) <= everything
        if per_class:
            assert set(candidates) == everything  # all that is not wanted is spare
        assert draws["valid"][name].wanted == draws["test"][name].wanted == held_out
        left = count - held_out * (2 - len(own))
        assert draws["train"][name].wanted == (per_class or left)
        for split in draws.values():
            assert len(split[name].candidates) >= split[name].wanted
        for split in own:
            assert all(file.startswith(f"{split}:") for file in draws[split][name].candidates)


def test_another_seed_draws_others():
    first, second = (split_dataset({"train": pool("cat", 50)}, selection(seed=seed), "here") for seed in (0, 1))
    assert first["train"]["cat"].candidates[:5] != second["train"]["cat"].candidates[:5]


def test_more_training_images_leave_the_held_out_ones_alone():
    few, many = (split_dataset({"train": pool("cat", 50)}, selection(per_class=count), "here") for count in (5, 20))
    for split in ("valid", "test"):
        assert few[split]["cat"].candidates[:2] == many[split]["cat"].candidates[:2]


def test_a_class_is_drawn_alike_whatever_the_others_are():
    alone = split_dataset({"train": pool("cat", 50)}, selection(), "here")
    beside = split_dataset({"train": pool("ant", 9) | pool("cat", 50)}, selection(), "here")
    assert all(alone[split]["cat"] == beside[split]["cat"] for split in alone)


@pytest.mark.parametrize(
    ("pools", "per_class", "sentence"),
    [
        (
            {"train": pool("cat", 8)},
            5,
            "here: class 'cat' has 8 images where 9 are needed (5 for training, 2 for validation, 2 for test): "
            "lower `per_class`, `valid` or `test`",
        ),
        (
            {"train": pool("cat", 4)},
            0,
            "here: class 'cat' has 4 images where 5 are needed (at least 1 for training, 2 for validation, 2 for "
            "test): lower `valid` or `test`",
        ),
        (
            {"train": pool("cat", 4), "valid": pool("cat", 2), "test": pool("cat", 2)},
            5,
            "here: class 'cat' has 4 images where 5 are needed (5 for training): lower `per_class`",
        ),
        (
            {"train": pool("cat", 9), "valid": pool("cat", 1)},
            5,
            "here: class 'cat' has 1 image where 2 are needed (2 for validation): lower `valid`",
        ),
    ],
)
def test_too_few_images_name_the_numbers_and_the_arguments(pools, per_class, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        split_dataset(pools, selection(per_class), "here")


def test_where_nothing_can_be_lowered_images_are_asked_for():
    least = Selection(None, 1, 1, 0)
    said = "(at least 1 for training, 1 for validation, 1 for test): add images of it, or name the classes that are to"
    for wanted in (least, Selection(5, 0.2, 0.2, 0, adapt=True)):
        with pytest.raises(
            UserError, match="class 'cat' has 2 images where 3 are needed .*: add images of it"
        ) as error:
            split_dataset({"train": pool("cat", 2)}, wanted, "here")
        assert wanted is not least or said in str(error.value)


def test_choosing_classes():
    assert choose(["dog", "cat"], (), "here") == ("cat", "dog")
    assert choose(["ant", "cat", "dog"], ("dog", "ant"), "here") == ("dog", "ant")
    with pytest.raises(UserError, match="unknown class 'dgo': did you mean dog"):
        choose(["cat", "dog"], ("cat", "dgo"), "here")
    with pytest.raises(UserError, match="at least two classes are required; found only 'cat'"):
        choose(["cat"], (), "here")
    with pytest.raises(UserError, match="twice"):
        choose(["cat", "dog"], ("cat", "cat"), "here")


def test_fractions_are_of_each_class_and_of_a_split_of_its_own_all():
    pools = {"train": pool("cat", 50) | pool("dog", 7)}
    samples = split_dataset(pools, Selection(None, 0.2, 0.1), "here")
    counts = {split: [sample.wanted for sample in classes.values()] for split, classes in samples.items()}
    assert counts == {"train": [35, 5], "valid": [10, 1], "test": [5, 1]}
    own = split_dataset(pools | {"valid": pool("cat", 9) | pool("dog", 3)}, Selection(None, 0.2, 0.1), "here")
    assert [sample.wanted for sample in own["valid"].values()] == [9, 3]
    assert [sample.wanted for sample in own["train"].values()] == [45, 6]
    # A count is the same draw as the fraction that comes to it.
    assert split_dataset({"train": pool("cat", 50)}, Selection(None, 10, 5), "here")["valid"] == {
        "cat": samples["valid"]["cat"]
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"per_class": 0}, "per_class=0 must be at least 1, or None"),
        ({"valid": 0}, "valid=0 must be a fraction"),
        ({"valid": 1.5}, "valid=1.5 must be a fraction"),
        ({"test": -3}, "test=-3 must be a fraction"),
        ({"test": True}, "test=True must be a fraction"),
    ],
)
def test_numbers_without_sense_name_their_argument(arguments, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        Selection(**arguments)


def test_numbers_of_numpy_are_those_of_python():
    found = object.__new__(Selection)  # the types of arguments are only checked in tests
    for name, number in {"per_class": np.int64(3), "valid": np.int64(1), "test": np.float32(0.25)}.items():
        object.__setattr__(found, name, number)
    found.__post_init__()
    assert (
        (found.per_class, found.valid, found.test) == (3, 1, 0.25)
        and type(found.valid) is int
        and type(found.test) is float
    )


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(st.integers(3, 60), st.integers(3, 60)),
    own=st.dictionaries(st.sampled_from(["valid", "test"]), st.tuples(st.integers(1, 30), st.integers(1, 30))),
    per_class=st.one_of(st.none(), st.integers(1, 200)),
    held_out=st.integers(1, 200),
)
def test_numbers_adapt_to_the_smallest_class(sizes, own, per_class, held_out):
    """Nothing is raised, splits stay disjoint, and where there is enough nothing changes."""
    pools = {"train": pool("cat", sizes[0]) | pool("dog", sizes[1])}
    for split, counts_ in own.items():
        pools[split] = {
            name: [f"{split}/{name}/{i}" for i in range(n)] for name, n in zip(("cat", "dog"), counts_, strict=True)
        }
    asked = Selection(per_class, held_out, held_out)
    draws = split_dataset(pools, replace(asked, adapt=True), "here")
    for name in ("cat", "dog"):
        candidates = [file for split in draws.values() for file in split[name].candidates[: split[name].wanted]]
        assert len(set(candidates)) == len(candidates)
        assert all(split[name].wanted >= 1 for split in draws.values())
        for split in own:
            size = len(pools[split][name])
            enough = held_out <= min(own[split])
            assert draws[split][name].wanted == (held_out if enough else size)
    drawn = 2 - len(own)
    if min(sizes) >= (per_class or 1) + drawn * held_out and all(held_out <= min(some) for some in own.values()):
        assert draws == split_dataset(pools, asked, "here")
