"""Who is how fast: medians with their spread, one panel a workload."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.figures.canvas import BLUE, BODY, HEAD, INK, MUTED, RULE, SMALL, WIDTH, plot, save, sheet, text


def contest(workloads: Mapping[str, Sequence[Any]], path: Path) -> Path:
    """Bars of milliseconds, or of seconds from 10 on: median, and a line from fastest to slowest. Ours is coloured.

    workloads: title -> rows with who, median, low, high (seconds) and ratio, the median over ours.
    """
    left, right, bar, head = 170, 90, 22, 44
    heights = [head + bar * len(rows) + 14 for rows in workloads.values()]
    figure, board = sheet(WIDTH, sum(heights) + 10)
    top = 6
    for (title, rows), height in zip(workloads.items(), heights, strict=True):
        text(board, 10, top + 16, title, HEAD, INK, ha="left", weight="bold")
        highest = max(row.high for row in rows)
        unit, scale = ("seconds", 1) if highest >= 10 else ("milliseconds", 1e3)
        text(board, WIDTH - 10, top + 16, f"{unit}, shorter is better", SMALL, MUTED, ha="right")
        axes = plot(figure, left, top + 30, WIDTH - left - right, bar * len(rows))
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.tick_params(labelbottom=False, length=0)
        axes.set_xlim(0, highest * scale)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for place, row in enumerate(sorted(rows, key=lambda row: row.median)):
            ours = row.ratio == 1
            axes.barh(place, row.median * scale, height=0.68, color=BLUE if ours else RULE)
            axes.plot((row.low * scale, row.high * scale), (place, place), color=INK, linewidth=1.2)
            y = top + 30 + bar * (place + 0.5)
            text(board, left - 8, y, row.who, BODY, BLUE if ours else INK, ha="right")
            median = row.median * scale
            words = (f"{median:.0f}" if median >= 100 else f"{median:.3g}") + (
                f"   {row.ratio:.2f}×" if row.ratio and not ours else ""
            )
            text(board, WIDTH - right + 8, y, words, BODY, BLUE if ours else INK, ha="left")
        top += height
    return save(figure, path)
