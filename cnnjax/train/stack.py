"""Several runs trained together as one stack: one compiled program makes the same step of all of them.

Every run keeps its own folder, history and checkpoints, and is what it would be alone, up to rounding. Runs that
were stopped at different steps go on: those that are behind train first, while the others wait.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import jax
import numpy as np

from cnnjax import models
from cnnjax.data.dataset import ArraySplit, as_split
from cnnjax.errors import Diverged, Preempted
from cnnjax.train import metrics, preemption, strategy
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.memory_checkpoints import MemoryCheckpoints
from cnnjax.train.plan import Plan
from cnnjax.train.profiling import Profiler
from cnnjax.train.progress import Progress
from cnnjax.train.results import Result
from cnnjax.train.training import EVAL_BATCH, Shared, Training, as_sentences

Outcome = Result | Diverged
"""What a run gives; Diverged, with the sentence to show, where its loss was no longer finite."""


def train_together(plans: Sequence[Plan]) -> list[Outcome]:
    """Train runs whose folders are prepared, and which differ in arrays, seeds and hyperparameters alone.

    A run whose loss is no longer finite ends; the others go on. Raises as `train.fit` does.
    """
    with ExitStack() as opened:
        begun: list[bool] = []
        terminated = opened.enter_context(preemption.watch_sigterm(lambda: bool(begun)))
        shared, thread = Shared(terminated=terminated), opened.enter_context(ThreadPoolExecutor(1))
        runs = []
        for plan in plans:
            found = MemoryCheckpoints() if plan.folder is None else Checkpoints(plan.folder / "checkpoints", thread)
            runs.append(Training(plan, opened.enter_context(found), opened, shared))
        return Stack(runs, opened, lambda: begun.append(True)).run()


class Stack:
    """Runs from their last checkpoints, or their starts, to their ends."""

    def __init__(self, runs: list[Training], opened: ExitStack, on_begin: Callable[[], Any]) -> None:
        self.runs, self.first, self.opened, self.on_begin = runs, runs[0], opened, on_begin
        self.options, self.epoch_steps = self.first.options, self.first.steps
        self.strategy = strategy.stack_strategy(len(runs))
        if self.options.dispatches_per_epoch:
            self.strategy = strategy.looped(self.strategy)
        self.size = strategy.stacked_size(self.strategy, len(runs))
        self.failed: dict[int, Diverged] = {}
        self.logs = [run.logger() for run in runs]

    def run(self) -> list[Outcome]:
        """Train the epochs that are left of every run, then test the best parameters of each."""
        for run in self.runs:
            run.begin()
        self.states = strategy.stack(self.strategy, [run.state for run in self.runs])
        self.sums = strategy.stack(self.strategy, [run.sums for run in self.runs])
        self.normalizer = strategy.replicate(self.strategy, self.first.normalizer)
        batch = max(self.options.batch_size // self.first.config.microbatches, EVAL_BATCH)
        self.evaluate = strategy.make_stack_evaluator(self.strategy, self.first.config, batch)
        done, options = sum(run.step for run in self.runs), self.options
        total = options.epochs * len(self.runs)
        self.progress = Progress(total, self.epoch_steps, options.batch_size, done, options.on_progress)
        try:
            if self._left():
                self._train()
        finally:
            self.progress.close()
        return self._finish()

    def _left(self) -> list[int]:
        """The runs that are to be trained further."""
        runs = enumerate(self.runs)
        return [i for i, run in runs if i not in self.failed and not run.plan.is_complete(run.history)]

    def _train(self) -> None:
        for run in self.runs:
            run.keep_first_weights()
        self.progress.describe("compiling")
        train = strategy.replicate_split(self.strategy, self.first.plan.train_split)
        valid = strategy.replicate_split(self.strategy, self.first.plan.valid_split)
        batch, steps = self.options.batch_size, self.epoch_steps
        calls = strategy.dispatches_per_epoch(self.strategy, self.options.dispatches_per_epoch, train, steps, batch)
        self.length = math.gcd(steps // calls, *[run.step for run in self.runs])
        keys = [run.keys() for run in self.runs]
        numbers = [run.hyperparams() for run in self.runs]
        step_keys = [key for _, key in keys]
        self.given = (
            strategy.stack(self.strategy, list(zip(step_keys, numbers, strict=True))),
            (self.normalizer, train),
        )
        self.compiled = strategy.compile_stack_steps(self.strategy, self.first.config, batch)
        self.examples = [run.examples(key, train, self.length) for run, (key, _) in zip(self.runs, keys, strict=True)]
        self.profiler = self.opened.enter_context(Profiler(self.first.folder, self.options.profile_steps))
        self.began = [(time.perf_counter(), run.step) for run in self.runs]
        while left := self._left():
            behind = min(self.runs[i].step for i in left)
            group = [i for i in left if self.runs[i].step == behind]
            others = [self.runs[i].step for i in left if self.runs[i].step > behind]
            self._steps(group, min([self._epoch_end(i) for i in group] + others))
            ended = [i for i in group if i not in self.failed and self.runs[i].step == self._epoch_end(i)]
            if ended:
                self._end_epoch(ended, cast(ArraySplit, valid))
                self._between_calls()

    def _epoch_end(self, i: int) -> int:
        """The step with which the running epoch of a run ends."""
        return (len(self.runs[i].history) + 1) * self.epoch_steps

    def _steps(self, group: list[int], end: int) -> None:
        """Train the runs of the group, all at the same step, up to the step `end`."""
        self.progress.describe(f"{len(group)} networks")
        idle = np.zeros((self.length, self.options.batch_size), np.int32)
        while group and self.runs[group[0]].step < end:
            active = np.isin(np.arange(self.size), group)
            chosen = [next(self.examples[i]) if i in group else idle for i in range(len(self.runs))]
            chosen += [idle] * (self.size - len(self.runs))
            before = self.sums
            self.on_begin()
            self.states, self.sums = self.compiled(
                self.states, self.sums, *self.given, active, np.stack(chosen, axis=1)
            )
            for i in group:
                self.runs[i].step += self.length
            rows = self._check(group, before)  # of the call before: one may wait behind the running one
            group = [i for i in group if i in rows]
            for i, row in list(rows.items())[:1]:
                first = self.runs[i].step == self._epoch_end(i) - self.epoch_steps + self.length
                self.progress.steps(self.length * len(rows), {} if first else row)
            self.profiler.step(self.length)
            self._between_calls()

    def _check(self, group: list[int], sums: metrics.Sums) -> dict[int, dict[str, float]]:
        """The running epoch's means of each run of the group; those whose loss is not finite have failed."""
        host, rows = jax.device_get(sums), {}
        for i in group:
            run = self.runs[i]
            with self._ends(i), as_sentences(run.checkpoints):
                rows[i] = run.check(_one(host, i))
        return rows

    @contextmanager
    def _ends(self, i: int) -> Iterator[None]:
        """If run i diverges within, it ends; the others go on."""
        try:
            yield
        except Diverged as error:
            self.failed[i] = error

    def _end_epoch(self, ended: list[int], valid: ArraySplit) -> None:
        rows = self._check(ended, self.sums)
        found = self.evaluate(self.first.evaluated(self.states), self.normalizer, valid)
        host, running = jax.device_get((self.states, self.sums))
        zeros = metrics.zeros(("loss", *self.first.config.metrics))
        sums = [zeros if i in rows else _one(running, i) for i in range(len(self.runs))]
        self.sums = strategy.stack(self.strategy, sums)
        for i, row in rows.items():
            run, (started, begun) = self.runs[i], self.began[i]
            seconds = time.perf_counter() - started
            rate = (run.step - begun) * self.options.batch_size / seconds
            facts = {"epoch": len(run.history) + 1, "step": run.step, **row, "images_per_second": rate}
            run.state = _one(host, i)
            record = facts | run.means("valid", _one(found, i)) | {"seconds": seconds}
            with self._ends(i), as_sentences(run.checkpoints):
                run.record(record, zeros, self.logs[i])
            self.progress.epoch(record, run.plan.name, self.options.epochs)
            self.began[i] = time.perf_counter(), run.step

    def _between_calls(self) -> None:
        """Save where a checkpoint is due or SIGTERM came; then stop."""
        stop = self.first.terminated()
        due = [i for i, run in enumerate(self.runs) if i not in self.failed and run.is_due(stop)]
        if due:
            states, sums = jax.device_get((self.states, self.sums))
            for i in due:
                run = self.runs[i]
                run.state, run.sums = _one(states, i), _one(sums, i)
                with self._ends(i):
                    run.checkpoints.save(run.state, run.sums, run.history)
        if stop:
            for i, run in enumerate(self.runs):
                with self._ends(i):
                    run.checkpoints.wait()
            kept = all(run.folder for run in self.runs)
            more = "the runs keep all their steps: continue with resume=True" if kept else "nothing was saved"
            raise Preempted(f"stopped by SIGTERM: {more}")

    def _finish(self) -> list[Outcome]:
        """Test the best epoch's parameters of every run that has not failed, and write what a finished run leaves."""
        best: dict[int, tuple[models.Params, models.ModelState, metrics.EpochMetrics]] = {}
        for i, run in enumerate(self.runs):
            with self._ends(i):
                if i not in self.failed:
                    best[i] = run.best()
        if not best:
            return list(self.failed.values())
        self.on_begin()
        split = cast(ArraySplit, as_split(self.first.plan.dataset.test))
        some = next(iter(best.values()))
        networks = strategy.stack(self.strategy, [best.get(i, some)[:2] for i in range(len(self.runs))])
        sums = self.evaluate(
            networks, self.normalizer, cast(ArraySplit, strategy.replicate_split(self.strategy, split))
        )
        outcomes: list[Outcome] = []
        for i, run in enumerate(self.runs):
            if i in self.failed:
                outcomes.append(self.failed[i])
            else:
                outcomes.append(run.conclude(*best[i], metrics.compute(_one(sums, i)), split))
        self._between_calls()
        return outcomes


def _one(stacked: Any, i: int) -> Any:
    """The arrays of one run."""
    return jax.tree.map(lambda leaf: leaf[i] if isinstance(leaf, jax.Array) else np.asarray(leaf[i]), stacked)
