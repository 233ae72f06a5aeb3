"""One epoch end to end: 2,000 JPEG files → decoded, augmented as in the article, trained on; beside Keras.

    python benchmarks/end_to_end.py

The files (500 × 375, as Kaggle's cats and dogs have it on average) are rendered into the cache folder at the first run.
Needs the extra `peers`. Writes benchmarks/results/end_to_end.json and the plot beside it.
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
    side: int = 150,
    batch: int = 32,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/end_to_end.json"),
) -> None:
    """Time whole epochs side by side.

    Args:
        per_class: Files a class.
        side: Pixels a side after resizing.
        batch: Pictures a step.
        rounds: Epochs of each contender.
        out: Where the results go.
    """
    folder = jpegs.files(per_class)
    pictures = 2 * per_class // batch * batch
    work = {"name": "epoch from JPEG files", "folder": str(folder), "side": side, "size": batch, "batch": pictures}
    found = compare.compare(work, WHO, rounds=rounds, calls=1)
    print(compare.table(found))
    compare.write(out, found, jax.devices()[0].device_kind, {"rounds": rounds})
    plot = figures.compare({work["name"]: found}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(end_to_end)
