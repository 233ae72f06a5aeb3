"""JPEG files of cats and dogs, 500 × 375 as Kaggle's have it on average, rendered once; and tiny ones, of nothing."""

import os
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import procedural, runtime


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


def tiny(per_class: int) -> Path:
    """The same with 64 × 48 files of blurred noise, of which a class has 500 different ones: the others are links."""
    folder = runtime.cache_dir() / "benchmark-jpeg" / f"tiny-{per_class}"
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            file = place / f"{i}.jpg"
            if not file.exists() and i >= 500:
                os.link(place / f"{i % 500}.jpg", file)
            elif not file.exists():
                noise = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
                noise.resize((64, 48), Image.Resampling.BICUBIC).save(file)
    return folder
