"""Three ways to run training on the devices there are: the only file that knows of jit, pmap, mesh and sharding.

On an accelerator an epoch, or an equal part of one, is one compiled lax.scan over its steps. On a CPU a call is one
step, since XLA's CPU compiler makes slow programs of convolutions' gradients inside a loop. A resident split lies on
every device; each device gathers its own examples by index. Of a streamed split each device is given its part of every
batch.
All three ways compute the same to float32 rounding.

Several runs of one shape can also be trained together, as a stack: their arrays along a new axis, the step vmapped over
it, and the stack divided among the devices, which then have nothing to tell each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, PyTree

from cnnjax import runtime
from cnnjax.data import prefetch, sampling
from cnnjax.data.dataset import ArraySplit, Examples, LazySplit, image_shape
from cnnjax.data.normalize import Normalizer
from cnnjax.errors import UserError, unknown
from cnnjax.models import ModelState, Params
from cnnjax.train import metrics
from cnnjax.train.state import TrainState
from cnnjax.train.step import Batch, StepConfig, eval_step, train_step

AXIS = "data"
MODES = ("auto", "jit", "pmap", "mesh")

Fed: TypeAlias = np.ndarray | Examples
"""Indices (steps, batch) into a resident split, int32; of a streamed one images and labels, placed."""


Hyperparams: TypeAlias = Mapping[str, Any]
"""Numbers of an optimizer, arrays () by the names of its arguments."""

TrainSteps = Callable[[TrainState, metrics.Sums, Fed], tuple[TrainState, metrics.Sums]]
"""Runs some training steps: (state, sums so far, examples) -> (next state, sums). The state's memory is reused."""


@dataclass(frozen=True)
class Strategy:
    """How to run ("jit", "pmap" or "mesh") and on which devices, as a mesh of one axis."""

    mode: str
    mesh: Mesh
    loop: bool
    """Whether a call is a compiled loop over several steps."""

    @property
    def devices(self) -> int:
        return self.mesh.size

    @property
    def addressable_mesh(self) -> Mesh:
        """What this process puts arrays on: all devices or, as pmap needs it on several hosts, its own."""
        return self.mesh.local_mesh if self.mode == "pmap" else self.mesh

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform


def make_strategy(mode: str, batch_size: int, devices: list | None = None, microbatches: int = 1) -> Strategy:
    """The strategy that `mode` names: "auto" is "jit" on one device and "mesh" on several; "jit" uses the first.

    `devices`: those of all hosts by default. Raises UserError when the devices cannot share out a batch evenly, or
    cannot divide their part of it into `microbatches`.
    """
    # A host's devices side by side: what it decodes is a contiguous part of a batch.
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if mode not in MODES:
        raise unknown("strategy", mode, MODES)
    if mode == "auto":
        mode = "jit" if len(devices) == 1 else "mesh"
    processes = [device.process_index for device in devices]
    if mode == "jit":
        if len(set(processes)) > 1:
            raise UserError(f"strategy='jit' uses one device, but there are {len(set(processes))} hosts: use 'mesh'")
        devices = devices[:1]
    elif len({processes.count(process) for process in processes}) > 1:
        raise UserError("the hosts have different numbers of devices: start as many processes, each with as many")
    _check_batch(batch_size, len(devices), microbatches)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    return Strategy(mode, mesh, loop=devices[0].platform != "cpu")


def looped(strategy: Strategy) -> Strategy:
    """The strategy with several steps in a call, also on a CPU."""
    return replace(strategy, loop=True)


def _check_batch(batch_size: int, devices: int, microbatches: int) -> None:
    if batch_size % devices:
        below = batch_size // devices * devices
        near = " or ".join(str(size) for size in (below, below + devices) if size)
        raise UserError(
            f"batch_size={batch_size} cannot be divided evenly among {devices} devices: "
            f"use {near}, or strategy='jit' for one device"
        )
    if (each := batch_size // devices) % microbatches:
        divisors = [m for m in range(1, each + 1) if each % m == 0]
        near = [m for m in divisors if m < microbatches][-1:] + [m for m in divisors if m > microbatches][:1]
        raise UserError(
            f"microbatches={microbatches} does not divide the {each} images of a batch on each device: "
            f"use {' or '.join(map(str, near))}"
        )


def replicate(strategy: Strategy, tree: PyTree) -> PyTree:
    """A copy of every array of `tree`, which is the same on every host, on every device."""
    sharding = NamedSharding(strategy.addressable_mesh, P())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    # device_put would have the hosts compare what they have, byte by byte.
    def put(array: Any) -> Array:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(array)), impl=jax.random.key_impl(array))
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def replicate_split(strategy: Strategy, split: ArraySplit | LazySplit) -> ArraySplit | LazySplit:
    """A copy of a resident split on every device; a streamed one as it is."""
    if isinstance(split, LazySplit):
        return split
    images, labels = replicate(strategy, (split.images, split.labels))
    return replace(split, images=images, labels=labels)


