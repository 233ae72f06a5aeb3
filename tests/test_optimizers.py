"""Optimizers against PyTorch's, the papers' formulas and the first edition's; what decays, clips and is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import recipe

from cnnjax.errors import UserError
from cnnjax.train import optimizers, schedules

pytestmark = pytest.mark.usefixtures("quickly_compiled")

START = np.array([1.0, -2.0, 0.5], np.float32)
TREE = {
    "conv": {"kernel": np.ones((3, 3, 2, 4), np.float32), "bias": np.ones(4, np.float32)},
    "norm": {"scale": np.ones((2, 2), np.float32), "bias": np.ones((2, 2), np.float32)},
    "dense": {"kernel": np.ones((5, 3), np.float32), "w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)},
}


def gradients(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, 3)).astype(np.float32) * np.float32([1, 1e-3, 1e-7])


def run(optimizer: optax.GradientTransformation, steps: int, given: np.ndarray | None = None) -> np.ndarray:
    transform = optimizers.with_standard_promotion(optimizer)
    params = jnp.asarray(START)
    state = transform.init(params)
    for gradient in gradients(steps) if given is None else given:
        updates, state = transform.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


def update(optimizer: optax.GradientTransformation, gradient: dict, params: dict) -> dict:
    """The first update."""
    transform = optimizers.with_standard_promotion(optimizer)
    gradient, params = jax.tree.map(jnp.asarray, (gradient, params))
    first = jax.jit(lambda gradient, params: transform.update(gradient, transform.init(params), params)[0])
    return jax.tree.map(np.asarray, first(gradient, params))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "nesterov", "sgd with L2"])
def test_agrees_with_pytorch(name):
    """Whose results are stored: see oracles/torch_values.py."""
    optimizer = {
        "adam": lambda: optimizers.create("adam", 1e-2),
        "adamw": lambda: optimizers.create("adamw", 1e-2, weight_decay=0.1, decay_all=True),
        "sgd": lambda: optimizers.create("sgd", 1e-2),
        "nesterov": lambda: optimizers.create("sgd", 1e-2, momentum=0.8, nesterov=True),
        "sgd with L2": lambda: optimizers.create("sgd", 1e-2, weight_decay=0.1, decay_all=True),
    }[name]()
    expected = np.load(Path(__file__).parent / "oracles" / "torch_values.npz")[f"optimizer/{name}"]
    of_recipe = recipe.uniform("gradients", (5, 3)) * np.float32([1, 1e-3, 1e-7])
    np.testing.assert_allclose(run(optimizer, 5, of_recipe), expected, rtol=1e-6)
    assert not np.allclose(expected, START)


def test_nadam_is_the_formula():
    params, mean, square = START.astype(np.float64), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(gradients(5).astype(np.float64), 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        ahead = 0.9 * mean / (1 - 0.9 ** (step + 1)) + 0.1 * gradient / (1 - 0.9**step)
        params -= 1e-2 * ahead / (np.sqrt(square / (1 - 0.999**step)) + 1e-7)
    np.testing.assert_allclose(run(optimizers.create("nadam", 1e-2), 5), params, rtol=1e-5)


def test_rmsprop_is_the_formula():
    params, mean = START.astype(np.float64), np.zeros(3)
    for gradient in gradients(5).astype(np.float64):
        mean = 0.9 * mean + 0.1 * gradient**2
        params -= 1e-2 * gradient / np.sqrt(mean + 1e-7)
    np.testing.assert_allclose(run(optimizers.create("rmsprop", 1e-2), 5), params, rtol=1e-5)


def test_lion_is_the_formula():
    params, mean = START.astype(np.float64), np.zeros(3)
    for gradient in gradients(5).astype(np.float64):
        params -= 1e-2 * (np.sign(0.9 * mean + 0.1 * gradient) + 0.1 * params)
        mean = 0.99 * mean + 0.01 * gradient
    ours = optimizers.create("lion", 1e-2, weight_decay=0.1, decay_all=True)
    np.testing.assert_allclose(run(ours, 5), params, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "warmup-cosine"])
def test_updates_are_the_first_editions_bit_for_bit(name, schedule):
    """optax as `cnnjax.train.optimizers` of the first edition called it; the state has the same structure too."""
    if schedule == "constant":
        rate = optax.constant_schedule(1e-2)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 6)
    first = {
        "adam": optax.adam(rate, eps=1e-7),
        "adamw": optax.adamw(rate, eps=1e-7, weight_decay=1e-4),
        "rmsprop": optax.rmsprop(rate, decay=0.9, eps=1e-7),
        "sgd": optax.sgd(rate, momentum=0.9),
    }[name]
    rate = schedules.create(schedule, 1e-2, 6, warmup_steps=2 if schedule == "warmup-cosine" else 0)
    options = {"weight_decay": 1e-4, "decay_all": True} if name == "adamw" else {}
    ours = optimizers.create(name, rate, **options)
    assert np.array_equal(run(ours, 6), run(first, 6))
    assert jax.tree.structure(ours.init(TREE)) == jax.tree.structure(first.init(TREE))


def test_only_kernels_decay():
    mask = optimizers.decay_mask(TREE)
    assert mask == {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "dense": {"kernel": True, "w": True, "b": False},
    }
    still = jax.tree.map(np.zeros_like, TREE)
    for name in optimizers.WITH_WEIGHT_DECAY:
        found = update(optimizers.create(name, 0.1, weight_decay=0.5), still, TREE)
        expected = jax.tree.map(lambda p, decays: p * (-0.05 if decays else 0.0), TREE, mask)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
        everything = update(optimizers.create(name, 0.1, weight_decay=0.5, decay_all=True), still, TREE)
        jax.tree.map(lambda a: np.testing.assert_allclose(a, -0.05, atol=1e-6), everything)
        chosen = optimizers.create(name, 0.1, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda x: x.ndim < 2, p))
        found = update(chosen, still, TREE)
        np.testing.assert_allclose(found["conv"]["bias"], -0.05, atol=1e-6)
        np.testing.assert_allclose(found["conv"]["kernel"], 0, atol=1e-6)


def test_clipping_by_the_global_norm():
    gradient = {"a": np.float32([3.0]), "b": np.float32([4.0])}
    found = update(optimizers.create("sgd", 1.0, momentum=0, clip_norm=1.0), gradient, gradient)
    np.testing.assert_allclose([found["a"][0], found["b"][0]], [-0.6, -0.8], rtol=1e-6)
    found = update(optimizers.create("sgd", 1.0, momentum=0, clip_norm=10.0), gradient, gradient)
    np.testing.assert_allclose([found["a"][0], found["b"][0]], [-3, -4])


def test_muon_orthogonalizes_convolutions_and_leaves_the_rest_to_adamw():
    generator = np.random.default_rng(0)
    gradient = jax.tree.map(lambda p: generator.normal(size=p.shape).astype(np.float32), TREE)
    rate, decay = 0.1, 0.01
    found = update(optimizers.create("muon", rate, weight_decay=decay), gradient, TREE)
    adamw = update(optimizers.create("adamw", rate, weight_decay=decay), gradient, TREE)
    for layer, name in (("norm", "scale"), ("norm", "bias"), ("dense", "kernel"), ("dense", "w"), ("conv", "bias")):
        np.testing.assert_allclose(found[layer][name], adamw[layer][name], rtol=1e-6)
    # Five iterations of Newton and Schulz leave singular values between about 0.7 and 1.2 (Jordan et al., 2024).
    matrix = -found["conv"]["kernel"].reshape(18, 4) / rate - decay
    left, values, right = np.linalg.svd(matrix / (optimizers.MUON_RMS * np.sqrt(18)), full_matrices=False)
    assert np.all((values > 0.6) & (values < 1.3))
    # The same singular vectors as the gradient's: the nearest orthogonal matrix has the same sign of products.
    u, _, v = np.linalg.svd(gradient["conv"]["kernel"].reshape(18, 4), full_matrices=False)
    np.testing.assert_allclose(left @ right, u @ v, atol=1e-3)
    # Updates are as large as Adam's typical ones, so that one learning rate serves both.
    assert 0.1 < np.sqrt(np.mean(matrix**2)) < 0.3


def test_standard_promotion_is_applied_once_to_any_optimizer():
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 5)))
    wrapped = optimizers.with_standard_promotion(optimizer)
    assert optimizers.with_standard_promotion(wrapped) == wrapped
    assert hash(optimizers.with_standard_promotion(optimizer)) == hash(wrapped)
    with pytest.raises(jax.dtypes.TypePromotionError):
        optimizer.update(jnp.asarray(START), optimizer.init(jnp.asarray(START)), jnp.asarray(START))
    assert np.isfinite(run(wrapped, 2)).all()
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(jnp.asarray(START))
        plain, _ = optimizer.update(jnp.asarray(START), state, jnp.asarray(START))
    ours, _ = wrapped.update(jnp.asarray(START), state, jnp.asarray(START))
    assert np.array_equal(plain, ours)


def test_extra_arguments_reach_the_optimizer():
    def scale(updates, state, params=None, *, value, **extra_args):
        return jax.tree.map(lambda u: u * value, updates), state

    own = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale)
    wrapped = optimizers.with_standard_promotion(optax.chain(optax.identity(), own))
    updates, _ = wrapped.update(jnp.asarray(START), wrapped.init(jnp.asarray(START)), value=2.0)
    np.testing.assert_allclose(updates, 2 * START)


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="unknown optimizer 'adm': did you mean adam"):
        optimizers.create("adm", 1e-3)
    with pytest.raises(
        UserError, match="adam has no weight decay, but weight_decay=0.1: choose adamw, sgd, lion or muon"
    ):
        optimizers.create("adam", 1e-3, weight_decay=0.1)
    with pytest.raises(UserError, match="nesterov=True is an option of adam, adamw, sgd, not of lion"):
        optimizers.create("lion", 1e-3, nesterov=True)
