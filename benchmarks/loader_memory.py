"""The most memory that this process takes to index a folder of pictures and stream a thousand of them.

python benchmarks/loader_memory.py --folder PATH
"""

import json
import re
from pathlib import Path

import jax

from cnnjax import data
from cnnjax.cli import command_line
from cnnjax.cli.config import DataConfig
from cnnjax.data import prefetch, sampling


def peak() -> int:
    """Bytes, of this program alone: `getrusage` would count what its parent had when it started it."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def loader_memory(*, folder: Path, image_size: int = 64, batch: int = 32, pictures: int = 1024) -> None:
    """Index, survey and stream, then print the peak and what there was before, as a line of JSON.

    Args:
        folder: A folder per class.
        image_size: Height and width in pixels after resizing.
        batch: Images per batch.
        pictures: How many to stream.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # or the second run would not compile what the first did
    sampling.order(sampling.words(jax.random.key(0)), 0, 1, 2)
    before = peak()
    config = DataConfig(f"folder:{folder}", image_size=image_size, per_class=0, eval_per_class=1, feed="stream", cache=False)
    split = data.load(config).train
    rows = prefetch.Order(sampling.words(jax.random.key(0)), len(split.labels), batch)
    with prefetch.ahead(split, rows, 0, 1, lambda chunk: chunk) as chunks:
        for _ in range(pictures // batch):
            next(chunks)
    print(json.dumps({"bytes": peak(), "before": before, "pictures": len(split.labels)}))


if __name__ == "__main__":
    command_line.main(loader_memory)
