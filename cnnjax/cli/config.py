"""What a run is made of: small frozen dataclasses, named presets, and the only defaults in the project.

A config is data: `as_dict` writes it to a run's `config.json`, `from_dict` reads it back and the run can be repeated.
The presets are those of the article's section 4 (batch sizes, Adam at 1e-3, augmentation ranges) and of its section 5.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from cnnjax.errors import UserError, unknown

MODELS = ("small-cnn", "vgg11", "vgg13", "vgg16", "vgg19")
PRECISIONS = ("float32", "bfloat16")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from."""

    source: str = "procedural"
    """procedural, folder:PATH (a folder per class) or tfds:NAME (for example tfds:cats_vs_dogs)."""
    classes: tuple[str, ...] = ()
    """Keep only these classes. Empty: cat and dog for the procedural source, every class for the others."""
    side: int = 150
    """Pictures are square, this many pixels a side."""
    per_class: int = 1000
    """Training pictures a class; 0 takes all that is left after validation and test."""
    eval_per_class: int = 500
    """Pictures a class in the validation split and again in the test split."""
    seed: int = 0
    """Chooses which pictures are drawn or rendered."""
    feed: Literal["auto", "resident", "stream"] = "auto"
    """resident: decoded pictures live on the devices. stream: they are decoded anew for every batch, by processes or
    threads that work ahead. auto: stream what would take more than a quarter of the free memory. Results do not depend
    on it."""
    workers: int = 0
    """Processes that decode for the streaming feed; 0 uses threads, which suffice on a few cores."""
    cache: bool = True
    """Keep decoded, resized pictures as uint8 in the user's cache folder."""
    cleaning: Literal["none", "mean", "standard", "zca"] = "standard"
    """Data cleaning (article, section 4.3), estimated on the training split: subtract the mean colour; divide by each
    colour's standard deviation too; or whiten."""

    def __post_init__(self) -> None:
        kind, _, rest = self.source.partition(":")
        if kind not in ("procedural", "folder", "tfds"):
            raise unknown("data source", self.source, ("procedural", "folder:PATH", "tfds:NAME"))
        _require(kind == "procedural" or bool(rest), f"--data.source {kind} needs a name: write {kind}:…")
        _require(
            kind != "procedural" or self.feed != "stream",
            "--data.feed stream needs pictures in files, which procedural has not: use --data.feed resident",
        )
        _require(self.workers >= 0, f"--data.workers {self.workers} is negative: use 0 for threads")
        _require(self.side >= 8, f"--data.side {self.side} is too small: use 8 pixels or more")
        _require(self.per_class >= 0, f"--data.per-class {self.per_class} is negative: use 0 for all pictures")
        _require(self.eval_per_class >= 1, f"--data.eval-per-class {self.eval_per_class} must be at least 1")


