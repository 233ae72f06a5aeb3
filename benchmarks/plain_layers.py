"""ResNet-18 of ordinary Flax layers in `train.fit`'s step, compared with `cnnjax.ops` and with a hand-written step.

    python benchmarks/plain_layers.py
    python benchmarks/plain_layers.py --image-sizes 32 --batch-sizes 8 --rounds 3

Four training steps (softmax cross-entropy, gradient descent with momentum, batch normalization), taking turns:
"cnnjax" is the step of `train.fit` for a network of `nnx.Conv` and `nnx.BatchNorm`; "cnnjax, ops.conv" is the same step
for `models.ResNet18`, whose convolutions are this package's; the others are a step written by hand around `jax.jit` for
the former network, with JAX's default settings and with those of `cnnjax.configure()`.
Writes benchmarks/results/plain_layers.json and a plot next to it.
"""

from collections.abc import Sequence
from pathlib import Path

import compare
import jax

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import UserError

OURS = compare.Contender(compare.OURS.who, "ours_plain")
OPS = compare.Contender("cnnjax, ops.conv", "ours")
BY_HAND = compare.Contender("jax.jit step by hand", "plain_resnet")
CONFIGURED = compare.Contender("jax.jit step by hand, configured", "plain_resnet", (("configure", True),))
WHO = (OURS, OPS, BY_HAND, CONFIGURED)
DEMANDS = {OPS.who: 1.2, BY_HAND.who: 1.0}
"""The most time that the step of plain layers may take, relative to these."""


def verdicts(rows: Sequence[compare.Row]) -> dict[str, float]:
    """The median time of "cnnjax" relative to each of the other contenders."""
    return {row.who: 1 / row.ratio for row in rows if row.ratio and row.who != OURS.who}


def plain_layers(
    *,
    image_sizes: tuple[int, ...] = (32, 224),
    batch_sizes: tuple[int, ...] = (64, 8),
    rounds: int = 7,
    calls: int = 3,
    out: Path = Path("benchmarks/results/plain_layers.json"),
) -> None:
    """Time training steps of ResNet-18 side by side.

    Args:
        image_sizes: Height and width in pixels, one for each workload.
        batch_sizes: Images per step, one for each workload.
        rounds: Turns of each contender.
        calls: Steps per turn.
        out: The file for the results.
    """
    if len(image_sizes) != len(batch_sizes):
        raise UserError("--image-sizes and --batch-sizes must have the same number of values, one for each workload")
    found: dict[str, list[compare.Row]] = {}
    shares = {}
    for image_size, batch_size in zip(image_sizes, batch_sizes, strict=True):
        name = f"ResNet-18, {batch_size} images of {image_size}²"
        work = {"name": name, "model": "resnet18", "task": "train", "batch_size": batch_size, "image_size": image_size}
        found[name] = compare.compare(work, WHO, rounds=rounds, calls=calls)
        shares[name] = verdicts(found[name])
        print(compare.table(found[name]))
        for who, share in shares[name].items():
            demand = f" (at most {DEMANDS[who]:.1f} is required)" if who in DEMANDS else ""
            print(f"{name}: {share:.2f} times the time of {who}{demand}", flush=True)
    more = {"rounds": rounds, "calls": calls, "relative_time": shares, "demands": DEMANDS}
    compare.write(out, [row for rows in found.values() for row in rows], jax.devices()[0].device_kind, more)
    plot = figures.compare(found, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(plain_layers)
