"""Writes attribution_peers.npz: what Captum and pytorch-grad-cam compute, for test_attribution_parity.py.

    python tests/oracles/attribution_peers.py

needs torch, captum and grad-cam (written with torch 2.13.0, captum 0.9.0, grad-cam 1.5.7). The network is that of
keras_vis.py, whose parameters follow from a seed; images and noise are those of recipe.py. None of them is stored.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

# torchvision's own operations, which are not used here, may be compiled for another build of torch.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")

import keras_vis  # noqa: E402
import recipe  # noqa: E402
from captum.attr import GuidedBackprop, IntegratedGradients, NoiseTunnel, Occlusion, Saliency  # noqa: E402
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from torch import nn  # noqa: E402

SIDE, TARGETS, STEPS, SAMPLES, NOISE_LEVEL = 12, (1, 2, 0), 20, 4, 0.15
LOUDER = 30
"""What the dense layer's kernel is multiplied by for pytorch-grad-cam."""
WINDOWS = {"even": (4, 2), "overlapping": (5, 3)}
"""Window and stride; the second pair reaches over the edge."""


class Net(nn.Module):
    """keras_vis.py's network, for images (batch, channels, height, width) in [0, 1]."""

    def __init__(self):
        super().__init__()
        p = {name: torch.tensor(value, dtype=torch.float32) for name, value in keras_vis.parameters(SIDE).items()}
        self.conv_1, self.relu_1 = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.pool_1 = nn.MaxPool2d(2)
        self.conv_2, self.relu_2 = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()
        self.dense = nn.Linear(len(p["dense"]), 3)
        for layer, kernel, bias in (("conv_1", "kernel_1", "bias_1"), ("conv_2", "kernel_2", "bias_2")):
            getattr(self, layer).weight.data = p[kernel].permute(3, 2, 0, 1).contiguous()
            getattr(self, layer).bias.data = p[bias]
        self.dense.weight.data, self.dense.bias.data = p["dense"].T.contiguous(), p["bias"]

    def forward(self, x):
        x = self.pool_1(self.relu_1(self.conv_1(x)))
        x = self.relu_2(self.conv_2(x))
        return self.dense(x.permute(0, 2, 3, 1).flatten(1))


def images() -> np.ndarray:
    return (recipe.uniform("attribution images", (3, SIDE, SIDE, 3)) + 1) / 2


def noise() -> np.ndarray:
    """(samples, height, width, channels), of unit variance."""
    return recipe.uniform("attribution noise", (SAMPLES, SIDE, SIDE, 3)) * np.float32(3**0.5)


def smooth_grad(net: nn.Module, x: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """NoiseTunnel's mean of gradients, with torch.normal giving our noise: image by image, for its own range."""
    found, normal = [], torch.normal
    drawn = torch.tensor(noise().transpose(0, 3, 1, 2))
    try:
        torch.normal = lambda mean, std: mean + std * drawn
        for image, index in zip(x, target, strict=True):
            spread = float(image.max() - image.min()) * NOISE_LEVEL
            tunnel = NoiseTunnel(Saliency(net))
            found.append(
                tunnel.attribute(
                    image[None], nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=spread, target=int(index), abs=False
                )
            )
    finally:
        torch.normal = normal
    return channels_last(torch.cat(found))


def occlusion(net: nn.Module, x: torch.Tensor, target: torch.Tensor, window: int, stride: int) -> np.ndarray:
    found = Occlusion(net).attribute(x, (3, window, window), strides=(3, stride, stride), baselines=0.5, target=target)
    return channels_last(found)[..., 0]


def class_activation(method: type, net: nn.Module, layer: nn.Module, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """pytorch-grad-cam's maps at the size of the images, and those of the layer, where nothing was scaled."""
    targets = [ClassifierOutputTarget(index) for index in TARGETS]
    with method(net, [layer]) as explain:
        maps = explain(x, targets)
        activations, gradients = (
            values[0].numpy()
            for values in (explain.activations_and_grads.activations, explain.activations_and_grads.gradients)
        )
        raw = explain.get_cam_image(x, layer, targets, activations, gradients, False)
    return maps, np.maximum(raw, 0)


def channels_last(values: torch.Tensor) -> np.ndarray:
    return values.detach().numpy().transpose(0, 2, 3, 1)


def run() -> dict[str, np.ndarray]:
    net = Net().eval()
    x, target = torch.tensor(images().transpose(0, 3, 1, 2).copy()), torch.tensor(TARGETS)
    stored = {"logits": net(x).detach().numpy()}
    for method in ("gausslegendre", "riemann_trapezoid", "riemann_middle"):
        found = IntegratedGradients(net).attribute(x, target=target, n_steps=STEPS, method=method)
        stored[f"integrated_gradients/{method}"] = channels_last(found)
    baseline = torch.full_like(x, 0.25)
    found = IntegratedGradients(net).attribute(x, baseline, target=target, n_steps=STEPS)
    stored["integrated_gradients/from 0.25"] = channels_last(found)
    stored["gradient"] = channels_last(Saliency(net).attribute(x.clone(), target=target, abs=False))
    stored["guided_backpropagation"] = channels_last(GuidedBackprop(net).attribute(x.clone(), target=target))
    stored["smooth_grad"] = smooth_grad(net, x, target)
    for name, (window, stride) in WINDOWS.items():
        stored[f"occlusion/{name}"] = occlusion(net, x, target, window, stride)
    # 1e-6, which pytorch-grad-cam adds to a denominator of squared gradients, matters less for larger gradients.
    net.dense.weight.data *= LOUDER
    for layer in ("relu_2", "pool_1"):
        for method in (GradCAM, GradCAMPlusPlus, LayerCAM):
            name = f"{method.__name__}/{layer}"
            stored[name], stored[f"{name}/layer"] = class_activation(method, net, getattr(net, layer), x)
    return {name: np.asarray(value, np.float32) for name, value in stored.items()}


if __name__ == "__main__":
    path = Path(__file__).with_name("attribution_peers.npz")
    np.savez_compressed(path, **run())
    print(path, path.stat().st_size, "bytes")
