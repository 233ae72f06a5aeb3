"""Transfer: cached features, a new head on them, fine-tuning with frozen blocks, every bad input as one sentence."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import formats, models
from cnnjax.cli.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.data import normalize
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.lazy_images import Pictures, count_colours
from cnnjax.errors import UserError
from cnnjax.train import init, optimizers, step, transfer
from cnnjax.train.loop import fit
from cnnjax.train.step import Batch, Task

SIDE, SIZE = 32, 24
MODEL = ModelConfig(name="vgg11", width=0.06, dense=12)
EARLY = ("block1", "block2", "block3", "block4")


def pictures(seed: int, size: int = SIZE) -> Split:
    """Two classes, one a little redder."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 2).astype(np.int32)
    images = rng.integers(0, 200, (size, SIDE, SIDE, 3))
    images[..., 0] += 40 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels)


DATA = Dataset(pictures(0), pictures(1, 10), lambda: pictures(2, 10), ("axe", "shovel"))
HEAD = Config(
    data=DataConfig(side=SIDE, per_class=SIZE // 2, eval_per_class=5),
    model=MODEL,
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.05),
    train=TrainConfig(epochs=3, batch_size=8, parallel="jit"),
)


def base(kind: str = "standard", model: ModelConfig = MODEL) -> formats.Network:
    """A network of three other classes."""
    graph, params = models.split(models.create(model, side=SIDE, num_classes=3, seed=7))
    return formats.network(graph, params, model, SIDE, ("a", "b", "c"), normalize.fit(kind, pictures(9, 50).images))


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def numbers(history: list[dict]) -> list[dict]:
    """Rows without what a clock says."""
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in history]


@pytest.fixture(scope="module")
def network():
    return transfer.adopt(base(), MODEL, SIDE, DATA.class_names, seed=3)


@pytest.fixture(scope="module")
def features(network):
    return transfer.bottleneck(network, DATA)


@pytest.fixture(scope="module")
def head(network, features, tmp_path_factory):
    """A finished run of the head: its folder and its result."""
    folder = tmp_path_factory.mktemp("head") / "run"
    return folder, transfer.fit_head(HEAD, network, features, folder)


@pytest.fixture(scope="module")
def tuning(head):
    return dataclasses.replace(
        HEAD,
        augment=AugmentConfig(enabled=True),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.02),
        train=dataclasses.replace(HEAD.train, start=str(head[0] / "weights.safetensors"), frozen=EARLY),
    )


@pytest.fixture(scope="module")
def tuned(tuning, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, fit(tuning, DATA, folder)


def test_the_new_network_has_the_base_and_its_cleaning(network):
    old = base()
    assert network.params.keys() == old.params.keys()
    for name in network.params:
        assert same(network.params[name], old.params[name]) == name.startswith("block"), name
    assert same(network.cleaning, old.cleaning) and network.made["base"] == old.digest
    assert network.params["predictions"]["kernel"].shape == (12, 1)


def test_a_base_without_dense_layers_serves_as_well(network, tmp_path):
    formats.save(tmp_path / "base.safetensors", base())
    bare = formats.load(tmp_path / "base.safetensors", top=False)
    assert "fc1" not in bare.params and bare.class_names == ()
    assert transfer.adopt(bare, MODEL, SIDE, DATA.class_names, seed=3).digest == network.digest


def test_features_are_the_bases_activations_of_the_pictures_and_of_their_mirror_images(network, features):
    old = base()
    images = jnp.asarray(DATA.train.images, jnp.float32) / 255
    expected = [old.forward(old.params, view)[1]["flatten"] for view in (images, images[:, :, ::-1])]
    assert features.train().values.shape == (2 * SIZE, expected[0].shape[1])
    np.testing.assert_allclose(features.train().values, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.train().labels, np.tile(DATA.train.labels, 2))
    test = features.test()
    images = jnp.asarray(DATA.load_test().images, jnp.float32) / 255
    np.testing.assert_allclose(test.values, old.forward(old.params, images)[1]["flatten"], rtol=1e-4, atol=1e-5)


def test_streamed_pictures_have_the_same_features(network, features, tmp_path):
    for i, image in enumerate(DATA.train.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    names = np.asarray([os.fsencode(tmp_path / f"{i}.png") for i in range(SIZE)])
    streamed = Pictures("here", str, names, count_colours(DATA.train.images), SIDE)
    dataset = dataclasses.replace(DATA, train=Split(streamed, DATA.train.labels))
    found = transfer.bottleneck(network, dataset, mirrored=False).train()
    np.testing.assert_array_equal(found.values, features.train().values[:SIZE])


def test_a_head_on_features_is_a_network_whose_base_is_frozen(network, tmp_path):
    """The same steps by `fit`, through all layers, with the five blocks frozen: order, dropout and rounding agree."""
    formats.save(tmp_path / "new.safetensors", network)
    frozen = dataclasses.replace(HEAD.train, start=str(tmp_path / "new.safetensors"), frozen=(*EARLY, "block5"))
    whole = fit(dataclasses.replace(HEAD, train=frozen), DATA, tmp_path / "whole")
    plain = transfer.bottleneck(network, DATA, mirrored=False)
    quick = transfer.fit_head(HEAD, network, plain, tmp_path / "quick")
    for a, b in zip(numbers(quick.history), numbers(whole.history), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), quick.network.params, whole.network.params
    )
    assert quick.test == pytest.approx(whole.test, rel=1e-4)
    assert quick.history[-1]["train_loss"] < quick.history[0]["train_loss"]


def test_a_heads_run_is_a_folder_and_starts_again_to_the_same_end(network, features, head, tmp_path):
    folder, result = head
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "weights.safetensors",
        "test.json",
    }
    assert json.loads((folder / "test.json").read_text()) == result.test and result.test["count"] == 10
    kept = formats.load(folder / "weights.safetensors")
    assert kept.digest == result.network.digest and kept.class_names == DATA.class_names
    images = jnp.asarray(DATA.valid.images, jnp.float32) / 255
    np.testing.assert_array_equal(
        kept.forward(kept.params, images)[0], result.network.forward(result.network.params, images)[0]
    )
    assert numbers(transfer.fit_head(HEAD, network, features, folder, resume=True).history) == numbers(result.history)
    again = transfer.fit_head(HEAD, network, features, tmp_path / "again", resume=True)
    assert again.network.digest == kept.digest and numbers(again.history) == numbers(result.history)
    with pytest.raises(UserError, match="holds a finished run"):
        transfer.fit_head(HEAD, network, features, folder)


