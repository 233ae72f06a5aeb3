"""torchvision.models.ResNet: its modules and names, with other widths. timm's names are the same."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """torchvision's BasicBlock or Bottleneck; the stride is in the 3×3 convolution ("v1.5")."""

    def __init__(self, inputs, units, stride, bottleneck):
        super().__init__()
        outputs = units * 4 if bottleneck else units
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, units, 1, bias=False)
            self.conv2 = nn.Conv2d(units, units, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(units, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, units, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(units, units, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(units), nn.BatchNorm2d(units)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, counts, bottleneck=False, width=8, classes=5, channels=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(counts, 1):
            units, blocks = width << stage - 1, []
            for i in range(count):
                blocks.append(Block(inputs, units, 2 if stage > 1 and i == 0 else 1, bottleneck))
                inputs = units * 4 if bottleneck else units
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def randomised(net, seed=0):
    """Random weights and running statistics, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith(("running_var", "weight")) and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 200
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan) ** 0.5)
    return net.eval()
