"""Sampling: disjoint, counted, and a function of the seed alone."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnjax.cli.config import DataConfig
from cnnjax.data.splits import choose, divide
from cnnjax.errors import UserError

counts = st.integers(3, 60)


def pool(name, count):
    return {name: [f"{name}/{index}" for index in range(count)]}


def config(per_class=5, eval_per_class=2, seed=0):
    return DataConfig(source="folder:x", per_class=per_class, eval_per_class=eval_per_class, seed=seed)


@settings(max_examples=150, deadline=None)
@given(
    cats=counts,
    dogs=counts,
    per_class=st.integers(0, 30),
    eval_per_class=st.integers(1, 15),
    seed=st.integers(-5, 2**40),
    own=st.sets(st.sampled_from(["valid", "test"])),
)
def test_draws_are_disjoint_counted_and_repeatable(cats, dogs, per_class, eval_per_class, seed, own):
    assume(min(cats, dogs) >= (per_class or 1) + eval_per_class * (2 - len(own)))
    asked = config(per_class, eval_per_class, seed)
    pools = {"train": pool("train/cat", cats) | pool("train/dog", dogs)}
    for split in own:
        pools[split] = pool("train/cat", eval_per_class + 3) | pool("train/dog", eval_per_class)
        pools[split] = {name: [f"{split}:{file}" for file in files] for name, files in pools[split].items()}
    draws = divide(pools, asked, "here")
    assert draws == divide(dict(reversed(pools.items())), asked, "here")
    for name, count in {"train/cat": cats, "train/dog": dogs}.items():
        candidates = [file for split in draws.values() for file in split[name].candidates]
        assert len(set(candidates)) == len(candidates)
        everything = {file for files in pools.values() for file in files[name]}
        assert set(candidates) <= everything
        if per_class:
            assert set(candidates) == everything  # all that is not wanted is spare
        assert draws["valid"][name].wanted == draws["test"][name].wanted == eval_per_class
        left = count - eval_per_class * (2 - len(own))
        assert draws["train"][name].wanted == (per_class or left)
        for split in draws.values():
            assert len(split[name].candidates) >= split[name].wanted
        for split in own:
            assert all(file.startswith(f"{split}:") for file in draws[split][name].candidates)


def test_another_seed_draws_others():
    first, second = (divide({"train": pool("cat", 50)}, config(seed=seed), "here") for seed in (0, 1))
    assert first["train"]["cat"].candidates[:5] != second["train"]["cat"].candidates[:5]


def test_more_training_pictures_leave_the_held_out_ones_alone():
    few, many = (divide({"train": pool("cat", 50)}, config(per_class=count), "here") for count in (5, 20))
    for split in ("valid", "test"):
        assert few[split]["cat"].candidates[:2] == many[split]["cat"].candidates[:2]


def test_a_class_is_drawn_alike_whatever_the_others_are():
    alone = divide({"train": pool("cat", 50)}, config(), "here")
    beside = divide({"train": pool("ant", 9) | pool("cat", 50)}, config(), "here")
    assert all(alone[split]["cat"] == beside[split]["cat"] for split in alone)


@pytest.mark.parametrize(
    ("pools", "per_class", "sentence"),
    [
        (
            {"train": pool("cat", 8)},
            5,
            "here: class 'cat' has 8 pictures where 9 are needed (5 for training, 2 for validation, 2 for test): "
            "lower --data.per-class or --data.eval-per-class",
        ),
        (
            {"train": pool("cat", 4)},
            0,
            "here: class 'cat' has 4 pictures where 5 are needed (at least 1 for training, 2 for validation, 2 for "
            "test): lower --data.eval-per-class",
        ),
        (
            {"train": pool("cat", 4), "valid": pool("cat", 2), "test": pool("cat", 2)},
            5,
            "here: class 'cat' has 4 pictures where 5 are needed (5 for training): lower --data.per-class",
        ),
        (
            {"train": pool("cat", 9), "valid": pool("cat", 1)},
            5,
            "here: class 'cat' has 1 picture where 2 are needed (2 for validation): lower --data.eval-per-class",
        ),
    ],
)
def test_too_few_pictures_name_the_numbers_and_the_flag(pools, per_class, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        divide(pools, config(per_class), "here")


def test_choosing_classes():
    assert choose(["dog", "cat"], (), "here") == ("cat", "dog")
    assert choose(["ant", "cat", "dog"], ("dog", "ant"), "here") == ("dog", "ant")
    with pytest.raises(UserError, match="unknown class 'dgo': did you mean dog"):
        choose(["cat", "dog"], ("cat", "dgo"), "here")
    with pytest.raises(UserError, match="one class"):
        choose(["cat"], (), "here")
    with pytest.raises(UserError, match="twice"):
        choose(["cat", "dog"], ("cat", "cat"), "here")