def test_fine_tuning_moves_the_last_block_and_the_head_only(head, tuned):
    before, after = head[1].network, tuned[1].network
    for name in after.params:
        learns = name.startswith("block5") or not name.startswith("block")
        moved = [
            not same(a, b) for a, b in zip(*(jax.tree.leaves(n.params[name]) for n in (before, after)), strict=True)
        ]
        assert all(moved) if learns else not any(moved), name
    assert same(after.cleaning, base().cleaning)
    assert after.made["start"]["digest"] == before.digest
    kept = formats.load(tuned[0] / "weights.safetensors")
    images = jnp.asarray(DATA.valid.images, jnp.float32) / 255
    assert same(kept.forward(kept.params, images)[0], after.forward(after.params, images)[0])


def test_fine_tuning_resumed_is_the_uninterrupted_run_bit_for_bit(tuning, tuned, tmp_path):
    def stop(done: int, total: int, latest: dict) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tuning, DATA, tmp_path / "run", on_progress=stop)
    resumed = fit(tuning, DATA, tmp_path / "run", resume=True)
    assert same(resumed.network.params, tuned[1].network.params)
    assert numbers(resumed.history) == numbers(tuned[1].history) and resumed.test == tuned[1].test


@pytest.mark.parametrize("parallel", ["pmap", "mesh"])
def test_eight_devices_fine_tune_as_one_does(tuning, tuned, parallel, tmp_path):
    train = dataclasses.replace(tuning.train, parallel=parallel, epochs=1)
    result = fit(dataclasses.replace(tuning, train=train), DATA, tmp_path / "run")
    assert numbers(result.history)[0] == pytest.approx(numbers(tuned[1].history)[0], rel=1e-4)
    assert same(result.network.params["block4_conv2"], tuned[1].network.params["block4_conv2"])


def test_frozen_layers_have_no_backward_pass_and_no_optimizer_state(network):
    frozen = init.frozen(EARLY, network.params)
    adam = optimizers.create(OptimizerConfig(), 10)
    images, labels = (jnp.asarray(array[:8]) for array in DATA.train)
    batch = Batch(images, labels, jnp.arange(8))

    def flops(frozen: frozenset[str], remat: bool = False) -> float:
        task = Task(network.graph, adam, AugmentConfig(), remat=remat, frozen=frozen)
        run = jax.jit(lambda state, key: step.train_step(task, state, batch, key, network.cleaning))
        state = step.create_state(network.params, adam, frozen)
        return run.lower(state, jax.random.key(0)).cost_analysis()["flops"]

    def forward(params):
        return models.apply(network.graph, params, jnp.zeros((8, SIDE, SIDE, 3)))[0]

    ahead = jax.jit(forward).lower(network.params).cost_analysis()["flops"]
    # The early blocks are nearly all of this network: a step is little more than its forward pass, not three of them.
    assert flops(frozen) < 1.6 * ahead
    assert flops(frozen, remat=True) < 1.6 * ahead
    assert flops(frozenset()) > 2.5 * ahead
    state = step.create_state(network.params, adam, frozen)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) == 2 * sum(
        leaf.size for name in network.params.keys() - frozen for leaf in jax.tree.leaves(network.params[name])
    )


