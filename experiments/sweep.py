"""Train one preset for a grid of settings and for several seeds, and compare. The same as `cnnjax sweep`.

    python experiments/sweep.py cnn --over optimizer.learning-rate 1e-4 3e-4 1e-3 --seeds 0 1 2
    python experiments/sweep.py cnn --over optimizer.name adam sgd --over train.batch-size 16 32 --seeds 0 1 2

The folder is runs/PRESET-sweep, or that of --run. In it, sweep.json, sweep.csv, sweep.md and sweep.png have the mean
and the standard deviation over the seeds of each combination, and each network has its own run's folder. Networks that
differ only in seeds and in numbers of the optimizer share one compiled program.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("sweep")
