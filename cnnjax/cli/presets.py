"""Named configs, each with a sentence that explains it in the help. They hold every default that is not a field's own.

Those of the article's section 4 have its batch sizes, Adam at 1e-3 and its ranges of augmentation.
"""

from pathlib import Path

from cnnjax.cli import config_json
from cnnjax.cli.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.errors import unknown

ALL_CLASSES = (
    "cat", "dog", "rabbit", "crocodile", "starfish", "husky", "goldfish",
    "bridge", "balloon", "tennis ball", "gondola", "dumbbell", "hammer", "lamp",
)  # fmt: skip

# The article trains without a warm-up. Without it Adam's first steps, which all have the same sign, add up over the
# 10,368 inputs of dense_1 and silence conv_4 at image size 150.
_WITH_WARMUP = OptimizerConfig(schedule="warmup", warmup_steps=500)
_SLIGHTLY = AugmentConfig(enabled=True, rotation=15.0, shift=0.1)
_FEW_IMAGES = DataConfig(image_size=64, per_class=100)
_NARROW_VGG = ModelConfig(name="vgg16", width_multiplier=0.25, dense_units=256)

_TABLE: dict[str, tuple[str, Config]] = {
    "debug": (
        "The small CNN on 80 tiny images, two epochs with augmentation: seconds, for trying changes.",
        Config(
            data=DataConfig(image_size=32, per_class=40, eval_per_class=20),
            augment=AugmentConfig(enabled=True),
            train=TrainConfig(epochs=2, batch_size=8),
        ),
    ),
    "cnn": (
        "The article's small CNN without augmentation, which overfits: 20 epochs of 100 steps (section 4.2).",
        Config(optimizer=_WITH_WARMUP, train=TrainConfig(epochs=20, batch_size=20, steps_per_epoch=100)),
    ),
    "cnn-augmented": (
        "The article's small CNN with augmentation: 60 epochs of 100 steps (section 4.4).",
        Config(
            augment=AugmentConfig(enabled=True),
            optimizer=_WITH_WARMUP,
            train=TrainConfig(epochs=60, batch_size=32, steps_per_epoch=100),
        ),
    ),
    "vgg16": (
        "The full VGG16 on 14 classes at 224 pixels in bfloat16: for an accelerator (section 5).",
        Config(
            data=DataConfig(image_size=224, classes=ALL_CLASSES, per_class=1000, eval_per_class=100),
            augment=_SLIGHTLY,
            model=ModelConfig(name="vgg16"),
            optimizer=OptimizerConfig(name="sgd", learning_rate=1e-2, schedule="warmup-cosine", warmup_steps=700),
            train=TrainConfig(epochs=60, batch_size=64, precision="bfloat16"),
        ),
    ),
    "vgg16-mini": (
        "The narrow VGG16 that is part of the package: 14 classes at 64 pixels, minutes on a CPU.",
        Config(
            data=DataConfig(image_size=64, classes=ALL_CLASSES, per_class=1000, eval_per_class=100),
            augment=_SLIGHTLY,
            model=ModelConfig(name="vgg16", width_multiplier=0.25, dense_units=512, dropout=0.5),
            optimizer=OptimizerConfig(name="adam", learning_rate=5e-4, schedule="warmup-cosine", warmup_steps=260),
            train=TrainConfig(epochs=12, batch_size=32),
        ),
    ),
    # The blog post that the article's source continues with has one dense layer of 256 units; a VGG has two.
    "new-head": (
        "A narrow VGG16 from scratch, all layers; the transfer command trains its new dense layers so.",
        Config(
            data=_FEW_IMAGES,
            model=_NARROW_VGG,
            optimizer=OptimizerConfig(learning_rate=1e-4),
            train=TrainConfig(epochs=30, batch_size=16),
        ),
    ),
    "fine-tune": (
        "Transfer, second step: the last block is trained too, slowly, from --train.init-from the first step's run.",
        Config(
            data=_FEW_IMAGES,
            augment=_SLIGHTLY,
            model=_NARROW_VGG,
            optimizer=OptimizerConfig(name="sgd", learning_rate=1e-4),
            train=TrainConfig(epochs=12, batch_size=16, freeze=("block1", "block2", "block3", "block4")),
        ),
    ),
}

PRESETS: dict[str, Config] = {name: config for name, (_, config) in _TABLE.items()}
DESCRIPTIONS: dict[str, str] = {name: sentence for name, (sentence, _) in _TABLE.items()}


def preset(name: str) -> Config:
    """A named preset. Raises UserError, with the nearest names, when there is none of that name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def find(argument: str) -> tuple[str, Config]:
    """A preset, or the settings of an earlier run by the path of its config.json; and a name for the new run.

    Raises UserError as `preset` does, and for a file that holds no settings.
    """
    if not argument.endswith(".json"):
        return argument, preset(argument)
    path = Path(argument)
    return f"{path.absolute().parent.name}-again", config_json.read(path)
