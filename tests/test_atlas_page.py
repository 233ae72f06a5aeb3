"""The atlas's page in a browser, from disk, with as many filters as VGG16 has: 4,224."""

import browser
import numpy as np
import pytest
import tiny

from cnnjax.data.dataset import ArraySplit
from cnnjax.visualize import atlas
from cnnjax.visualize.atlas import page, table
from cnnjax.visualize.atlas.drawing import Pictures

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
WIDTHS = {f"block{b}_conv{c + 1}": width for b, (n, width) in enumerate(BLOCKS, 1) for c in range(n)}
FILTERS = 4224


def row(layer, channel, ratio, width):
    """A made-up row: filter 7 failed and filter 9 is dead."""
    patches = [
        {"image": i % 8, "caption": f"<b>cat</b> {i % 8}", "value": 1.0, "box": (i - 3, i, i + 3, i + 6)}
        for i in range(9)
    ]
    return {
        "layer": layer, "channel": channel, "state": {7: table.FAILED, 9: table.DEAD}.get(channel, table.OK),
        "activation_before": 0.1, "activation_after": ratio, "data_largest": 1.0, "data_p999": 1.0, "ratio_before": 0.1,
        "ratio_after": None if channel == 9 else ratio, "z": 3.0, "rank": channel % 5 + 1, "ranked": width,
        "fires": 2.0, "patches": [] if channel == 9 or channel > 15 else patches,
    }  # fmt: skip


def write(folder, widths, side):
    """A page of made-up results."""
    random = np.random.default_rng(0)
    images = ArraySplit(random.integers(0, 256, (8, 24, 24, 3), dtype=np.uint8), np.zeros(8, np.int32))
    layers, rows, pictures = [], {}, {}
    for name, width in widths.items():
        layers.append(atlas.Layer(name, width, tuple(range(width)), (side, side), (6, 6), (1, 1), (-3, -3)))
        tints = random.integers(0, 256, (width, 1, 1, 3), dtype=np.uint8)
        zeros = np.zeros(width, np.float32)
        pictures[name] = Pictures(
            channels=np.arange(width, dtype=np.int32),
            pixels=np.broadcast_to(tints, (width, side, side, 3)),
            before=zeros,
            means=np.zeros((width, width), np.float32),
            by_unit=zeros > 0,
        )
        ratios = random.lognormal(1, 0.7, width).tolist()
        rows[name] = [row(name, channel, ratio, width) for channel, ratio in enumerate(ratios)]
    return page.write(
        folder,
        network=tiny.network(12),
        layers=layers,
        rows=rows,
        pictures=pictures,
        images=images,
        about={"model": "vgg16", "recipe": "lucid", "steps": 512, "data": "procedural", "images": 8},
        summary=table.summary([one for some in rows.values() for one in some]),
    )


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser.find()
    with browser.Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("atlas"), WIDTHS, 8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("atlas"), {"conv_1": 12, "block/1.conv 2": 12}, 32)


def count(tab):
    return int(tab.evaluate("document.getElementById('count').textContent").split(" of ")[0].replace(",", ""))


def test_thousands_of_filters_are_painted_within_a_second(chromium, path, tmp_path):
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title><p>nothing")
    first_paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"

    def quickest(path):
        return min(browser.Tab(chromium, path).wait(first_paint) for _ in range(3))

    found = quickest(path)
    if found >= 1000 and (empty := quickest(tmp_path / "empty.html")) > 300:
        pytest.skip(f"the machine is busy: a page with nothing on it takes {empty:.0f} ms, too")
    assert found < 1000


def test_thousands_of_filters_are_all_there(chromium, path):
    tab = browser.Tab(chromium, path)
    assert count(tab) == FILTERS
    height = tab.evaluate("document.documentElement.scrollHeight")
    tab.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    tab.wait("[...document.querySelectorAll('.cell')].at(-1).hash === '#block5_conv3/511'")
    tab.wait("[...document.images].at(-1).naturalWidth")
    assert tab.evaluate("document.documentElement.scrollHeight") == pytest.approx(height, rel=0.05)
    tab.evaluate("scrollTo(0, 0); location.hash = '#block5_conv3/511'")
    tab.wait("document.querySelector('dialog').open")
    tab.press("Escape")
    tab.wait("document.activeElement.hash === '#block5_conv3/511'")
    tab.check(path.parent)


