"""Training curves: loss, accuracy and other metrics by epoch (article, sections 4.2 and 4.4), and losses by step."""

import math
from collections.abc import Iterable, Mapping, Sequence
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
            axes.set_ylim(*scales[name])
            _curve(axes, history, name)
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
        return 0, 1.08 * _highest_shown(values, keys, runs) or 1.0
    if name == "accuracy":
        return min(0.45, *values) - 0.03, 1.02
    margin = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.05
    return min(values) - margin, max(values) + margin


def _highest_shown(values: Sequence[float], keys: Sequence[str], runs: Mapping[str, History]) -> float:
    """The upper end of losses: a single epoch with a very large one, often the first, should not flatten the others."""
    later = [v for history in runs.values() for epoch in history[1:] for key in keys if (v := epoch.get(key, 0.0)) >= 0]
    later = [value for value in later if math.isfinite(value)]
    limit = 2.5 * float(np.percentile(values, 90))
    if later and max(values) > 3 * max(later):
        limit = min(limit, 1.5 * max(later))
    return min(max(values), limit) or max(values)


def _curve(axes: Axes, history: History, name: str) -> None:
    """The training and validation values of one metric, with the validation value at the best epoch."""
    epochs, best = [epoch["epoch"] for epoch in history], metrics.best(history)
    found = {split: [epoch.get(f"{split}_{name}", math.nan) for epoch in history] for split in ("train", "valid")}
    axes.axvline(best["epoch"], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    if len(epochs) == 1:
        _dots(axes, epochs[0], name, found)
        return
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for split, color in (("train", BLUE), ("valid", RED)):
        axes.plot(epochs, found[split], color=color, linewidth=1.8)
    margin = 0.05 * (epochs[-1] - epochs[0])
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    highest = axes.get_ylim()[1]
    for split, color in (("train", BLUE), ("valid", RED)):
        _note_above(axes, epochs, found[split], highest, color)
    value = best.get(f"valid_{name}", math.nan)
    if math.isfinite(value) and value <= highest:
        _point(axes, best["epoch"], value, RED)
        label, dots = _written(name, value), _on_screen(axes, epochs, found.values())
        across, up = _free_place(axes, (best["epoch"], value), len(label), dots)
        _label(axes, (best["epoch"], value), label, RED, (across, up))


def _dots(axes: Axes, epoch: float, name: str, found: Mapping[str, Sequence[float]]) -> None:
    """The values of a single epoch side by side, each below its number."""
    axes.set_xlim(epoch - 0.5, epoch + 0.5)
    axes.set_xticks([epoch], [f"{epoch:.0f}"])
    low, high = axes.get_ylim()
    for split, color, place in (("train", BLUE, -0.14), ("valid", RED, 0.14)):
        value = found[split][0]
        if math.isfinite(value):
            _point(axes, epoch + place, value, color)
            near_top = value > high - 0.12 * (high - low)
            _label(axes, (epoch + place, value), _written(name, value), color, (0, -13 if near_top else 13))


def _point(axes: Axes, x: float, y: float, color: str) -> None:
    axes.plot(x, y, "o", color=color, markersize=6, markeredgecolor="white", clip_on=False, zorder=4)


def _label(axes: Axes, point: tuple[float, float], label: str, color: str, offset: tuple[float, float]) -> None:
    """A number with its middle at an offset, in points, from a point."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    style = {"fontsize": SMALL, "color": color, "weight": "bold", "ha": "center", "va": "center", "bbox": box}
    axes.annotate(label, point, xytext=offset, textcoords="offset points", **style)


def _written(name: str, value: float) -> str:
    return {"loss": f"{value:.2f}", "accuracy": f"{value:.1%}"}.get(name, f"{value:.3g}")


def _note_above(axes: Axes, epochs: Sequence[float], values: Sequence[float], highest: float, color: str) -> None:
    """Say how high a curve goes where it leaves the plot."""
    above = [(value, epoch) for value, epoch in zip(values, epochs, strict=True) if value > highest]
    if not above:
        return
    value, epoch = max(above)
    right = epoch > (epochs[0] + epochs[-1]) / 2
    axes.annotate(
        f"↑ {value:.3g} in epoch {epoch:.0f}",
        (epoch, highest),
        xytext=(-8 if right else 8 + 0.05 * axes.bbox.width * 72 / axes.figure.dpi, -7 if color == BLUE else -21),
        textcoords="offset points",
        fontsize=SMALL,
        color=color,
        ha="right" if right else "left",
        va="center",
    )


def _on_screen(axes: Axes, epochs: Sequence[float], curves: Iterable[Sequence[float]]) -> np.ndarray:
    """Many places on the curves: (n, 2) in points of the page."""
    fine = np.linspace(epochs[0], epochs[-1], 400)
    drawn = [np.stack([fine, np.interp(fine, epochs, values)], axis=1) for values in curves]
    return axes.transData.transform(np.concatenate(drawn)) * 72 / axes.figure.dpi


def _free_place(axes: Axes, point: tuple[float, float], letters: int, dots: np.ndarray) -> tuple[float, float]:
    """Where, in points from a point of a curve, a number covers the fewest dots of the curves within the plot."""
    per_pixel = 72 / axes.figure.dpi
    center = np.asarray(axes.transData.transform(point)) * per_pixel
    half = np.array([0.36 * SMALL * letters + 2, 0.6 * SMALL + 2])  # of the number's box
    low, high = np.asarray(axes.bbox.min) * per_pixel, np.asarray(axes.bbox.max) * per_pixel
    places = [(side * (half[0] + 7), up) for up in (12, -12, 24, -24, 38, -38, 54, -54) for side in (1, -1)]

    def covered(place: tuple[float, float]) -> float:
        middle = center + place
        outside = (middle - half < low).any() or (middle + half > high).any()
        return 1e6 * outside + (np.abs(dots - middle) < half).all(axis=1).sum()

    return min(places, key=covered)


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
