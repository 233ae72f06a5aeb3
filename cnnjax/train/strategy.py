"""Three ways to run an epoch on the devices there are: the only file that knows of jit, pmap, mesh and sharding.

An epoch, or an equal part of one, is one compiled lax.scan over its steps. A resident split lies on every device as
uint8; each device gathers its own examples by index. Of a streamed one each device is given its part of every batch.
All three ways compute the same to float32 rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from cnnjax.data import prefetch, sampling
from cnnjax.data.dataset import Split
from cnnjax.data.normalize import Cleaning
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

    @property
    def reached(self) -> Mesh:
        """What this process puts arrays on: all devices or, as pmap wants it on several hosts, its own."""
        return self.mesh.local_mesh if self.mode == "pmap" else self.mesh


def choose(mode: str, batch_size: int, devices: list[jax.Device] | None = None, microbatches: int = 1) -> Parallel:
    """The way to run that `mode` names: "auto" is "jit" on one device and "mesh" on several; "jit" uses the first.

    `devices`: those of all hosts by default. Raises UserError when they cannot share out a batch evenly, or cut their
    part of it into `microbatches`.
    """
    # A host's devices side by side: what it decodes is a contiguous part of a batch.
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if mode == "auto":
        mode = "jit" if len(devices) == 1 else "mesh"
    if mode not in ("jit", "pmap", "mesh"):
        raise unknown("parallel mode", mode, ("auto", "jit", "pmap", "mesh"))
    processes = [device.process_index for device in devices]
    if mode == "jit":
        if len(set(processes)) > 1:
            raise UserError(
                f"--train.parallel jit uses one device, and there are {len(set(processes))} hosts: use mesh"
            )
        devices = devices[:1]
    elif len({processes.count(process) for process in processes}) > 1:
        raise UserError("the hosts have different numbers of devices: start as many processes, each with as many")
    n = len(devices)
    if batch_size % n:
        below = batch_size // n * n
        near = " or ".join(str(size) for size in (below, below + n) if size)
        raise UserError(
            f"--train.batch-size {batch_size} cannot be shared out evenly to {n} devices: "
            f"use {near}, or --train.parallel jit for one device"
        )
    if (each := batch_size // n) % microbatches:
        whole = [m for m in range(1, each + 1) if each % m == 0]
        near = [*(m for m in whole[::-1] if m < microbatches)][:1] + [m for m in whole if m > microbatches][:1]
        raise UserError(
            f"--train.microbatches {microbatches} does not divide the {each} pictures of a batch on each device: "
            f"use {' or '.join(map(str, near))}"
        )
    return Parallel(mode, Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)))


def replicate(parallel: Parallel, tree: Any) -> Any:
    """A copy of every array of `tree`, which is the same on every host, on every device."""
    sharding = NamedSharding(parallel.reached, P())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    # device_put would have the hosts compare what they have, byte by byte.
    def put(array: Any) -> Array:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(array)), impl=jax.random.key_impl(array))
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def reside(parallel: Parallel, split: Split) -> Split:
    """A copy of a resident split on every device; a streamed one as it is."""
    return split if prefetch.is_streamed(split) else replicate(parallel, split)


def host(parallel: Parallel) -> tuple[int, int]:
    """Which part of a streamed batch this process decodes: (index, count)."""
    return (0, 1) if parallel.mode == "jit" else (jax.process_index(), jax.process_count())


def own(parallel: Parallel, rows: Any) -> Any:
    """This host's part of arrays (steps, batch, …)."""
    index, count = host(parallel)
    return jax.tree.map(lambda a: a[:, index * a.shape[1] // count : (index + 1) * a.shape[1] // count], rows)


def place(parallel: Parallel, rows: Any) -> Any:
    """Arrays (steps, this host's part of a batch, …) on the devices, each with its own examples."""
    across = P(None, AXIS)
    if parallel.mode == "pmap":
        across = P(AXIS)
        rows = jax.tree.map(lambda a: a.reshape(len(a), parallel.reached.size, -1, *a.shape[2:]).swapaxes(0, 1), rows)
    sharding = NamedSharding(parallel.reached, across)
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), rows)


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
    """Compile a training run of `steps` steps: `run(state, sums, examples)` gives the next state and the sums so far.

    Everything passed in lies on the devices (`replicate`, `reside`). `examples` is int32 indices (steps, batch) in
    NumPy or, when the split is streamed, the pictures and labels of so many batches, placed (`place`). `run` takes over
    the memory of the state and the sums that it is given. Wait for a result before the next call: all-reduces of two
    calls in flight can block each other on CPU devices. `run` takes another `split` of the same size as well.
    """
    rows = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (steps, batch_size))
    positions = place(parallel, own(parallel, rows))
    if streamed := prefetch.is_streamed(split):
        labels = own(parallel, rows)
        rows = place(parallel, Split(np.zeros((*labels.shape, *split.images.shape[1:]), np.uint8), labels))
        split = None
    program = _program(parallel, _training(parallel, task), donate=(0,))

    def arguments(state: TrainState, sums: dict[str, Array], examples: Any, split: Split | None) -> Any:
        examples = examples if streamed else place(parallel, own(parallel, examples))
        return (state, sums), (key, cleaning, split), (examples, positions)

    if parallel.reached.size == parallel.devices:  # on several hosts pmap compiles with its first call
        program = program.lower(*arguments(state, replicate(parallel, metrics.zeros()), rows, split)).compile()

    def run(
        state: TrainState,
        sums: dict[str, Array],
        examples: Int32[np.ndarray, "steps batch"] | Split,
        split: Split | None = split,
    ) -> tuple[TrainState, dict[str, Array]]:
        return program(*arguments(state, sums, examples, split))

    return run


