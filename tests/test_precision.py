"""bfloat16, microbatches and rematerialization: fifty steps' losses beside float32 in one batch, memory, sums."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_networks
from flax import nnx

from cnnjax import Network, losses, models
from cnnjax.data import Augment, normalize
from cnnjax.data.dataset import ArraySplit, Dataset
from cnnjax.errors import UserError
from cnnjax.models.layers import Conv
from cnnjax.ops import conv, recompute
from cnnjax.train import loop, metrics, optimizers, step, strategy
from cnnjax.train.state import TrainState, create_state
from cnnjax.train.training import EVAL_BATCH

SIDE, BATCH, STEPS, SIZE, CLASSES = 32, 32, 50, 96, 3
SMALL = {"name": "small-cnn", "width_multiplier": 0.25}
VGG = {"name": "vgg13", "width_multiplier": 1 / 8, "dense_units": 64, "dropout": 0.25}
AUGMENT = Augment(rotation=0.0, shear=0.0, zoom=0.0, fill="constant")
RATE = 3e-4
ALL = {"precision": "bfloat16", "microbatches": 4, "remat": True}
# How far from float32's losses in one batch, in the mean over fifty steps and as a share of their mean.
ROUNDING, HALF = 1e-5, 0.04


def data() -> ArraySplit:
    """Class k is brighter in channel k."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SIZE).astype(np.int32)
    images = rng.integers(0, 150, (SIZE, SIDE, SIDE, 3))
    images[np.arange(SIZE), :, :, labels] += 100
    return ArraySplit(images.astype(np.uint8), labels)


def start(model: dict, remat: bool = False, **changes) -> tuple[step.StepConfig, TrainState]:
    made = random_networks.model(**model, image_size=SIDE, num_classes=CLASSES, remat=remat)
    graphdef, params, model_state = models.split(made)
    config = step.StepConfig(graphdef, adam(RATE), losses.cross_entropy(), augment=AUGMENT, num_classes=CLASSES)
    return dataclasses.replace(config, **changes), create_state(params, model_state, config.tx)


def adam(rate: float | jax.Array) -> optax.GradientTransformation:
    """A schedule may be traced: programs of several rates are one."""
    return optimizers.with_standard_promotion(optimizers.create("adam", lambda count: rate))


@dataclasses.dataclass
class Curve:
    """Fifty steps: each one's mean loss, the last state, and the step's temporary memory in bytes."""

    losses: np.ndarray
    state: TrainState
    memory: int
    again: Callable[[float], "Curve"]
    """The same program with another learning rate."""


def curve(model: dict, **changes) -> Curve:
    (config, state), split = start(model, **changes), data()
    fixed = jax.random.key(0), normalize.fit_normalizer("mean", split)
    rows = np.arange(STEPS * BATCH).reshape(STEPS, BATCH) % SIZE
    batches = [step.Batch(split.images[row], split.labels[row], np.arange(BATCH)) for row in rows]

    @jax.jit
    def train(state, batch, rate):
        return step.train_step(dataclasses.replace(config, tx=adam(rate)), state, batch, *fixed)

    program = train.lower(state, batches[0], jnp.float32(RATE)).compile()
    memory = program.memory_analysis().temp_size_in_bytes

    def run(rate: float) -> Curve:
        last, found = state, []
        for batch in batches:
            last, sums = program(last, batch, jnp.float32(rate))
            assert sums["count"] == BATCH and sums["loss"].dtype == jnp.float32
            found.append(sums["loss"])
        return Curve(np.asarray(found) / BATCH, last, memory, run)

    return run(RATE)


def apart(losses: np.ndarray, reference: np.ndarray) -> float:
    return np.abs(losses - reference).mean() / reference.mean()


@pytest.fixture(scope="module")
def small():
    return curve(SMALL)


@pytest.fixture(scope="module")
def vgg():
    return curve(VGG)


@pytest.mark.slow
def test_fifty_steps_in_microbatches_are_those_of_one_batch(small):
    """With dropout and augmentation, which belong to an example's place in the whole batch."""
    found = curve(SMALL, microbatches=4)
    assert apart(found.losses, small.losses) < ROUNDING
    same_parameters(found, small)
    assert found.memory < 0.6 * small.memory


def same_parameters(found: Curve, expected: Curve) -> None:
    arrays = found.state.params, expected.state.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), *arrays)


