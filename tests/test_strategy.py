"""jit, pmap and mesh on eight devices compute the same; gradients are averaged once; evaluation is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from PIL import Image

from cnnjax import models
from cnnjax.data import Augment, cutmix, mixup, normalize, prefetch, sampling
from cnnjax.data.dataset import ArraySplit, LazySplit
from cnnjax.data.lazy_images import LazyImages, channel_histogram
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, step, strategy
from cnnjax.train.state import create_state

pytestmark = pytest.mark.usefixtures("quickly_compiled")
SIDE, BATCH, STEPS, SIZE = 16, 16, 10, 60
MODES = ("jit", "pmap", "mesh")
AUGMENT = Augment(exposure=0.2, contrast=0.2)
ADAM = optimizers.with_standard_promotion(optimizers.create("adam", 1e-3))


def data() -> ArraySplit:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SIZE).astype(np.int32)
    images = rng.integers(0, 200, (SIZE, SIDE, SIDE, 3)) + 55 * labels[:, None, None, None]
    return ArraySplit(images.astype(np.uint8), labels)


class Small(nnx.Module):
    """Convolution, dropout and one logit; SmallCNN on several devices is in test_precision.py and test_loop.py."""

    def __init__(self, dropout: float, rngs: nnx.Rngs):
        self.conv, self.dropout = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs), nnx.Dropout(dropout)
        self.dense = nnx.Linear(8 * 64, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(nnx.relu(self.conv(x))).reshape(len(x), -1))


def network(dropout: float = 0.5):
    return models.split(Small(dropout, nnx.Rngs(0)))


class Normed(nnx.Module):
    """A plain Flax model with running statistics."""

    def __init__(self, rngs: nnx.Rngs):
        # No bias: its gradient before BatchNorm is zero but for rounding, which Adam would make steps of.
        self.conv = nnx.Conv(3, 8, (3, 3), 2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.3)
        self.dense = nnx.Linear(8 * 64, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.dense(self.dropout(x).reshape(len(x), -1))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """The images of `data` as files, and the split that streams them."""
    root, split = tmp_path_factory.mktemp("encoded"), data()
    for number, pixels in enumerate(split.images):
        Image.fromarray(pixels).save(root / f"{number}.png")
    names = np.array([f"{number}.png".encode() for number in range(SIZE)])
    return LazySplit(
        LazyImages("encoded", root.__truediv__, names, channel_histogram(split.images), SIDE), split.labels
    )


def start(model=None, **changes):
    graphdef, params, model_state = models.split(model) if model else network()
    config = step.StepConfig(graphdef, ADAM, **{"augment": AUGMENT} | changes)
    return config, create_state(params, model_state, ADAM, ema=config.ema is not None)


def train(mode: str, length: int, streamed: LazySplit | None = None, loop: bool = False, **changes):
    """Ten steps in calls of `length`, then an evaluation; everything fetched."""
    way = strategy.make_strategy(mode, BATCH)
    way = strategy.looped(way) if loop or length > 1 else way
    config, state = start(**changes)
    order_key, step_key = jax.random.split(jax.random.key(0))
    split = data()
    fixed = strategy.replicate(way, (step_key, normalize.fit_normalizer("mean", split)))
    placed = strategy.replicate_split(way, streamed or split)
    state, sums = strategy.replicate(way, (state, metrics.zeros(("loss", *config.metrics))))
    run = strategy.compile_train_steps(way, config, state, *fixed, placed, steps=length, batch_size=BATCH)
    if streamed:
        rows, place = prefetch.Order(sampling.key_data(order_key), SIZE, BATCH), partial(strategy.shard_batch, way)
        with prefetch.prefetch_batches(streamed, rows, 0, length, place) as chunks:
            for _ in range(0, STEPS, length):
                state, sums = jax.block_until_ready(run(state, sums, next(chunks)))
    for first in () if streamed else range(0, STEPS, length):
        indices = sampling.example_indices(order_key, first * BATCH, length * BATCH, SIZE)
        state, sums = jax.block_until_ready(run(state, sums, indices.reshape(length, BATCH)))
    evaluate = strategy.make_evaluator(way, config, 13)
    return jax.device_get((state, sums, evaluate(state.params, state.model_state, fixed[1], placed)))


def assert_near(found, expected) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), found, expected)


def assert_same_sums(found, expected) -> None:
    assert found["count"] == expected["count"]
    assert metrics.compute(found) == pytest.approx(metrics.compute(expected), rel=1e-5)


@pytest.fixture(scope="module")
def results():
    return {mode: train(mode, 1) for mode in MODES}


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_ten_steps_agree_with_one_device(results, mode):
    (state, sums, _), (one, one_sums, _) = results[mode], results["jit"]
    assert state.step == one.step == STEPS
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), network()[1], one.params)
    assert min(jax.tree.leaves(moved)) > 1e-3  # there is something to agree on
    assert_near(state.params, one.params)
    assert sums["count"] == STEPS * BATCH
    assert_same_sums(sums, one_sums)


@pytest.mark.parametrize(("mix", "modes"), [(mixup(0.4), ("pmap", "mesh")), (cutmix(1.0), ("mesh",))])
def test_models_with_state_agree_on_any_devices(mix, modes):
    """Parameters, BatchNorm's statistics, their moving average, mixed with partners from the whole batch."""
    results = {mode: train(mode, 1, model=Normed(nnx.Rngs(0)), mix=mix, ema=0.9) for mode in ("jit", *modes)}
    (one, one_sums, one_evaluation) = results["jit"]
    assert not np.allclose(one.model_state["norm"]["mean"], 0)
    for mode in modes:
        state, sums, evaluation = results[mode]
        for name in ("params", "model_state", "ema"):
            assert_near(getattr(state, name), getattr(one, name))
        assert_same_sums(sums, one_sums)
        assert_same_sums(evaluation, one_evaluation)