@dataclass(frozen=True)
class AugmentConfig:
    """Random transformations of the training pictures; the defaults are the article's ranges (section 4.3)."""

    enabled: bool = False
    rotation: float = 40.0
    """Degrees, either way."""
    shift: float = 0.2
    """Fraction of height and of width, either way."""
    shear: float = 0.2
    """Degrees, as Keras counts it."""
    zoom: float = 0.2
    """Each axis is scaled by a factor from [1 - zoom, 1 + zoom]."""
    flip: bool = True
    """Mirror left-right with probability one half."""
    fill: Literal["nearest", "constant", "reflect"] = "nearest"
    exposure: float = 0.0
    """Multiply by 2**u, u uniform in [-exposure, exposure] (photographic stops)."""
    contrast: float = 0.0
    """Scale about the picture's mean by a factor from [1 - contrast, 1 + contrast]."""

    def __post_init__(self) -> None:
        for name in ("rotation", "shift", "shear", "exposure"):
            _require(getattr(self, name) >= 0, f"--augment.{name} must not be negative")
        for name in ("zoom", "contrast"):
            _require(0 <= getattr(self, name) < 1, f"--augment.{name} must be in [0, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """Which network. With two classes the output is one sigmoid logit, with more it is one logit a class."""

    name: Literal["small-cnn", "vgg11", "vgg13", "vgg16", "vgg19"] = "small-cnn"
    width: float = 1.0
    """Multiplies every layer's channel count."""
    dense: int = 0
    """VGG: units of fc1 and fc2; 0 means 4096 times the width."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise unknown("model", self.name, MODELS)
        _require(self.width > 0, f"--model.width {self.width} must be positive")
        _require(self.dense >= 0, f"--model.dense {self.dense} must not be negative")
        _require(0 <= self.dropout < 1, f"--model.dropout {self.dropout} must be in [0, 1)")


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optax optimizer and learning-rate schedule; the defaults are Keras' Adam, as in the article."""

    name: Literal["adam", "sgd", "rmsprop", "adamw"] = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    """For sgd."""
    weight_decay: float = 1e-4
    """For adamw."""
    schedule: Literal["constant", "warmup", "cosine", "warmup-cosine"] = "constant"
    warmup: int = 500
    """Steps over which the rate rises from 0, for warmup and warmup-cosine."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, f"--optimizer.learning-rate {self.learning_rate} must be positive")
        _require(self.warmup >= 0, f"--optimizer.warmup {self.warmup} must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """How long and how."""

    epochs: int = 20
    batch_size: int = 20
    steps_per_epoch: int = 0
    """Steps that are called an epoch; 0 means one pass over the training split (a last partial batch carries over)."""
    seed: int = 0
    """Fixes initial weights, order, dropout and augmentation."""
    parallel: Literal["auto", "jit", "pmap", "mesh"] = "auto"
    """jit: one device. pmap: jax.pmap over all devices. mesh: jit with sharded batches over all devices.
    auto: jit on one device, mesh on several."""
    calls_per_epoch: int = 0
    """How many compiled calls make an epoch (each is one lax.scan); 0 chooses 1 on accelerators, more on a CPU so that
    progress is seen. Results do not depend on it."""
    checkpoint_steps: int = 1000
    """Save within an epoch too, after the first call that ends so many steps from the last checkpoint; 0 saves at the
    ends of epochs only. Counted in steps, on which several hosts agree. Results do not depend on it."""
    early_stopping: int = 0
    """Stop after this many epochs without a lower validation loss; 0 never stops early."""
    tensorboard: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    """What layers compute in. Parameters, the optimizer's state, logits and loss are float32 in both. For accelerators:
    a CPU gains nothing from bfloat16."""
    microbatches: int = 1
    """Each device takes its share of a batch in so many equal parts, one after another, and adds up their gradients
    before the one update: less memory. Results depend on it by rounding only."""
    remat: bool = False
    """Keep only the input of each block of convolutions, and compute the rest of it again in the backward pass: less
    memory, about a third more operations. Results depend on it by rounding only."""
    start: str = ""
    """A weights file whose network goes on learning: its parameters and its cleaning instead of new ones."""
    frozen: tuple[str, ...] = ()
    """Layers, or blocks of them, that stay as they are: block1 block2 block3_conv1."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"--train.epochs {self.epochs} must be at least 1")
        _require(self.batch_size >= 1, f"--train.batch-size {self.batch_size} must be at least 1")
        _require(self.microbatches >= 1, f"--train.microbatches {self.microbatches} must be at least 1")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        for name in ("steps_per_epoch", "calls_per_epoch", "checkpoint_steps", "early_stopping"):
            _require(getattr(self, name) >= 0, f"--train.{name.replace('_', '-')} must not be negative")


@dataclass(frozen=True)
class HostsConfig:
    """Which of several machines this is. Left out: as SLURM, GKE, Cloud TPU or Open MPI say, else this one alone."""

    coordinator: str = ""
    """ADDRESS:PORT of host 0, a free port there that the others can reach."""
    count: int = 0
    """How many hosts there are; 1 looks for no others."""
    index: int = -1
    """This host's number, from 0."""
    patience: int = 300
    """Seconds to wait for the other hosts at the start."""

    def __post_init__(self) -> None:
        _require(self.patience >= 1, f"--hosts.patience {self.patience} must be at least 1 second")
        if not self.coordinator:
            _require(
                self.index == -1 and self.count in (0, 1),
                "--hosts.count and --hosts.index need --hosts.coordinator, ADDRESS:PORT of host 0",
            )
            return
        _require(
            re.fullmatch(r".+:\d{1,5}", self.coordinator) is not None,
            f"--hosts.coordinator {self.coordinator} must be ADDRESS:PORT, such as 10.0.0.1:8476",
        )
        _require(self.count >= 1, "--hosts.coordinator needs --hosts.count, how many hosts there are")
        _require(
            0 <= self.index < self.count,
            f"--hosts.index must be this host's number, from 0 to {self.count - 1}, not {self.index}",
        )


AUTO = HostsConfig()


@dataclass(frozen=True)
class Config:
    """One run."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: str = ""
    """The run's folder; empty means runs/PRESET."""


def as_dict(config: Any) -> dict[str, Any]:
    """A config (or a part of one) as plain JSON-able data."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `as_dict` for `Config` and its parts.

    Raises UserError for a field that `kind` does not have, or a value that it does not accept.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            raise unknown(f"field of {kind.__name__}", name, fields)
        if dataclasses.is_dataclass(fields[name].type):
            value = from_dict(fields[name].type, value)
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)


_ALL = (
    "cat", "dog", "rabbit", "crocodile", "starfish", "husky", "goldfish",
    "bridge", "balloon", "tennis ball", "gondola", "dumbbell", "hammer", "lamp",
)  # fmt: skip

_GENTLE = OptimizerConfig(schedule="warmup", warmup=500)
_FEW = DataConfig(side=64, per_class=100)
_NARROW = ModelConfig(name="vgg16", width=0.25, dense=256)

PRESETS: dict[str, Config] = {
    # Everything, in seconds: for trying changes.
    "debug": Config(
        data=DataConfig(side=32, per_class=40, eval_per_class=20),
        augment=AugmentConfig(enabled=True),
        train=TrainConfig(epochs=2, batch_size=8),
    ),
    # Article, section 4.2: no augmentation, batch 20, 100 steps an epoch, 20 epochs. The warm-up is ours: without it
    # Adam's first steps, which all agree and add up over the 10,368 inputs of dense_1, silence conv_4 at side 150.
    "cnn": Config(optimizer=_GENTLE, train=TrainConfig(epochs=20, batch_size=20, steps_per_epoch=100)),
    # Article, section 4.4: augmentation, batch 32, 100 steps an epoch, 60 epochs.
    "cnn-augmented": Config(
        augment=AugmentConfig(enabled=True),
        optimizer=_GENTLE,
        train=TrainConfig(epochs=60, batch_size=32, steps_per_epoch=100),
    ),
    # Article, section 5, at full size: for an accelerator.
    "vgg16": Config(
        data=DataConfig(side=224, classes=_ALL, per_class=1000, eval_per_class=100),
        augment=AugmentConfig(enabled=True, rotation=15.0, shift=0.1),
        model=ModelConfig(name="vgg16"),
        optimizer=OptimizerConfig(name="sgd", learning_rate=1e-2, schedule="warmup-cosine", warmup=700),
        train=TrainConfig(epochs=60, batch_size=64, precision="bfloat16"),
    ),
    # The narrow VGG16 that the package ships.
    "vgg16-mini": Config(
        data=DataConfig(side=64, classes=_ALL, per_class=1000, eval_per_class=100),
        augment=AugmentConfig(enabled=True, rotation=15.0, shift=0.1),
        model=ModelConfig(name="vgg16", width=0.25, dense=512, dropout=0.5),
        optimizer=OptimizerConfig(name="adam", learning_rate=5e-4, schedule="warmup-cosine", warmup=260),
        train=TrainConfig(epochs=12, batch_size=32),
    ),
    # Transfer, first step: new dense layers on what a trained VGG's convolutions make of few pictures (blog post's
    # bottleneck features; it has one layer of 256 units, a VGG has two).
    "new-head": Config(
        data=_FEW,
        model=_NARROW,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        train=TrainConfig(epochs=30, batch_size=16),
    ),
    # Second step, from the first one's weights (--train.start): the last block learns too, slowly.
    "fine-tune": Config(
        data=_FEW,
        augment=AugmentConfig(enabled=True, rotation=15.0, shift=0.1),
        model=_NARROW,
        optimizer=OptimizerConfig(name="sgd", learning_rate=1e-4),
        train=TrainConfig(epochs=12, batch_size=16, frozen=("block1", "block2", "block3", "block4")),
    ),
}


def preset(name: str) -> Config:
    """A named preset. Raises UserError, with the nearest names, when there is none of that name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
