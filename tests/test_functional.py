"""The functional boundary: models of plain Flax layers, captured activations, perturbations, state, several devices."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
from flax import nnx
from jax.sharding import PartitionSpec as P

from cnnjax import models
from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class CNN(nnx.Module):
    """As Flax's documentation has it (MNIST tutorial), with less channels."""

    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.25, rngs=rngs)
        self.conv2 = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(32, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.25, rngs=rngs)
        self.linear2 = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = self.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)


class WithTrain(CNN):
    """The same network, which passes its mode on by itself."""

    def __call__(self, x, *, train=False):
        x = self.dropout1(self.conv1(x), deterministic=not train)
        x = self.avg_pool(nnx.relu(self.batch_norm1(x, use_running_average=not train)))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x), use_running_average=not train)))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(x.shape[0], -1)), deterministic=not train))
        return self.linear2(x)


class Noisy(nnx.Module):
    """Random numbers of its own, a nested list of layers, a shared layer, and a transformed one."""

    def __init__(self, *, rngs):
        self.rngs = rngs.fork()
        self.blocks = nnx.List([nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu), nnx.Linear(4, 4, rngs=rngs)])
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, images, rngs):
        x = images.mean((1, 2))
        x = self.blocks[1](self.blocks[1](self.blocks[0](x)))
        x = x + jax.random.normal(rngs(), x.shape) + self.rngs.noise.normal(x.shape)
        return jax.checkpoint(lambda x: self.last(x))(x)


NAMES = ["conv1", "dropout1", "batch_norm1", "conv2", "batch_norm2", "linear1", "dropout2", "linear2"]


def images(batch=8, side=8, channels=1):
    return jax.random.normal(jax.random.key(1), (batch, side, side, channels))


@pytest.fixture(autouse=True)
def as_flax_needs_it():
    """Flax's own layers rely on promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(2), 8)


@pytest.fixture(scope="module", params=[CNN, WithTrain])
def plain(request):
    return models.split(request.param(rngs=nnx.Rngs(0)))


def close(a, b, rtol=1e-5):
    """Relative to each array's largest element."""
    a, b = jax.tree.flatten(a), jax.tree.flatten(b)
    assert a[1] == b[1]
    for x, y in zip(a[0], b[0], strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-3))


def test_split_gives_plain_dicts(plain):
    _, params, state = plain
    assert params["conv1"]["kernel"].shape == (3, 3, 1, 4) and set(state["batch_norm1"]) == {"mean", "var"}
    assert set(params) == {"conv1", "batch_norm1", "conv2", "batch_norm2", "linear1", "linear2"}
    assert set(state) == {"batch_norm1", "batch_norm2", "dropout1", "dropout2"}
    _, params, _ = models.split(Noisy(rngs=nnx.Rngs(0)))
    assert list(params["blocks"]) == [0, 1]
    assert set(models.flatten(params)) == {
        "blocks/0/layers/0/bias", "blocks/0/layers/0/kernel", "blocks/1/bias", "blocks/1/kernel", "last/bias",
        "last/kernel",
    }  # fmt: skip


def test_plain_layers_in_evaluation_and_in_training(plain):
    """As Flax itself computes them, after model.eval() or model.train(); with no keys dropout is off."""
    graphdef, params, state = plain
    model = nnx.merge(graphdef, params, state)
    model.eval()
    output = models.apply(graphdef, params, state, images())
    np.testing.assert_allclose(output.logits, CNN.__call__(model, images()), rtol=1e-5, atol=1e-6)
    close(output.model_state, state, 0)

    for dropout in (model.dropout1, model.dropout2):
        dropout.rate = 0.0
    model.train()
    expected = CNN.__call__(model, images())
    output = models.apply(graphdef, params, state, images(), train=True)
    np.testing.assert_allclose(output.logits, expected, rtol=1e-5, atol=1e-6)
    close(output.model_state["batch_norm2"], nnx.to_pure_dict(nnx.state(model.batch_norm2, nnx.BatchStat)))
    assert (output.model_state["batch_norm1"]["mean"] != 0).any()
    for name in ("dropout1", "dropout2"):
        close(output.model_state[name], state[name], 0)


def test_captured_activations(plain):
    graphdef, params, state = plain
    output = models.apply(graphdef, params, state, images())
    assert list(output.activations) == NAMES
    np.testing.assert_array_equal(output.activations["linear2"], output.logits)
    assert models.layer_shapes(graphdef, params, state, (8, 8, 1)) == {
        "conv1": (8, 8, 4), "dropout1": (8, 8, 4), "batch_norm1": (8, 8, 4), "conv2": (4, 4, 8),
        "batch_norm2": (4, 4, 8), "linear1": (16,), "dropout2": (16,), "linear2": (5,),
    }  # fmt: skip