def host_part(strategy: Strategy) -> tuple[int, int]:
    """Which part of a streamed batch this process decodes: (index, count)."""
    return (0, 1) if strategy.mode == "jit" else (jax.process_index(), jax.process_count())


def local_shard(strategy: Strategy, rows: PyTree) -> PyTree:
    """This host's part of arrays (steps, batch, …)."""
    index, count = host_part(strategy)
    return jax.tree.map(lambda a: a[:, index * a.shape[1] // count : (index + 1) * a.shape[1] // count], rows)


def shard_batch(strategy: Strategy, rows: PyTree) -> PyTree:
    """Arrays (steps, this host's part of a batch, …) on the devices, each with its own examples."""
    across = P(None, AXIS)
    if strategy.mode == "pmap":
        across = P(AXIS)
        n = strategy.addressable_mesh.size
        rows = jax.tree.map(lambda a: a.reshape(len(a), n, -1, *a.shape[2:]).swapaxes(0, 1), rows)
    sharding = NamedSharding(strategy.addressable_mesh, across)
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), rows)


def compile_train_steps(
    strategy: Strategy,
    config: StepConfig,
    state: TrainState,
    key: Key[Array, ""],
    normalizer: Normalizer,
    split: ArraySplit | LazySplit,
    steps: int,
    batch_size: int,
    hyperparams: Hyperparams | None = None,
    shared: dict[Any, Any] | None = None,
) -> TrainSteps:
    """Compile a training call of `steps` steps (1 unless `strategy.loop`).

    hyperparams: what `config.optimizer` is given, arrays (). shared: the programs that runs which differ in state, key
    and hyperparams alone have in common; what is compiled here is added to it.

    Everything passed in lies on the devices (`replicate`, `replicate_split`). `examples` are int32 indices
    (steps, batch) in NumPy or, when the split is streamed, the images and labels of as many batches, placed by
    `shard_batch`. At most one call may be in flight besides the one being started: all-reduces of several calls can
    block each other on CPU devices.
    """
    rows = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (steps, batch_size))
    positions = shard_batch(strategy, local_shard(strategy, rows))
    streamed = isinstance(split, LazySplit)
    resident = None if streamed else split
    programs, name = {} if shared is None else shared, (strategy, steps, batch_size)
    begun = name in programs
    program = programs[name] if begun else _program(strategy, _training(strategy, config))

    def arguments(state: TrainState, sums: metrics.Sums, examples: Any) -> tuple:
        examples = examples if streamed else shard_batch(strategy, local_shard(strategy, examples))
        return state, sums, (key, normalizer, resident, hyperparams), (examples, positions)

    # On several hosts pmap compiles with its first call. Profile-guided latency estimation compiles again after it has
    # measured a few calls, which it cannot do with a program that was compiled here.
    if not begun and strategy.addressable_mesh.size == strategy.devices and not _is_profile_guided():
        sums = replicate(strategy, metrics.zeros(("loss", *config.metrics)))
        if streamed:
            shape = (len(local_shard(strategy, rows)), local_shard(strategy, rows).shape[1])
            labels = np.zeros((*shape, *split.labels.shape[1:]), split.labels.dtype)
            images = np.zeros((*shape, *image_shape(split)), split.images.dtype)
            rows = shard_batch(strategy, Examples(images, labels))
        program = program.lower(*arguments(state, sums, rows)).compile()
    programs[name] = program

    def run(state: TrainState, sums: metrics.Sums, examples: Fed) -> tuple[TrainState, metrics.Sums]:
        return program(*arguments(state, sums, examples))

    return run


