"""Numbers that no machine can take are refused before anything is computed."""

import math
import time

import jax
import numpy as np
import optax
import pytest

from cnnjax import limits, models, runtime, train
from cnnjax.cli import main
from cnnjax.cli.check import check
from cnnjax.cli.config import AugmentConfig, Config, DataConfig, MixConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.data import Augment, from_arrays, mixup, procedural
from cnnjax.errors import UserError
from cnnjax.network import Network


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ("--data.image-size 1000000", "decoding images to 1,000,000 × 1,000,000 pixels would take"),
        ("--data.per-class 1000000000", "2,000,000,000 images of 32 × 32 pixels would take 5,722 GiB of memory"),
        (
            "--seeds 1 99999999999999999999999",
            "--train.seed 10^23 is no seed of its own: choose one from -2,147,483,648",
        ),
        ("--optimizer.schedule warmup --optimizer.warmup-steps 100000000000000", "is too long for a run of"),
    ],
)
def test_flags_that_no_machine_can_take(flags, sentence, tmp_path, capsys):
    started = time.perf_counter()
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "debug", *flags.split(), "--run", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in said and said.count("\n") == 1, said
    assert time.perf_counter() - started < 30 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: DataConfig(image_size=10**20), "would take more than 2^40 GiB of memory"),
        (lambda: DataConfig(image_size=8000, per_class=1, eval_per_class=1), "training a model of 16,"),
        (lambda: DataConfig(eval_per_class=10**9), "2,000,000,000 images of 150 × 150 pixels"),
        (lambda: DataConfig(seed=-(10**20)), "--data.seed -100,000,000,000,000,000,000 is no seed of its own"),
        (lambda: TrainConfig(seed=2**32), "--train.seed 4,294,967,296 is no seed of its own"),
        (lambda: ModelConfig(width_multiplier=1e300), "must be greater than 0 and at most 1000"),
        (lambda: ModelConfig(width_multiplier=math.inf), "must be greater than 0 and at most 1000"),
        (lambda: ModelConfig(width_multiplier=900.0), "training a model of"),
        (lambda: ModelConfig(dense_units=10**12), "and at most 10,000,000"),
        (lambda: ModelConfig(name="vgg16", dense_units=9_000_000), "training a model of 81,"),
        (lambda: OptimizerConfig(learning_rate=math.inf), "must be greater than 0 and finite"),
        (lambda: AugmentConfig(rotation=1e300), "must not be negative, and at most 360"),
        (lambda: AugmentConfig(shift=math.nan), "must not be negative, and at most 360"),
        (lambda: MixConfig(cutmix=math.inf), "--mix.cutmix inf must not be negative, and at most 10000"),
    ],
)
def test_settings_that_no_machine_can_take(make, sentence):
    with pytest.raises(UserError) as caught:
        part = make()
        check(Config(**{type(part).__name__.removesuffix("Config").lower(): part}))
    assert sentence in str(caught.value)


SMALL = {"num_classes": 1, "image_size": 32, "width_multiplier": 0.02, "dense_units": 4}


def network():
    images = np.zeros((20, 32, 32, 3), np.uint8)
    dataset = from_arrays(images, np.arange(20) % 2)
    return Network.create(models.create("vgg11", **SMALL), dataset), dataset


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"seed": 2**40}, "seed=1,099,511,627,776 is no seed"),
        ({"epochs": 10**12}, "epochs=1,000,000,000,000 of 3 steps each are more than 2,147,483,647 steps"),
        ({"steps_per_epoch": 10**25}, r"epochs=1 of 10\^25 steps each are more than"),
        ({"workers": 10**6}, "workers=1000000: this machine has"),
    ],
)
def test_arguments_of_fit_that_no_machine_can_take(options, sentence):
    with pytest.raises(UserError, match=sentence):
        train.fit(*network(), optax.sgd(0.1), **{"epochs": 1, "batch_size": 4, **options})


def test_a_step_that_does_not_fit_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "free_memory", lambda: 10_000)
    with pytest.raises(UserError, match="a step of batch_size=4 with images of 32 × 32 pixels takes .* or more, and"):
        train.fit(*network(), optax.sgd(0.1), epochs=1, batch_size=4, strategy="jit", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_counted_is_what_the_arrays_take():
    """Of a bare addition: no more is asked for than there is."""
    free = runtime.available_memory()
    limits.check_memory(free // 2, "half", "do nothing")
    with pytest.raises(UserError, match="twice would take .* GiB of memory, and .* GiB are free: do something"):
        limits.check_memory(2 * free, "twice", "do something")
    assert limits.gibibytes(3 * 2**29) == "1.5 GiB" and limits.short(-(10**30)).startswith("10^30")


def test_seeds_give_keys_of_their_own():
    for seed in limits.SEEDS:
        limits.check_seed(seed)
        jax.random.key(seed)
    # Why others are refused: JAX leaves out what 32 bits do not hold.
    assert (jax.random.key_data(jax.random.key(1)) == jax.random.key_data(jax.random.key(2**32 + 1))).all()
    for create in (
        lambda: models.create("small-cnn", seed=2**32),
        lambda: procedural.load(per_class=1, valid=1, test=1, image_size=8, seed=2**32),
    ):
        with pytest.raises(UserError, match="no seed of its own"):
            create()


def test_layers_and_transformations_of_the_library():
    with pytest.raises(UserError, match="a layer of .* numbers would take .*: make the model narrower"):
        models.create("small-cnn", width_multiplier=1e9)
    with pytest.raises(UserError, match=r"rotation=1e\+300"):
        Augment(rotation=1e300)
    with pytest.raises(UserError, match="at most 10000"):
        mixup(1e300)
