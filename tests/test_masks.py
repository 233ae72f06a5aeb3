"""Masks of subjects and parts against the images themselves, and images without a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnnjax import procedural
from cnnjax.errors import UserError
from cnnjax.procedural import animals, programs
from cnnjax.procedural.canvas import Stream, canvas, fractal

# Programs that run a few times.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = 32
PARTS = procedural.parts("cat")
# The camera's blur has a standard deviation of at most 0.02 half-widths, which is 0.32 pixels here. Beyond two pixels,
# six deviations, its weights are below 1e-8 and no level of 255 can tell.
REACH = 2


def keys(count=20, seed=3):
    return jax.random.split(jax.random.key(seed), count)


@pytest.fixture(scope="module")
def whole():
    return np.asarray(procedural.render("cat", keys(), SIZE)).astype(int)


@pytest.fixture(scope="module")
def masks():
    return {name: np.asarray(mask) for name, mask in procedural.render_masks("cat", keys(), SIZE).items()}


def near(mask):
    """Where a pixel of the mask is at most REACH away."""
    return ndimage.binary_dilation(mask > 0, np.ones((1, 2 * REACH + 1, 2 * REACH + 1)))


def changed(name, whole, *without):
    return np.abs(np.asarray(procedural.render(name, keys(), SIZE, without=without)).astype(int) - whole).max(-1)


@jax.jit
def _sharp(numbers):
    """Cats on random colours before the bars and the camera, whole and without each part, and the visible shares."""

    def one(key):
        view, what = canvas(SIZE), programs.drawn("cat", procedural.VERSION)
        noise = fractal(jax.random.fold_in(key, 1), SIZE, 4, 0.7)
        behind = jax.random.uniform(jax.random.fold_in(key, 2), (3, SIZE, SIZE))
        masks = jnp.concatenate([jnp.ones((1, len(PARTS))), jnp.zeros((1, len(PARTS))), 1.0 - jnp.eye(len(PARTS))])
        images = jax.lax.map(lambda shown: animals.animal(Stream(key), view, noise, what.kind, behind, shown), masks)
        return behind, images, animals.visible_parts(Stream(key), view, noise, what.kind, what.shown)

    return jax.lax.map(one, numbers)


@pytest.fixture(scope="module")
def sharp():
    behind, images, shares = jax.tree.map(np.asarray, _sharp(keys(12)))
    return {"behind": behind, "whole": images[:, 0], "none": images[:, 1], "without": images[:, 2:], "shares": shares}


def test_without_all_parts_only_the_background_is_left(sharp):
    np.testing.assert_array_equal(sharp["none"], sharp["behind"])


def test_the_subjects_mask_is_zero_exactly_where_the_background_shows(sharp):
    subject = sharp["shares"].sum(axis=1)
    differs = (sharp["whole"] != sharp["behind"]).any(axis=1)
    np.testing.assert_array_equal(differs, subject > 0)
    assert 0.05 < differs.mean() < 0.8


def test_shares_are_the_weights_of_the_background_and_of_the_parts(sharp):
    # The image is linear in the background, with 1 - share as its weight: measured with another background.
    shares = sharp["shares"]
    assert shares.min() >= 0 and shares.sum(axis=1).max() < 1 + 1e-5
    opaque = shares.sum(axis=1) > 1 - 1e-6
    assert opaque.any() and (shares.sum(axis=1) < 1 - 1e-3).any()


@pytest.mark.parametrize("part", PARTS)
def test_without_a_part_the_image_changes_where_the_part_was_seen(sharp, part):
    i = PARTS.index(part)
    change = np.abs(sharp["without"][:, i] - sharp["whole"]).max(axis=1)
    share = sharp["shares"][:, i]
    assert change[share == 0].max() < 1e-6  # rounding, where the part is hidden
    assert (change <= 2.5 * share + 1e-6).all()  # colours are in [-0.5, 2]
    seen = share > 0.5
    assert seen.any() and (change[seen] > 1e-3).mean() > 0.9


def test_masks_are_shares_and_parts_make_up_the_subject(masks):
    assert tuple(masks) == ("subject", *PARTS)
    for mask in masks.values():
        assert mask.shape == (20, SIZE, SIZE) and mask.min() >= 0 and mask.max() <= 1 and mask.max() > 0.5
    np.testing.assert_allclose(sum(masks[part] for part in PARTS), masks["subject"], atol=1e-5)


def test_the_camera_adds_its_blur_and_no_more(whole, masks):
    change = changed("cat", whole, "subject")
    # Where a pixel is painted over completely, the last bit of what is behind may survive: one level at most.
    assert (change[~near(masks["subject"])] <= 1).all()
    assert (change[~near(masks["subject"])] == 0).mean() > 0.9999
    inside = ndimage.minimum_filter(masks["subject"], size=(1, 3, 3)) > 0.9
    assert inside.any() and (change[inside] > 0).mean() > 0.95


@pytest.mark.parametrize("part", ["ears", "eyes", "tail"])
def test_a_rendered_image_without_a_part_changes_near_that_part_only(whole, masks, part):
    change = changed("cat", whole, part)
    assert (change[~near(masks[part])] <= 1).all()
    assert (change[~near(masks[part])] == 0).mean() > 0.9999
    assert (change[masks[part] > 0.5] > 0).mean() > 0.8


def test_bars_in_front_hide_the_subject():
    data, side = jax.random.key_data(keys()), SIZE
    behind_bars = programs.run(programs.masks, "cat", keys(), side, programs.drawn("cat", procedural.VERSION))[:, 0]
    what = programs.drawn("cat", procedural.VERSION)
    free = what._replace(kind=what.kind._replace(placement=what.kind.placement._replace(occlusion=jnp.float32(0))))
    in_front = programs.run(programs.masks, "cat", keys(), side, free)[:, 0]
    assert (behind_bars <= in_front + 1e-6).all() and (behind_bars < in_front - 0.5).any()
    assert len(data) == 20


def test_a_thing_has_a_mask_and_its_surroundings_stay():
    images = np.asarray(procedural.render("gondola", keys(), SIZE)).astype(int)
    masks = procedural.render_masks("gondola", keys(), SIZE)
    assert tuple(masks) == ("subject",) and procedural.parts("gondola") == ()
    mask = np.asarray(masks["subject"])
    change = changed("gondola", images, "subject")
    assert 0.02 < mask.mean() < 0.6  # the water is not the gondola
    assert (change[~near(mask)] <= 1).all()
    assert (change[mask > 0.9] > 0).mean() > 0.9


def test_version_5_shows_the_same_animals_at_more_sizes(masks):
    """From the same random numbers, small ones are smaller and large ones larger."""
    older = masks["subject"].sum((1, 2))
    newer = np.asarray(procedural.render_masks("cat", keys(), SIZE, version=5)["subject"]).sum((1, 2))
    small, large = np.argsort(older)[:3], np.argsort(older)[-3:]
    assert (newer[small] < older[small]).all() and newer[large].mean() > older[large].mean()
    assert np.log(newer).std() > 1.2 * np.log(older).std()
    lamps = [np.asarray(procedural.render("lamp", keys(2), SIZE, version=version)) for version in (4, 5)]
    np.testing.assert_array_equal(*lamps)


def test_versions_differ_in_animals_and_unknown_ones_are_refused(whole):
    older = np.asarray(procedural.render("cat", keys(), SIZE, version=3)).astype(int)
    assert (older != whole).any(axis=(1, 2, 3)).all()
    for call in (procedural.render, procedural.render_masks):
        with pytest.raises(UserError, match="version=2: the renderer's versions are 3, 4, 5"):
            call("cat", keys(1), SIZE, version=2)
        with pytest.raises(UserError, match="did you mean cat"):
            call("cta", keys(1), SIZE)
    with pytest.raises(UserError, match="unknown part of class cat 'ear': did you mean ears"):
        procedural.render("cat", keys(1), SIZE, without=("ear",))
    with pytest.raises(UserError, match="choose one of subject"):
        procedural.render("lamp", keys(1), SIZE, without=("wing",))
