"""fit: feed, step, evaluate, record, checkpoint, stop, resume."""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from cnnjax import distributed, losses, models
from cnnjax.data import prefetch, sampling
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit, Split, as_dataset, as_split
from cnnjax.data.mixup import Mix
from cnnjax.errors import Preempted, UserError
from cnnjax.network import Network
from cnnjax.train import metrics, optimizers, preemption, run_dir, state, strategy
from cnnjax.train.agreement import check_hosts_agree
from cnnjax.train.checkpoint import Checkpoints, MemoryCheckpoints
from cnnjax.train.metrics import EpochMetrics, Metric
from cnnjax.train.profiling import Profiler
from cnnjax.train.progress import OnProgress, Progress
from cnnjax.train.run_dir import Settings
from cnnjax.train.state import TrainState
from cnnjax.train.step import Augmentation, StepConfig
from cnnjax.train.strategy import Strategy, TrainSteps

EVAL_BATCH = 64
DEFAULT_LOSS = losses.cross_entropy()

if TYPE_CHECKING:

    class DatasetLike(Protocol):
        """Anything with three splits."""

        @property
        def train(self) -> Split: ...

        @property
        def valid(self) -> Split: ...

        @property
        def test(self) -> Split: ...
else:  # a check at run time would load the test split
    DatasetLike = object

Callback = Callable[[EpochMetrics], object]
"""Called with every epoch's metrics, a plain dict of numbers: `print`, `wandb.log`, `mlflow.log_metrics`."""


class Result(NamedTuple):
    """What a run returns: one dict of numbers an epoch, the best epoch's network, its metrics on the test split."""

    history: list[EpochMetrics]
    network: Network
    test: dict[str, float]


# fmt: off
def fit(
    network: Network, dataset: DatasetLike, optimizer: optax.GradientTransformation, *,
    loss: losses.LossFunction = DEFAULT_LOSS, epochs: int = 1, batch_size: int = 32,
    steps_per_epoch: int | None = None, seed: int = 0, augment: Augmentation | None = None, mix: Mix | None = None,
    metrics: Mapping[str, Metric] | None = None, ema: float | None = None, freeze: Sequence[str] = (),
    precision: Literal["float32", "bfloat16"] = "float32", microbatches: int = 1, remat: bool = False,
    strategy: str = "auto", run_dir: str | Path | None = None, resume: bool = False,
    config: Settings | None = None, provenance: Settings | None = None,
    early_stopping_patience: int = 0, checkpoint_every_steps: int = 1000, dispatches_per_epoch: int = 0,
    workers: int = 0, callbacks: Sequence[Callback] = (), on_progress: OnProgress | None = None,
    tensorboard: bool = False, profile_steps: int = 0,
) -> Result:
    """Train a network; the test split is evaluated once, at the end, with the best epoch's parameters.

    dataset: anything with `train`, `valid` and `test`, each with `__len__` and `__getitem__(index)` that returns
        {"image": (h, w, c), "label": ...}. What fits into memory is made resident, the rest is streamed.
    optimizer: any optax optimizer, learning-rate schedule included.
    loss: (logits, labels, activations) -> one loss for each example. Evaluation reports the plain loss.
    steps_per_epoch: None takes the whole batches in one pass over the training images.
    seed: of the order of the images, augmentation, mixing and dropout.
    augment: (keys, images in [0, 1]) -> images, such as `data.Augment()`.
    mix: `data.mixup()` or `data.cutmix()`; labels then become distributions over the classes.
    metrics: functions (logits, labels) -> one value for each example, by name, reported beside loss and accuracy.
    ema: decay of a moving average of parameters and running statistics; it is what is validated, tested and returned.
    freeze: layers, or blocks of them such as block1, that keep their parameters.
    precision: type in which the layers compute; parameters, optimizer state, logits and loss stay float32.
    microbatches: parts of a device's batch whose gradients are added up before the one update.
    remat: recompute activations in the backward pass, for models that offer it.
    strategy: auto, jit, pmap or mesh; the results agree up to rounding.
    run_dir: folder for checkpoints, metrics and weights; None keeps nothing on disk.
    resume: continue the run in `run_dir` from its last checkpoint, bit for bit; start it if there is none.
    config, provenance: JSON-able settings to record in config.json (compared on resume), and notes for the weights.
    early_stopping_patience: stop after so many epochs without a lower validation loss; 0 never does.
    checkpoint_every_steps: steps after which a checkpoint is written within long epochs; 0 writes none there.
    dispatches_per_epoch: equal calls that an epoch is divided into; 0 chooses (on a CPU a call is one step).
    workers: processes that decode streamed images; 0 uses threads.
    callbacks: called with each epoch's metrics, a dict of numbers. on_progress: see `OnProgress`.
    tensorboard, profile_steps: write TensorBoard events, and an XProf trace of so many steps, into `run_dir`.

    Raises UserError for settings, data or devices that do not fit, a folder in use or not writable, other settings than
    the resumed run's, or a loss that is not finite; Preempted after SIGTERM, when the running call has been saved.
    """
    options = {name: value for name, value in locals().items() if name not in ("network", "dataset", "optimizer")}
    return _Run(network, as_dataset(dataset), optimizers.with_standard_promotion(optimizer), _Options(**options)).run()