def test_fifty_steps_in_bfloat16_stay_near_float32(small):
    found = curve(SMALL, precision="bfloat16")
    assert 1e-5 < apart(found.losses, small.losses) < HALF  # not the same program
    assert found.memory < small.memory
    for leaf in jax.tree.leaves((found.state.params, found.state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def test_a_rate_a_fifth_higher_would_not_pass(small):
    """What the tolerance means."""
    assert small.losses[-1] < 0.5 * small.losses[0]
    assert apart(small.again(1.2 * RATE).losses, small.losses) > 1.5 * HALF


@pytest.mark.slow
def test_remat_computes_again_what_it_did_not_keep(vgg):
    found = curve(VGG, remat=True)
    assert vgg.losses[-1] < 0.1 * vgg.losses[0]
    assert apart(found.losses, vgg.losses) < ROUNDING
    same_parameters(found, vgg)
    assert found.memory < 0.8 * vgg.memory


@pytest.mark.slow
def test_all_three_together_stay_near_float32(vgg):
    found = curve(VGG, **ALL)
    assert apart(found.losses, vgg.losses) < HALF
    assert found.memory < 0.6 * vgg.memory


@pytest.fixture(scope="module")
def programs():
    """Mode -> a compiled call of two steps in microbatches, and its results; and the same of one batch by jit."""
    with compiling.quickly():
        return {mode: program_of(mode, count) for mode, count in (("whole", 1), ("jit", 2), ("mesh", 2), ("pmap", 2))}


def program_of(mode: str, count: int):
    split = data()
    way = strategy.make_strategy("jit" if mode == "whole" else mode, BATCH, microbatches=count)
    way = strategy.looped(way)
    config, state = start(SMALL, microbatches=count)
    resident = jax.tree.map(jnp.asarray, split)
    fixed = strategy.replicate(way, (jax.random.key(0), normalize.fit_normalizer("mean", split), resident, None))
    state, sums = strategy.replicate(way, (state, metrics.zeros()))
    rows = (
        np.arange(2 * BATCH, dtype=np.int32).reshape(2, BATCH),
        np.tile(np.arange(BATCH, dtype=np.int32), (2, 1)),
    )
    rows = strategy.shard_batch(way, strategy.local_shard(way, rows))
    arguments = state, sums, fixed, rows
    program = strategy._program(way, strategy._training(way, config)).lower(*arguments).compile()
    return program, jax.device_get(program(*arguments)), state


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "mesh", "pmap"])
def test_microbatches_on_eight_devices_agree_with_one_batch(programs, mode):
    (state, sums), (one, one_sums) = programs[mode][1], programs["whole"][1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), state.params, one.params)
    assert sums["count"] == one_sums["count"] == 2 * BATCH
    means, expected = metrics.compute(sums), metrics.compute(one_sums)
    assert means["accuracy"] == expected["accuracy"]
    np.testing.assert_allclose(means["loss"], expected["loss"], rtol=1e-6)


