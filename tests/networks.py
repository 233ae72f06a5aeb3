"""What the tests of both networks share: loss and gradients, here and in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from oracles import numpy_autodiff
from oracles.numpy_autodiff import Value

from cnnjax import models


def images(side, batch=4):
    return jax.random.normal(jax.random.key(1), (batch, side, side, 3))


def loss(graphdef, labels, params, images):
    """The mean cross entropy of a model without state."""
    logits = models.apply(graphdef, params, {}, images).logits
    if logits.shape[1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(jnp.float32)).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def results(graphdef, labels, params, images):
    """Logits, loss, and its gradients with respect to the parameters and the images."""

    @jax.jit
    def run(params, images):
        logits = models.apply(graphdef, params, {}, images).logits
        return logits, *jax.value_and_grad(partial(loss, graphdef, labels), (0, 1))(params, images)

    return run(params, images)


def numpy_results(net, labels, images):
    """The same of one of oracles/numpy_nets.py."""
    images = Value(images)
    logits = net(images)
    value = numpy_autodiff.cross_entropy(logits, labels)
    value.backward()
    return logits.data, value.data.item(), (net.gradients(), images.grad)


def close(ours, theirs, rtol=1e-4):
    """Relative to each array's largest element: small ones are sums that cancel."""
    ours, theirs = jax.tree.flatten(ours), jax.tree.flatten(theirs)
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
