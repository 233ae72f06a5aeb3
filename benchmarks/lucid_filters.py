"""Filters of the real VGG16 by lucid's recipe: the time to the same activation, here, in Keras and in PyTorch.

    python benchmarks/lucid_filters.py                                        # half an hour on two cores
    python benchmarks/lucid_filters.py --layer block3_conv3 --channels 40 48 --image-size 64 --steps 32 --rounds 1

Every contender draws the same filters as one batch, from its own noise, and keeps its images every few steps with the
time. Afterwards one judge, this package's network, takes the activation of each uint8 image before relu and without
transforms. Of this package and a peer, what both reach is a filter's target; the ratio of a round is the median over
the filters of the peer's time to it over this package's. Contenders take turns, in an order drawn for each round.

The Keras and PyTorch contenders have lucid's recipe; tf-keras-vis, which takes part if it is installed, has its own: it
changes pixels with hardly any transforms, so it reaches an activation by noise that the other recipes rule out. Needs
the extra `peers`. Writes benchmarks/results/lucid_filters.json.
"""

import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share an accelerator's memory

import compare
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cnnjax import Network, formats, visualize
from cnnjax.cli import command_line
from cnnjax.data.normalize import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import before_relu
from cnnjax.visualize.layers import at_image_size

OURS = compare.Contender(compare.OURS.who, "ours_lucid")
KERAS = compare.Contender("lucid's recipe in Keras (TensorFlow)", "keras_lucid")
TORCH = compare.Contender("lucent's algorithm in PyTorch", "torch_lucid")
TF_KERAS_VIS = compare.Contender("tf-keras-vis, its own recipe", "tf_keras_vis_batch")


@dataclass(frozen=True)
class Drawn:
    """What a contender drew in one turn."""

    times: np.ndarray
    """Seconds from the call to each look at the images; the first is before the first step."""
    activations: np.ndarray
    """(looks, filters)."""


@dataclass(frozen=True)
class Row:
    """One contender. Ratios are over this package's times; median, lowest and highest of the rounds.

    seconds: of all steps, median. to_target: ratio of the times to the activation that both reach. all_steps: ratio of
    the times for all steps. activation: median over the filters, after the last step of the last round.
    """

    who: str
    seconds: float
    first: float
    activation: float
    to_target: tuple[float, float, float]
    all_steps: tuple[float, float, float]


def write_arrays(path: Path, network: Network, layer: str) -> None:
    """The kernels and biases of a VGG up to a layer, for images in [0, 1] to which `shift` is added first."""

    def normalized(color: Sequence[float]) -> np.ndarray:
        image = jnp.broadcast_to(jnp.asarray(color, jnp.float32), (1, 1, 1, 3))
        return np.asarray(normalize(network.normalizer, image)[0, 0, 0], np.float64)

    offset = normalized((0, 0, 0))
    matrix = np.stack([normalized(np.eye(3)[i]) - offset for i in range(3)], axis=1)
    arrays = {"shift": np.linalg.solve(matrix, offset).astype(np.float32)}
    names = sorted(name for name in network.params if "_conv" in name)
    if layer not in names:
        raise UserError(f"layer {layer!r} is none of a VGG's convolutions, such as {names[-1]}")
    for name in names[: names.index(layer) + 1]:
        kernel = np.asarray(network.params[name]["kernel"])
        if name == names[0]:
            kernel = np.einsum("hwco,ci->hwio", kernel, matrix).astype(np.float32)
        arrays |= {f"{name}/kernel": kernel, f"{name}/bias": np.asarray(network.params[name]["bias"])}
    np.savez(path, **arrays)


def seconds_to(drawn: Drawn, targets: np.ndarray) -> np.ndarray:
    """When each filter's activation first reached its target, interpolated between two looks."""
    highest, found = np.maximum.accumulate(drawn.activations), []
    for values, target in zip(highest.T, targets, strict=True):
        place = int(np.argmax(values >= target))
        if place == 0:
            found.append(drawn.times[0])
            continue
        share = (target - values[place - 1]) / (values[place] - values[place - 1])
        found.append(drawn.times[place - 1] + share * (drawn.times[place] - drawn.times[place - 1]))
    return np.array(found)


def ratio(ours: Drawn, theirs: Drawn) -> float:
    """Median over the filters of their time to what both reach over ours."""
    targets = np.minimum(ours.activations.max(axis=0), theirs.activations.max(axis=0))
    return float(np.median(seconds_to(theirs, targets) / seconds_to(ours, targets)))


