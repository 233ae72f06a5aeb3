"""Training: a pure step, three strategies to run it on devices, checkpoints, and `fit`, the loop around them."""

from cnnjax.train import metrics, optimizers
from cnnjax.train.loop import Result, fit
from cnnjax.train.run_data import read_inventory
from cnnjax.train.state import TrainState

__all__ = ["Result", "TrainState", "fit", "metrics", "optimizers", "read_inventory"]
