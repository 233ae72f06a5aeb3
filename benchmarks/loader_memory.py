"""The peak memory of this process, which indexes a folder of images and streams a thousand of them.

python benchmarks/loader_memory.py --folder PATH
"""

import json
import re
from pathlib import Path

import jax

from cnnjax import data
from cnnjax.cli import command_line
from cnnjax.data import prefetch, sampling


def peak() -> int:
    """Bytes, of this program alone; `getrusage` would include what its parent had when it started it."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def loader_memory(*, folder: Path, image_size: int = 64, batch_size: int = 32, images: int = 1024) -> None:
    """Index, scan and stream; then print the peak, and the memory before that, as a line of JSON.

    Args:
        folder: A folder with a folder per class.
        image_size: Height and width in pixels after resizing.
        batch_size: Images per batch.
        images: The number of images to stream.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # or a second run would load what the first compiled
    key_data = sampling.key_data(jax.random.key(0))
    sampling.example_indices(key_data, 0, 1, 2)
    before = peak()
    split = data.from_folder(folder, image_size=image_size, valid=1, test=1, loading="stream", cache=False).train
    rows = prefetch.Order(key_data, len(split), batch_size)
    with prefetch.prefetch_batches(split, rows, 0, 1, lambda chunk: chunk) as chunks:
        for _ in range(images // batch_size):
            next(chunks)
    print(json.dumps({"bytes": peak(), "before": before, "images": len(split)}))


if __name__ == "__main__":
    command_line.main(loader_memory)