# fmt: on


@dataclass(frozen=True)
class _Options:
    """The keyword arguments of `fit`."""

    loss: losses.LossFunction
    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    seed: int
    augment: Augmentation | None
    mix: Mix | None
    metrics: Mapping[str, Metric] | None
    ema: float | None
    freeze: Sequence[str]
    precision: Literal["float32", "bfloat16"]
    microbatches: int
    remat: bool
    strategy: str
    run_dir: str | Path | None
    resume: bool
    config: Settings | None
    provenance: Settings | None
    early_stopping_patience: int
    checkpoint_every_steps: int
    dispatches_per_epoch: int
    workers: int
    callbacks: Sequence[Callback]
    on_progress: OnProgress | None
    tensorboard: bool
    profile_steps: int

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "microbatches": 1}
        least |= dict.fromkeys(("early_stopping_patience", "checkpoint_every_steps", "dispatches_per_epoch"), 0)
        least |= dict.fromkeys(("workers", "profile_steps"), 0)
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UserError(f"{name}={getattr(self, name)} must be at least {minimum}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"steps_per_epoch={self.steps_per_epoch} must be at least 1, or None")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision={self.precision!r} must be 'float32' or 'bfloat16'")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema} must be in [0, 1)")
        if (self.tensorboard or self.profile_steps) and self.run_dir is None:
            raise UserError("tensorboard and profile_steps need a run_dir to write to")

    def settings(self) -> Settings:
        """What config.json records: the caller's settings, or these."""
        if self.config is not None:
            return self.config
        names = ("epochs", "batch_size", "steps_per_epoch", "seed", "ema", "precision", "microbatches", "remat")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"freeze": list(self.freeze), "loss": repr(self.loss), "augment": repr(self.augment)}


