"""lucent's algorithm, which is lucid's, in PyTorch: a layer's filters as one batch, eager, channels last.

Source: lucent/optvis/render.py, transform.py and param/. As there, a step draws one scale and one rotation for the
batch. lucent enlarges images below 224 pixels to 224 for the network, which is left out here: it would only be slower.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
COLORS = torch.tensor(ROOT / np.linalg.norm(ROOT, axis=0).max())


class Shifted(nn.Module):
    """Images in [0, 1] plus a constant for each channel."""

    def __init__(self, shift: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


def build(path: str) -> nn.Sequential:
    """A VGG from what `lucid_filters.write_arrays` wrote: images in [0, 1] → the last convolution without its relu."""
    with np.load(path) as arrays:
        names = [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]
        parts, block = [Shifted(arrays["shift"])], names[0][:6]
        for name in names:
            if not name.startswith(block):
                block = name[:6]
                parts.append(nn.MaxPool2d(2))
            kernel = torch.tensor(arrays[f"{name}/kernel"]).permute(3, 2, 0, 1)
            convolution = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            convolution.weight.data, convolution.bias.data = kernel, torch.tensor(arrays[f"{name}/bias"])
            parts += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*parts[:-1]).requires_grad_(False).to(memory_format=torch.channels_last)


def to_images(spectrum: torch.Tensor, size: int) -> torch.Tensor:
    """Coefficients (batch, 3, size, size // 2 + 1, 2) → images (batch, 3, size, size) in [0, 1]."""
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    scale = torch.tensor((size / np.maximum(frequencies, 1 / size)).astype(np.float32))
    image = torch.fft.irfft2(scale * torch.view_as_complex(spectrum), (size, size), norm="backward") / 4
    return torch.sigmoid(torch.einsum("rd,bdhw->brhw", COLORS, image))


def transform(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """lucent's `standard_transforms`."""

    def jitter(x: torch.Tensor, pixels: int) -> torch.Tensor:
        top, left = generator.integers(0, pixels, 2)
        return x[:, :, top : top + x.shape[2] - pixels, left : left + x.shape[3] - pixels]

    x = jitter(F.pad(images, (12, 12, 12, 12), value=0.5), 8)
    factor = 1 + (generator.integers(0, 11) - 5) / 50
    x = F.interpolate(x, [int(factor * side) for side in x.shape[2:]], mode="bilinear", align_corners=False)
    angle = np.deg2rad(generator.uniform(-10, 10))
    sine, cosine = np.sin(angle), np.cos(angle)
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=torch.float32)
    grid = F.affine_grid(matrix[None].expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return jitter(F.grid_sample(x, grid, align_corners=False), 4).contiguous(memory_format=torch.channels_last)


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws all filters; the first one draws a few steps only."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    model, size, channels = build(work["arrays"]), work["image_size"], work["channels"]
    shape = (len(channels), 3, size, size // 2 + 1, 2)
    rows, steps = torch.arange(len(channels)), iter((work["every"],))
    seeds = iter(range(work["seed"], 10**9))

    def call() -> None:
        times, images, begun = [], [], time.perf_counter()
        generator = np.random.default_rng(next(seeds))
        spectrum = torch.tensor(generator.normal(0, 0.01, shape).astype(np.float32), requires_grad=True)
        optimizer = torch.optim.Adam([spectrum], lr=0.05)
        for number in range(next(steps, work["steps"]) + 1):
            if number:
                optimizer.zero_grad()
                maps = model(transform(to_images(spectrum, size), generator))
                (-maps.mean(dim=(2, 3))[rows, channels].sum()).backward()
                optimizer.step()
            if number % work["every"] == 0:
                with torch.no_grad():
                    shown = (255 * to_images(spectrum, size)).to(torch.uint8).permute(0, 2, 3, 1)
                images.append(shown.numpy())
                times.append(time.perf_counter())
        np.savez(work["answer"], times=np.array(times) - begun, images=np.stack(images))

    return call
