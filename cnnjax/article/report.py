"""The article's page: the numbers and figures of a run in one HTML file that loads nothing else.

`write_page(run_folder, content)` writes `run_folder/index.html`. `content` is an `Article`, or a dict with its fields:
JSON-able data, with paths relative to `run_folder`.

    figures     slot -> PNG or GIF. From `figures.worked_examples`: operands, windows, volume, maps, two-maps, relu,
                strides, padding, pooling, pooled, flattened, descent, dropout, receptive-fields, and in motion
                windows-moving, strides-moving, padding-moving, pooling-moving, dropout-moving. From `sections`:
                small-network, dataset, curves-plain, curves, augmented and, if `cat_dog` is not empty, cat-dog.
                From `section_6`: vgg-network, photo, map-alone, maps-in-a-row, feature-maps, article-recipe, classes,
                attribution, filters/LAYER for every layer in `filters`, ascent.
                Optional: overview (the article's network), prediction (bars).
    worked_examples  worked_examples.numbers(…)
    networks    small, article_small, vgg, article_vgg -> {image_size: [height, width], parameters, rows: [{layer,
                shape, parameters, flops, receptive_field}]}. small and vgg are the networks of this run, the
                other two have the article's size. receptive_field is (height, width) or None.
    data        {source, class_names, train, valid, test: the numbers of images, image_size, skipped: [file names]}
    runs        plain, augmented -> {history: [a dict for each epoch], test: {loss, accuracy}, config:
                TrainingRun.record(), seconds, digest}
    vgg         {image_size, width_multiplier, class_names, test_accuracy or None, digest, training: how it was trained,
                or ""}
    photo       {credit, truth: "cat", or "" if unknown, prediction: [{name, probability}] for every class of the VGG}
    feature_maps  {layers: captions.map_statistics(…), single: {layer, channel}}
    filters     layer -> [the provenance of every image that `visualize.render_filters` returns]
    article_recipe  [the same for some of these filters of one layer, by the article's recipe]
    classes     [the provenance of every image + {top1: the class that the network predicts for the saved image}]
    attribution {class, probability: what the network predicts, methods: [{name, sentence}]}
    cat_dog     as classes, for the small network
    provenance  {command, device, seconds, started, seeds: {purpose: seed}, versions: {package: version},
                stages: [{title, seconds}], commands: [other commands to show]}
"""

import base64
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from cnnjax import files
from cnnjax.article import captions
from cnnjax.article.stage_cache import duration
from cnnjax.errors import UserError
from cnnjax.models import SmallCNN

_MAX_WIDTH = 760  # CSS pixels


@dataclass(frozen=True)
class Article:
    """The content of the page; see the module's docstring."""

    figures: Mapping[str, str]
    worked_examples: Mapping[str, Any]
    networks: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: Mapping[str, Any]
    vgg: Mapping[str, Any]
    photo: Mapping[str, Any]
    feature_maps: Mapping[str, Any]
    filters: Mapping[str, Any]
    article_recipe: list[Mapping[str, Any]]
    classes: list[Mapping[str, Any]]
    attribution: Mapping[str, Any]
    cat_dog: list[Mapping[str, Any]]
    provenance: Mapping[str, Any]


def write_page(run_folder: Path, content: Article | Mapping[str, Any]) -> Path:
    """Write the page and return its path.

    Raises UserError if a part of `content` or a figure is missing, or if the folder cannot be written.
    """
    if not isinstance(content, Article):
        names = {field.name for field in fields(Article)}
        if missing := sorted(names - set(content)):
            raise UserError(
                f"the page needs {captions.enumerate_names(missing)}: run the stages that compute them first"
            )
        content = Article(**{name: content[name] for name in names})
    folder = Path(run_folder)

    def image(slot: str, alt: str) -> Markup:
        if slot not in content.figures:
            raise UserError(f"the page needs the figure {slot!r}: run the stage that draws it first")
        return _embedded(folder / content.figures[slot], alt)

    page = (
        _environment()
        .get_template("article.html.j2")
        .render(
            **{field.name: getattr(content, field.name) for field in fields(Article)},
            say=captions,
            theirs=captions.ARTICLE,
            image=image,
            code=_source(SmallCNN.__call__),
            plain=captions.outcome(content.runs["plain"]),
            augmented=captions.outcome(content.runs["augmented"]),
            compared=captions.comparison(content.runs["plain"], content.runs["augmented"], content.data["valid"]),
        )
    )
    path = folder / "index.html"
    files.atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnjax.article", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=captions.percent,
        enumerate_names=captions.enumerate_names,
        duration=duration,
        thousands=lambda number: f"{number:,}",
        shape=lambda sizes: "×".join(f"{size:,}" for size in sizes),
        large=_large,
    )
    return environment


def _source(function: Callable[..., Any]) -> str:
    """A function's source code without its docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    return re.sub(r'\n    """.*?"""', "", source, count=1, flags=re.DOTALL)


def _embedded(path: Path, alt: str) -> Markup:
    """A PNG or GIF as an <img> that contains its bytes. Its size follows from its resolution; 96 dpi is one CSS pixel.

    Of a GIF, whoever has asked the browser for less motion is shown the last frame.
    """
    try:
        with Image.open(path) as image:
            image.load()
            width, height = image.size
            scale = float(image.info.get("dpi", (192, 192))[0]) / 96
            still = _last_frame(image) if path.suffix == ".gif" else None
    except (OSError, SyntaxError):  # Pillow raises the latter for a wrong checksum
        raise UserError(f"the page's figure {path} is missing or broken: run its stage again with fresh=True") from None
    shown = min(_MAX_WIDTH, round(width / scale))
    tag = Markup('<img src="data:image/{};base64,{}" alt="{}" width="{}" height="{}" style="width:{}px">').format(
        path.suffix[1:], _base64(path.read_bytes()), alt, shown, round(height * shown / width), shown
    )
    if still is None:
        return tag
    source = Markup('<source srcset="data:image/png;base64,{}" media="(prefers-reduced-motion: reduce)">')
    return Markup("<picture>{}{}</picture>").format(source.format(_base64(still)), tag)


def _last_frame(film: Image.Image) -> bytes:
    film.seek(getattr(film, "n_frames", 1) - 1)
    contents = io.BytesIO()
    film.convert("RGB").save(contents, "png", optimize=True)
    return contents.getvalue()


def _base64(contents: bytes) -> str:
    return base64.b64encode(contents).decode()


def _large(number: float) -> str:
    """`30713856` → `30.7 million`."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:g}"
