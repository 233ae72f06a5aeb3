"""Three ways to run an epoch on the devices there are: the only file that knows of jit, pmap, mesh and sharding.

An epoch, or an equal part of one, is one compiled lax.scan over its steps. The split lies on every device as uint8;
each device gathers its own examples by index. All three ways compute the same to float32 rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32, Key

from cnnjax import models
from cnnjax.data import feed
from cnnjax.data.clean import Cleaning
from cnnjax.data.split import Split
from cnnjax.errors import UserError, unknown
from cnnjax.train import metrics
from cnnjax.train.step import Batch, Task, TrainState, eval_step, train_step

AXIS = "data"
CPU_FLOPS = 5e10  # what two or so cores reach on these networks, per second: only for choosing a call's length
CALL_SECONDS = 5.0


@dataclass(frozen=True)
class Parallel:
    """A way to run ("jit", "pmap" or "mesh") and the devices it runs on, as a mesh of one axis."""

    mode: str
    mesh: Mesh

    @property
    def devices(self) -> int:
        return self.mesh.size


def choose(mode: str, batch_size: int, devices: list[jax.Device] | None = None) -> Parallel:
    """The way to run that `mode` names: "auto" is "jit" on one device and "mesh" on several; "jit" uses the first.

    Raises UserError when the devices cannot share out a batch evenly.
    """
    devices = list(devices or jax.devices())
    if mode == "auto":
        mode = "jit" if len(devices) == 1 else "mesh"
    if mode not in ("jit", "pmap", "mesh"):
        raise unknown("parallel mode", mode, ("auto", "jit", "pmap", "mesh"))
    if mode == "jit":
        devices = devices[:1]
    n = len(devices)
    if batch_size % n:
        below = batch_size // n * n
        near = " or ".join(str(size) for size in (below, below + n) if size)
        raise UserError(
            f"--train.batch-size {batch_size} cannot be shared out evenly to {n} devices: "
            f"use {near}, or --train.parallel jit for one device"
        )
    return Parallel(mode, jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices))


def replicate(parallel: Parallel, tree: Any) -> Any:
    """A copy of every array of `tree` on every device."""
    return jax.device_put(tree, NamedSharding(parallel.mesh, P()))


def trainer(
    parallel: Parallel,
    task: Task,
    state: TrainState,
    key: Key[Array, ""],
    cleaning: Cleaning,
    split: Split,
    steps: int,
    batch_size: int,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compile a training run of `steps` steps: `run(state, sums, indices)` gives the next state and the sums so far.

    Everything passed in lies on the devices (`replicate`); `indices` is int32 (steps, batch) in NumPy. `run` takes over
    the memory of the state and the sums that it is given. Wait for a result before the next call: all-reduces of two
    calls in flight can block each other on CPU devices. `run` takes another `split` of the same size as well.
    """
    positions = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (steps, batch_size))
    example = (state, replicate(parallel, metrics.zeros())), (key, cleaning, split)
    program = _program(parallel, partial(_train, task), donate=(0,))
    program = program.lower(*example, _share(parallel, (positions, positions))).compile()

    def run(
        state: TrainState, sums: dict[str, Array], indices: Int32[np.ndarray, "steps batch"], split: Split = split
    ) -> tuple[TrainState, dict[str, Array]]:
        return program((state, sums), (key, cleaning, split), _share(parallel, (indices, positions)))

    return run


def evaluator(parallel: Parallel, graph: Any, batch_size: int) -> Callable[..., dict[str, Array]]:
    """`run(params, cleaning, split)` gives the metrics of a whole split as sums, exactly: padding is masked."""
    program = _program(parallel, partial(_evaluate, graph), donate=())
    batch_size = -(-batch_size // parallel.devices) * parallel.devices

    def run(params: Any, cleaning: Cleaning, split: Split) -> dict[str, Array]:
        rows = feed.padded(len(split.labels), batch_size)
        return program(replicate(parallel, metrics.zeros()), (params, cleaning, split), _share(parallel, rows))

    return run


def calls_per_epoch(
    configured: int, graph: Any, params: Any, image_shape: tuple[int, ...], steps: int, batch_size: int
) -> int:
    """Into how many equal calls to cut an epoch of `steps` steps: as configured, or (0) one on accelerators and, on a
    CPU, as few as keep a call near 5 s, estimated from the network's floating-point operations.

    Raises UserError when the steps cannot be cut so.
    """
    if configured:
        if steps % configured:
            near = min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(n - configured))
            raise UserError(
                f"--train.calls-per-epoch {configured} does not divide the epoch's {steps} steps: use {near}"
            )
        return configured
    if jax.default_backend() != "cpu":
        return 1
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    logits = jax.jit(lambda params, images: models.apply(graph, params, images)[0])
    forward = logits.lower(params, images).cost_analysis() or {}
    seconds = 3 * forward.get("flops", 0.0) / CPU_FLOPS * steps  # the gradient costs about two forward passes more
    return next((n for n in range(1, steps) if steps % n == 0 and seconds / n <= CALL_SECONDS), steps)


def _train(task: Task, carry: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (state, sums), (key, cleaning, split), (indices, positions) = carry, fixed, row
    images, labels = feed.take(split, indices)
    state, more = train_step(task, state, Batch(images, labels, positions), key, cleaning, axis)
    return state, metrics.add(sums, more)


def _evaluate(graph: Any, sums: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (params, cleaning, split), (indices, mask) = fixed, row
    images, labels = feed.take(split, indices)
    return metrics.add(sums, eval_step(graph, params, images, labels, mask, cleaning, axis))


def _program(parallel: Parallel, step: Callable[..., Any], donate: tuple[int, ...]) -> Any:
    """`step(carry, fixed, row)` over all rows (arrays (steps, batch)) as one program of (carry, fixed, rows)."""

    def epoch(carry: Any, fixed: Any, rows: Any, **axis: str) -> Any:
        def advance(carry: Any, row: Any) -> tuple[Any, None]:
            return step(carry, fixed, row, **axis), None

        if len(jax.tree.leaves(rows)[0]) > 1:
            return lax.scan(advance, carry, rows)[0]
        # XLA takes a loop that runs once apart and compiles its step otherwise, with other rounding. So that the cut of
        # an epoch into calls cannot matter, it is not told how often this one runs.
        once = lax.optimization_barrier(jnp.ones((), jnp.int32))
        return lax.fori_loop(0, once, lambda i, carry: advance(carry, jax.tree.map(lambda a: a[i], rows))[0], carry)

    if parallel.mode == "jit":
        return jax.jit(epoch, donate_argnums=donate)
    if parallel.mode == "pmap":
        return jax.pmap(
            partial(epoch, axis=AXIS),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=list(parallel.mesh.devices.flat),
            donate_argnums=donate,
        )
    whole, spread = NamedSharding(parallel.mesh, P()), NamedSharding(parallel.mesh, P(None, AXIS))
    return jax.jit(epoch, in_shardings=(whole, whole, spread), out_shardings=whole, donate_argnums=donate)


def _share(parallel: Parallel, rows: Any) -> Any:
    """Arrays (steps, batch) as the program wants them; for pmap (devices, steps, batch / devices)."""
    if parallel.mode != "pmap":
        return rows
    return jax.tree.map(lambda a: a.reshape(len(a), parallel.devices, -1).swapaxes(0, 1), rows)
