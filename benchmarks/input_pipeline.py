"""Images per second from JPEG files to augmented batches on the device, without training; and what augmentation costs.

    python benchmarks/input_pipeline.py

cnnjax takes part three times: decoding the files (its first epoch), reading its cache of decoded pictures (a second
run's first epoch), and with pictures resident on the device (every later epoch). All augment as the article does. Then
cnnjax's training step with and without augmentation inside its program, taking turns.
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
DEMAND = 0.10  # the most that augmentation may take of a training step


def augmentation_share(found: list[compare.Row]) -> float:
    """What part of the augmenting training step is augmentation, from the medians of both."""
    medians = {row.who: row.median for row in found}
    return 1 - medians[compare.OURS.who] / medians[AUGMENTING.who]


def input_pipeline(
    *,
    who: tuple[str, ...] = tuple(WHO),
    per_class: int = 1000,
    image_size: int = 150,
    batch: int = 32,
    rounds: int = 5,
    calls: int = 3,
    out: Path = Path("benchmarks/results/input_pipeline.json"),
) -> None:
    """Time pipelines side by side, then augmentation inside the training step.

    Args:
        who: Which pipelines; cnnjax, which decodes, is the one that ratios refer to.
        per_class: Files per class.
        image_size: Height and width in pixels after resizing.
        batch: Images per batch.
        rounds: Epochs of each pipeline, and turns of each training step.
        calls: Training steps a turn.
        out: The file for the results.
    """
    contenders = compare.chosen(who, WHO)
    steps = 2 * per_class // batch
    if not steps:
        raise UserError(f"--batch-size {batch} is larger than the {2 * per_class} pictures: give more --per-class")
    limit = peak.measure()
    folder = jpegs.files(per_class)
    name = f"an epoch of {steps * batch} pictures"
    work = {"name": name, "folder": str(folder), "image_size": image_size, "batch_size": batch, "images": steps * batch}
    work["workers"] = runtime.cores()  # for who has processes of its own
    with tempfile.TemporaryDirectory() as cache:
        own = (("CNNJAX_CACHE", cache),)  # a hundred megabytes that the user's cache need not keep
        taking_part = [replace(c, environment=own) if c.who == CACHED else c for c in contenders]
        pipelines = compare.compare(work, taking_part, rounds=rounds, calls=1)
    print(compare.table(pipelines), flush=True)
    work = SMALL | {"task": "train", "images": batch, "image_size": image_size, "name": "a training step"}
    work["flops"] = flops.count(work)
    both = (compare.OURS, AUGMENTING)
    trained = compare.compare(work, both, rounds=rounds, calls=calls, peak=limit.flops_per_second)
    share = augmentation_share(trained)
    print(compare.table(trained))
    print(f"augmentation takes {share:.1%} of the training step (at most {DEMAND:.0%} is asked for)")
    more = {"rounds": rounds, "calls": calls, "augmentation_share": share, "demand": DEMAND}
    compare.write(out, [*pipelines, *trained], limit.device, more)
    plot = figures.compare({name: pipelines, work["name"]: trained}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(input_pipeline)
