"""keras-vis 0.4.1's visualize_activation in float64 NumPy, with a small network's passes written out by hand.

The network: conv 3×3 (4), relu, 2×2 max-pool, conv 3×3 (5), relu, dense (3 logits). Images are 0 to 255, (h, w, 3).
"""

import numpy as np

EPSILON = 1e-7


def parameters(side, seed=3):
    generator = np.random.default_rng(seed)
    units = (side // 2) ** 2 * 5
    return {
        "kernel_1": generator.normal(size=(3, 3, 3, 4)) * 0.4,
        "bias_1": generator.normal(size=4) * 0.1,
        "kernel_2": generator.normal(size=(3, 3, 4, 5)) * 0.3,
        "bias_2": generator.normal(size=5) * 0.1,
        "dense": generator.normal(size=(units, 3)) * 0.1,
        "bias": generator.normal(size=3) * 0.1,
    }


def _conv(x, kernel):
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return sum(padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def _conv_backward(gradient, kernel):
    height, width, _ = gradient.shape
    padded = np.zeros((height + 2, width + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            padded[i : i + height, j : j + width] += gradient @ kernel[i, j].T
    return padded[1:-1, 1:-1]


def forward(p, image):
    """Logits and activations of one image in 0 to 255."""
    a1 = np.maximum(_conv(image / 255, p["kernel_1"]) + p["bias_1"], 0)
    h, w, c = a1.shape
    pooled = a1.reshape(h // 2, 2, w // 2, 2, c).max(axis=(1, 3))
    a2 = np.maximum(_conv(pooled, p["kernel_2"]) + p["bias_2"], 0)
    return a2.reshape(-1) @ p["dense"] + p["bias"], {"conv_1": a1, "pool_1": pooled, "conv_2": a2}


def _activation_and_gradient(p, image, layer, index):
    """Mean of a filter (layer "conv_1" or "conv_2") or a logit (layer None), and its gradient by the image."""
    logits, a = forward(p, image)
    if layer is None:
        value = logits[index]
        g2 = p["dense"][:, index].reshape(a["conv_2"].shape)
    else:
        value = a[layer][..., index].mean()
    if layer == "conv_1":
        g1 = np.zeros_like(a["conv_1"])
        g1[..., index] = 1 / g1[..., 0].size
    else:
        if layer == "conv_2":
            g2 = np.zeros_like(a["conv_2"])
            g2[..., index] = 1 / g2[..., 0].size
        gp = _conv_backward(g2 * (a["conv_2"] > 0), p["kernel_2"])
        upper = np.repeat(np.repeat(a["pool_1"], 2, 0), 2, 1)
        winner = a["conv_1"] == upper
        # Only zeros tie here, and relu's gradient stops them.
        g1 = np.repeat(np.repeat(gp, 2, 0), 2, 1) * winner
    return value, _conv_backward(g1 * (a["conv_1"] > 0), p["kernel_1"]) / 255


def loss_and_gradient(p, image, layer, index, tv_weight, lp_weight=10.0):
    """keras-vis' total loss, to be made small, and its gradient by the image."""
    value, gradient = _activation_and_gradient(p, image, layer, index)
    loss, gradient = -value, -gradient
    size = image.size
    if lp_weight:
        total = np.sum(np.abs(image) ** 6)
        loss += lp_weight * total ** (1 / 6) / size
        gradient = gradient + lp_weight * total ** (1 / 6 - 1) * np.abs(image) ** 5 * np.sign(image) / size
    if tv_weight:
        down, right = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
        loss += tv_weight * np.sum(down**2 + right**2) / size
        extra = np.zeros_like(image)
        extra[1:, :-1] += 2 * down
        extra[:-1, 1:] += 2 * right
        extra[:-1, :-1] -= 2 * (down + right)
        gradient = gradient + tv_weight * extra / size
    return loss, gradient


def minimize(p, image, layer, index, steps, tv_weight, lp_weight=10.0, norm="rms"):
    """The image with the best loss before its step, taken after it. norm "l2" is the later regression (issue 153)."""
    image, cache, best, best_image = image.astype(np.float64), 0.0, np.inf, None
    for _ in range(steps):
        loss, gradient = loss_and_gradient(p, image, layer, index, tv_weight, lp_weight)
        if norm == "rms":
            gradient = gradient / (np.sqrt(np.mean(gradient**2)) + EPSILON)
        else:
            gradient = gradient / np.sqrt(max(np.sum(gradient**2), EPSILON))
        cache = 0.95 * cache + 0.05 * gradient**2
        image = image - gradient / np.sqrt(cache + EPSILON)
        if loss < best:
            best, best_image = loss, image.copy()
    return best_image


def deprocess(image):
    image = (image - image.mean()) / (image.std() + EPSILON)
    return (np.clip(image * 0.1 + 0.5, 0, 1) * 255).astype(np.uint8)
