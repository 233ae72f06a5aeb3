"""Train one preset, with any of its values changed by flags.

    python experiments/train.py cnn
    python experiments/train.py cnn-augmented --data.side 64 --train.epochs 40 --seeds 0 1 2
    python experiments/train.py cnn --run runs/mine --resume

A run is a folder (runs/PRESET, or --run) with config.json, metrics.jsonl, checkpoints/, weights.safetensors (the best
epoch) and test.json. With --seeds the training is repeated, one sub-folder a seed, and summary.json holds mean and
deviation; a seed fixes weights, order, dropout and augmentation, while the pictures stay those of --data.seed.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnjax import data
from cnnjax.cli import command_line
from cnnjax.cli.config import AUTO, Config, HostsConfig
from cnnjax.distributed import initialize, print_once, run_all_or_raise, run_on_primary
from cnnjax.errors import UserError
from cnnjax.train import metrics, run_dir
from cnnjax.train.loop import Result, fit


def train(
    preset: str,
    config: Config,
    *,
    resume: bool = False,
    fresh: bool = False,
    seeds: tuple[int, ...] = (),
    hosts: HostsConfig = AUTO,
) -> None:
    """Train a preset.

    Args:
        resume: Go on with the run in the folder.
        fresh: Delete the run in the folder first.
        seeds: Repeat the training with each of these seeds, into RUN/seed-N.
        hosts: Where several machines train together.
    """
    initialize(hosts.coordinator, hosts.count, hosts.index, hosts.patience)
    if resume and fresh:
        raise UserError("--resume goes on with a run and --fresh deletes it: give one of them")
    folder = Path(config.run or f"runs/{preset}")
    if resume and not folder.exists():
        raise UserError(f"there is no run {folder} to resume: leave --resume out, or name another --run")
    runs = {}
    for seed in seeds or (config.train.seed,):
        place = folder / f"seed-{seed}" if seeds else folder
        runs[place] = replace(config, run=str(place), train=replace(config.train, seed=seed))
        if fresh:
            run_on_primary(run_dir.clear, place)
        run_on_primary(run_dir.prepare, place, runs[place], resume)  # refuses before any picture is made
    dataset = run_all_or_raise(data.load, config.data)
    if dataset.skipped:
        print_once(f"left out {len(dataset.skipped)} broken pictures: {', '.join(dataset.skipped[:5])}")
    results = {}
    for place, one in runs.items():
        results[one.train.seed] = fit(one, dataset, place, resume=resume)
        print_once(f"{place}: {_sentence(results[one.train.seed])}")
    if seeds:
        run_on_primary(run_dir.write, folder / "summary.json", _summary(results))
        print_once(_table(_summary(results)) + f"\nwrote {folder}/summary.json and a run for each seed beside it")
    else:
        print_once(f"wrote {folder}/weights.safetensors, metrics.jsonl, test.json and checkpoints")


def _sentence(result: Result) -> str:
    best = metrics.best(result.history)
    return (
        f"best of {len(result.history)} epochs is {best['epoch']}, validation accuracy {best['valid_accuracy']:.1%}; "
        f"test accuracy {result.test['accuracy']:.1%} of {result.test['count']} pictures"
    )


def _summary(results: dict[int, Result]) -> dict[str, dict[str, Any]]:
    """Mean and (sample) standard deviation over the seeds."""
    columns = {
        "training loss at the end": [_end(r, "train_loss") for r in results.values()],
        "training accuracy at the end": [_end(r, "train_accuracy") for r in results.values()],
        "validation loss at its lowest": [metrics.best(r.history)["valid_loss"] for r in results.values()],
        "validation loss at the end": [_end(r, "valid_loss") for r in results.values()],
        "validation accuracy at the lowest loss": [metrics.best(r.history)["valid_accuracy"] for r in results.values()],
        "validation accuracy at the end": [_end(r, "valid_accuracy") for r in results.values()],
        "test accuracy at the lowest loss": [r.test["accuracy"] for r in results.values()],
    }
    return {name: metrics.over_seeds(dict(zip(results, values, strict=True))) for name, values in columns.items()}


def _end(result: Result, name: str) -> float:
    """The mean of the last five epochs: at a constant learning rate single ones swing by points."""
    return statistics.fmean(row[name] for row in result.history[-5:])


def _table(summary: dict[str, dict[str, Any]]) -> str:
    return "\n".join(f"{name:40}{row['mean']:8.3f} ± {row['deviation']:.3f}" for name, row in summary.items())


if __name__ == "__main__":
    command_line.main_with_preset(train)
