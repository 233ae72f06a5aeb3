"""What a training run is made of: small frozen dataclasses whose fields are the flags of the `train` command.

A config is data. `cnnjax.cli.config_json` converts it to the JSON of a run's `config.json` and back, and
`cnnjax.cli.build` makes the objects that `train.fit` takes. Presets are in `cnnjax.cli.presets`.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cnnjax import limits, models
from cnnjax.data.augment import Augment
from cnnjax.data.procedural import VERSION, version_for
from cnnjax.errors import UserError, unknown

SOURCES = ("procedural", "folder:PATH", "tfds:NAME", "hub:NAME")
MIN_IMAGE_SIZE = 8


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    source: str = "procedural"
    """procedural (rendered, no files are needed), folder:PATH (one folder per class), tfds:NAME (tensorflow-datasets,
    such as tfds:cats_vs_dogs) or hub:NAME (Hugging Face datasets, such as hub:uoft-cs/cifar10)."""
    classes: tuple[str, ...] = ()
    """Use only these classes. Empty: cat and dog of the procedural source, every class of the others."""
    image_size: int | tuple[int, int] = 150
    """Images are resized to this many pixels: one number for squares, or height and width."""
    per_class: int = 1000
    """Training images per class, or as many as there are. 0 uses all that are left after validation and test."""
    eval_per_class: int = 500
    """Validation images per class, and as many test images per class; of a class with too few images, a fifth each. 0
    takes all images of published splits, and a fifth of each class where there are none."""
    seed: int = 0
    """Chooses which images are drawn or rendered."""
    split_by: Literal["seed", "name"] = "seed"
    """seed draws exact numbers of images; if images are added, all are drawn again. name decides by a hash of each
    file's name, so that no image moves to another split when images are added."""
    rendering: Literal[3, 4, 5] | None = None
    """Version of the procedural source's renderer. 3 renders the images of older releases, whose animals are larger and
    less turned than those of 4; in 5 they have more different sizes. None is 5 from 100 pixels on, and else 4."""
    loading: Literal["auto", "resident", "stream"] = "auto"
    """resident keeps decoded images on the devices. stream decodes them again for every batch, ahead of use. auto
    streams what would take more than a quarter of the free memory. Results do not depend on it."""
    workers: int | None = None
    """Processes that decode streamed images. 0 uses threads. By default threads, or a process for each CPU core (8 at
    most) where an accelerator trains on files of 16 KiB or less, for which threads are too slow."""
    cache: bool = True
    """Keep decoded and resized images in the user's cache folder."""
    normalization: Literal["none", "mean", "standard", "zca"] = "standard"
    """How images are normalized, estimated on the training images (article, section 4.3): mean subtracts the mean of
    each channel, standard also divides by its standard deviation, zca whitens."""

    def __post_init__(self) -> None:
        kind, _, name = self.source.partition(":")
        if kind not in {source.partition(":")[0] for source in SOURCES}:
            if Path(self.source).is_dir():
                raise UserError(f"--data.source {self.source} is a folder: write folder:{self.source}")
            raise unknown("data source", self.source, SOURCES)
        _require(kind == "procedural" or bool(name), f"--data.source {kind} is incomplete: write {kind}:…")
        _require(
            kind != "procedural" or self.loading != "stream",
            "--data.loading stream needs images in files, and the procedural source has none: use --data.loading "
            "resident",
        )
        _require(
            kind != "procedural" or self.split_by == "seed",
            "--data.split-by name needs images with names, and the procedural source has none: leave it out",
        )
        smallest = min(self.image_size) if isinstance(self.image_size, tuple) else self.image_size
        _require(
            smallest >= MIN_IMAGE_SIZE,
            f"--data.image-size {smallest} is too small: use {MIN_IMAGE_SIZE} or more pixels",
        )
        _require(
            kind != "procedural" or self.per_class > 0,
            "--data.per-class 0 needs images in files: rendered ones are made in any number, so name one",
        )
        _require(self.per_class >= 0, f"--data.per-class {self.per_class} is negative: use 0 for all images")
        _require(self.eval_per_class >= 0, f"--data.eval-per-class {self.eval_per_class} is negative: use 0 for shares")
        _require(
            kind != "procedural" or self.eval_per_class > 0,
            "--data.eval-per-class 0 needs images in files: rendered ones are made in any number, so name one",
        )
        limits.check_seed(self.seed, "--data.seed ")
        _require(
            self.workers is None or self.workers >= 0, f"--data.workers {self.workers} is negative: use 0 for threads"
        )

    def with_rendering(self) -> "DataConfig":
        """The same with the renderer's version filled in: the chosen one, or that of this image size."""
        if self.rendering is not None:
            return self
        # Runs on image files record a version, too. It is always the same one, so that they can be resumed.
        return replace(self, rendering=version_for(self.image_size) if self.source == "procedural" else VERSION)


