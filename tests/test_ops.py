import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from oracles import numpy_autodiff
from oracles.numpy_autodiff import Value

from cnnjax.errors import UserError
from cnnjax.ops import broadcast_bias, conv, conv_max_pool, dense, max_pool, pool, winograd

pytestmark = pytest.mark.usefixtures("quickly_compiled")

few = settings(max_examples=8, deadline=None)


def distinct(shape, seed=0):
    """Numbers without ties."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return jnp.asarray(order.reshape(shape) / order.size, jnp.float32)


def normal(random, *shape):
    """From NumPy, since JAX compiles a program for each shape, which takes seconds."""
    return jnp.asarray(random.normal(size=shape), jnp.float32)


def test_article_feature_map():
    """Section 2.1: the 5×5 input under the 3×3 filter is 4 3 4 / 2 4 3 / 2 3 4."""
    image = jnp.array(
        [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]], jnp.float32
    )
    kernel = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], jnp.float32)
    out = conv(image[None, :, :, None], kernel[:, :, None, None], padding="VALID")
    np.testing.assert_array_equal(out[0, :, :, 0], [[4, 3, 4], [2, 4, 3], [2, 3, 4]])


@pytest.mark.parametrize("shape", [(3, 4), (64, 64), (32, 64)])
def test_no_images_and_images_smaller_than_the_kernel(shape):
    """As lax.conv_general_dilated: nothing comes out, and the gradient for the kernel is zero."""
    kernel, none = jnp.ones((3, 3, *shape)), jnp.ones((0, 8, 8, shape[0]))
    assert conv(none, kernel).shape == (0, 8, 8, shape[1])
    assert conv(none[:, :1, :, :], kernel, padding="VALID").shape == (0, 0, 6, shape[1])
    assert conv(jnp.ones((1, 1, 8, shape[0])), kernel, padding="VALID").shape == (1, 0, 6, shape[1])
    assert conv_max_pool(none, kernel).shape == (0, 4, 4, shape[1])
    assert not jax.grad(lambda kernel: conv(none, kernel).sum())(kernel).any()
    with pytest.raises(UserError, match="a pooling window of 2 does not fit into images of 1×8 pixels"):
        conv_max_pool(jnp.ones((1, 1, 8, shape[0])), kernel)


@pytest.mark.parametrize(
    ("side", "window", "stride", "padding"),
    [((7, 6), (3, 3), 1, "SAME"), ((6, 5), (2, 4), 1, "SAME"), ((8, 7), (3, 2), 1, "VALID"), ((5, 5), (3, 3), 1, 3),
     ((9, 8), (3, 3), 2, 1), ((7, 7), (1, 1), 1, 0)],
)  # fmt: skip
def test_conv_and_its_gradients_against_numpy(side, window, stride, padding):
    random = np.random.default_rng(0)
    x, kernel = normal(random, 2, *side, 3), normal(random, *window, 3, 4)
    out, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride, padding), x, kernel)
    g = normal(random, *out.shape)
    gx, gk = vjp(g)
    nx, nk = Value(x), Value(kernel)
    expected = numpy_autodiff.conv(nx, nk, None, stride, padding)
    expected.backward(g)
    for ours, theirs in ((out, expected.data), (gx, nx.grad), (gk, nk.grad)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


NETWORK_SHAPES = [
    (150, 3, 32), (75, 32, 64), (37, 64, 128), (18, 128, 128),
    (224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (28, 256, 512),
    (28, 512, 512), (14, 512, 512),
]  # fmt: skip
"""(side, inputs, outputs) of the convolutions of SmallCNN and VGG16."""


def error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("side", "inputs", "outputs"), NETWORK_SHAPES)
def test_conv_of_the_networks_shapes_against_float64(side, inputs, outputs):
    """Winograd's filtering rounds differently: 1e-5 forwards and 1e-4 backwards are what it may cost."""
    against_float64((side, side), (3, 3), inputs, outputs, "SAME", batch=2 if side < 40 else 1)