def test_frozen_names_are_layers_or_blocks(network):
    assert init.frozen(("block1", "block3_conv2"), network.params) == {"block1_conv1", "block3_conv2"}
    assert init.frozen((), network.params) == frozenset()
    with pytest.raises(UserError, match="did you mean block4"):
        init.frozen(("blok4",), network.params)
    with pytest.raises(UserError, match="leaves no layer to learn"):
        init.frozen((*EARLY, "block5", *transfer.HEAD), network.params)


@pytest.mark.parametrize(
    ("given", "model", "side", "names", "sentence"),
    [
        (base(model=ModelConfig(width=0.1)), MODEL, SIDE, DATA.class_names, "a small-cnn's: give those of a VGG"),
        (base(), dataclasses.replace(MODEL, width=0.1), SIDE, DATA.class_names, "--model.width 0.06, not 0.1"),
        (base("zca"), MODEL, 2 * SIDE, DATA.class_names, "whiten pictures of side 32, not 64"),
        (base(), MODEL, 16, DATA.class_names, "use a side of 32 or more"),
        (base(), MODEL, SIDE, ("axe",), "two classes or more"),
    ],
)
def test_a_base_that_does_not_serve(given, model, side, names, sentence):
    with pytest.raises(UserError, match=sentence):
        transfer.adopt(given, model, side, names, seed=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"side": 64}}, "has --data.side 32, and the run 64"),
        ({"model": {"width": 0.1}}, "has --model.width 0.06, and the run 0.1"),
        ({"model": {"dense": 0}}, "has --model.dense 12, and the run 0"),
        ({"train": {"start": "nowhere"}}, "there is no weights file nowhere"),
    ],
)
def test_weights_that_do_not_fit_the_run(tuning, changes, sentence, tmp_path):
    for part, values in changes.items():
        tuning = dataclasses.replace(tuning, **{part: dataclasses.replace(getattr(tuning, part), **values)})
    with pytest.raises(UserError, match=sentence):
        fit(tuning, DATA, tmp_path / "run")


def test_weights_of_other_classes(tuning, tmp_path):
    with pytest.raises(UserError, match="has --data.classes axe shovel, and the run axe hammer"):
        fit(tuning, dataclasses.replace(DATA, class_names=("axe", "hammer")), tmp_path / "run")


def test_a_loss_that_is_not_finite(network, features, tmp_path):
    wild = dataclasses.replace(HEAD, optimizer=OptimizerConfig(name="sgd", learning_rate=1e30))
    with pytest.raises(UserError, match="no longer finite in step"):
        transfer.fit_head(wild, network, features, tmp_path / "run")


SCRIPT = Path(__file__).parents[1] / "experiments" / "transfer.py"


def script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=600)


def test_the_experiment_from_a_folder_of_pictures(tmp_path):
    """With the shipped VGG16, on pictures of half its side."""
    for name, split in (("axe", 0), ("shovel", 1)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i, image in enumerate(pictures(5, 28).images[split::2]):
            Image.fromarray(image).save(tmp_path / "pictures" / name / f"{i}.png")
    flags = ["--run", str(tmp_path / "run"), "--data.source", f"folder:{tmp_path / 'pictures'}", "--data.side", "32"]
    flags += ["--data.per-class", "8", "--data.eval-per-class", "3", "--seeds", "4"]
    flags += ["--head-epochs", "2", "--fine-tune-epochs", "1", "--small-epochs", "1"]
    done = script(*flags)
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout and (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    place = tmp_path / "run" / "seed-4"
    assert summary.keys() == {path.name for path in place.iterdir()}
    for name, found in summary.items():
        test = json.loads((place / name / "test.json").read_text())
        assert test["count"] == 6 and found["test accuracy"]["seeds"] == {"4": test["accuracy"]}
    shipped, tuned = formats.shipped(), formats.load(place / "fine-tune" / "weights.safetensors")
    assert tuned.side == 32 and tuned.class_names == ("axe", "shovel") and same(tuned.cleaning, shipped.cleaning)
    moved = {name for name in tuned.params if not same(tuned.params[name], shipped.params.get(name))}
    assert moved == {name for name in tuned.params if name.startswith(("block5", "fc", "predictions"))}
    again = script(*flags, "--resume")
    assert again.returncode == 0 and "features of" not in again.stderr, again.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
