"""Training curves side by side (article, sections 4.2 and 4.4), and a learned filter's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cnnjax.article.worked_examples import Descent
from cnnjax.figures.canvas import (
    BLUE,
    BODY,
    GOLD,
    GREEN,
    HEAD,
    INK,
    MUTED,
    PLUM,
    RED,
    RULE,
    SMALL,
    WIDTH,
    picture,
    plot,
    save,
    sheet,
    text,
)

History = Sequence[Mapping[str, Any]]


def best_epoch(history: History) -> Mapping[str, Any]:
    """The epoch of lowest validation loss: the one whose parameters are kept."""
    return min(history, key=lambda epoch: epoch["valid_loss"])


def curves(histories: Mapping[str, History], path: Path) -> Path:
    """Loss and accuracy of each run (title -> its epochs), training and validation, on common scales.

    Several runs: a column each, loss above accuracy. One run: loss beside accuracy. An epoch is a mapping with epoch,
    train_loss, train_accuracy, valid_loss and valid_accuracy. The epoch of lowest validation loss is marked.
    """
    left, top, height, alone = 62, 58, 200, len(histories) == 1
    gap = 64 if alone else 26
    columns = 2 if alone else len(histories)
    wide = (WIDTH - left - 10 - gap * (columns - 1)) / columns
    figure, board = sheet(WIDTH, top + (1 if alone else 2) * (height + 22) + 26)
    losses = [e[k] for h in histories.values() for e in h for k in ("train_loss", "valid_loss")]
    scores = [e[k] for h in histories.values() for e in h for k in ("train_accuracy", "valid_accuracy")]
    # One diverging epoch must not flatten everything else.
    highest = 1.05 * min(max(losses), 2.5 * float(np.percentile(losses, 90)))
    for column, (title, history) in enumerate(histories.items()):
        text(board, left + column * (wide + gap), 14, title, HEAD, INK, ha="left", weight="bold")
        for row, kind in enumerate(("loss", "accuracy")):
            across, down = (row, 0) if alone else (column, row)
            axes = plot(figure, left + across * (wide + gap), top + down * (height + 22), wide, height)
            _curve(axes, history, kind)
            if kind == "loss":
                axes.set_ylim(0, highest)
            else:
                axes.set_ylim(min(0.45, *scores) - 0.01, 1.01)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if alone or kind == "accuracy":
                axes.set_xlabel("epoch", fontsize=BODY, color=MUTED)
            else:
                axes.set_xticklabels([])
            if column == 0:
                axes.set_ylabel(kind, fontsize=BODY, color=MUTED)
            else:
                axes.set_yticklabels([])
    for x, color, words in ((left, BLUE, "training"), (left + 92, RED, "validation")):
        board.plot((x, x + 20), (38, 38), color=color, linewidth=2)
        text(board, x + 26, 38, words, SMALL, MUTED, ha="left")
    board.plot((left + 192, left + 212), (38, 38), color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    text(board, left + 218, 38, "lowest validation loss: these parameters are kept", SMALL, MUTED, ha="left")
    return save(figure, path)


def _curve(axes: Axes, history: History, kind: str) -> None:
    epochs, best = [epoch["epoch"] for epoch in history], best_epoch(history)
    for split, color in (("train", BLUE), ("valid", RED)):
        values = [epoch[f"{split}_{kind}"] for epoch in history]
        axes.plot(epochs, values, "-" if len(values) > 1 else "o", color=color, linewidth=1.8, markersize=4)
    value = best[f"valid_{kind}"]
    axes.axvline(best["epoch"], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.plot(best["epoch"], value, "o", color=RED, markersize=6, markeredgecolor="white")
    # Beside the point, where the curves are not.
    late = best["epoch"] > epochs[0] + 0.75 * (epochs[-1] - epochs[0])
    axes.annotate(
        f"{value:.2f}" if kind == "loss" else f"{value:.1%}",
        (best["epoch"], value),
        xytext=(-7 if late else 7, 8 if kind == "loss" else -13),
        textcoords="offset points",
        fontsize=SMALL,
        color=RED,
        ha="right" if late else "left",
        weight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def losses(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """The loss at each step, a panel each for title -> who -> losses. The first is drawn broad, below the others."""
    left, top, height, gap = 52, 34, 230, 34
    names = list(dict.fromkeys(who for some in panels.values() for who in some))
    colors = dict(zip(names, (RULE, RED, BLUE, GREEN, PLUM, GOLD), strict=False))
    wide = (WIDTH - left - 10 - gap * (len(panels) - 1)) / len(panels)
    below = top + height + 54
    figure, board = sheet(WIDTH, below + 20 * -(-len(names) // 3) + 4)
    for column, (title, some) in enumerate(panels.items()):
        x = left + column * (wide + gap)
        text(board, x, 16, title, HEAD, INK, ha="left", weight="bold")
        axes = plot(figure, x, top, wide, height)
        for who, values in some.items():
            first, faint = who == names[0], who == names[-1]
            style = {"linewidth": 5 if first else 1.3, "linestyle": (0, (1, 2)) if faint else "-"}
            axes.plot(range(1, len(values) + 1), values, color=colors[who], zorder=1 if first else 2, **style)
        axes.set_ylim(0, 1.05 * max(v for values in some.values() for v in values))
        axes.set_xlabel("step", fontsize=BODY, color=MUTED)
        if not column:
            axes.set_ylabel("training loss", fontsize=BODY, color=MUTED)
    for i, who in enumerate(names):
        x, y = left + 232 * (i % 3), below + 20 * (i // 3)
        style = {"linewidth": 5 if not i else 2, "linestyle": (0, (1, 2)) if i == len(names) - 1 else "-"}
        board.plot((x, x + 20), (y, y), color=colors[who], **style)
        text(board, x + 26, y, who, SMALL, MUTED, ha="left")
    return save(figure, path)


def descent(lesson: Descent, path: Path, shown: Sequence[int] = (0, 2, 8, 60)) -> Path:
    """The loss while a filter is learned, and the filter on the way."""
    figure, board = sheet(WIDTH, 238)
    axes = plot(figure, 52, 34, 250, 154)
    axes.plot(np.maximum(lesson.losses, 1e-12), color=BLUE, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=BODY, color=MUTED)
    text(board, 52, 14, "squared error of the map", BODY, ha="left", weight="bold")
    bound = float(np.abs(lesson.kernels).max())
    steps = [min(step, len(lesson.losses) - 1) for step in shown]
    side = (WIDTH - 340 - 5) // (len(steps) + 1) - 10
    panels = [(f"step {s}", lesson.kernels[s]) for s in steps] + [("wanted", lesson.target)]
    for index, (words, kernel) in enumerate(panels):
        x = 346 + index * (side + 10)
        text(board, x + side / 2, 76, words, SMALL, GREEN if words == "wanted" else MUTED)
        shown_axes = picture(figure, kernel, x, 90, side, cmap="RdBu_r", vmin=-bound, vmax=bound)
        for i, j in np.ndindex(*kernel.shape):
            color = "white" if abs(kernel[i, j]) > 0.6 * bound else INK
            shown_axes.text(
                j,
                i,
                f"{kernel[i, j] + 0.0:.1f}".replace("-0.0", "0.0"),
                fontsize=7,
                color=color,
                ha="center",
                va="center",
            )
    return save(figure, path)


def probabilities(names: Sequence[str], values: Iterable[Any], path: Path, most: int = 6) -> Path:
    """Horizontal bars of the most likely classes."""
    values = np.asarray(list(values), float)
    order = np.argsort(values)[::-1][:most]
    figure, board = sheet(WIDTH, 26 * len(order) + 10)
    for row, index in enumerate(order):
        y, length = 18 + row * 26, 470 * float(values[index])
        text(board, 150, y, names[index], BODY, ha="right")
        board.fill_between(
            (162, 162 + max(length, 1)), y - 8, y + 8, color=BLUE if row == 0 else "#a9bfd0", linewidth=0
        )
        text(board, 172 + length, y, f"{values[index]:.1%}", SMALL, MUTED, ha="left")
    return save(figure, path)
