"""Real images end to end: SmallCNN tells apart tiles of three photographs, held-out regions of each included.

The photographs (brick, grass, gravel) are CC0 and come with scikit-image itself, so nothing is downloaded.
"""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cnnjax import Network, models, train
from cnnjax.data import from_folder

TILE = 64  # pixels of the photographs, which are 512 × 512
REGIONS = {"train": (0, 320), "valid": (320, 416), "test": (416, 512)}  # columns: no pixel is in two splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("textures")
    for name, photograph in {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}.items():
        for split, (left, right) in REGIONS.items():
            (root / split / name).mkdir(parents=True)
            for y in range(0, 512 - TILE + 1, 16):
                for x in range(left, right - TILE + 1, 16):
                    tile = np.ascontiguousarray(photograph[y : y + TILE, x : x + TILE])
                    Image.fromarray(tile).save(root / split / name / f"{y}-{x}.png")
    return root


@pytest.mark.slow
def test_small_cnn_learns_tiles_of_photographs(folder):
    dataset = from_folder(folder, image_size=32, per_class=200, valid=60, test=60)
    assert dataset.class_names == ("brick", "grass", "gravel")
    model = models.create("small-cnn", num_classes=3, image_size=32, width_multiplier=0.5)
    tx = train.optimizers.create("adam", 1e-3)
    result = train.fit(Network.create(model, dataset), dataset, tx, epochs=10, batch_size=16, strategy="jit")
    assert result.test["count"] == 180
    assert result.test["accuracy"] >= 0.95