def test_a_mesh_that_jit_divides_itself_agrees_as_well(results, monkeypatch):
    """As accelerators run it; on CPUs the program is written for one device."""
    monkeypatch.setattr(strategy, "_by_device", lambda strategy, step, microbatches=1: step)
    (state, sums, evaluation), (one, one_sums, one_evaluation) = train("mesh", STEPS), results["jit"]
    assert_near(state.params, one.params)
    assert_same_sums(sums, one_sums)
    assert_same_sums(evaluation, one_evaluation)
    state = train("mesh", 1, model=Normed(nnx.Rngs(0)), ema=0.9)[0]
    one = train("jit", 1, model=Normed(nnx.Rngs(0)), ema=0.9)[0]
    assert_near((state.params, state.model_state, state.ema), (one.params, one.model_state, one.ema))


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_exact(results, mode):
    state, _, sums = results[mode]
    split, (graphdef, _, model_state) = data(), network()
    normalizer = normalize.fit_normalizer("mean", split)
    images = normalize.normalize(normalizer, jnp.asarray(split.images, jnp.float32) / 255.0)
    logits = models.apply(graphdef, jax.device_put(state.params), model_state, images).logits
    z = np.asarray(logits, np.float64)[:, 0]
    means = metrics.compute(sums)
    assert sums["count"] == SIZE and means["accuracy"] == ((z > 0) == split.labels).mean()
    np.testing.assert_allclose(means["loss"], (np.log1p(np.exp(z)) - split.labels * z).mean(), rtol=1e-5)


def test_loops_agree_with_single_steps(results):
    state, sums, evaluation = train("jit", STEPS)
    assert_near(state.params, results["jit"][0].params)
    assert_same_sums(sums, results["jit"][1])
    assert_same_sums(evaluation, results["jit"][2])


