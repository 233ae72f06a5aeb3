"""The plots of the benchmarks: times, rates, memory, and shares of a chip's peak."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullLocator

from cnnjax.figures.canvas import plot, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, HEAD, INK, MUTED, PLUM, RED, RULE, SMALL, WIDTH

COLORS = (BLUE, RED, GREEN, GOLD, PLUM, MUTED)


def compare(workloads: Mapping[str, Sequence[Any]], path: Path) -> Path:
    """Draw a panel of bars for each workload: the median time, and a line from the fastest to the slowest.

    Times of 10 seconds or more are given in seconds, shorter ones in milliseconds. The row of this package, whose
    ratio is 1, is colored.

    workloads: title -> rows with attributes who, median, low, high (seconds) and ratio, the median over this package's.
    """
    longest = max(len(row.who) for rows in workloads.values() for row in rows)
    left, right, bar, head = max(190, 24 + 6.8 * longest), 112, 22, 44
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
        axes.set_xlim(0, 1.01 * highest * scale)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for place, row in enumerate(sorted(rows, key=lambda row: row.median)):
            ours = row.ratio == 1
            axes.barh(place, row.median * scale, height=0.68, color=BLUE if ours else RULE)
            axes.plot((row.low * scale, row.high * scale), (place, place), color=INK, linewidth=1.2)
            y = top + 30 + bar * (place + 0.5)
            text(board, left - 8, y, row.who, BODY, BLUE if ours else INK, ha="right")
            median = row.median * scale
            label = (f"{median:.0f}" if median >= 100 else f"{median:.3g}") + (
                f"   {row.ratio:.2f}×" if row.ratio and not ours else ""
            )
            text(board, WIDTH - right + 8, y, label, BODY, BLUE if ours else INK, ha="left")
        top += height
    return save(figure, path)


def growth(axes: Mapping[str, Sequence[Any]], path: Path) -> Path:
    """Draw a panel for each axis: images per second against its values, as median and band from slowest to fastest.

    axes: label -> points with attributes who, value (drawn on a logarithmic scale), median, slowest and fastest.
    All panels share a vertical scale: from 0 if the rates are within a factor of 20, logarithmic otherwise.
    """
    names = list(dict.fromkeys(point.who for points in axes.values() for point in points))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    places, x, y = {}, 56.0, 42  # of the legend's entries, which may need several lines
    for name in names:
        length = 44 + 6.3 * len(name)
        if places and x + length > WIDTH:
            x, y = 56.0, y + 18
        places[name] = (x, y)
        x += length
    left, top, height, gap = 56, y + 20, 230, 28
    wide = (WIDTH - left - 12 - gap * (len(axes) - 1)) / len(axes)
    figure, board = sheet(WIDTH, top + height + 50)
    text(board, 10, 16, "images per second, higher is better", HEAD, INK, ha="left", weight="bold")
    for name, (x, y) in places.items():
        board.plot((x, x + 20), (y, y), color=colors[name], linewidth=2)
        text(board, x + 26, y, name, SMALL, MUTED, ha="left")
    rates = [rate for points in axes.values() for p in points for rate in (p.slowest, p.fastest)]
    wide_range = max(rates) > 20 * min(rates)
    for place, (label, points) in enumerate(axes.items()):
        panel = plot(figure, left + place * (wide + gap), top, wide, height)
        for name in dict.fromkeys(point.who for point in points):
            line = sorted((p for p in points if p.who == name), key=lambda p: p.value)
            values = [p.value for p in line]
            panel.fill_between(
                values,
                [p.slowest for p in line],
                [p.fastest for p in line],
                color=colors[name],
                alpha=0.18,
                linewidth=0,
            )
            panel.plot(values, [p.median for p in line], "o-", color=colors[name], linewidth=1.8, markersize=4)
        ticks = sorted({point.value for point in points})
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
        panel.set_xlabel(label, fontsize=BODY, color=MUTED)
        if wide_range:
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(NullLocator())
            panel.set_ylim(min(rates) / 1.3, max(rates) * 1.3)
        else:
            panel.set_ylim(0, 1.05 * max(rates))
        if place:
            panel.tick_params(labelleft=False)
    return save(figure, path)


def shares(rows: Sequence[Any], path: Path) -> Path:
    """Draw a panel for each machine: the share of its peak that programs reach by the compiler's estimates.

    rows: with attributes machine, program, share (the bar), roofline_share (the tick: the upper bound that the roofline
    model gives) and step (seconds).
    """
    machines = {name: [row for row in rows if row.machine == name] for name in dict.fromkeys(r.machine for r in rows)}
    left, right, bar, head = 190, 112, 22, 44
    figure, board = sheet(WIDTH, sum(head + bar * len(some) + 14 for some in machines.values()) + 30)
    top = 6
    for name, some in machines.items():
        text(board, 10, top + 16, name, HEAD, INK, ha="left", weight="bold")
        if top == 6:
            text(
                board, WIDTH - 10, top + 16, "share of peak, longer is better; line: roofline", SMALL, MUTED, ha="right"
            )
        axes = plot(figure, left, top + 30, WIDTH - left - right, bar * len(some))
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_ylim(len(some) - 0.5, -0.5)
        for place, row in enumerate(some):
            ours = "plain" not in row.program
            axes.barh(place, row.share, height=0.68, color=BLUE if ours else RULE)
            axes.plot((row.roofline_share,) * 2, (place - 0.34, place + 0.34), color=INK, linewidth=1.2)
            y = top + 30 + bar * (place + 0.5)
            text(board, left - 8, y, row.program, BODY, BLUE if ours else INK, ha="right")
            label = f"{row.share:.0%}   {1e3 * row.step:.3g} ms"
            text(board, WIDTH - right + 8, y, label, BODY, BLUE if ours else INK, ha="left")
        top += head + bar * len(some) + 14
    return save(figure, path)


def memory(title: str, rows: Sequence[Any], path: Path) -> Path:
    """Draw bars of the memory that a training step needs, in GiB, or in MiB if all of them are below 1 GiB.

    The first part of a bar is held between steps as well, the second part only within a step.

    rows: with attributes precision, microbatches, remat, and peak and temporary (bytes).
    """
    left, right, top, bar = 250, 120, 62, 24
    figure, board = sheet(WIDTH, top + bar * len(rows) + 14)
    highest = max(row.peak for row in rows)
    unit, scale = ("GiB", 2**30) if highest >= 2**30 else ("MiB", 2**20)
    text(board, 10, 16, title, HEAD, INK, ha="left", weight="bold")
    for x, color, label in ((left, RULE, "parameters, optimizer, images"), (left + 230, BLUE, "within a step")):
        board.plot((x, x + 14), (42, 42), color=color, linewidth=8, solid_capstyle="butt")
        text(board, x + 22, 42, label, SMALL, MUTED, ha="left")
    axes = plot(figure, left, top, WIDTH - left - right, bar * len(rows))
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.tick_params(labelbottom=False, length=0)
    axes.set_xlim(0, highest / scale)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for place, row in enumerate(rows):
        rest = (row.peak - row.temporary) / scale
        axes.barh(place, rest, height=0.68, color=RULE)
        axes.barh(place, row.temporary / scale, left=rest, height=0.68, color=BLUE)
        y = top + bar * (place + 0.5)
        parts = f", {row.microbatches} microbatches" if row.microbatches > 1 else ""
        text(board, left - 8, y, f"{row.precision}{parts}{', remat' if row.remat else ''}", BODY, INK, ha="right")
        text(board, WIDTH - right + 8, y, f"{row.peak / scale:.2f} {unit}", BODY, INK, ha="left")
        text(board, WIDTH - 10, y, f"{row.peak / rows[0].peak:.0%}", BODY, MUTED, ha="right")
    return save(figure, path)
