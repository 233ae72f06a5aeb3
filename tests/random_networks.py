"""Models and networks with random arrays, made without compiling an initializer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import Network, models
from cnnjax.data import normalize


def random(rng, shape):
    """Kernels of variance 2 / fan in, so that every layer matters, and small biases."""
    fan = np.prod(shape[:-1]) if len(shape) > 1 else 200
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan) ** 0.5)


def arrays(rng, shapes):
    """Random arrays by name, also for the scales and running statistics of batch normalization."""
    made = {}
    for name, leaf in shapes.items():
        kind = name.rpartition("/")[2]
        positive = kind in ("scale", "var")
        made[name] = rng.uniform(0.5, 1.5, leaf.shape).astype("f4") if positive else random(rng, leaf.shape)
    return made


def nested(like, flat, prefix=""):
    return {
        key: nested(value, flat, f"{prefix}{key}/") if isinstance(value, dict) else jnp.asarray(flat[f"{prefix}{key}"])
        for key, value in like.items()
    }


def shapes(tree):
    """What `models.flatten` gives, of abstract arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def model(name, seed=0, **arguments):
    """`models.create(name, **arguments)` with other numbers."""
    graphdef, *trees = models.split(nnx.eval_shape(lambda: models.create(name, **arguments)))
    rng = np.random.default_rng(seed)
    return nnx.merge(graphdef, *(nested(tree, arrays(rng, shapes(tree))) for tree in trees))


def images(shape, count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def network(name, image_size=32, class_names=("cat", "dog", "fox"), kind="standard", seed=3, channels=3, **arguments):
    """A network of a model in `MODELS`; two classes get one logit."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    classes = 1 if len(class_names) == 2 else len(class_names) or 1
    made = model(name, seed, num_classes=classes, image_size=(height, width), channels=channels, **arguments)
    normalizer = kind
    if isinstance(kind, str):
        normalizer = normalize.fit_normalizer(kind, images((height, width, channels)))
    graphdef, params, model_state = models.split(made)
    return Network(
        graphdef, params, model_state, normalizer, tuple(class_names), (height, width), channels, {"seed": seed}
    )


def same(a, b):
    """All of two networks is equal, provenance and model too."""
    assert a.digest == b.digest and a.provenance == b.provenance and a.config == b.config
    assert (a.class_names, a.image_shape) == (b.class_names, b.image_shape)
    jax.tree.map(np.testing.assert_array_equal, a.normalizer, b.normalizer)
    jax.tree.map(np.testing.assert_array_equal, a.model_state, b.model_state)
