"""The operations under JAX's transformations, against plain lax operations under the same ones."""

import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from cnnjax.errors import UserError
from cnnjax.ops import broadcast_bias, conv, conv_max_pool, dense, max_pool

pytestmark = pytest.mark.usefixtures("quickly_compiled")
LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = {"winograd": (32, 64), "space to depth": (3, 8), "plain": (5, 6)}
"""Input and output channels for which a CPU takes each algorithm."""


def plain_conv(x, kernel, stride=1, padding="SAME"):
    edges = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=LAYOUT)


def plain_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def plain_conv_max_pool(x, kernel):
    return plain_max_pool(plain_conv(x, kernel))


def plain_dense(x, kernel):
    return x @ kernel


PLAIN = {conv: plain_conv, conv_max_pool: plain_conv_max_pool, dense: plain_dense}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(algorithm, batch=2, side=6):
    inputs, outputs = CHANNELS[algorithm]
    return normal(0, batch, side, side, inputs), normal(1, 3, 3, inputs, outputs) / (9 * inputs) ** 0.5


def assert_close(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(np.abs(theirs).max())
        assert scale > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


def compare(operation, transformed, *arguments):
    """Compares transformed(operation) and transformed(its plain form) at the arguments."""
    assert_close(jax.jit(transformed(operation))(*arguments), jax.jit(transformed(PLAIN[operation]))(*arguments))


def both_modes(operation):
    """All first derivatives, and second ones by each composition of the modes."""

    def loss(x, kernel):
        return jnp.sin(operation(x, kernel)).sum()

    def derivatives(x, kernel):
        at, along = (x, kernel), (jnp.cos(x), jnp.cos(kernel))
        gradient = jax.grad(loss, (0, 1))
        value, linear = jax.linearize(operation, *at)
        return {
            "value": value,
            "jvp": jax.jvp(operation, at, along)[1],
            "linearize": linear(*along),
            "gradient": gradient(*at),
            "forward over reverse": jax.jvp(gradient, at, along)[1],
            "reverse over forward": jax.grad(lambda x, kernel: jax.jvp(loss, (x, kernel), along)[1], (0, 1))(*at),
            "reverse over reverse": jax.grad(lambda *at: sum((g**2).sum() for g in gradient(*at)), (0, 1))(*at),
            "forward over forward": jax.jvp(lambda *at: jax.jvp(loss, at, along)[1], at, along)[1],
        }

    return derivatives


@pytest.mark.parametrize("operation", [conv, conv_max_pool])
@pytest.mark.parametrize("algorithm", CHANNELS)
def test_conv_in_both_modes(operation, algorithm):
    compare(operation, both_modes, *operands(algorithm))


@pytest.mark.parametrize("inputs", [7, 2048])
def test_dense_in_both_modes(inputs):
    compare(dense, both_modes, normal(0, 4, inputs), normal(1, inputs, 3) / inputs**0.5)


def test_broadcast_bias_in_both_modes():
    bias, direction = normal(0, 3), normal(1, 3)

    def derivatives(broadcast):
        def loss(bias):
            return jnp.sin(broadcast(bias, (2, 4, 5, 3))).sum()

        return jax.jvp(loss, (bias,), (direction,)), jax.hessian(loss)(bias), jax.jacrev(jax.jacrev(loss))(bias)

    assert_close(derivatives(broadcast_bias), derivatives(jnp.broadcast_to))


@pytest.mark.parametrize(
    "second", [jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f)), lambda f: jax.jacrev(jax.grad(f))]
)
def test_hessian_of_a_network(second):
    """Of a convolution, a pooling and a dense layer, by all parameters, which `jacfwd` and `jacrev` batch."""
    x = normal(0, 2, 5, 5, 2)
    params = {"conv": normal(1, 3, 3, 2, 3) / 4, "dense": normal(2, 12, 2) / 3}

    def loss(params, conv, max_pool, dense):
        hidden = jnp.tanh(max_pool(conv(x, params["conv"])))
        return (dense(hidden.reshape(2, -1), params["dense"]) ** 2).sum()

    ours = partial(loss, conv=conv, max_pool=max_pool, dense=dense)
    plain = partial(loss, conv=plain_conv, max_pool=plain_max_pool, dense=plain_dense)
    assert_close(jax.jit(second(ours))(params), jax.jit(second(plain))(params))


