"""How much an image activates its channel: more than any image of a data set, and more than it does other channels?"""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.network import Json, Network
from cnnjax.visualize.atlas.statistics import Statistics
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size
from cnnjax.visualize.quality.features import by_layer, channel_means, channel_of, stack


def compare_activations(
    images: Sequence[Image], network: Network, statistics: Mapping[str, Statistics], *, batch_size: int = 32
) -> list[dict[str, Json]]:
    """Each image's activation of its channel against a data set's; an empty dict for images of a class.

    statistics: of the layers that were drawn, as `atlas.statistics.collect` makes them.

    over_maximum and over_percentile: the mean of the channel's map over its largest, and over its 99.9th percentile, on
    the data; None for a channel that never fires there. rank: 1 if no channel of the layer is more standard deviations
    above its mean on the data; of how many: channels that are constant there have no rank.
    """
    shown = stack(images)
    network = at_image_size(network, (shown.shape[1], shown.shape[2]))
    found: list[dict[str, Json]] = [{} for _ in images]
    for layer, places in by_layer(images).items():
        means = channel_means(network, shown[places], [layer], batch_size=batch_size)[layer]
        on_data = statistics[layer]
        largest, percentile = np.asarray(on_data.means)[:, 0], np.asarray(on_data.quantile)
        deviation = np.asarray(on_data.deviation)
        scores = (means - np.asarray(on_data.mean)) / np.where(deviation > 0, deviation, np.nan)
        for place, mean, score in zip(places, means, scores, strict=True):
            channel = channel_of(images[place])
            ranked = not np.isnan(score[channel])
            found[place] = {
                "over_maximum": _ratio(float(mean[channel]), float(largest[channel])),
                "over_percentile": _ratio(float(mean[channel]), float(percentile[channel])),
                "rank": int((score > score[channel]).sum()) + 1 if ranked else None,
                "ranked_channels": int((~np.isnan(score)).sum()),
            }
    return found


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference > 0 else None
