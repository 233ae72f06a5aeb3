"""The epochs of a run: feed, step, evaluate, record, checkpoint, stop, resume."""

import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import distributed, models
from cnnjax.data import prefetch, sampling
from cnnjax.data.dataset import ArraySplit, LazySplit, as_split
from cnnjax.errors import Diverged, Preempted, UserError
from cnnjax.train import metrics, preemption, results, state, strategy
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.memory_checkpoints import MemoryCheckpoints
from cnnjax.train.metrics import EpochMetrics
from cnnjax.train.plan import Plan
from cnnjax.train.profiling import Profiler
from cnnjax.train.progress import Progress
from cnnjax.train.results import Result
from cnnjax.train.state import TrainState
from cnnjax.train.strategy import TrainSteps

logger = logging.getLogger(__name__)

EVAL_BATCH = 64


@dataclass(frozen=True)
class Shared:
    """What several runs have in common that differ in their networks' arrays, seeds and hyperparameters alone.

    steps: their compiled training calls. evaluators: that of their networks, once it is made. terminated: whether
    SIGTERM came, where one listens for all; else each run listens.
    """

    steps: dict[Any, Any] = field(default_factory=dict)
    evaluators: dict[int, Callable[..., metrics.Sums]] = field(default_factory=dict)
    terminated: Callable[[], bool] | None = None


