"""The steps: loss and metrics against NumPy, randomness that belongs to the example, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import models
from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
from cnnjax.data import normalize
from cnnjax.train import metrics, optimizers, step
from cnnjax.train.step import Batch, Task

SIDE = 16
PLAIN = AugmentConfig()


def pictures(n: int, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Class k is brighter in channel k, by far."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % classes).astype(np.int32)
    images = rng.integers(0, 100, (n, SIDE, SIDE, 3))
    images[np.arange(n), :, :, labels] += 120
    return images.astype(np.uint8), labels


def small(classes: int = 2, dropout: float = 0.5):
    config = ModelConfig(width=0.25, dropout=dropout)
    return models.split(models.create(config, side=SIDE, num_classes=classes, seed=0))


def batch(n: int, **more) -> Batch:
    images, labels = pictures(n, **more)
    return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.arange(n))


@pytest.mark.parametrize("outputs", [1, 3])
def test_losses_and_metrics_agree_with_numpy(outputs):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(9, outputs)) * 8
    labels = rng.integers(0, max(2, outputs), 9)
    mask = np.arange(9) < 7
    if outputs == 1:
        p = 1 / (1 + np.exp(-logits[:, 0]))
        losses, answers = -np.log(np.where(labels == 1, p, 1 - p)), logits[:, 0] > 0
    else:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses, answers = -np.log(p[np.arange(9), labels]), logits.argmax(1)
    ours = step.example_losses(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(ours, losses, rtol=1e-5)
    sums = metrics.measure(ours, jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(mask))
    assert sums["count"] == 7 and sums["correct"] == (answers == labels)[:7].sum()
    np.testing.assert_allclose(sums["loss"], losses[:7].sum(), rtol=1e-5)
    means = metrics.means(metrics.add(metrics.add(metrics.zeros(), sums), sums))
    np.testing.assert_allclose(means["loss"], losses[:7].mean(), rtol=1e-5)
    np.testing.assert_allclose(means["accuracy"], (answers == labels)[:7].mean())


def test_extreme_logits_stay_finite():
    logits = jnp.asarray([[1e4], [-1e4]], jnp.float32)
    np.testing.assert_allclose(step.example_losses(logits, jnp.asarray([0, 0])), [1e4, 0])
    gradient = jax.grad(lambda x: step.example_losses(x, jnp.asarray([0, 0])).sum())(logits)
    np.testing.assert_allclose(gradient, [[1], [0]])


def test_evaluation_ignores_what_the_mask_hides():
    graph, params = small()
    images, labels = pictures(6)
    cleaning = normalize.fit("mean", images)
    evaluate = jax.jit(step.eval_step, static_argnums=0)
    mask = jnp.asarray([True] * 4 + [False] * 2)
    sums = evaluate(graph, params, jnp.asarray(images), jnp.asarray(labels), mask, cleaning)
    other = images.copy()
    other[4:] = 255 - other[4:]
    again = evaluate(graph, params, jnp.asarray(other), jnp.asarray(1 - labels).at[:4].set(labels[:4]), mask, cleaning)
    assert jax.tree.all(jax.tree.map(np.array_equal, sums, again)) and sums["count"] == 4
    logits, _ = models.apply(graph, params, normalize.clean(cleaning, jnp.asarray(images[:4], jnp.float32) / 255.0))
    z = np.asarray(logits, np.float64)[:, 0]
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
    graph, params = small(classes=3)
    task = Task(
        graph, optimizers.create(OptimizerConfig(learning_rate=3e-3), 60), AugmentConfig(enabled=True, shift=0.1)
    )
    cleaning = normalize.fit("mean", pictures(8, classes=3)[0])
    run = jax.jit(lambda state, batch, key: step.train_step(task, state, batch, key, cleaning))
    return run, step.create_state(params, task.optimizer)


def test_loss_falls_on_a_separable_set(learner):
    run, state = learner
    losses = []
    for i in range(60):
        state, sums = run(state, batch(12, seed=i, classes=3), jax.random.key(0))
        losses.append(metrics.means(sums)["loss"])
    assert state.step == 60
    assert losses[0] == pytest.approx(np.log(3), abs=0.2)
    assert np.mean(losses[-5:]) < 0.3 * losses[0]


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
    graph, params = small(dropout=0.0)
    sgd = optax.sgd(1.0)
    one = batch(4)
    cleaning = normalize.fit("none", np.asarray(one.images))
    run = jax.jit(step.train_step, static_argnums=0)
    after, _ = run(Task(graph, sgd, PLAIN), step.create_state(params, sgd), one, jax.random.key(0), cleaning)
    bias = params["output"]["bias"]

    def mean_loss(shift: float) -> float:
        logits, _ = models.apply(graph, params, step.unit(one.images))
        z = np.asarray(logits, np.float64)[:, 0] + shift
        return float(np.mean(np.log1p(np.exp(z)) - np.asarray(one.labels) * z))

    slope = (mean_loss(1e-4) - mean_loss(-1e-4)) / 2e-4
    np.testing.assert_allclose(bias - after.params["output"]["bias"], [slope], rtol=1e-4, atol=1e-7)
