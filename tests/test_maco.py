import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from cnnjax import visualize
from cnnjax.errors import UserError
from cnnjax.visualize import Recipe, Stage, parameterizations
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.parameterizations import Phases
from cnnjax.visualize.parameterizations.maco import magnitudes, photograph_spectrum, summing_attention

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SHORT = Recipe(
    "short",
    (Stage(16, (visualize.window(0.9, 0.6), visualize.noise(2.0)), lp=0.0),),
    in_place=False,
    parameterization=visualize.maco(),
    optimizer=optax.nadam(1.0),
    views=3,
)


@functools.partial(jax.jit, static_argnums=(2, 3))
def made(parameterization, key, size, channels):
    params = parameterization.init(key, size, channels)
    return params, parameterization.to_image(params)


@pytest.mark.parametrize("size", [(16, 16), (15, 22), (200, 40)])
def test_an_image_has_the_magnitudes_of_photographs_and_its_own_phases(size):
    plain = visualize.maco(photograph_spectrum(), decorrelate=False)
    params, image = made(plain, jax.random.key(0), size, 3)
    assert image.shape == (*size, 3) and image.min() > 0 and image.max() < 255
    values = np.log(np.asarray(image, np.float64) / (255 - np.asarray(image)))
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=2e-3)
    found = np.fft.rfft2(values, axes=(0, 1))
    expected = np.asarray(magnitudes(jnp.asarray(photograph_spectrum()), size), np.float64)
    # Frequencies that are their own twins, or whose twins are there too, are averaged with them by irfft2.
    inner = np.s_[1 : size[0] // 2, 1 : (size[1] - 1) // 2]
    ratio = np.abs(found[inner]) / expected[inner]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.02)
    phase = np.asarray(params.phase, np.float64)
    phase = (phase - phase.mean()) / phase.std() * np.pi / 3**0.5
    turned = np.angle(found[inner] * np.exp(-1j * phase[inner]))
    np.testing.assert_allclose(turned, 0, atol=0.02)


def test_the_spectrum_of_noise_is_found_again_at_other_sizes():
    """Of noise made with known magnitudes, the measured ones are these, at its own size and at another."""
    size, count = (24, 32), 300
    frequencies = np.hypot(np.fft.fftfreq(24)[:, None], np.fft.rfftfreq(32)[None])
    amplitude = 1 / np.maximum(frequencies, 1 / 32)
    generator = np.random.default_rng(0)
    noise = np.fft.rfft2(generator.normal(size=(count, *size, 1)), axes=(1, 2)) * amplitude[..., None]
    images = np.fft.irfft2(noise, size, axes=(1, 2))
    images = ((images - images.min()) / (images.max() - images.min())).astype(np.float32)
    spectrum = visualize.magnitude_spectrum(images)
    assert spectrum.shape == (24, 17, 1)
    inner = spectrum[1:, 1:-1, 0]
    assert inner.std() / inner.mean() < 0.1, "magnitudes times frequencies are flat"
    for other in (size, (50, 41)):
        found = np.asarray(magnitudes(jnp.asarray(spectrum), other))[1:, 1:-1, 0]
        radius = np.hypot(np.fft.fftfreq(other[0])[1:, None], np.fft.rfftfreq(other[1])[None, 1:-1])
        flat = found * np.maximum(radius, 1 / max(other))
        assert flat.std() / flat.mean() < 0.1
    same = np.asarray(magnitudes(jnp.asarray(spectrum), size)) * np.maximum(frequencies, 1 / 32)[..., None]
    np.testing.assert_allclose(same, spectrum, rtol=1e-5)


def test_photographs_have_less_of_high_frequencies_and_of_colour():
    found = np.asarray(magnitudes(jnp.asarray(photograph_spectrum()), (64, 64)))
    assert found.shape == (64, 33, 3) and (found > 0).all()
    along = found[0, 1:, 0]
    assert along[0] > 3 * along[4] > 6 * along[20]
    assert found[1:8, 1:8, 0].mean() > found[1:8, 1:8, 2].mean()


