"""Transfer: a trained VGG's convolutions with new dense layers, which learn other classes from few images.

As in Chollet (2016), "Building powerful image classification models using very little data": the convolutions see every
image once, and what they compute (the bottleneck features) trains the dense layers, in seconds. The next step, the last
block trained too at a small learning rate, is an ordinary `fit` of the resulting network with `freeze`.
"""

from functools import cache
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from cnnjax import distributed, models
from cnnjax.data import normalize
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit, as_split
from cnnjax.errors import UserError
from cnnjax.models import VGG, Params
from cnnjax.network import Network
from cnnjax.train import loop, strategy
from cnnjax.train.results import save_network
from cnnjax.train.step import to_float01

BATCH = 64  # images at a time through the convolutions
HEAD = ("fc1", "fc2", "predictions")


class Head(nnx.Module):
    """The dense layers of a VGG as a model of their own: features (n, 1, 1, d) -> logits."""

    casts_parameters = True

    def __init__(self, model: VGG):
        for name in HEAD:
            setattr(self, name, getattr(model, name))
        self.dropout = model.dropout

    def __call__(
        self,
        images: Float[Array, "batch 1 1 features"],
        *,
        train: bool = False,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch logits"], dict[str, Array]]:
        """The logits, and the layers' activations."""
        return VGG.head(cast(VGG, self), images.reshape(len(images), -1), keys=keys if train else None)


def check_base(base: Network, image_size: tuple[int, int]) -> None:
    """Raises UserError for a base that is no VGG, or whose whitening does not fit images of this size."""
    if base.config is None or not base.model_name.startswith("vgg"):
        kept = "give those of a VGG, whose convolutions can be kept"
        raise UserError(f"the weights are those of a {base.model_name}: {kept}")
    if base.normalizer.kind == "zca" and image_size != base.image_size:
        height, width = base.image_size
        raise UserError(f"the weights whiten images of {height}×{width} pixels: use image_size={height}")


def replace_head(
    base: Network,
    class_names: tuple[str, ...],
    *,
    image_size: tuple[int, int] | None = None,
    dense_units: int | None = None,
    dropout: float = 0.5,
    seed: int = 0,
) -> Network:
    """A network for these classes: the convolutions and the normalizer of `base`, new dense layers.

    The base may have dense layers or none; its convolutions take images of any size. Two classes get one logit. Raises
    UserError as `check_base` does, for an image size that five poolings reduce to nothing, and fewer than two classes.
    """
    size = image_size or base.image_size
    check_base(base, size)
    if len(class_names) < 2:
        raise UserError(f"a classifier needs two classes or more, not {len(class_names)}")
    config: dict[str, Any] = dict(base.config or {}) | {"include_top": True, "image_size": size, "dropout": dropout}
    config |= {"dense_units": dense_units, "num_classes": 1 if len(class_names) == 2 else len(class_names)}
    graphdef, params, model_state = models.split(models.create(**config, seed=seed))
    params = {name: leaves if name in HEAD else base.params[name] for name, leaves in params.items()}
    model_state = {name: base.model_state.get(name, leaves) for name, leaves in model_state.items()}
    return base.replace(
        graphdef=graphdef,
        params=params,
        model_state=model_state,
        class_names=class_names,
        image_size=size,
        provenance={"base": base.digest},
    )


def extract_features(network: Network, dataset: loop.DatasetLike, *, mirrored: bool = True) -> Dataset:
    """The features of every image, as a data set of float "images" (1, 1, features), computed when first asked for.

    With `mirrored`, the training split also has every image's mirror image. The features depend on the convolutions
    alone, so networks with other dense layers can share them.
    """
    way = strategy.make_strategy("auto", jax.device_count())

    def features(fixed: tuple[Network, Array], images: Array) -> Array:
        whole, flip = fixed
        images = to_float01(images)
        return whole(jnp.where(flip, images[:, :, ::-1], images))[1]["flatten"]

    compute = strategy.make_batched_map(way, features, BATCH)

    def of(split: ArraySplit | LazySplit, name: str, flips: tuple[bool, ...] = (False,)) -> ArraySplit:
        shown = {"desc": f"features of {name} images", "unit": " images", "delay": 1.0}
        with tqdm(total=len(split) * len(flips), disable=not distributed.is_primary(), **shown) as bar:
            shown_to = [strategy.replicate(way, (network, jnp.asarray(flip))) for flip in flips]
            values = [compute(fixed, split, bar.update) for fixed in shown_to]
        found = np.concatenate([np.asarray(value)[:, None, None, :] for value in values])
        return ArraySplit(found, np.tile(np.asarray(split.labels), len(flips)))

    return Dataset(
        of(as_split(dataset.train), "training", (False, True) if mirrored else (False,)),
        of(as_split(dataset.valid), "validation"),
        cache(lambda: of(as_split(dataset.test), "test")),
        network.class_names,
        provenance=getattr(dataset, "provenance", {"source": "custom"}) | {"features": True},
        inventory=getattr(dataset, "inventory", None),
    )


def fit_head(
    network: Network, features: Dataset, optimizer: optax.GradientTransformation, **options: Any
) -> loop.Result:
    """Train the dense layers of `network` on features from `extract_features`; the result has the whole network.

    `options` are those of `fit`. The weights in `run_dir` are the whole network's, too.
    """
    head = Network.create(Head(cast(VGG, network.model())), features, normalizer=normalize.identity())
    head = head.replace(provenance=dict(network.provenance))
    result = loop.fit(head, features, optimizer, **options)
    if result.network.config is not None:  # an earlier call finished this run: it left the whole network
        return result
    params = _body(network.params) | result.network.params
    whole = network.replace(params=params, provenance=dict(result.network.provenance))
    if (folder := options.get("run_dir")) is not None:
        distributed.run_on_primary(save_network, Path(folder) / "weights.safetensors", whole)
    return result._replace(network=whole)


def _body(params: Params) -> Params:
    return {name: leaves for name, leaves in params.items() if name not in HEAD}