@few
@given(
    st.tuples(st.integers(5, 13), st.integers(5, 13)), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3),
    st.sampled_from([(32, 64), (64, 96), (256, 257), (5, 70)]),
)  # fmt: skip
def test_conv_three_columns_wide_against_float64(sides, rows, padding, batch, channels):
    against_float64(sides, (rows, 3), *channels, padding, batch)


@few
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(2, 4), st.integers(2, 4)),
    st.integers(0, 3), st.integers(1, 3), st.sampled_from([(3, 32), (3, 64), (1, 5), (40, 3), (4, 4)]),
)  # fmt: skip
def test_conv_with_few_channels_against_float64(sides, window, padding, batch, channels):
    sides = tuple(max(side, size) for side, size in zip(sides, window, strict=True))
    against_float64(sides, window, *channels, padding, batch)


def against_float64(sides, window, inputs, outputs, padding, batch):
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, *sides, inputs)).astype(np.float32)
    kernel = (random.normal(size=(*window, inputs, outputs)) / (9 * inputs) ** 0.5).astype(np.float32)
    nx, nk = Value(x), Value(kernel)
    expected = numpy_autodiff.conv(nx, nk, None, 1, padding)
    g = random.normal(size=expected.shape).astype(np.float32)
    expected.backward(g)

    @jax.jit
    def found(x, kernel, g):
        y, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, padding=padding), x, kernel)
        return y, *vjp(g)

    y, gx, gk = found(x, kernel, g)
    assert error(y, expected.data) < 1e-5
    assert error(gx, nx.grad) < 1e-4
    assert error(gk, nk.grad) < 1e-4


@few
@given(
    st.integers(5, 13), st.integers(5, 13), st.integers(1, 2), st.sampled_from([(32, 64), (64, 65), (3, 32), (5, 6)])
)
def test_conv_max_pool_against_numpy(height, width, batch, channels):
    random = np.random.default_rng(height * width)
    x = normal(random, batch, height, width, channels[0])
    kernel = normal(random, 3, 3, *channels) / (9 * channels[0]) ** 0.5
    nx, nk = Value(x), Value(kernel)
    expected = numpy_autodiff.max_pool(numpy_autodiff.conv(nx, nk))
    g = normal(random, *expected.shape)
    expected.backward(g)
    assert error(jax.jit(conv_max_pool)(x, kernel), expected.data) < 1e-5
    y, vjp = jax.vjp(conv_max_pool, x, kernel)
    gx, gk = vjp(g)
    assert error(y, expected.data) < 1e-5
    assert error(gx, nx.grad) < 1e-4
    assert error(gk, nk.grad) < 1e-4


def test_conv_max_pool_spares_memory():
    """Where no gradient is asked for, no array as large as the convolution's result."""

    def sizes(function):
        text = jax.jit(function).lower(x, kernel).compile().as_text()
        return {int(np.prod([int(n) for n in shape.split(",")])) for shape in re.findall(r"f32\[([\d,]+)\]", text)}

    x, kernel = jnp.ones((1, 32, 32, 64)), jnp.ones((3, 3, 64, 256))
    assert max(sizes(lambda x, kernel: max_pool(conv(x, kernel)))) == 32 * 32 * 256
    assert max(sizes(conv_max_pool)) < 32 * 32 * 256


def test_winograd_transforms_filter():
    """outputs = output · ((taps · kernel) × (input · inputs)): six products for four outputs of a three-tap filter."""
    t = winograd.transforms()
    inputs, kernel = np.random.default_rng(0).normal(size=6), np.random.default_rng(1).normal(size=3)
    expected = np.correlate(inputs, kernel, "valid")
    np.testing.assert_allclose(t.output @ ((t.taps @ kernel) * (t.input @ inputs)), expected, atol=1e-12)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("inputs", [3, 64])
