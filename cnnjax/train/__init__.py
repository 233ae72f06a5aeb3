"""Training: a pure step, three strategies to run it on devices, checkpoints, and `fit`, the loop around them."""

from cnnjax.train import metrics, optimizers, schedules
from cnnjax.train.loop import Result, fit
from cnnjax.train.members import Member, fit_members
from cnnjax.train.run_data import read_inventory
from cnnjax.train.state import TrainState
from cnnjax.train.sweeps import Sweep, sweep

__all__ = [
    "Member", "Result", "Sweep", "TrainState", "fit", "fit_members", "metrics", "optimizers", "read_inventory",
    "schedules", "sweep",
]  # fmt: skip
