"""fit: feed, step, evaluate, log, checkpoint, resume."""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from cnnjax import models, pretrained
from cnnjax.config import Config, TrainConfig, as_dict
from cnnjax.data import clean, feed, stream
from cnnjax.data.split import Dataset, Split
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizer, parallel, run
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.step import Task, TrainState, create_state

EVAL_BATCH = 64

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with the steps done, all steps, and the latest numbers."""


class Result(NamedTuple):
    """What a run gives: one row an epoch, the best epoch's network, its metrics on the test split."""

    history: list[metrics.Row]
    network: pretrained.Network
    test: dict[str, Any]


def fit(
    config: Config, dataset: Dataset, folder: Path, *, resume: bool = False, on_progress: Progress | None = None
) -> Result:
    """Train as `config` says and leave everything in `folder`; the test split is touched once, at the end.

    With `resume` a run goes on from its latest checkpoint and ends as if it had never stopped, bit for bit (a finished
    one returns at once; a folder without a run starts one). Without `on_progress` a bar is shown. Raises UserError for
    a batch that does not fit the data or the devices, a folder in use or not writable, another config than the resumed
    run's, a damaged checkpoint, or a loss that is no longer finite.
    """
    size, batch = len(dataset.train.labels), config.train.batch_size
    steps = feed.steps_per_epoch(config.train.steps_per_epoch, batch, size)
    way = parallel.choose(config.train.parallel, batch)
    run.prepare(folder, config, resume)
    if (history := run.finished(folder, config)) is not None:
        test = json.loads((folder / "test.json").read_text())
        return Result(history, pretrained.load(folder / "weights.safetensors"), test)

    cleaning = clean.fit(config.data.cleaning, dataset.train.images)
    model = models.create(
        config.model, side=config.data.side, num_classes=len(dataset.class_names), seed=config.train.seed
    )
    graph, params = models.split(model)
    task = Task(graph, optimizer.create(config.optimizer, steps * config.train.epochs), config.augment)
    evaluate = parallel.evaluator(way, graph, max(batch, EVAL_BATCH))
    state, history = create_state(params, task.optimizer), []
    with Checkpoints(folder / "checkpoints") as checkpoints, ExitStack() as opened:
        if checkpoints.latest is not None:
            state, history = checkpoints.load(state)
        metrics.rewrite(folder / "metrics.jsonl", history)
        display = _Display(steps, config.train, len(history), on_progress)
        state, placed = parallel.replicate(way, (state, cleaning))
        try:
            log = _logger(config, folder, len(history) * steps)
            if not run.is_complete(history, config):
                train = _trainer(config, way, task, state, placed, dataset.train, steps, display, opened)
                valid = parallel.reside(way, dataset.valid)
            while not run.is_complete(history, config):
                started = time.perf_counter()
                state, row = train(state, len(history))
                row |= _prefixed("valid", metrics.means(evaluate(state.params, placed, valid)))
                history = [*history, row | {"seconds": time.perf_counter() - started}]
                checkpoints.save(state, history)
                log(history[-1])
                display.epoch(history[-1])
        except KeyboardInterrupt:
            print(f"\n{folder} keeps its {len(history)} finished epochs: go on with --resume", file=sys.stderr)
            raise
        finally:
            display.close()
        best = jax.tree.map(jnp.asarray, checkpoints.load_best(state, history).params)

    split = dataset.load_test()
    sums = evaluate(*parallel.replicate(way, (best, cleaning)), parallel.reside(way, split))
    test = metrics.means(sums) | {"count": len(split.labels), "epoch": metrics.best(history)["epoch"]}
    made = {"config": as_dict(replace(config, run="")), "best": metrics.best(history), "test": test}
    made["seconds"] = sum(row["seconds"] for row in history)
    network = pretrained.network(graph, best, config.model, config.data.side, dataset.class_names, cleaning, made)
    pretrained.save(folder / "weights.safetensors", network)
    (folder / "test.json").write_text(json.dumps(test, indent=2) + "\n")
    return Result(history, network, test)