def test_the_attention_is_the_sum_of_the_gradients_by_the_image_and_changes_nothing():
    one = visualize.maco()
    params, image = made(one, jax.random.key(1), (6, 8), 3)
    weights = jnp.float32(np.random.default_rng(0).normal(size=image.shape))
    gradient = jax.jit(jax.grad(lambda p: (weights * one.to_image(p)).sum()))(params)
    np.testing.assert_allclose(gradient.attention, weights, rtol=1e-6)
    assert float(jnp.abs(gradient.phase).max()) > 0
    optimizer = summing_attention(optax.nadam(1.0))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(2):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params.attention, 2 * jnp.abs(weights), rtol=1e-6)
    still = Phases(params.phase, jnp.zeros_like(params.attention))
    np.testing.assert_allclose(one.to_image(params), one.to_image(still), atol=1e-3)
    alpha = np.asarray(one.to_alpha(params), int)
    total = np.abs(np.asarray(weights)).mean(axis=-1)
    assert alpha.shape == (6, 8) and (alpha == 255).mean() == pytest.approx(0.2, abs=0.05)
    expected = np.clip(255 * total / np.percentile(total, 80), 0, 255)
    assert np.abs(alpha - expected).max() <= 1


@pytest.fixture(scope="module")
def drawn():
    return visualize.render_filters(tiny.network(), "conv_2", range(3), recipe=SHORT)


def test_it_draws_with_an_alpha_channel_alone_as_in_company(drawn, tmp_path):
    assert all(image.alpha.shape == (12, 12) and 0 < image.alpha.mean() < 255 for image in drawn)
    rises = [image.provenance["activation_after"] - image.provenance["activation_before"] for image in drawn]
    assert max(rises) > 0
    (alone,) = visualize.render_filters(tiny.network(), "conv_2", [1], recipe=SHORT)
    np.testing.assert_array_equal(alone.pixels, drawn[1].pixels)
    np.testing.assert_array_equal(alone.alpha, drawn[1].alpha)
    read = Image.read(drawn[1].save(tmp_path / "a.png"))
    np.testing.assert_array_equal(read.pixels, drawn[1].pixels)
    np.testing.assert_array_equal(read.alpha, drawn[1].alpha)


class Last:
    """Frames of every step."""

    every = 1

    def begin(self):
        self.frames = []

    def add(self, step, images):
        self.frames.append(np.asarray(images))


def test_the_last_image_is_kept_since_the_best_score_is_that_of_a_lucky_crop():
    kept, lucky = Last(), Last()
    options = {"steps": 4, "image_size": 12}
    (image,) = visualize.render(tiny.network(), visualize.channel("conv_2", 1), recipe="maco", frames=kept, **options)
    np.testing.assert_array_equal(image.pixels, kept.frames[-1][0])
    best = dataclasses.replace(visualize.recipes.recipe("maco"), keep_last=False)
    (image,) = visualize.render(tiny.network(), visualize.channel("conv_2", 1), recipe=best, frames=lucky, **options)
    assert any((image.pixels == frame[0]).all() for frame in lucky.frames)
    np.testing.assert_array_equal(kept.frames, lucky.frames)


def test_the_mean_over_views_is_that_of_the_views_one_by_one():
    """Without randomness the views are alike, and so is what is drawn."""

    def draw(views, transforms):
        recipe = Recipe(
            "plain", (Stage(4, transforms, lp=0.0),), in_place=False, parameterization=visualize.fourier(), views=views
        )
        return visualize.render(tiny.network(), visualize.channel("conv_1", 1), recipe=recipe)[0].pixels.astype(int)

    still = (visualize.rotate(0),)
    assert np.abs(draw(3, still) - draw(1, still)).max() <= 1
    moving = (visualize.rotate(30),)
    assert np.abs(draw(3, moving) - draw(1, moving)).max() > 1


def test_the_maco_recipe_is_macos_and_other_images_need_another_spectrum():
    recipe = visualize.recipes.recipe("maco")
    assert recipe.steps == 256 and recipe.views > 1 and not recipe.is_penalized
    with pytest.raises(UserError, match="spectrum is of 3 channels and the images have 1"):
        visualize.maco().init(jax.random.key(0), (8, 8), 1)
    with pytest.raises(UserError, match="7 pixels wide"):
        visualize.magnitude_spectrum(np.zeros((2, 8, 7, 3), np.uint8))
    grey = visualize.maco(visualize.magnitude_spectrum(np.random.default_rng(0).random((4, 8, 8, 1), np.float32)))
    assert made(grey, jax.random.key(0), (9, 9), 1)[1].shape == (9, 9, 1)
    assert parameterizations.from_image(grey) is None


def test_importing_starts_no_backend():
    code = "import cnnjax, cnnjax.visualize, jax; from jax._src import xla_bridge; assert not xla_bridge._backends"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
