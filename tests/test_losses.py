"""Losses against optax and float64 NumPy, in value and gradient, and the laws that they obey."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import losses
from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LAWS = settings(max_examples=15, deadline=None)
EXAMPLES = st.builds(lambda seed: draw(seed, 3, 4), st.integers(0, 999))  # one shape: compiled once


def draw(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (n, classes), class indices (n,) and distributions (n, classes)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, classes)).astype(np.float32) * 5
    return logits, generator.integers(0, classes, n), generator.dirichlet(np.ones(classes), n).astype(np.float32)


def softmax_oracle(logits: np.ndarray, distributions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and its gradient by the logits, in float64."""
    logits, distributions = logits.astype(np.float64), distributions.astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    probabilities = np.exp(logits - log_sum[:, None])
    weight = distributions.sum(1, keepdims=True)
    return weight[:, 0] * log_sum - (distributions * logits).sum(1), probabilities * weight - distributions


@partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, logits, labels):
    def total(logits):
        values = loss(logits, labels, {})
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(jnp.asarray(logits))
    return values, gradient


def smoothed(distributions: np.ndarray, smoothing: float) -> np.ndarray:
    return (1 - smoothing) * distributions + smoothing / distributions.shape[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", ["integers", "distributions"])
def test_softmax_is_the_formula(smoothing, kind):
    logits, indices, distributions = draw(0, 6, 5)
    labels = jnp.asarray(indices if kind == "integers" else distributions)
    target = np.eye(5)[indices] if kind == "integers" else distributions
    for loss in (losses.softmax_cross_entropy(smoothing), losses.cross_entropy(smoothing)):
        found = value_and_gradient(loss, logits, labels)
        for ours, theirs in zip(found, softmax_oracle(logits, smoothed(target, smoothing)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        plain = losses.evaluation_of(loss)(jnp.asarray(logits), labels, {})
        np.testing.assert_allclose(plain, softmax_oracle(logits, target)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", ["integers", "distributions"])
def test_sigmoid_is_the_softmax_of_two_classes(smoothing, kind):
    logits, indices, distributions = draw(1, 6, 2)
    labels = jnp.asarray(indices if kind == "integers" else distributions)
    target = smoothed(np.eye(2)[indices] if kind == "integers" else distributions, smoothing)
    two = np.concatenate([np.zeros((6, 1)), logits[:, :1]], axis=1)
    expected, gradient = softmax_oracle(two, target)
    for loss in (losses.sigmoid_cross_entropy(smoothing), losses.cross_entropy(smoothing)):
        found = value_and_gradient(loss, logits[:, :1], labels)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], gradient[:, 1:], rtol=1e-5, atol=1e-6)


def test_without_smoothing_it_is_optax_bit_for_bit():
    logits, indices, _ = draw(2, 6, 4)
    logits, labels = jnp.asarray(logits), jnp.asarray(indices, jnp.int32)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert np.array_equal(losses.cross_entropy()(logits, labels, {}), expected)
    binary = labels % 2
    expected = optax.sigmoid_binary_cross_entropy(logits[:, 0], binary.astype(jnp.float32))
    assert np.array_equal(losses.cross_entropy()(logits[:, :1], binary, {}), expected)


@LAWS
@given(EXAMPLES)
def test_integer_labels_are_one_hot_distributions(example):
    logits, indices, _ = example
    one_hot = jnp.asarray(np.eye(logits.shape[1], dtype=np.float32)[indices])
    for smoothing in (0.0, 0.3):
        loss = losses.cross_entropy(smoothing)
        ours = value_and_gradient(loss, logits, jnp.asarray(indices))
        for a, b in zip(ours, value_and_gradient(loss, logits, one_hot), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@LAWS
@given(EXAMPLES)
def test_smoothing_keeps_the_sum_of_the_labels(example):
    # A constant that is added to all logits changes nothing exactly when the target sums to 1.
    logits, _, distributions = example
    loss, labels = losses.softmax_cross_entropy(0.2), jnp.asarray(distributions)
    values, gradient = value_and_gradient(loss, logits, labels)
    shifted, _ = value_and_gradient(loss, logits + 7, labels)
    np.testing.assert_allclose(shifted, values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)


@LAWS
@given(EXAMPLES)
def test_smoothing_mixes_the_plain_loss_with_that_of_the_uniform_distribution(example):
    logits, indices, _ = example
    uniform = np.full(logits.shape, 1 / logits.shape[1], np.float32)
    plain = losses.softmax_cross_entropy()
    for found, of_labels, of_uniform in zip(
        value_and_gradient(losses.softmax_cross_entropy(0.25), logits, indices),
        value_and_gradient(plain, logits, indices),
        value_and_gradient(plain, logits, uniform),
        strict=True,
    ):
        np.testing.assert_allclose(found, 0.75 * of_labels + 0.25 * of_uniform, rtol=1e-4, atol=1e-5)


def test_bfloat16_logits_are_computed_in_float32():
    logits, indices, _ = draw(3, 4, 3)
    low = jnp.asarray(logits).astype(jnp.bfloat16)
    found = losses.cross_entropy(0.1)(low, jnp.asarray(indices), {})
    assert found.dtype == jnp.float32
    assert np.array_equal(found, losses.cross_entropy(0.1)(low.astype(jnp.float32), jnp.asarray(indices), {}))


def sparsity(logits, labels, activations):
    return jnp.abs(activations["conv"]).mean(axis=(1, 2, 3))


def test_auxiliary_losses_are_for_training_only():
    logits, indices, _ = draw(4, 3, 4)
    logits, labels = jnp.asarray(logits), jnp.asarray(indices)
    activations = {"conv": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 5)), jnp.float32)}
    base, penalty = losses.cross_entropy(0.1), sparsity(logits, labels, activations)
    plain, smooth = losses.cross_entropy()(logits, labels, {}), base(logits, labels, {})
    for loss, expected in (
        (base + sparsity, smooth + penalty),
        (base + 0.5 * losses.Loss(sparsity), smooth + 0.5 * penalty),
        (2 * (base + losses.Loss(sparsity) * 0.5), 2 * smooth + penalty),
        (base + (losses.Loss(sparsity) + sparsity), smooth + 2 * penalty),
    ):
        np.testing.assert_allclose(loss(logits, labels, activations), expected, rtol=1e-6)
        assert np.array_equal(losses.evaluation_of(loss)(logits, labels, {}), plain)
    reverse = sparsity + base
    np.testing.assert_allclose(reverse(logits, labels, activations), penalty + smooth, rtol=1e-6)
    assert np.array_equal(losses.evaluation_of(reverse)(logits, labels, activations), penalty)
    assert losses.evaluation_of(sparsity) is sparsity


