"""What a network sees in pictures: the five likeliest classes of each, with their probabilities.

    python experiments/classify.py cnnjax/data/chelsea.png
    python experiments/classify.py photographs/ cat.jpg --weights imagenet --out runs/photographs

Without --weights it is the small VGG16 that is part of the package, which knows fourteen drawn classes. A figure shows
pictures beside their bars, of many a dozen, evenly spread; classify.csv has all of them, a row for each of a picture's
classes. Pictures that cannot be read are named and left out.

Two CPU cores with much other work going on, the package's VGG16 at 64²: 1,008 JPEG files of 150² take 4 s, start and
figure 8 s more.
"""

import csv
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from cnnjax import figures, formats
from cnnjax.article.stage_cache import make_folder
from cnnjax.classify import Answer, classify, find_pictures
from cnnjax.cli import command_line
from cnnjax.errors import UserError

SHOWN = 12
"""Pictures in the figure and on the screen."""


def main(
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    weights: str = "",
    top: int = 5,
    batch: int = 16,
    out: Path = Path("runs/classify"),
) -> None:
    """Name the likeliest classes of pictures.

    Args:
        pictures: Picture files, or folders of them.
        weights: A weights file, or imagenet (fetched and kept); empty takes the VGG16 that is part of the package.
        top: How many classes of each picture.
        batch: Pictures at a time.
        out: Folder to write.
    """
    if not pictures:
        raise UserError("no picture was named: give the paths of picture files or folders")
    files = find_pictures(pictures)
    make_folder(out)
    network = formats.find(weights)
    chosen = {files[i * len(files) // SHOWN] for i in range(SHOWN)} if len(files) > SHOWN else set(files)
    shown: list[Answer] = []
    read = 0
    bar = tqdm(classify(network, files, top, batch), total=len(files), unit=" pictures", delay=1.0)
    try:
        with (out / "classify.csv").open("w", newline="", encoding="utf8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(("file", "rank", "class", "probability"))
            for found in bar:
                if not isinstance(found, Answer):
                    tqdm.write(f"left out: {found.file} cannot be read as a picture ({found.reason})")
                    continue
                read += 1
                ranked = list(zip(found.classes, found.probabilities, strict=True))
                table.writerows((found.file, rank, name, f"{p:.6g}") for rank, (name, p) in enumerate(ranked, 1))
                if found.file in chosen or not shown:
                    shown.append(found)
                    tqdm.write(f"{found.file}: {', '.join(f'{name} {p:.1%}' for name, p in ranked)}")
    except OSError as error:
        raise UserError(
            f"cannot write {out / 'classify.csv'} ({error.strerror or error}): make room, or choose another --out"
        ) from error
    if not read:
        raise UserError(f"none of the {len(files)} files could be read as a picture: give JPEG, PNG or WebP files")
    drawn = figures.answers(
        [answer.picture for answer in shown],
        [str(answer.file) for answer in shown],
        [answer.classes for answer in shown],
        [answer.probabilities for answer in shown],
        out / "classify.png",
    )
    print(f"wrote {drawn} ({len(shown)} of {read} pictures) and {out / 'classify.csv'}")


if __name__ == "__main__":
    command_line.main(main)
