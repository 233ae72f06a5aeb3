"""The page of made-up results: complete, self-contained, and with sentences that follow from its numbers."""

import base64
import copy
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import browser
import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import figures
from cnnjax.article import captions, report, worked_examples
from cnnjax.article.training import TrainingRun
from cnnjax.data import normalize
from cnnjax.data.augment import Augment
from cnnjax.errors import UserError
from cnnjax.figures import worked_examples as drawings
from cnnjax.visualize import films
from cnnjax.visualize.feature_maps import FeatureMaps

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LAYERS = tuple(f"block{b}_conv1" for b in range(1, 6))
CLASSES = ("rabbit", "crocodile", "starfish", "husky")
VOID = {"br", "img", "meta", "link", "hr", "input", "source"}
SECTIONS = (
    "1 Introduction", "2 Architecture", "2.1 Convolution", "2.2 Non-linearity", "2.3 Stride and padding", "2.4 Pooling",
    "2.5 Hyperparameters", "2.6 Fully connected", "2.7 Training", "3 Intuition", "4 Implementation", "4.1 Dropout",
    "4.2 Model performance", "4.3 Data augmentation", "4.4 Updated model", "5 VGG model", "6 Visualization",
    "6.1 Visualizing feature maps",
    "6.2 Visualizing convnet filters", "6.3 Visualizing class outputs", "6.4 Attribution",
    "7 Conclusion", "8 How this page was made",
)  # fmt: skip