def test_capturing_compiles_once_and_leaves_the_classes_alone(plain):
    graphdef, params, state = plain
    traces = []

    @jax.jit
    def run(params, state, images):
        traces.append(1)
        return models.apply(graphdef, params, state, images, train=True)

    for _ in range(3):
        state = run(params, state, images()).model_state
    assert len(traces) == 1
    model = nnx.merge(graphdef, params, state)
    before = nnx.graphdef(model)
    models.apply(graphdef, params, state, images())
    assert type(model.conv1) is nnx.Conv and nnx.graphdef(nnx.merge(graphdef, params, state)) == before
    by_image = jax.vmap(lambda x: models.apply(graphdef, params, state, x[None]).activations["conv2"][0])(images())
    close(by_image, models.apply(graphdef, params, state, images()).activations["conv2"])


def test_lists_shared_layers_and_transformations(keys):
    graphdef, params, state = models.split(Noisy(rngs=nnx.Rngs(0)))
    x = images(channels=3)
    output = models.apply(graphdef, params, state, x, keys=keys)
    # `last` is called inside of jax.checkpoint: its output belongs to that trace.
    assert list(output.activations) == ["blocks.0.layers.0", "blocks.0", "blocks.1", "blocks.1:2"]
    close(output.model_state, state, 0)
    again, other = (models.apply(graphdef, params, state, x, keys=k).logits for k in (keys, keys[::-1]))
    np.testing.assert_array_equal(output.logits, again)
    assert (output.logits != other).any()
    assert jnp.isfinite(models.apply(graphdef, params, state, x).logits).all()
    gradient = jax.jit(jax.grad(lambda p: models.apply(graphdef, p, state, x, train=True, keys=keys).logits.sum()))(
        params
    )
    assert jnp.abs(gradient["last"]["kernel"]).max() > 0


def test_a_model_with_activations_of_its_own():
    class Named(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, images):
            x = self.linear(images.mean((1, 2)))
            return {"a": x, "b": (x, x)}, {"mean": x.mean()}

    graphdef, params, state = models.split(Named(nnx.Rngs(0)))
    output = models.apply(graphdef, params, state, images(channels=3))
    assert list(output.activations) == ["mean"] and set(output.logits) == {"a", "b"}
    assert models.layer_shapes(graphdef, params, state, (8, 8, 3)) == {}


def test_the_mask_belongs_to_the_example(plain, keys):
    graphdef, params, state = plain
    apply = partial(models.apply, graphdef, params, state, train=True)
    on, off = apply(images(), keys=keys).activations, apply(images()).activations
    np.testing.assert_array_equal(off["dropout1"], off["conv1"])
    mask = on["dropout1"] == 0
    assert 0.15 < mask.mean() < 0.35
    np.testing.assert_allclose(on["dropout1"], jnp.where(mask, 0, on["conv1"] / 0.75), rtol=1e-6)
    some = jnp.array([5, 2])
    again = apply(images()[some], keys=keys[some]).activations["dropout1"]
    np.testing.assert_array_equal(again == 0, mask[some])
    assert ((on["dropout2"] == 0)[:, :4] != mask[:, 0, 0]).any()


def test_dropout_with_shared_masks_several_rows_and_several_calls(keys):
    class Rows(nnx.Module):
        def __init__(self):
            self.drop = nnx.Dropout(0.5, broadcast_dims=(1,))

        def __call__(self, images):
            x = self.drop(images)
            y = self.drop(images.reshape(-1, 8))
            return x, y

    graphdef, params, state = models.split(Rows())
    run = lambda x, keys: models.apply(graphdef, params, state, x, keys=keys)  # noqa: E731
    x = jnp.ones((8, 4, 8))
    first, rows = run(x, keys).logits
    assert (first == first[:, :1]).all() and 0.3 < (first == 0).mean() < 0.7
    rows = rows.reshape(8, 4, 8)
    assert (rows[:, 0] != first[:, 0]).any()
    np.testing.assert_array_equal(run(x[3:5], keys[3:5]).logits[1].reshape(2, 4, 8), rows[3:5])


@pytest.mark.parametrize("name", ["conv2", "batch_norm1", "linear2"])
def test_perturbations_of_captured_activations(plain, name):
    """As a submodule that adds the same by hand."""
    graphdef, params, state = plain
    model = nnx.merge(graphdef, params, state)
    shape = models.layer_shapes(graphdef, params, state, (8, 8, 1))[name]
    change = jax.random.normal(jax.random.key(7), (8, *shape))
    setattr(model, name, Added(getattr(model, name), change))
    output = models.apply(graphdef, params, state, images(), perturbations={name: change})
    expected = models.apply(*models.split(model), images())
    np.testing.assert_allclose(output.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.activations[name], expected.activations[name], rtol=1e-5, atol=1e-6)


