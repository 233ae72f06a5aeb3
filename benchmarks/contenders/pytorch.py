"""The same networks in PyTorch, channels last, eager or through torch.compile."""

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

VGG16 = (2, 2, 3, 3, 3)


def convolutions(blocks, until=None) -> nn.Sequential:
    """Blocks of (channels, count) convolutions with relu, each pooled; `until` (block, convolution) ends it early."""
    layers, inputs = [], 3
    for b, (channels, count) in enumerate(blocks, 1):
        for i in range(1, count + 1):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = channels
            if (b, i) == until:
                return nn.Sequential(*layers)
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def build(name: str, image_size: int) -> nn.Sequential:
    """The article's small network, or VGG16."""
    if name == "small-cnn":
        base = convolutions([(channels, 1) for channels in (32, 64, 128, 128)])
        flat = (image_size // 16) ** 2 * 128
        top = [nn.Dropout(0.5), nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)]
    else:
        base = convolutions(list(zip((64, 128, 256, 512, 512), VGG16, strict=True)))
        top = [nn.Linear((image_size // 32) ** 2 * 512, 4096), nn.ReLU(), nn.Dropout(0.5)]
        top += [nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 1000)]
    return nn.Sequential(base, nn.Flatten(), *top)


def prepare(work: dict) -> Callable[[], None]:
    """A call that does the work once; see `step_time.py` for what `work` holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    small, batch, image_size = work["model"] == "small-cnn", work["batch_size"], work["image_size"]
    images = torch.tensor(
        np.random.default_rng(0).random((batch, 3, image_size, image_size), np.float32), device=device
    )
    images = images.to(memory_format=torch.channels_last)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def finished(network: nn.Module) -> nn.Module:
        network = network.to(device, memory_format=torch.channels_last)
        return torch.compile(network) if work["compile"] else network

    if work["task"] == "input-gradient":
        until = tuple(int(part[-1]) for part in work["layer"].split("_"))
        network = convolutions(list(zip((64, 128, 256, 512, 512), VGG16, strict=True)), until)
        network = finished(network.requires_grad_(False))

        def climb() -> None:
            nonlocal images
            images = images.detach().requires_grad_(True)
            network(images).mean().backward()
            images = images.detach() + images.grad
            wait()

        return climb
    network = finished(build(work["model"], image_size))
    if work["task"] == "forward":
        network.eval()

        def forward() -> None:
            with torch.inference_mode():
                network(images)
            wait()

        return forward
    labels = torch.arange(batch, device=device) % (2 if small else 1000)
    rule = torch.optim.Adam if small else torch.optim.SGD
    optimizer = rule(network.parameters(), lr=1e-3, **({} if small else {"momentum": 0.9}))

    def step() -> None:
        optimizer.zero_grad()
        logits = network(images)
        if small:
            loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
        else:
            loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step
