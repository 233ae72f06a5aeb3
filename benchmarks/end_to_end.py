"""One epoch end to end: 2,000 JPEG files → decoded, augmented as in the article, trained on; beside Keras.

    python benchmarks/end_to_end.py

The files (500 × 375, as Kaggle's cats and dogs have it on average) are rendered into the cache folder at the first run.
Needs the extra `peers`. Writes benchmarks/results/end_to_end.json and the plot beside it.
"""

from pathlib import Path

import contest
import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import cli, figures, runtime
from cnnjax.data import procedural

OURS = contest.Contender(contest.OURS.who, "ours_epoch")
WHO = (
    OURS,
    contest.Contender("Keras ImageDataGenerator", "keras_epoch", (("pipeline", "generator"),)),
    contest.Contender("Keras tf.data", "keras_epoch", (("pipeline", "tf.data"),)),
)


def files(folder: Path, per_class: int) -> Path:
    """A folder per class with so many JPEG files in each, made if they are not there."""
    for name in ("cat", "dog"):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(per_class) if not (place / f"{i}.jpg").exists()]
        with tqdm(total=len(missing), desc=f"drawing JPEG files of {name}s", unit=" file", leave=False) as bar:
            for first in range(0, len(missing), 100):
                some = missing[first : first + 100]
                keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.asarray(some, np.uint32))
                for i, pixels in zip(some, np.asarray(procedural.render(name, keys, 256)), strict=True):
                    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i}.jpg")
                bar.update(len(some))
    return folder


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
    folder = files(runtime.cache_dir() / "benchmark-jpeg" / str(per_class), per_class)
    pictures = 2 * per_class // batch * batch
    work = {"name": "epoch from JPEG files", "folder": str(folder), "side": side, "size": batch, "batch": pictures}
    found = contest.contest(work, WHO, rounds=rounds, calls=1)
    print(contest.table(found))
    contest.write(out, found, jax.devices()[0].device_kind, {"rounds": rounds})
    plot = figures.contest({work["name"]: found}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    cli.main(end_to_end)
