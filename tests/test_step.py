"""The steps: masked evaluation, randomness that belongs to the example, gradients, model state, averages, mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import losses, models
from cnnjax.data import Augment, mixup, normalize
from cnnjax.train import metrics, optimizers, step
from cnnjax.train.state import MovingAverage, create_state, update_average
from cnnjax.train.step import Batch, StepConfig

pytestmark = pytest.mark.usefixtures("quickly_compiled")
SIDE = 16


def images_and_labels(n: int, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Class k is brighter in channel k, by far."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % classes).astype(np.int32)
    images = rng.integers(0, 100, (n, SIDE, SIDE, 3))
    images[np.arange(n), :, :, labels] += 120
    return images.astype(np.uint8), labels


def small(classes: int = 2, dropout: float = 0.5):
    sizes = {"num_classes": 1 if classes == 2 else classes, "image_size": SIDE, "width_multiplier": 0.25}
    return models.split(models.create("small-cnn", **sizes, dropout=dropout))


def batch(n: int, **more) -> Batch:
    images, labels = images_and_labels(n, **more)
    return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.arange(n))


def test_evaluation_ignores_what_the_mask_hides():
    graphdef, params, model_state = small()
    images, labels = images_and_labels(6)
    normalizer = normalize.fit_normalizer("mean", images)
    config = StepConfig(graphdef, optax.sgd(1.0))
    evaluate = jax.jit(lambda images, labels, mask: step.eval_step(
        config, params, model_state, images, labels, mask, normalizer))  # fmt: skip
    mask = jnp.asarray([True] * 4 + [False] * 2)
    sums = evaluate(jnp.asarray(images), jnp.asarray(labels), mask)
    other = images.copy()
    other[4:] = 255 - other[4:]
    again = evaluate(jnp.asarray(other), jnp.asarray(1 - labels).at[:4].set(labels[:4]), mask)
    assert jax.tree.all(jax.tree.map(np.array_equal, sums, again)) and sums["count"] == 4
    clean = normalize.normalize(normalizer, jnp.asarray(images[:4], jnp.float32) / 255.0)
    z = np.asarray(models.apply(graphdef, params, model_state, clean).logits, np.float64)[:, 0]
    np.testing.assert_allclose(sums["loss"], (np.log1p(np.exp(z)) - labels[:4] * z).sum(), rtol=1e-5)


def test_randomness_belongs_to_seed_step_and_position():
    keys = step.example_keys(jax.random.key(0), jnp.asarray(5), jnp.arange(8))
    part = step.example_keys(jax.random.key(0), jnp.asarray(5), jnp.arange(8)[4:])
    data = jax.random.key_data(keys)
    assert np.array_equal(data[4:], jax.random.key_data(part))
    assert len(np.unique(data, axis=0)) == 8
    for other in (step.example_keys(jax.random.key(1), jnp.asarray(5), jnp.arange(8)),
                  step.example_keys(jax.random.key(0), jnp.asarray(6), jnp.arange(8))):  # fmt: skip
        assert not (jax.random.key_data(other) == data).all(axis=1).any()


@pytest.fixture(scope="module")
def learner():
    """A compiled step with dropout and augmentation, and its first state."""
    graphdef, params, model_state = small(classes=3)
    tx = optimizers.with_standard_promotion(optimizers.create("adam", 3e-3))
    config = StepConfig(graphdef, tx, augment=Augment(shift=0.1), num_classes=3)
    normalizer = normalize.fit_normalizer("mean", images_and_labels(8, classes=3)[0])
    run = jax.jit(lambda state, batch, key: step.train_step(config, state, batch, key, normalizer))
    return run, create_state(params, model_state, tx)


def test_loss_falls_on_a_separable_set(learner):
    run, state = learner
    found = []
    for i in range(60):
        state, sums = run(state, batch(12, seed=i, classes=3), jax.random.key(0))
        found.append(metrics.compute(sums)["loss"])
    assert state.step == 60
    assert found[0] == pytest.approx(np.log(3), abs=0.2)
    assert np.mean(found[-5:]) < 0.3 * found[0]


def test_a_step_is_a_function_of_state_batch_and_key(learner):
    run, state = learner
    one = batch(12, classes=3)
    first, again = run(state, one, jax.random.key(0)), run(state, one, jax.random.key(0))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    later = run(state._replace(step=jnp.asarray(1, jnp.int32)), one, jax.random.key(0))
    moved = run(state, one._replace(positions=one.positions + 1), jax.random.key(0))
    for other in (later, moved, run(state, one, jax.random.key(1))):
        assert other[1]["loss"] != first[1]["loss"]


def test_gradient_is_that_of_the_mean_loss():
    graphdef, params, model_state = small(dropout=0.0)
    one, none = batch(4), normalize.identity()
    config = StepConfig(graphdef, optax.sgd(1.0))
    state = create_state(params, model_state, config.tx)
    after, _ = jax.jit(lambda state: step.train_step(config, state, one, jax.random.key(0), none))(state)
    bias = params["output"]["bias"]

    def mean_loss(shift: float) -> float:
        logits = models.apply(graphdef, params, model_state, step.to_float01(one.images)).logits
        z = np.asarray(logits, np.float64)[:, 0] + shift
        return float(np.mean(np.log1p(np.exp(z)) - np.asarray(one.labels) * z))

    slope = (mean_loss(1e-4) - mean_loss(-1e-4)) / 2e-4
    np.testing.assert_allclose(bias - after.params["output"]["bias"], [slope], rtol=1e-4, atol=1e-7)


class Normed(nnx.Module):
    """A plain Flax model: convolution, BatchNorm, dropout, dense; logits alone."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def normed(**changes):
    graphdef, params, model_state = models.split(Normed(nnx.Rngs(0)))
    config = StepConfig(graphdef, optax.sgd(0.1), num_classes=3, **changes)
    state = create_state(params, model_state, config.tx, ema=config.ema is not None)
    none = normalize.identity()
    return state, jax.jit(lambda state, one: step.train_step(config, state, one, jax.random.key(0), none))