def test_every_image_loads(chromium, small):
    tab = browser.Tab(chromium, small)
    assert tab.load_images() == 24
    tab.check(small.parent)


def test_filters_are_found_by_layer_state_score_and_word(chromium, small):
    tab = browser.Tab(chromium, small)

    def choose(field, value):
        changed = "new Event('input', {bubbles: true})"
        tab.evaluate(
            f"(e => {{ e.value = '{value}'; e.dispatchEvent({changed}); }})(document.getElementById('{field}'))"
        )
        tab.evaluate("new Promise(done => setTimeout(done, 200))")
        return count(tab)

    assert choose("layer", "conv_1") == 12
    assert choose("state", str(list(table.STATES).index(table.FAILED))) == 1
    assert tab.evaluate("document.querySelector('.cell').hash") == "#conv_1/7"
    assert choose("state", "") == 12 and choose("layer", "") == 24
    assert choose("score", "1e9") == 0 and choose("score", "") == 24
    assert choose("search", "2 conv_1") == 1
    assert choose("search", "</b>") == 22  # a dead filter has no patches
    assert choose("search", "") == 24
    choose("sort", "score, highest first")
    scores = tab.evaluate("[...document.querySelectorAll('.cell .ratio')].map(e => parseFloat(e.textContent))")
    alive = [score for score in scores if score is not None]
    assert alive == sorted(alive, reverse=True) and scores[-2:] == [None, None]
    tab.check(small.parent)


def test_the_detail_view_and_the_keyboard(chromium, small):
    tab = browser.Tab(chromium, small)
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    assert tab.evaluate("document.activeElement.hash") == "#conv_1/1"
    tab.press("ArrowDown")
    box = "getBoundingClientRect()"
    assert tab.evaluate(f"document.activeElement.{box}.top > document.querySelector('.cell').{box}.bottom")
    tab.press("ArrowUp")
    tab.press("Enter")
    tab.wait("document.querySelector('dialog').open")
    assert tab.evaluate("document.querySelector('#name').firstChild.data") == "conv_1 1"
    assert tab.evaluate("document.querySelectorAll('.nine img').length") == 9
    assert "<b>cat</b>" in tab.evaluate("document.querySelector('.nine').textContent")  # and no markup
    assert "rank 2 of 12" in tab.evaluate("document.querySelector('.facts').textContent")
    tab.press("ArrowRight")
    assert tab.evaluate("location.hash") == "#conv_1/2"
    tab.press("Escape")
    tab.wait("!document.querySelector('dialog').open && location.hash === ''")
    assert tab.evaluate("document.activeElement.hash") == "#conv_1/2"
    tab.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    assert tab.evaluate("document.activeElement.value") == ""
    tab.check(small.parent)


def test_a_link_to_a_filter_opens_it(chromium, small):
    tab = browser.Tab(chromium, small, "#block%2F1.conv%202/11")
    assert tab.wait("document.querySelector('#name')?.firstChild.data") == "block/1.conv 2 11"
    tab.wait("[...document.querySelectorAll('dialog img')].every(image => image.naturalWidth)")
    tab.evaluate("location.hash = '#conv_1/9'")
    tab.wait("document.querySelector('#name').firstChild.data === 'conv_1 9'")
    assert "No image fires it" in tab.evaluate("document.querySelector('dialog').textContent")
    tab.evaluate("location.hash = '#%/no'")  # no such filter
    tab.wait("!document.querySelector('dialog').open")
    tab.check(small.parent)


def test_names_and_roles_for_screen_readers(chromium, small):
    tab = browser.Tab(chromium, small, "#conv_1/3")
    tab.wait("document.querySelector('dialog').open")
    named = "e.getAttribute('aria-label') || e.alt || e.labels?.length || e.textContent.trim()"
    parts = "[...document.querySelectorAll('button, input, select, a, img')]"
    assert tab.evaluate(f"{parts}.length") > 40 and tab.evaluate(f"{parts}.filter(e => !({named})).length") == 0
    assert tab.evaluate("document.documentElement.lang") == "en"
    background = "getComputedStyle(document.body).backgroundColor"
    assert browser.Tab(chromium, small, dark=True).evaluate(background) != tab.evaluate(background)
