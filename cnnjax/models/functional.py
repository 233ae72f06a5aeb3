"""The functional boundary: a model as a graph definition and nested dicts of arrays, and pure functions of these."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError, unknown
from cnnjax.models.hooks import Hooks

if TYPE_CHECKING:
    from typing import TypeAlias

    Params: TypeAlias = "dict[str | int, Params | Array]"
    ModelState: TypeAlias = "dict[str | int, ModelState | Array]"
    Logits: TypeAlias = "Array | tuple[Logits, ...] | list[Logits] | dict[str, Logits]"
else:  # recursive types exist for type checkers only
    Params = ModelState = dict
    Logits = object


class Output(NamedTuple):
    """What a model makes of a batch of images.

    logits: an array (batch, logits), or what else the model returns. activations: each layer's output by name, in the
    order in which the layers are called. model_state: the state after this call; in training BatchNorm updates it.
    """

    logits: Logits
    activations: dict[str, Array]
    model_state: ModelState


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params, ModelState]:
    """The graph definition of a model, its `nnx.Param`s, and all its other variables, as nested dicts of arrays.

    The keys of the dicts are the names of the attributes; those of an `nnx.List` are integers.
    """
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    model_state: ModelState,
    images: Float[Array, "batch ..."],
    *,
    train: bool = False,
    keys: Key[Array, " batch"] | None = None,
    axis_name: str | None = None,
    perturbations: Mapping[str, Array] | None = None,
) -> Output:
    """Call a model on normalized images. Pure: the state after the call is returned.

    A model is called as `model(images, train=..., keys=..., rngs=...)`, with those of these arguments that its
    signature has, after `model.train()` or `model.eval()`. It returns logits, or (logits, activations). Of a model that
    returns logits alone, the outputs of all submodules are recorded, named by their paths ("layers.0.conv"); the second
    output of the same submodule is "relu:2". The outputs of submodules that are called inside of a JAX transformation
    (jax.checkpoint, jax.lax.scan) are not recorded.

    train: whether BatchNorm uses, and averages into its state, the statistics of this batch.
    keys: one typed PRNG key for each example, which turns dropout on, or None. The mask of each `nnx.Dropout` follows
    from the example's key and the number of the layer alone, so it does not depend on the rest of the batch. Other
    random streams of the model are seeded from the first key. Random state is not changed by a call.
    axis_name: the mapped axis (`jax.pmap`, `jax.shard_map`) over whose devices BatchNorm averages its statistics. Under
    `jax.jit` with a sharded batch they are those of the whole batch anyway.
    perturbations: arrays to be added to activations by name, where these are computed. The gradient with respect to a
    perturbation of zeros is the gradient with respect to the activation.

    Raises UserError for a perturbation of an activation that the model does not have.
    """
    model = nnx.merge(graphdef, params, model_state)
    perturbations = dict(perturbations or {})
    model.train() if train else model.eval()
    known = inspect.signature(type(model).__call__).parameters
    key = None if keys is None else jax.random.fold_in(keys[0], _STREAMS)
    if key is not None:
        _reseed(model, key)
    arguments: dict[str, object] = {"train": train, "keys": keys, "perturbations": perturbations}
    if "rngs" in known and (key is not None or known["rngs"].default is inspect.Parameter.empty):
        arguments["rngs"] = nnx.Rngs(0 if key is None else jax.random.fold_in(key, 0))
    with Hooks(model, keys, axis_name, {} if "perturbations" in known else perturbations) as hooks:
        result = model(images, **{name: value for name, value in arguments.items() if name in known})
    logits, activations = result, hooks.activations
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        logits, activations = result[0], dict(result[1])
    applied = activations if "perturbations" in known else hooks.activations
    if missing := [name for name in perturbations if name not in applied]:
        raise unknown("activation", missing[0], applied)
    return Output(logits, activations, _updated(model_state, _state(model)))


def layer_shapes(
    graphdef: nnx.GraphDef, params: Params, model_state: ModelState, image_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The shape of each activation for one image (height, width, channels), in the order of the layers.

    The arrays may be abstract (`jax.ShapeDtypeStruct`). Activations whose first axis is not the batch are left out.
    """
    shapes = {}

    def run(params: Params, model_state: ModelState, images: Array) -> None:
        for name, value in apply(graphdef, params, model_state, images).activations.items():
            if value.shape[:1] == (1,):
                shapes[name] = value.shape[1:]

    jax.eval_shape(run, params, model_state, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return shapes


def flatten(params: Params | ModelState) -> dict[str, Array | np.ndarray | jax.ShapeDtypeStruct]:
    """A nested dict of arrays as a flat one; the names of the path are joined by "/": "layer4/0/conv2/kernel"."""
    flat: dict[str, Array | np.ndarray | jax.ShapeDtypeStruct] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{rest}": array for rest, array in flatten(value).items()}
        else:
            flat[str(name)] = value
    return flat


def with_remat(graphdef: nnx.GraphDef, params: Params, model_state: ModelState, remat: bool) -> nnx.GraphDef:
    """The graph definition of the same model with its attribute `remat` set.

    With remat a gradient keeps the inputs of the model's blocks only, and computes the rest again.
    Raises UserError if the model has no such attribute.
    """
    model = nnx.merge(graphdef, params, model_state)
    if not hasattr(model, "remat"):
        raise UserError(
            f"remat=True needs a model with an attribute `remat`, which {type(model).__name__} does not have: "
            "leave it off, or call jax.checkpoint in the model"
        )
    model.remat = remat
    return nnx.graphdef(model)


_STREAMS = 1_000_000
"""Folded into a key for what is not a dropout layer, whose numbers are small."""


def _reseed(model: nnx.Module, key: Key[Array, ""]) -> None:
    """Seed each random stream of the model with a key of its own."""
    for i, (_, variable) in enumerate(nnx.iter_graph(model)):
        if isinstance(variable, nnx.RngKey):
            old, new = variable.get_value(), jax.random.fold_in(key, 1 + i)
            variable.set_value(new if old.shape == () else jax.random.split(new, old.shape))


def _state(model: nnx.Module) -> ModelState:
    """The variables that a call may have changed: neither parameters nor random state."""
    _, _, state = nnx.state(model, nnx.Param, nnx.RngState, ...)
    return nnx.to_pure_dict(state)


def _updated(old: ModelState, new: ModelState) -> ModelState:
    """`old`, with the values that `new` has in the same places."""
    return {
        name: _updated(value, new.get(name, {})) if isinstance(value, dict) else new.get(name, value)
        for name, value in old.items()
    }