def rows(rounds: Sequence[dict[str, Drawn]], first: dict[str, float]) -> list[Row]:
    """A row for each contender."""

    def spread(values: Sequence[float]) -> tuple[float, float, float]:
        return statistics.median(values), min(values), max(values)

    return [
        Row(
            who=who,
            seconds=float(statistics.median(turn[who].times[-1] for turn in rounds)),
            first=first[who],
            activation=float(np.median(rounds[-1][who].activations[-1])),
            to_target=spread([ratio(turn[OURS.who], turn[who]) for turn in rounds]),
            all_steps=spread([float(turn[who].times[-1] / turn[OURS.who].times[-1]) for turn in rounds]),
        )
        for who in first
    ]


def table(found: Sequence[Row]) -> str:
    """Aligned columns for people."""
    lines = []
    for row in found:
        target, steps = (f"{m:.2f}× ({low:.2f} to {high:.2f})" for m, low, high in (row.to_target, row.all_steps))
        lines.append((row.who, f"{row.seconds:.1f}", f"{row.activation:.4g}", target, steps))
    return compare.aligned(("who", "seconds", "activation", "time to the same activation", "time for all steps"), lines)


def race(
    contenders: Sequence[compare.Contender], work: dict[str, object], rounds: int, network: Network, seed: int
) -> list[Row]:
    """All contenders in turns. One that cannot take part is named and left out, unless it is this package."""
    order, layer, channels = random.Random(seed), str(work["layer"]), work["channels"]
    network = at_image_size(network, work["image_size"])
    judge = jax.jit(lambda network, images: before_relu.run(network, images / 255, (layer,))[2][layer].mean((1, 2)))
    running: list[compare.Process] = []
    try:
        for contender in contenders:
            try:
                running.append(compare.Process(contender, work))
            except UserError as error:
                if contender is OURS:
                    raise
                tqdm.write(str(error))
        found: list[dict[str, Drawn]] = []
        for number in tqdm(range(rounds), unit=" rounds"):
            turn = {}
            for process in order.sample(running, len(running)):
                process.seconds(1)
                with np.load(str(work["answer"])) as answer:
                    looks = [judge(network, images.astype(np.float32)) for images in answer["images"]]
                    own = np.stack([np.asarray(look)[np.arange(len(channels)), channels] for look in looks])
                    turn[process.who] = Drawn(answer["times"], own)
            found.append(turn)
            tqdm.write(f"round {number + 1}\n{table(rows(found, {p.who: p.first for p in running}))}")
        return rows(found, {process.who: process.first for process in running})
    finally:
        for process in running:
            process.close()


def lucid_filters(
    *,
    layer: str = "block5_conv3",
    channels: tuple[int, ...] = (2, 7, 41, 84, 103, 306, 461, 487),
    image_size: int = 128,
    steps: int = 96,
    every: int = 8,
    rounds: int = 3,
    recipe: str = "lucid",
    weights: Path | None = None,
    seed: int = 0,
    out: Path = Path("benchmarks/results/lucid_filters.json"),
) -> None:
    """Measure the time to the same activation by lucid's recipe.

    Args:
        layer: The layer.
        channels: Its filters.
        image_size: Height and width in pixels.
        steps: Steps of each drawing.
        every: Steps between two looks at the images.
        rounds: Turns of each contender.
        recipe: This package's recipe; the others draw by lucid's.
        weights: A VGG's weights file that cnnjax wrote; by default the convolutions of the real VGG16.
        seed: Of the noise and of the order.
        out: The file for the results.
    """
    if min(steps, every, rounds, len(channels)) < 1 or steps % every:
        raise UserError("--steps must be a multiple of --every, and --rounds and --channels at least 1")
    visualize.recipes.recipe(recipe)  # an unknown one is refused before anything is measured
    network = formats.load(weights, include_top=False) if weights else formats.load_bundled("vgg16", include_top=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats.save(folder / "weights.safetensors", network)
        write_arrays(folder / "arrays.npz", network, layer)
        work: dict[str, object] = {
            "weights": str(folder / "weights.safetensors"),
            "arrays": str(folder / "arrays.npz"),
            "answer": str(folder / "answer.npz"),
            "layer": layer,
            "channels": list(channels),
            "image_size": image_size,
            "steps": steps,
            "recipe": recipe,
            "every": every,
            "seed": seed,
        }
        found = race((OURS, KERAS, TORCH, TF_KERAS_VIS), work, rounds, network, seed)
    print(table(found))
    more = {key: work[key] for key in ("layer", "channels", "image_size", "steps", "recipe", "seed")}
    compare.write(out, found, jax.devices()[0].device_kind, more | {"rounds": rounds, "sha256": network.digest})
    print(f"wrote {out}")


if __name__ == "__main__":
    command_line.main(lucid_filters)
