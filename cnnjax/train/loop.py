"""fit: train a network."""

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import optax

from cnnjax import distributed, losses
from cnnjax.data import prefetch
from cnnjax.data.dataset import Split, as_dataset
from cnnjax.data.mixup import Mix
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.train import arguments, optimizers, run_data, run_dir, run_lock
from cnnjax.train.agreement import check_hosts_agree
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.memory_checkpoints import MemoryCheckpoints
from cnnjax.train.metrics import EpochMetrics, Metric
from cnnjax.train.plan import Callback, Options, Plan
from cnnjax.train.progress import OnProgress
from cnnjax.train.results import Result, save_network
from cnnjax.train.run_dir import Settings
from cnnjax.train.step import Augmentation
from cnnjax.train.training import Shared, Training

logger = logging.getLogger(__name__)

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


# fmt: off
def fit(
    network: Network, dataset: DatasetLike, optimizer: optax.GradientTransformation, *,
    loss: losses.LossFunction = DEFAULT_LOSS, epochs: int = 1, batch_size: int = 32,
    steps_per_epoch: int | None = None, seed: int = 0, augment: Augmentation | None = None, mix: Mix | None = None,
    metrics: Mapping[str, Metric] | None = None, ema: float | None = None, freeze: str | Sequence[str] = (),
    precision: Literal["float32", "bfloat16"] = "float32", microbatches: int = 1, remat: bool = False,
    strategy: str = "auto", run_dir: str | Path | None = None, resume: bool = False,
    config: Settings | None = None, provenance: Settings | None = None,
    early_stopping_patience: int = 0, checkpoint_every_steps: int = 1000, weights_every_epochs: int = 0,
    dispatches_per_epoch: int = 0, workers: int = 0, callbacks: Sequence[Callback] = (),
    on_progress: OnProgress | None = None, tensorboard: bool = False, profile_steps: int = 0,
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
    freeze: names of layers, or of blocks such as block1, that keep their parameters; or one name.
    precision: type in which the layers compute; parameters, optimizer state, logits and loss stay float32.
    microbatches: parts of a device's batch whose gradients are added up before the one update.
    remat: recompute activations in the backward pass, for models that offer it.
    strategy: auto, jit, pmap or mesh; the results agree up to rounding.
    run_dir: folder for checkpoints, metrics and weights; None keeps nothing on disk.
    resume: continue the run in `run_dir` from its last checkpoint, bit for bit; start it if there is none.
    config, provenance: JSON-able settings to record in config.json (compared on resume), and notes for the weights.
    early_stopping_patience: stop after so many epochs without a lower validation loss; 0 never does.
    checkpoint_every_steps: steps after which a checkpoint is written within long epochs; 0 writes none there.
    weights_every_epochs: keep weights in `run_dir/weights` before the first epoch, and after every so many; 0 for none.
    dispatches_per_epoch: equal calls that an epoch is divided into; 0 chooses (on a CPU a call is one step).
    workers: processes that decode streamed images; 0 uses threads.
    callbacks: called with each epoch's metrics, a dict of numbers. on_progress: see `OnProgress`.
    tensorboard, profile_steps: write TensorBoard events, and an XProf trace of so many steps, into `run_dir`.

    Raises UserError for settings, data or devices that do not fit, a folder in use or not writable, other settings than
    the resumed run's, or a loss that is not finite; Preempted after SIGTERM, when the running call has been saved.
    """
    options = {name: value for name, value in locals().items() if name not in ("network", "dataset", "optimizer")}
    arguments.check_optimizer(optimizer)
    optimizer = optimizers.with_standard_promotion(optimizer)
    return run_plan(Plan(network, as_dataset(dataset), optimizer, Options(**options)))
# fmt: on


def defaults() -> dict[str, Any]:
    """The options of `fit` and their defaults."""
    parameters = inspect.signature(fit).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def run_plan(plan: Plan, shared: Shared | None = None) -> Result:
    """Train, or return what a finished run left. `shared`: what the run has in common with others."""
    plan.check_network()
    _ = plan.steps, plan.strategy, plan.step_config  # refuse what does not fit before anything is written
    plan.check_memory()
    if prefetch.is_streamed(plan.train_split):
        prefetch.check_workers(plan.options.workers)
    check_hosts_agree(plan.settings, plan.network.class_names, plan.train_split, plan.valid_split)
    with ExitStack() as opened:
        if plan.folder is not None:
            opened.enter_context(run_lock.locked(plan.folder))
            if (done := prepare(plan, plan.folder)) is not None:
                return done
        checkpoints = MemoryCheckpoints() if plan.folder is None else Checkpoints(plan.folder / "checkpoints")
        return Training(plan, opened.enter_context(checkpoints), opened, shared).run()


def prepare(plan: Plan, folder: Path) -> Result | None:
    """Make the folder; the result if the run in it is already finished."""
    options = plan.options
    begun = distributed.run_on_primary(lambda: str(run_dir.has_results(folder))) == "True"
    distributed.run_on_primary(run_dir.prepare, folder, plan.settings, options.resume)
    distributed.run_all_or_raise(run_dir.check_shared, folder)
    distributed.run_on_primary(
        run_data.check if begun else run_data.keep, folder, plan.network.class_names, plan.dataset
    )
    done = partial(run_dir.finished, folder, options.epochs, options.early_stopping_patience)
    history = json.loads(distributed.run_on_primary(lambda: json.dumps(done())))
    if history is not None and (result := load_intact(folder, history, plan.network)) is not None:
        return result
    # What a checkpoint lacks to be a network.
    bare = plan.network.replace(params={}, model_state={})
    distributed.run_on_primary(save_network, folder / "input.safetensors", bare)
    return None


def load_intact(folder: Path, history: list[EpochMetrics], network: Network) -> Result | None:
    """`load_result`; None, with a warning, where the weights are damaged and checkpoints are there to write them."""
    try:
        return load_result(folder, history, network)
    except UserError as error:
        if not run_dir.has_checkpoints(folder):
            raise
        if distributed.is_primary():
            logger.warning("%s; the weights are written again from the checkpoints", error)
        return None


def load_result(folder: Path, history: list[EpochMetrics], network: Network) -> Result:
    """What a finished run left, with its history as `run_dir.finished` gives it.

    Its network is one of this package, as `fit_head` leaves it too, or has the same model as `network`. Raises
    UserError when a file cannot be read.
    """
    from cnnjax import formats  # only a finished run is read

    path = folder / "weights.safetensors"
    try:
        trained = formats.load(path)
    except UserError:
        if network.config is not None:
            raise
        trained = formats.load(path, model=network.model())
    return Result(history, trained, run_dir.read_test(folder))
