"""optax optimizers by name, with Keras' constants where it has them. `train.fit` takes any other optax object too."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from cnnjax.errors import UserError, unknown

EPSILON = 1e-7  # Keras' default for Adam, Nadam and RMSprop; optax's own is 1e-8
MUON_RMS = 0.2  # the root mean square of Adam's typical updates (Liu et al., 2025, section 2.2)

OPTIMIZERS = ("adam", "adamw", "nadam", "sgd", "rmsprop", "lion", "muon")
WITH_WEIGHT_DECAY = ("adamw", "sgd", "lion", "muon")
"""The optimizers that use `weight_decay`."""
WITH_NESTEROV = ("adam", "adamw", "sgd")
"""The optimizers for which Nesterov momentum is a choice; nadam and muon always use it."""


def create(
    name: str,
    learning_rate: float | optax.Schedule,
    *,
    momentum: float | Array = 0.9,
    nesterov: bool = False,
    weight_decay: float | Array = 0.0,
    clip_norm: float | Array | None = None,
    mask: Callable[[optax.Params], PyTree[bool]] | None = None,
    decay_all: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of optax by name.

    name:
        "adam" (Kingma & Ba, 2015), "nadam" (Dozat, 2016), "rmsprop" (Hinton, 2012): with Keras' constants, β 0.9 and
            0.999 or ρ 0.9, ε 1e-7. One detail remains optax's: Adam's ε is added to the bias-corrected root, as in
            algorithm 1 of the paper; Keras adds it before the correction.
        "adamw" (Loshchilov & Hutter, 2019): adam with decoupled weight decay.
        "sgd": with momentum. Its weight decay is an L2 penalty, added to the gradient before the momentum (as in the
            recipes of ResNet, He et al., 2016).
        "lion" (Chen et al., 2023): β 0.9 and 0.99, decoupled weight decay.
        "muon" (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): convolution kernels (height, width,
            in, out) are treated as matrices (height · width · in, out), whose updates are orthogonalized. All other
            parameters are updated by adamw: vectors, and dense kernels too, because Muon is not meant for the output
            layer of a classifier, and orthogonalizing VGG's first dense kernel would cost more than the step itself.
            Muon's updates are scaled to the size of AdamW's (Liu et al., 2025, "Muon is scalable for LLM training"), so
            that one learning rate, in AdamW's range, serves both.

    momentum: of sgd; 0 is none. muon keeps its own, 0.95.
    nesterov: use Nesterov momentum in adam, adamw and sgd.
    weight_decay: of adamw, sgd, lion and muon; it is multiplied by the learning rate, as in PyTorch.
    clip_norm: scale gradients down to this global norm when they exceed it (Pascanu et al., 2013). None does not clip.
    mask: which parameters decay, a function of the parameters that returns booleans; `decay_mask` if None.
    decay_all: decay every parameter, biases and normalization too, as optax.adamw does without a mask.

    Within a traced function momentum, weight_decay and clip_norm may be arrays (), which are taken not to be 0.

    Raises UserError for an unknown name, and for an option that the optimizer does not have.
    """
    _check(name, weight_decay, nesterov)
    decayed = None if decay_all else mask or decay_mask
    decay = optax.add_decayed_weights(weight_decay, decayed) if _is_set(weight_decay) else optax.identity()
    match name:
        case "adam" | "nadam":
            optimizer = optax.adam(learning_rate, eps=EPSILON, nesterov=nesterov or name == "nadam")
        case "adamw":
            optimizer = optax.adamw(
                learning_rate, eps=EPSILON, weight_decay=weight_decay, mask=decayed, nesterov=nesterov
            )
        case "rmsprop":
            optimizer = optax.rmsprop(learning_rate, decay=0.9, eps=EPSILON)
        case "sgd":
            optimizer = optax.sgd(learning_rate, momentum=momentum if _is_set(momentum) else None, nesterov=nesterov)
            optimizer = optax.chain(decay, optimizer) if _is_set(weight_decay) else optimizer
        case "lion":
            optimizer = optax.lion(learning_rate, weight_decay=weight_decay, mask=decayed)
        case _:
            optimizer = optax.chain(_scale_by_muon(), decay, optax.scale_by_learning_rate(learning_rate))
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _is_set(value: float | Array) -> bool:
    """Whether a number is not 0, which switches a part of an optimizer off. One that is traced is not known."""
    return isinstance(value, Tracer) or bool(value)


def _check(name: str, weight_decay: float | Array, nesterov: bool) -> None:
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if _is_set(weight_decay) and name not in WITH_WEIGHT_DECAY:
        raise UserError(
            f"{name} has no weight decay, but weight_decay={weight_decay:g}: "
            f"choose {', '.join(WITH_WEIGHT_DECAY[:-1])} or {WITH_WEIGHT_DECAY[-1]}, or weight_decay=0"
        )
    if nesterov and name not in WITH_NESTEROV:
        raise UserError(f"nesterov=True is an option of {', '.join(WITH_NESTEROV)}, not of {name}: leave it out")


def decay_mask(params: optax.Params) -> PyTree[bool]:
    """True for kernels: arrays of at least two dimensions that are not called "bias" or "scale".

    Biases and the scales and offsets of normalization layers do not decay (He et al., 2019, "Bag of tricks for image
    classification with convolutional neural networks", section 3.1).
    """

    def is_kernel(path: tuple, leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim >= 2 and name not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def with_standard_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer, computing under JAX's standard type promotion whatever `jax_numpy_dtype_promotion` is.

    optax multiplies Python floats with integer counters, which strict promotion would refuse. Applying this twice is
    the same as applying it once.
    """
    if isinstance(optimizer.update, _StandardPromotion):
        return optax.with_extra_args_support(optimizer)
    optimizer = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(
        _StandardPromotion(optimizer.init), _StandardPromotion(optimizer.update)
    )


@dataclass(frozen=True)
class _StandardPromotion:
    function: Callable[..., PyTree]

    def __call__(self, *args: PyTree, **extra_args: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return self.function(*args, **extra_args)


def _scale_by_muon() -> optax.GradientTransformationExtraArgs:
    """Muon's direction for convolution kernels, Adam's for all other parameters, both before the learning rate."""

    def dimensions(params: optax.Params) -> PyTree:
        return jax.tree.map(lambda p: optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params)

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(lambda u: u * (MUON_RMS * max(u.size // u.shape[-1], u.shape[-1]) ** 0.5), updates)

    orthogonalized = optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)
    muon = optax.chain(orthogonalized, optax.stateless(scale))
    return optax.partition(
        {"muon": muon, "adam": optax.scale_by_adam(eps=EPSILON)},
        lambda params: jax.tree.map(lambda p: "muon" if p.ndim >= 3 else "adam", params),
    )
