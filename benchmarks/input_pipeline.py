"""Images per second from JPEG files to augmented batches on the device, and the cost of augmentation in training.

    python benchmarks/input_pipeline.py

cnnjax takes part three times: decoding the files (its first epoch), reading its cache of decoded images (the first
epoch of a second run), and with images resident on the device (every later epoch). All augment as the article does.
Then the training step of cnnjax with and without augmentation inside of its program, taking turns.
Needs the extra `peers`. Writes benchmarks/results/input_pipeline.json and a plot next to it.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import compare
import flops
import jpegs
import peak
from step_time import SMALL

from cnnjax import figures, runtime
from cnnjax.cli import command_line
from cnnjax.errors import UserError

CACHED = "cnnjax, from its cache"
PIPELINES = (
    compare.Contender(compare.OURS.who, "ours_pipeline", (("stage", "decode"),)),
    compare.Contender(CACHED, "ours_pipeline", (("stage", "cached"),)),
    compare.Contender("cnnjax, resident", "ours_pipeline", (("stage", "resident"),)),
    compare.Contender("Keras ImageDataGenerator", "keras_pipeline", (("pipeline", "generator"),)),
    compare.Contender("Keras tf.data", "keras_pipeline", (("pipeline", "tf.data"),)),
    compare.Contender("PyTorch DataLoader", "torch_pipeline"),
)
WHO = {contender.who: contender for contender in PIPELINES}
AUGMENTING = replace(compare.OURS, who="cnnjax, augmenting", options=(("augment", True),))
DEMAND = 0.10  # the largest share of a training step that augmentation may take


def augmentation_share(found: list[compare.Row]) -> float:
    """The share of the augmenting training step that is augmentation, from the medians of both steps."""
    medians = {row.who: row.median for row in found}
    return 1 - medians[compare.OURS.who] / medians[AUGMENTING.who]


def input_pipeline(
    *,
    who: tuple[str, ...] = tuple(WHO),
    per_class: int = 1000,
    image_size: int = 150,
    batch_size: int = 32,
    rounds: int = 5,
    calls: int = 3,
    out: Path = Path("benchmarks/results/input_pipeline.json"),
) -> None:
    """Time pipelines side by side, then augmentation inside the training step.

    Args:
        who: The pipelines; ratios refer to cnnjax, which decodes.
        per_class: Files per class.
        image_size: Height and width in pixels after resizing.
        batch_size: Images per batch.
        rounds: Epochs of each pipeline, and turns of each training step.
        calls: Training steps per turn.
        out: The file for the results.
    """
    contenders = compare.chosen(who, WHO)
    steps = 2 * per_class // batch_size
    if not steps:
        raise UserError(f"--batch-size {batch_size} is larger than the {2 * per_class} images: raise --per-class")
    limit = peak.measure()
    folder = jpegs.files(per_class)
    images = steps * batch_size
    name = f"an epoch of {images} images"
    work = {"name": name, "folder": str(folder), "image_size": image_size, "batch_size": batch_size, "images": images}
    work["workers"] = runtime.cores()  # for contenders with worker processes
    with tempfile.TemporaryDirectory() as cache:
        own = (("CNNJAX_CACHE", cache),)  # keeps a hundred megabytes out of the user's cache
        taking_part = [replace(c, environment=own) if c.who == CACHED else c for c in contenders]
        pipelines = compare.compare(work, taking_part, rounds=rounds, calls=1)
    print(compare.table(pipelines), flush=True)
    work = SMALL | {"task": "train", "batch_size": batch_size, "image_size": image_size, "name": "a training step"}
    work["flops"] = flops.count(work)
    both = (compare.OURS, AUGMENTING)
    trained = compare.compare(work, both, rounds=rounds, calls=calls, peak=limit.flops_per_second)
    share = augmentation_share(trained)
    print(compare.table(trained))
    print(f"augmentation takes {share:.1%} of the training step (at most {DEMAND:.0%} is required)")
    more = {"rounds": rounds, "calls": calls, "augmentation_share": share, "demand": DEMAND}
    compare.write(out, [*pipelines, *trained], limit.device, more)
    plot = figures.compare({name: pipelines, work["name"]: trained}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(input_pipeline)