def _is_profile_guided() -> bool:
    """Whether JAX_ENABLE_PGLE is set. Type checkers do not know the attribute."""
    return bool(getattr(jax.config, "jax_enable_pgle", False))


def make_evaluator(
    strategy: Strategy, config: StepConfig, batch_size: int
) -> Callable[[Params, ModelState, Normalizer, ArraySplit | LazySplit], metrics.Sums]:
    """`evaluate(params, model_state, normalizer, split)` gives the metrics of a whole split as sums; padding is masked.

    A streamed split is decoded by threads, batch after batch.
    """
    program = _program(strategy, _by_device(strategy, partial(_evaluate, config)))
    batch_size = -(-batch_size // strategy.devices) * strategy.devices

    def evaluate(
        params: Params, model_state: ModelState, normalizer: Normalizer, split: ArraySplit | LazySplit
    ) -> metrics.Sums:
        sums = replicate(strategy, metrics.zeros(("loss", *config.metrics)))
        rows = local_shard(strategy, sampling.padded_batches(len(split), batch_size))
        if isinstance(split, LazySplit):
            place = partial(shard_batch, strategy)
            fixed = params, model_state, normalizer, None
            with prefetch.prefetch_batches(split, rows[0], 0, 1, place) as batches:
                for examples, mask in zip(batches, rows[1][:, None], strict=True):
                    sums = program(None, sums, fixed, (examples, place(mask)))[1]
                    jax.block_until_ready(sums)  # two calls must not be in flight
            return sums
        fixed = params, model_state, normalizer, split
        for some in _rows_of_calls(strategy, rows):
            sums = program(None, sums, fixed, shard_batch(strategy, some))[1]
            jax.block_until_ready(sums)
        return sums

    return evaluate


def _rows_of_calls(strategy: Strategy, rows: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
    """Arrays (steps, batch), divided into those of each call: one step, or all of them where a call is a loop."""
    return [rows] if strategy.loop else [[a[i : i + 1] for a in rows] for i in range(len(rows[0]))]


def lower_train_step(
    strategy: Strategy,
    config: StepConfig,
    state: TrainState,
    normalizer: Normalizer,
    image_shape: tuple[int, ...],
    batch_size: int,
) -> jax.stages.Lowered:
    """A call of `compile_train_steps` with one step of streamed images, lowered for devices that need not be present.

    All arrays may be jax.ShapeDtypeStruct. Compile it to see what XLA makes of it.
    """
    batch = (1, batch_size)
    if strategy.mode == "pmap":
        batch = (strategy.devices, 1, batch_size // strategy.devices)
    numbers = jax.ShapeDtypeStruct(batch, jnp.int32)
    rows = Examples(jax.ShapeDtypeStruct((*batch, *image_shape), jnp.uint8), numbers), numbers
    key = jax.eval_shape(lambda: jax.random.key(0))
    sums = jax.eval_shape(lambda: metrics.zeros(("loss", *config.metrics)))
    program = _program(strategy, _training(strategy, config))
    return program.lower(state, sums, (key, normalizer, None, None), rows)


def make_batched_map(
    strategy: Strategy, function: Callable[[PyTree, Array], Array], batch_size: int
) -> Callable[..., Array]:
    """`run(fixed, split, on_batch)` gives function(fixed, images) of a whole split, in order, on the first device.

    One compiled program serves any split; images reach the devices batch after batch, decoded or read ahead by threads.
    `on_batch(n)` is called after every n images.
    """
    strategy = replace(strategy, mode="jit" if strategy.mode == "jit" else "mesh")
    batch_size = -(-batch_size // strategy.devices) * strategy.devices
    whole, spread = NamedSharding(strategy.mesh, P()), NamedSharding(strategy.mesh, P(None, AXIS))
    program = jax.jit(
        lambda fixed, images: function(fixed, images[0]), in_shardings=(whole, spread), out_shardings=whole
    )

    def run(fixed: PyTree, split: ArraySplit | LazySplit, on_batch: Callable[[int], Any] = lambda count: None) -> Array:
        indices, mask = sampling.padded_batches(len(split), batch_size)
        outputs = []
        place = partial(shard_batch, strategy)
        with prefetch.prefetch_batches(split, local_shard(strategy, indices), 0, 1, place) as batches:
            for (images, _labels), real in zip(batches, mask, strict=True):
                outputs.append(jax.block_until_ready(program(fixed, images)))  # two calls must not be in flight
                on_batch(int(real.sum()))
        return jnp.concatenate([output.addressable_data(0) for output in outputs])[: len(split)]

    return run


def rows_strategy(rows: int, devices: list | None = None) -> Strategy:
    """The strategy for work on so many independent rows: this host's devices, or one of them for fewer rows.

    devices: others than this host's, which need not be present.
    """
    devices = devices or jax.local_devices()
    return make_strategy("mesh" if rows >= len(devices) > 1 else "jit", len(devices), devices)


def sum_over_rows(strategy: Strategy, function: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
    """`run(fixed, rows)` is function(fixed, rows), which sums over the rows; each device sums its own part of them.

    For use inside of jit. The number of rows must be a multiple of the devices'; `fixed` lies on all of them.
    """
    if strategy.devices == 1:
        return function

    def part(fixed: Any, rows: Any) -> Array:
        return lax.psum(function(fixed, rows), AXIS)

    return _over_rows(strategy, part, P())


def map_rows(strategy: Strategy, function: Callable[[Any, Any], PyTree]) -> Callable[[Any, Any], PyTree]:
    """`run(fixed, rows)` is function(fixed, rows), which has a row for each row; each device computes its own part.

    For use inside of jit, with rows placed by `place_rows`; `fixed` lies on all devices.
    """
    return function if strategy.devices == 1 else _over_rows(strategy, function, P(AXIS))


def place_rows(strategy: Strategy, rows: PyTree) -> PyTree:
    """Arrays (rows, …) on the devices, each with its own part; their number must be a multiple of the devices'."""
    return rows if strategy.devices == 1 else jax.device_put(rows, NamedSharding(strategy.mesh, P(AXIS)))


def place_fixed(strategy: Strategy, fixed: PyTree) -> PyTree:
    """Arrays that all rows have in common, on all devices."""
    return fixed if strategy.devices == 1 else replicate(strategy, fixed)


def describe_placed(strategy: Strategy, fixed: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """What `place_fixed` and `place_rows` make of arrays, as jax.ShapeDtypeStruct: for devices that are not present."""
    return _describe(strategy, P(), fixed), _describe(strategy, P(AXIS), rows)


def _describe(strategy: Strategy, spec: P, tree: PyTree) -> PyTree:
    sharding = NamedSharding(strategy.mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _over_rows(strategy: Strategy, function: Callable[[Any, Any], Any], out: P) -> Callable[[Any, Any], Any]:
    # Unchecked, as in pmap: a gradient with respect to what a device made itself must not be summed over devices.
    return jax.shard_map(function, mesh=strategy.mesh, in_specs=(P(), P(AXIS)), out_specs=out, check_vma=False)


def dispatches_per_epoch(
    strategy: Strategy, configured: int, split: ArraySplit | LazySplit, steps: int, batch_size: int
) -> int:
    """The number of equal calls that an epoch of `steps` steps is divided into.

    As configured, or (0) one call for each step on a CPU, and one for the epoch on accelerators; with a streamed split
    as many as keep a call's images within a chunk of memory. Raises UserError when the steps cannot be divided so.
    """
    if configured:
        if steps % configured:
            near = min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(n - configured))
            raise UserError(f"dispatches_per_epoch={configured} does not divide the epoch's {steps} steps: use {near}")
        return configured
    if not strategy.loop:
        return steps
    if not isinstance(split, LazySplit):
        return 1
    most = prefetch.max_batches(batch_size, image_shape(split), split.images.dtype.itemsize)
    return next(n for n in range(1, steps + 1) if steps % n == 0 and steps / n <= most)


def _train(config: StepConfig, state: TrainState, sums: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (key, normalizer, resident, hyperparams), (examples, positions) = fixed, row
    config = config.with_hyperparams(hyperparams)
    images, labels = examples if resident is None else sampling.gather(resident, examples)
    state, more = train_step(config, state, Batch(images, labels, positions), key, normalizer, axis)
    return state, metrics.add(sums, more)


def _training(strategy: Strategy, config: StepConfig) -> Callable[..., Any]:
    return _by_device(strategy, partial(_train, config), config.microbatches)


def _by_device(strategy: Strategy, step: Callable[..., Any], microbatches: int = 1) -> Callable[..., Any]:
    """The step, written for one device as pmap's is where jit would not divide a step of the whole batch well.

    In a loop over microbatches jit would sum the gradients over devices in every iteration; and on CPUs the blocks of
    images in which `ops` works would be cut from the whole batch instead of a device's part.
    """
    if strategy.mode != "mesh" or not (microbatches > 1 or strategy.platform == "cpu"):
        return step
    specs = (P(), P(), P(), P(AXIS))
    return jax.shard_map(partial(step, axis=AXIS), mesh=strategy.mesh, in_specs=specs, out_specs=P())


def _evaluate(config: StepConfig, nothing: None, sums: Any, fixed: Any, row: Any, axis: str | None = None) -> Any:
    (params, model_state, normalizer, resident), (examples, mask) = fixed, row
    images, labels = examples if resident is None else sampling.gather(resident, examples)
    return nothing, metrics.add(sums, eval_step(config, params, model_state, images, labels, mask, normalizer, axis))


def _program(strategy: Strategy, step: Callable[..., Any]) -> Any:
    """`step(donated, kept, fixed, row)` over all rows (arrays (steps, batch)) as one program of the same arguments.

    It returns the next (donated, kept); the memory of `donated` is reused.
    """
    call = _over_steps(strategy, step)
    if strategy.mode == "pmap":
        return jax.pmap(
            partial(call, axis=AXIS),
            axis_name=AXIS,
            in_axes=(None, None, None, 0),
            out_axes=None,
            devices=list(strategy.mesh.devices.flat),
            donate_argnums=(0,),
        )
    options = runtime.compiler_options(strategy.platform)
    if strategy.mode == "jit":
        return jax.jit(call, donate_argnums=(0,), compiler_options=options)
    whole, spread = NamedSharding(strategy.mesh, P()), NamedSharding(strategy.mesh, P(None, AXIS))
    shardings = {"in_shardings": (whole, whole, whole, spread), "out_shardings": whole}
    return jax.jit(call, **shardings, donate_argnums=(0,), compiler_options=options)


def _over_steps(strategy: Strategy, step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(donated, kept, fixed, row)` over all rows, in a compiled loop where the strategy has one."""

    def call(donated: Any, kept: Any, fixed: Any, rows: Any, **axis: str) -> Any:
        def advance(carry: Any, row: Any) -> tuple[Any, None]:
            return step(*carry, fixed, row, **axis), None

        first = jax.tree.map(lambda a: a[0], rows)
        if not strategy.loop:
            return step(donated, kept, fixed, first, **axis)
        if len(jax.tree.leaves(rows)[0]) > 1:
            return lax.scan(advance, (donated, kept), rows)[0]
        # XLA inlines a loop that runs once and compiles its step otherwise, with other rounding. So that the division
        # of an epoch into calls cannot matter, the compiler does not know how often this loop runs.
        once = lax.optimization_barrier(jnp.ones((), jnp.int32))
        return lax.fori_loop(0, once, lambda i, carry: advance(carry, first)[0], (donated, kept))

    return call


def stack_strategy(members: int, devices: Sequence[Any] | None = None) -> Strategy:
    """How a stack of so many runs is divided: each of this host's devices has as many, or a device is left out."""
    devices = list(devices or jax.local_devices())
    each = -(-members // len(devices))
    used = devices[: -(-members // each)]
    return make_strategy("mesh", len(used), used)


def stack(strategy: Strategy, trees: Sequence[PyTree]) -> PyTree:
    """The arrays of several runs along a new first axis, divided among the devices.

    Where they cannot be divided evenly, the last run is repeated; what becomes of the repetitions is never read.
    """
    trees = [*trees, *[trees[-1]] * (-len(trees) % strategy.devices)]
    sharding = NamedSharding(strategy.mesh, P(AXIS))

    def put(*leaves: Any) -> Array:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            data = put(*[jax.random.key_data(leaf) for leaf in leaves])
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaves[0]))
        return jax.device_put(np.stack([np.asarray(leaf) for leaf in leaves]), sharding)

    return jax.tree.map(put, *trees)


def stacked_size(strategy: Strategy, members: int) -> int:
    """How many runs `stack` makes of so many."""
    return members + -members % strategy.devices


def compile_stack_steps(
    strategy: Strategy, config: StepConfig, batch_size: int
) -> Callable[..., tuple[PyTree, PyTree]]:
    """`run(states, sums, each, common, active, indices)` makes a training call of a whole stack.

    states, sums, each = (keys, hyperparams): from `stack`. common = (normalizer, resident split): from `replicate`.
    active: bool (stack,); the states and sums of the others stay as they are. indices: int32 (steps, stack, batch), of
    each run its own examples. Returns the next states and sums; the memory of the states is reused.
    """
    program = _stack_program(strategy, _stack_step(config, batch_size), P(None, AXIS))
    across = NamedSharding(strategy.mesh, P(None, AXIS))

    def run(states: Any, sums: Any, each: Any, common: Any, active: np.ndarray, indices: np.ndarray) -> Any:
        rows = jax.device_put((np.broadcast_to(active, indices.shape[:2]), indices), across)
        return program(states, sums, (each, common), rows)

    return run


def _stack_step(config: StepConfig, batch_size: int) -> Callable[..., Any]:
    """The training step of a whole stack; a row is (active, indices)."""

    def one(state: TrainState, sums: Any, fixed: Any, row: Any) -> Any:
        positions = jnp.arange(batch_size, dtype=jnp.int32)
        ((key, hyperparams), (normalizer, resident)), (active, indices) = fixed, row
        new = _train(config, state, sums, (key, normalizer, resident, hyperparams), (indices, positions))
        return jax.tree.map(lambda after, before: jnp.where(active, after, before), new, (state, sums))

    return jax.vmap(one, (0, 0, (0, None), 0))


def make_stack_evaluator(
    strategy: Strategy, config: StepConfig, batch_size: int
) -> Callable[[PyTree, Normalizer, ArraySplit], metrics.Sums]:
    """`evaluate((params, model_state), normalizer, split)` of a stack: the metrics of a resident split as sums.

    The sums are (stack, …), on the host.
    """

    def one(nothing: None, sums: Any, fixed: Any, row: Any) -> Any:
        ((params, model_state), (normalizer, resident)) = fixed
        return _evaluate(config, nothing, sums, (params, model_state, normalizer, resident), row)

    program = _stack_program(strategy, jax.vmap(one, (None, 0, (0, None), None)), P(), donate=False)
    whole = NamedSharding(strategy.mesh, P())

    def evaluate(networks: PyTree, normalizer: Normalizer, split: ArraySplit) -> metrics.Sums:
        count = len(jax.tree.leaves(networks)[0])
        sums = stack(strategy, [metrics.zeros(("loss", *config.metrics))] * count)
        rows = sampling.padded_batches(len(split), batch_size)
        for some in _rows_of_calls(strategy, rows):
            sums = program(None, sums, (networks, (normalizer, split)), jax.device_put(some, whole))[1]
        return jax.device_get(sums)

    return evaluate


def lower_stack_step(
    strategy: Strategy, config: StepConfig, state: TrainState, normalizer: Normalizer, split: ArraySplit, size: int,
    batch_size: int, hyperparams: Hyperparams,
) -> jax.stages.Lowered:  # fmt: skip
    """A call of `compile_stack_steps` with one step of `size` runs, lowered for devices that need not be present.

    All arrays may be jax.ShapeDtypeStruct; those of one run are given, and the split's.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    sums = jax.eval_shape(lambda: metrics.zeros(("loss", *config.metrics)))
    run = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), (state, sums, (key, hyperparams)))
    rows = jax.ShapeDtypeStruct((1, size), bool), jax.ShapeDtypeStruct((1, size, batch_size), jnp.int32)
    common, run = describe_placed(strategy, (normalizer, split), run)
    program = _stack_program(strategy, _stack_step(config, batch_size), P(None, AXIS))
    return program.lower(run[0], run[1], (run[2], common), _describe(strategy, P(None, AXIS), rows))


def _stack_program(strategy: Strategy, step: Callable[..., Any], rows: P, *, donate: bool = True) -> Any:
    """As `_program`, of a step over a stack: every device computes its own part of it."""
    call, mine = _over_steps(strategy, step), P(AXIS)
    if strategy.devices > 1:
        specs = (mine, mine, (mine, P()), rows)
        call = jax.shard_map(call, mesh=strategy.mesh, in_specs=specs, out_specs=mine, check_vma=False)
    options = runtime.compiler_options(strategy.platform)
    return jax.jit(call, donate_argnums=(0,) if donate else (), compiler_options=options)
