"""Shapes, parameters, FLOPs and receptive fields, against known numbers and against what really depends on what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
from flax import nnx

from cnnjax import models
from cnnjax.analysis import receptive_field, summary
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.ops import conv, max_pool

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def stack(*windows, stride=1):
    def model(x):
        for window in windows:
            x = conv(x, jnp.ones((window, window, x.shape[-1], 1)), stride)
        return x

    return model


def abstract(kind):
    return nnx.eval_shape(lambda: kind(rngs=nnx.Rngs(0)))


class Own(nnx.Module):
    """A user's network from Flax's own layers, with a branch, an unused parameter and other state."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 10, (5, 5), rngs=rngs)
        self.normal = nnx.BatchNorm(10, rngs=rngs)
        self.second = nnx.Conv(10, 10, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.dense = nnx.Linear(10, 4, rngs=rngs)
        self.spare = nnx.Param(jnp.zeros(7))

    def __call__(self, x):
        a = {}
        x = a["first"] = nnx.relu(self.normal(self.first(x)))
        x = a["pool"] = nnx.max_pool(x, (2, 2), (2, 2))
        x = a["residual"] = x + nnx.swish(x)
        x = a["second"] = self.second(x)
        x = a["wide"] = jnp.concatenate([x, -x], axis=-1)[..., :10].transpose(0, 2, 1, 3)
        x = a["mean"] = x.mean((1, 2))
        return self.dense(x), a


def test_article_volumes():
    """Section 2.2 to 2.4: 32×32×3 and ten 5×5 filters give 32×32×10, pooling 16×16×10."""

    def model(x):
        maps = conv(x, jnp.zeros((5, 5, 3, 10)))
        pooled = max_pool(maps)
        return pooled, {"conv": maps, "pool": pooled}

    found = summary(model, (32, 32, 3))
    assert [row.shape for row in found.rows] == [(32, 32, 10), (16, 16, 10)]
    assert found["conv"].flops == 2 * 32 * 32 * 10 * 5 * 5 * 3 and found["pool"].flops == 0
    assert (found["conv"].receptive_field, found["pool"].receptive_field) == ((5, 5), (6, 6))
    assert (found["conv"].stride, found["pool"].stride) == ((1, 1), (2, 2))


def test_article_receptive_fields():
    """Two stacked 3×3 see what one 5×5 does, three what one 7×7 does."""
    for windows, field in {(3, 3): 5, (5,): 5, (3, 3, 3): 7, (7,): 7}.items():
        assert summary(stack(*windows), (20, 20, 3)).rows[0].receptive_field == (field, field)
        assert receptive_field(windows) == (field, 1)
    assert receptive_field([3, 3, 2] * 2, [1, 1, 2] * 2) == (16, 4)  # VGG's block2_pool


def test_small_cnn_table():
    found = summary(abstract(models.SmallCNN), (150, 150, 3))
    assert found.parameters == 5_681_345
    flops = [2 * 9 * side**2 * a * b for side, a, b in ((150, 3, 32), (75, 32, 64), (37, 64, 128), (18, 128, 128))]
    dense = [2 * a * b for a, b in ((10368, 512), (512, 256), (256, 1))]
    assert [row.flops for row in found.rows if row.flops] == flops + dense
    assert [row.parameters for row in found.rows if row.parameters] == [
        896, 18_496, 73_856, 147_584, 5_308_928, 131_328, 257
    ]  # fmt: skip
    assert [found[f"conv_{i}"].receptive_field[0] for i in range(1, 5)] == [3, 8, 18, 38]
    assert [found[f"maxpool_{i}"].stride[0] for i in range(1, 5)] == [2, 4, 8, 16]
    assert found["dense_1"].receptive_field == (150, 150) and found["dense_1"].stride is None


def test_vgg16_known_numbers():
    found = summary(abstract(models.VGG16), (224, 224, 3))
    assert found.parameters == 138_357_544
    assert found.flops == pytest.approx(2 * 15.47e9, rel=1e-3)
    assert found["block5_conv3"].receptive_field == (196, 196) and found["block5_conv3"].stride == (16, 16)
    assert found["block5_pool"].receptive_field == (212, 212)
    assert found["predictions"].receptive_field == (224, 224)


def test_a_users_own_module():
    found = summary(abstract(Own), (32, 20, 3))
    fields = {row.layer: (row.receptive_field, row.stride) for row in found.rows}
    assert fields == {
        "first": ((5, 5), (1, 1)),
        "pool": ((6, 6), (2, 2)),
        "residual": ((6, 6), (2, 2)),
        "second": ((10, 10), (4, 4)),
        "wide": ((10, 10), (4, 4)),
        "mean": ((32, 20), None),
        "logits": ((32, 20), None),
        "(unused)": (None, None),
    }
    sizes = {row.layer: row.parameters for row in found.rows if row.parameters}
    assert sizes == {"first": 3 * 25 * 10 + 10 + 20, "second": 910, "logits": 44, "(unused)": 7}


@pytest.mark.parametrize(
    "model",
    [
        lambda x: max_pool(jnp.tanh(stack(3)(x) / 100), 3),
        lambda x: stack(3, 2)(nnx.max_pool(x, (3, 3), (2, 2))),
        lambda x: stack(3)(x.reshape(1, 12, 2, 12, 2, 3).max((2, 4))),
        lambda x: stack(3)(x)[:, ::2, 1::3],
        lambda x: jax.jit(stack(3, 3, stride=2))(x),
        lambda x: stack(3)(jnp.pad(x, ((0, 0), (5, 1), (5, 1), (0, 0)))[:, 2:]),
        lambda x: stack(3)(stack(3, 3)(x) + stack(1)(x)),
    ],
    ids=["pool", "flax pool", "reshape", "slice", "jit", "pad", "residual"],
)
def test_field_is_what_really_reaches_the_output(model):
    """Oracle: a brighter pixel makes the outputs that see it larger."""
    row = summary(model, (24, 24, 3)).rows[0]
    run = jax.jit(model)
    middle = tuple(n // 2 for n in row.shape[:2])
    dark = jnp.ones((1, 24, 24, 3))
    before = run(dark)
    seen = [(run(dark.at[0, i].add(1)) > before)[0, *middle].any() for i in range(24)]
    assert sum(map(bool, seen)) == row.receptive_field[0] == row.receptive_field[1]
    assert seen.index(True) == row.start[0] + middle[0] * row.stride[0]


def test_where_the_first_field_starts():
    found = summary(abstract(models.VGG16), (224, 224, 3))
    assert found["block1_conv1"].start == (-1, -1) and found["block1_pool"].start == (-2, -2)
    # By hand: start = Σ -padding · stride so far, with paddings of 1 before each convolution and none before pooling.
    assert found["block5_conv3"].start == (-90, -90) and found["fc1"].start is None
    assert summary(lambda x: stack(3)(x)[:, ::-1], (8, 8, 3)).rows[0].start is None


class Block(nnx.Module):
    """A residual block of Flax's own layers."""

    def __init__(self, inputs, outputs, stride, rngs):
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, rngs=rngs)
        self.shortcut = nnx.Conv(inputs, outputs, (1, 1), strides=stride, use_bias=False, rngs=rngs)

    def __call__(self, x):
        out = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(out + self.shortcut(x))


class Plain(nnx.Module):
    """A network that returns logits only; `models.apply` captures the activations of its submodules."""

    def __init__(self, *, rngs):
        self.stem = nnx.Conv(1, 8, (7, 7), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(8, 8, 1, rngs), Block(8, 16, 2, rngs)])
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def test_plain_flax_modules_are_summarized_by_their_submodules():
    found = summary(abstract(Plain), (28, 20, 1))
    conv = [("stem", 7 * 7 * 8 + 8), ("blocks.0.conv1", 576), ("blocks.0.conv2", 576), ("blocks.0.shortcut", 64),
            ("blocks.1.conv1", 1152), ("blocks.1.conv2", 2304), ("blocks.1.shortcut", 128), ("head", 51)]  # fmt: skip
    assert {row.layer: row.parameters for row in found.rows if row.parameters and "norm" not in row.layer} == dict(conv)
    assert found.parameters == sum(count for _, count in conv) + 2 * (8 + 8 + 16 + 16)
    assert found["blocks.0"].receptive_field == (15, 15) and found["blocks.0"].stride == (2, 2)
    assert found["blocks.1"].receptive_field == (27, 27) and found["blocks.1"].stride == (4, 4)
    assert found["blocks.1"].shape == (7, 5, 16) and found["blocks.1"].flops == 0
    assert found["blocks.1.shortcut"].flops == 2 * 7 * 5 * 8 * 16
    assert found["head"].receptive_field == (28, 20) and found["head"].stride is None


