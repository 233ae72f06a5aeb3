"""Networks' operations and their gradients in NumPy and float64, written as the formulas are.

Nothing here knows JAX or this package. test_oracles.py compares it with values that PyTorch computed. Images are
(batch, height, width, channels) and kernels (height, width, inputs, outputs).
"""

import numpy as np


class Value:
    """An array, and how the gradient of what was computed from it comes back to it."""

    def __init__(self, data, parents=(), back=None):
        self.data, self.parents, self.back = np.asarray(data, np.float64), parents, back
        self.grad = np.zeros_like(self.data)

    @property
    def shape(self):
        return self.data.shape

    def backward(self, gradient=None):
        """Add the gradient of the sum of (this value · gradient) to `grad` of everything that it was computed from."""
        order, seen = [], set()

        def visit(value):
            if id(value) not in seen:
                seen.add(id(value))
                for parent in value.parents:
                    visit(parent)
                order.append(value)

        visit(self)
        self.grad = np.ones_like(self.data) if gradient is None else np.asarray(gradient, np.float64)
        for value in reversed(order):
            if value.back is not None:
                for parent, part in zip(value.parents, value.back(value.grad), strict=True):
                    parent.grad = parent.grad + part


def edges_of(padding, window):
    """((top, bottom), (left, right)) of a padding as this package names it; of "SAME" the odd zero goes to the end."""
    if padding == "SAME":
        return tuple(((n - 1) // 2, n // 2) for n in window)
    amount = 0 if padding == "VALID" else padding
    return ((amount, amount), (amount, amount))


def conv(x, kernel, bias=None, stride=1, padding="SAME"):
    """The sum over the kernel's places of a shifted image times that place's matrix."""
    (height, width), (top, left) = kernel.shape[:2], edges_of(padding, kernel.shape[:2])
    padded = np.pad(x.data, ((0, 0), top, left, (0, 0)))
    sides = [(n - k) // stride + 1 for n, k in zip(padded.shape[1:3], (height, width), strict=True)]
    places = [
        (i, j, np.s_[:, i : i + stride * (sides[0] - 1) + 1 : stride, j : j + stride * (sides[1] - 1) + 1 : stride])
        for i in range(height)
        for j in range(width)
    ]
    out = sum(padded[where] @ kernel.data[i, j] for i, j, where in places)

    def back(gradient):
        by_x, by_kernel = np.zeros_like(padded), np.zeros_like(kernel.data)
        for i, j, where in places:
            by_x[where] += gradient @ kernel.data[i, j].T
            by_kernel[i, j] = np.tensordot(padded[where], gradient, ((0, 1, 2), (0, 1, 2)))
        inside = by_x[:, top[0] : top[0] + x.shape[1], left[0] : left[0] + x.shape[2]]
        return inside, by_kernel, *([gradient.sum((0, 1, 2))] if bias is not None else [])

    if bias is None:
        return Value(out, (x, kernel), back)
    return Value(out + bias.data, (x, kernel, bias), back)


def max_pool(x, window=2, stride=None, padding=0):
    """The largest number of each window; of equal ones the first, by row and column, gets the gradient."""
    stride = stride or window
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x.data, edges, constant_values=-np.inf)
    height, width = ((n - window) // stride + 1 for n in padded.shape[1:3])
    windows = np.stack(
        [
            padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            for i in range(window)
            for j in range(window)
        ]
    )
    first = windows.argmax(0)

    def back(gradient):
        by_x = np.zeros_like(padded)
        batch, row, column, channel = np.indices(first.shape, sparse=True)
        where = (batch, row * stride + first // window, column * stride + first % window, channel)
        np.add.at(by_x, where, gradient)
        return (by_x[:, padding : padding + x.shape[1], padding : padding + x.shape[2]],)

    return Value(windows.max(0), (x,), back)


def relu(x):
    return Value(np.maximum(x.data, 0), (x,), lambda gradient: (gradient * (x.data > 0),))


def guided_relu(x):
    """Whose gradient is cut where it is negative, too (Springenberg et al. 2015)."""
    return Value(np.maximum(x.data, 0), (x,), lambda gradient: (np.maximum(gradient, 0) * (x.data > 0),))


def dense(x, kernel, bias=None):
    def back(gradient):
        parts = gradient @ kernel.data.T, x.data.T @ gradient
        return parts if bias is None else (*parts, gradient.sum(0))

    if bias is None:
        return Value(x.data @ kernel.data, (x, kernel), back)
    return Value(x.data @ kernel.data + bias.data, (x, kernel, bias), back)


def batch_norm(x, scale, bias, statistics=None, epsilon=1e-5):
    """With the batch's own mean and variance, or with `statistics`, which are constants."""
    axes, count = (0, 1, 2), x.data[..., 0].size
    mean, var = statistics or (x.data.mean(axes), x.data.var(axes))
    slope = 1 / np.sqrt(np.asarray(var, np.float64) + epsilon)
    normal = (x.data - np.asarray(mean, np.float64)) * slope

    def back(gradient):
        by_scale, by_bias = (gradient * normal).sum(axes), gradient.sum(axes)
        by_x = gradient if statistics else gradient - by_bias / count - normal * by_scale / count
        return by_x * slope * scale.data, by_scale, by_bias

    return Value(normal * scale.data + bias.data, (x, scale, bias), back)


def add(x, y):
    return Value(x.data + y.data, (x, y), lambda gradient: (gradient, gradient))


def mean_of_positions(x):
    area = x.shape[1] * x.shape[2]
    return Value(
        x.data.mean((1, 2)),
        (x,),
        lambda gradient: (np.broadcast_to(gradient[:, None, None] / area, x.shape),),
    )


def reshape(x, *shape):
    return Value(x.data.reshape(shape), (x,), lambda gradient: (gradient.reshape(x.shape),))


def cross_entropy(logits, labels):
    """Mean cross entropy of integer labels; of one logit, the binary one."""
    z, labels, count = logits.data, np.asarray(labels), len(logits.data)
    if z.shape[1] == 1:
        losses = np.logaddexp(0, z[:, 0]) - labels * z[:, 0]
        by_logits = (1 / (1 + np.exp(-z[:, 0])) - labels)[:, None]
    else:
        total = np.logaddexp.reduce(z, 1, keepdims=True)
        losses = (total[:, 0] - z[np.arange(count), labels]).astype(np.float64)
        by_logits = np.exp(z - total) - np.eye(z.shape[1])[labels]
    return Value(losses.mean(), (logits,), lambda gradient: (gradient * by_logits / count,))