class Added(nnx.Module):
    def __init__(self, layer, change):
        self.layer, self.change = layer, nnx.Variable(change)

    def __call__(self, x, **arguments):
        return self.layer(x, **arguments) + self.change[...]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "small-cnn", "image_size": 16, "width_multiplier": 0.1},
        {"name": "vgg11", "image_size": 32, "width_multiplier": 0.05},
        {"name": "vgg13-bn", "image_size": 32, "width_multiplier": 0.05},
        {"name": "resnet18", "width_multiplier": 0.05},
    ],
    ids=lambda arguments: arguments["name"],
)
def test_perturbations_of_every_named_activation(arguments):
    """All activations are perturbed with zeros, which changes nothing, then moved: later ones follow.

    The derivative with respect to a perturbation is that of the logits with respect to the activation.
    """
    side = arguments.get("image_size", 32)
    graphdef, params, state = models.split(random_networks.model(num_classes=3, **arguments))
    x = images(2, side, 3)

    @jax.jit
    def run(perturbations):
        return models.apply(graphdef, params, state, x, perturbations=perturbations)

    plain = jax.jit(lambda: models.apply(graphdef, params, state, x))()
    names = list(models.layer_shapes(graphdef, params, state, (side, side, 3)))
    zeros = jax.tree.map(jnp.zeros_like, plain.activations)
    assert set(names) == set(zeros)
    close(run(zeros), plain)
    for name in (names[0], names[len(names) // 2], names[-2]):
        moved = run(zeros | {name: 1 + plain.activations[name] ** 2})
        before = names[: names.index(name)]
        close([moved.activations[n] for n in before], [plain.activations[n] for n in before])
        change = moved.activations[name] - plain.activations[name]
        np.testing.assert_allclose(change, 1 + plain.activations[name] ** 2, rtol=1e-3, atol=1e-5)
        assert jnp.abs(moved.logits - plain.logits).max() > 1e-4
    last = names[-1]
    gradient = jax.grad(lambda p: run(p).logits[:, 1].sum())(zeros)[last]
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient).at[:, 1].set(1))
    remat, given = models.with_remat(graphdef, params, state, True), zeros | {names[1]: plain.activations[names[1]]}
    again = jax.jit(lambda perturbations: models.apply(remat, params, state, x, perturbations=perturbations))
    close(again(given), run(given))


def test_a_perturbed_convolution_is_what_is_pooled():
    graphdef, params, state = models.split(random_networks.model("small-cnn", image_size=16, width_multiplier=0.1))
    x = images(2, 16, 3)
    plain = models.apply(graphdef, params, state, x).activations
    change = jax.random.normal(jax.random.key(3), plain["conv_2"].shape)
    found = models.apply(graphdef, params, state, x, perturbations={"conv_2": change}).activations
    by_hand = (plain["conv_2"] + change).reshape(2, 4, 2, 4, 2, -1).max((2, 4))
    np.testing.assert_allclose(found["maxpool_2"], by_hand, rtol=1e-5, atol=1e-6)


def test_an_unknown_perturbation(plain):
    graphdef, params, state = plain
    with pytest.raises(UserError, match=r"unknown activation 'conv3': did you mean conv"):
        models.apply(graphdef, params, state, images(), perturbations={"conv3": jnp.zeros(())})
    graphdef, params, state = models.split(random_networks.model("resnet18", width_multiplier=0.05))
    with pytest.raises(UserError, match="unknown activation 'layer9'"):
        models.apply(graphdef, params, state, images(1, 32, 3), perturbations={"layer9": jnp.zeros(())})


