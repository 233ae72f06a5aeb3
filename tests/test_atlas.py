"""The atlas of a tiny network: statistics against NumPy, patches, states, resumption, and one program a layer."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from locks import locked_elsewhere
from PIL import Image

from cnnjax.cli import atlas as command
from cnnjax.data import normalize
from cnnjax.data.dataset import ArraySplit
from cnnjax.errors import UserError
from cnnjax.visualize import ascent, atlas, fingerprint, objectives
from cnnjax.visualize.atlas import kernels, page, patches, sheets, statistics, store, table
from cnnjax.visualize.atlas.drawing import (
    Drawing,
    Pictures,
    draw_layer,
    draw_units,
    missing_channels,
    silent_channels,
)
from cnnjax.visualize.atlas.selection import choose_layers
from cnnjax.visualize.recipes import recipe
from cnnjax.visualize.render import render

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE, COUNT = 12, 21
LAYERS = {"conv_1": 4, "conv_2": 5}
SETTINGS = {"recipe": "quick", "steps": 4, "batch_size": 2}


@pytest.fixture(scope="module")
def network():
    # Channel 3 of conv_1 never fires.
    return tiny.network(SIZE, bias_1=np.array([0.1, 0.0, -0.1, -1e3]))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    return ArraySplit(pixels, np.zeros(COUNT, np.int32))


@pytest.fixture(scope="module")
def activations(network, images):
    found = jax.jit(lambda network, images: network(images)[1])(network, images.images)
    return {layer: np.asarray(found[layer], np.float64) for layer in LAYERS}


@pytest.fixture(scope="module")
def found(network, images):
    return statistics.collect(network, images, LAYERS, batch_size=8, devices=jax.devices()[:1])


@pytest.mark.parametrize("layer", LAYERS)
def test_statistics_are_those_of_all_images_at_once(found, activations, layer):
    one, maps = found[layer], activations[layer]
    means = maps.mean(axis=(1, 2))
    assert float(one.count) == COUNT
    for ours, theirs in (
        (one.mean, means.mean(axis=0)),
        (one.deviation, means.std(axis=0)),
        (one.lowest, maps.min(axis=(0, 1, 2))),
        (one.highest, maps.max(axis=(0, 1, 2))),
        (one.means[:, 0], means.max(axis=0)),
        (one.quantile, np.quantile(means, 0.999, axis=0)),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    units = maps.reshape(COUNT, -1, maps.shape[-1])
    order = np.argsort(-units.max(axis=1), axis=0, kind="stable")[:9].T
    alive = one.highest > 0
    np.testing.assert_array_equal(one.patch_images[alive], order[alive])
    np.testing.assert_array_equal(
        one.patch_units[alive], np.take_along_axis(units.argmax(axis=1).T, order, axis=1)[alive]
    )


@pytest.mark.parametrize("count", [1, 2, 1000, 1002, 3500])
def test_the_kept_values_are_enough_for_the_quantile(count):
    values = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    kept = statistics.init(3, count).means.shape[1]
    top = -np.sort(-values, axis=0)[:kept].T
    one = statistics.init(3, count)
    one = type(one)(**(vars(one) | {"count": np.array(count, np.float32), "means": top}))
    np.testing.assert_allclose(one.quantile, np.quantile(values, 0.999, axis=0), rtol=1e-5)
    assert kept <= 2 + count / 1000


def test_eight_devices_find_what_one_finds_by_one_program(network, images, found):
    statistics.add_batch.clear_cache()
    eight = statistics.collect(network, images, LAYERS, batch_size=16)
    assert statistics.add_batch._cache_size() == 1
    for layer in LAYERS:
        for name, values in vars(found[layer]).items():
            np.testing.assert_allclose(getattr(eight[layer], name), values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_lies_outside_of_a_patch_does_not_matter(network, images, found):
    layers = {layer.name: layer for layer in choose_layers(network)}
    run = jax.jit(lambda network, images, layer: network(images)[1][layer], static_argnums=2)
    generator = np.random.default_rng(1)
    for name in LAYERS:
        width = run(network, images.images[:1], name).shape[2]
        best = patches.find(layers[name], found[name], 1, (SIZE, SIZE), width, str)
        assert len({patch.image for patch in best}) == len(best) == 9
        assert [patch.value for patch in best] == sorted((patch.value for patch in best), reverse=True)
        for patch in best[:3]:
            top, left, bottom, right = patch.box
            changed = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
            changed[rows, columns] = images.images[patch.image][rows, columns]
            value = run(network, changed[None], name)[0, patch.row, patch.column, 1]
            np.testing.assert_allclose(value, patch.value, rtol=1e-5)
            shown = patches.crop(images.images[patch.image], patch.box)
            assert shown.shape == (bottom - top, right - left, 3)
            inside = shown[max(-top, 0) :, max(-left, 0) :][: SIZE - max(top, 0), : SIZE - max(left, 0)]
            np.testing.assert_array_equal(inside, images.images[patch.image][rows, columns])


def test_padding_is_striped():
    shown = patches.crop(np.full((4, 4, 3), 7, np.uint8), (-2, 2, 2, 6))
    assert (shown[2:, :2] == 7).all() and set(np.unique(shown)) == {7, 96, 160}


def test_a_field_as_large_as_the_image_is_the_whole_image():
    layer = atlas.Layer("deep", 1, (0,), (8, 8), (9, 5), (4, 4), (-3, -3))
    assert patches.box(layer, 1, 1, (8, 8)) == (0, 1, 8, 6)


@pytest.mark.parametrize(
    ("before", "after", "fires", "rectified", "expected"),
    [
        (1.0, 2.0, True, True, table.OK),
        (0.0, 2.0, True, True, table.SILENT),
        (-1.0, 2.0, True, True, table.SILENT),  # measured before its relu
        (0.0, 0.0, True, True, table.FAILED),
        (0.0, 0.0, False, True, table.DEAD),
        (0.0, 3.0, False, True, table.DEAD),
        (-2.0, -1.0, True, False, table.OK),
        (-1.0, -2.0, True, False, table.FAILED),
    ],
)
def test_states(before, after, fires, rectified, expected):
    assert table.state(before, after, fires, rectified) == expected
    by_unit = table.UNIT if expected in (table.OK, table.SILENT) else expected
    assert table.state(before, after, fires, rectified, by_unit=True) == by_unit


def test_ratio_z_and_rank_follow_from_data(found, activations):
    layer = atlas.Layer("conv_2", 5, (1, 3), (SIZE, SIZE), None, None, None)
    means = np.random.default_rng(3).uniform(0, 2, (2, 5)).astype(np.float32)
    pictures = Pictures(
        np.array([1, 3], np.int32),
        np.zeros((2, SIZE, SIZE, 3), np.uint8),
        np.array([0.5, 0.0], np.float32),
        means,
        np.zeros(2, bool),
    )
    rows = table.rows(layer, found["conv_2"], pictures, {})
    data = activations["conv_2"].mean(axis=(1, 2))
    scores = (means - data.mean(axis=0)) / data.std(axis=0)
    for row, mean, score in zip(rows, means, scores, strict=True):
        channel = row["channel"]
        p999 = np.quantile(data[:, channel], 0.999)
        np.testing.assert_allclose(row["ratio_after"], mean[channel] / p999, rtol=1e-4)
        np.testing.assert_allclose(row["z"], score[channel], rtol=1e-3)
        assert row["rank"] == list(np.argsort(-score)).index(channel) + 1
    figures = table.summary(rows)
    assert figures["filters"] == 2 and figures[table.SILENT] == 1
    assert figures["median_ratio"] == pytest.approx(np.median([row["ratio_after"] for row in rows]))


def test_a_filter_that_its_picture_leaves_silent_is_drawn_for_one_unit(tmp_path, network, images):
    """A network of one convolution with weights by hand: its channel 1 fires at single pixels of the data alone."""
    rare = tiny.network(SIZE, bias_1=np.array([0.1, -0.05, -0.1, 0.0]))
    layer = next(one for one in choose_layers(rare, ("conv_1",)))
    one = statistics.collect(rare, images, {"conv_1": 4}, batch_size=8, devices=jax.devices()[:1])["conv_1"]
    assert (np.asarray(one.highest) > 0).all()
    kept, drawing = store.Store(tmp_path / "filters", {}), Drawing(recipe("quick"), batch_size=3)
    first = draw_layer(rare, layer, drawing, kept)
    # As if the pictures of two filters had left them silent.
    means = np.array(first.means)
    means[[1, 3], [1, 3]] = 0
    assert silent_channels(one, first._replace(means=means)) == [1, 3]
    assert silent_channels(one, first._replace(means=means, by_unit=np.ones(4, bool))) == []
    second = draw_units(rare, layer, drawing, kept, [1, 3])
    assert second.by_unit.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(second.before, first.before)
    np.testing.assert_array_equal(second.pixels[[0, 2]], first.pixels[[0, 2]])
    expected = render(
        rare, objectives.neuron("conv_1", [1, 3]), recipe=recipe("quick"), image_size=layer.image_size, batch_size=2
    )
    for i, image in zip((1, 3), expected, strict=True):
        assert np.abs(second.pixels[i].astype(int) - image.pixels).max() <= 1
    rows = table.rows(layer, one, second, {})
    assert {rows[1]["state"], rows[3]["state"]} <= {table.UNIT, table.FAILED}
    assert missing_channels(layer, kept) == []


class Killed(Exception):
    pass


def build(network, images, folder, watch=None, **changes):
    data = atlas.Data(images, "noise", lambda number: f"image {number}")
    return atlas.build(network, data, folder, **(SETTINGS | {"watch": watch} | changes))


@pytest.fixture(scope="module")
def built(network, images, tmp_path_factory):
    ascent.advance.clear_cache()
    folder = tmp_path_factory.mktemp("atlas")
    return folder, build(network, images, folder), ascent.advance._cache_size()


def test_one_program_for_each_layer(built):
    assert built[2] == len(LAYERS)  # although conv_2's five filters are drawn two at a time


def test_devices_and_batches_change_nothing(network, images, built, tmp_path):
    """Eight filters at a time are shared out among eight devices, one at a time is drawn by one device."""
    wide = tiny.network(SIZE)
    wide = wide.replace(
        params=wide.params
        | {"kernel_1": np.tile(wide.params["kernel_1"], 2), "bias_1": np.tile(wide.params["bias_1"], 2)}
        | {"kernel_2": np.concatenate([wide.params["kernel_2"]] * 2, axis=2)}
    )
    for size in (1, 8):
        build(wide, images, tmp_path / str(size), layers=("conv_1",), batch_size=size)
    one, eight = (
        [json.loads(line) for line in (tmp_path / str(size) / "filters.jsonl").read_text().splitlines()]
        for size in (1, 8)
    )
    assert len(one) == len(eight) == 8
    for a, b in zip(one, eight, strict=True):
        assert a["state"] == b["state"] and a["patches"] == b["patches"]
        for name in ("activation_before", "activation_after", "data_p999", "z"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_the_table_has_every_filter(built):
    folder, result, _ = built
    rows = [json.loads(line) for line in (folder / "filters.jsonl").read_text().splitlines()]
    assert [(row["layer"], row["channel"]) for row in rows] == [(n, c) for n, k in LAYERS.items() for c in range(k)]
    assert rows[3]["state"] == table.DEAD and rows[3]["patches"] == [] and rows[3]["rank"] is None
    assert rows[0]["patches"][0]["caption"].startswith("image ")
    assert json.loads(json.dumps(result.rows)) == rows
    assert json.loads((folder / "summary.json").read_text())["summary"] == result.summary


def test_a_killed_run_goes_on_where_it_stopped(network, images, built, tmp_path):
    drawn = []

    def watch(title, total, unit):
        def tick(done):
            if unit == "steps":
                drawn.append((title, total))
                if title == "conv_2" and len(list((tmp_path / "filters").glob("conv_2*.npz"))) == 1:
                    raise Killed

        return tick

    with pytest.raises(Killed):
        build(network, images, tmp_path, watch)
    assert not (tmp_path / "index.html").exists()
    drawn.clear()
    (tmp_path / "filters" / "conv_1@00000.npz").write_bytes(b"damaged")
    titles = {}

    def note(title, total, unit):
        titles[title] = total
        return lambda done: None

    result = build(network, images, tmp_path, note)
    assert titles == {"conv_1": 2 * 4, "conv_2": 3 * 4}  # no statistics, and only what is missing
    folder, expected, _ = built
    assert result.rows == expected.rows
    for name in ("filters.jsonl", "atlas.js"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    for path in (folder / "sheets").iterdir():
        assert (tmp_path / "sheets" / path.name).read_bytes() == path.read_bytes()


def test_a_call_that_was_refused_binds_nobody(network, images, tmp_path):
    with pytest.raises(UserError, match="seed=.* is no seed of its own"):
        build(network, images, tmp_path, seed=2**40)
    assert not list(tmp_path.iterdir())
    store.Store(tmp_path, {"steps": 5})
    kept = store.Store(tmp_path, {"steps": 6})
    kept.save("conv_1", {"a": np.zeros(1)})
    with pytest.raises(UserError, match="steps=7 instead of 6"):
        store.Store(tmp_path, {"steps": 7})


def test_two_processes_do_not_share_a_folder(network, images, tmp_path):
    refused = pytest.raises(UserError, match="a is in use by the process 4711: .* another folder")
    with locked_elsewhere(tmp_path / "a"), refused:
        build(network, images, tmp_path / "a", layers=("conv_1",), filters_per_layer=1)
    build(network, images, tmp_path / "a", layers=("conv_1",), filters_per_layer=1)
    assert not (tmp_path / "a" / ".lock").exists()


def test_other_settings_are_refused_and_more_filters_are_added(network, images, tmp_path):
    few = build(network, images, tmp_path, layers=("conv_1",), filters_per_layer=2)
    assert len(few.rows) == 2
    with pytest.raises(UserError, match=r"seed=1 instead of 0\): choose another folder, or fresh=True"):
        build(network, images, tmp_path, layers=("conv_1",), seed=1)
    other = ArraySplit(images.images[1:], images.labels[1:])
    with pytest.raises(UserError, match="number=20 instead of 21"):
        build(network, other, tmp_path, layers=("conv_1",))
    darker = network.replace(normalizer=normalize.caffe())
    with pytest.raises(UserError, match="preprocessing="):
        build(darker, images, tmp_path, layers=("conv_1",))
    namesake = replace(recipe("lucid"), optimizer=optax.adam(0.1))
    with pytest.raises(UserError, match="recipe_sha256="):
        build(network, images, tmp_path, layers=("conv_1",), recipe=namesake)
    for damaged in ("null", "[]", "{"):
        (tmp_path / "filters" / "settings.json").write_text(damaged)
        with pytest.raises(UserError, match="was computed with other settings"):
            build(network, images, tmp_path, layers=("conv_1",))
    shutil.rmtree(tmp_path / "filters")
    more = build(network, images, tmp_path, layers=("conv_1",), filters_per_layer=3)
    assert more.rows[:2] == few.rows and len(more.rows) == 3
    again = build(network, images, tmp_path, layers=("conv_1",), filters_per_layer=2, seed=1, fresh=True)
    assert [row["activation_before"] for row in again.rows] != [row["activation_before"] for row in few.rows]


def test_what_cannot_be_drawn_is_refused(network, images, tmp_path):
    with pytest.raises(UserError, match="has no maps"):
        choose_layers(network, ("predictions",))
    with pytest.raises(UserError, match="filters_per_layer=0"):
        choose_layers(network, (), 0)
    with pytest.raises(UserError, match="batch_size=0"):
        build(network, images, tmp_path, batch_size=0)
    grey = ArraySplit(images.images[..., :1], images.labels)
    with pytest.raises(UserError, match="the images have 1 channels and the network takes 3"):
        build(network, grey, tmp_path)
    with pytest.raises(UserError, match="no images"):
        build(network, ArraySplit(images.images[:0], images.labels[:0]), tmp_path)


def test_layers_are_those_with_maps_and_parameters(network):
    chosen = choose_layers(network)
    assert [(layer.name, layer.channels) for layer in chosen] == list(LAYERS.items())  # without pool_1
    assert choose_layers(network, ("pool_1",))[0].field == (4, 4)
    assert (chosen[1].field, chosen[1].stride, chosen[1].start) == ((8, 8), (2, 2), (-3, -3))


def test_kernels_are_grey_where_they_are_zero(network):
    kernel = np.asarray(network.params["kernel_1"])
    named = network.replace(params={"conv_1": {"kernel": kernel}, **network.params})
    first, second = choose_layers(network)
    shown = kernels.kernel_pictures(named, first)
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    np.testing.assert_allclose(shown, np.moveaxis(127.5 + 127.5 * kernel / largest, -1, 0), atol=0.51)
    assert kernels.kernel_pictures(network, second) is None


def test_only_kernels_that_see_the_image_are_pictures():
    """Not a later one that has as many inputs as the image has channels, nor one inside of a layer."""

    class Narrow(nnx.Module):
        def __init__(self, rngs):
            self.first, self.later = nnx.Conv(3, 3, (3, 3), rngs=rngs), nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.several = nnx.Sequential(nnx.Conv(4, 3, (1, 1), rngs=rngs), nnx.Conv(3, 8, (1, 1), rngs=rngs))

        def __call__(self, images):
            return self.several(nnx.relu(self.later(nnx.relu(self.first(images))))).mean(axis=(1, 2))

    network = tiny.flax(Narrow(nnx.Rngs(0)), (12, 12))
    layers = choose_layers(network, ("first", "later", "several", "several.layers.0", "several.layers.1"))
    shown = [layer.name for layer in layers if kernels.kernel_pictures(network, layer) is not None]
    assert shown == ["first"] and len(layers) == 5


def test_sheets_keep_small_tiles_exactly(tmp_path):
    tiles = list(np.random.default_rng(0).integers(0, 256, (700, 5, 9, 3), dtype=np.uint8))
    found = sheets.write(tiles, tmp_path / "sheets", "layer")

    per = found.columns * found.rows
    for i in (0, 1, per - 1, per, 699):
        sheet = np.asarray(Image.open(tmp_path / found.files[i // per]).convert("RGB"))
        row, column = divmod(i % per, found.columns)
        np.testing.assert_array_equal(sheet[5 * row : 5 * row + 5, 9 * column : 9 * column + 9], tiles[i])
    assert sheet.shape[0] == 5 * found.last_rows


def test_grey_and_many_channels_are_shown_as_rgb():
    grey = np.full((2, 2, 1), 9, np.uint8)
    assert sheets.rgb(grey).shape == (2, 2, 3)
    assert sheets.rgb(np.zeros((2, 2, 5), np.uint8)).shape == (2, 2, 3)
    assert page.to_uint8(np.full((1, 1, 3), 0.5, np.float32)).tolist() == [[[128] * 3]]


def test_names_of_layers_make_different_files(tmp_path):
    assert store.slug("layer4.0/conv@2") == "layer4.0~2f~conv~40~2" != store.slug("layer4.0_conv_2")
    assert store.slug("a 19") != store.slug("a’")


def test_without_a_terminal_a_line_says_what_is_done(capsys):
    with command.Bars() as bars:
        for done in (5, 1200 - 5):
            bars("conv_1", 1200, "steps")(done)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == ["conv_1: 1,200 steps"] * 2
    with pytest.raises(KeyboardInterrupt), command.Bars() as bars:
        bars("conv_2", 3, "steps")
        raise KeyboardInterrupt
    assert capsys.readouterr().out == ""  # it was not done


def test_a_flipped_bit_in_a_stored_file_is_noticed(tmp_path):
    kept = store.Store(tmp_path / "part", {})
    arrays = {"ab": np.arange(6, dtype=np.float32), "c": np.zeros((2, 3), np.uint8)}
    kept.save("x", arrays)
    whole = (tmp_path / "part" / "x.npz").read_bytes()
    damaged = 0
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "part" / "x.npz").write_bytes(changed)
        found = kept.load("x")
        damaged += found is None
        if found is not None and set(found) == set(arrays):  # a bit that says nothing, such as of the date
            assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert damaged > 4 * len(whole)


def test_recipes_are_told_apart_by_what_their_functions_hold():
    def described(rate):
        return fingerprint.describe(replace(recipe("lucid"), optimizer=optax.adam(rate)))

    assert described(0.05) == described(0.05) == fingerprint.describe(recipe("lucid"))
    assert described(0.05) != described(0.1) and " at 0x" not in described(0.05)
    assert fingerprint.describe({"a": np.arange(3)}) != fingerprint.describe({"a": np.arange(1, 4)})
