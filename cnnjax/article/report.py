"""The article's page: a run's numbers and figures in one HTML file that needs nothing else.

`article(run_folder, content)` writes `run_folder/index.html`. `content` is an `Article` or a dict with its fields:
plain JSON-able data and paths relative to `run_folder`.

    figures     slot -> PNG. Of `figures.lessons`: operands, windows, volume, maps, two-maps, relu, strides, padding,
                pooling, pooled, flattened, descent, dropout, receptive-fields. Of the experiments: small-network,
                dataset, curves-plain, curves, augmented, vgg-network, photo, map-alone, maps-in-a-row, feature-maps,
                filters/LAYER for every layer in `filters`, classes, and, where there are such pictures, cat-dog.
                Optional: overview (the article's network), prediction (bars).
    lessons     lessons.numbers(…)
    networks    small, article_small, vgg, article_vgg -> {side, parameters, rows: [{layer, shape, parameters, flops,
                field}]}; small and vgg are this run's, the others those of the article's size; field is the
                receptive field (height, width) or None
    data        {source, class_names, train, valid, test: pictures in each split, side, skipped: [names]}
    runs        plain, augmented -> {history: [per-epoch dicts], test: {loss, accuracy}, config: config.as_dict(…),
                seconds, digest}
    vgg         {side, width, class_names, test_accuracy or None, digest, made: how it was trained, or ""}
    photo       {credit, truth: "cat", or "" if unknown, prediction: [{name, probability}]: every class of the VGG}
    feature_maps  {layers: captions.map_statistics(…), alone: {layer, channel}}
    filters     layer -> [provenance of every picture], as `visualize.ascent.filters` gives it
    classes     [provenance of every picture + {top1: the class that the network chooses for the saved picture}]
    cat_dog     the same for the two-class network; may be empty
    made        {command, device, seconds, started, seeds: {what: seed}, versions: {package: version},
                stages: [{title, seconds}], commands: [other commands that repeat parts]}
"""

import base64
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from cnnjax.article import captions
from cnnjax.article.stage_cache import duration
from cnnjax.errors import UserError
from cnnjax.models import SmallCNN

_LARGEST = 760


@dataclass(frozen=True)
class Article:
    """What the page shows; see the module's docstring."""

    figures: Mapping[str, Any]
    lessons: Mapping[str, Any]
    networks: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: Mapping[str, Any]
    vgg: Mapping[str, Any]
    photo: Mapping[str, Any]
    feature_maps: Mapping[str, Any]
    filters: Mapping[str, Any]
    classes: list[Mapping[str, Any]]
    cat_dog: list[Mapping[str, Any]]
    made: Mapping[str, Any]


def article(run_folder: Path, content: Article | Mapping[str, Any]) -> Path:
    """Write the page and return its path.

    Raises UserError for a part that is missing from `content`, a figure that is not there, or a folder that cannot be
    written.
    """
    if not isinstance(content, Article):
        names = {field.name for field in fields(Article)}
        if missing := sorted(names - set(content)):
            raise UserError(f"the page needs {captions.listed(missing)}: run the stages that make them first")
        content = Article(**{name: content[name] for name in names})
    folder = Path(run_folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnjax.article", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=captions.percent,
        listed=captions.listed,
        duration=duration,
        thousands=lambda number: f"{number:,}",
        shape=lambda sides: "×".join(f"{side:,}" for side in sides),
        large=_large,
    )

    def picture(slot: str, alt: str) -> Markup:
        if slot not in content.figures:
            raise UserError(f"the page needs the figure {slot!r}: run the stage that draws it first")
        return _inlined(folder / content.figures[slot], alt)

    page = environment.get_template("article.html.j2").render(
        **{field.name: getattr(content, field.name) for field in fields(Article)},
        say=captions,
        theirs=captions.ARTICLE,
        picture=picture,
        code=_code(SmallCNN.__call__),
        plain=captions.outcome(content.runs["plain"]),
        augmented=captions.outcome(content.runs["augmented"]),
        compared=captions.comparison(content.runs["plain"], content.runs["augmented"], content.data["valid"]),
    )
    path = folder / "index.html"
    try:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another folder") from None
    return path


def _code(function: Callable[..., Any]) -> str:
    """A function's source without its docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    return re.sub(r'\n    """.*?"""', "", source, count=1, flags=re.DOTALL)


def _inlined(path: Path, alt: str) -> Markup:
    """A PNG as an <img> with its bytes inside and its CSS size, which its resolution tells (96 dots are one to one)."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            scale = float(image.info.get("dpi", (192, 192))[0]) / 96
    except OSError:
        raise UserError(f"the page's figure {path} is missing or broken: run its stage again with --fresh") from None
    shown = min(_LARGEST, round(width / scale))
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}" width="{}" height="{}" style="width:{}px">').format(
        data, alt, shown, round(height * shown / width), shown
    )


def _large(number: float) -> str:
    """`30713856` → `30.7 million`."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:g}"
