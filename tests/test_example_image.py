from importlib import resources

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cnnjax.data import example_image
from cnnjax.errors import UserError


def test_the_photograph_is_scikit_images_and_is_credited():
    np.testing.assert_array_equal(example_image.chelsea(), data.chelsea())
    assert "CC0" in resources.files("cnnjax.data").joinpath("CREDITS.md").read_text()


def test_the_face_is_a_square_in_unit_range():
    face = example_image.chelsea_face(150)
    assert face.shape == (150, 150, 3) and face.dtype == np.float32
    assert face.min() >= 0 and face.max() <= 1
    np.testing.assert_array_equal(example_image.chelsea_face(300), np.float32(data.chelsea()[:, 85:385]) / 255)


def test_a_users_image_is_read_and_a_bad_one_is_one_sentence(tmp_path):
    Image.fromarray(np.full((10, 20, 3), 51, np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_allclose(example_image.load_image(tmp_path / "grey.png", 8), np.full((8, 8, 3), 0.2), atol=1e-6)
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        example_image.load_image(tmp_path / "broken.png", 8)
    with pytest.raises(UserError, match="there is no image"):
        example_image.load_image(tmp_path / "missing.png", 8)