@pytest.mark.parametrize("algorithm", CHANNELS)
@pytest.mark.parametrize("batched", [(0, None), (None, 3), (1, 2)])
def test_conv_under_vmap(algorithm, batched):
    """Over x, over the kernel and over both: values, derivatives of each by itself, and derivatives of their sum."""
    arguments = [
        a if axis is None else jnp.stack([a, jnp.cos(a), -a], axis)
        for a, axis in zip(operands(algorithm), batched, strict=True)
    ]

    def transformed(operation):
        def loss(x, kernel):
            return jnp.sin(operation(x, kernel)).sum()

        mapped = partial(jax.vmap, in_axes=batched)

        def derivatives(x, kernel):
            return (
                mapped(operation)(x, kernel),
                mapped(jax.grad(loss, (0, 1)))(x, kernel),
                jax.grad(lambda x, kernel: mapped(loss)(x, kernel).sum(), (0, 1))(x, kernel),
                mapped(lambda *at: jax.jvp(jax.grad(loss), at, at)[1])(x, kernel),
            )

        return derivatives

    compare(conv, transformed, *arguments)


@pytest.mark.parametrize(("window", "channels"), [(1, (6, 5)), (3, (40, 48)), (5, (3, 4))])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_of_a_stack_are_those_of_each(window, channels, dtype):
    """And its program on a CPU has no convolution whose layout XLA compiles badly within a loop."""
    x = jnp.stack([normal(seed, 3, 9, 7, channels[0]) for seed in (0, 1)]).astype(dtype)
    kernel = jnp.stack([normal(seed, window, window, *channels) for seed in (2, 3)]).astype(dtype) / 9

    def gradients(operation, x, kernel):
        return jax.grad(lambda *at: jnp.sin(operation(*at)).sum(dtype=jnp.float32), (0, 1))(x, kernel)

    stacked = jax.jit(jax.vmap(partial(gradients, conv)))
    found = jax.tree.map(np.float64, stacked(x, kernel))
    expected = [gradients(plain_conv, *(np.float32(a) for a in pair)) for pair in zip(x, kernel, strict=True)]
    expected = jax.tree.map(lambda *each: np.stack(each), *expected)
    if dtype == jnp.float32:
        assert_close(found, expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()
    layouts = re.findall("dim_numbers = (.*?), window", stacked.lower(x, kernel).as_text())
    assert set(layouts) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


@pytest.mark.parametrize("axes", [((0, None), (None, 0)), ((0, 0), (None, 0)), ((0, 0), (0, 0)), ((0, 0), (0, None))])
def test_conv_under_vmap_twice(axes):
    x, kernel = operands("winograd", batch=1)
    for inner in reversed(axes):
        x, kernel = (
            a if axis is None else jnp.stack([a, jnp.cos(a)]) for a, axis in zip((x, kernel), inner, strict=True)
        )
    compare(conv, lambda operation: jax.vmap(jax.vmap(operation, axes[1]), axes[0]), x, kernel)


def test_gradients_of_each_example():
    x, kernel = operands("winograd", batch=3)
    weights = normal(2, 9 * 64, 5) / 24

    def transformed(operation):
        product = dense if operation is conv_max_pool else plain_dense

        def loss(params, image):
            hidden = jax.nn.relu(operation(image[None], params[0]))
            return (product(hidden.reshape(1, -1), params[1]) ** 2).sum()

        return jax.vmap(jax.grad(loss), (None, 0))

    compare(conv_max_pool, transformed, (kernel, weights), x)


def sharded(check_vma):
    def wrap(function):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        return jax.shard_map(function, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=check_vma)

    return wrap


def pmapped(function):
    mapped = jax.pmap(function, in_axes=(0, None))
    return lambda x, kernel: mapped(x.reshape(4, 1, *x.shape[1:]), kernel)


@pytest.mark.parametrize("wrap", [sharded(True), sharded(False), pmapped], ids=["vma", "no vma", "pmap"])
@pytest.mark.parametrize("operation", [conv, conv_max_pool])
def test_conv_on_several_devices(wrap, operation):
    x, kernel = operands("winograd", batch=4)

    def found(operation):
        def derivatives(x, kernel):
            def loss(x, kernel):
                return jnp.sin(operation(x, kernel)).sum()

            gradient = jax.grad(loss)
            return gradient(x, kernel), jax.jvp(gradient, (x, kernel), (x, kernel))[1]

        return wrap(derivatives)

    run = (lambda function: function) if wrap is pmapped else jax.jit
    assert_close(run(found(operation))(x, kernel), run(found(PLAIN[operation]))(x, kernel))


@pytest.mark.parametrize("wrap", [sharded(True), sharded(False)], ids=["vma", "no vma"])
@pytest.mark.parametrize("operation", [conv, conv_max_pool])
def test_a_gradient_on_several_devices_without_jit(wrap, operation):
    """Each primitive is compiled by itself: hence few of them, of the smallest images."""
    x, kernel = operands("winograd", batch=4, side=4)

    def found(operation):
        return wrap(jax.grad(lambda x, kernel: operation(x, kernel).sum()))(x, kernel)

    assert_close(found(operation), found(PLAIN[operation]))


def test_kernel_gradient_under_shard_map_is_the_sum_over_devices():
    """A kernel that is the same on all devices has one gradient, as with JAX's own operations."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def transformed(operation):
        gradient = jax.grad(lambda x, kernel: jnp.sin(operation(x, kernel)).sum(), 1)
        return jax.shard_map(gradient, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())

    compare(conv, transformed, *operands("winograd", batch=4))
    compare(conv, transformed, *operands("plain", batch=4))


def test_conv_with_explicit_sharding():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    x, kernel = operands("winograd", batch=4)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, jax.NamedSharding(mesh, P("data")))
        assert jax.typeof(jax.jit(conv)(x, kernel)).sharding.spec == P("data", None, None, None)
        compare(conv, lambda operation: jax.grad(lambda x, kernel: jnp.sin(operation(x, kernel)).sum()), x, kernel)


def test_conv_in_checkpoint_scan_and_with_donation():
    x, kernel = normal(0, 2, 6, 6, 32), normal(1, 3, 3, 32, 32) / 20

    def transformed(operation):
        @jax.checkpoint
        def layer(x, kernel):
            return jnp.tanh(operation(x, kernel))

        def loss(kernel, x):
            return lax.scan(lambda x, _: (layer(x, kernel), None), x, length=3)[0].sum()

        return lambda x, kernel: jax.value_and_grad(loss)(kernel, x)

    compare(conv, transformed, x, kernel)
    step = jax.jit(lambda x, kernel: x - jax.grad(lambda x: jnp.sin(conv(x, kernel)).sum())(x), donate_argnums=0)
    expected = x - jax.grad(lambda x: jnp.sin(plain_conv(x, kernel)).sum())(x)
    assert_close(step(x.copy(), kernel), expected)


def test_export_for_all_platforms_with_any_batch():
    batch = jax.export.symbolic_shape("batch")[0]
    x, kernel = operands("winograd")

    def network(x, kernel):
        return dense(conv_max_pool(conv(x, kernel), kernel.swapaxes(2, 3)).mean((1, 2)), kernel[0, 0])

    types = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    exported = jax.export.export(jax.jit(network), platforms=("cpu", "cuda", "tpu"))(*types)
    assert_close(jax.export.deserialize(exported.serialize()).call(x, kernel), network(x, kernel))
    gradient = jax.export.export(jax.jit(jax.grad(lambda *at: network(*at).sum())), platforms=("cpu", "tpu"))(*types)
    assert_close(gradient.call(x, kernel), jax.grad(lambda *at: network(*at).sum())(x, kernel))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("algorithm", CHANNELS)
def test_accelerators_run_the_program_of_plain_operations(platform, algorithm):
    """Forwards, backwards, forward mode and for each example: the same program as that of plain lax operations."""

    def program(operation):
        def loss(x, kernel):
            return jnp.sin(operation(x, kernel)).sum()

        def derivatives(x, kernel):
            each = jax.vmap(jax.grad(lambda kernel, x: loss(x[None], kernel)), (None, 0))
            tangent = jax.jvp(operation, (x, kernel), (kernel[:2, :, :, :].mean() * x, kernel))[1]
            return jax.value_and_grad(loss, (0, 1))(x, kernel), tangent, each(kernel, x)

        return jax.jit(derivatives).trace(*operands(algorithm)).lower(lowering_platforms=(platform,)).as_text()

    assert program(conv) == program(plain_conv)


def test_dense_of_accelerators_is_the_plain_product():
    def program(operation):
        gradients = jax.jit(jax.value_and_grad(lambda *at: jnp.sin(operation(*at)).sum(), (0, 1)))
        return gradients.trace(normal(0, 8, 2048), normal(1, 2048, 16)).lower(lowering_platforms=("tpu",)).as_text()

    assert program(dense) == program(plain_dense)


def test_derivatives_keep_the_precision_of_the_call():
    def loss(x, kernel):
        with jax.default_matmul_precision("highest"):
            return conv(x, kernel).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*operands("plain"))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("precision HIGHEST") >= 4
    assert "precision DEFAULT" not in text


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(1, 11), st.integers(1, 11)), st.sampled_from([(1, 1), (3, 3), (7, 7), (2, 5)]),
    st.integers(1, 3), st.one_of(st.sampled_from(["SAME", "VALID"]), st.integers(0, 3)),
    st.sampled_from([(3, 4), (32, 64), (5, 2)]), st.integers(1, 2),
)  # fmt: skip
def test_conv_of_any_shape(sides, window, stride, padding, channels, batch):
    # With more padding a window could lie in it as a whole, and a result of zeros has no scale to compare at.
    assume(isinstance(padding, str) or padding < min(window))
    sides = [max(side, size) for side, size in zip(sides, window, strict=True)]
    x, kernel = normal(0, batch, *sides, channels[0]), normal(1, *window, *channels)

    def derivatives(operation):
        def value(x, kernel):
            return operation(x, kernel, stride, padding)

        def all_of_them(x, kernel):
            y, pull = jax.vjp(value, x, kernel)
            return y, jax.jvp(value, (x, kernel), (jnp.cos(x), kernel + 1)), pull(jnp.cos(y))

        return jax.jit(all_of_them)(x, kernel)

    assert_close(derivatives(conv), derivatives(plain_conv))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 5, 5, 3), (3, 3, 4, 2)), "takes images of 4 channels: use 3 input channels"),
        (((1, 5, 5, 3), (3, 3, 3, 2), 0), "use stride=1 instead of 0"),
        (((1, 5, 5, 3), (3, 3, 3, 2), 1, -1), "'SAME', 'VALID' or a number of pixels: use one of these, not -1"),
    ],
)
def test_conv_refuses(arguments, message):
    x, kernel, *others = arguments
    with pytest.raises(UserError, match=message):
        inspect.unwrap(conv)(jnp.zeros(x), jnp.zeros(kernel), *others)


def test_dense_refuses_another_number_of_features():
    with pytest.raises(UserError, match="takes 4 features: use 3 rows"):
        inspect.unwrap(dense)(jnp.zeros((2, 3)), jnp.zeros((4, 5)))