def test_a_network_is_summarized_at_its_own_image_size():
    model = random_networks.model("small-cnn", num_classes=1, image_size=(32, 48))
    network = Network.create(model, normalizer=normalize.identity())
    found = summary(network)
    assert found.image_shape == (32, 48, 3) and found["maxpool_4"].shape == (2, 3, 128)
    assert found.rows == summary(model, (32, 48, 3)).rows
    with pytest.raises(UserError, match="image_shape"):
        summary(model)


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


def linear(x):
    kernel = jnp.ones((3, 3, x.shape[-1], 1))
    return jax.custom_derivatives.linear_call(lambda w, x: conv(x, w), lambda w, x: conv(x, w), kernel, x)


@pytest.mark.parametrize(
    ("model", "field", "taps"),
    [
        (lambda x: doubled(stack(3)(x)), 3, 9),
        (lambda x: linear(stack(5)(x)), 7, 25 + 9),
        (jax.checkpoint(stack(3, 3)), 5, 9 + 9),
        (lambda x: jax.lax.platform_dependent(x, cpu=stack(5), default=stack(3)), 3, 9),
    ],
    ids=["custom_jvp", "linear_call", "checkpoint", "platform_dependent"],
)
def test_transformed_functions_are_followed(model, field, taps):
    row = summary(model, (16, 16, 1)).rows[0]
    assert row.receptive_field == (field, field) and row.stride == (1, 1)
    assert row.flops == 2 * 16 * 16 * taps


