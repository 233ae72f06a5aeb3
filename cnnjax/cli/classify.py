"""The command `classify`: the most probable classes of images in files."""

import csv
import itertools
from collections import Counter
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from cnnjax import figures
from cnnjax.classify import Prediction, find_images, score
from cnnjax.classify import classify as predict
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.errors import UserError
from cnnjax.files import make_folder
from cnnjax.network import Network
from cnnjax.printable import printable

_READING = Reading()
SHOWN = 12
"""Images in the figure and on the screen."""


def classify(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    weights: str = "vgg16",
    reading: Flags = _READING,
    top: int = 5,
    batch_size: int = 16,
    out: Path = Path("runs/classify"),
) -> None:
    """Name the most probable classes of images.

    Args:
        images: Image files, or folders of them.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        top: How many classes are shown for each image.
        batch_size: Images at a time.
        out: Folder for the figure classify.png and the table classify.csv.
    """
    if not images:
        raise UserError("no image was named: give the paths of image files or folders")
    files = find_images(images)
    network = load(weights, reading)
    make_folder(out)
    shown, answers = _classify(network, files, top, batch_size, out / "classify.csv")
    read = len(answers)
    if not read:
        raise UserError(f"none of the {len(files)} files could be read as an image: give JPEG, PNG or WebP files")
    figure = figures.predictions(
        [prediction.image for prediction in shown],
        [str(prediction.file) for prediction in shown],
        [prediction.classes for prediction in shown],
        [prediction.probabilities for prediction in shown],
        out / "classify.png",
    )
    if read > len(shown):
        counts = Counter(answers.values()).most_common(10)
        print(printable(f"all {read:,} images: {', '.join(f'{name} {number:,}' for name, number in counts)}"))
    if any(path.is_dir() for path in images) and (scored := score(answers, network.class_names)):
        print(printable(scored))
    print(printable(f"wrote {figure} ({len(shown)} of {read} images) and {out / 'classify.csv'}"))


def _classify(
    network: Network, files: list[Path], top: int, batch_size: int, table: Path
) -> tuple[list[Prediction], dict[Path, str]]:
    """Write the table of all files. Returns the predictions for the figure, and each readable file's first class."""
    chosen = {files[i * len(files) // SHOWN] for i in range(SHOWN)} if len(files) > SHOWN else set(files)
    shown: list[Prediction] = []
    answers: dict[Path, str] = {}
    results = predict(network, files, top, batch_size)
    # What is refused is refused before the table of an earlier call is replaced.
    results = itertools.chain(list(itertools.islice(results, 1)), results)
    bar = tqdm(results, total=len(files), unit=" images", delay=1.0, disable=None)
    try:
        with table.open("w", newline="", encoding="utf8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "rank", "class", "probability"))
            for found in bar:
                if not isinstance(found, Prediction):
                    tqdm.write(printable(f"left out: {found.file} cannot be read as an image ({found.reason})"))
                    continue
                answers[found.file] = found.classes[0]
                ranked = list(zip(found.classes, found.probabilities, strict=True))
                writer.writerows((found.file, rank, name, f"{p:.6g}") for rank, (name, p) in enumerate(ranked, 1))
                if found.file in chosen or not shown:
                    shown.append(found)
                    tqdm.write(printable(f"{found.file}: {', '.join(f'{name} {p:.1%}' for name, p in ranked)}"))
    except OSError as error:
        raise UserError(
            f"cannot write {table} ({error.strerror or error}): free some space, or choose another --out"
        ) from error
    return shown, answers
