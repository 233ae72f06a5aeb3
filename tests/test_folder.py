"""`from_folder` on real files of every kind that is promised, and its errors when something is wrong with them."""

import io
import logging
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import fit_normalizer, from_folder
from cnnjax.data.decode import decode
from cnnjax.data.prefetch import is_streamed
from cnnjax.errors import UserError

COLOURS = {"cat": (200, 40, 40), "dog": (40, 40, 200)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def flat_image(colour, size=(20, 16), number=0):
    """A flat image that `number` makes unlike all others."""
    return Image.new("RGB", size, (*colour[:2], (colour[2] + number) % 256))


def fill(root, count, classes=COLOURS, start=0):
    for name, colour in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            flat_image(colour, number=number).save(root / name / f"{number}.png")
    return root


def load(root, per_class=4, held_out=2, **others):
    return from_folder(root, image_size=8, per_class=per_class, valid=held_out, test=held_out, **others)


def colours(split):
    return {tuple(int(value) for value in image[0, 0]) for image in split.images}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_folder_per_class(tmp_path):
    dataset = load(fill(tmp_path, 10))
    test = dataset.test
    assert dataset.class_names == ("cat", "dog")
    assert dataset.skipped == ()
    for split, count in ((dataset.train, 8), (dataset.valid, 4), (test, 4)):
        assert split.images.shape == (count, 8, 8, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(np.bincount(split.labels), [count // 2, count // 2])
        np.testing.assert_array_equal(split.labels, split.images[:, 0, 0, 0] < 100)  # each beside its own label
    # Every image has a colour of its own: no two splits share one.
    assert len(colours(dataset.train) | colours(dataset.valid) | colours(test)) == 16


def test_all_that_is_left(tmp_path):
    dataset = load(fill(tmp_path, 10), per_class=None)
    assert len(dataset.train.labels) == 12


def test_a_seed_gives_the_same_splits_in_any_order_of_files(tmp_path):
    """Files made in the opposite order, elsewhere: the same draw."""
    one = fill(tmp_path / "one", 10)
    for number in reversed(range(10)):
        fill(tmp_path / "two", 1, dict(reversed(COLOURS.items())), start=number)
    first, second = load(one), load(tmp_path / "two")
    for split in ("train", "valid"):
        np.testing.assert_array_equal(getattr(first, split).images, getattr(second, split).images)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert colours(load(one, seed=1).valid) != colours(first.valid)


@pytest.mark.parametrize(
    ("seed", "train", "valid", "test"),
    [
        (0, [11, 0, 8, 2, 5, 3, 9, 0, 4, 2], [9, 1, 4, 6, 10, 5], [3, 10, 6, 7, 8, 1]),
        (5, [6, 10, 9, 4, 0, 1, 8, 11, 3, 10], [2, 7, 1, 2, 5, 0], [11, 8, 3, 4, 6, 9]),
    ],
)
def test_the_draw_is_the_first_editions(tmp_path, seed, train, valid, test):
    """Recorded with the first edition: green is the file's number."""
    for name, red in (("cat", 200), ("dog", 40)):
        (tmp_path / name).mkdir()
        for number in range(12):
            Image.new("RGB", (20, 16), (red, number, 7)).save(tmp_path / name / f"{number}.png")
    dataset = load(tmp_path, per_class=5, held_out=3, seed=seed)
    for split, numbers in ((dataset.train, train), (dataset.valid, valid), (dataset.test, test)):
        assert split.images[:, 0, 0, 1].tolist() == numbers


def test_fractions_and_images_that_are_not_square(tmp_path):
    fill(tmp_path, 20)
    dataset = from_folder(tmp_path, image_size=(6, 10), valid=0.25, test=3)
    assert [len(split) for split in (dataset.train, dataset.valid, dataset.test)] == [24, 10, 6]
    assert dataset.train.images.shape == (24, 6, 10, 3)
    assert dataset.provenance["source"] == f"folder:{tmp_path}" and dataset.provenance["valid"] == 0.25
    assert f"folder:{tmp_path}" in repr(dataset)
    streamed = from_folder(tmp_path, image_size=(6, 10), valid=0.25, test=3, loading="stream")
    np.testing.assert_array_equal(streamed.train.images[np.arange(24)], dataset.train.images)


@pytest.mark.parametrize("valid", ["valid", "validation", "val"])
def test_split_folders(tmp_path, valid):
    fill(tmp_path / "train", 6)
    fill(tmp_path / valid, 3, start=100)
    fill(tmp_path / "test", 2, start=200)
    dataset = load(tmp_path, per_class=None)
    assert len(dataset.train.labels) == 12
    everything = {
        (*colour[:2], (colour[2] + number) % 256) for colour in COLOURS.values() for number in (100, 101, 102)
    }
    assert len(colours(dataset.valid)) == 4
    assert colours(dataset.valid) <= everything
    assert colours(dataset.test) == {
        (*colour[:2], (colour[2] + number) % 256) for colour in COLOURS.values() for number in (200, 201)
    }


def test_train_and_validation_folders_alone_take_the_test_split_from_train(tmp_path):
    fill(tmp_path / "train", 6)
    fill(tmp_path / "validation", 2, start=100)
    dataset = load(tmp_path, per_class=None)
    assert len(dataset.train.labels) == 8
    everything = colours(dataset.train) | colours(dataset.valid) | colours(dataset.test)
    assert len(everything) == 16


def test_the_test_split_is_decoded_only_when_asked_for(tmp_path, caplog):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "valid", 2, start=100)
    fill(tmp_path / "test", 2, start=200)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.write_bytes(b"not an image")
    dataset = load(tmp_path, per_class=None)
    with pytest.raises(UserError, match=r"no image of class 'dog' can be read, 2 tried, for example test/dog/20"):
        _ = dataset.test


def test_broken_files_are_replaced_counted_and_named(tmp_path, caplog):
    fill(tmp_path, 30)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    expected = set()
    for number in range(0, 30, 5):
        (tmp_path / "cat" / f"{number}.png").write_bytes(whole[: len(whole) // 2] if number else b"")
        expected.add(f"cat/{number}.png")
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path, per_class=9, held_out=3)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [9, 9])
    np.testing.assert_array_equal(np.bincount(dataset.valid.labels), [3, 3])
    assert dataset.skipped
    assert set(dataset.skipped) <= expected
    (record,) = caplog.records
    assert f"left out {len(dataset.skipped)} file" in record.getMessage()
    assert dataset.skipped[0] in record.getMessage()
    assert (0, 0, 0) not in colours(dataset.train) | colours(dataset.valid)  # an empty slot would be black
    assert load(tmp_path, per_class=9, held_out=3).skipped == dataset.skipped  # from the cache, too


def test_broken_files_without_others_to_take_their_place(tmp_path):
    fill(tmp_path, 8)
    for file in list((tmp_path / "cat").iterdir()):
        if file.stem in "0123":
            file.write_bytes(b"broken")
    dataset = load(tmp_path, per_class=None, held_out=1)
    test = dataset.test
    assert [int(sum(split.labels == 0)) for split in (dataset.train, dataset.valid, test)].count(0) == 0
    assert sum(int(sum(split.labels == 0)) for split in (dataset.train, dataset.valid, test)) == 4
    assert sum(int(sum(split.labels == 1)) for split in (dataset.train, dataset.valid, test)) == 8


def test_other_files_are_ignored(tmp_path, caplog):
    fill(tmp_path, 10)
    for name in (".DS_Store", "notes.txt", ".hidden.png", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    dataset = load(tmp_path, per_class=None)
    assert len(dataset.train.labels) == 12
    assert caplog.records == []


def test_images_are_decoded_once(tmp_path, monkeypatch):
    fill(tmp_path, 10)
    load(tmp_path)
    monkeypatch.setattr("cnnjax.data.load_images.decode", lambda *_: pytest.fail("decoded again"))
    load(tmp_path)
    monkeypatch.undo()


def test_a_changed_file_is_decoded_again(tmp_path, own_cache):
    fill(tmp_path, 8)
    before = load(tmp_path)
    for file in (tmp_path / "cat").iterdir():
        flat_image((1, 2, 3), number=int(file.stem)).save(file)
        os.utime(file, ns=(1, 1))
    assert colours(load(tmp_path).train) != colours(before.train)


@pytest.mark.parametrize("loading", ["auto", "stream", "resident"])
def test_what_would_take_more_than_a_quarter_of_the_free_memory_is_streamed(tmp_path, monkeypatch, loading):
    fill(tmp_path, 10)
    size = (4 + 2 + 2) * 2 * 8 * 8 * 3  # training, validation and test
    for free, streamed in ((4 * size, False), (4 * size - 1, True)):
        monkeypatch.setattr("cnnjax.runtime.free_memory", lambda free=free: free)
        dataset = load(tmp_path, loading=loading)
        assert (
            is_streamed(dataset.train)
            == is_streamed(dataset.valid)
            == (streamed if loading == "auto" else loading == "stream")
        )


def test_an_index_is_made_once_and_anew_for_changed_files(tmp_path, monkeypatch):
    fill(tmp_path, 10)
    load(tmp_path, loading="stream")
    monkeypatch.setattr("cnnjax.data.load_images.decode", lambda *_: pytest.fail("decoded again"))
    again = load(tmp_path, loading="stream").train
    monkeypatch.undo()
    assert again.images.shape == (8, 8, 8, 3)
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(again.images[np.arange(8)], load(tmp_path, loading="resident").train.images)


def test_the_normalizer_is_that_of_the_resident_split(tmp_path):
    fill(tmp_path, 10)
    splits = [load(tmp_path, loading=loading).train for loading in ("resident", "stream")]
    for kind in ("mean", "standard", "zca"):
        jax.tree.map(np.testing.assert_array_equal, *(fit_normalizer(kind, split) for split in splits))


def test_without_cache_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    load(fill(tmp_path / "images", 8), cache=False)
    assert not (tmp_path / "cache").exists()


def test_only_the_classes_asked_for_in_their_order(tmp_path):
    fill(tmp_path, 8, COLOURS | {"ant": (0, 90, 0)})
    (tmp_path / "empty").mkdir()
    dataset = load(tmp_path, classes=("dog", "ant"))
    assert dataset.class_names == ("dog", "ant")
    np.testing.assert_array_equal(dataset.train.labels, dataset.train.images[:, 0, 0, 1] == 90)


# Files of every kind: the colour in the middle is known.
ORANGE = (250, 130, 10)


def half_transparent():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    return image


def palette_with_hole():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([10, 10, 10, *ORANGE])
    return image


def tiff(dtype, value, white):
    """An image of numbers that do not say what white is, with one white pixel far from the middle."""
    values = np.full((400, 400), value, dtype)
    values[0, 0] = white
    return encoded(Image.fromarray(values), "TIFF")


KINDS = {
    "JPEG": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "JPEG", quality=95), ORANGE),
    "JPEG, grey": (lambda: encoded(Image.new("L", (20, 16), 77), "JPEG"), (77,) * 3),
    "JPEG, CMYK": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE).convert("CMYK"), "JPEG", quality=95), ORANGE),
    "PNG": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "PNG"), ORANGE),
    "PNG, grey": (lambda: encoded(Image.new("L", (20, 16), 77), "PNG"), (77,) * 3),
    "PNG, black and white": (lambda: encoded(Image.new("1", (20, 16), 1), "PNG"), (255,) * 3),
    "PNG, 16 bits": (lambda: encoded(Image.fromarray(np.full((16, 20), 77 * 257, np.uint16)), "PNG"), (77,) * 3),
    "PNG, transparent": (lambda: encoded(half_transparent(), "PNG"), (255,) * 3),
    "PNG, half transparent": (lambda: encoded(Image.new("RGBA", (9, 9), (200, 0, 100, 51)), "PNG"), (244, 204, 224)),
    "PNG, grey with alpha": (lambda: encoded(Image.new("LA", (9, 9), (0, 51)), "PNG"), (204,) * 3),
    "PNG, palette": (lambda: encoded(palette_with_hole(), "PNG"), ORANGE),
    "PNG, palette with transparency": (lambda: encoded(palette_with_hole(), "PNG", transparency=1), (255,) * 3),
    "PNG, transparent colour": (
        lambda: encoded(Image.new("RGB", (9, 9), ORANGE), "PNG", transparency=ORANGE),
        (255,) * 3,
    ),
    "WebP": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "WEBP", lossless=True), ORANGE),
    "WebP, transparent": (lambda: encoded(half_transparent(), "WEBP", lossless=True), (255,) * 3),
    "BMP": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "BMP"), ORANGE),
    "TIFF": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "TIFF"), ORANGE),
    "TIFF, 16 bits": (lambda: encoded(Image.fromarray(np.full((16, 20), 77 * 257, np.uint16)), "TIFF"), (77,) * 3),
    "TIFF, floats from 0 to 1": (lambda: tiff(np.float32, 77 / 255, 1), (77,) * 3),
    "TIFF, floats from 0 to 255": (lambda: tiff(np.float32, 77, 255), (77,) * 3),
    "TIFF, 32 bits for 8": (lambda: tiff(np.int32, 77, 255), (77,) * 3),
    "TIFF, 32 bits for 16": (lambda: tiff(np.int32, 77 * 257, 65535), (77,) * 3),
    "TIFF, CMYK": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE).convert("CMYK"), "TIFF"), ORANGE),
    "AVIF": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "AVIF", quality=95), ORANGE),
    "JPEG 2000": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "JPEG2000"), ORANGE),
    "PPM": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "PPM"), ORANGE),
    "TGA": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "TGA"), ORANGE),
    "QOI": (lambda: encoded(Image.new("RGB", (20, 16), ORANGE), "QOI"), ORANGE),
    "GIF": (lambda: encoded(palette_with_hole(), "GIF"), ORANGE),
    "GIF, animated": (
        lambda: encoded(
            Image.new("RGB", (9, 9), ORANGE),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (9, 9), "blue")],
        ),
        ORANGE,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(kind):
    make, expected = KINDS[kind]
    image = decode(make(), 8)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, np.broadcast_to(expected, (8, 8, 3)), atol=3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [((0, 70000), "from 0 to 7e"), ((-3.5, 1), "from -3.5 to 1"), ((0.5, np.nan), "not finite"), ((np.nan, 1), "nan")],
)
def test_values_that_say_nothing_about_brightness(values, sentence):
    image = np.full((300, 4), values[0], np.float32)
    image[-1] = values[1]
    with pytest.raises(ValueError, match=sentence):
        decode(encoded(Image.fromarray(image), "TIFF"), 8)


