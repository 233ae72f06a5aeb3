"""The article's network and VGG as PyTorch writes them, taking this package's parameters."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """`blocks`: names of the convolutions before each pooling; `dense`: names of the dense layers, the output last."""

    def __init__(self, params, blocks, dense):
        super().__init__()
        self.blocks, self.dense = blocks, dense
        self.layers = nn.ModuleDict()
        for name, arrays in params.items():
            kernel = torch.tensor(np.asarray(arrays["kernel"]))
            convolution = kernel.ndim == 4
            kernel = kernel.permute(3, 2, 0, 1) if convolution else kernel.T
            layer = nn.Conv2d(*kernel.shape[1::-1], 3, padding=1) if convolution else nn.Linear(*kernel.shape[::-1])
            layer.weight.data = kernel.contiguous()
            layer.bias.data = torch.tensor(np.asarray(arrays["bias"]))
            self.layers[name] = layer

    def forward(self, images):
        x = images.permute(0, 3, 1, 2)
        for names in self.blocks:
            for name in names:
                x = F.relu(self.layers[name](x))
            x = F.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for name in self.dense[:-1]:
            x = F.relu(self.layers[name](x))
        return self.layers[self.dense[-1]](x)

    def arrays(self, of=lambda p: p):
        """Parameters, or what `of` takes from each, in this package's layout."""
        out = {}
        for name, layer in self.layers.items():
            kernel, bias = (of(p).detach().numpy() for p in (layer.weight, layer.bias))
            out[name] = {"kernel": kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T, "bias": bias}
        return out


def small_cnn(params):
    return Net(params, [[f"conv_{i}"] for i in range(1, 5)], ["dense_1", "dense_2", "output"])


def features(channels, batch_norm=False):
    """torchvision's `features`: for each block a list of its convolutions' channels, then a pooling."""
    layers, inputs = [], 3
    for block in channels:
        for outputs in block:
            norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Published(nn.Module):
    """What torchvision and timm have in common; `maps` gives every convolution's activation too, all NCHW."""

    def maps(self, images):
        x, found = images, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found, self.top(x)

    def forward(self, images):
        return self.maps(images)[1]


class TorchvisionVGG(Published):
    """torchvision.models.VGG: its modules and names, with other channels and, for small images, fewer `cells`."""

    def __init__(self, channels, dense=32, classes=5, cells=7, batch_norm=False):
        super().__init__()
        height, width = cells if isinstance(cells, tuple) else (cells, cells)
        self.features = features(channels, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((height, width))
        self.classifier = nn.Sequential(
            nn.Linear(channels[-1][-1] * height * width, dense), nn.ReLU(), nn.Dropout(),
            nn.Linear(dense, dense), nn.ReLU(), nn.Dropout(), nn.Linear(dense, classes),
        )  # fmt: skip

    def top(self, x):
        return self.classifier(torch.flatten(self.avgpool(x), 1))


class TimmVGG(Published):
    """timm.models.vgg.VGG: dense layers as convolutions in `pre_logits`, the last in `head.fc`."""

    def __init__(self, channels, dense=32, classes=5, cells=7):
        super().__init__()
        self.features = features(channels)
        self.pre_logits = nn.ModuleDict(
            {"fc1": nn.Conv2d(channels[-1][-1], dense, cells), "fc2": nn.Conv2d(dense, dense, 1)}
        )
        self.head = nn.ModuleDict({"fc": nn.Linear(dense, classes)})

    def top(self, x):
        x = F.relu(self.pre_logits["fc2"](F.relu(self.pre_logits["fc1"](x))))
        return self.head["fc"](x.mean((2, 3)))


class SmallCNN(Published):
    """The article's network, named by torchvision's scheme: dropout is the classifier's first module."""

    def __init__(self, channels, dense, outputs, cells):
        super().__init__()
        self.features = features([[units] for units in channels])
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(channels[-1] * cells * cells, dense[0]), nn.ReLU(),
            nn.Linear(*dense), nn.ReLU(), nn.Linear(dense[1], outputs),
        )  # fmt: skip

    def top(self, x):
        return self.classifier(torch.flatten(x, 1))


def loss(logits, labels):
    """Mean cross entropy of integer labels; of one logit, the binary one."""
    labels = torch.tensor(np.asarray(labels))
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return F.cross_entropy(logits, labels.long())
