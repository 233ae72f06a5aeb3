"""Every figure is written, is small and not blank, and what it shows follows from the arrays."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from cnnjax import figures
from cnnjax.article import worked_examples
from cnnjax.figures import canvas
from cnnjax.figures import worked_examples as drawings
from cnnjax.figures.curves import metric_names

LIMIT = 150_000


class Maps(NamedTuple):
    maps: np.ndarray
    channels: tuple[int, ...]
    blank: np.ndarray


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32)


def check(path: Path, width: int = 760) -> None:
    """A figure is not blank, has the promised width at its resolution, and is small enough for a page."""
    shown = pixels(path)
    assert shown.std() > 5
    with Image.open(path) as image:
        resolution = image.info["dpi"][0]
    assert shown.shape[1] == pytest.approx(width * resolution / 96, abs=2)
    assert path.stat().st_size <= LIMIT


def epochs(count: int, rise: float) -> list[dict]:
    return [
        {
            "epoch": e,
            "train_loss": 0.7 * 0.8**e,
            "valid_loss": 0.5 + rise * abs(e - 2),
            "train_accuracy": 1 - 0.5 * 0.8**e,
            "valid_accuracy": 0.7 + 0.01 * e,
        }
        for e in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def examples() -> worked_examples.WorkedExamples:
    return worked_examples.compute_all(np.random.default_rng(0).random((32, 32, 3), np.float32))


def test_worked_examples_are_drawn(examples, tmp_path):
    paths = drawings.draw_all(examples, tmp_path)
    moving = {"windows": 9, "strides": 25, "padding": 25, "pooling": 4, "dropout": 9}
    assert set(paths) == {
        "operands", "windows", "volume", "maps", "two-maps", "relu", "strides", "padding", "pooling", "pooled",
        "flattened", "descent", "dropout", "receptive-fields", *(f"{name}-moving" for name in moving),
    }  # fmt: skip
    for path in paths.values():
        if path.suffix == ".png":
            check(path)
    for name, frames in moving.items():
        with Image.open(paths[f"{name}-moving"]) as film:
            assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", frames, 0)
            assert film.info["background"] is not None and film.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
            shown = []
            for frame in range(frames):
                film.seek(frame)
                shown.append(np.asarray(film.convert("RGB")))
        assert all((one != other).any() for one, other in itertools.pairwise(shown))
        assert paths[f"{name}-moving"].stat().st_size < 250_000


def test_the_window_is_where_the_frame_says(examples, tmp_path):
    """The green frame of the moving convolution is three cells wide, and goes right, then down."""
    green, corners = np.array([0x3A, 0x8F, 0x6B]), []
    with Image.open(drawings.moving.convolution(examples.convolution, tmp_path / "a.gif")) as film:
        for frame in range(film.n_frames):
            film.seek(frame)
            rows, columns = (np.asarray(film.convert("RGB"), int) == green).all(-1).nonzero()
            corners.append((round(rows.min() / 80 - 0.9), round(columns.min() / 80 - 0.5)))
            assert np.ptp(rows) == pytest.approx(240, abs=8) and np.ptp(columns) == pytest.approx(240, abs=8)
    assert corners == [(row, column) for row in range(3) for column in range(3)]


def test_the_windows_figure_shows_the_map_that_it_is_given(examples, tmp_path):
    before = pixels(drawings.windows.sliding(examples.convolution, tmp_path / "a.png"))
    other = examples.convolution._replace(map=examples.convolution.map + 1)
    assert (before != pixels(drawings.windows.sliding(other, tmp_path / "b.png"))).any()


def test_curves_of_one_and_of_two_runs(tmp_path):
    check(figures.curves({"without": epochs(6, 0.1), "with": epochs(9, 0.0)}, tmp_path / "two.png"))
    check(figures.curves({"without": epochs(1, 0.1)}, tmp_path / "one.png"))


def test_every_other_metric_gets_a_panel(tmp_path):
    rows = [
        row | {"train_top5": 0.9, "valid_top5": 0.8, "valid_entropy": 1.5, "seconds": 2.0} for row in epochs(4, 0.1)
    ]
    names = metric_names({"": rows})
    assert names == ["loss", "accuracy", "top5", "entropy"]
    check(figures.curves(rows, tmp_path / "four.png"))
    check(figures.curves({"a": rows, "b": rows}, tmp_path / "columns.png"))
    with Image.open(tmp_path / "four.png") as four, Image.open(tmp_path / "columns.png") as columns:
        assert four.height / four.width == pytest.approx(580 / 760, abs=0.1)
        assert columns.height / columns.width == pytest.approx(970 / 760, abs=0.1)


def test_curves_without_accuracy_and_with_missing_values(tmp_path):
    rows = [{"epoch": e, "train_loss": 1 / e, "valid_loss": 1.1 / e} for e in range(1, 4)]
    rows[0] |= {"valid_error": float("nan")}
    check(figures.curves(rows, tmp_path / "curves.png"))


def drawn(rows, monkeypatch, tmp_path):
    """The plots of a figure of curves, before it is saved."""
    kept = []
    monkeypatch.setattr(sys.modules["cnnjax.figures.curves"], "save", lambda figure, path: kept.append(figure) or path)
    figures.curves(rows, tmp_path / "curves.png")
    return kept[0].axes[1:]


def texts(plot):
    return [one.get_text() for one in plot.texts]


def test_one_epoch_is_two_dots_with_their_numbers_inside_the_plot(monkeypatch, tmp_path):
    rows = [{"epoch": 1, "train_loss": 0.7, "valid_loss": 0.69, "train_accuracy": 0.51, "valid_accuracy": 0.5}]
    loss, accuracy = drawn(rows, monkeypatch, tmp_path)
    assert texts(loss) == ["0.70", "0.69"] and texts(accuracy) == ["51.0%", "50.0%"]
    assert loss.get_xlim() == (0.5, 1.5) and list(loss.get_xticks()) == [1]
    for plot in (loss, accuracy):
        for one in plot.texts:
            box = one.get_window_extent()
            assert plot.bbox.y0 < box.y0 and box.y1 < plot.bbox.y1


@pytest.mark.parametrize("count", [2, 3, 30])
def test_a_very_high_first_loss_is_cut_off_and_said(count, monkeypatch, tmp_path):
    rows = [dict(row, train_loss=0.5, valid_loss=0.8) for row in epochs(count, 0.1)]
    rows[0]["train_loss"] = 6.7
    loss = drawn(rows, monkeypatch, tmp_path)[0]
    assert 0.8 < loss.get_ylim()[1] < 2 and "↑ 6.7 in epoch 1" in texts(loss)
    rows[0]["train_loss"] = 2.0
    loss = drawn(rows, monkeypatch, tmp_path)[0]
    assert loss.get_ylim()[1] > 2 and len(loss.texts) == 1


def test_the_number_of_a_curve_does_not_cover_it(monkeypatch, tmp_path):
    heights = [0.9, 0.5, 0.52, 0.55, 0.5, 0.58]
    rows = [
        {"epoch": e, "train_loss": v - 0.02, "valid_loss": v + 0.01 * (e != 2)} for e, v in enumerate(heights, start=1)
    ]
    (loss,) = drawn(rows, monkeypatch, tmp_path)
    (label,) = loss.texts
    box = label.get_window_extent()
    for line in (line for line in loss.lines if len(line.get_xdata()) == 6):
        places = np.linspace(1, 6, 500)
        dots = loss.transData.transform(np.stack([places, np.interp(places, *line.get_data())], axis=1))
        assert not [dot for dot in dots if box.contains(*dot)]


def test_a_heading_moves_the_images_down(tmp_path):
    grey = [np.full((4, 4, 3), 90, np.uint8)] * 2
    plain, headed = (figures.image_grid(grey, ["a", "b"], tmp_path / f"{n}.png", heading=n) for n in ("", "conv_3"))
    assert (pixels(headed)[56:] == pixels(plain)).all()


def test_images_keep_their_order_and_inactive_ones_are_hatched(tmp_path):
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    path = figures.image_grid(
        [red, blue, red], ["", "", ""], tmp_path / "grid.png", columns=3, inactive=[False, False, True]
    )
    row = pixels(path)[100]
    third = row.shape[0] // 3
    assert row[third // 2].tolist() == [255, 0, 0]
    assert row[third + third // 2].tolist() == [0, 0, 255]
    assert row[2 * third + third // 4].min() > 150


def test_images_of_any_shape_keep_their_aspect(tmp_path):
    wide = np.zeros((8, 16, 1), np.float32)
    path = figures.image_grid(
        [wide, wide[..., 0], np.zeros((16, 8, 3), np.uint8)], [""] * 3, tmp_path / "a.png", columns=3
    )
    dark = pixels(path).max(axis=2) < 128
    side = dark.shape[1] / 3
    first, last = dark[:, : int(side)], dark[:, int(2 * side) :]
    assert first.any(axis=1).sum() == pytest.approx(first.any(axis=0).sum() / 2, abs=3)
    assert last.any(axis=0).sum() == pytest.approx(last.any(axis=1).sum() / 2, abs=3)


def test_photographs_stay_small(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    check(figures.image_grid(list(noise), [f"noise {i}" for i in range(12)], tmp_path / "noise.png"))


def test_feature_maps(tmp_path):
    random = np.random.default_rng(2)

    def layer(side, blank):
        maps = random.integers(0, 256, (4, side, side), dtype=np.uint8)
        return Maps(maps, (3, 5, 8, 9), np.asarray(blank))

    maps = {"block1_conv1": layer(16, [False] * 4), "block2_conv1": layer(8, [True, True, False, False])}
    check(figures.feature_map_grid(maps, tmp_path / "maps.png"))
    check(figures.maps_in_a_row(maps, tmp_path / "row.png", random.integers(0, 256, (20, 20, 3), dtype=np.uint8)))
    alone = {"block1_conv1": Maps(*(values[:1] for values in maps["block1_conv1"]))}
    check(figures.feature_map_grid(alone, tmp_path / "alone.png"), width=380)


def test_heat_maps_lie_over_their_images(tmp_path):
    grey = np.full((12, 16, 3), 0.5)
    heat = np.zeros((12, 16))
    heat[:, 8:] = 1.0
    mixed = figures.overlays.overlay(grey, heat)
    assert mixed.shape == (12, 16, 3) and mixed[0, 0].max() < 0.25 and mixed[0, -1].min() > 0.5
    shades = [
        figures.overlays.overlay(np.full((1, 1, 1), value, np.uint8), np.array([[0.3]]))[0, 0] for value in (0, 255)
    ]
    np.testing.assert_allclose(shades[1] - shades[0], 0.4)
    check(figures.heat_overlay([grey] * 5, [heat] * 5, list("abcde"), tmp_path / "heat.png"))
    narrow = figures.heat_overlay([np.uint8(grey * 255)[..., :1]], [heat], (), tmp_path / "one.png")
    check(narrow, width=300)


def test_text_has_the_lines_that_it_is_given_and_no_others():
    _, board = canvas.sheet(100, 40)
    canvas.text(board, 5, 5, ("guided-", "backpropagation"))
    canvas.text(board, 5, 20, "a\nname")
    assert [drawn.get_text() for drawn in board.texts] == ["guided-\nbackpropagation", "a\\nname"]


def test_augmented_samples(tmp_path):
    random = np.random.default_rng(3)
    check(
        figures.augmented_samples(random.random((24, 24, 3)), list(random.random((8, 24, 24, 3))), tmp_path / "a.png")
    )


def test_probabilities_are_sorted(tmp_path):
    bars = pixels(figures.probabilities(["cat", "dog"], [0.1, 0.9], tmp_path / "bars.png"))
    upper, lower = np.split(bars, 2)
    blue = [(half[..., 2] - half[..., 0] > 20).sum() for half in (upper, lower)]
    assert blue[0] > 3 * blue[1]


@pytest.mark.parametrize(("count", "marked"), [(4, ()), (16, ("block1_conv1",))])
def test_architecture(count, marked, tmp_path):
    shapes = {f"block{i + 1}_conv1": (32 >> i // 4, 32 >> i // 4, 8 * (1 + i // 4)) for i in range(count)}
    shapes |= {"block9_pool": (2, 2, 32), "flatten": (128,), "dropout": (128,), "predictions": (10,)}
    check(figures.architecture(shapes, tmp_path / "net.png", (32, 32, 3), marked))


@pytest.mark.parametrize("slowest_rate", [30.0, 2.0], ids=["linear", "logarithmic"])
def test_growth_has_a_panel_an_axis(slowest_rate, tmp_path):
    def points(who: str, values: tuple[int, ...], rate: float) -> list[SimpleNamespace]:
        rates = {"median": rate, "slowest": 0.9 * rate, "fastest": 1.1 * rate}
        return [SimpleNamespace(who=who, value=value, **rates) for value in values]

    both = points("cnnjax", (8, 16, 32), 100.0) + points("somebody", (8, 16, 32), slowest_rate)
    path = figures.growth({"images per step": both, "devices": points("cnnjax", (1,), 90.0)}, tmp_path / "growth.png")
    check(path)
    red = (np.abs(pixels(path) - (0xC8, 0x55, 0x3D)).max(axis=2) < 12).any(axis=0)
    assert red[: red.size // 2].any() and not red[int(0.55 * red.size) :].any()  # the other is in the first panel only


def test_figures_do_not_depend_on_the_article():
    code = "import sys, cnnjax.figures; sys.exit(any(name.startswith('cnnjax.article') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_matplotlib_is_imported_only_by_figures():
    modules = "cnnjax, cnnjax.article.worked_examples, cnnjax.article.captions, cnnjax.article.report"
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    package = Path(figures.__file__).parent
    importers = [
        p for p in package.parent.rglob("*.py") if "import matplotlib" in p.read_text() and package not in p.parents
    ]
    assert importers == []