@dataclass(frozen=True)
class AugmentConfig(Augment):
    """Random transformations of the training images, with the article's ranges by default (section 4.3)."""

    enabled: bool = False
    """Transform the training images. Without it the other flags of augmentation are refused, as they have no effect."""


@dataclass(frozen=True)
class MixConfig:
    """Mixing of each training image with another one of the batch, labels included. One of the two at most."""

    mixup: float = 0.0
    """mixup: weighted means of two images, with a weight from Beta(a, a) for this value a. 0.2 is common, 0 is off."""
    cutmix: float = 0.0
    """CutMix: a box of another image is pasted, with an area from Beta(a, a) for this value a. 1 is common, 0 is
    off."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            _require(0 <= value <= 1e4, f"--mix.{name} {value} must not be negative, and at most 10000")
        _require(not (self.mixup and self.cutmix), "--mix.mixup and --mix.cutmix exclude each other: set one of them")


@dataclass(frozen=True)
class ModelConfig:
    """Which model. For two classes its output is one sigmoid logit, for more one logit per class."""

    name: Literal[tuple(models.MODELS)] = "small-cnn"  # pyright: ignore
    """The architecture."""
    width_multiplier: float = 1.0
    """Multiplies every layer's number of channels."""
    dense_units: int = 0
    """Units of a VGG's layers fc1 and fc2. 0 means 4096 times the width multiplier."""
    dropout: float = 0.5
    """Share of the dense layers' inputs that dropout sets to zero, in models that have dropout."""

    def __post_init__(self) -> None:
        _require(
            0 < self.width_multiplier <= 1000,
            f"--model.width-multiplier {self.width_multiplier} must be greater than 0 and at most 1000",
        )
        _require(
            0 <= self.dense_units <= 10**7,
            f"--model.dense-units {self.dense_units} must not be negative, and at most 10,000,000",
        )
        _require(0 <= self.dropout < 1, f"--model.dropout {self.dropout} must be at least 0 and less than 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule. The default is Keras' Adam, as in the article."""

    name: Literal["adam", "adamw", "nadam", "sgd", "rmsprop", "lion", "muon"] = "adam"
    """The optimizer. muon orthogonalizes the updates of convolution kernels and uses adamw for everything else."""
    learning_rate: float = 1e-3
    """The highest learning rate of the schedule."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Use Nesterov momentum in adam, adamw or sgd."""
    weight_decay: float | None = None
    """Weight decay of adamw, sgd, lion or muon. Biases and the parameters of normalization layers do not decay. By
    default 0.0001 for adamw and 0 for the others."""
    clip_norm: float = 0.0
    """Scale gradients down to this global norm when they exceed it. 0 is off."""
    schedule: Literal["constant", "warmup", "cosine", "warmup-cosine", "cosine-restarts", "one-cycle"] = "constant"
    """The learning rate over the run: constant; warmup, which rises from 0 and stays; cosine, which falls to 0;
    warmup-cosine, which does both; cosine-restarts, which is several cosines; one-cycle, which rises for 30% of the run
    and then falls."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises from 0 in warmup and warmup-cosine. By default 500, at most a quarter of
    the run."""
    cycles: int = 3
    """How many cosines cosine-restarts has."""

    def __post_init__(self) -> None:
        _require(
            0 < self.learning_rate < math.inf,
            f"--optimizer.learning-rate {self.learning_rate} must be greater than 0 and finite",
        )
        for name in ("weight_decay", "clip_norm", "warmup_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"--optimizer.{_kebab(name)} {value} must not be negative")
        _require(0 <= self.momentum < 1, f"--optimizer.momentum {self.momentum} must be at least 0 and less than 1")
        _require(self.cycles >= 1, f"--optimizer.cycles {self.cycles} must be at least 1")


@dataclass(frozen=True)
class LossConfig:
    """The training loss: sigmoid cross-entropy for one logit, else softmax cross-entropy."""

    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over all classes during training. 0.1 is common, 0 is off."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weights the classes so that each counts equally in training, whatever its number of images."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.label_smoothing < 1,
            f"--loss.label-smoothing {self.label_smoothing} must be at least 0 and less than 1",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to train."""

    epochs: int = 20
    """Number of epochs. The validation images are evaluated after each one."""
    batch_size: int = 20
    """Images per step, over all devices together."""
    steps_per_epoch: int = 0
    """Steps in an epoch. 0 means one pass over the training images."""
    seed: int = 0
    """Fixes the initial weights, the order of the images, dropout and augmentation."""
    strategy: Literal["auto", "jit", "pmap", "mesh"] = "auto"
    """jit uses one device. pmap runs jax.pmap over all devices. mesh runs jax.jit with batches sharded over all
    devices. auto is jit on one device and mesh on several."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the layers compute in. Parameters, optimizer state, logits and loss are float32 in both. bfloat16 is for
    accelerators; a CPU gains nothing from it."""
    ema: float = 0.0
    """Decay of an exponential moving average of the parameters, which is evaluated and kept instead of them. 0.999 is
    common, 0 is off."""
    top_k: tuple[int, ...] = ()
    """Also report the share of images whose class is among the k most probable ones, for each of these k."""
    init_from: str = ""
    """A weights file, the folder of a run, or vgg16, whose network is trained further: its parameters and its
    normalizer instead of new ones. For other classes, or images of another size, its last layers are made new."""
    init_preprocessing: Literal["", "unit", "raw", "symmetric", "imagenet", "caffe"] = ""
    """What the weights of init_from were trained on, where their file does not say it: RGB in 0 to 1 (unit), in 0 to
    255 (raw) or in -1 to 1 (symmetric), as torchvision's (imagenet) or as Keras' VGG (caffe)."""
    freeze: tuple[str, ...] = ()
    """Layers that are not trained, or blocks of layers: block1 block2 block3_conv1."""
    microbatches: int = 1
    """Divide each device's share of a batch into this many parts, one after another, and add up their gradients before
    the update: this needs less memory. Results depend on it by rounding only, without BatchNorm."""
    remat: bool = False
    """Keep only the input of each block of layers and compute the rest again in the backward pass: less memory, about
    a third more operations. Results depend on it by rounding only."""
    early_stopping_patience: int = 0
    """Stop after this many epochs without a lower validation loss. 0 never stops early."""
    checkpoint_every_steps: int = 1000
    """Save within an epoch too, once this many steps have passed since the last checkpoint. 0 saves at the ends of
    epochs only. Results do not depend on it."""
    weights_every_epochs: int = 0
    """Keep the weights after every so many epochs, and those before the first, as weights/epoch-0001.safetensors and so
    on in the run's folder, for `cnnjax film training`. 0 keeps only the best epoch's."""
    dispatches_per_epoch: int = 0
    """How many compiled calls make an epoch. 0 chooses: one on accelerators, one for each step on a CPU. Results do not
    depend on it."""
    tensorboard: bool = False
    """Also write the metrics of each epoch for TensorBoard, which needs the extra tensorboard."""
    profile: int = 0
    """Write a trace of this many steps, for XProf or TensorBoard's profiler, to the run's folder. 0 is off."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "microbatches"):
            _require(getattr(self, name) >= 1, f"--train.{_kebab(name)} {getattr(self, name)} must be at least 1")
        for name in (
            "steps_per_epoch", "early_stopping_patience", "checkpoint_every_steps", "dispatches_per_epoch", "profile",
            "weights_every_epochs",
        ):  # fmt: skip
            _require(getattr(self, name) >= 0, f"--train.{_kebab(name)} {getattr(self, name)} must not be negative")
        limits.check_seed(self.seed, "--train.seed ")
        _require(0 <= self.ema < 1, f"--train.ema {self.ema} must be at least 0 and less than 1")
        _require(all(k >= 1 for k in self.top_k), f"--train.top-k {min(self.top_k, default=1)} must be at least 1")


@dataclass(frozen=True)
class Config:
    """One training run."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: str = ""
    """The run's folder. Empty means runs/PRESET."""


@dataclass(frozen=True)
class DistributedConfig:
    """Which of several hosts this is. By default they are detected under SLURM, GKE, Cloud TPU and Open MPI."""

    coordinator: str = ""
    """ADDRESS:PORT of host 0: a free port there that the other hosts can reach."""
    count: int = 0
    """How many hosts there are. 1 looks for no others."""
    index: int = -1
    """The number of this host, from 0."""
    connect_timeout: int = 300
    """Seconds to wait for the other hosts at the start."""


def _kebab(name: str) -> str:
    return name.replace("_", "-")
