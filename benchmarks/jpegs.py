"""JPEG files of cats and dogs, 500 × 375 as Kaggle's have it on average, rendered once."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import runtime
from cnnjax.data import procedural


def files(per_class: int) -> Path:
    """A folder in the user's cache with a folder per class and so many files in each, made if they are not there."""
    folder = runtime.cache_dir() / "benchmark-jpeg" / str(per_class)
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
