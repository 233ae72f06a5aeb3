"""The page of an atlas: one HTML file, its data in a script beside it, and sheets of pictures. It opens from disk."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import jinja2
import numpy as np
from jaxtyping import UInt8

from cnnjax.data.dataset import Split
from cnnjax.files import atomic_write
from cnnjax.network import Json, Network
from cnnjax.visualize.atlas import sheets
from cnnjax.visualize.atlas.drawing import Pictures
from cnnjax.visualize.atlas.kernels import kernel_pictures
from cnnjax.visualize.atlas.patches import LARGEST, crop
from cnnjax.visualize.atlas.selection import Layer
from cnnjax.visualize.atlas.statistics import PATCHES, read_image
from cnnjax.visualize.atlas.store import slug
from cnnjax.visualize.atlas.table import STATES, Row

NUMBERS = (
    "activation_before", "activation_after", "data_largest", "data_p999", "ratio_before", "ratio_after", "z", "rank",
    "fires",
)  # fmt: skip
"""The table's columns that the page shows, besides layer, channel, state and patches."""
_BLANK = 128


def write(
    folder: Path,
    *,
    network: Network,
    layers: Sequence[Layer],
    rows: Mapping[str, Sequence[Row]],
    pictures: Mapping[str, Pictures],
    images: Split,
    about: Mapping[str, Json],
    summary: Mapping[str, Json],
) -> Path:
    """Write the page `index.html`, `atlas.js` and the folder `sheets`. Returns the page's path."""
    folder = Path(folder)
    captions: dict[str, int] = {}
    entries = []
    for layer in layers:
        table = rows[layer.name]
        kernels = kernel_pictures(network, layer)
        chosen = None if kernels is None else [kernels[channel] for channel in layer.chosen]
        entries.append(
            {
                "name": layer.name,
                "channels": layer.channels,
                "field": layer.field,
                "ranked": table[0]["ranked"],
                "pictures": _write(list(pictures[layer.name].pixels), folder, layer, "filters"),
                "patches": _write(patch_strips(layer, table, images), folder, layer, "patches"),
                "kernels": None if chosen is None else _write(chosen, folder, layer, "weights"),
                "rows": columns(table, captions),
            }
        )
    content = {
        "about": dict(about),
        "summary": dict(summary),
        "states": STATES,
        "captions": list(captions),
        "layers": entries,
    }
    return write_files(folder, content)


def write_files(folder: Path, content: Mapping[str, object]) -> Path:
    """Write the page and its data, which are `content` as `write` makes it. Returns the page's path."""
    data = "window.ATLAS = " + json.dumps(content, separators=(",", ":"), allow_nan=False) + ";\n"
    atomic_write(folder / "atlas.js", lambda temporary: temporary.write_text(data, encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnjax.visualize.atlas", "templates"),
        autoescape=jinja2.select_autoescape(default=True),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("atlas.html.j2").render(about=content["about"], summary=content["summary"])
    path = folder / "index.html"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def columns(table: Sequence[Row], captions: dict[str, int]) -> dict[str, Json]:
    """A layer's rows as columns. Captions are numbered, since many patches share one; new ones are added."""
    states = list(STATES)
    patches = [
        [
            [
                patch["image"],
                captions.setdefault(patch["caption"], len(captions)),
                _short(patch["value"]),
                *patch["box"],
            ]
            for patch in cast(list[dict], row["patches"])
        ]
        for row in table
    ]
    found: dict[str, Json] = {name: [_short(row[name]) for row in table] for name in NUMBERS}
    return found | {
        "channel": [row["channel"] for row in table],
        "state": [states.index(str(row["state"])) for row in table],
        "patches": patches,
    }


def patch_strips(layer: Layer, table: Sequence[Row], images: Split) -> list[UInt8[np.ndarray, "height width channels"]]:
    """For each filter its patches side by side, nine places in one strip. Each image is read once."""
    places = defaultdict(list)
    for i, row in enumerate(table):
        for slot, patch in enumerate(cast(list[dict], row["patches"])):
            places[patch["image"]].append((i, slot, tuple(patch["box"])))
    strips: np.ndarray | None = None
    for number in sorted(places):
        image = to_uint8(read_image(images, number))
        for i, slot, box in places[number]:
            patch = sheets.shrink(crop(image, box), LARGEST)
            height, width = patch.shape[:2]
            if strips is None:
                strips = np.full((len(table), height, PATCHES * width, 3), _BLANK, np.uint8)
            strips[i, :, slot * width : (slot + 1) * width] = patch
    return [np.full((1, PATCHES, 3), _BLANK, np.uint8)] * len(table) if strips is None else list(strips)


def to_uint8(image: np.ndarray) -> UInt8[np.ndarray, "height width channels"]:
    """An image in [0, 1], or of uint8 already."""
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _write(tiles: list[np.ndarray], folder: Path, layer: Layer, kind: str) -> dict[str, Json]:
    return sheets.write(tiles, folder / "sheets", f"{slug(layer.name)}-{kind}")._asdict()


def _short(value: Json) -> Json:
    """A number with five significant digits, which is more than the page shows."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
