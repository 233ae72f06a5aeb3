"""ImageNet's classes, and how its networks are shown images."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import imagenet
from cnnjax.data.decode import decode
from cnnjax.errors import UserError
from cnnjax.visualize import recipes

NAMES = imagenet.class_names()


def test_a_thousand_names_no_two_alike():
    assert len(NAMES) == len(set(NAMES)) == 1000
    assert NAMES[0] == "tench" and NAMES[999] == "toilet tissue"
    assert all(name == name.strip() and name for name in NAMES)


def test_the_articles_words_are_at_the_articles_indices():
    found = {word: NAMES[index] for word, index in recipes.CLASSES.items()}
    told_apart = {
        "rabbit": "wood rabbit",
        "crocodile": "African crocodile",
        "husky": "Eskimo dog",
        "bridge": "suspension bridge",
        "lamp": "table lamp",
    }
    assert found == {word: told_apart.get(word, word) for word in recipes.CLASSES}


def test_classes_are_found_by_the_articles_word_and_by_their_own():
    assert recipes.classes_of(NAMES, ["lamp", "gondola", "husky"]) == ["table lamp", "gondola", "Eskimo dog"]
    assert recipes.classes_of(NAMES, "lamp") == ["table lamp"]
    assert recipes.classes_of(NAMES) == [NAMES[index] for index in recipes.CLASSES.values()]
    assert recipes.classes_of(("cat", "lamp", "rabbit")) == ["rabbit", "lamp"]
    assert recipes.classes_of([str(i) for i in range(20)]) == [str(i) for i in range(12)]
    with pytest.raises(UserError, match="unknown class 'spaniel': did you mean .*spaniel"):
        recipes.classes_of(NAMES, ["spaniel"])
    with pytest.raises(UserError, match="unknown class 'tabel lamp': did you mean table lamp"):
        recipes.classes_of(NAMES, ["tabel lamp"])


def test_a_thousand_names_are_not_all_listed():
    with pytest.raises(UserError, match="choose one of tench, .* and 960 more$"):
        recipes.classes_of(NAMES, ["?"])


def test_only_networks_of_imagenets_classes_are_shown_the_middle():
    assert imagenet.crop(NAMES) == 224 / 256
    assert imagenet.crop(("cat", "dog")) == 0


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width, height):
    """A image without detail, so that the way of resizing hardly matters, only what is in the frame."""
    y, x = np.mgrid[0:height, 0:width]
    wave = np.stack([np.sin(x / 31) * np.cos(y / 47), np.sin(y / 23), np.cos((x + y) / 53)], axis=-1)
    return Image.fromarray(np.uint8(127.5 + 127 * wave))


@pytest.mark.parametrize(
    ("width", "height"), [(256, 256), (500, 375), (375, 500), (1600, 300), (100, 64), (1500, 1000)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_middle_is_torchvisions(width, height, kind):
    """Its ImageClassification preset: the short side to 256, the long one in proportion, then the middle 224 × 224."""
    content = encoded(smooth(width, height), kind, **({"quality": 95} if kind == "JPEG" else {}))
    short = min(width, height)
    resized = (int(256 * width / short), int(256 * height / short))
    with Image.open(io.BytesIO(content)) as image:
        whole = np.asarray(image.resize(resized, Image.Resampling.BILINEAR), float)
    top, left = (round((size - 224) / 2) for size in whole.shape[:2])
    expected = whole[top : top + 224, left : left + 224]
    # The long side is rounded there and is not here, up to half a pixel at 256.
    np.testing.assert_allclose(decode(content, 224, imagenet.CROP), expected, atol=6)
    assert np.abs(decode(content, 224).astype(float) - expected).max() > 20


def test_the_middle_of_a_square_is_exact():
    """Of a JPEG, too: none of the shortcuts that training images take."""
    rough = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    content = encoded(Image.fromarray(rough).resize((600, 600), Image.Resampling.BICUBIC), "JPEG", quality=90)
    with Image.open(io.BytesIO(content)) as image:
        whole = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(content, 224, imagenet.CROP), whole[16:240, 16:240])
