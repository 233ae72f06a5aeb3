"""jit, pmap and mesh on eight devices compute the same; gradients are averaged once; evaluation is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image

from cnnjax import models
from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
from cnnjax.data import normalize, prefetch, sampling
from cnnjax.data.dataset import Split
from cnnjax.data.lazy_images import Pictures, count_colours
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, step, strategy

SIDE, BATCH, STEPS, SIZE = 16, 16, 10, 60
MODES = ("jit", "pmap", "mesh")
AUGMENT = AugmentConfig(enabled=True, exposure=0.2, contrast=0.2)
ADAM = optimizers.create(OptimizerConfig(), STEPS)


def data() -> Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SIZE).astype(np.int32)
    images = rng.integers(0, 200, (SIZE, SIDE, SIDE, 3)) + 55 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


def network(dropout: float = 0.5):
    return models.split(models.create(ModelConfig(width=0.25, dropout=dropout), side=SIDE, num_classes=2, seed=0))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """The pictures of `data` as files, and the split that streams them."""
    root, split = tmp_path_factory.mktemp("encoded"), data()
    for number, pixels in enumerate(split.images):
        Image.fromarray(pixels).save(root / f"{number}.png")
    names = np.array([f"{number}.png".encode() for number in range(SIZE)])
    return Split(Pictures("encoded", root.__truediv__, names, count_colours(split.images), SIDE), split.labels)


def train(mode: str, length: int, streamed: Split | None = None):
    """Ten steps in calls of `length`, then an evaluation; everything fetched."""
    way = strategy.choose(mode, BATCH)
    graph, params = network()
    order_key, step_key = jax.random.split(jax.random.key(0))
    task = step.Task(graph, ADAM, AUGMENT)
    split = data()
    placed = strategy.replicate(way, (step_key, normalize.fit("mean", (streamed or split).images)))
    placed = (*placed, strategy.reside(way, streamed or split))
    state, sums = strategy.replicate(way, (step.create_state(params, ADAM), metrics.zeros()))
    run = strategy.trainer(way, task, state, *placed, steps=length, batch_size=BATCH)
    if streamed:
        rows, place = prefetch.Order(sampling.words(order_key), SIZE, BATCH), partial(strategy.place, way)
        with prefetch.ahead(streamed, rows, 0, length, place) as chunks:
            for _ in range(0, STEPS, length):
                state, sums = jax.block_until_ready(run(state, sums, next(chunks)))
    for first in () if streamed else range(0, STEPS, length):
        indices = sampling.order(order_key, first * BATCH, length * BATCH, SIZE)
        state, sums = jax.block_until_ready(run(state, sums, indices.reshape(length, BATCH)))
    evaluation = strategy.evaluator(way, graph, 13)(state.params, *placed[1:])
    return jax.device_get((state, sums, evaluation))


@pytest.fixture(scope="module")
def results():
    return {mode: train(mode, STEPS) for mode in MODES}


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_ten_steps_agree_with_one_device(results, mode):
    (state, sums, _), (one, one_sums, _) = results[mode], results["jit"]
    assert state.step == one.step == STEPS
    start = network()[1]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, one.params)
    assert min(jax.tree.leaves(moved)) > 1e-3  # there is something to agree on
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), state.params, one.params)
    assert sums["count"] == one_sums["count"] == STEPS * BATCH and sums["correct"] == one_sums["correct"]
    np.testing.assert_allclose(sums["loss"], one_sums["loss"], rtol=1e-5)


def test_a_mesh_that_jit_shares_out_itself_agrees_as_well(results, monkeypatch):
    """As accelerators run it; on CPUs the program is written for one device."""
    monkeypatch.setattr(strategy, "_by_device", lambda parallel, step, microbatches=1: step)
    (state, sums, evaluation), (one, one_sums, one_evaluation) = train("mesh", STEPS), results["jit"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), state.params, one.params)
    for some, others in ((sums, one_sums), (evaluation, one_evaluation)):
        assert some["count"] == others["count"] and some["correct"] == others["correct"]
        np.testing.assert_allclose(some["loss"], others["loss"], rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_exact(results, mode):
    state, _, sums = results[mode]
    split, (graph, _) = data(), network()
    images = normalize.clean(normalize.fit("mean", split.images), jnp.asarray(split.images, jnp.float32) / 255.0)
    z = np.asarray(models.apply(graph, jax.device_put(state.params), images)[0], np.float64)[:, 0]
    assert sums["count"] == SIZE and sums["correct"] == ((z > 0) == split.labels).sum()
    np.testing.assert_allclose(sums["loss"], (np.log1p(np.exp(z)) - split.labels * z).sum(), rtol=1e-5)


def test_how_an_epoch_is_cut_does_not_matter(results):
    """Ten calls of one step, where XLA drops the loop, against one call of ten: bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, train("jit", 1), results["jit"])