class Page(HTMLParser):
    """Tags that are opened and closed in order, headings, images, links and everything that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict] = []
        self.stills: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if tag in ("h2", "h3"):
            self.headings.append("")
        if tag == "a":
            self.anchors.append(attrs["href"])
        elif "href" in attrs:
            self.loads.append(attrs["href"])
        self.loads += [attrs[name] for name in ("src", "srcset") if name in attrs]
        if tag == "source":
            assert attrs["media"] == "(prefers-reduced-motion: reduce)"
            self.stills.append(attrs["srcset"])
        if "id" in attrs:
            self.ids.append(attrs["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.words.append(data)
        if {"h2", "h3"} & set(self.open):
            self.headings[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def history(epochs: int, overfit: bool, accuracy: float) -> list[dict]:
    rows = []
    for e in range(1, epochs + 1):
        valid = 0.45 + 0.3 / e + (0.04 * max(0, e - 5) if overfit else 0.0)
        rows.append(
            {
                "epoch": e, "step": 100 * e, "train_loss": 0.7 * 0.8**e, "train_accuracy": 1 - 0.45 * 0.8**e,
                "valid_loss": valid, "valid_accuracy": accuracy - 0.2 / e, "images_per_second": 100.0, "seconds": 2.0,
            }
        )  # fmt: skip
    return rows


def network(size: int, parameters: int, layers: tuple[str, ...]) -> dict:
    rows = []
    for i, layer in enumerate(layers):
        small = size >> (i + 1)
        shape = [small, small, 8] if small else [16]
        rows.append(
            {
                "layer": layer,
                "shape": shape,
                "parameters": 100 * i,
                "flops": 2000 * i,
                "receptive_field": (3 + i, 3 + i),
            }
        )
    return {"image_size": [size, size], "parameters": parameters, "rows": rows}


def run_record(batch_size: int, augment: Augment | None) -> dict:
    run = TrainingRun(64, 1000, 500, epochs=20, batch_size=batch_size, augment=augment, seed=0)
    return run.record()


def fake_results(folder: Path) -> dict:
    """Everything that the page needs, from made-up numbers; the figures are drawn into the folder."""
    random = np.random.default_rng(0)

    def images(count, side=32):
        return random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)

    photo = np.asarray(jax.random.uniform(jax.random.key(0), (32, 32, 3)), np.float32)
    worked = worked_examples.compute_all(photo)
    maps, raw = {}, {}
    for i, layer in enumerate(LAYERS):
        side = 32 >> i
        raw[layer] = np.maximum(random.normal(-0.4 * i, 1, (side, side, 8)), 0)
        raw[layer][..., : i // 2] = 0
        shown = random.integers(0, 256, (8, side, side), dtype=np.uint8)
        blank = np.arange(8) < i // 2
        maps[layer] = FeatureMaps(shown, tuple(range(8)), blank, raw[layer].mean((0, 1)), raw[layer].max((0, 1)))
    drawn = folder / "figures"
    runs = {
        "plain": {"history": history(20, True, 0.745), "config": run_record(20, None)},
        "augmented": {"history": history(30, False, 0.823), "config": run_record(32, Augment())},
    }
    for run, test in zip(runs.values(), (0.731, 0.817), strict=True):
        run |= {"test": {"loss": 0.5, "accuracy": test}, "seconds": 75.2, "digest": "ab" * 32}
    slots = drawings.draw_all(worked, drawn)
    titles = {"without augmentation": runs["plain"]["history"], "with augmentation": runs["augmented"]["history"]}
    small = {"conv_1": (32, 32, 8), "maxpool_1": (16, 16, 8), "flatten": (2048,), "dense_1": (64,), "output": (1,)}
    vgg = {f"block{1 + i // 3}_conv{1 + i % 3}": (32 >> i // 3, 32 >> i // 3, 8) for i in range(15)} | {"fc1": (64,)}
    slots |= {
        "small-network": figures.architecture(small, drawn / "small.png", (32, 32, 3)),
        "vgg-network": figures.architecture(vgg, drawn / "vgg.png", (32, 32, 3), marked=LAYERS),
        "dataset": figures.image_grid(images(8), ["cat", "dog"] * 4, drawn / "data.png", columns=8),
        "curves": figures.curves(titles, drawn / "curves.png"),
        "curves-plain": figures.curves(dict(list(titles.items())[:1]), drawn / "plain.png"),
        "augmented": figures.augmented_samples(images(1)[0], images(8), drawn / "augmented.png"),
        "photo": figures.image_grid(images(1), [""], drawn / "photo.png", columns=1, width=380),
        "map-alone": figures.feature_map_grid(
            {LAYERS[0]: FeatureMaps(*(values[:1] for values in maps[LAYERS[0]]))}, drawn / "alone.png"
        ),
        "feature-maps": figures.feature_map_grid(maps, drawn / "maps.png"),
        "maps-in-a-row": figures.maps_in_a_row(maps, drawn / "row.png", images(1)[0]),
        "classes": figures.image_grid(images(4), CLASSES, drawn / "classes.png"),
        "cat-dog": figures.image_grid(images(2), ["cat", "dog"], drawn / "cat-dog.png", columns=2, width=500),
        "prediction": figures.probabilities(["cat", "dog", "rabbit"], [0.6, 0.3, 0.1], drawn / "prediction.png"),
    }
    slots |= {
        "article-recipe": figures.image_grid(images(4), list("abab"), drawn / "article-recipe.png", columns=2),
        "ascent": films.Film(images(3)).save(drawn / "ascent.gif"),
        "attribution": figures.attribution_sheet(
            list(images(1)),
            {"gradient": [np.eye(32)], "grad-cam": [np.ones((32, 32))]},
            ["cat"],
            drawn / "attribution.png",
        ),
    }
    origin = {"weights": "cd" * 32, "model": "vgg16", "image_size": [32, 32], "recipe": "quick", "steps": 80, "seed": 0}
    origin |= {"input": "RGB in 0 to 1"}
    filters = {}
    for layer in ("block1_conv2", "block5_conv3"):
        filters[layer] = [
            origin | {"kind": "filter", "layer": layer, "channel": c, "activation_before": 0.1,
                      "activation_after": 0.0 if c == 7 else 2.5, "inactive": c == 7}
            for c in range(8)
        ]  # fmt: skip
        slots[f"filters/{layer}"] = figures.image_grid(
            images(8), [str(c) for c in range(8)], drawn / f"{layer}.png", inactive=[c == 7 for c in range(8)]
        )
    classes = [
        origin | {"kind": "class", "class": name, "class_index": i, "activation_before": -1.0, "activation_after": 9.0,
                  "probability_before": 0.01, "probability_after": 0.97, "top1": name}
        for i, name in enumerate(CLASSES)
    ]  # fmt: skip
    return {
        "figures": {slot: str(path.relative_to(folder)) for slot, path in slots.items()},
        "worked_examples": worked_examples.numbers(worked),
        "networks": {
            "small": network(64, 1_234_567, ("conv_1", "maxpool_1", "output")),
            "article_small": network(150, 5_681_345, ("conv_1", "maxpool_1", "output")),
            "vgg": network(64, 1_900_000, ("block1_conv1", "block1_pool", "predictions")),
            "article_vgg": network(224, 138_357_544, ("block1_conv1", "block1_pool", "predictions")),
        },
        "data": {"source": "procedural", "class_names": ["cat", "dog"], "train": 2000, "valid": 1000, "test": 1000,
                 "image_size": [64, 64], "skipped": []},
        "runs": runs,
        "vgg": {"model": "vgg16", "image_size": [64, 64], "width_multiplier": 0.25, "class_names": list(CLASSES),
                "test_accuracy": 0.934, "digest": "cd" * 32, "training": "12 epochs of adam"},
        "photo": {"credit": "Chelsea, by Stéfan van der Walt (CC0).", "truth": "cat",
                  "prediction": [{"name": "cat", "probability": 0.6}, {"name": "dog", "probability": 0.3}]},
        "feature_maps": {"layers": captions.map_statistics(raw), "single": {"layer": LAYERS[0], "channel": 19}},
        "filters": filters,
        "article_recipe": [one | {"recipe": "article-filters", "steps": 500, "activation_after": 1.25}
                           for one in filters["block5_conv3"][2:4]],
        "attribution": {"class": "cat", "probability": 0.613,
                        "methods": [{"name": "gradient", "sentence": "how much the logit changes"}]},
        "classes": classes,
        "cat_dog": [classes[0] | {"class": "cat"}, classes[1] | {"class": "dog"}],
        "provenance": {"command": "cnnjax article", "device": "2 CPU cores", "seconds": 754.3,
                 "started": "2026-11-22 15:00 UTC", "seeds": {"data": 0, "training": 0}, "versions": {"jax": "0.10.2"},
                 "stages": [{"title": "Train without augmentation", "seconds": 75.2}], "commands": []},
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("run")
    return folder, fake_results(folder)


@pytest.fixture(scope="module")
def page(results) -> tuple[Path, Page]:
    folder, content = results
    path = report.write_page(folder, content)
    return path, Page(path.read_text(encoding="utf-8"))


def changed(results, **parts) -> Page:
    folder, content = results
    return Page(report.write_page(folder, content | parts).read_text(encoding="utf-8"))


def test_the_page_has_every_section_in_order(page):
    path, parsed = page
    assert path.name == "index.html"
    assert tuple(" ".join(heading.split()) for heading in parsed.headings) == SECTIONS


def test_every_image_is_inside_and_described(page, results):
    _, parsed = page
    assert len(parsed.images) == len(results[1]["figures"])
    for image in parsed.images:
        assert image["src"].startswith(("data:image/png;base64,", "data:image/gif;base64,"))
        assert len(image["alt"]) > 10
        assert 0 < int(image["width"]) <= 760


def test_a_film_has_its_last_frame_for_those_who_want_no_motion(page):
    _, parsed = page
    films = [image["src"] for image in parsed.images if image["src"].startswith("data:image/gif")]
    assert len(films) == len(parsed.stills) == 6
    for film, still in zip(films, parsed.stills, strict=True):
        moving, last = (Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) for data in (film, still))
        moving.seek(moving.n_frames - 1)
        assert last.format == "PNG"
        assert (np.asarray(moving.convert("RGB")) == np.asarray(last.convert("RGB"))).all()


def test_nothing_is_loaded_from_elsewhere(page):
    path, parsed = page
    assert all(address.startswith("data:") for address in parsed.loads)
    assert not re.search(r"<(script|iframe|link)\b", path.read_text(encoding="utf-8"))


def test_a_browser_shows_it_from_disk(page, tmp_path):
    path, parsed = page
    browser.find()
    with browser.Browser(tmp_path) as running:
        for dark in (False, True):
            tab = browser.Tab(running, path, dark=dark)
            assert tab.load_images() == len(parsed.images)
            tab.check(path.parent)
            assert {address for address in tab.requests() if not address.startswith("data:")} == {path.as_uri()}


def test_contents_point_to_what_is_there(page):
    _, parsed = page
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.anchors
    assert {address.removeprefix("#") for address in parsed.anchors} <= set(parsed.ids)


def test_numbers_that_are_passed_in_appear(page):
    text = page[1].text
    for words in (
        "4 3 4 / 2 4 3 / 2 3 4", "5,681,345", "138,357,544", "1,234,567", "73% → 81%", "70.5% → 81.6%", "73.1%",
        "81.7%", "12 min 34 s", "cnnjax article", "ab" * 32, "2 CPU cores", "jax 0.10.2", "7.3%",
        "field of 5×5", "of 7×7", "16×16×10", "Channel 19", "Chelsea", "rotation up to ±40°",
    ):  # fmt: skip
        assert words in text, words


def test_text_is_escaped(results):
    folder, content = results
    path = report.write_page(folder, content | {"photo": content["photo"] | {"credit": "<b>bold</b>"}})
    assert html.escape("<b>bold</b>") in path.read_text(encoding="utf-8")


def test_overfitting_is_claimed_only_when_it_happened(results):
    assert "This is overfitting" in changed(results).text
    runs = copy.deepcopy(results[1]["runs"])
    runs["plain"]["history"] = history(20, False, 0.745)
    text = changed(results, runs=runs).text
    assert "This is overfitting" not in text
    assert "There is no clear overfitting" in text
    assert "no clear rise in 20 epochs" in text


def test_the_page_says_whether_augmentation_ended_the_overfitting(results):
    assert "; with augmentation it did not rise clearly in 30 epochs." in changed(results).text
    runs = copy.deepcopy(results[1]["runs"])
    runs["augmented"]["history"] = history(30, True, 0.823)
    assert "; with augmentation it rose, too, after about epoch" in changed(results, runs=runs).text


def test_the_verdict_on_augmentation_follows_the_numbers(results):
    assert "Augmentation raises validation accuracy by" in changed(results).text
    runs = copy.deepcopy(results[1]["runs"])
    runs["augmented"]["history"] = history(30, False, 0.645)
    text = changed(results, runs=runs).text
    assert "Augmentation raises" not in text
    assert "augmentation lowers validation accuracy by" in text


def test_sparsity_is_claimed_only_when_it_is_so(results):
    layers = results[1]["feature_maps"]["layers"]
    assert "sparser at every step" in changed(results).text
    turned = {"layers": layers[::-1], "single": results[1]["feature_maps"]["single"]}
    assert "do not become sparser" in changed(results, feature_maps=turned).text


def test_inactive_filters_are_named(results):
    assert "Filter 7 stayed inactive" in changed(results).text
    active = {
        layer: [image | {"inactive": False, "activation_after": 1.0} for image in images]
        for layer, images in results[1]["filters"].items()
    }
    text = changed(results, filters=active).text
    assert "No filter stayed inactive" in text
    assert "Filter 7 stayed inactive" not in text


def test_the_article_s_recipe_is_compared_with_this_run_s(results):
    text = changed(results).text
    assert "first row the article’s recipe, second row quick" in text
    assert "is 1.25 by the first and 2.5 by the second" in text
    assert "500 steps of keras-vis" in text and "differently prepared" not in text
    other = [one | {"input": "as it is"} for one in results[1]["article_recipe"]]
    assert (
        "measured on differently prepared input: as it is for the first" in changed(results, article_recipe=other).text
    )


def test_attribution_names_the_class_and_the_methods(results):
    text = changed(results).text
    assert "for the class cat , to which the network gives 61.3%" in text
    assert "gradient : how much the logit changes. Bright: what speaks for the class." in text


def test_class_images_that_fail_are_named(results):
    assert "in 4 of 4" in changed(results).text
    classes = [results[1]["classes"][0] | {"top1": "husky"}, *results[1]["classes"][1:]]
    text = changed(results, classes=classes).text
    assert "in 3 of 4" in text
    assert "The exceptions are rabbit (predicted: husky)" in text


def test_weights_of_the_users_own_may_come_without_a_record(results):
    vgg = results[1]["vgg"] | {"test_accuracy": None, "training": ""}
    networks = results[1]["networks"] | {"vgg": network(64, 77, ("block1_conv1", "predictions"))}
    text = changed(results, vgg=vgg, networks=networks).text
    assert "not recorded" in text
    assert "weights come from" not in text
    assert "The network that this page visualizes" in text


def test_every_normalization_is_explained(results):
    for kind in normalize.KINDS:
        runs = copy.deepcopy(results[1]["runs"])
        runs["plain"]["config"]["data"]["normalization"] = kind
        assert f"This run uses {kind}" in changed(results, runs=runs).text


def test_what_is_missing_is_named(results, tmp_path):
    folder, content = results
    with pytest.raises(UserError, match="the page needs vgg and worked_examples"):
        report.write_page(
            folder, {name: part for name, part in content.items() if name not in ("worked_examples", "vgg")}
        )
    slots = {slot: path for slot, path in content["figures"].items() if slot != "curves"}
    with pytest.raises(UserError, match="figure 'curves'"):
        report.write_page(folder, content | {"figures": slots})
    (tmp_path / "broken.png").write_bytes(b"not an image")
    slots = content["figures"] | {"curves": str(tmp_path / "broken.png")}
    with pytest.raises(UserError, match="missing or broken"):
        report.write_page(folder, content | {"figures": slots})


def test_a_damaged_figure_is_named_before_it_reaches_the_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    contents = path.read_bytes()
    for place in range(60, len(contents) - 20, 150):
        damaged = bytearray(contents)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="noise.png is missing or broken"):
            report._embedded(path, "noise")


def test_figures_are_shown_at_the_size_they_were_drawn_for(tmp_path):
    figures.image_grid([np.zeros((8, 8, 3), np.uint8)], [""], tmp_path / "a.png", columns=1, width=300)
    assert 'width="300"' in report._embedded(tmp_path / "a.png", "a")
    Image.new("RGB", (3000, 100)).save(tmp_path / "b.png")
    assert 'width="760"' in report._embedded(tmp_path / "b.png", "b")


@pytest.mark.parametrize(
    ("share", "words"), [(0.8125, "81.2%"), (0.0001, "<0.1%"), (0.99999, ">99.9%"), (1, "100.0%"), (0, "0.0%")]
)
def test_percent_never_rounds_to_certainty(share, words):
    assert captions.percent(share) == words


def test_a_wrong_first_guess_is_said():
    prediction = [{"name": "dog", "probability": 0.7}, {"name": "cat", "probability": 0.2}]
    assert "which is wrong: cat is ranked second" in captions.photo(prediction, "cat")
    assert "which is right" in captions.photo(prediction, "dog")
    assert captions.photo(prediction, "") == "The network's prediction for the photograph is dog (70.0%)."
    assert "it has no class lynx" in captions.photo(prediction, "lynx")


def test_map_statistics_count_zeros_and_blank_maps():
    maps = np.ones((4, 4, 3))
    maps[..., 1] = 0
    maps[0, 0, 0] = 0
    (row,) = captions.map_statistics({"layer": maps}, shown=2)
    assert row["zero_fraction"] == pytest.approx(17 / 48)
    assert (row["blank"], row["shown_blank"], row["shape"]) == (1, [1], [4, 4, 3])


@pytest.mark.parametrize(
    ("value", "words"),
    [(1498.2, "1,500"), (0.33333, "0.333"), (2.5, "2.5"), (0, "0"), (123456.0, "123,000"), (5.123e-05, "0.0000512")],
)
def test_numbers_have_three_digits(value, words):
    assert captions.significant(value) == words