def test_losses_are_values():
    loss = losses.cross_entropy(0.1) + 0.5 * losses.Loss(sparsity)
    same = losses.cross_entropy(0.1) + 0.5 * losses.Loss(sparsity)
    assert loss == same
    assert hash(loss) == hash(same)
    assert loss != losses.cross_entropy(0.2) + 0.5 * losses.Loss(sparsity)
    assert losses.cross_entropy(0.1).evaluation == losses.cross_entropy()
    assert repr(loss) == "cross_entropy(label_smoothing=0.1) + 0.5 * sparsity"
    assert repr(losses.softmax_cross_entropy() + losses.sigmoid_cross_entropy()) == (
        "softmax_cross_entropy() + sigmoid_cross_entropy()"
    )


def test_loss_is_a_static_argument():
    traces = []

    @jax.jit(static_argnums=0)
    def mean(loss, logits, labels):
        traces.append(loss)
        return loss(logits, labels, {}).mean()

    for _ in range(2):
        mean(losses.cross_entropy(0.1), jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert len(traces) == 1


def test_class_weights_as_an_array_but_not_by_name():
    given = losses.cross_entropy(class_weights=np.array([1.0, 5.0], np.float32))
    assert given == losses.cross_entropy(class_weights=(1.0, 5.0)) and hash(given)
    assert losses.cross_entropy(class_weights=np.zeros(0)) == losses.cross_entropy()
    with pytest.raises(UserError, match=r"class_weights=.* is a mapping: give a sequence in the order of the classes"):
        inspect.unwrap(losses.cross_entropy)(class_weights={0: 1.0, 1: 5.0})


def test_errors_are_one_sentence():
    for smoothing in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="label_smoothing=.* must be at least 0 and less than 1"):
            losses.cross_entropy(smoothing)
    logits, labels = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
    with pytest.raises(UserError, match="one logit per example, not 3: use cross_entropy"):
        losses.sigmoid_cross_entropy()(logits, labels, {})
    with pytest.raises(
        UserError, match="distributions over 5 classes, and the model has 3 logits: .* the same 3 classes"
    ):
        losses.cross_entropy()(logits, jnp.ones((2, 5)), {})
    with pytest.raises(UserError, match="over 1 classes, and the model has 1 logit: .* the same 2 classes"):
        losses.cross_entropy()(logits[:, :1], jnp.ones((2, 1)), {})

    for outputs, weights in ((logits, (1.0, 5.0)), (logits, (1.0,) * 4), (logits[:, :1], (1.0,) * 3)):
        with pytest.raises(UserError, match=f"there are {len(weights)} class_weights for [23] classes: give one each"):
            losses.cross_entropy(class_weights=weights)(outputs, labels, {})

    def scalar(logits, labels, activations):
        return jnp.mean(logits)

    with pytest.raises(UserError, match=r"the loss scalar returned an array of shape \(\)"):
        (losses.cross_entropy() + scalar)(logits, labels, {})
