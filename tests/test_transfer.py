"""Transfer: cached features, a new head on them, fine-tuning with frozen blocks, every bad input as one sentence."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from cnnjax import Network, formats, models
from cnnjax.cli import transfer as cli_transfer
from cnnjax.cli.presets import PRESETS
from cnnjax.data import Augment, normalize
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit
from cnnjax.data.lazy_images import LazyImages, channel_histogram
from cnnjax.errors import UserError
from cnnjax.train import fit, optimizers, step, transfer
from cnnjax.train.state import create_state, frozen_layers
from cnnjax.train.step import Batch, StepConfig

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE, SIZE = 32, 24
MODEL = {"name": "vgg11", "width_multiplier": 0.06, "dense_units": 12}
EARLY = ("block1", "block2", "block3", "block4")
HEAD = {"epochs": 3, "batch_size": 8, "strategy": "jit", "on_progress": lambda *_: None}
SGD = optimizers.create("sgd", 0.05)


def images_and_labels(seed: int, size: int = SIZE) -> ArraySplit:
    """Two classes, one a little redder."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 2).astype(np.int32)
    images = rng.integers(0, 200, (size, SIDE, SIDE, 3))
    images[..., 0] += 40 * labels[:, None, None]
    return ArraySplit(images.astype(np.uint8), labels)


DATA = Dataset(images_and_labels(0), images_and_labels(1, 10), lambda: images_and_labels(2, 10), ("axe", "shovel"))


def base(kind: str = "standard", **changes) -> Network:
    """A network of three other classes."""
    model = models.create(**MODEL | changes, image_size=SIDE, num_classes=3, seed=7)
    normalizer = normalize.fit_normalizer(kind, images_and_labels(9, 50))
    return Network.create(model, normalizer=normalizer, class_names=("a", "b", "c"))


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def numbers(history: list[dict]) -> list[dict]:
    """Rows without what a clock says."""
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in history]


def replaced(given: Network | None = None, names=DATA.class_names, **changes) -> Network:
    options = {"dense_units": 12, "seed": 3} | changes
    return transfer.replace_head(given or base(), names, **options)


@pytest.fixture(scope="module")
def network():
    return replaced()


@pytest.fixture(scope="module")
def features(network):
    return transfer.extract_features(network, DATA)


@pytest.fixture(scope="module")
def head(network, features, tmp_path_factory):
    """A finished run of the head: its folder and its result."""
    folder = tmp_path_factory.mktemp("head") / "run"
    return folder, transfer.fit_head(network, features, SGD, run_dir=folder, **HEAD)


def tune(head: Network, folder: Path | None, **changes):
    options = HEAD | {"augment": Augment(), "freeze": EARLY, "run_dir": folder} | changes
    return fit(head, DATA, optimizers.create("sgd", 0.02), **options)


