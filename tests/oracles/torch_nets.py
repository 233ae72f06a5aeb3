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


def vgg(params, stages=(2, 2, 3, 3, 3)):
    blocks = [[f"block{b}_conv{i + 1}" for i in range(count)] for b, count in enumerate(stages, 1)]
    return Net(params, blocks, ["fc1", "fc2", "predictions"])


def loss(logits, labels):
    """Mean cross entropy of integer labels; of one logit, the binary one."""
    labels = torch.tensor(np.asarray(labels))
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return F.cross_entropy(logits, labels.long())
