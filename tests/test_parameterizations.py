import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import lucid

from cnnjax import data, visualize
from cnnjax.errors import UserError
from cnnjax.visualize import Recipe, Stage, ascent, parameterizations
from cnnjax.visualize.parameterizations import Spectrum
from cnnjax.visualize.parameterizations.colors import decorrelate, recorrelate

pytestmark = pytest.mark.usefixtures("quickly_compiled")

FIXTURES = np.load(Path(lucid.__file__).with_suffix(".npz"))
SHORT = Recipe(
    "short",
    (Stage(25, (visualize.pad(1), visualize.rotate(5), visualize.crop()), lp=0.0),),
    in_place=False,
    parameterization=visualize.fourier(),
    optimizer=optax.adam(0.05),
)


@functools.partial(jax.jit, static_argnums=(2, 3))
def initial(parameterization, key, size, channels):
    params = parameterization.init(key, size, channels)
    return params, parameterization.to_image(params)


def made(parameterization, seed=0, size=(9, 14), channels=3):
    return initial(parameterization, jax.random.key(seed), size, channels)


@pytest.mark.parametrize("name", lucid.SIZES)
def test_a_fourier_image_is_lucids(name):
    real, imag = (jnp.moveaxis(FIXTURES[f"{name}_{part}"], 0, -1) for part in ("real", "imag"))
    ours = visualize.fourier(lucid.DECAYS[name]).to_image(Spectrum(real, imag, lucid.SIZES[name][1]))
    np.testing.assert_allclose(ours / 255, FIXTURES[f"{name}_image"], rtol=1e-4)
    other = visualize.fourier(lucid.DECAYS[name], decorrelate=False).to_image(
        Spectrum(real, imag, lucid.SIZES[name][1])
    )
    assert not np.allclose(other, ours, rtol=1e-2), "without its colours it must not pass"


def test_the_colour_matrix_is_lucids_and_its_inverse_undoes_it():
    matrix = parameterizations.imagenet_colors()
    np.testing.assert_allclose(matrix, FIXTURES["color_matrix"], rtol=1e-4, atol=1e-7)
    values = jnp.float32(np.random.default_rng(0).normal(size=(4, 5, 3)))
    mixed = recorrelate(values, jnp.asarray(matrix))
    np.testing.assert_allclose(mixed, np.asarray(values, np.float64) @ matrix.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decorrelate(mixed, jnp.asarray(matrix)), values, rtol=1e-3, atol=1e-4)


def test_the_initial_values_have_the_deviation_of_their_coefficients():
    """Parseval: the values before the sigmoid have the energy that the scaled coefficients have."""
    height, width, std = 32, 48, 0.02
    keys = jax.random.split(jax.random.key(0), 200)
    plain = visualize.fourier(std=std, decorrelate=False)
    images = np.asarray(jax.vmap(lambda key: plain.to_image(plain.init(key, (height, width), 1)))(keys), np.float64)
    values = np.log(images / (255 - images))
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    scale = (height * width) ** 0.5 / np.maximum(frequencies, 1 / width)
    # Each coefficient has two parts of variance std²; irfft2 drops the imaginary part of those that are their own twin.
    own = np.zeros((height, width), bool)
    own[:: height // 2, :: width // 2] = True
    folded = (np.arange(width) % (width // 2) == 0)[None] & ~own  # both twins are stored, and averaged
    energy = (scale * std) ** 2 * np.where(own, 1, np.where(folded, 1, 2))
    expected = np.sqrt(energy.sum()) / (height * width) / 4
    assert np.sqrt((values**2).mean()) == pytest.approx(expected, rel=0.03)


@jax.jit
def there_and_back(parameterization, image):
    back = parameterization.to_image(parameterization.from_image(image))
    return back, parameterizations.to_uint8(parameterization, back)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(8, 8, 3), (7, 5, 1), (1, 6, 4)]), st.floats(0, 2), st.integers(0, 999))
def test_an_image_comes_back_from_its_own_parameters(shape, decay, seed):
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    back, shown = there_and_back(visualize.fourier(decay), image)
    np.testing.assert_allclose(back, np.clip(image, 0.25, 254.75), atol=0.2)
    np.testing.assert_array_equal(shown, image)


