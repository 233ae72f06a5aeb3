"""One epoch end to end: 2,000 JPEG files are decoded, augmented as in the article and trained on; compared with Keras.

    python benchmarks/end_to_end.py

The files (500 × 375, the average size of Kaggle's cats and dogs) are rendered into the cache folder by the first run.
Needs the extra `peers`. Writes benchmarks/results/end_to_end.json and a plot next to it.
"""

from pathlib import Path

import compare
import jax
import jpegs

from cnnjax import figures
from cnnjax.cli import command_line

OURS = compare.Contender(compare.OURS.who, "ours_epoch")
WHO = (
    OURS,
    compare.Contender("Keras ImageDataGenerator", "keras_epoch", (("pipeline", "generator"),)),
    compare.Contender("Keras tf.data", "keras_epoch", (("pipeline", "tf.data"),)),
)


def end_to_end(
    *,
    per_class: int = 1000,
    image_size: int = 150,
    batch_size: int = 32,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/end_to_end.json"),
) -> None:
    """Time whole epochs side by side.

    Args:
        per_class: Files per class.
        image_size: Height and width in pixels after resizing.
        batch_size: Images per step.
        rounds: Epochs of each contender.
        out: The file for the results.
    """
    folder = jpegs.files(per_class)
    images = 2 * per_class // batch_size * batch_size
    work = {"name": "epoch from JPEG files", "folder": str(folder), "image_size": image_size}
    work |= {"batch_size": batch_size, "images": images}
    found = compare.compare(work, WHO, rounds=rounds, calls=1)
    print(compare.table(found))
    compare.write(out, found, jax.devices()[0].device_kind, {"rounds": rounds})
    plot = figures.compare({work["name"]: found}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(end_to_end)