def reduced_within_microbatches(text: str) -> list[bool]:
    """Of each all-reduce in a program's text whether it is within a loop that is within the loop over steps."""
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    calls = {
        name: re.findall(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)", lines)
        for name, lines in computations.items()
    }
    bodies = {body for lines in computations.values() for body in re.findall(r"body=%?([\w.\-]+)", lines)}

    def depths(name: str, depth: int) -> list[int]:
        here = [depth] * len(re.findall(r" all-reduce(?:-start)?\(", computations[name]))
        return here + [d for called in calls[name] for d in depths(called, depth + (called in bodies))]

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)[1]
    return [depth > 1 for depth in depths(entry, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_gradients_are_summed_over_devices_once_a_step(programs, mode):
    text = programs[mode][0].as_text()
    found = reduced_within_microbatches(text)
    assert found and not any(found)
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {other}(" not in text and f" {other}-start(" not in text


def test_a_loop_over_sharded_parts_would_sum_in_every_iteration():
    """Why a mesh's microbatches are written for one device."""
    way, split = strategy.looped(strategy.make_strategy("mesh", BATCH)), data()
    config, state = start(SMALL, microbatches=2)
    fixed = (jax.random.key(0), normalize.fit_normalizer("mean", split), split, None)
    rows = (np.zeros((2, BATCH), np.int32),) * 2
    program = strategy._program(way, partial(strategy._train, config)).lower(state, metrics.zeros(), fixed, rows)
    with compiling.quickly():
        assert any(reduced_within_microbatches(program.compile().as_text()))


@pytest.mark.parametrize("mode", ["jit", "mesh", "pmap"])
def test_the_state_is_updated_in_place(programs, mode):
    program, _, state = programs[mode]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert program.memory_analysis().alias_size_in_bytes >= size
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("model", [SMALL, VGG])
def test_layers_compute_in_the_type_of_the_images(model):
    config, state = start(model)
    images = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.bfloat16)
    found = jax.eval_shape(
        lambda *inputs: models.apply(config.graphdef, *inputs), state.params, state.model_state, images
    )
    *hidden, _ = found.activations.values()
    assert {a.dtype for a in hidden} == {jnp.dtype(jnp.bfloat16)} and found.logits.dtype == jnp.float32


class Plain(nnx.Module):
    """A plain Flax model, which computes in the type of its parameters."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv, self.dense = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)).mean((1, 2)))


def test_plain_flax_layers_train_in_bfloat16_too():
    """The step casts their parameters; these, their gradients' sums and the optimizer's state stay float32."""
    split = data()
    dataset = Dataset(split, split, lambda: split, ("a", "b", "c"))
    network = Network.create(Plain(nnx.Rngs(0)), dataset)
    found = {}
    for precision in ("float32", "bfloat16"):
        tx = optimizers.create("adam", 1e-3)
        found[precision] = loop.fit(network, dataset, tx, batch_size=32, strategy="jit", precision=precision)
    losses_ = [result.history[0]["train_loss"] for result in found.values()]
    assert losses_[0] != losses_[1] and losses_[0] == pytest.approx(losses_[1], rel=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(found["bfloat16"].network.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(("side", "inputs", "outputs"), [(8, 3, 8), (12, 32, 64)])
def test_convolution_in_bfloat16_against_float64(side, inputs, outputs):
    """Results and gradients to bfloat16's eighth bit, where float32 takes blocks of pixels or Winograd's algorithm."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(20, side, side, inputs)), rng.normal(size=(3, 3, inputs, outputs))
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))

    def all_of(x, kernel):
        out, vjp = jax.vjp(conv, x, kernel)
        return out, *vjp(jnp.ones_like(out))

    found = jax.jit(all_of)(x, kernel)
    wide = [np.asarray(a, np.float64) for a in (x, kernel)]
    padded = np.pad(wide[0], ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # n, h, w, inputs, rows, columns
    out = np.einsum("nhwcij,ijco->nhwo", windows, wide[1], optimize=True)
    taps = np.pad(np.ones((side, side)), 1)
    reach = np.lib.stride_tricks.sliding_window_view(taps, (3, 3))[..., ::-1, ::-1]
    of_x = np.einsum("hwij,ijco->hwc", reach, wide[1])[None].repeat(20, 0)
    of_kernel = np.einsum("nhwcij->ijc", windows)[..., None].repeat(outputs, -1)
    for ours, true in zip(found, (out, of_x, of_kernel), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), true, rtol=0, atol=2**-8 * np.abs(true).max())


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """In bfloat16 a sum of ones ends at 256."""
    layer = Conv(3, 4, init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
    graphdef, params, _ = models.split(layer)
    z = jnp.ones((2, 64, 64, 4), jnp.bfloat16)
    gradient = jax.grad(lambda p: nnx.merge(graphdef, p).relu(z).astype(jnp.float32).sum())(params)["bias"]
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, [2 * 64 * 64] * 4)


def test_recompute_is_the_function_with_all_its_gradients():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 2))
    x = jax.random.normal(jax.random.key(1), (3, 6, 6, 2))

    def plain(kernel, x):
        return jnp.sin(conv(jnp.sin(conv(x, kernel)), kernel))

    def again(kernel, x):
        return recompute(partial(plain, kernel), x)

    def of(f):
        slopes = jax.grad(lambda kernel, x: (f(kernel, x) ** 2).sum(), (0, 1))
        second = jax.grad(lambda kernel, x: (slopes(kernel, x)[1] ** 2).sum(), (0, 1))
        return jax.jit(lambda kernel, x: (f(kernel, x), slopes(kernel, x), second(kernel, x)))(kernel, x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), of(again), of(plain))


def test_a_run_trains_and_evaluates_as_its_arguments_say(tmp_path, monkeypatch):
    split = data()
    dataset = Dataset(split, split, lambda: split, ("a", "b", "c"))
    network = Network.create(random_networks.model(**SMALL, image_size=SIDE, num_classes=CLASSES), dataset)
    options = {"batch_size": 96, "steps_per_epoch": 1, "strategy": "jit", **ALL}
    seen = {}
    monkeypatch.setattr(strategy, "make_evaluator", lambda way, config, batch: seen.update(evaluated=batch))

    def compile_train_steps(way, config, *rest):
        raise KeyboardInterrupt(config)

    monkeypatch.setattr(strategy, "compile_train_steps", compile_train_steps)
    with pytest.raises(KeyboardInterrupt) as stopped:
        loop.fit(network, dataset, optimizers.create("adam", 1e-3), run_dir=tmp_path / "run", **options)
    config = stopped.value.args[0]
    assert (config.precision, config.microbatches, config.cast_params) == ("bfloat16", 4, False)
    assert nnx.merge(config.graphdef, network.params, network.model_state).remat
    # No more images at a time than training takes, if that is enough.
    assert seen["evaluated"] == EVAL_BATCH
    with pytest.raises(UserError, match="microbatches=5 does not divide the 96 images"):
        options["microbatches"] = 5
        loop.fit(network, dataset, optimizers.create("adam", 1e-3), run_dir=tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_microbatches_that_do_not_divide_are_one_sentence():
    for mode, count, words in (("jit", 5, "the 32 images of a batch on each device: use 4 or 8"),
                               ("jit", 64, "the 32 images of a batch on each device: use 32$"),
                               ("mesh", 3, "the 4 images of a batch on each device: use 2 or 4")):  # fmt: skip
        with pytest.raises(UserError, match=f"microbatches={count} does not divide {words}"):
            strategy.make_strategy(mode, BATCH, microbatches=count)