def test_streamed_batches_train_and_evaluate_as_resident_ones_bit_for_bit(results, encoded):
    """With augmentation and dropout, in calls of several steps and of one."""
    for length in (5, 1):
        jax.tree.map(np.testing.assert_array_equal, train("jit", length, encoded), results["jit"])


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_streamed_batches_are_shared_out_to_devices(results, encoded, mode):
    state, sums, evaluation = train(mode, 5, encoded)
    (one, one_sums, one_evaluation) = results["jit"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), state.params, one.params)
    for some, others in ((sums, one_sums), (evaluation, one_evaluation)):
        assert some["count"] == others["count"] and some["correct"] == others["correct"]
        np.testing.assert_allclose(some["loss"], others["loss"], rtol=1e-5)


def test_the_chunk_lies_where_it_is_used(encoded):
    """Each of eight devices is given two examples of every batch of sixteen, and no copy of the others."""
    for mode, shape in (("mesh", (3, 2, SIDE, SIDE, 3)), ("pmap", (1, 3, 2, SIDE, SIDE, 3)), ("jit", None)):
        way = strategy.choose(mode, BATCH)
        rows = prefetch.Order(sampling.words(jax.random.key(0)), SIZE, BATCH)
        with prefetch.ahead(encoded, rows, 0, 3, partial(strategy.place, way)) as chunks:
            images = next(chunks).images
        shape = shape or images.shape
        assert {shard.data.shape for shard in images.addressable_shards} == {shape}
        assert len(images.addressable_shards) == way.devices


def test_a_streamed_epoch_is_cut_so_that_a_chunk_fits(encoded, monkeypatch):
    graph, params = network()
    one = BATCH * SIDE * SIDE * 3
    for chunk, calls in ((100 * one, 1), (6 * one, 2), (5 * one, 3), (one, 12), (1, 12)):
        monkeypatch.setattr(prefetch, "CHUNK", chunk)
        assert strategy.calls_per_epoch(0, graph, params, encoded, 12, BATCH) == calls
        assert strategy.calls_per_epoch(0, graph, params, data(), 12, BATCH) == 1


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_gradients_are_averaged_once(kind):
    """With plain gradient descent at rate 1 the parameters move by the gradient itself, not by eight times it."""
    graph, params = network(dropout=0.0)
    sgd = optax.sgd(1.0)
    split = data()
    task, state = step.Task(graph, sgd, AugmentConfig()), step.create_state(params, sgd)
    batch = step.Batch(jnp.asarray(split.images[:BATCH]), jnp.asarray(split.labels[:BATCH]), jnp.arange(BATCH))
    arguments = (state, batch, jax.random.key(0), normalize.fit("none", split.images))
    alone = partial(step.train_step, task)
    shared = partial(step.train_step, task, axis="data")
    expected, expected_sums = jax.jit(alone)(*arguments)
    if kind == "pmap":
        spread = jax.tree.map(lambda a: a.reshape(8, -1, *a.shape[1:]), batch)
        program = jax.pmap(shared, axis_name="data", in_axes=(None, 0, None, None), out_axes=None)
        actual, sums = program(state, spread, *arguments[2:])
    else:
        mesh = strategy.choose("mesh", BATCH).mesh
        program = jax.shard_map(shared, mesh=mesh, in_specs=(P(), P("data"), P(), P()), out_specs=P())
        actual, sums = jax.jit(program)(*arguments)
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, expected.params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), jax.device_get(actual.params), expected.params
    )
    assert sums["count"] == BATCH == expected_sums["count"]


def test_the_mesh_moves_nothing_but_sums():
    """Each device gathers and augments its own examples: the program has all-reduces, no other collective."""
    way = strategy.choose("mesh", BATCH)
    graph, params = network()
    task, split = step.Task(graph, ADAM, AUGMENT), data()
    fixed = (jax.random.key(0), normalize.fit("mean", split.images), split)
    rows = (np.zeros((2, BATCH), np.int32),) * 2
    carry = (step.create_state(params, ADAM), metrics.zeros())
    text = strategy._program(way, partial(strategy._train, task), ()).lower(carry, fixed, rows).compile().as_text()
    assert "all-reduce(" in text
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {other}(" not in text and f" {other}-start(" not in text


def test_auto_is_the_mesh_on_several_devices_and_jit_on_one():
    assert strategy.choose("auto", BATCH).mode == "mesh" and strategy.choose("auto", BATCH).devices == 8
    assert strategy.choose("auto", 5, jax.devices()[:1]).mode == "jit"
    assert strategy.choose("jit", 5).devices == 1


@pytest.mark.parametrize(("size", "near"), [(20, "use 16 or 24"), (5, "use 8,")])
def test_a_batch_that_does_not_divide_is_one_sentence(size, near):
    for mode in ("pmap", "mesh", "auto"):
        with pytest.raises(
            UserError, match=f"--train.batch-size {size} cannot be shared out evenly to 8 devices: {near}"
        ):
            strategy.choose(mode, size)


def test_unknown_mode_is_one_sentence():
    with pytest.raises(UserError, match="unknown parallel mode 'pmpa': did you mean pmap"):
        strategy.choose("pmpa", 8)
