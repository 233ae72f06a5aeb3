"""What is known about each filter, as rows of plain data."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cnnjax.files import atomic_write
from cnnjax.network import Json
from cnnjax.visualize.atlas.drawing import Pictures
from cnnjax.visualize.atlas.patches import Patch
from cnnjax.visualize.atlas.selection import Layer
from cnnjax.visualize.atlas.statistics import Statistics

Row = dict[str, Json]
OK, SILENT, UNIT, DEAD, FAILED = "ok", "silent on noise", "one unit", "dead on data", "failed"
STATES = {
    OK: "the filter fires on its picture, on data and on the noise that the optimization starts from",
    SILENT: "the noise that the optimization starts from leaves the filter silent, and its picture does not",
    UNIT: "the picture is of the unit in the middle of the map, because that of the map's mean left the filter silent",
    DEAD: "no image of the data makes the filter fire",
    FAILED: "the filter fires on data, but its picture leaves it silent, or activates it no more than noise",
}
"""What each state means."""


def rows(layer: Layer, found: Statistics, pictures: Pictures, patches: Mapping[int, Sequence[Patch]]) -> list[Row]:
    """A row for each filter of a layer. All activations are means of the channel's map.

    state: one of `STATES`. activation_before, activation_after: of the noise and of the picture as it is saved.
    data_largest, data_p999: the largest and the 99.9th percentile over the data's images. ratio_before, ratio_after:
    activations over that percentile, None where it is not positive. z: how many standard deviations of the data the
    picture's activation lies above their mean. rank: of the filter by z among the `ranked` channels of its layer that
    vary on data, 1 for the picture that is most selective; None for a filter that does not vary.
    fires: the largest activation of one unit on data. patches: see `patches.Patch`.
    """
    deviation = np.asarray(found.deviation, np.float64)
    varies = found.fires & (deviation > 0)
    scores = (pictures.means - np.asarray(found.mean)) / np.where(varies, deviation, 1.0)
    result = []
    for i, channel in enumerate(pictures.channels.tolist()):
        before, after = float(pictures.before[i]), float(pictures.means[i, channel])
        p999 = float(found.quantile[channel])
        rank = int(1 + np.sum(scores[i, varies] > scores[i, channel])) if varies[channel] else None
        result.append(
            {
                "layer": layer.name,
                "channel": channel,
                "state": state(before, after, bool(found.fires[channel]), found.rectified, bool(pictures.by_unit[i])),
                "activation_before": before,
                "activation_after": after,
                "data_largest": float(found.means[channel, 0]),
                "data_p999": p999,
                "ratio_before": before / p999 if p999 > 0 else None,
                "ratio_after": after / p999 if p999 > 0 else None,
                "z": float(scores[i, channel]) if varies[channel] else None,
                "rank": rank,
                "ranked": int(varies.sum()),
                "fires": float(found.highest[channel]),
                "patches": [patch._asdict() for patch in patches.get(channel, ())],
            }
        )
    return result


def state(before: float, after: float, fires: bool, rectified: bool, by_unit: bool = False) -> str:
    """A filter's state, one of `STATES`, from its activations on its noise and picture, and whether data make it fire.

    A layer whose activations are rectified is silent at 0. Of any other a filter failed if its picture is no better
    than the noise; it is never silent.
    """
    if not fires:
        return DEAD
    if after <= (0 if rectified else before):
        return FAILED
    if by_unit:
        return UNIT
    return SILENT if rectified and before <= 0 else OK


def summary(table: Sequence[Row]) -> dict[str, Json]:
    """Figures of a table: numbers of filters by state, share that failed, and the median of `ratio_after` and rank.

    The ratio's median is over filters that fire on data and have a positive 99.9th percentile.
    """
    states = Counter(str(row["state"]) for row in table)
    ratios = _numbers(row["ratio_after"] for row in table if row["state"] != DEAD)
    ranks = _numbers(row["rank"] for row in table)
    return {
        "filters": len(table),
        **{name: states[name] for name in STATES},
        "failed_share": states[FAILED] / max(len(table), 1),
        "median_ratio": float(np.median(ratios)) if len(ratios) else None,
        "share_below_1": float(np.mean(ratios < 1)) if len(ratios) else None,
        "first_in_rank": float(np.mean(ranks == 1)) if len(ranks) else None,
    }


def write(table: Sequence[Row], path: Path) -> Path:
    """Write the table as JSON Lines, one filter a line."""
    text = "".join(json.dumps(row) + "\n" for row in table)
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _numbers(values: object) -> Float[np.ndarray, " n"]:
    return np.asarray([value for value in values if value is not None], np.float64)  # type: ignore[attr-defined]
