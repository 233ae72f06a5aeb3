"""Unequal classes, runs that learned nothing, and presets on people's own folders."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from cnnjax import data, losses
from cnnjax.classify import label_of, score
from cnnjax.cli import build, groups, train
from cnnjax.cli.check import check
from cnnjax.cli.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.cli.presets import PRESETS
from cnnjax.data import ArraySplit, from_folder
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.train import by_class, diagnosis, fit

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class Brightness(nnx.Module):
    """One logit: how bright an image is; `dead` units see nothing."""

    def __init__(self, bias=0.5, slope=20.0, dead=False):
        self.bias, self.slope = nnx.Param(jnp.float32(bias)), nnx.Param(jnp.float32(slope))
        self.dead = dead

    def __call__(self, images, *, train=False, keys=None):
        mean = images.mean((1, 2))
        units = jax.nn.relu(mean - (9 if self.dead else 0))
        logits = self.slope[...] * (mean.mean(1, keepdims=True) - self.bias[...])
        return logits, {"units": units, "output": logits}


def network(**options):
    normalizer = data.normalize.identity()
    return Network.create(
        Brightness(**options), class_names=("cat", "dog"), image_size=4, channels=3, normalizer=normalizer
    )


def split(cats, dogs, wrong=0):
    """Dark cats and bright dogs; the first `wrong` dogs are dark."""
    images = np.concatenate([np.full((cats, 4, 4, 3), 30), np.full((dogs, 4, 4, 3), 220)]).astype(np.uint8)
    images[cats : cats + wrong] = 30
    return ArraySplit(images, np.repeat(np.arange(2, dtype=np.int32), [cats, dogs]))


def test_accuracy_by_class():
    shares = by_class.accuracy_by_class(network(), split(90, 10, wrong=4))
    assert shares == {"cat": 1.0, "dog": 0.6, "balanced_accuracy": 0.8}
    assert by_class.describe(shares, {"cat": 90, "dog": 10}) == (
        "balanced accuracy 80.0%; by class: dog 60.0% of 10, cat 100.0% of 90"
    )
    assert by_class.are_unequal([190, 30]) and not by_class.are_unequal([100, 90])
    weights = by_class.balanced_weights([190, 30])
    assert math.isclose(190 * weights[0], 30 * weights[1]) and math.isclose(190 * weights[0] + 30 * weights[1], 220)


def test_class_weights():
    logits, labels = jnp.array([[2.0, 0.0], [0.5, 1.0]]), jnp.array([0, 1])
    plain, weighted = losses.cross_entropy(), losses.cross_entropy(class_weights=(0.5, 3.0))
    expected = plain(logits, labels, {}) * jnp.array([0.5, 3.0])
    np.testing.assert_allclose(weighted(logits, labels, {}), expected, rtol=1e-6)
    np.testing.assert_allclose(weighted(logits, jax.nn.one_hot(labels, 2), {}), expected, rtol=1e-6)
    np.testing.assert_array_equal(weighted.evaluation(logits, labels, {}), plain(logits, labels, {}))
    with pytest.raises(UserError, match="must be positive numbers"):
        losses.cross_entropy(class_weights=(1.0, 0.0))
    with pytest.raises(UserError, match="3 class_weights for 2 classes"):
        losses.cross_entropy(class_weights=(1.0, 1.0, 1.0))(logits, jax.nn.one_hot(labels, 2), {})


def test_a_run_says_how_unequal_classes_fare(tmp_path):
    parts = {"train": split(12, 12), "valid": split(4, 4), "test": split(37, 23, wrong=3)}
    dataset = data.Dataset(**parts, class_names=("cat", "dog"))
    result = fit(network(), dataset, optax.sgd(1e-6), epochs=1, batch_size=8, strategy="jit", run_dir=tmp_path / "run")
    test = json.loads((tmp_path / "run" / "test.json").read_text())
    assert test == result.test and test["count_by_class"] == {"cat": 37, "dog": 23}
    assert test["accuracy_by_class"] == {"cat": 1.0, "dog": pytest.approx(20 / 23)}
    assert "balanced accuracy 93.5%; by class: dog 87.0% of 23, cat 100.0% of 37" in groups.describe(result)
    again = fit(
        network(),
        dataset,
        optax.sgd(1e-6),
        epochs=1,
        batch_size=8,
        strategy="jit",
        run_dir=tmp_path / "run",
        resume=True,
    )
    assert again.test == test
    equal = data.Dataset(**parts | {"test": split(20, 20)}, class_names=("cat", "dog"))
    assert "balanced_accuracy" not in fit(network(), equal, optax.sgd(1e-6), batch_size=8, strategy="jit").test


def history(*rows):
    return [
        {"epoch": i, "train_accuracy": a, "valid_loss": loss, "valid_accuracy": b, "train_loss": loss}
        for i, (loss, a, b) in enumerate(rows, 1)
    ]


def test_a_network_that_has_learned_nothing_is_told():
    dataset = data.Dataset(split(40, 40), split(4, 4), split(4, 4), ("cat", "dog"))
    stuck = history((0.6931, 0.5, 0.5), (0.6932, 0.5, 0.5))
    for dead, share in ((True, "100%"), (False, "0%")):
        (sentence,) = diagnosis.diagnose(stuck, network(slope=0.0, dead=dead), dataset)
        assert (
            f"ln 2 = 0.693, and it gives every image the same answer; {share} of its units were not active" in sentence
        )
        assert "schedule='warmup'" in sentence
    assert diagnosis.diagnose(stuck, network(), dataset) == []  # its answers differ, and it may learn yet
    assert diagnosis.diagnose(history((0.6931, 0.5, 0.5), (0.4, 0.8, 0.8)), network(slope=0.0), dataset) == []


def test_a_network_whose_answers_differ_is_told_once_it_had_time_to_learn():
    dataset = data.Dataset(split(40, 40), split(4, 4), split(4, 4), ("cat", "dog"))
    stuck = [row | {"step": 500 * row["epoch"]} for row in history((0.6931, 0.5, 0.5), (0.6932, 0.5, 0.5))]
    (sentence,) = diagnosis.diagnose(stuck, network(), dataset)
    assert "learned nothing" in sentence and "ln 2 = 0.693: check the labels" in sentence
    by_heart = [row | {"train_loss": 0.1} for row in stuck]
    (sentence,) = diagnosis.diagnose(by_heart, network(), dataset)
    assert "does not hold for others: the training loss fell to 0.100" in sentence
    early = [row | {"step": 499} for row in by_heart]
    assert diagnosis.diagnose(early, network(), dataset) == []
    assert diagnosis.diagnose([row | {"valid_loss": 0.6} for row in by_heart], network(), dataset) == []


def test_validation_far_below_training_is_told():
    dataset = data.Dataset(split(4, 4), split(4, 4), split(4, 4), ("cat", "dog"))
    (sentence,) = diagnosis.diagnose(history((0.9, 0.9, 0.5), (2.0, 0.98, 0.51)), network(), dataset)
    assert "validation is far below training from the first epoch on (50% against 90% in epoch 1)" in sentence
    assert diagnosis.diagnose(history((0.6, 0.6, 0.6), (2.0, 0.98, 0.6)), network(), dataset) == []  # overfitting


def folder(root, cats, dogs, prefix=""):
    for name, count, color in (("cat", cats, "red"), ("dog", dogs, "blue")):
        (root / prefix / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 9), color).save(root / prefix / name / f"{number}.bmp")


def test_the_command_speaks_of_unequal_classes(tmp_path):
    folder(tmp_path, 100, 20)
    config = DataConfig(source=f"folder:{tmp_path}", image_size=8, cache=False)
    found = build.dataset(config)
    assert build.describe(config, found).endswith(
        "; the smallest class decides the numbers (cat 100, dog 20): --data.per-class 0 --data.eval-per-class 0 use all"
    )
    everything = DataConfig(source=f"folder:{tmp_path}", image_size=8, cache=False, per_class=0, eval_per_class=0)
    found = build.dataset(everything)
    assert by_class.counts(found.train.labels, 2) == [60, 12] and len(found.valid) == len(found.test) == 24
    assert build.describe(everything, found).endswith(
        "; the training classes are unequal (cat 60, dog 12): --loss.class-weights balanced lets them count alike"
    )
    balanced = Config(data=everything, loss=LossConfig(class_weights="balanced"))
    assert "weighted(cross_entropy(), (0.6, 3.0))" in repr(build.fit_options(balanced, found)["loss"])


def test_a_published_test_split_of_unequal_classes_is_taken_as_a_whole(tmp_path):
    folder(tmp_path, 20, 20, "train")
    folder(tmp_path, 37, 23, "test")
    for eval_per_class in (500, 0):
        config = DataConfig(source=f"folder:{tmp_path}", image_size=8, cache=False, eval_per_class=eval_per_class)
        assert by_class.counts(build.dataset(config).test.labels, 2) == [37, 23]
        assert "test split:" not in build.describe(config, build.dataset(config))
    fewer = DataConfig(source=f"folder:{tmp_path}", image_size=8, cache=False, eval_per_class=4)
    found = build.dataset(fewer)
    assert by_class.counts(found.test.labels, 2) == [4, 4]
    assert "; 8 of the 60 images of its test split: --data.eval-per-class 0 uses all" in build.describe(fewer, found)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("new-head", "fine-tune")])
def test_presets_fit_folders_of_a_thousand_images(name, tmp_path, monkeypatch):
    """From one command with no flag but the source."""
    given = Config(
        **{**vars(PRESETS[name]), "data": DataConfig(**{**vars(PRESETS[name].data), "source": f"folder:{tmp_path}"})}
    )
    config = train.for_files(name, given)
    assert config.data.classes == () and train.for_files(name, PRESETS[name]) == replace(
        PRESETS[name], data=PRESETS[name].data.with_rendering()
    )
    check(config)
    steps = config.train.steps_per_epoch or 600 // config.train.batch_size
    build.optimizer(config, config.train.epochs * steps)
    build.optimizer(config, 8)  # however short


def test_paths_that_name_classes():
    names = ("cat", "Dog", "tennis ball")
    for path, label in (
        ("photos/cat/1.jpg", "cat"),
        ("test/DOG/more/1.jpg", "Dog"),
        ("test/cat.12.jpg", "cat"),
        ("dog/cat.12.jpg", "Dog"),
        ("photos/1.jpg", None),
        ("tennis ball/x.jpg", "tennis ball"),
    ):
        assert label_of(Path("/data") / path, names) == label
    answers = {Path(f"/d/cat/{i}.jpg"): "cat" for i in range(8)} | {Path(f"/d/dog/{i}.jpg"): "cat" for i in range(2)}
    assert score(answers, names) == (
        "80.0% of the 10 images whose paths name a class are right; balanced accuracy 50.0%; by class: Dog 0.0% of 2, "
        "cat 100.0% of 8"
    )
    assert score({Path("/d/cat/1.jpg"): "cat"}, names) is None


def test_from_folder_counts_nothing_twice(tmp_path):
    folder(tmp_path, 10, 10)
    dataset = from_folder(tmp_path, image_size=8, cache=False)
    assert by_class.counts(np.eye(2)[dataset.train.labels], 2) == by_class.counts(dataset.train.labels, 2) == [6, 6]


def test_a_warm_up_that_is_shortened_is_told():
    given = PRESETS["cnn"]
    automatic = replace(given, optimizer=replace(given.optimizer, warmup_steps=None))
    said = build.describe_warmup(automatic, 120)
    assert said == "the learning rate rises over the first 30 of 120 steps, a quarter of this short run"
    assert build.describe_warmup(automatic, 2000) == build.describe_warmup(given, 600) == ""
    assert build.describe_warmup(replace(automatic, optimizer=OptimizerConfig()), 120) == ""


def test_a_short_run_says_how_long_its_warm_up_is(tmp_path, capsys):
    folder(tmp_path / "pets", 30, 30)
    config = Config(
        data=DataConfig(source=f"folder:{tmp_path / 'pets'}", image_size=16, cache=False, eval_per_class=5),
        model=ModelConfig(width_multiplier=0.125),
        optimizer=OptimizerConfig(schedule="warmup"),
        train=TrainConfig(epochs=1, batch_size=8, steps_per_epoch=4),
        run=str(tmp_path / "run"),
    )
    groups.fit_all({tmp_path / "run": config}, resume=False)
    assert "rises over the first 1 of 4 steps, a quarter" in capsys.readouterr().out
