"""The filters' pictures: a layer's filters in batches, each of which is saved as soon as it is done.

A filter that fires only at few places may have a mean before relu that stays far below 0 whatever the image: its
picture leaves it silent. Such a filter is drawn a second time, for the unit in the middle of its map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cnnjax.network import Network
from cnnjax.visualize import objectives
from cnnjax.visualize.atlas.selection import Layer
from cnnjax.visualize.atlas.statistics import Statistics, measure_pictures
from cnnjax.visualize.atlas.store import Store, slug
from cnnjax.visualize.layers import at_image_size
from cnnjax.visualize.recipes import Recipe
from cnnjax.visualize.render import render
from cnnjax.visualize.stages import Progress


@dataclass(frozen=True)
class Drawing:
    """How the pictures are made; see `visualize.render`."""

    recipe: Recipe
    seed: int = 0
    batch_size: int = 16


class Pictures(NamedTuple):
    """A layer's filters, in ascending order."""

    channels: Int[np.ndarray, " filters"]
    pixels: UInt8[np.ndarray, "filters height width depth"]
    before: Float[np.ndarray, " filters"]
    """What the picture was optimized for, of the noise at the start."""
    means: Float[np.ndarray, "filters channels"]
    """The mean activation of each of the layer's channels, of the picture as it is saved."""
    by_unit: Bool[np.ndarray, " filters"]
    """Whether the picture is of the unit in the middle of the map, and not of the map's mean."""


def draw_layer(
    network: Network,
    layer: Layer,
    drawing: Drawing,
    store: Store,
    on_progress: Progress | None = None,
) -> Pictures:
    """The pictures of a layer's chosen filters: those in the store, and the others drawn and saved batch by batch.

    One program is compiled for a layer: its last batch is filled up. A filter's picture does not depend on the others
    of its batch. on_progress: called with the number of filters × steps done since its last call.
    """
    return _draw(network, layer, drawing, store, missing_channels(layer, store), False, on_progress)


def draw_units(
    network: Network,
    layer: Layer,
    drawing: Drawing,
    store: Store,
    channels: Sequence[int],
    on_progress: Progress | None = None,
) -> Pictures:
    """As `draw_layer`, which drew the layer, with the pictures of `channels` drawn again for the unit in the middle."""
    return _draw(network, layer, drawing, store, channels, True, on_progress)


def _draw(
    network: Network,
    layer: Layer,
    drawing: Drawing,
    store: Store,
    channels: Sequence[int],
    by_unit: bool,
    on_progress: Progress | None,
) -> Pictures:
    """Draw and save filters in batches. Returns the pictures of all of the layer's chosen filters."""
    size, earlier = min(drawing.batch_size, len(layer.chosen)), load_layer(layer, store)
    for first in range(0, len(channels), size):
        batch = channels[first : first + size]
        objective = (objectives.neuron if by_unit else objectives.channel)(layer.name, _filled(batch, size))
        drawn = _draw_batch(network, layer, drawing, objective, on_progress)
        kept = Pictures(*(values[: len(batch)] for values in drawn))
        if by_unit and earlier is not None:  # before: the mean of the map, as for the other filters
            rows = np.searchsorted(earlier.channels, batch)
            kept = kept._replace(by_unit=np.ones(len(batch), bool), before=earlier.before[rows])
        store.save(f"{slug(layer.name)}@{'unit-' if by_unit else ''}{batch[0]:05d}", kept._asdict())
    found = load_layer(layer, store)
    assert found is not None
    return found


def silent_channels(found: Statistics, pictures: Pictures) -> list[int]:
    """The filters that are to be drawn again: they fire on data, their picture leaves them silent, and is of the mean.

    Of a layer that is not rectified there are none.
    """
    if not found.rectified:
        return []
    channels = pictures.channels
    own = pictures.means[np.arange(len(channels)), channels]
    return channels[(own <= 0) & found.fires[channels] & ~pictures.by_unit].tolist()


def missing_channels(layer: Layer, store: Store) -> list[int]:
    """Those of a layer's chosen filters whose pictures are not in the store."""
    kept = load_layer(layer, store)
    there = set(() if kept is None else kept.channels.tolist())
    return [channel for channel in layer.chosen if channel not in there]


def load_layer(layer: Layer, store: Store) -> Pictures | None:
    """The pictures of a layer's chosen filters as far as they are in the store; None if there are none."""
    parts = [store.load(name) for name in store.names(f"{slug(layer.name)}@")]
    whole = [Pictures(**part) for part in parts if part is not None and set(part) == set(Pictures._fields)]
    if not whole:
        return None
    whole.sort(key=lambda part: not part.by_unit.all())
    joined = Pictures(*map(np.concatenate, zip(*whole, strict=True)))
    chosen = set(layer.chosen)
    # A filter that was drawn again is in two files; and a file that was damaged and computed again may share filters
    # with another.
    _, first = np.unique(joined.channels, return_index=True)
    order = [i for i in first if int(joined.channels[i]) in chosen]
    return Pictures(*(values[order] for values in joined))


def _draw_batch(
    network: Network, layer: Layer, drawing: Drawing, objective: objectives.Objective, on_progress: Progress | None
) -> Pictures:
    """A picture of each part of an objective, by one program."""
    channels = objective.numbers()
    count, size = len(np.unique(channels)), len(channels)
    images = render(
        network,
        objective,
        recipe=drawing.recipe,
        image_size=layer.image_size,
        seed=drawing.seed,
        batch_size=size,
        on_progress=None if on_progress is None else lambda done: on_progress(done * count // size),
    )
    pixels = np.stack([image.pixels for image in images])
    measured = measure_pictures(at_image_size(network, layer.image_size), pixels, (layer.name,))[layer.name]
    facts = [image.provenance for image in images]
    return Pictures(
        channels=np.asarray(channels, np.int32),
        pixels=pixels,
        before=np.asarray([one["activation_before"] for one in facts], np.float32),
        means=np.asarray(measured.mean),
        by_unit=np.zeros(size, bool),
    )


def _filled(channels: Sequence[int], size: int) -> list[int]:
    """The channels of a batch; the last one fills it up, so that one program draws all batches."""
    return [*channels, *[channels[-1]] * (size - len(channels))]
