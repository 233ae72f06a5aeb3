"""torchvision.models.ResNet: its modules and names, with other widths. timm's names are the same."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """torchvision's BasicBlock or Bottleneck; the stride is in the 3×3 convolution ("v1.5")."""

    def __init__(self, inputs, units, stride, bottleneck):
        super().__init__()
        outputs = units * 4 if bottleneck else units
        sides = ((units, 1), (units, 3), (outputs, 1)) if bottleneck else ((units, 3), (units, 3))
        strided, before = 2 if bottleneck else 1, inputs
        for i, (after, side) in enumerate(sides, 1):
            conv = nn.Conv2d(before, after, side, stride if i == strided else 1, side // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
            before = after
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
