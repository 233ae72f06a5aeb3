"""PyTorch from JPEG files to augmented batches: DataLoader, its workers, and torchvision's transforms."""

from collections.abc import Callable

import torch
from torchvision import datasets, transforms


def prepare(work: dict) -> Callable[[], None]:
    """A call that makes an epoch's batches from the files in work["folder"]. Borders are black: torchvision's affine
    transformation does not repeat the nearest pixel.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    change = transforms.Compose(
        [
            transforms.Resize((work["image_size"], work["image_size"])),
            transforms.RandomAffine(
                40,
                translate=(0.2, 0.2),
                scale=(0.8, 1.2),
                shear=0.2,
                interpolation=transforms.InterpolationMode.BILINEAR,
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    batches = torch.utils.data.DataLoader(
        datasets.ImageFolder(work["folder"], change),
        batch_size=work["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=work["workers"],
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def call() -> None:
        for images, _ in batches:
            images.to(device)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call
