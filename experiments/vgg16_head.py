"""Dense layers for the real VGG16's convolutions: the fourteen procedural classes, for class pictures and `classify`.

    python experiments/vgg16_head.py
    python experiments/vgg16_head.py --per-class 20 --test 10 --valid 10 --seeds 0 --out runs/head-small

The convolutions that come with the package compute the features of every image once, and each seed's dense layers are
trained on them. Each seed's layers are written as int8 to OUT/seed-N.int8.safetensors, and the accuracies to
OUT/accuracy.json; the accuracy is that of the layers as they are read from the file. In cnnjax/weights/, the layers of
seed 1 are vgg16-head.int8.safetensors, and those of seed 0, which judge class pictures, are
vgg16-twin-head.int8.safetensors. Both were trained on rendered images only. Seed 1 classifies the photograph of a cat
in the package as a cat and seed 0 as a goldfish; therefore the commands use seed 1.

Measured with 600 training, 50 validation and 100 test images of each class at 96 × 96 pixels (renderer version 4), two
shared CPU cores: images and features in a quarter of an hour, each seed's layers in about 2 minutes. Correct of 1,400
test images: seed 0 77.4%, seed 1 76.4%. Seed 0 by class: tennis ball and gondola 100%, bridge 99%, starfish 98%,
crocodile and balloon 90%, goldfish and lamp 89%, hammer 84%, dumbbell 80%, husky 56%, rabbit 44%, dog 38%, cat 27%.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from cnnjax import configure, data, formats
from cnnjax.cli import command_line
from cnnjax.cli.presets import ALL_CLASSES
from cnnjax.files import write_json
from cnnjax.formats import bundled
from cnnjax.network import Network
from cnnjax.train import transfer


def vgg16_head(
    *,
    image_size: int = 96,
    per_class: int = 600,
    valid: int = 50,
    test: int = 100,
    dense_units: int = 512,
    epochs: int = 40,
    learning_rate: float = 1e-4,
    seeds: tuple[int, ...] = (0, 1),
    out: Path = Path("runs/vgg16-head"),
) -> None:
    """Train dense layers on the bundled VGG16's convolutions.

    Args:
        image_size: Height and width of the images in pixels, which the dense layers fix.
        per_class: Training images of each class.
        valid: Validation images of each class.
        test: Test images of each class.
        dense_units: Units of fc1 and of fc2.
        epochs: Passes over the features; the epoch of the lowest validation loss counts.
        learning_rate: Adam's at the start; it falls to zero as a cosine does.
        seeds: Of the initial weights, the order of the images and dropout.
        out: Folder for a file of each seed, and the accuracies.
    """
    configure()
    base = formats.load_bundled("vgg16", include_top=False)
    dataset = data.procedural.load(ALL_CLASSES, image_size=image_size, per_class=per_class, valid=valid, test=test)
    features, steps, results = None, epochs * (len(dataset.train) // 32), {}
    for seed in seeds:
        size = (image_size, image_size)
        network = transfer.replace_head(base, ALL_CLASSES, image_size=size, dense_units=dense_units, seed=seed)
        features = features or transfer.extract_features(network, dataset, mirrored=False)
        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
        trained = transfer.fit_head(network, features, optimizer, epochs=epochs, seed=seed).network
        notes = {"command": "python experiments/vgg16_head.py", "data": dataset.provenance | {"image_size": image_size}}
        path = out / f"seed-{seed}.int8.safetensors"
        formats.save_int8(path, trained.replace(provenance=trained.provenance | notes), layers=transfer.HEAD)
        results[seed] = _accuracy(formats.load_with_head(bundled.path(bundled.VGG16), path), features.test)
        print(f"wrote {path}: {results[seed]['all']:.1%} of {len(features.test)} test images")
    write_json(out / "accuracy.json", results)


def _accuracy(network: Network, features: data.Split) -> dict[str, float]:
    """The share of test images that are classified correctly, of all and of each class."""
    head = transfer.Head(network.model())
    logits = jax.jit(lambda images: head(images)[0])(features.images)
    right = np.argmax(logits, axis=1) == features.labels
    of_class = {name: right[features.labels == label].mean() for label, name in enumerate(network.class_names)}
    return {"all": float(right.mean())} | {name: float(value) for name, value in of_class.items()}


if __name__ == "__main__":
    command_line.main(vgg16_head)
