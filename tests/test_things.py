"""The classes without fur: each draws, varies with the key, and keeps its scene at any side."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.procedural import CLASSES, KNOWN, NEW, VERSION, programs, render
from cnnjax.procedural.canvas import Stream, canvas, fractal, paint
from cnnjax.procedural.programs import CHUNK
from cnnjax.procedural.things import THINGS
from cnnjax.procedural.traits import ANIMALS

# Programs that run a few times.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = 24
SCENES = ("bridge", "gondola")
TWICE = ("starfish", "gondola", "tennis ball", "hammer")


def keys(count):
    return jax.random.split(jax.random.key(5), count)


@partial(jax.jit, static_argnums=(1, 2))
def _painted(keys, names, size):
    def scene(key):
        view = canvas(size)
        noise = fractal(jax.random.fold_in(key, 1), size, 4, jnp.asarray([0.9, 0.9, 0.45, 0.45]))
        grey = jnp.full((3, size, size), 0.5)
        return {name: paint(grey, THINGS[name](Stream(key), view, noise)) for name in names}

    return jax.lax.map(scene, keys)


@pytest.fixture(scope="module")
def painted():
    """Each thing alone on grey, before light and camera: (16, 3, 24, 24) a class. All are one compiled program."""
    return jax.tree.map(np.asarray, _painted(keys(16), tuple(THINGS), SIZE))


def test_things_and_animals_are_the_fourteen_classes_and_the_new_ones():
    assert sorted([*THINGS, *ANIMALS]) == sorted(KNOWN)
    assert len(set(CLASSES)) == 14 and KNOWN == CLASSES + NEW


@pytest.mark.parametrize("name", KNOWN)
def test_every_class_can_be_rendered(name):
    # Traced, not compiled: this says that every class is there and fits together.
    program = programs.program(programs.image, name, SIZE)
    images = jax.eval_shape(program, jax.random.key_data(keys(CHUNK)), programs.drawn(name, VERSION))
    assert images.shape == (CHUNK, SIZE, SIZE, 3)
    assert images.dtype == jnp.uint8


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_covers_part_of_the_image_with_finite_colours(painted, name):
    images = painted[name]
    assert np.isfinite(images).all()
    assert -0.5 < images.min() < 0.4
    assert 0.6 < images.max() < 3.0
    drawn = (np.abs(images - 0.5) > 0.02).any(1).mean((1, 2))
    assert drawn.min() > 0.02  # none is lost outside the image
    assert drawn.mean() > 0.98 if name in SCENES else 0.08 < drawn.mean() < 0.7


@pytest.mark.parametrize("name", THINGS)
def test_different_keys_give_different_images(painted, name):
    flat = painted[name].reshape(16, -1)
    apart = np.abs(flat[:, None] - flat[None]).mean(-1)
    assert apart[~np.eye(16, dtype=bool)].min() > 0.01


def test_a_key_gives_the_same_scene_at_any_size(painted):
    for name, large in _painted(keys(16)[:6], TWICE, 2 * SIZE).items():
        small = np.asarray(large).reshape(6, 3, SIZE, 2, SIZE, 2).mean((3, 5))
        same = np.abs(small - painted[name][:6]).mean((1, 2, 3))
        other = np.abs(small - painted[name][6:12]).mean((1, 2, 3))
        assert same.max() < 0.4 * other.mean(), name


def test_a_rendered_image_depends_on_its_key_alone():
    images = np.asarray(render("goldfish", keys(7), SIZE))
    assert images.shape == (7, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert images.min() < 30
    assert images.max() > 225
    np.testing.assert_array_equal(render("goldfish", keys(7), SIZE), images)
    np.testing.assert_array_equal(render("goldfish", keys(7)[4:5], SIZE)[0], images[4])