class Training:
    """A run from its last checkpoint, or its start, to its end. `opened` closes what it opens."""

    def __init__(
        self,
        plan: Plan,
        checkpoints: Checkpoints | MemoryCheckpoints,
        opened: ExitStack,
        shared: Shared | None = None,
    ) -> None:
        self.shared = Shared() if shared is None else shared
        self.plan, self.options, self.folder, self.checkpoints = plan, plan.options, plan.folder, checkpoints
        self.opened, self.strategy, self.steps = opened, plan.strategy, plan.steps
        self.stepped = False
        self.terminated = self.shared.terminated or opened.enter_context(preemption.watch_sigterm(lambda: self.stepped))
        config, network = plan.step_config, plan.network
        self.config = config
        self.state = state.create_state(
            network.params, network.model_state, config.tx, config.frozen, ema=config.ema is not None
        )
        self.sums = metrics.zeros(("loss", *config.metrics))
        self.history: list[EpochMetrics] = []
        if checkpoints.latest is not None:
            self.state, self.sums, self.history = checkpoints.load(self.state, self.sums)
        self.step = int(self.state.step)
        self.normalizer = network.normalizer
        eval_batch = max(plan.options.batch_size // config.microbatches, EVAL_BATCH)
        make = self.shared.evaluators.setdefault
        self.evaluate = make(eval_batch, strategy.make_evaluator(self.strategy, config, eval_batch))

    def run(self) -> Result:
        """Train the epochs that are left, then test the best one's parameters."""
        self.begin()
        self.state, self.sums, self.normalizer = strategy.replicate(
            self.strategy, (self.state, self.sums, self.normalizer)
        )
        options = self.options
        self.progress = Progress(options.epochs, self.steps, options.batch_size, self.step, options.on_progress)
        try:
            with as_sentences(self.checkpoints):
                self._train_epochs()
        except KeyboardInterrupt:
            if self.folder is not None:
                print(
                    f"\n{self.folder} keeps its {len(self.history)} finished epochs: resume the run to continue",
                    file=sys.stderr,
                )
            raise
        finally:
            self.progress.close()
        return self._finish()

    def begin(self) -> None:
        """Make the files in the folder those of a run that is not finished."""
        if self.folder is not None:
            distributed.run_on_primary(_begin, self.folder, self.history)

    def _train_epochs(self) -> None:
        log = self.logger()
        if self.plan.is_complete(self.history):
            return
        self.keep_first_weights()
        train_epoch = self._compile_epoch()
        valid = strategy.replicate_split(self.strategy, self.plan.valid_split)
        while not self.plan.is_complete(self.history):
            started = time.perf_counter()
            row = train_epoch()
            sums = self.evaluate(*self.evaluated(self.state), self.normalizer, valid)
            row |= self.means("valid", sums)
            zeros = strategy.replicate(self.strategy, metrics.zeros(("loss", *self.config.metrics)))
            self.record(row | {"seconds": time.perf_counter() - started}, zeros, log)
            self.progress.epoch(self.history[-1], self.plan.name)
            self._between_calls()

    def record(self, row: EpochMetrics, zeros: metrics.Sums, log: Callable[[EpochMetrics], None]) -> None:
        """An epoch is over: keep its metrics and the state after it, and set the sums to zero."""
        self.history = [*self.history, row]
        self.sums = zeros
        self.checkpoints.save(self.state, self.sums, self.history)
        self.keep_weights()
        distributed.run_on_primary(log, row)

    def evaluated(self, state: TrainState) -> tuple[models.Params, models.ModelState]:
        """The arrays that are evaluated and kept: a state's own or their moving averages."""
        return (state.params, state.model_state) if state.ema is None else (state.ema.params, state.ema.model_state)

    def _compile_epoch(self) -> Callable[[], EpochMetrics]:
        """A function that trains to the end of the running epoch and returns the training part of its metrics."""
        self.progress.describe("compiling")
        options, batch = self.options, self.options.batch_size
        order_key, step_key = self.keys()
        if options.dispatches_per_epoch:
            self.strategy = strategy.looped(self.strategy)
        split = strategy.replicate_split(self.strategy, self.plan.train_split)
        calls = strategy.dispatches_per_epoch(self.strategy, options.dispatches_per_epoch, split, self.steps, batch)
        # A run that was stopped within an epoch may continue with other calls: theirs must end with the epoch too.
        length = math.gcd(self.steps // calls, self.step)
        key = strategy.replicate(self.strategy, step_key)
        arguments = self.config, self.state, key, self.normalizer, split, length, batch
        numbers = self.hyperparams()
        numbers = None if numbers is None else strategy.replicate(self.strategy, numbers)
        compiled = strategy.compile_train_steps(self.strategy, *arguments, numbers, self.shared.steps)
        examples = self.examples(order_key, split, length)
        profiler = self.opened.enter_context(Profiler(self.folder, options.profile_steps))
        return partial(self._train_epoch, compiled, examples, length, profiler)

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """The keys of the order of the examples, and of the steps."""
        order, step = jax.random.split(jax.random.key(self.options.seed))
        return order, step

    def hyperparams(self) -> dict[str, jax.Array] | None:
        """The numbers of the optimizer that the program is given; None where they are a part of it."""
        if self.plan.hyperparams is None:
            return None
        return {name: jnp.asarray(value, jnp.float32) for name, value in self.plan.hyperparams.items()}

    def examples(self, key: jax.Array, split: ArraySplit | LazySplit, length: int) -> Iterator[Any]:
        """What each call from the current step on is given."""
        batch = self.options.batch_size
        if isinstance(split, LazySplit):
            part = strategy.host_part(self.strategy)
            rows = prefetch.Order(sampling.key_data(key), len(split), batch, self.step, part)
            place = partial(strategy.shard_batch, self.strategy)
            stream = prefetch.prefetch_batches(split, rows, self.options.workers, length, place)
            return self.opened.enter_context(stream)
        return (
            sampling.example_indices(key, first * batch, length * batch, len(split)).reshape(length, batch)
            for first in itertools.count(self.step, length)
        )

    def _train_epoch(
        self, compiled: TrainSteps, examples: Iterator[Any], length: int, profiler: Profiler
    ) -> EpochMetrics:
        started, begin, epoch = time.perf_counter(), self.step, len(self.history)
        batch, last = self.options.batch_size, (epoch + 1) * self.steps
        self.progress.describe(f"epoch {epoch + 1}/{self.options.epochs}")
        # One call may wait behind the running one, so that a device need not wait for Python. On several hosts none
        # does: the hosts talk to each other between the calls.
        ahead = not distributed.is_multi_process()
        while self.step < last:
            before = self.sums
            chosen = next(examples)
            self.stepped = True
            self.state, self.sums = compiled(self.state, self.sums, chosen)
            self.step += length
            row = self.check(before if ahead else self.sums)
            known = self.step - begin - (length if ahead else 0)
            rate = known * batch / (time.perf_counter() - started)
            self.progress.steps(length, row | {"images_per_second": rate} if known else {})
            profiler.step(length)
            self._between_calls()
        row = self.check(self.sums)
        rate = (last - begin) * batch / (time.perf_counter() - started) if last > begin else 0.0
        return {"epoch": epoch + 1, "step": last, **row, "images_per_second": rate}

    def check(self, sums: metrics.Sums) -> dict[str, float]:
        """The running epoch's means; waits for them. Raises FloatingPointError once the loss is not finite."""
        row, epoch = self.means("train", sums), len(self.history)
        if not math.isfinite(row["train_loss"]):
            step = epoch * self.steps + int(sums["finite"]) + 1
            raise FloatingPointError(
                f"the training loss is no longer finite in step {step} (epoch {epoch + 1}): lower the learning rate"
            )
        return row

    def means(self, name: str, sums: metrics.Sums) -> dict[str, float]:
        """The loss and the metrics of a split, from their sums."""
        found = metrics.compute(sums)  # in alphabetical order, as jit returns dicts
        return {f"{name}_{key}": found[key] for key in ("loss", *self.config.metrics)}

    def _between_calls(self) -> None:
        """Save where a checkpoint is due or SIGTERM came to any host; then stop."""
        stop = distributed.any_process(self.terminated())
        if self.is_due(stop):
            self.checkpoints.save(self.state, self.sums, self.history)
        if stop:
            self.checkpoints.wait()
            kept = f"{self.folder} keeps all {self.step} steps: continue with resume=True"
            raise Preempted(f"stopped by SIGTERM: {kept if self.folder else self.checkpoints.describe()}")

    def is_due(self, stop: bool) -> bool:
        """Whether a checkpoint is to be saved now: before the run stops, or after many steps within an epoch."""
        every, since = self.options.checkpoint_every_steps, self.step - self.checkpoints.step
        return since > 0 and (stop or bool(self.step % self.steps and 0 < every <= since))

    def _finish(self) -> Result:
        """Test the best epoch's parameters and write what a finished run leaves."""
        self.stepped = True
        params, model_state, row = self.best()
        split = distributed.run_all_or_raise(lambda: as_split(self.plan.dataset.test))
        params_, state_ = strategy.replicate(self.strategy, (params, model_state))
        sums = self.evaluate(params_, state_, self.normalizer, strategy.replicate_split(self.strategy, split))
        result = self.conclude(params, model_state, row, metrics.compute(sums), split)
        self._between_calls()
        return result

    def best(self) -> tuple[models.Params, models.ModelState, EpochMetrics]:
        """The arrays and the metrics of the best epoch."""
        best, row = self.checkpoints.load_best(self.state, self.history)
        params, model_state = jax.tree.map(jnp.asarray, self.evaluated(best))
        if (wanted := metrics.best(self.history)) is not row and wanted["epoch"] != row["epoch"]:
            params, model_state, row = self._better(wanted, row, params, model_state)
        return params, model_state, row

    def conclude(
        self,
        params: models.Params,
        model_state: models.ModelState,
        row: EpochMetrics,
        tested: dict[str, float],
        split: ArraySplit | LazySplit,
    ) -> Result:
        """`results.conclude` of this run's epochs."""
        return results.conclude(self.plan, self.history, (params, model_state), row, tested, split)

    def _better(
        self, wanted: EpochMetrics, row: EpochMetrics, params: models.Params, model_state: models.ModelState
    ) -> tuple[models.Params, models.ModelState, EpochMetrics]:
        """The arrays of the best epoch, whose checkpoint is damaged, from the weights of an earlier end of this run."""
        kept = results.kept_weights(self.plan, wanted)
        if kept is not None:
            return *jax.tree.map(jnp.asarray, kept), wanted
        if distributed.is_primary():
            text = "epoch %d was better than epoch %d, but its checkpoint is damaged: the weights are those of epoch %d"
            logger.warning(text, wanted["epoch"], row["epoch"], row["epoch"])
        return params, model_state, row

    def keep_first_weights(self) -> None:
        """`keep_weights` of a run that has made no step."""
        if self.step == 0:
            self.keep_weights()

    def keep_weights(self) -> None:
        """The weights of an epoch that are kept, named by the number of epochs that were finished."""
        every, epoch = self.options.weights_every_epochs, len(self.history)
        if self.folder is None or not every or epoch % every:
            return
        params, model_state = jax.device_get(self.evaluated(self.state))
        notes = {"epoch": epoch, **(self.history[-1] if self.history else {})}
        network = self.plan.network
        kept = network.replace(params=params, model_state=model_state, provenance=dict(network.provenance) | notes)
        path = self.folder / "weights" / f"epoch-{epoch:04d}.safetensors"
        distributed.run_on_primary(results.save_network, path, kept)

    def logger(self) -> Callable[[EpochMetrics], None]:
        """What records an epoch: metrics.jsonl, the callbacks and, where wanted, TensorBoard's events."""
        folder, first = self.folder, len(self.history) * self.steps
        wanted = folder is not None and self.options.tensorboard and distributed.is_primary()
        write = None
        if folder is not None and wanted:
            with _writing_to(folder):
                write = self.opened.enter_context(metrics.tensorboard(folder / "tensorboard", first))

        def log(row: EpochMetrics) -> None:
            if folder is not None:
                with _writing_to(folder):
                    metrics.append(folder / "metrics.jsonl", row)
                    if write is not None:
                        write(row)
            for function in self.options.callbacks:
                function(dict(row))

        return log


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """An error of the disk as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free some space and continue with resume=True"
        ) from error


@contextmanager
def as_sentences(checkpoints: Checkpoints | MemoryCheckpoints) -> Iterator[None]:
    """What can go wrong while training, as UserErrors that say what is kept."""
    try:
        yield
    except FloatingPointError as error:
        with suppress(UserError):
            checkpoints.wait()
        raise Diverged(f"{error}; {checkpoints.describe()}") from None
    except jax.errors.JaxRuntimeError as error:
        if not distributed.is_multi_process():
            raise
        reason = str(error).strip().splitlines()[0][:150]
        raise UserError(
            f"the hosts lost each other ({reason}): {checkpoints.describe()}; start all again with resume=True"
        ) from error


def _begin(folder: Path, history: list[EpochMetrics]) -> None:
    try:
        (folder / "test.json").unlink(missing_ok=True)  # its presence means that the run is finished
    except OSError as error:
        raise UserError(f"{folder / 'test.json'} is no file of a run ({error.strerror}): remove it") from error
    metrics.rewrite(folder / "metrics.jsonl", history)