def test_bands_are_the_whole():
    """Taller than a band, with a colour for each row: what is converted some rows at a time is that of all at once."""
    rows = np.arange(600, dtype=np.uint16)[:, None].repeat(3, 1) * 100
    image = decode(encoded(Image.fromarray(rows), "PNG"), (600, 3))
    np.testing.assert_array_equal(image[:, 1, 0], (rows[:, 1].astype(int) + 128) // 257)
    alpha = np.zeros((600, 3, 4), np.uint8)
    alpha[..., 3] = (np.arange(600) % 256)[:, None]
    image = decode(encoded(Image.fromarray(alpha), "PNG"), (600, 3))
    np.testing.assert_allclose(image[:, 1, 0], 255 - alpha[:, 1, 3].astype(int), atol=1)


def test_what_is_no_picture_by_itself_is_refused_at_once(tmp_path, monkeypatch):
    """A pipe would be waited for, a device never ends, and PostScript would be run by another program."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "endless.jpg"):
        with pytest.raises(ValueError, match="not a regular file"):
            decode(tmp_path / name, 8)
    (tmp_path / "page.jpg").write_bytes(encoded(Image.new("RGB", (20, 16)), "EPS"))
    with pytest.raises(OSError, match="it is not an image"):
        decode(tmp_path / "page.jpg", 8)
    flat_image((1, 2, 3)).save(tmp_path / "large.png")
    monkeypatch.setattr("cnnjax.data.decode.MAX_BYTES", 10)
    with pytest.raises(ValueError, match="bytes, more than 10"):
        decode(tmp_path / "large.png", 8)
    monkeypatch.undo()
    monkeypatch.setattr("cnnjax.data.decode.MAX_PIXELS", 319)
    with pytest.raises(ValueError, match="20 × 16 pixels, more than 319"):
        decode(tmp_path / "large.png", 8)


def test_pipes_and_devices_in_a_class_are_not_read(tmp_path):
    fill(tmp_path, 8)
    os.mkfifo(tmp_path / "cat" / "x.jpg")
    (tmp_path / "dog" / "z.jpg").symlink_to("/dev/zero")
    dataset = load(tmp_path)
    assert dataset.skipped == () and len(dataset.train) == 8
    assert "not read: 2 .jpg" in dataset.provenance["found"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(orientation, kind):
    """The stored pixels are those that the camera would have stored: read back, the red corner is top left."""
    upright = np.full((16, 16, 3), 255, np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[:8, 8:] = (0, 255, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} | ({"lossless": True} if kind == "WEBP" else {})
    image = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options), 8)
    assert image[1, 1, 0] > 200 > 60 > image[1, 1, 1]
    assert image[1, 6, 1] > 200 > 60 > image[1, 6, 0]
    assert image[6, 1].min() > 200


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("crop", [0.0, 0.8])
def test_the_size_is_that_of_the_upright_image(orientation, crop):
    """Left red, right blue when upright; cropped or not."""
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:, :30, 0] = upright[:, 30:, 2] = 255
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright, 1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    image = decode(content, (8, 20), crop)
    assert image.shape == (8, 20, 3)
    assert image[:, :9, 0].min() > 250 and image[:, 11:, 2].min() > 250 and image[:, :9, 2].max() < 5


def test_a_crop_has_the_new_aspect_and_its_share_of_the_size():
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    image = decode(encoded(Image.fromarray(columns), "PNG"), (50, 50), 0.5)
    # The central 50 × 50 of 100 × 200: columns 75 to 124.
    np.testing.assert_array_equal(image[:, :, 0], np.broadcast_to(np.arange(75, 125), (50, 50)))


def test_resizing_is_antialiased_and_ignores_the_aspect():
    fine = np.zeros((240, 320, 3), np.uint8)
    fine[:, ::2] = 255  # stripes finer than the result can hold: grey, not moiré
    np.testing.assert_allclose(decode(encoded(Image.fromarray(fine), "PNG"), 32), 127.5, atol=5)
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 60:] = 255
    image = decode(encoded(Image.fromarray(wide), "PNG"), 32)
    assert image[:, :14].max() < 10
    assert image[:, 18:].min() > 245


def test_the_fast_way_through_a_jpeg_is_close_to_the_slow_one():
    y, x = np.mgrid[0:375, 0:500]
    waves = np.stack([np.sin(x / 9), np.sin(y / 7), np.sin((x + y) / 11)], axis=-1) * 100 + 128
    image = Image.fromarray(waves.astype(np.uint8))
    fast = decode(encoded(image, "JPEG", quality=95), 48).astype(float)
    slow = decode(encoded(image, "PNG"), 48).astype(float)
    assert np.abs(fast - slow).mean() < 3


# What is said when something is wrong.
def damage_missing(root):
    return root / "nowhere", "there is no folder "


def damage_file(root):
    (root / "file").write_text("x")
    return root / "file", "is a file"


def damage_no_folders(root):
    flat_image((1, 2, 3)).save(root / "1.png")
    return root, "holds no folders"


def damage_one_class(root):
    return fill(root, 8, {"cat": (1, 2, 3)}), "at least two classes are required; found only 'cat'"


def damage_empty_class(root):
    fill(root, 8)
    (root / "bird").mkdir()
    (root / "bird" / "notes.txt").write_text("x")
    return root, "the folder of class 'bird'"


def damage_only_image(root):
    fill(root, 8, {"cat": (1, 2, 3)})
    (root / "dog").mkdir()
    (root / "dog" / "rex.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    return root, f"the only image of class 'dog', {root / 'dog' / 'rex.jpg'}, cannot be read"


def damage_every_image(root):
    fill(root, 8)
    for file in (root / "dog").iterdir():
        file.write_bytes(b"broken")
    return root, "no image of class 'dog' can be read"


def damage_too_few(root):
    return fill(root, 7), "class 'cat' has 7 images where 8 are needed (4 for training, 2 for validation, 2 for test)"


def damage_class_without_validation(root):
    fill(root / "train", 8, COLOURS | {"ant": (3, 3, 3)})
    fill(root / "valid", 8)
    return root, "class 'ant' is in"


def damage_class_without_training(root):
    fill(root / "train", 8)
    fill(root / "valid", 8, COLOURS | {"ant": (3, 3, 3)})
    return root, "class 'ant' is in"


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.removeprefix("damage_"))
def test_one_clear_sentence(tmp_path, damage):
    root, sentence = damage(tmp_path)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_folder_that_leads_nowhere(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    for place in (tmp_path / "circle", "~nobody-of-this-name/photos"):
        with pytest.raises(UserError, match="there is no folder .*: give a folder with a folder per class"):
            load(place)


def test_a_class_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="unknown class 'dgo': did you mean dog"):
        load(fill(tmp_path, 8), classes=("cat", "dgo"))


def test_importing_the_data_package_imports_nothing_heavy():
    script = (
        "import sys, cnnjax.data, cnnjax.data.folder, cnnjax.data.tfds, cnnjax.data.hub\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'grain', 'datasets', 'cnnjax.procedural'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