def test_how_an_epoch_is_divided_into_loops_does_not_matter():
    """Ten calls of one step, where XLA would drop the loop, against one call of ten: bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, train("jit", 1, loop=True), train("jit", STEPS))


@pytest.mark.parametrize("length", [1, 5])
def test_streamed_batches_train_and_evaluate_as_resident_ones_bit_for_bit(encoded, length):
    """With augmentation and dropout, in calls of several steps and of one."""
    jax.tree.map(np.testing.assert_array_equal, train("jit", length, encoded), train("jit", length))


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_streamed_batches_are_divided_among_devices(results, encoded, mode):
    state, sums, evaluation = train(mode, 1, encoded)
    (one, one_sums, one_evaluation) = results["jit"]
    assert_near(state.params, one.params)
    assert_same_sums(sums, one_sums)
    assert_same_sums(evaluation, one_evaluation)


def test_the_chunk_lies_where_it_is_used(encoded):
    """Each of eight devices is given two examples of every batch of sixteen, and no copy of the others."""
    for mode, shape in (("mesh", (3, 2, SIDE, SIDE, 3)), ("pmap", (1, 3, 2, SIDE, SIDE, 3)), ("jit", None)):
        way = strategy.make_strategy(mode, BATCH)
        rows = prefetch.Order(sampling.key_data(jax.random.key(0)), SIZE, BATCH)
        with prefetch.prefetch_batches(encoded, rows, 0, 3, partial(strategy.shard_batch, way)) as chunks:
            images = next(chunks).images
        shape = shape or images.shape
        assert {shard.data.shape for shard in images.addressable_shards} == {shape}
        assert len(images.addressable_shards) == way.devices


def test_calls_are_single_steps_on_a_cpu_and_epochs_or_chunks_elsewhere(encoded, monkeypatch):
    way, one = strategy.make_strategy("jit", BATCH), BATCH * SIDE * SIDE * 3
    assert strategy.dispatches_per_epoch(way, 0, data(), 12, BATCH) == 12
    way = strategy.looped(way)
    for chunk, calls in ((100 * one, 1), (6 * one, 2), (5 * one, 3), (one, 12), (1, 12)):
        monkeypatch.setattr(prefetch, "CHUNK", chunk)
        assert strategy.dispatches_per_epoch(way, 0, encoded, 12, BATCH) == calls
        assert strategy.dispatches_per_epoch(way, 0, data(), 12, BATCH) == 1
    monkeypatch.setattr(LazyImages, "dtype", np.dtype(np.float32))
    monkeypatch.setattr(prefetch, "CHUNK", 6 * 4 * one)
    assert strategy.dispatches_per_epoch(way, 0, encoded, 12, BATCH) == 2


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_gradients_are_averaged_once(kind):
    """With plain gradient descent at rate 1 the parameters move by the gradient itself, not by eight times it."""
    graphdef, params, model_state = network(dropout=0.0)
    config, split = step.StepConfig(graphdef, optax.sgd(1.0)), data()
    state = create_state(params, model_state, config.tx)
    batch = step.Batch(jnp.asarray(split.images[:BATCH]), jnp.asarray(split.labels[:BATCH]), jnp.arange(BATCH))
    arguments = (state, batch, jax.random.key(0), normalize.identity())
    alone = partial(step.train_step, config)
    shared = partial(step.train_step, config, axis="data")
    expected, expected_sums = jax.jit(alone)(*arguments)
    if kind == "pmap":
        spread = jax.tree.map(lambda a: a.reshape(8, -1, *a.shape[1:]), batch)
        program = jax.pmap(shared, axis_name="data", in_axes=(None, 0, None, None), out_axes=None)
        actual, sums = program(state, spread, *arguments[2:])
    else:
        mesh = strategy.make_strategy("mesh", BATCH).mesh
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
    way = strategy.make_strategy("mesh", BATCH)
    config, state = start()
    split = data()
    fixed = (jax.random.key(0), normalize.fit_normalizer("mean", split), split, None)
    rows, sums = (np.zeros((2, BATCH), np.int32),) * 2, metrics.zeros(("loss", "accuracy"))
    monolith = strategy._program(way, partial(strategy._train, config))
    for program in (monolith, strategy._program(way, strategy._training(way, config))):
        text = program.lower(state, sums, fixed, rows).compile().as_text()
        assert "all-reduce(" in text
        for other in ("all-gather", "all-to-all", "collective-permute"):
            assert f" {other}(" not in text and f" {other}-start(" not in text


def test_auto_is_the_mesh_on_several_devices_and_jit_on_one():
    assert strategy.make_strategy("auto", BATCH).mode == "mesh" and strategy.make_strategy("auto", BATCH).devices == 8
    assert strategy.make_strategy("auto", 5, jax.devices()[:1]).mode == "jit"
    assert strategy.make_strategy("jit", 5).devices == 1


@pytest.mark.parametrize(("size", "near"), [(20, "use 16 or 24"), (5, "use 8,")])
def test_a_batch_that_does_not_divide_is_one_sentence(size, near):
    for mode in ("pmap", "mesh", "auto"):
        with pytest.raises(UserError, match=f"batch_size={size} cannot be divided evenly among 8 devices: {near}"):
            strategy.make_strategy(mode, size)


def test_unknown_mode_is_one_sentence():
    with pytest.raises(UserError, match="unknown strategy 'pmpa': did you mean pmap"):
        strategy.make_strategy("pmpa", 8)


@pytest.mark.parametrize("enabled", [False, True])
def test_profile_guided_compilation_is_left_to_jit(monkeypatch, enabled):
    """JAX measures calls and then compiles again, which it does not do with a program that was compiled beforehand."""

    class Program:
        lowered = 0

        def lower(self, *arguments):
            self.lowered += 1
            return self

        def compile(self):
            return self

    program = Program()
    monkeypatch.setattr(strategy, "_program", lambda *_: program)
    way, (config, state) = strategy.make_strategy("jit", BATCH), start()
    fixed = jax.random.key(0), normalize.identity(), data()
    jax.config.update("jax_enable_pgle", enabled)
    try:
        strategy.compile_train_steps(way, config, state, *fixed, steps=1, batch_size=BATCH)
    finally:
        jax.config.update("jax_enable_pgle", False)
    assert program.lowered == (not enabled)
