"""Results of a sweep against the swept values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullLocator, PercentFormatter

from cnnjax.figures.canvas import plot, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, MUTED, PLUM, RED, SMALL, WIDTH
from cnnjax.printable import format_value

_COLORS = (BLUE, RED, GREEN, GOLD, PLUM)
_MARKS = "osD^v"
Points = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]


def sweep(points: Points, panels: Mapping[str, str], path: Path) -> Path:
    """Draw the mean of each metric against the first swept setting, with the standard deviation over the seeds.

    points: for each combination, name -> value, and metric -> {"mean", "deviation", "seeds": seed -> number}, as
    `train.metrics.mean_std` gives it; a combination may lack a metric. panels: title -> metric, one panel each. Each
    combination of the other settings is a line of its own. The small points are the seeds.
    """
    swept, *others = points[0][0]
    values = list(dict.fromkeys(point[swept] for point, _ in points))
    places, is_log = _places(values)
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for point, found in points:
        label = ", ".join(f"{name} {format_value(point[name])}" for name in others)
        lines.setdefault(label, []).append((places[values.index(point[swept])], found))
    shown = {title: name for title, name in panels.items() if any(name in found for _, found in points)}
    left, top, height, gap = 58, 18, 230, 66
    wide = (WIDTH - left - 12 - gap * (len(shown) - 1)) / len(shown)
    below = top + height + 58
    legend = 20 * len(lines) if others else 0
    figure, board = sheet(WIDTH, below + legend + 20)
    for column, (title, name) in enumerate(shown.items()):
        axes = plot(figure, left + column * (wide + gap), top, wide, height)
        for number, line in enumerate(lines.values()):
            _line(axes, sorted((x, found[name]) for x, found in line if name in found), number)
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places, [format_value(value) for value in values])
        axes.set_xlabel(swept, fontsize=BODY, color=MUTED, parse_math=False)
        axes.set_ylabel(title, fontsize=BODY, color=MUTED)
        if "accuracy" in name:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for number, label in enumerate(lines if others else ()):
        y = below + 20 * number
        board.plot((left, left + 20), (y, y), color=_COLORS[number % 5], linewidth=2, marker=_MARKS[number // 5 % 5])
        text(board, left + 28, y, label, SMALL, MUTED, ha="left")
    text(board, left, below + legend, _of_seeds(points, shown.values()), SMALL, MUTED, ha="left")
    return save(figure, path)


def _of_seeds(points: Points, names: Iterable[str]) -> str:
    """What the points and bars are; runs that diverged are not among their seeds."""
    counts = {len(found[name]["seeds"]) for name in names for _, found in points if name in found}
    fewest, most = min(counts, default=1), max(counts, default=1)
    if most == 1:
        return "one seed"
    return f"mean ± standard deviation of {most if fewest == most else f'{fewest} to {most}'} seeds"


def _line(axes: Any, line: Sequence[tuple[float, Mapping[str, Any]]], number: int) -> None:
    color, mark = _COLORS[number % 5], _MARKS[number // 5 % 5]
    xs, means = [x for x, _ in line], [found["mean"] for _, found in line]
    deviations = [found["deviation"] for _, found in line]
    axes.errorbar(xs, means, deviations, color=color, marker=mark, markersize=5, linewidth=1.6, capsize=3)
    for x, found in line:
        seeds = list(found["seeds"].values())
        if len(seeds) > 1:
            axes.plot([x] * len(seeds), seeds, "o", color=color, markersize=3, alpha=0.45)


def _places(values: Sequence[Any]) -> tuple[list[float], bool]:
    """Where the values are on the horizontal axis, and whether it is logarithmic. What is no number is in a row."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        return [float(i) for i in range(len(values))], False
    return numbers, min(numbers) > 0 and max(numbers) / min(numbers) >= 8
