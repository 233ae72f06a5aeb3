"""Optimizers against PyTorch's and the papers' formulas; schedules at their corners."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.cli.config import OptimizerConfig
from cnnjax.errors import UserError
from cnnjax.train import optimizers

START = np.array([1.0, -2.0, 0.5], np.float32)


def gradients(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, 3)).astype(np.float32) * np.float32([1, 1e-3, 1e-7])


def run(config: OptimizerConfig, steps: int) -> np.ndarray:
    transform = optimizers.create(config, steps)
    params = jnp.asarray(START)
    state = transform.init(params)
    for gradient in gradients(steps):
        updates, state = transform.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_agrees_with_pytorch(name):
    import torch

    config = OptimizerConfig(name=name, learning_rate=1e-2, weight_decay=0.1)
    params = torch.tensor(START, requires_grad=True)
    theirs = {
        "adam": lambda: torch.optim.Adam([params], lr=1e-2, eps=1e-7),
        "adamw": lambda: torch.optim.AdamW([params], lr=1e-2, eps=1e-7, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD([params], lr=1e-2, momentum=0.9),
    }[name]()
    for gradient in gradients(5):
        params.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(run(config, 5), params.detach().numpy(), rtol=1e-6)


def test_rmsprop_is_the_formula():
    params, mean = START.astype(np.float64), np.zeros(3)
    for gradient in gradients(5).astype(np.float64):
        mean = 0.9 * mean + 0.1 * gradient**2
        params -= 1e-2 * gradient / np.sqrt(mean + 1e-7)
    np.testing.assert_allclose(run(OptimizerConfig(name="rmsprop", learning_rate=1e-2), 5), params, rtol=1e-5)


def test_schedules():
    def rates(schedule, **more):
        f = optimizers.create_schedule(OptimizerConfig(learning_rate=0.1, schedule=schedule, **more), 100)
        with jax.numpy_dtype_promotion("standard"):
            return np.array([f(jnp.asarray(step)) for step in range(101)])

    np.testing.assert_allclose(rates("constant"), 0.1)
    cosine = rates("cosine")
    np.testing.assert_allclose(cosine[[0, 50, 100]], [0.1, 0.05, 0], atol=1e-8)
    warm = rates("warmup-cosine", warmup=20)
    np.testing.assert_allclose(warm[[0, 10, 20, 60, 100]], [0, 0.05, 0.1, 0.05, 0], atol=1e-8)
    np.testing.assert_allclose(rates("warmup", warmup=20)[[0, 10, 20, 60, 100]], [0, 0.05, 0.1, 0.1, 0.1], atol=1e-8)
    np.testing.assert_allclose(rates("warmup", warmup=0)[1:], 0.1)


def test_warm_up_of_a_run_of_one_step():
    config = OptimizerConfig(schedule="warmup-cosine", warmup=9)
    assert np.isfinite(optimizers.create_schedule(config, 1)(0))


def test_unknown_names_are_one_sentence():
    config = OptimizerConfig()
    object.__setattr__(config, "name", "adm")
    with pytest.raises(UserError, match="unknown optimizer 'adm': did you mean adam"):
        optimizers.create(config, 1)
    object.__setattr__(config, "schedule", "cosin")
    with pytest.raises(UserError, match="unknown schedule 'cosin': did you mean cosine"):
        optimizers.create_schedule(config, 1)