def evaluator(
    parallel: Parallel, graph: Any, batch_size: int, precision: str = "float32"
) -> Callable[..., dict[str, Array]]:
    """`run(params, cleaning, split)` gives the metrics of a whole split as sums, exactly: padding is masked.

    A streamed split is decoded by threads, batch after batch.
    """
    program = _program(parallel, _by_device(parallel, partial(_evaluate, graph, precision)), donate=())
    batch_size = -(-batch_size // parallel.devices) * parallel.devices

    def run(params: Any, cleaning: Cleaning, split: Split) -> dict[str, Array]:
        sums = replicate(parallel, metrics.zeros())
        indices, mask = own(parallel, sampling.padded(len(split.labels), batch_size))
        if not prefetch.is_streamed(split):
            return program(sums, (params, cleaning, split), place(parallel, (indices, mask)))
        with prefetch.ahead(split, indices, 0, 1, partial(place, parallel)) as batches:
            for examples, some in zip(batches, mask[:, None], strict=True):
                sums = program(sums, (params, cleaning, None), (examples, place(parallel, some)))
                jax.block_until_ready(sums)  # as in `trainer`
        return sums

    return run


def lowered(
    parallel: Parallel, task: Task, state: TrainState, cleaning: Cleaning, image_shape: tuple[int, ...], batch_size: int
) -> jax.stages.Lowered:
    """A call of `trainer` with one step of streamed pictures, lowered for devices that need not be there.

    All arrays may be jax.ShapeDtypeStruct. What it is for: to compile, and read what XLA makes of it.
    """
    batch = (1, batch_size)
    if parallel.mode == "pmap":
        batch = (parallel.devices, 1, batch_size // parallel.devices)
    numbers = jax.ShapeDtypeStruct(batch, jnp.int32)
    rows = (jax.ShapeDtypeStruct((*batch, *image_shape), jnp.uint8), numbers), numbers
    carry = (state, jax.eval_shape(metrics.zeros))
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = _program(parallel, _training(parallel, task), donate=(0,))
    return program.lower(carry, (key, cleaning, None), rows)


def mapper(parallel: Parallel, function: Callable[[Any, Array], Array], batch_size: int) -> Callable[..., Array]:
    """`run(fixed, split, on_batch)` gives function(fixed, pictures) of a whole split, in order, on the first device.

    One compiled program for any split; pictures reach the devices batch after batch, decoded or read ahead by threads.
    `on_batch(n)` is told of every n pictures done.
    """
    parallel = replace(parallel, mode="jit" if parallel.mode == "jit" else "mesh")
    batch_size = -(-batch_size // parallel.devices) * parallel.devices
    whole, spread = NamedSharding(parallel.mesh, P()), NamedSharding(parallel.mesh, P(None, AXIS))
    program = jax.jit(
        lambda fixed, images: function(fixed, images[0]), in_shardings=(whole, spread), out_shardings=whole
    )

    def run(fixed: Any, split: Split, on_batch: Callable[[int], Any] = lambda count: None) -> Array:
        indices, mask = sampling.padded(len(split.labels), batch_size)
        outputs = []
        with prefetch.ahead(split, own(parallel, indices), 0, 1, partial(place, parallel)) as batches:
            for examples, real in zip(batches, mask, strict=True):
                outputs.append(jax.block_until_ready(program(fixed, examples.images)))  # as in `trainer`
                on_batch(int(real.sum()))
        return jnp.concatenate([output.addressable_data(0) for output in outputs])[: len(split.labels)]

    return run


def calls_per_epoch(configured: int, graph: Any, params: Any, split: Split, steps: int, batch_size: int) -> int:
    """Into how many equal calls to cut an epoch of `steps` steps: as configured, or (0) one on accelerators and, on a
    CPU, as few as keep a call near 5 s, estimated from the network's floating-point operations; with a streamed split
    as many as keep a call's pictures within a chunk.

    Raises UserError when the steps cannot be cut so.
    """
    if configured:
        if steps % configured:
            near = min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(n - configured))
            raise UserError(
                f"--train.calls-per-epoch {configured} does not divide the epoch's {steps} steps: use {near}"
            )
        return configured
    image_shape = split.images.shape[1:]
    longest = prefetch.longest(batch_size, image_shape) if prefetch.is_streamed(split) else steps
    seconds = 0.0
    if jax.default_backend() == "cpu":
        images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
        logits = jax.jit(lambda params, images: models.apply(graph, params, images)[0])
        forward = logits.lower(params, images).cost_analysis() or {}
        seconds = 3 * forward.get("flops", 0.0) / CPU_FLOPS * steps  # the gradient costs about two forward passes more
    cuts = (n for n in range(1, steps) if steps % n == 0)
    return next((n for n in cuts if seconds / n <= CALL_SECONDS and steps / n <= longest), steps)


def _train(task: Task, carry: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (state, sums), (key, cleaning, split), (examples, positions) = carry, fixed, row
    images, labels = _pictures(split, examples)
    state, more = train_step(task, state, Batch(images, labels, positions), key, cleaning, axis)
    return state, metrics.add(sums, more)


def _training(parallel: Parallel, task: Task) -> Callable[..., Any]:
    return _by_device(parallel, partial(_train, task), task.microbatches)


def _by_device(parallel: Parallel, step: Callable[..., Any], microbatches: int = 1) -> Callable[..., Any]:
    """The step as a mesh had better see it: written for one device, as pmap's is, where jit does not share out one of
    the whole batch well. In a loop over microbatches it would sum the gradients over devices in every turn; and the
    blocks of images in which `ops` works on CPUs would be cut from the whole batch, not from a device's part.
    """
    if parallel.mode != "mesh" or not (microbatches > 1 or parallel.mesh.devices.flat[0].platform == "cpu"):
        return step
    return jax.shard_map(partial(step, axis=AXIS), mesh=parallel.mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P())


def _evaluate(graph: Any, precision: str, sums: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (params, cleaning, split), (examples, mask) = fixed, row
    images, labels = _pictures(split, examples)
    return metrics.add(sums, eval_step(graph, params, images, labels, mask, cleaning, axis, precision))


def _pictures(split: Split | None, examples: Any) -> tuple[Array, Array]:
    """Of a resident split those at the indices `examples`; a streamed one's are given as they are."""
    return tuple(examples) if split is None else sampling.take(split, examples)


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
