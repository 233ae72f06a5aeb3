"""PyTorch's DataLoader from JPEG files to uint8 batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image


class ImageFolder(torch.utils.data.Dataset):
    """What torchvision's ImageFolder, Resize and PILToTensor do, without their overhead."""

    def __init__(self, folder: str, image_size: int) -> None:
        self.files = sorted(Path(folder).glob("*/*.jpg"))
        classes = sorted({file.parent.name for file in self.files})
        self.labels = [classes.index(file.parent.name) for file in self.files]
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as image:
            small = image.convert("RGB").resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)), self.labels[index]


def prepare(work: dict) -> Callable[[], None]:
    """A call that takes work["images"] images, in batches, decoded by work["workers"] processes."""
    batches = torch.utils.data.DataLoader(
        ImageFolder(work["folder"], work["image_size"]),
        batch_size=work["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=work["workers"],
        persistent_workers=True,
    )

    def call() -> None:
        for _ in batches:
            pass

    return call
