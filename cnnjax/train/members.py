"""Runs that share one compiled program: the same model, data and options; other seeds and optimizer's numbers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from cnnjax import distributed
from cnnjax.data.dataset import ArraySplit, as_dataset
from cnnjax.errors import Diverged, UserError, unknown
from cnnjax.network import Network
from cnnjax.train import loop, optimizers, run_lock
from cnnjax.train.plan import Options, Plan
from cnnjax.train.run_dir import Settings
from cnnjax.train.stack import Outcome, train_together
from cnnjax.train.training import Shared

OWN = ("seed", "run_dir", "config")
"""Options of `fit` that each member has of its own."""


@dataclass(frozen=True)
class Member:
    """One of several runs: what it has of its own. `hyperparams` are arguments of the optimizer's function."""

    network: Network
    hyperparams: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    run_dir: str | Path | None = None
    config: Settings | None = None


def fit_members(
    members: Sequence[Member],
    dataset: loop.DatasetLike,
    optimizer: Callable[..., optax.GradientTransformation],
    *,
    stacked: bool | None = None,
    **options: Any,
) -> list[Outcome]:
    """Train several networks with one compiled program; each is what `train.fit` would make of it, up to rounding.

    optimizer: `optimizer(**member.hyperparams)` is an optax optimizer. The numbers are traced, so that the program
        serves all members; the function must not decide by them.
    stacked: True trains all at once, the step vmapped over them and the stack divided among the devices. False trains
        one after another, with one program for all, each in the way of `strategy`. None trains all at
        once on accelerators, one after another on a CPU, for streamed images, and on several hosts.
    options: those of `train.fit`, without seed, run_dir and config, which are the members'.

    Returns a result for each member; of one whose loss is no longer finite the error, as a value. Raises UserError as
    `train.fit` does, for members of different models, and where `stacked` is not possible.
    """
    for name in options:
        if name in OWN or name not in {part.name for part in fields(Options)}:
            raise unknown("option", name, [part.name for part in fields(Options) if part.name not in OWN])
    if not members:
        return []
    data = as_dataset(dataset)
    plans = [_plan(member, data, optimizer, options, number) for number, member in enumerate(members, 1)]
    _check_alike(plans)
    if len({plan.folder for plan in plans}) < len(plans) and plans[0].folder is not None:
        raise UserError("two runs have the same run_dir: give each its own")
    if _is_stacked(plans[0], stacked):
        # Networks are divided among the devices, and no batch is.
        return _stacked([replace(plan, options=replace(plan.options, strategy="jit")) for plan in plans])
    shared = Shared()
    return [_in_turn(plan, shared) for plan in plans]


def _plan(
    member: Member,
    dataset: Any,
    optimizer: Callable[..., optax.GradientTransformation],
    options: Mapping[str, Any],
    number: int,
) -> Plan:
    own = {"seed": member.seed, "run_dir": member.run_dir, "config": member.config}
    chosen = Options(**{**loop.defaults(), **options, **own})
    tx = optimizers.with_standard_promotion(optimizer(**member.hyperparams))
    name = f"run {number}" if member.run_dir is None else "/".join(Path(member.run_dir).parts[-2:])
    return Plan(member.network, dataset, tx, chosen, optimizer, dict(member.hyperparams), name)


def _in_turn(plan: Plan, shared: Shared) -> Outcome:
    try:
        return loop.run_plan(plan, shared)
    except Diverged as error:
        return error


def _is_stacked(plan: Plan, wanted: bool | None) -> bool:
    reasons = []
    if distributed.is_multi_process():
        reasons.append("there are several hosts")
    if not all(isinstance(split, ArraySplit) for split in (plan.train_split, plan.valid_split)):
        reasons.append("the images are streamed")
    if wanted and reasons:
        raise UserError(f"stacked=True is not possible, because {reasons[0]}: use stacked=False")
    if wanted is None:
        return not reasons and jax.default_backend() != "cpu"
    return wanted


def _stacked(plans: list[Plan]) -> list[Outcome]:
    """Train those that are not finished together."""
    plans[0].check_network()
    _ = plans[0].steps
    outcomes: dict[int, Outcome] = {}
    with ExitStack() as opened:
        for i, plan in enumerate(plans):
            if plan.folder is not None:
                opened.enter_context(run_lock.locked(plan.folder))
                if (done := loop.prepare(plan, plan.folder)) is not None:
                    outcomes[i] = done
        left = [i for i in range(len(plans)) if i not in outcomes]
        if left:
            plans[0].check_memory(-(-len(left) // jax.local_device_count()))
            outcomes |= dict(zip(left, train_together([plans[i] for i in left]), strict=True))
    return [outcomes[i] for i in range(len(plans))]


def _check_alike(plans: Sequence[Plan]) -> None:
    """Raises UserError unless one program serves all: the same layers, shapes, normalizer and optimizer's state."""
    first = plans[0]
    states = [jax.eval_shape(plan.tx.init, plan.network.params) for plan in plans]
    for plan, state in zip(plans[1:], states[1:], strict=True):
        different = ""
        if plan.network.graphdef != first.network.graphdef or _shapes(plan.network) != _shapes(first.network):
            different = "models of other layers or shapes"
        elif _paths(state) != _paths(states[0]) or set(plan.hyperparams or ()) != set(first.hyperparams or ()):
            different = "optimizers of other parts"
        elif not _equal(plan.network.normalizer, first.network.normalizer):
            different = "other normalizers"
        if different:
            raise UserError(f"the runs have {different}, so one program cannot serve them: train them separately")


def _shapes(network: Network) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), (network.params, network.model_state))


def _paths(state: Any) -> list[Any]:
    return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _equal(one: Any, other: Any) -> bool:
    a, b = jax.tree.leaves(one), jax.tree.leaves(other)
    return one.kind == other.kind and len(a) == len(b) and all(map(np.array_equal, a, b))