class Normed(nnx.Module):
    """Both batch normalizations."""

    def __init__(self, *, rngs):
        # No bias: before BatchNorm its gradient is zero, and what is computed is rounding alone.
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.flax = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.own = models.BatchNorm(4, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.flax(self.conv(images)))
        return self.last(jnp.tanh(self.own(x)).mean((1, 2)))


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("normed", "pmap"),
        ("normed", "shard_map"),
        pytest.param("resnet", "pmap", marks=pytest.mark.slow),
        ("resnet", "shard_map"),
    ],
)
def test_batch_norm_over_devices_is_that_of_the_global_batch(strategy, kind):
    """Loss, statistics and gradients on 8 devices of 2 examples each agree with one device of 16."""
    model = (
        Normed(rngs=nnx.Rngs(0))
        if kind == "normed"
        else random_networks.model("resnet18", 1, num_classes=3, channels=1, width_multiplier=0.06)
    )
    graphdef, params, state = models.split(model)
    x = images(16, 12 if kind == "normed" else 40) * 2 + 1
    weights = jax.random.normal(jax.random.key(3), (16, 3))

    def step(params, state, x, weights, axis_name=None):
        if axis_name and strategy == "shard_map":
            params = jax.lax.pcast(params, axis_name, to="varying")

        def loss(params):
            output = models.apply(graphdef, params, state, x, train=True, axis_name=axis_name)
            return (output.logits * weights).sum(1).mean(), output.model_state

        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        if axis_name:
            value, gradients = jax.lax.pmean((value, gradients), axis_name)
        return value, new, gradients

    expected = jax.jit(step)(params, state, x, weights)
    over_devices = partial(step, axis_name="data")
    if strategy == "pmap":
        x, weights = x.reshape(8, 2, *x.shape[1:]), weights.reshape(8, 2, 3)
        found = jax.pmap(over_devices, axis_name="data", in_axes=(None, None, 0, 0), out_axes=None)(
            params, state, x, weights
        )
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        specs = (P(), P(), P("data"), P("data"))
        found = jax.jit(jax.shard_map(over_devices, mesh=mesh, in_specs=specs, out_specs=P()))(
            params, state, x, weights
        )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Some gradients are small differences of large terms, which are rounded.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=max(1e-5 * np.abs(b).max(), 2e-6))
    assert (found[1]["own" if kind == "normed" else "bn1"]["mean"] != 0).any()


def test_bfloat16_stays_bfloat16_after_flax_batch_norm(plain):
    graphdef, params, state = plain
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    output = models.apply(graphdef, params, state, images().astype(jnp.bfloat16), train=True)
    assert {a.dtype for a in output.activations.values()} == {jnp.dtype(jnp.bfloat16)}
    assert output.model_state["batch_norm1"]["mean"].dtype == jnp.float32


def test_with_remat(plain):
    graphdef, params, state = models.split(random_networks.model("resnet18", width_multiplier=0.05))
    on = models.with_remat(graphdef, params, state, True)
    assert on != graphdef and models.with_remat(on, params, state, False) == graphdef
    assert nnx.merge(on, params, state).remat
    with pytest.raises(UserError, match="remat=True needs a model with an attribute `remat`"):
        models.with_remat(*plain, True)


@pytest.mark.parametrize("name", models.MODELS)
def test_config_makes_the_same_model_again(name):
    """Through JSON; with arguments other than the defaults."""
    arguments = {"num_classes": 2, "image_size": (48, 64), "channels": 1, "width_multiplier": 0.05}
    if name == "vgg11":
        arguments |= {"dense_units": 7, "dropout": 0.25, "include_top": True}
    model = nnx.eval_shape(partial(models.create, name, **arguments))
    config = json.loads(json.dumps(model.config()))
    assert config["name"] == name and config["image_size"] == [48, 64]
    again = nnx.eval_shape(partial(models.create, **config))
    (graphdef, params, state), other = models.split(model), models.split(again)
    assert (graphdef, jax.tree.map(jnp.shape, params)) == (other[0], jax.tree.map(jnp.shape, other[1]))
    assert model.casts_parameters and not model.remat
    assert models.layer_shapes(graphdef, params, state, (48, 64, 1))


def test_create_is_a_function_of_its_seed():
    make = partial(models.create, "resnet18", width_multiplier=0.05)
    first, same, other = (models.split(make(seed=seed))[1] for seed in (3, 3, 4))
    close(first, same, 0)
    assert (first["conv1"]["kernel"] != other["conv1"]["kernel"]).any()


def test_create_names_what_is_wrong():
    with pytest.raises(UserError, match="unknown model 'resnet19': did you mean resnet18"):
        models.create("resnet19")
    with pytest.raises(
        UserError, match="resnet18 has no argument 'dropout': it takes num_classes, image_size, channels"
    ):
        models.create("resnet18", dropout=0.3)
    with pytest.raises(UserError, match=r"use an image_size of 16 or more, not \(15, 20\)"):
        models.create("small-cnn", image_size=(15, 20))


class Keywords(nnx.Module):
    """Calls its layers by keyword, and drops whole channels."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 64, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, broadcast_dims=(-3, -2))

    def __call__(self, x):
        return self.dropout(inputs=self.conv(inputs=x)).mean((1, 2))


def test_layers_that_are_called_by_keyword_and_dropout_of_whole_channels():
    graphdef, params, state = models.split(Keywords(nnx.Rngs(0)))
    x = images(channels=3)
    output = models.apply(graphdef, params, state, x, keys=jax.random.split(jax.random.key(0), len(x)))
    assert list(output.activations) == ["conv", "dropout"]
    dropped = np.asarray(output.activations["dropout"] == 0)
    assert (dropped == dropped[:, :1, :1]).all() and 0.3 < dropped.mean() < 0.7
