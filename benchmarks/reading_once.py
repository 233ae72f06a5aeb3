"""A process of benchmarks/reading.py: writes VGG16 with random weights, or reads it once.

    python benchmarks/reading_once.py write --format torchvision-zip --path FILE
    python benchmarks/reading_once.py read --who cnnjax --format torchvision-zip --path FILE

Reading prints the seconds, and the difference in bytes between the peak memory of the process and its memory before.
The source library's model is built beforehand, with all its memory; cnnjax builds its own within the measured time.
"PyTorch, model too" allocates its model's memory within the measured time as well, but draws no random numbers.
"""

import functools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnjax.cli import command_line

os.environ["KERAS_BACKEND"] = "tensorflow"
STAGES = (2, 2, 3, 3, 3)
ALL = "PyTorch, model too"
"""PyTorch, with the memory of its model allocated within the measured time, as cnnjax does."""
UNITS = (64, 128, 256, 512, 512)


def memory(what: str) -> int:
    """Memory of this process in bytes: "VmRSS", the present one, or "VmHWM", the peak."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def torch_model() -> Any:
    """A module with torchvision.models.vgg16's names and shapes."""
    from torch import nn

    layers, inputs = [], 3
    for count, units in zip(STAGES, UNITS, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, units, 3, padding=1), nn.ReLU()]
            inputs = units
        layers.append(nn.MaxPool2d(2))
    net = nn.Module()
    net.features = nn.Sequential(*layers)
    net.classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000),
    )  # fmt: skip
    return net


def keras_model() -> Any:
    import keras

    return keras.applications.VGG16(weights=None)


def prepared(who: str, format: str, path: Path) -> Callable[[], Any]:
    """The call to time. What the reader has before it is made here."""
    if who == "cnnjax":
        import jax

        from cnnjax import formats

        jax.block_until_ready(jax.numpy.zeros(1))
        return lambda: jax.block_until_ready(formats.load(path).params)
    if format.startswith("keras"):
        model = keras_model()
        return lambda: model.load_weights(path)
    import torch

    if who == ALL:
        with torch.device("meta"):
            model = torch_model()
        there = functools.partial(model.to_empty, device="cpu")
    else:
        model = torch_model()
        there = int
    if format == "torchvision-safetensors":
        import safetensors.torch

        return lambda: (there(), model.load_state_dict(safetensors.torch.load_file(path)))
    return lambda: (there(), model.load_state_dict(torch.load(path, weights_only=True)))


def read(*, who: str, format: str, path: Path) -> None:
    """Read once."""
    call = prepared(who, format, path)
    with path.open("rb") as file:  # so that it is in the system's cache for every reader
        while file.read(1 << 20):
            pass
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = memory("VmRSS"), time.perf_counter()
    kept = call()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": memory("VmHWM") - before}))
    del kept


def write(*, format: str, path: Path) -> None:
    """Write a file by the library that its format belongs to."""
    if format == "cnnjax":
        from cnnjax import formats, models
        from cnnjax.data import normalize
        from cnnjax.network import Network

        formats.save(path, Network.create(models.create("vgg16"), normalizer=normalize.caffe()))
    elif format == "keras-h5":
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, keras_model())
    elif format == "keras-weights-h5":
        keras_model().save_weights(path)
    elif format == "keras-archive":
        keras_model().save(path)
    elif format == "torchvision-safetensors":
        import safetensors.torch

        safetensors.torch.save_file(torch_model().state_dict(), path)
    else:
        import torch

        torch.save(torch_model().state_dict(), path, _use_new_zipfile_serialization=format != "torchvision-pth")


if __name__ == "__main__":
    command_line.main({"read": read, "write": write})