@dataclass
class _Run:
    """One call of `fit`."""

    network: Network
    dataset: Dataset
    tx: optax.GradientTransformation
    options: _Options
    opened: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def folder(self) -> Path | None:
        return None if self.options.run_dir is None else Path(self.options.run_dir)

    @cached_property
    def train_split(self) -> ArraySplit | LazySplit:
        return as_split(self.dataset.train)

    @cached_property
    def valid_split(self) -> ArraySplit | LazySplit:
        return as_split(self.dataset.valid)

    @cached_property
    def steps(self) -> int:
        """Steps in an epoch."""
        return sampling.steps_per_epoch(self.options.steps_per_epoch, self.options.batch_size, len(self.train_split))

    @cached_property
    def strategy(self) -> Strategy:
        chosen = self.options
        return strategy.make_strategy(chosen.strategy, chosen.batch_size, microbatches=chosen.microbatches)

    @cached_property
    def step_config(self) -> StepConfig:
        options, network = self.options, self.network
        graphdef = network.graphdef
        if options.remat:
            graphdef = models.with_remat(graphdef, network.params, network.model_state, True)
        found = {"accuracy": metrics.accuracy} if _classifies(network, self.train_split) else {}
        return StepConfig(
            graphdef,
            self.tx,
            options.loss,
            found | dict(options.metrics or {}),
            num_classes=max(2, len(network.class_names)),
            augment=options.augment,
            mix=options.mix,
            ema=options.ema,
            precision=options.precision,
            cast_params=options.precision != "float32" and not getattr(network.model(), "casts_parameters", False),
            microbatches=options.microbatches,
            frozen=state.frozen_layers(options.freeze, network.params),
        )

    def is_complete(self, history: list[EpochMetrics]) -> bool:
        return run_dir.is_complete(history, self.options.epochs, self.options.early_stopping_patience)

    def run(self) -> Result:
        """Train, or return what a finished run left."""
        with self.opened:
            _ = self.steps, self.strategy, self.step_config  # refuse what does not fit before anything is written
            check_hosts_agree(self.options.settings(), self.network.class_names, self.train_split, self.valid_split)
            if (done := self._prepare()) is not None:
                return done
            terminated = self.opened.enter_context(preemption.watch_sigterm())
            checkpoints = MemoryCheckpoints() if self.folder is None else Checkpoints(self.folder / "checkpoints")
            self.opened.enter_context(checkpoints)
            return _Training(self, checkpoints, terminated).run()

    def _prepare(self) -> Result | None:
        """Make the folder; the result if the run in it is already finished."""
        folder, options = self.folder, self.options
        if folder is None:
            return None
        distributed.run_on_primary(run_dir.prepare, folder, options.settings(), options.resume)
        distributed.run_all_or_raise(run_dir.check_shared, folder)
        done = partial(run_dir.finished, folder, options.epochs, options.early_stopping_patience)
        history = json.loads(distributed.run_on_primary(lambda: json.dumps(done())))
        if history is None:
            # What a checkpoint lacks to be a network.
            bare = self.network.replace(params={}, model_state={})
            distributed.run_on_primary(save_network, folder / "input.safetensors", bare)
            return None
        from cnnjax import formats  # only a finished run is read

        test = json.loads((folder / "test.json").read_text())
        foreign = None if self.network.config else self.network.model()
        return Result(history, formats.load(folder / "weights.safetensors", model=foreign), test)


def save_network(path: Path, network: Network) -> None:
    """Write a network in this package's format."""
    from cnnjax.formats.native import save

    save(path, network)