def test_running_statistics_follow_the_microbatches_in_order():
    state, run = normed(microbatches=2)
    one = batch(8, classes=3)
    after = run(state, one)[0]
    kernel, bias = (np.asarray(state.params["conv"][name], np.float64) for name in ("kernel", "bias"))
    images = np.asarray(one.images, np.float64) / 255
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    maps = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias
    mean, var = np.zeros(4), np.ones(4)
    for part in (maps[0::2], maps[1::2]):
        mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
        var = 0.9 * var + 0.1 * part.var((0, 1, 2))
    found = after.model_state["norm"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], var, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(after.model_state) == jax.tree.structure(state.model_state)


def test_the_moving_average_follows_parameters_and_statistics():
    state, run = normed(ema=0.5)
    states = [state]
    for i in range(4):
        states.append(run(states[-1], batch(8, seed=i, classes=3))[0])
    expected = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves((state.params, state.model_state["norm"]))]
    for number, one in enumerate(states[1:]):
        rate = min(0.5, (1 + number) / (10 + number))
        new = jax.tree.leaves((one.params, one.model_state["norm"]))
        expected = [
            rate * old + (1 - rate) * np.asarray(leaf, np.float64) for old, leaf in zip(expected, new, strict=True)
        ]
    average = states[-1].ema
    for found, leaf in zip(jax.tree.leaves((average.params, average.model_state["norm"])), expected, strict=True):
        np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6)


def test_the_average_of_what_does_not_change_is_that():
    average = MovingAverage({"a": jnp.ones(3)}, {"n": jnp.asarray(3, jnp.int32)})
    found = update_average(average, *average, jnp.asarray(7, jnp.int32), 0.999)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, average))


def test_mixing_gives_soft_labels_and_changes_the_step():
    state, plain = normed()
    one = batch(8, classes=3)
    _, mixed = normed(mix=mixup(0.4))
    after, sums = mixed(state, one)
    assert np.isfinite(sums["loss"]) and sums["count"] == 8
    assert not np.allclose(after.params["dense"]["kernel"], plain(state, one)[0].params["dense"]["kernel"])


def test_an_auxiliary_loss_on_activations_adds_to_the_gradient():
    """No file of the package is edited for it; evaluation reports the plain loss."""

    def sparsity(logits, labels, activations):
        return 0.1 * jnp.abs(activations["conv"]).mean((1, 2, 3))

    one, none = batch(8, classes=3), normalize.identity()
    graphdef, params, model_state = models.split(Normed(nnx.Rngs(0)))
    found = {}
    for name, loss in {"plain": losses.cross_entropy(), "auxiliary": losses.cross_entropy() + sparsity}.items():
        config = StepConfig(graphdef, optax.sgd(0.1), loss, num_classes=3)
        state = create_state(params, model_state, config.tx)
        after, sums = step.train_step(config, state, one, jax.random.key(0), none)
        mask = jnp.ones(8, bool)
        evaluated = step.eval_step(config, params, model_state, one.images, one.labels, mask, none)
        found[name] = after.params["conv"]["kernel"], sums["loss"], evaluated["loss"]
    assert not np.allclose(found["plain"][0], found["auxiliary"][0])
    assert found["auxiliary"][1] > found["plain"][1] and found["auxiliary"][2] == found["plain"][2]
