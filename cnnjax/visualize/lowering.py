"""The program that draws images, lowered for devices that need not be present."""

from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cnnjax.network import Network
from cnnjax.train import strategy as strategies
from cnnjax.visualize import ascent, objectives
from cnnjax.visualize.ascent import Problem, State
from cnnjax.visualize.before_relu import choose_layers
from cnnjax.visualize.optimizers import Optimizer
from cnnjax.visualize.parameterizations import ImageParams, Parameterization
from cnnjax.visualize.recipes import recipe as recipe_of
from cnnjax.visualize.stages import Plan


def lower(network: Network, layer: str, batch_size: int, devices: list, recipe: str = "filters") -> jax.stages.Lowered:
    """The program that draws `batch_size` of a layer's channels, lowered for devices that need not be present.

    The network's arrays may be jax.ShapeDtypeStruct. `batch_size` is divided among the devices. To compile it, and read
    what XLA makes of it.
    """
    objective = objectives.channel(layer, np.zeros(batch_size, np.int32))
    chosen = recipe_of(recipe, "filters")
    parameterization = cast(Parameterization[ImageParams], chosen.parameterization)
    layers = choose_layers(network, objective.layers(), wanted=chosen.before_relu, demanded=False)
    strategy = strategies.rows_strategy(batch_size, devices)
    plan = Plan(network, chosen, parameterization, Optimizer(chosen.optimizer), None, 0, strategy, layers)
    problem = plan.problem(objective, plan.recipe.stages[0])

    def abstract(problem: Problem, numbers: Array) -> tuple[Problem, Array, State, Array]:
        keys, params, _ = plan.noise(numbers)
        return problem, keys, ascent.init_state(problem, params), jnp.int32(0)

    problem, keys, state, number = jax.eval_shape(abstract, problem, jnp.zeros(batch_size, jnp.int32))
    own = problem.objective, problem.penalty, keys, state
    (problem, number), (objective, penalty, keys, state) = strategies.describe_placed(strategy, (problem, number), own)
    problem = replace(problem, objective=objective, penalty=penalty)
    return ascent.advance.lower(problem, keys, state, number, number, number, strategy)