class _Training:
    """The epochs of one run."""

    def __init__(self, run: _Run, checkpoints: Checkpoints | MemoryCheckpoints, terminated: Callable[[], bool]) -> None:
        self.run_, self.options, self.folder, self.checkpoints = run, run.options, run.folder, checkpoints
        self.terminated, self.strategy, self.steps = terminated, run.strategy, run.steps
        config, network = run.step_config, run.network
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
        eval_batch = max(run.options.batch_size // config.microbatches, EVAL_BATCH)
        self.evaluate = strategy.make_evaluator(self.strategy, config, eval_batch)

    def run(self) -> Result:
        """Train the epochs that are left, then test the best one's parameters."""
        if self.folder is not None:
            distributed.run_on_primary(_begin, self.folder, self.history)
        self.state, self.sums, self.normalizer = strategy.replicate(
            self.strategy, (self.state, self.sums, self.normalizer)
        )
        options = self.options
        self.progress = Progress(options.epochs, self.steps, options.batch_size, self.step, options.on_progress)
        try:
            with _as_sentences(self.folder, self.checkpoints):
                self._train_epochs()
        except KeyboardInterrupt:
            if self.folder is not None:
                print(
                    f"\n{self.folder} keeps its {len(self.history)} finished epochs: continue with resume=True",
                    file=sys.stderr,
                )
            raise
        finally:
            self.progress.close()
        return self._finish()

    def _train_epochs(self) -> None:
        log = self._logger()
        if self.run_.is_complete(self.history):
            return
        train_epoch = self._compile_epoch()
        valid = strategy.replicate_split(self.strategy, self.run_.valid_split)
        while not self.run_.is_complete(self.history):
            started = time.perf_counter()
            row = train_epoch()
            sums = self.evaluate(*self._evaluated(self.state), self.normalizer, valid)
            row |= self._means("valid", sums)
            self.history = [*self.history, row | {"seconds": time.perf_counter() - started}]
            self.sums = strategy.replicate(self.strategy, metrics.zeros(("loss", *self.config.metrics)))
            self.checkpoints.save(self.state, self.sums, self.history)
            distributed.run_on_primary(log, self.history[-1])
            self.progress.epoch(self.history[-1])
            self._between_calls()

    def _evaluated(self, state: TrainState) -> tuple[models.Params, models.ModelState]:
        return (state.params, state.model_state) if state.ema is None else (state.ema.params, state.ema.model_state)

    def _compile_epoch(self) -> Callable[[], EpochMetrics]:
        """A function that trains to the end of the running epoch and returns the training part of its metrics."""
        self.progress.describe("compiling")
        options, batch = self.options, self.options.batch_size
        order_key, step_key = jax.random.split(jax.random.key(options.seed))
        if options.dispatches_per_epoch:
            self.strategy = strategy.looped(self.strategy)
        split = strategy.replicate_split(self.strategy, self.run_.train_split)
        calls = strategy.dispatches_per_epoch(self.strategy, options.dispatches_per_epoch, split, self.steps, batch)
        # A run that was stopped within an epoch may continue with other calls: theirs must end with the epoch too.
        length = math.gcd(self.steps // calls, self.step)
        key = strategy.replicate(self.strategy, step_key)
        arguments = self.config, self.state, key, self.normalizer, split, length, batch
        compiled = strategy.compile_train_steps(self.strategy, *arguments)
        examples = self._examples(order_key, split, length)
        profiler = self.run_.opened.enter_context(Profiler(self.folder, options.profile_steps))
        return partial(self._train_epoch, compiled, examples, length, profiler)

    def _examples(self, key: jax.Array, split: ArraySplit | LazySplit, length: int) -> Iterator[Any]:
        """What each call from the current step on is given."""
        batch = self.options.batch_size
        if isinstance(split, LazySplit):
            part = strategy.host_part(self.strategy)
            rows = prefetch.Order(sampling.key_data(key), len(split), batch, self.step, part)
            place = partial(strategy.shard_batch, self.strategy)
            stream = prefetch.prefetch_batches(split, rows, self.options.workers, length, place)
            return self.run_.opened.enter_context(stream)
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
            self.state, self.sums = compiled(self.state, self.sums, next(examples))
            self.step += length
            row = self._check(before if ahead else self.sums, epoch)
            rate = (self.step - begin) * batch / (time.perf_counter() - started)
            self.progress.steps(length, row | {"images_per_second": rate})
            profiler.step(length)
            self._between_calls()
        row = self._check(self.sums, epoch)
        rate = (last - begin) * batch / (time.perf_counter() - started) if last > begin else 0.0
        return {"epoch": epoch + 1, "step": last, **row, "images_per_second": rate}

    def _check(self, sums: metrics.Sums, epoch: int) -> dict[str, float]:
        """The running epoch's means; waits for them. Raises FloatingPointError once the loss is not finite."""
        row = self._means("train", sums)
        if not math.isfinite(row["train_loss"]):
            step = epoch * self.steps + int(sums["finite"]) + 1
            raise FloatingPointError(
                f"the training loss is no longer finite in step {step} (epoch {epoch + 1}): lower the learning rate"
            )
        return row

    def _means(self, name: str, sums: metrics.Sums) -> dict[str, float]:
        found = metrics.compute(sums)  # in alphabetical order, as jit returns dicts
        return {f"{name}_{key}": found[key] for key in ("loss", *self.config.metrics)}

    def _between_calls(self) -> None:
        """Save where a checkpoint is due or SIGTERM came to any host; then stop."""
        every, stop = self.options.checkpoint_every_steps, distributed.any_process(self.terminated())
        since = self.step - self.checkpoints.step
        if since > 0 and (stop or (self.step % self.steps and 0 < every <= since)):
            self.checkpoints.save(self.state, self.sums, self.history)
        if stop:
            self.checkpoints.wait()
            kept = f"{self.folder} keeps all {self.step} steps: continue with resume=True"
            raise Preempted(f"stopped by SIGTERM: {kept if self.folder else self.checkpoints.describe()}")

    def _finish(self) -> Result:
        """Test the best epoch's parameters and write what a finished run leaves."""
        network = self.run_.network
        best, row = self.checkpoints.load_best(self.state, self.history)
        params, model_state = jax.tree.map(jnp.asarray, self._evaluated(best))
        split = distributed.run_all_or_raise(lambda: as_split(self.run_.dataset.test))
        params_, state_, normalizer = strategy.replicate(self.strategy, (params, model_state, network.normalizer))
        sums = self.evaluate(params_, state_, normalizer, strategy.replicate_split(self.strategy, split))
        test = metrics.compute(sums) | {"count": len(split), "epoch": row["epoch"]}
        notes = {"config": dict(self.options.settings()), "best": row, "test": test, **(self.options.provenance or {})}
        notes["seconds"] = sum(row["seconds"] for row in self.history)
        notes["data"] = self.run_.dataset.provenance
        trained = network.replace(params=params, model_state=model_state, provenance=dict(network.provenance) | notes)
        if self.folder is not None:
            distributed.run_on_primary(save_network, self.folder / "weights.safetensors", trained)
            distributed.run_on_primary(_draw_curves, self.folder / "curves.png", self.history)
            distributed.run_on_primary(run_dir.write, self.folder / "test.json", test)
        self._between_calls()
        return Result(self.history, trained, test)

    def _logger(self) -> Callable[[EpochMetrics], None]:
        """What records an epoch: metrics.jsonl, the callbacks and, where wanted, TensorBoard's events."""
        folder, first = self.folder, len(self.history) * self.steps
        wanted = folder is not None and self.options.tensorboard and distributed.is_primary()
        write = metrics.tensorboard(folder / "tensorboard", first) if folder is not None and wanted else None

        def log(row: EpochMetrics) -> None:
            if folder is not None:
                metrics.append(folder / "metrics.jsonl", row)
            for function in (*([write] if write else []), *self.options.callbacks):
                function(dict(row))

        return log


@contextmanager
def _as_sentences(folder: Path | None, checkpoints: Checkpoints | MemoryCheckpoints) -> Iterator[None]:
    """What can go wrong while training, as UserErrors that say what is kept."""
    try:
        yield
    except FloatingPointError as error:
        with suppress(UserError):
            checkpoints.wait()
        raise UserError(f"{error}; {checkpoints.describe()}") from None
    except OSError as error:
        if folder is None:
            raise
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free some space and continue with resume=True"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if not distributed.is_multi_process():
            raise
        reason = str(error).strip().splitlines()[0][:150]
        raise UserError(
            f"the hosts lost each other ({reason}): {checkpoints.describe()}; start all again with resume=True"
        ) from error


def _classifies(network: Network, split: ArraySplit | LazySplit) -> bool:
    """Whether accuracy means something: the labels are classes, or distributions over them."""
    return bool(network.class_names) and split.labels.ndim <= 2


def _begin(folder: Path, history: list[EpochMetrics]) -> None:
    (folder / "test.json").unlink(missing_ok=True)  # its presence means that the run is finished
    metrics.rewrite(folder / "metrics.jsonl", history)


def _draw_curves(path: Path, history: list[EpochMetrics]) -> None:
    from cnnjax import figures  # matplotlib takes a second to import

    figures.curves({"": history}, path)
