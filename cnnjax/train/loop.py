"""fit: feed, step, evaluate, log, checkpoint, stop, resume."""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import distributed, formats
from cnnjax.cli.config import Config, as_dict
from cnnjax.data import prefetch, sampling
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.normalize import Cleaning
from cnnjax.errors import Preempted, UserError
from cnnjax.train import init, metrics, optimizers, preemption, run_dir, strategy
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.progress import Display, Progress
from cnnjax.train.step import Task, TrainState, create_state

EVAL_BATCH = 64


class Result(NamedTuple):
    """What a run gives: one row an epoch, the best epoch's network, its metrics on the test split."""

    history: list[metrics.Row]
    network: formats.Network
    test: dict[str, Any]


def fit(
    config: Config, dataset: Dataset, folder: Path, *, resume: bool = False, on_progress: Progress | None = None
) -> Result:
    """Train as `config` says and leave everything in `folder`; the test split is touched once, at the end.

    With `resume` a run goes on from its latest whole checkpoint and ends as if it had never stopped, bit for bit (a
    finished one returns at once; a folder without a run starts one). Without `on_progress` a bar is shown. Raises
    UserError for a batch that does not fit the data or the devices, weights to start from that do not fit the config, a
    folder in use, not writable or full, another config than the resumed run's, no whole checkpoint left, or a loss that
    is no longer finite; Preempted when SIGTERM came, after the running call was finished and saved.
    """
    size, batch = len(dataset.train.labels), config.train.batch_size
    steps = sampling.steps_per_epoch(config.train.steps_per_epoch, batch, size)
    way = strategy.choose(config.train.parallel, batch, microbatches=config.train.microbatches)
    init.agree(config, dataset)
    distributed.run_on_primary(run_dir.prepare, folder, config, resume)
    distributed.run_all_or_raise(run_dir.require_shared, folder)
    history = json.loads(distributed.run_on_primary(lambda: json.dumps(run_dir.finished(folder, config))))
    if history is not None:
        test = json.loads((folder / "test.json").read_text())
        return Result(history, formats.load(folder / "weights.safetensors"), test)

    graph, params, cleaning, origin = init.begin(config, dataset)
    # What a checkpoint lacks to be a network.
    about = formats.network(graph, {}, config.model, config.data.side, dataset.class_names, cleaning)
    distributed.run_on_primary(formats.save, folder / "input.safetensors", about)
    rule = optimizers.create(config.optimizer, steps * config.train.epochs)
    kinds = config.train.precision, config.train.microbatches, config.train.remat
    task = Task(graph, rule, config.augment, *kinds, frozen=init.frozen(config.train.frozen, params))
    evaluate = strategy.evaluator(way, graph, max(batch // task.microbatches, EVAL_BATCH), task.precision)
    state, sums, history = create_state(params, task.optimizer, task.frozen), metrics.zeros(), []
    with ExitStack() as opened:
        terminated = opened.enter_context(preemption.sigterm())
        checkpoints = opened.enter_context(Checkpoints(folder / "checkpoints"))

        def between_calls(state: TrainState, sums: metrics.Sums) -> None:
            """Save where it is due or SIGTERM came to any host; then stop."""
            step, every, stop = int(state.step), config.train.checkpoint_steps, distributed.any_process(terminated())
            if step > checkpoints.step and (stop or (step % steps and 0 < every <= step - checkpoints.step)):
                checkpoints.save(state, sums, history)
            if stop:
                checkpoints.wait()
                raise Preempted(
                    f"stopped by SIGTERM: {folder} keeps all {step} steps; run the same command again to go on "
                    "(experiments/train.py: with --resume)"
                )

        if checkpoints.latest is not None:
            state, sums, history = checkpoints.load(state)
        distributed.run_on_primary(_begin, folder, history)
        display = Display(steps, config.train, int(state.step), on_progress)
        state, sums, placed = strategy.replicate(way, (state, sums, cleaning))
        try:
            with _in_sentences(folder, checkpoints):
                log = _logger(config, folder, len(history) * steps)
                if not run_dir.is_complete(history, config):
                    train = _trainer(
                        config, way, task, state, placed, dataset.train, steps, display, between_calls, opened
                    )
                    valid = strategy.reside(way, dataset.valid)
                while not run_dir.is_complete(history, config):
                    started = time.perf_counter()
                    state, row = train(state, sums, len(history))
                    row |= _prefixed("valid", metrics.means(evaluate(state.params, placed, valid)))
                    history = [*history, row | {"seconds": time.perf_counter() - started}]
                    sums = strategy.replicate(way, metrics.zeros())
                    checkpoints.save(state, sums, history)
                    distributed.run_on_primary(log, history[-1])
                    display.epoch(history[-1])
                    between_calls(state, sums)
        except KeyboardInterrupt:
            print(f"\n{folder} keeps its {len(history)} finished epochs: go on with --resume", file=sys.stderr)
            raise
        finally:
            display.close()
        best, row = checkpoints.load_best(state, history)
        best = jax.tree.map(jnp.asarray, best.params)

        split = distributed.run_all_or_raise(dataset.load_test)
        sums = evaluate(*strategy.replicate(way, (best, cleaning)), strategy.reside(way, split))
        test = metrics.means(sums) | {"count": len(split.labels), "epoch": row["epoch"]}
        made = {"config": as_dict(replace(config, run="")), "best": row, "test": test, **origin}
        made["seconds"] = sum(row["seconds"] for row in history)
        network = formats.network(graph, best, config.model, config.data.side, dataset.class_names, cleaning, made)
        distributed.run_on_primary(formats.save, folder / "weights.safetensors", network)
        distributed.run_on_primary(run_dir.write, folder / "test.json", test)
        between_calls(state, sums)
    return Result(history, network, test)


@contextmanager
def _in_sentences(folder: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """What can go wrong while training, as UserErrors that say what is kept."""
    try:
        yield
    except FloatingPointError as error:
        with suppress(UserError):
            checkpoints.wait()
        raise UserError(f"{error}; {checkpoints.told()}") from None
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): make room and go on with --resume"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if not distributed.is_multi_process():
            raise
        reason = str(error).strip().splitlines()[0][:150]
        raise UserError(
            f"the hosts lost each other ({reason}): {checkpoints.told()}; start all again with --resume"
        ) from error


def _begin(folder: Path, history: list[metrics.Row]) -> None:
    (folder / "test.json").unlink(missing_ok=True)  # its being there says that the run is finished
    metrics.rewrite(folder / "metrics.jsonl", history)


def _trainer(
    config: Config,
    way: strategy.Parallel,
    task: Task,
    state: TrainState,
    cleaning: Cleaning,
    split: Split,
    steps: int,
    display: Display,
    between_calls: Callable[[TrainState, metrics.Sums], None],
    opened: ExitStack,
) -> Callable[[TrainState, metrics.Sums, int], tuple[TrainState, metrics.Row]]:
    """`train(state, sums, epoch)` gives the state after that epoch (counted from 0) and the training part of its row.

    `sums` are those of the epoch's steps that `state` has behind it. Epochs are trained in order, from any on. Closing
    `opened` ends what decodes a streamed split.
    """
    batch = config.train.batch_size
    display.say("compiling")
    order_key, step_key = jax.random.split(jax.random.key(config.train.seed))
    key, placed = strategy.replicate(way, step_key), strategy.reside(way, split)
    calls = strategy.calls_per_epoch(config.train.calls_per_epoch, task.graph, state.params, split, steps, batch)
    # A run stopped within an epoch may go on with other calls: theirs must end with the epoch too.
    length = math.gcd(steps // calls, int(state.step))
    compiled = strategy.trainer(way, task, state, key, cleaning, placed, length, batch)
    examples = None

    def fed(step: int) -> Iterator[Any]:
        """What each call from that step on is given."""
        if prefetch.is_streamed(split):
            rows = prefetch.Order(sampling.words(order_key), len(split.labels), batch, step, strategy.host(way))
            place = partial(strategy.place, way)
            return opened.enter_context(prefetch.ahead(split, rows, config.data.workers, length, place))
        return (
            sampling.order(order_key, first * batch, length * batch, len(split.labels)).reshape(length, batch)
            for first in itertools.count(step, length)
        )

    def train(state: TrainState, sums: metrics.Sums, epoch: int) -> tuple[TrainState, metrics.Row]:
        nonlocal examples
        started, begin, rate = time.perf_counter(), int(state.step), 0.0
        examples = examples or fed(begin)
        display.say(f"epoch {epoch + 1}/{config.train.epochs}")
        for first in range(begin, (epoch + 1) * steps, length):
            state, sums = compiled(state, sums, next(examples))
            row = _prefixed("train", metrics.means(sums))  # waits: two calls must not be in flight
            if not math.isfinite(row["train_loss"]):
                raise FloatingPointError(
                    f"the training loss is no longer finite in step {epoch * steps + int(sums['finite']) + 1} (epoch "
                    f"{epoch + 1}): lower --optimizers.learning-rate (it is {config.optimizer.learning_rate})"
                )
            rate = (first + length - begin) * batch / (time.perf_counter() - started)
            display.steps(length, row | {"images_per_second": rate})
            between_calls(state, sums)
        row = _prefixed("train", metrics.means(sums))
        return state, {"epoch": epoch + 1, "step": (epoch + 1) * steps, **row, "images_per_second": rate}

    return train


def _prefixed(name: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in values.items()}


def _logger(config: Config, folder: Path, first_step: int) -> Callable[[metrics.Row], None]:
    """What writes an epoch's row down: metrics.jsonl and, where the config wants it, TensorBoard's events."""
    wanted = config.train.tensorboard and distributed.is_primary()
    write = metrics.tensorboard(folder / "tensorboard", first_step) if wanted else None

    def log(row: metrics.Row) -> None:
        metrics.append(folder / "metrics.jsonl", row)
        if write:
            write(row)

    return log
