"""Training curves: loss, accuracy and other metrics by epoch (article, sections 4.2 and 4.4), and losses by step."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cnnjax.figures.canvas import plot, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, HEAD, INK, MUTED, PLUM, RED, RULE, SMALL, WIDTH
from cnnjax.train import metrics

History = Sequence[Mapping[str, float]]
"""One training run: a mapping for each epoch, as `train.fit` returns it and writes it into `metrics.jsonl`."""

_LEFT, _TITLE, _LEGEND, _HEIGHT, _BETWEEN = 62, 26, 32, 200, 22


def curves(histories: Mapping[str, History] | History, path: Path) -> Path:
    """Draw loss, accuracy and all other metrics by epoch, for the training and the validation images.

    histories: the history of one run, or title -> history. An epoch has `epoch`, `train_loss` and `valid_loss`; every
    other name for which it has `valid_NAME`, such as `valid_accuracy`, gets a panel of its own. One run is drawn with
    its panels side by side, two in a row; of several runs each gets a column, with common vertical scales. The epoch
    with the lowest validation loss is marked.
    """
    runs = histories if isinstance(histories, Mapping) else {"": histories}
    names = metric_names(runs)
    alone, top = len(runs) == 1, _LEGEND + (_TITLE if any(runs) else 0)
    gap = 64 if alone else 26
    columns, rows = (2, math.ceil(len(names) / 2)) if alone else (len(runs), len(names))
    # Alone, each panel has its own axis of epochs below it; otherwise only the last row has one.
    between = _BETWEEN + (26 if alone else 0)
    wide = (WIDTH - _LEFT - 10 - gap * (columns - 1)) / columns
    figure, board = sheet(WIDTH, top + rows * (_HEIGHT + between) + (0 if alone else 26))
    scales = {name: _scale(name, runs) for name in names}
    for column, (title, history) in enumerate(runs.items()):
        text(board, _LEFT + column * (wide + gap), 14, title, HEAD, INK, ha="left", weight="bold")
        for row, name in enumerate(names):
            down, across = divmod(row, 2) if alone else (row, column)
            axes = plot(figure, _LEFT + across * (wide + gap), top + down * (_HEIGHT + between), wide, _HEIGHT)
            _curve(axes, history, name)
            axes.set_ylim(*scales[name])
            if name == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if alone or row == len(names) - 1:
                axes.set_xlabel("epoch", fontsize=BODY, color=MUTED)
            else:
                axes.set_xticklabels([])
            if column == 0:
                axes.set_ylabel(name.replace("_", " "), fontsize=BODY, color=MUTED)
            else:
                axes.set_yticklabels([])
    _legend(board, top - 20)
    return save(figure, path)


def metric_names(runs: Mapping[str, History]) -> list[str]:
    """The metrics that have a validation value in an epoch of these runs: the loss, the accuracy, then the others."""
    found = dict.fromkeys(
        name.removeprefix("valid_") for h in runs.values() for epoch in h for name in epoch if name.startswith("valid_")
    )
    return [name for name in ("loss", "accuracy") if name in found] + [
        name for name in found if name not in ("loss", "accuracy")
    ]


def _scale(name: str, runs: Mapping[str, History]) -> tuple[float, float]:
    """The limits of a metric's vertical axis, common to all runs."""
    epochs = [epoch for history in runs.values() for epoch in history]
    keys = (f"train_{name}", f"valid_{name}")
    values = [v for epoch in epochs for key in keys if math.isfinite(v := epoch.get(key, math.nan))] or [0.0, 1.0]
    if name == "loss" and min(values) >= 0:
        # A single epoch with a very large loss should not flatten all the others.
        return 0, 1.05 * min(max(values), 2.5 * float(np.percentile(values, 90))) or 1.0
    if name == "accuracy":
        return min(0.45, *values) - 0.01, 1.01
    margin = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.05
    return min(values) - margin, max(values) + margin


def _curve(axes: Axes, history: History, name: str) -> None:
    """The training and validation values of one metric, and the validation value at the best epoch."""
    epochs, best = [epoch["epoch"] for epoch in history], metrics.best(history)
    for split, color in (("train", BLUE), ("valid", RED)):
        values = [epoch.get(f"{split}_{name}", math.nan) for epoch in history]
        axes.plot(epochs, values, "-" if len(values) > 1 else "o", color=color, linewidth=1.8, markersize=4)
    axes.axvline(best["epoch"], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    value = best.get(f"valid_{name}", math.nan)
    if not math.isfinite(value):
        return
    axes.plot(best["epoch"], value, "o", color=RED, markersize=6, markeredgecolor="white")
    # The number is placed where the curves are not: losses fall towards the point, accuracies rise.
    late = best["epoch"] > epochs[0] + 0.75 * (epochs[-1] - epochs[0])
    axes.annotate(
        {"loss": f"{value:.2f}", "accuracy": f"{value:.1%}"}.get(name, f"{value:.3g}"),
        (best["epoch"], value),
        xytext=(-7 if late else 7, 8 if name == "loss" else -13),
        textcoords="offset points",
        fontsize=SMALL,
        color=RED,
        ha="right" if late else "left",
        weight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def _legend(board: Axes, y: float) -> None:
    for x, color, label in ((_LEFT, BLUE, "training"), (_LEFT + 92, RED, "validation")):
        board.plot((x, x + 20), (y, y), color=color, linewidth=2)
        text(board, x + 26, y, label, SMALL, MUTED, ha="left")
    board.plot((_LEFT + 192, _LEFT + 212), (y, y), color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    text(board, _LEFT + 218, y, "lowest validation loss: these parameters are kept", SMALL, MUTED, ha="left")


def losses(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """Draw the training loss at each step, a panel for each title.

    panels: title -> who -> losses. The first one is drawn with a broad line, below the others.
    """
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
