"""The article, computed from the first to the last section in cached stages, and its page."""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from cnnjax import data, models, runtime
from cnnjax.article import report, sections
from cnnjax.article.stage_cache import Result, StageCache
from cnnjax.article.training import AUGMENTED_BATCH_SIZE, CLASSES, PLAIN_BATCH_SIZE, TrainingRun
from cnnjax.data.augment import Augment
from cnnjax.network import Network
from cnnjax.visualize import recipes

PLAN = {
    "worked-examples": 15, "plain": 110, "augmented": 380, "small-network": 40, "feature-maps": 10, "filters": 180,
    "classes": 45,
}  # fmt: skip
"""The stages in order, with the seconds that each takes on two CPU cores."""


def run(
    out: Path,
    *,
    network: Network,
    image_size: int = 64,
    per_class: int = 1000,
    eval_per_class: int = 500,
    plain_epochs: int = 20,
    augmented_epochs: int = 40,
    image: UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"] | None = None,
    filters_recipe: str = "filters",
    filters_image_size: int = 96,
    classes_recipe: str = "classes",
    seed: int = 0,
    fresh: bool = False,
    command: str = "",
) -> Path:
    """Compute the article and write its page, `out/index.html`.

    Finished stages are read from `out`; an interrupted stage is continued.

    Args:
        out: Folder of the run.
        network: A VGG, whose feature maps, filters and classes sections 5 and 6 show.
        image_size: Height and width of the training images in pixels; 150 in the article.
        per_class: Number of training images of each class.
        eval_per_class: Number of validation images of each class, and also of test images.
        plain_epochs: Epochs of the run without augmentation.
        augmented_epochs: Epochs of the run with augmentation.
        image: The image for the feature maps, uint8 or floats in [0, 1]. None uses the photograph of a cat that is
            part of the package.
        filters_recipe: How filters are visualized; see `visualize.recipes`.
        filters_image_size: Height and width of the filters' images in pixels.
        classes_recipe: How classes are visualized.
        seed: For the data, the training and the visualizations.
        fresh: Compute all stages again.
        command: The command to show on the page.

    Returns:
        The path of the page.

    Raises:
        UserError: For an unknown recipe, a network without the layers that the article shows, a folder that cannot be
            written, or settings that do not fit together.
    """
    raise NotImplementedError