def test_lost_fields_say_so():
    found = summary(lambda x: jnp.sort(stack(3)(x), axis=1), (8, 8, 3))
    assert found.rows[0].receptive_field is None and found.rows[0].flops == 2 * 8 * 8 * 27
    assert "–" in str(found)


def test_work_inside_a_scan_counts():
    def model(x):
        return jax.lax.scan(lambda x, _: (conv(x, jnp.ones((3, 3, 3, 3))), None), x, None, length=4)[0]

    found = summary(model, (8, 8, 3))
    assert found.flops == 4 * 2 * 8 * 8 * 27 * 3
    assert found.rows[0].receptive_field is None  # four 3×3 kernels have one of 9, which is not followed


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: jax.pure_callback(lambda x: np.asarray(x)[:, ::-1], jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: conv(x, jnp.ones((3, 3, 3, 3))), x),
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 5, lambda x: x[:, ::-1], x),
        lambda x: jnp.take(conv(x, jnp.ones((3, 3, 3, 8))), 4, axis=1),
        lambda x: jnp.take(x, jnp.array([3, 1]), axis=2),
        lambda x: x.at[:, 2].set(x[:, 5]),
    ],
)
def test_what_may_mix_pixels_has_no_receptive_field(mix):
    assert summary(mix, (8, 8, 3)).rows[0].receptive_field is None


def test_whether_any_pixel_is_bright():
    row = summary(lambda x: jnp.any(conv(x, jnp.ones((3, 3, 3, 5))) > 0, axis=(1, 2)), (8, 8, 3)).rows[0]
    assert row.shape == (5,) and row.receptive_field == (8, 8)


def test_products_that_differ_are_all_counted():
    one, three, other = (jnp.ones((n, n, 3, 2)) for n in (1, 3, 3))
    pixels = 2 * 8 * 8 * 3 * 2

    def flops(model):
        return summary(model, (8, 8, 3)).flops

    assert flops(lambda x: conv(x, three) + conv(x, one)) == pixels * 10
    assert flops(lambda x: conv(x, three) + conv(x, other)) == pixels * 18
    assert flops(lambda x: conv(x, three, 2) + conv(x, three, 2, 1)) == pixels * 18 // 4
    assert flops(lambda x: conv(x, three) + conv(x, three)) == pixels * 9
    assert flops(lambda x: jax.lax.map(lambda x: conv(x, three) + conv(x, other), x[None])) == pixels * 18


def test_table_is_aligned():
    text = str(summary(abstract(models.SmallCNN), (150, 150, 3)))
    lines = text.splitlines()
    assert len(lines) == 16 and lines[0].split()[:2] == ["layer", "output"]
    assert lines[2].split() == ["conv_1", "150×150×32", "896", "38.88", "M", "3", "1"]
    assert lines[-1].split() == ["total", "5,681,345", "554.54", "M"]
    ends = {line.index(cell) + len(cell) for line, cell in zip(lines[2:], ("896", "0", "18,496"), strict=False)}
    assert len(ends) == 1