def test_accelerators_get_one_convolution(platform, inputs):
    """Their libraries choose the algorithm: the program holds XLA's own operation and nothing around it."""

    def lowered(function):
        x, kernel = jnp.zeros((2, 16, 16, inputs)), jnp.zeros((3, 3, inputs, 64))
        text = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        return re.findall(r"stablehlo\.(\w+)", text)

    def gradients(x, kernel):
        return jax.vjp(conv, x, kernel)[1](jnp.ones((2, 16, 16, 64)))

    operations = lowered(conv)
    assert operations.count("convolution") == 1
    assert set(operations) <= {"convolution", "case", "constant", "return"}
    assert lowered(gradients).count("convolution") == 2
    assert not {"slice", "concatenate", "pad", "dot_general"} & set(lowered(gradients))


@pytest.mark.parametrize("channels", [2, 64])
def test_conv_second_derivative_and_vmap(channels):
    x, kernel = (
        jax.random.normal(jax.random.key(0), (3, 1, 5, 5, channels)),
        jax.random.normal(jax.random.key(1), (3, 3, channels, channels)) / channels,
    )

    def xla(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def second(convolution):
        def slope(x, kernel):
            gx, gk = jax.grad(lambda x, kernel: jnp.sin(convolution(x, kernel)).sum(), (0, 1))(x, kernel)
            return (gx**2).sum() + (gk**2).sum()

        return jax.jit(jax.grad(slope, (0, 1)))(x[0], kernel)

    for ours, expected in zip(second(conv), second(xla), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    gradient = jax.grad(lambda kernel, x: jnp.sin(conv(x, kernel)).sum())
    each = jax.vmap(gradient, (None, 0))(kernel, x)
    np.testing.assert_allclose(each.sum(0), gradient(kernel, x[:, 0]), rtol=1e-4, atol=1e-4)


@few
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_conv_shapes(height, width, window, stride, padding):
    """Output side = (side + 2·padding - window) / stride + 1, rounded down; "SAME": side / stride, rounded up."""
    shape = partial(jax.eval_shape, partial(conv, stride=stride))
    x, kernel = jnp.zeros((1, height, width, 1)), jnp.zeros((window, window, 1, 1))
    sides = [max(0, (n + 2 * padding - window) // stride + 1) for n in (height, width)]
    assert jax.eval_shape(lambda x, k: conv(x, k, stride, padding), x, kernel).shape == (1, *sides, 1)
    assert shape(x, kernel).shape == (1, -(-height // stride), -(-width // stride), 1)


@few
@given(st.sampled_from([(4, 6, 2), (7, 5, 2), (7, 8, 3)]), st.integers(0, 99))
def test_max_pool_and_its_gradient_against_numpy(sizes, seed):
    height, width, window = sizes
    x = distinct((2, height, width, 3), seed)
    out, vjp = jax.vjp(lambda x: max_pool(x, window), x)
    g = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    nx = Value(x)
    expected = numpy_autodiff.max_pool(nx, window)
    expected.backward(g)
    np.testing.assert_array_equal(out, expected.data)
    np.testing.assert_array_equal(vjp(g)[0], nx.grad)


@few
@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=16, max_size=16))
def test_ties_go_to_the_first_maximum(values):
    x = jnp.array(values).reshape(1, 4, 4, 1)
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)
    nx = Value(x)
    numpy_autodiff.max_pool(nx).backward()
    np.testing.assert_array_equal(gradient, nx.grad)
    assert gradient.sum() == 4


@pytest.mark.parametrize("window", [2, 3])
def test_max_pool_of_a_tpu_is_the_same(window):
    """Also where a window has several maxima, as in bfloat16 it often has."""
    rng = np.random.default_rng(window)
    shapes = ((2, 7, 8, 3), (2, 7, 8, 3), (2, 7 // window, 8 // window, 3))
    x, dx, g = (jnp.asarray(rng.integers(0, 4, shape), jnp.bfloat16) for shape in shapes)
    here, there = partial(max_pool, window=window), partial(pool._reduced, window=window)
    np.testing.assert_array_equal(there(x), here(x))
    np.testing.assert_array_equal(jax.vjp(there, x)[1](g)[0], jax.vjp(here, x)[1](g)[0])
    np.testing.assert_array_equal(jax.jvp(there, (x,), (dx,))[1], jax.jvp(here, (x,), (dx,))[1])


def test_max_pool_derivatives_both_modes():
    """Against JAX's own derivatives of the same maximum, which are the same where there are no ties."""
    x, direction = distinct((1, 5, 4, 2)), jnp.cos(distinct((1, 5, 4, 2), 1))

    def own(x):
        return x[:, :4].reshape(1, 2, 2, 2, 2, 2).max((2, 4))

    for derivative in (
        lambda pool: jax.jvp(pool, (x,), (direction,))[1],
        lambda pool: jax.grad(lambda x: (jax.grad(lambda x: (pool(x) ** 3).sum())(x) ** 2).sum())(x),
        lambda pool: jax.jvp(jax.grad(lambda x: (pool(x) ** 3).sum()), (x,), (direction,))[1],
    ):
        assert jnp.abs(derivative(max_pool)).max() > 0.1
        np.testing.assert_allclose(derivative(max_pool), derivative(own), rtol=1e-6)


def test_broadcast_bias_and_its_derivatives():
    bias, z = jnp.arange(3.0), jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    np.testing.assert_array_equal(broadcast_bias(bias, z.shape), np.broadcast_to(bias, z.shape))
    gradient = jax.grad(lambda b: (z * broadcast_bias(b, z.shape) ** 2).sum())
    np.testing.assert_allclose(gradient(bias), 2 * np.asarray(z, np.float64).sum((0, 1, 2)) * bias, rtol=1e-5)
    tangent = jax.jvp(gradient, (bias,), (jnp.ones(3),))[1]
    np.testing.assert_allclose(tangent, 2 * np.asarray(z, np.float64).sum((0, 1, 2)), rtol=1e-5)


def test_broadcast_bias_is_no_product_forwards():
    """XLA:CPU takes the product with the column of ones for the broadcast that it is, and sums by a product."""

    def hlo(f):
        return jax.jit(f).lower(jnp.ones(4), jnp.ones((8, 64, 64, 4))).compile().as_text()

    assert " dot(" not in hlo(lambda b, z: jax.nn.relu(z + broadcast_bias(b, z.shape)))
    assert " dot(" in hlo(jax.grad(lambda b, z: jax.nn.relu(z + broadcast_bias(b, z.shape)).sum()))


def test_max_pool_window_too_large():
    with pytest.raises(UserError, match="window of 3 does not fit into images of 2×5"):
        max_pool(jnp.zeros((1, 2, 5, 1)), 3)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(5, 12, 7), (4, 13, 3), (1, 12, 7), (6, 4100, 3)])
def test_dense_and_its_gradients_against_numpy(batch, inputs, outputs):
    random = np.random.default_rng(0)
    x, kernel, g, v = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((batch, inputs), (inputs, outputs), (batch, outputs), (batch, inputs))
    )
    nx, nk = Value(x), Value(kernel)
    expected = numpy_autodiff.dense(nx, nk)
    expected.backward(g)

    @jax.jit
    def found(x, kernel, g):
        y, vjp = jax.vjp(dense, x, kernel)
        return y, *vjp(g)

    for ours, theirs in zip(found(x, kernel, g), (expected.data, nx.grad, nk.grad), strict=True):
        assert error(ours, theirs) < 1e-6

    # The input's gradient, (g · kernelᵀ), against v: its own gradients are v · kernel and vᵀ · g.
    second = jax.grad(lambda kernel, g: (jax.vjp(dense, x, kernel)[1](g)[0] * v).sum(), (0, 1))(kernel, g)
    assert error(second[0], np.asarray(v, np.float64).T @ g) < 1e-6
    assert error(second[1], np.asarray(v, np.float64) @ kernel) < 1e-6


def test_dense_on_accelerators_is_a_product():
    x, kernel = jnp.zeros((8, 4096)), jnp.zeros((4096, 16))
    traced = jax.jit(lambda x, kernel: jax.vjp(dense, x, kernel)[1](jnp.ones((8, 16)))).trace(x, kernel)
    operations = re.findall(r"stablehlo\.(\w+)", traced.lower(lowering_platforms=("cuda",)).as_text())
    assert operations.count("dot_general") == 2
    assert "while" not in operations
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()
