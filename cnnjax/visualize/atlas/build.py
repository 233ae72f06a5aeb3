"""An atlas from beginning to end: statistics of the data, pictures, patches, table and page."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax import limits
from cnnjax.data.dataset import Split, image_shape
from cnnjax.errors import UserError
from cnnjax.files import write_json
from cnnjax.network import Json, Network
from cnnjax.train import run_lock
from cnnjax.visualize import fingerprint
from cnnjax.visualize.atlas import page, patches, statistics, table
from cnnjax.visualize.atlas.drawing import (
    Drawing,
    Pictures,
    draw_layer,
    draw_units,
    missing_channels,
    silent_channels,
)
from cnnjax.visualize.atlas.selection import Layer, choose_layers
from cnnjax.visualize.atlas.statistics import Statistics
from cnnjax.visualize.atlas.store import Store, slug
from cnnjax.visualize.layers import at_image_size, layer_shapes
from cnnjax.visualize.recipes import Recipe, with_steps
from cnnjax.visualize.recipes import recipe as recipe_of
from cnnjax.visualize.stages import Progress

RECIPE = "lucid"


Watch = Callable[[str, int, str], Progress]
"""Called with a title, a total and a unit when a part of the work begins: returns what is then called with the numbers
of things done."""


@dataclass(frozen=True)
class Data:
    """The images that filters are compared on.

    images: a split; its labels are not used. source: what the images are, in a few words. caption: of an image, by its
    number, such as its class or file. class_names: of the labels, if they mean something.
    """

    images: Split
    source: str
    caption: Callable[[int], str] = str
    class_names: tuple[str, ...] = ()


class Atlas(NamedTuple):
    """What `build` wrote: the page, the rows of the table, and their summary."""

    page: Path
    rows: list[table.Row]
    summary: dict[str, Json]


def build(
    network: Network,
    data: Data,
    folder: Path,
    *,
    layers: Sequence[str] = (),
    filters_per_layer: int | None = None,
    recipe: str | Recipe = RECIPE,
    steps: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    fresh: bool = False,
    watch: Watch | None = None,
) -> Atlas:
    """Draw every filter, find the patches of data that fire it most, and write the page `folder/index.html`.

    layers, filters_per_layer, image_size: see `choose_layers`. recipe, steps, seed: of the pictures, see `render`.
    batch_size: pictures, and images of the data, at a time; any number gives the same atlas.
    A call that was interrupted continues: pictures that are in the folder are not drawn again. The statistics of the
    data are one pass, which is kept when it is complete. The page shows the layers and filters of this call.
    fresh: compute all of it again.

    Raises UserError if the folder holds an atlas of another network, data, recipe, steps, image size or seed (unless
    `fresh`), while another process computes in it, for images that the network does not take, and as `choose_layers`
    does.
    """
    folder = Path(folder)
    chosen = recipe_of(recipe) if isinstance(recipe, str) else recipe
    chosen = chosen if steps is None else with_steps(chosen, steps)
    limits.check_seed(seed)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    seen = at_image_size(network, _size(data.images, network.channels))
    wanted = choose_layers(seen, layers, filters_per_layer, image_size)
    weights = fingerprint.of_network(network)
    how = weights | fingerprint.of_recipe(chosen) | {"image_size": image_size, "seed": seed}
    with run_lock.locked(folder, "folder"):
        # Both stores are checked before the first hour of work.
        store = Store(folder / "filters", how, fresh)
        facts = weights | {"images": data.source, "number": len(data.images), "checksum": _checksum(data.images)}
        data_store = Store(folder / "data", facts | {"image_size": list(seen.image_size)}, fresh)
        start: Watch = watch or (lambda *_: lambda done: None)
        found = _statistics(seen, data.images, wanted, data_store, batch_size, start)
        drawn = _pictures(network, wanted, found, Drawing(chosen, seed, batch_size), store, start)
        about = how | {"model": network.model_name, "data": data.source, "images": len(data.images)}
        return _write(folder, seen, data, wanted, found, drawn, about)


def _write(
    folder: Path,
    network: Network,
    data: Data,
    layers: Sequence[Layer],
    found: Mapping[str, Statistics],
    drawn: Mapping[str, Pictures],
    about: dict[str, Json],
) -> Atlas:
    """The table, its summary and the page, of what was computed."""
    shapes = layer_shapes(network)
    rows = {}
    for layer in layers:
        name, map_width = layer.name, shapes[layer.name][1]
        best = {
            channel: patches.find(layer, found[name], channel, network.image_size, map_width, data.caption)
            for channel in layer.chosen
        }
        rows[name] = table.rows(layer, found[name], drawn[name], best)
    joined = [row for some in rows.values() for row in some]
    summary = table.summary(joined)
    table.write(joined, folder / "filters.jsonl")
    write_json(folder / "summary.json", about | {"summary": summary})
    written = page.write(
        folder,
        network=network,
        layers=layers,
        rows=rows,
        pictures=drawn,
        images=data.images,
        about=about,
        summary=summary,
    )
    return Atlas(written, joined, summary)


def _statistics(
    network: Network, images: Split, layers: Sequence[Layer], store: Store, batch_size: int, start: Watch
) -> dict[str, Statistics]:
    """Each layer's statistics: from the store or, for all that are not there, by one pass over the images."""
    kept = {layer.name: store.load(slug(layer.name)) for layer in layers}
    names = {one.name for one in fields(Statistics)}
    kept = {layer: arrays if arrays and set(arrays) == names else None for layer, arrays in kept.items()}
    missing = {layer.name: layer.channels for layer in layers if kept[layer.name] is None}
    if missing:
        tick = start("statistics of the data", len(images), "images")
        found = statistics.collect(network, images, missing, batch_size=batch_size, on_progress=tick)
        for name, one in found.items():
            store.save(slug(name), vars(one))
            kept[name] = vars(one)
    return {name: Statistics(**arrays) for name, arrays in kept.items() if arrays is not None}


def _pictures(
    network: Network,
    layers: Sequence[Layer],
    found: Mapping[str, Statistics],
    drawing: Drawing,
    store: Store,
    start: Watch,
) -> Mapping[str, Pictures]:
    steps = drawing.recipe.steps
    drawn = {}
    for layer in layers:
        missing = len(missing_channels(layer, store))
        tick = start(layer.name, missing * steps, "steps") if missing else None
        drawn[layer.name] = draw_layer(network, layer, drawing, store, tick)
        if silent := silent_channels(found[layer.name], drawn[layer.name]):
            tick = start(f"{layer.name}, one unit of {len(silent)} silent filters", len(silent) * steps, "steps")
            drawn[layer.name] = draw_units(network, layer, drawing, store, silent, tick)
    return drawn


def _size(images: Split, channels: int) -> tuple[int, int]:
    if not len(images):
        raise UserError("there are no images to compare filters on: give at least one")
    height, width, found = image_shape(images)
    if found != channels:
        raise UserError(
            f"the images have {found} channels and the network takes {channels}: give images of {channels} channels"
        )
    return height, width


def _checksum(images: Split) -> str:
    """Of the first and the last image: enough to notice that a folder's files or a data set's settings changed."""
    ends = (statistics.read_image(images, number) for number in (0, len(images) - 1))
    return f"{zlib.crc32(b''.join(np.ascontiguousarray(image).tobytes() for image in ends)):08x}"
