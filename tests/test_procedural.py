"""The embedded images: determinism, scale, splits, and that no shortcut tells a cat from a dog."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, procedural
from cnnjax.errors import UserError
from cnnjax.procedural import programs
from cnnjax.procedural.canvas import arc, box, canvas, capsule, cov, ellipse, fractal, polygon, ring
from cnnjax.procedural.surroundings import background

SIZE = 32


def load(**changes):
    return data.procedural.load(**{"image_size": SIZE, "per_class": 5, "valid": 3, "test": 3, "cache": False} | changes)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.fixture(scope="module")
def cats():
    """Of the keys 0 to 99 and 200 to 249."""
    return np.asarray(procedural.render("cat", keys(300)[np.r_[:100, 200:250]], SIZE))


@pytest.fixture(scope="module")
def dogs():
    """Of the keys 100 to 199 and 250 to 299."""
    return np.asarray(procedural.render("dog", keys(300)[np.r_[100:200, 250:300]], SIZE))


@pytest.fixture(scope="module")
def loaded():
    return load()


def test_images_are_uint8_and_use_the_range(cats):
    assert cats.shape == (150, SIZE, SIZE, 3)
    assert cats.dtype == np.uint8
    assert cats.min() < 10
    assert cats.max() > 245
    assert 80 < cats.mean() < 170
    assert cats.std(axis=(1, 2, 3)).min() > 8  # none is blank


def test_a_key_gives_the_same_image_alone_and_in_a_batch(cats):
    alone = np.asarray(procedural.render("cat", keys(300)[41:42], SIZE))
    np.testing.assert_array_equal(alone[0], cats[41])


def test_different_keys_differ(cats):
    flat = cats[:100].reshape(100, -1).astype(np.float32)
    distances = np.abs(flat[:, None, ::7] - flat[None, :, ::7]).mean(-1)
    assert distances[~np.eye(100, dtype=bool)].min() > 5


def test_a_key_gives_the_same_scene_at_any_size(cats):
    large = np.asarray(procedural.render("cat", keys(300)[:20], 2 * SIZE)).astype(np.float32)
    small = large.reshape(20, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    same = np.abs(small - cats[:20]).mean((1, 2, 3))
    other = np.abs(small - cats[20:40]).mean((1, 2, 3))
    assert same.max() < 6
    assert other.min() > 2 * same.max()


def test_the_background_does_not_depend_on_the_class(cats):
    # In most images the upper corners show the background alone, and the middle the subject.
    equal = (cats[:100] == procedural.render("dog", keys(300)[:100], SIZE)).all(-1)
    assert equal.any(axis=(1, 2)).mean() > 0.99
    corners, middle = equal[:, :2, :2].mean(), equal[:, 12:20, 12:20].mean()
    assert corners > 0.6 and middle < 0.5 and middle < corners - 0.2


def test_classes_differ_only_in_their_subject_and_all_animals_share_a_program():
    procedural.render("cat", keys(1), SIZE)
    before = programs.compiled.cache_info().currsize
    images = {name: np.asarray(procedural.render(name, keys(20), SIZE)) for name in ("rabbit", "husky", "cat")}
    assert programs.compiled.cache_info().currsize == before
    assert (images["rabbit"] != images["cat"]).any(axis=(1, 2, 3)).all()
    assert (images["rabbit"] != images["husky"]).any(axis=(1, 2, 3)).all()


def _ridge_accuracy(train, valid):
    """Accuracy on `valid` of the best of four ridge classifiers fitted to `train`; each a pair (class 0, class 1)."""
    x, z = np.concatenate(train).astype(np.float64), np.concatenate(valid).astype(np.float64)
    x, z = (x - x.mean(0)) / (x.std(0) + 1e-6), (z - x.mean(0)) / (x.std(0) + 1e-6)
    y, t = np.repeat([-1.0, 1.0], [len(part) for part in train]), np.repeat([False, True], [len(p) for p in valid])
    weights = [np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y) for ridge in (10, 100, 1e3, 1e4)]
    return max(((z @ weight > 0) == t).mean() for weight in weights)


def _border(x):
    return np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], 1).reshape(len(x), -1)[:, ::2]


FEATURES = {
    "colour": (lambda x: np.concatenate([x.mean((1, 2)), x.std((1, 2))], -1), 0.68),
    "thumbnail": (lambda x: x.reshape(len(x), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(x), -1), 0.68),
    "border": (_border, 0.60),
}


@pytest.mark.parametrize("name", FEATURES)
def test_no_shortcut_tells_cats_from_dogs(name, cats, dogs):
    # 100 + 100 images to fit, 50 + 50 to judge: cats and dogs of different keys.
    feature, limit = FEATURES[name]
    cat, dog = feature(cats.astype(np.float32)), feature(dogs.astype(np.float32))
    assert _ridge_accuracy((cat[:100], dog[:100]), (cat[100:], dog[100:])) < limit


def test_load_gives_disjoint_splits_in_order(loaded):
    dataset = loaded
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.images.shape == (10, SIZE, SIZE, 3)
    assert dataset.valid.images.shape == (6, SIZE, SIZE, 3)
    test = dataset.test
    np.testing.assert_array_equal(dataset.train.labels, np.repeat([0, 1], 5))
    np.testing.assert_array_equal(test.labels, np.repeat([0, 1], 3))
    everything = np.concatenate([dataset.train.images, dataset.valid.images, test.images])
    assert len({image.tobytes() for image in everything}) == 22


def test_the_version_is_that_of_the_image_size(monkeypatch):
    sizes = (32, 99, (99, 99), 100, (224, 224))
    assert [data.procedural.version_for(size) for size in sizes] == [4, 4, 4, 5, 5]
    monkeypatch.setattr(data.procedural, "version_for", lambda size: 3)
    chosen, older = load(), load(version=3)
    assert chosen.provenance["version"] == 3
    np.testing.assert_array_equal(chosen.train.images, older.train.images)


def test_the_images_are_the_first_editions():
    """Version 3 of the renderer, as recorded with the first edition: the mean of every image."""
    dataset = load(version=3)
    for split, means in (
        (dataset.train, [149.9, 120.4, 104.2, 130.9, 132.2, 125.1, 107.6, 73.4, 68.1, 96.7]),
        (dataset.valid, [136.0, 79.5, 134.7, 78.3, 126.6, 165.6]),
        (dataset.test, [172.0, 90.3, 97.9, 84.4, 153.9, 91.0]),
    ):
        np.testing.assert_allclose(split.images.mean((1, 2, 3)), means, atol=0.1)
    assert dataset.provenance["source"] == "procedural" and "procedural: 2 classes (cat, dog)" in repr(dataset)


def test_load_is_what_the_seed_says(loaded):
    first = loaded.train.images
    np.testing.assert_array_equal(first, load().train.images)
    assert (first != load(seed=1).train.images).any(axis=(1, 2, 3)).all()
    fewer = load(per_class=2).train.images
    np.testing.assert_array_equal(fewer, first[[0, 1, 5, 6]])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 3 * len(procedural.CLASSES) + 1)
    np.testing.assert_array_equal(procedural.render("dog", key[None], SIZE)[0], first[8])


def test_new_classes_leave_the_others_their_images_and_share_none():
    mixed = load(classes=("dog", "fox", "bear"), per_class=4)
    alone = load(classes=("fox", "dog"), per_class=4)
    np.testing.assert_array_equal(mixed.train.images[:8], np.roll(alone.train.images, 4, axis=0))
    # Not the whole image depends on the class: no two classes or splits may have a key in common.
    scenes = np.concatenate([mixed.train.images, mixed.valid.images, mixed.test.images])[:, :3, :3]
    assert len({corner.tobytes() for corner in scenes}) == len(scenes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("cat", "dgo")}, "did you mean dog"),
        ({"classes": ("cat",)}, "two or more"),
        ({"classes": ("cat", "cat")}, "two or more"),
        ({"per_class": 0}, "per_class=0: procedural images"),
        ({"valid": 0}, "valid=0: procedural images"),
        ({"version": 2}, "version=2: the renderer's versions are 3, 4, 5"),
        ({"image_size": (16, 24)}, "procedural images are square"),
    ],
)
def test_load_refuses_in_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        load(**change)


def test_render_refuses_an_unknown_class():
    with pytest.raises(UserError, match="did you mean rabbit"):
        procedural.render("rabit", keys(1), SIZE)


@jax.jit
def _areas():
    view = canvas(200)
    triangle = jnp.asarray([[0.0, -0.5], [0.6, 0.4], [-0.6, 0.4]])
    distances = {
        "ellipse": ellipse(view, 0.1, 0.0, 0.5, 0.3, 0.7),
        "box": box(view, 0.0, 0.1, 0.4, 0.2, 0.5),
        "capsule": capsule(view, -0.3, -0.2, 0.3, 0.2, 0.1, 0.1),
        "ring": ring(view, 0.0, 0.0, 0.5, 0.05),
        "triangle": polygon(view, triangle),
        "triangle, other way round": polygon(view, triangle[::-1]),
        "arc": arc(view, 0.0, 0.0, 0.5, 0.3, np.pi / 4, 0.05),
        "two ellipses": ellipse(view, *jnp.asarray([[-0.5, 0.5], [0.0, 0.0], [0.3, 0.4], [0.3, 0.2]])),
    }
    return {name: cov(d, view.pixel).sum((-2, -1)) * view.pixel**2 for name, d in distances.items()}


def test_shapes_cover_the_area_that_geometry_says():
    ring_area = np.pi * (0.55**2 - 0.45**2)
    expected = {
        "ellipse": np.pi * 0.15,
        "box": 0.32,
        "capsule": 0.2 * 0.52**0.5 + np.pi * 0.01,
        "ring": ring_area,
        "triangle": 0.54,
        "triangle, other way round": 0.54,
        "arc": ring_area / 4 + np.pi * 0.05**2,
        "two ellipses": np.asarray([np.pi * 0.09, np.pi * 0.08]),
    }
    areas = _areas()
    for name, area in expected.items():
        np.testing.assert_allclose(areas[name], area, rtol=0.01, err_msg=name)


def test_noise_is_one_field_at_any_size_with_unit_scale():
    rough = jnp.asarray([0.9, 0.45])
    many = jax.jit(jax.vmap(lambda key: fractal(key, 32, 2, rough)))(keys(80))
    assert jnp.abs(many.mean((0, 2, 3))).max() < 0.1
    assert ((many.std((0, 2, 3)) > 0.6) & (many.std((0, 2, 3)) < 1.4)).all()
    large = jax.jit(lambda key: fractal(key, 64, 2, rough))(keys(80)[0])
    np.testing.assert_allclose(large.reshape(2, 32, 2, 32, 2).mean((2, 4)), many[0], atol=5e-3)


def test_backgrounds_vary():
    views = jax.jit(jax.vmap(lambda key: background(key, canvas(16))))(keys(50))
    assert jnp.isfinite(views).all()
    assert views.mean((2, 3)).std(0).min() > 0.05
