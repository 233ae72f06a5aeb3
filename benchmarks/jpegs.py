"""JPEG files for the benchmarks, made once: rendered cats and dogs of the average size of Kaggle's, and tiny noise."""

import os
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import procedural, runtime


def files(per_class: int) -> Path:
    """A folder in the user's cache with `per_class` files of 500 × 375 pixels per class; missing files are rendered."""
    folder = runtime.cache_dir() / "benchmark-jpeg" / str(per_class)
    for name in ("cat", "dog"):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(per_class) if not (place / f"{i}.jpg").exists()]
        with tqdm(total=len(missing), desc=f"rendering JPEG files of {name}s", unit=" file", leave=False) as bar:
            for first in range(0, len(missing), 100):
                some = missing[first : first + 100]
                keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.asarray(some, np.uint32))
                for i, pixels in zip(some, np.asarray(procedural.render(name, keys, 256)), strict=True):
                    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i}.jpg")
                bar.update(len(some))
    return folder


def tiny(per_class: int) -> Path:
    """The same with 64 × 48 files of blurred noise: 500 different files per class; the others are links to them."""
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
