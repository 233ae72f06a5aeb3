"""Writes fixtures/cats_vs_dogs.zip: what tensorflow-datasets prepares of a small archive, in two formats.

    python tests/oracles/tfds_cats.py

needs TensorFlow (written with tensorflow-cpu 2.21.0 and tensorflow-datasets 4.9.10). The archive has the layout of the
one that the real `cats_vs_dogs` builder downloads; test_tfds.py reads the prepared sets without TensorFlow.
"""

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CORRUPT = 1738  # the real builder refuses an archive in which it skips another number of files
COLOURS = {"Cat": (200, 60, 30), "Dog": (30, 60, 200)}
IMAGES = 12
FIXTURE = Path(__file__).parents[1] / "fixtures" / "cats_vs_dogs.zip"


def write_archive(path: Path) -> None:
    """A readme, PetImages/Cat and Dog, and files that are no JFIF."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme[1].txt", "not an image")
        for name, colour in COLOURS.items():
            file.writestr(f"PetImages/{name}/Thumbs.db", b"not an image")
            for number in range(IMAGES):
                pixels = np.clip(random.normal(colour, 20, (30 + number, 40, 3)), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
                file.writestr(f"PetImages/{name}/{number}.jpg", buffer.getvalue())
            for number in range(CORRUPT // 2):
                file.writestr(f"PetImages/{name}/{1000 + number}.jpg", b"GIF89a, by mistake")


def prepare(archive: Path, folder: Path, format: str) -> None:
    """As from_tfds does, or as another program does in the default format, tfrecord."""
    import tensorflow_datasets
    from tensorflow_datasets.image_classification import cats_vs_dogs

    cats_vs_dogs._URL = f"file://{archive}"
    options = {} if format == "tfrecord" else {"file_format": format}
    builder = tensorflow_datasets.builder("cats_vs_dogs", data_dir=str(folder), **options)
    builder.download_and_prepare()


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(FIXTURE, "w", zipfile.ZIP_DEFLATED) as made:
        write_archive(Path(folder) / "cats.zip")
        for file_format in ("array_record", "tfrecord"):
            prepare(Path(folder) / "cats.zip", Path(folder) / file_format, file_format)
            for file in sorted((Path(folder) / file_format / "cats_vs_dogs").rglob("*")):
                if file.is_file():
                    made.write(file, file.relative_to(folder))
    print(FIXTURE, FIXTURE.stat().st_size, "bytes", file=sys.stderr)