@pytest.mark.parametrize("size, channels", [((9, 14), 1), ((7, 5), 3), ((6, 3), 5)])
def test_every_size_and_number_of_channels_is_drawn(size, channels):
    params, image = made(visualize.fourier(), size=size, channels=channels)
    assert image.shape == (*size, channels) and image.dtype == jnp.float32
    assert params.real.shape == params.imag.shape == (size[0], size[1] // 2 + 1, channels)
    assert image.min() > 0 and image.max() < 255
    _, without = made(visualize.fourier(decorrelate=False), size=size, channels=channels)
    assert np.array_equal(without, image) == (channels != 3), "only three channels have ImageNet's colours"


def test_a_data_sets_colours_have_its_covariance():
    generator = np.random.default_rng(0)
    root = np.array([[0.10, 0.03], [0.06, -0.02]])
    pixels = 0.5 + generator.normal(size=(8, 20, 30, 2)) @ root.T
    images = np.clip(pixels, 0, 1).astype(np.float32)
    matrix = visualize.color_statistics(images)
    flat = images.reshape(-1, 2).astype(np.float64)
    covariance = np.cov(flat.T, bias=True)
    ours = matrix.astype(np.float64) @ matrix.T
    np.testing.assert_allclose(ours / ours[0, 0], covariance / covariance[0, 0], rtol=1e-4)
    assert np.linalg.norm(matrix, axis=0).max() == pytest.approx(1)
    split = data.from_arrays(images, np.arange(8) % 2, valid=0.25, test=0.25).train
    np.testing.assert_allclose(visualize.color_statistics(split), matrix, atol=0.15)
    assert made(visualize.fourier(colors=matrix), channels=2)[1].shape == (9, 14, 2)
    with pytest.raises(UserError, match=r"colors is a matrix of 2 × 2, and the images have 3 channels"):
        made(visualize.fourier(colors=matrix))
    with pytest.raises(UserError, match="have the same colour"):
        visualize.color_statistics(np.full((2, 4, 4, 3), 7, np.uint8))
    with pytest.raises(UserError, match="no images"):
        visualize.color_statistics(images[:0])


@pytest.fixture(scope="module")
def drawn():
    return visualize.render_filters(tiny.network(), "conv_2", range(4), recipe=SHORT)


def test_activations_rise_and_the_same_seed_gives_the_same_bits_alone_and_in_company(drawn):
    for image in drawn:
        assert image.provenance["activation_after"] > image.provenance["activation_before"]
    alone = visualize.render_filters(tiny.network(), "conv_2", [2], recipe=SHORT)[0]
    np.testing.assert_array_equal(alone.pixels, drawn[2].pixels)
    again = visualize.render_filters(tiny.network(), "conv_2", [3, 2, 0, 1], recipe=SHORT)
    np.testing.assert_array_equal([again[i].pixels for i in (2, 3, 1, 0)], [image.pixels for image in drawn])
    other = visualize.render_filters(tiny.network(), "conv_2", [2], recipe=SHORT, seed=1)[0]
    assert not np.array_equal(other.pixels, alone.pixels)


def test_one_program_for_many_calls_whatever_the_numbers():
    network = tiny.network()

    def draw(decay, degrees, channel):
        transforms = visualize.scale(0.9, 1 + degrees / 50), visualize.rotate(degrees)
        options = {"steps": 2, "transforms": transforms, "parameterization": visualize.fourier(decay, std=decay / 100)}
        return visualize.render(network, visualize.channel("conv_1", channel), recipe=SHORT, **options)[0]

    first = draw(1.0, 10.0, 0)
    programs = [program._cache_size() for program in (ascent.advance, ascent.measure, ascent.init_noise)]
    others = [draw(1.0 + i / 10, 10.0 + i, i) for i in range(1, 4)]
    assert programs == [program._cache_size() for program in (ascent.advance, ascent.measure, ascent.init_noise)]
    assert all(not np.array_equal(first.pixels, other.pixels) for other in others)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_draws_for_a_network_of_grey_images_in_either_precision(dtype):
    class Cast(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 4, (3, 3), dtype=dtype, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, images):
            return self.head(nnx.relu(self.conv(images)).mean(axis=(1, 2)).astype(jnp.float32))

    network = tiny.flax(Cast(nnx.Rngs(0)), (10, 15), 1)
    (image,) = visualize.render(network, visualize.class_logit(1), recipe=SHORT, steps=12)
    assert image.pixels.shape == (10, 15, 1)
    assert image.provenance["activation_after"] > image.provenance["activation_before"]


def test_the_lucid_recipe_is_lucids():
    chosen = visualize.recipes.recipe("lucid")
    assert chosen.steps == 512 and not chosen.is_penalized and not chosen.in_place and chosen.before_relu
    shown = visualize.transforms.apply(
        tuple(one.bind((16, 16)) for one in chosen.stages[0].transforms), jax.random.key(0), jnp.zeros((16, 16, 3))
    )
    assert shown.shape == (16, 16, 3)
    (image,) = visualize.render(tiny.network(), visualize.channel("conv_1", 0), recipe="lucid", steps=20)
    assert image.provenance["activation_after"] > image.provenance["activation_before"]
    assert image.provenance["recipe"] == "lucid" and "replaced" not in image.provenance
    assert not visualize.recipes.recipe("article").before_relu


def test_the_fast_recipe_climbs_faster():
    """In as many steps, by larger ones alone."""
    lucid, fast = map(visualize.recipes.recipe, ("lucid", "lucid-fast"))
    assert fast.stages[0].transforms == lucid.stages[0].transforms
    objective = visualize.channel("conv_2", range(4))
    reached = [
        np.mean([image.provenance["activation_after"] for image in images])
        for images in (visualize.render(tiny.network(), objective, recipe=one, steps=20) for one in (lucid, fast))
    ]
    assert reached[1] > 1.3 * reached[0] > 0
