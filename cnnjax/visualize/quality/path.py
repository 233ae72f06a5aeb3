"""Whether an image takes the path through a network that photographs of the same kind take (Geirhos et al. 2024).

"Don't trust your eyes: on the (un)reliability of feature visualizations", arXiv 2306.04719: images can be drawn that
drive a unit by other means than natural images do. What such an image activates on the way then resembles what natural
images of its class activate no more than what images of other classes do.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from cnnjax.errors import UserError
from cnnjax.visualize.attribution_metrics.similarity import ranks

Similarity = Literal["spearman", "pearson", "cosine"]
Features = Mapping[str, Float[np.ndarray, "_ _"]]
"""By layer, as `channel_means` makes them."""
LEAST = 0.01
"""Difference between the similarity among natural images of a kind and that to others, below which nothing is said."""


def path_similarity(
    drawn: Features,
    natural: Features,
    same: Sequence[Sequence[int]],
    other: Sequence[Sequence[int]],
    *,
    similarity: Similarity = "spearman",
) -> dict[str, Float[np.ndarray, " images"]]:
    """For each layer and drawn image (d - o) / (s - o); 1 if it is as like natural images of its kind as they are.

    d: the mean similarity of the drawn image's channels with those of natural images of its kind. s: that of these with
    each other. o: that of these with natural images of other kinds; so 0 is an image that shares with its kind what all
    images share. NaN where natural images of a kind are no more alike than others.

    drawn, natural: see `channel_means`. same, other: for each drawn image the numbers of natural images of its kind,
    two at least (its class, or those that activate its channel most), and of others.
    """
    if similarity not in get_args(Similarity):
        raise UserError(f"similarity={similarity!r} must be one of {', '.join(get_args(Similarity))}")
    if any(len(group) < 2 for group in same) or any(len(group) < 1 for group in other):
        raise UserError("a path is compared with at least two natural images of the same kind and one of another")
    return {
        layer: np.asarray(
            [
                _normalized(one, natural[layer][list(group)], natural[layer][list(rest)], similarity)
                for one, group, rest in zip(drawn[layer], same, other, strict=True)
            ]
        )
        for layer in drawn
    }


def similarities(
    first: Float[np.ndarray, "rows channels"],
    second: Float[np.ndarray, "others channels"],
    similarity: Similarity = "spearman",
) -> Float[np.ndarray, "rows others"]:
    """The similarity of each row of one array with each row of another; 0 for a row without any differences."""
    return _unit(first, similarity) @ _unit(second, similarity).T


def _normalized(one: np.ndarray, same: np.ndarray, other: np.ndarray, similarity: Similarity) -> float:
    own = similarities(one[None], same, similarity).mean()
    pairs = similarities(same, same, similarity)
    among = (pairs.sum() - np.trace(pairs)) / (len(same) * (len(same) - 1))
    across = similarities(same, other, similarity).mean()
    return float((own - across) / (among - across)) if among - across > LEAST else float("nan")


def _unit(rows: np.ndarray, similarity: Similarity) -> np.ndarray:
    rows = np.stack([ranks(row) for row in rows]) if similarity == "spearman" else np.asarray(rows, np.float64)
    if similarity != "cosine":
        rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
