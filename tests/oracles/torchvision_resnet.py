"""Writes resnet18.npz: what torchvision's ResNet18 computes in five steps of SGD with momentum, for test_resnet.py.

    python tests/oracles/torchvision_resnet.py

needs torchvision (written with torch 2.13.0 and torchvision 0.28.0). Weights, images and labels are those of
recipe.py and not stored. Of each tensor the file has sums and samples, as recipe.sample takes them.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

# torchvision's own operations, which a ResNet does not use, may be compiled for another build of torch.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")

import recipe  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

STEPS, CLASSES, LEARNING_RATE = 5, 10, 0.01


def network() -> torch.nn.Module:
    """In float64, so that the stored values are exact for our purpose."""
    net = resnet18(num_classes=CLASSES).double()
    for name, parameter in net.named_parameters():
        parameter.data = torch.tensor(recipe.parameter(name, tuple(parameter.shape))).double()
    return net


def run() -> dict[str, np.ndarray]:
    """The stored arrays: "STEP/NAME", where step 0 is before training; "eval" is the trained network's evaluation."""
    net, stored = network(), {}
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, momentum=0.9)

    def images(step: int) -> torch.Tensor:
        return torch.tensor(recipe.images(step).transpose(0, 3, 1, 2)).double()

    for step in range(1, STEPS + 1):
        logits = net(images(step))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(recipe.labels(step, CLASSES)).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stored[f"{step}/logits"], stored[f"{step}/loss"] = logits.detach().numpy(), np.array(loss.item())
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                stored[f"{step}/{name}"] = recipe.sample(value.numpy())
    net.eval()
    stored["eval/logits"] = net(images(STEPS + 1)).detach().numpy()
    return {name: value.astype(np.float32) for name, value in stored.items()}


if __name__ == "__main__":
    path = Path(__file__).with_name("resnet18.npz")
    np.savez_compressed(path, **run())
    print(path, path.stat().st_size, "bytes")
