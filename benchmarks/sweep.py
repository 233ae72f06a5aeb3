"""What a stack of networks gains: a training step of several small networks, stacked and one after another.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --networks 1 2 --image-size 32 --batch-size 4 --rounds 2

"stacked" is the program of `cnnjax sweep --stacked yes`: the step mapped over the networks, which are divided among the
devices. "in turn" is that of `--stacked no`: one compiled step, called for one network after another. Both train the
article's small network in float32, and each network has its own initial weights and its own learning rate. They take
turns in an order drawn for each round. The ratio is the time in turn over the time stacked: above 1 the stack is
faster. In the table and in the plot, "cnnjax" is the stack. Writes benchmarks/results/sweep.json and a plot next to it.
"""

from collections.abc import Sequence
from pathlib import Path

import compare
import jax

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import UserError

# The first is this package's in the sense of `compare`: the time that ratios are relative to.
STACKED = compare.Contender(compare.OURS.who, "ours_stack", (("stacked", True),))
IN_TURN = compare.Contender("cnnjax, one after another", "ours_stack", (("stacked", False),))


def gains(found: dict[str, list[compare.Row]]) -> dict[str, float]:
    """For each workload the median time in turn over the median time stacked."""
    medians = {name: {row.who: row.median for row in rows} for name, rows in found.items()}
    return {name: median[IN_TURN.who] / median[STACKED.who] for name, median in medians.items()}


def sweep(
    *,
    networks: Sequence[int] = (1, 2, 4, 8),
    image_size: int = 64,
    batch_size: int = 32,
    rounds: int = 5,
    calls: int = 4,
    out: Path = Path("benchmarks/results/sweep.json"),
) -> None:
    """Time a training step of several small networks, stacked and one after another.

    Args:
        networks: How many networks, one number for each workload.
        image_size: Height and width in pixels.
        batch_size: Images of each network in a step.
        rounds: Turns of each contender.
        calls: Steps of all networks in a turn.
        out: The file for the results.
    """
    if not networks or min(*networks, image_size, batch_size, rounds, calls) < 1:
        raise UserError("--networks, --image-size, --batch-size, --rounds and --calls must be 1 or more")
    found: dict[str, list[compare.Row]] = {}
    for count in networks:
        name = f"{count} small network{'s' if count > 1 else ''}, {batch_size} images of {image_size}²"
        work = {"name": name, "model": "small-cnn", "batch_size": batch_size, "image_size": image_size}
        work |= {"networks": count, "images": count * batch_size}
        found[name] = compare.compare(work, (STACKED, IN_TURN), rounds=rounds, calls=calls)
        print(compare.table(found[name]), flush=True)
    for name, gain in gains(found).items():
        print(f"{name}: the stack is {gain:.2f} times as fast as one network after another")
    more = {"rounds": rounds, "calls": calls, "gains": gains(found)}
    compare.write(out, [row for rows in found.values() for row in rows], jax.devices()[0].device_kind, more)
    print(f"wrote {out} and {figures.compare(found, out.with_suffix('.png'))}")


if __name__ == "__main__":
    command_line.main(sweep)