def _trainer(
    config: Config,
    way: parallel.Parallel,
    task: Task,
    state: TrainState,
    cleaning: clean.Cleaning,
    split: Split,
    steps: int,
    display: "_Display",
    opened: ExitStack,
) -> Callable[[TrainState, int], tuple[TrainState, metrics.Row]]:
    """`train(state, epoch)` gives the state after that epoch (counted from 0) and the training part of its row.

    Epochs are trained in order, from any on. Closing `opened` ends what decodes a streamed split.
    """
    batch = config.train.batch_size
    display.say("compiling")
    order_key, step_key = jax.random.split(jax.random.key(config.train.seed))
    key, placed = parallel.replicate(way, step_key), parallel.reside(way, split)
    calls = parallel.calls_per_epoch(config.train.calls_per_epoch, task.graph, state.params, split, steps, batch)
    length = steps // calls
    compiled = parallel.trainer(way, task, state, key, cleaning, placed, length, batch)
    examples = None

    def fed(step: int) -> Iterator[Any]:
        """What each call from that step on is given."""
        if stream.is_streamed(split):
            rows = stream.Order(feed.words(order_key), len(split.labels), batch, step, parallel.host(way))
            place = partial(parallel.place, way)
            return opened.enter_context(stream.ahead(split, rows, config.data.workers, length, place))
        return (
            feed.order(order_key, first * batch, length * batch, len(split.labels)).reshape(length, batch)
            for first in itertools.count(step, length)
        )

    def train(state: TrainState, epoch: int) -> tuple[TrainState, metrics.Row]:
        nonlocal examples
        examples = examples or fed(epoch * steps)
        display.say(f"epoch {epoch + 1}/{config.train.epochs}")
        sums = parallel.replicate(way, metrics.zeros())
        started = time.perf_counter()
        for first in range(epoch * steps, (epoch + 1) * steps, length):
            state, sums = compiled(state, sums, next(examples))
            row = _prefixed("train", metrics.means(sums))  # waits: two calls must not be in flight
            if not math.isfinite(row["train_loss"]):
                raise UserError(
                    f"the training loss is {row['train_loss']} in epoch {epoch + 1}: "
                    f"lower --optimizer.learning-rate (it is {config.optimizer.learning_rate})"
                )
            rate = (first + length - epoch * steps) * batch / (time.perf_counter() - started)
            display.steps(length, row | {"images_per_second": rate})
        return state, {"epoch": epoch + 1, "step": (epoch + 1) * steps, **row, "images_per_second": rate}

    return train


def _prefixed(name: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in values.items()}


def _logger(config: Config, folder: Path, first_step: int) -> Callable[[metrics.Row], None]:
    """What writes an epoch's row down: metrics.jsonl and, where the config wants it, TensorBoard's events."""
    write = metrics.tensorboard(folder / "tensorboard", first_step) if config.train.tensorboard else None

    def log(row: metrics.Row) -> None:
        metrics.append(folder / "metrics.jsonl", row)
        if write:
            write(row)

    return log


class _Display:
    """How far a run is: a bar over all its pictures, or a call of `on_progress`."""

    def __init__(self, steps: int, config: TrainConfig, epochs_done: int, on_progress: Progress | None):
        self._batch, self._report = config.batch_size, on_progress
        self._done, self._total = epochs_done * steps, config.epochs * steps
        self._latest: dict[str, Any] = {}
        self._bar = tqdm(
            total=self._total * self._batch,
            initial=self._done * self._batch,
            unit=" images",
            disable=on_progress is not None,
            dynamic_ncols=True,
        )

    def say(self, what: str) -> None:
        self._bar.set_description(what)

    def steps(self, number: int, numbers: dict[str, Any]) -> None:
        """So many steps more are done; `numbers` are the running epoch's."""
        self._done += number
        self._bar.update(number * self._batch)
        self._tell(numbers)

    def epoch(self, row: metrics.Row) -> None:
        """An epoch is evaluated."""
        self._tell(row)

    def close(self) -> None:
        self._bar.close()

    def _tell(self, numbers: dict[str, Any]) -> None:
        self._latest |= numbers
        shown = {"loss": "train_loss", "accuracy": "train_accuracy", "valid loss": "valid_loss",
                 "valid accuracy": "valid_accuracy"}  # fmt: skip
        latest = {name: f"{self._latest[key]:.3f}" for name, key in shown.items() if key in self._latest}
        self._bar.set_postfix(latest)
        if self._report:
            self._report(self._done, self._total, dict(self._latest))
