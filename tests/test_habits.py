"""What newcomers pass by habit, to `fit`, `render` and `load`: one sentence each, before anything is computed.

Arguments of another type than annotated are given to the functions that check them, since the tests check annotations.
"""

import inspect
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from cnnjax import Network, data, losses, train, visualize
from cnnjax.errors import UserError
from cnnjax.formats import build
from cnnjax.train import arguments, network_fits
from cnnjax.visualize import Recipe, Stage, objectives

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SHORT = Recipe("short", (Stage(3),))


@pytest.fixture(scope="module")
def dataset():
    images = np.random.default_rng(0).integers(0, 256, (24, 9, 7, 3)).astype(np.uint8)
    return data.from_arrays(images, np.arange(24) % 3)


@pytest.fixture(scope="module")
def network(dataset):
    return Network.create(tiny.Plain(rngs=nnx.Rngs(0)), dataset)


def two(logits, labels):
    return logits[:, 0]


def mean(logits, labels, activations):
    return losses.cross_entropy()(logits, labels, activations).mean()


def number(logits, labels, activations):
    return 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics": {"accuracy": two}}, "metrics: 'accuracy' is a name that .* use already: choose another name"),
        ({"metrics": {"loss": two}}, "metrics: 'loss' is a name"),
        ({"metrics": {"finite": two}}, "metrics: 'finite' is a name"),
        ({"metrics": {"epoch": two}}, "metrics: 'epoch' is a name"),
        ({"metrics": {"top": mean}}, r"the metric 'top': mean takes .* called with the 2 arguments \(logits, labels\)"),
        ({"metrics": {"top": lambda logits, labels: logits.mean()}}, r"metric 'top' returned values of shape \(\) for"),
        ({"loss": mean}, r"the loss returned values of shape \(\) for 4 examples: a loss must return one value per"),
        ({"loss": number}, "the loss returned float for 4 examples"),
        ({"loss": two}, r"the loss two takes \(logits, labels\), .* the 3 arguments \(logits, labels, activations\)"),
        ({"loss": losses.cross_entropy() + two}, "the loss two takes"),
        ({"augment": mean}, r"the augmentation mean takes .* the 2 arguments \(keys, images\)"),
    ],
)
def test_functions_of_fit(network, dataset, options, sentence):
    with pytest.raises(UserError, match=sentence):
        train.fit(network, dataset, optax.sgd(0.1), batch_size=4, steps_per_epoch=1, strategy="jit", **options)


def test_names_and_flags_in_place_of_objects(network, dataset):
    with pytest.raises(UserError, match=r"optimizer='adam' .* give train.optimizers.create\('adam', learning_rate\)"):
        inspect.unwrap(train.fit)(network, dataset, "adam")
    for check, value, sentence in (
        (arguments.check_optimizer, optax.adam, "the optimizer must be one of optax, and not adam: give one such as"),
        (arguments.check_augment, True, r"augment=True must be a function, .* give data.Augment\(\)"),
        (arguments.check_augment, data.Augment, r"augment=Augment must be a function, .* give data.Augment\(\)"),
        (arguments.check_mix, True, r"mix=True must be data.mixup\(\), data.cutmix\(\), or None"),
        (arguments.check_loss, "mse", r"loss='mse' must be a function, .* losses.cross_entropy\(\)"),
        (arguments.check_callbacks, print, r"callbacks=print must be a list .* give callbacks=\[function\]"),
        (arguments.check_callbacks, [3], "callbacks: 3 is no function: give functions that take an epoch's metrics"),
        (
            network_fits.check_network,
            3,
            r"cnnjax.Network, and not int: give Network.create\(model, dataset\)",
        ),
        (arguments.check_metrics, [two], "metrics must be functions by name: give a dict"),
    ):
        with pytest.raises(UserError, match=sentence):
            check(value)


def test_usual_arguments_pass():
    arguments.check_optimizer(optax.adam(1e-3))
    for mix in (None, data.mixup(), data.cutmix()):
        arguments.check_mix(mix)
    for augment in (None, data.Augment(), lambda keys, images: images):
        arguments.check_augment(augment)
    arguments.check_metrics({"top5": train.metrics.top_k(5), "two": two, "max": jnp.maximum})
    arguments.check_loss(losses.cross_entropy(0.1) + 0.5 * losses.Loss(mean))


def no_gradient(logits, activations, image):
    return jnp.sqrt(0 * image.mean())


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (lambda logits, activations, image: activations["cnv_1"].mean(), "unknown layer 'cnv_1': did you mean conv_1"),
        (lambda logits, activations, image: logits, r"returned an array of shape \(3,\) for one image: .* a scalar"),
        (lambda logits, activations, image: None, "returned None: end it with return and a scalar"),
        (lambda logits, activations, image: (image, 1), "returned a tuple: an objective must return a scalar"),
        (two, r"the objective two takes .* the 3 arguments \(logits, activations, image\)"),
        (visualize.channel("conv_1", 0) + two, "the objective two takes"),
        (lambda logits, activations, image: logits[0] * jnp.nan, "the objective <lambda> is nan for the image that"),
        (visualize.channel("conv_1", [0, 1]) * float("nan"), r"the objective channel\(conv_1, 0\) \* nan is nan"),
        (no_gradient, "the gradient of the objective no_gradient is not finite"),
    ],
)
def test_objectives(objective, sentence):
    with pytest.raises(UserError, match=sentence):
        visualize.render(tiny.network(), objective, recipe=SHORT)


def test_penalties():
    def penalty(logits, activations, image):
        return activations["cnv_1"].mean()

    with pytest.raises(UserError, match="unknown layer 'cnv_1'"):
        visualize.render(tiny.network(), visualize.channel("conv_1", 0), penalty=penalty, recipe=SHORT)


def test_an_error_of_a_function_itself_stays_what_it_is():
    def other(logits, activations, image):
        return {}[activations["conv_1"].shape]

    with pytest.raises(KeyError):
        visualize.render(tiny.network(), other, recipe=SHORT)


def test_what_is_no_objective():
    for value, sentence in (("conv", r"and not str 'conv': .* visualize.channel\('conv', 0\)"), (["a"], "list")):
        with pytest.raises(UserError, match=sentence):
            inspect.unwrap(objectives.as_objective)(value)
    assert len(inspect.unwrap(objectives.as_objective)(np.float32(2))) == 1


def test_a_class_in_place_of_a_model():
    check = inspect.unwrap(build._check_options_for_model)
    with pytest.raises(UserError, match=r"model=Plain must be an instance .*: give Plain\(...\), or nnx.eval_shape"):
        check(SimpleNamespace(model=tiny.Plain, new_head=(), include_top=True))
    check(SimpleNamespace(model=nnx.eval_shape(lambda: tiny.Plain(rngs=nnx.Rngs(0))), new_head=(), include_top=True))