@pytest.fixture(scope="module")
def tuned(head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, tune(head[1].network, folder)


def test_the_new_network_has_the_base_and_its_normalizer(network):
    old = base()
    assert network.params.keys() == old.params.keys()
    for name in network.params:
        assert same(network.params[name], old.params[name]) == name.startswith("block"), name
    assert same(network.normalizer, old.normalizer) and network.provenance["base"] == old.digest
    assert network.params["predictions"]["kernel"].shape == (12, 1) and network.class_names == DATA.class_names


def test_a_base_without_dense_layers_serves_as_well(network, tmp_path):
    formats.save(tmp_path / "base.safetensors", base())
    bare = formats.load(tmp_path / "base.safetensors", include_top=False)
    assert "fc1" not in bare.params and bare.class_names == ()
    assert replaced(bare, image_size=(SIDE, SIDE)).digest == network.digest


def test_features_are_the_bases_activations_of_the_images_and_of_their_mirror_images(network, features):
    images = jnp.asarray(DATA.train.images, jnp.float32) / 255
    expected = [base()(view)[1]["flatten"] for view in (images, images[:, :, ::-1])]
    assert features.train.images.shape == (2 * SIZE, 1, 1, expected[0].shape[1])
    np.testing.assert_allclose(features.train.images[:, 0, 0], np.concatenate(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.train.labels, np.tile(DATA.train.labels, 2))
    images = jnp.asarray(DATA.test.images, jnp.float32) / 255
    np.testing.assert_allclose(features.test.images[:, 0, 0], base()(images)[1]["flatten"], rtol=1e-4, atol=1e-5)


def test_streamed_images_have_the_same_features(network, features, tmp_path):
    for i, image in enumerate(DATA.train.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    names = np.asarray([os.fsencode(tmp_path / f"{i}.png") for i in range(SIZE)])
    streamed = LazyImages("here", str, names, channel_histogram(DATA.train.images), SIDE)
    dataset = DATA.replace(train=LazySplit(streamed, DATA.train.labels))
    found = transfer.extract_features(network, dataset, mirrored=False).train
    np.testing.assert_array_equal(found.images, features.train.images[:SIZE])


def test_a_head_on_features_is_a_network_whose_base_is_frozen(network):
    """The same steps by `fit`, through all layers, with the five blocks frozen: order, dropout and rounding agree."""
    whole = fit(network, DATA, SGD, freeze=(*EARLY, "block5"), **HEAD)
    plain = transfer.extract_features(network, DATA, mirrored=False)
    quick = transfer.fit_head(network, plain, SGD, **HEAD)
    for a, b in zip(numbers(quick.history), numbers(whole.history), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), quick.network.params, whole.network.params
    )
    assert quick.test == pytest.approx(whole.test, rel=1e-4)
    assert quick.history[-1]["train_loss"] < quick.history[0]["train_loss"]


def test_a_heads_run_is_a_folder_that_holds_the_whole_network(network, features, head, tmp_path):
    folder, result = head
    assert json.loads((folder / "test.json").read_text()) == result.test and result.test["count"] == 10
    kept = formats.load(folder / "weights.safetensors")
    assert kept.digest == result.network.digest and kept.class_names == DATA.class_names
    images = jnp.asarray(DATA.valid.images, jnp.float32) / 255
    np.testing.assert_array_equal(kept(images)[0], result.network(images)[0])
    options = HEAD | {"resume": True}
    again = transfer.fit_head(network, features, SGD, run_dir=folder, **options)
    assert again.network.digest == kept.digest and numbers(again.history) == numbers(result.history)
    with pytest.raises(UserError, match="holds a finished run"):
        transfer.fit_head(network, features, SGD, run_dir=folder, **HEAD)


def test_fine_tuning_moves_the_last_block_and_the_head_only(head, tuned):
    before, after = head[1].network, tuned[1].network
    for name in after.params:
        trained = name.startswith("block5") or not name.startswith("block")
        moved = [
            not same(a, b) for a, b in zip(*(jax.tree.leaves(n.params[name]) for n in (before, after)), strict=True)
        ]
        assert all(moved) if trained else not any(moved), name
    assert same(after.normalizer, base().normalizer)
    kept = formats.load(tuned[0] / "weights.safetensors")
    images = jnp.asarray(DATA.valid.images, jnp.float32) / 255
    assert same(kept(images)[0], after(images)[0])


def test_fine_tuning_resumed_is_the_uninterrupted_run_bit_for_bit(head, tuned, tmp_path):
    def stop(done: int, total: int, latest: dict) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(head[1].network, tmp_path / "run", on_progress=stop)
    resumed = tune(head[1].network, tmp_path / "run", resume=True)
    assert same(resumed.network.params, tuned[1].network.params)
    assert numbers(resumed.history) == numbers(tuned[1].history) and resumed.test == tuned[1].test


@pytest.mark.parametrize("strategy", ["pmap", "mesh"])
def test_eight_devices_fine_tune_as_one_does(head, tuned, strategy):
    result = tune(head[1].network, None, strategy=strategy, epochs=1)
    assert numbers(result.history)[0] == pytest.approx(numbers(tuned[1].history)[0], rel=1e-4)
    assert same(result.network.params["block4_conv2"], tuned[1].network.params["block4_conv2"])


def test_frozen_layers_have_no_backward_pass_and_no_optimizer_state(network):
    frozen = frozen_layers(EARLY, network.params)
    adam = optimizers.with_standard_promotion(optimizers.create("adam", 1e-3))
    images, labels = jnp.asarray(DATA.train.images[:8]), jnp.asarray(DATA.train.labels[:8])
    batch = Batch(images, labels, jnp.arange(8))

    def flops(frozen: frozenset[str], remat: bool = False) -> float:
        graphdef = models.with_remat(network.graphdef, network.params, network.model_state, remat)
        config = StepConfig(graphdef, adam, frozen=frozen)
        run = jax.jit(lambda state, key: step.train_step(config, state, batch, key, network.normalizer))
        state = create_state(network.params, network.model_state, adam, frozen)
        return run.lower(state, jax.random.key(0)).cost_analysis()["flops"]

    images = jnp.zeros((8, SIDE, SIDE, 3))
    ahead = jax.jit(lambda network: network(images)[0]).lower(network).cost_analysis()["flops"]
    # The early blocks are nearly all of this network: a step is little more than its forward pass, not three of them.
    assert flops(frozen) < 1.6 * ahead
    assert flops(frozen, remat=True) < 1.6 * ahead
    assert flops(frozenset()) > 2.5 * ahead
    state = create_state(network.params, network.model_state, adam, frozen)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) == 2 * sum(
        leaf.size for name in network.params.keys() - frozen for leaf in jax.tree.leaves(network.params[name])
    )


def test_frozen_names_are_layers_or_blocks(network):
    assert frozen_layers(("block1", "block3_conv2"), network.params) == {"block1_conv1", "block3_conv2"}
    assert frozen_layers((), network.params) == frozenset()
    assert frozen_layers("block3_conv2", network.params) == {"block3_conv2"}
    with pytest.raises(UserError, match="did you mean block4"):
        frozen_layers(("blok4",), network.params)
    with pytest.raises(UserError, match="leaves no layer to train"):
        frozen_layers((*EARLY, "block5", *transfer.HEAD), network.params)


@pytest.mark.parametrize(
    ("given", "size", "names", "sentence"),
    [
        ({"name": "small-cnn", "width_multiplier": 0.1, "dense_units": None}, SIDE, DATA.class_names, "of a small-cnn"),
        ({"kind": "zca"}, 2 * SIDE, DATA.class_names, "whiten images of 32×32 pixels"),
        ({}, 16, DATA.class_names, "32"),
        ({}, SIDE, ("axe",), "two classes or more"),
    ],
)
def test_a_base_that_does_not_serve(given, size, names, sentence):
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("name") == "small-cnn":
        model = models.create("small-cnn", width_multiplier=0.1, image_size=SIDE, num_classes=3)
        serve = Network.create(model, normalizer=normalize.identity())
    else:
        serve = base(**given)
    with pytest.raises(UserError, match=sentence):
        transfer.replace_head(serve, names, image_size=(size, size), dense_units=12)


def test_a_loss_that_is_not_finite(network, features, tmp_path):
    with pytest.raises(UserError, match="no longer finite in step"):
        transfer.fit_head(network, features, optax.sgd(1e30), run_dir=tmp_path / "run", **HEAD)


def test_a_command_that_ended_before_the_whole_network_was_written_goes_on(network, features, head, tmp_path):
    folder, result = head
    folder = shutil.copytree(folder, tmp_path / "run")
    alone = Network.create(transfer.Head(network.model()), features, normalizer=normalize.identity())
    alone = alone.replace(params={name: result.network.params[name] for name in alone.params})
    formats.save(folder / "weights.safetensors", alone)
    config = replace(PRESETS["new-head"], run=str(folder))
    config = replace(config, train=replace(config.train, epochs=HEAD["epochs"]))
    assert cli_transfer._finished("head", config, network) is None
    again = transfer.fit_head(network, features, SGD, run_dir=folder, resume=True, **HEAD)
    assert again.network.digest == formats.load(folder / "weights.safetensors").digest == result.network.digest
    assert cli_transfer._finished("head", config, network).network.digest == result.network.digest
