"""`from_tfds` on what the real `cats_vs_dogs` builder prepared of a small archive in the real layout, offline.

TensorFlow takes seconds to import and warns while it does, so each test asks another process, which prints its findings
as JSON; where the question is what works without TensorFlow, that process cannot find it.
"""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from oracles.tfds_cats import COLOURS, IMAGES, write_archive

FIXTURE = Path(__file__).parent / "fixtures" / "cats_vs_dogs.zip"
needs_tensorflow = pytest.mark.skipif(not find_spec("tensorflow"), reason="needs the extra `tfds`")

PREAMBLE = """
import hashlib, json, sys
from importlib.machinery import PathFinder
from jaxtyping import install_import_hook

install_import_hook("cnnjax", "beartype.beartype").__enter__()

class WithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, path, target)

def hide_tensorflow():
    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow

def describe(dataset):
    splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    return {
        "class_names": dataset.class_names,
        "tensorflow": "tensorflow" in sys.modules,
        **{
            name: {
                "shape": split.images.shape,
                "colours": split.images.mean((1, 2)).tolist(),
                "labels": split.labels.tolist(),
                "digests": [hashlib.sha256(image.tobytes()).hexdigest() for image in split.images],
            }
            for name, split in splits.items()
        },
    }

def sentence(**arguments):
    try:
        load(**arguments)
    except UserError as error:
        return str(error)

import cnnjax.data.tfds
from cnnjax.data import from_tfds
from cnnjax.errors import UserError

cnnjax.data.tfds.check_reachable = lambda urls, place: None  # these tests work without internet

def load(name="cats_vs_dogs", image_size=16, per_class=4, held_out=3, **arguments):
    return from_tfds(name, image_size=image_size, per_class=per_class, valid=held_out, test=held_out, **arguments)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs code in a process of its own, with its own caches: python(code, data_dir) -> what it hands to `answer`."""

    def run(code, data_dir):
        answer = tmp_path_factory.mktemp("answer")
        script = answer / "script.py"
        script.write_text(PREAMBLE + code + f"\nopen({str(answer / 'json')!r}, 'w').write(json.dumps(answer))\n")
        environment = os.environ | {
            "TFDS_DATA_DIR": str(data_dir),
            "CNNJAX_CACHE": str(answer / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads((answer / "json").read_text())

    return run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the real builder prepared of a small archive, by the name of the format: see oracles/tfds_cats.py."""
    folder = tmp_path_factory.mktemp("prepared")
    with zipfile.ZipFile(FIXTURE) as made:
        made.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def array_record(python, prepared):
    """What `from_tfds` gives of the prepared set, without TensorFlow, and where that is."""
    folder = prepared / "array_record"
    return python("hide_tensorflow()\nanswer = describe(load())", folder), folder


@pytest.fixture(scope="module")
def tfrecord(prepared):
    """A folder in which another program prepared the set, in the default format."""
    return prepared / "tfrecord"


def check_cats_and_dogs(found):
    assert found["class_names"] == ["cat", "dog"]
    digests = []
    for name, count in (("train", 4), ("valid", 3), ("test", 3)):
        split = found[name]
        assert split["shape"] == [2 * count, 16, 16, 3]
        assert split["labels"] == [0] * count + [1] * count
        expected = [COLOURS["Cat"]] * count + [COLOURS["Dog"]] * count
        np.testing.assert_allclose(split["colours"], expected, atol=6)
        digests += split["digests"]
    assert len(set(digests)) == 20  # disjoint


def test_what_is_prepared_is_read_without_tensorflow(array_record):
    found, _ = array_record
    check_cats_and_dogs(found)
    assert not found["tensorflow"]


@needs_tensorflow
def test_the_real_builder_prepares_a_small_archive(python, array_record, tmp_path):
    write_archive(tmp_path / "cats.zip")
    code = f"""
from tensorflow_datasets.image_classification import cats_vs_dogs
cats_vs_dogs._URL = "file://{tmp_path / "cats.zip"}"
answer = describe(load())
"""
    found = python(code, tmp_path / "data")
    assert list((tmp_path / "data").glob("cats_vs_dogs/*/*.array_record-*"))
    assert [found[name] for name in ("train", "valid", "test")] == [
        array_record[0][name] for name in ("train", "valid", "test")
    ]


def test_what_others_prepared_as_tfrecord_is_read_without_tensorflow(python, tfrecord):
    found = python("hide_tensorflow()\nanswer = describe(load())", tfrecord)
    assert not found["tensorflow"]
    check_cats_and_dogs(found)


def test_splits_come_from_the_cache_and_the_seed_chooses(python, array_record):
    code = """
import cnnjax.data.tfds
first = describe(load())
other = describe(load(seed=1))
left = describe(load(per_class=None))
only = load(classes=("dog", "cat")).class_names
cnnjax.data.tfds._Records.of = None
answer = [first, describe(load()), other, left, only]
"""
    first, cached, other, left, only = python(code, array_record[1])
    assert cached == first
    assert set(other["train"]["digests"]) != set(first["train"]["digests"])
    assert len(left["train"]["labels"]) == 2 * (IMAGES - 6)
    assert left["valid"] == first["valid"]
    assert only == ["dog", "cat"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_streamed_by_worker_processes_as_from_memory(python, request, kind):
    """The workers open the prepared files by themselves, without TensorFlow; they import this script, too."""
    place = request.getfixturevalue(kind)
    place = place[1] if kind == "array_record" else place
    code = """
import jax, numpy
from cnnjax.data import sampling, prefetch

answer = None
if __name__ == "__main__":
    hide_tensorflow()
    resident, streamed = (load(loading=kind) for kind in ("resident", "stream"))
    order = prefetch.Order(sampling.key_data(jax.random.key(0)), 8, 4)
    rows = numpy.stack([order[step] for step in range(3)])
    with prefetch.prefetch_batches(streamed.train, rows, 1, 3, lambda chunk: chunk) as chunks:
        (chunk,) = chunks
    wanted = resident.train
    test = streamed.test
    answer = [
        numpy.array_equal(chunk.images, wanted.images[rows]) and numpy.array_equal(chunk.labels, wanted.labels[rows]),
        numpy.array_equal(test.images[numpy.arange(6)], resident.test.images),
        "tensorflow" in sys.modules,
    ]
"""
    assert python(code, place) == [True, True, False]


TOY = """
import io
from pathlib import Path
import numpy
import tensorflow_datasets
from PIL import Image

hide_tensorflow()

class Toy(tensorflow_datasets.core.GeneratorBasedBuilder):
    pkg_dir_path = Path(__file__).parent
    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = tensorflow_datasets.features
        return self.dataset_info_from_configs(
            features=features.FeaturesDict({
                "mask": features.Image(shape=(None, None, 1)),
                "picture": features.Image(shape=(None, None, 3)),
                "kind": features.ClassLabel(names=["ant", "bee"]),
            }),
            supervised_keys=("picture", "kind"),
        )

    def _split_generators(self, manager):
        make = self._generate_examples
        return {"train": make(0, 12), "validation": make(100, 4), "test": make(200, 4, hidden=True)}

    def _generate_examples(self, start, count, hidden=False):
        for number in range(start, start + count):
            kind = number % 2
            files = {}
            for name, image in {
                "mask": Image.new("L", (9, 9), 255),
                "picture": Image.new("RGB", (9, 9), (kind * 100, number, 7)),
            }.items():
                files[name] = io.BytesIO()
                image.save(files[name], "PNG")
                files[name].seek(0)
            yield number, {"kind": -1 if hidden else kind, **files}

class Words(Toy):
    def _info(self):
        features = tensorflow_datasets.features
        return self.dataset_info_from_configs(features=features.FeaturesDict({"word": features.Text()}))

    def _split_generators(self, manager):
        return {"train": iter([(0, {"word": "x"})])}
"""


def test_own_splits_are_used_and_images_without_labels_are_not(python, tmp_path):
    code = """
answer = [
    describe(load("toy", image_size=8, per_class=3, held_out=2)),
    sentence(name="toy", per_class=5, held_out=2),
    sentence(name="words"),
]
"""
    found, too_few, words = python(TOY + code, tmp_path)
    assert found["class_names"] == ["ant", "bee"]
    assert sorted(int(colour[1]) for colour in found["valid"]["colours"]) == [100, 101, 102, 103]
    # The test images have no labels: the test split is drawn from the training images.
    drawn = [int(colour[1]) for split in ("train", "test") for colour in found[split]["colours"]]
    assert len(set(drawn)) == 10
    assert max(drawn) < 12
    for split in ("train", "valid", "test"):
        assert [int(colour[0]) for colour in found[split]["colours"]] == [
            100 * label for label in found[split]["labels"]
        ]
    assert too_few == (
        "tfds:toy: class 'ant' has 6 images where 7 are needed (5 for training, 2 for test): "
        "lower `per_class` or `test`"
    )
    assert words.startswith("tfds:words is not an image classification set: its records hold word;")


@needs_tensorflow
def test_one_clear_sentence(python, tmp_path):
    code = """
import requests

def offline(*arguments, **keywords):
    raise requests.exceptions.ConnectionError("no network here\\n" * 9)

requests.sessions.Session.send = offline
answer = {
    "unknown": sentence(name="cats_vs_dgos"),
    "version": sentence(name="cats_vs_dogs:99.0.0"),
    "offline": sentence(),
    "manual": sentence(name="imagenet2012"),
}
"""
    said = python(code, tmp_path)
    assert all("\n" not in sentence for sentence in said.values())
    assert said["unknown"].startswith("unknown tensorflow-datasets set 'cats_vs_dgos': did you mean cats_vs_dogs")
    assert said["version"].startswith("tfds:cats_vs_dogs:99.0.0 cannot be prepared in")
    assert said["offline"] == (
        "tfds:cats_vs_dogs cannot be downloaded (ConnectionError): check the network, or copy the set, prepared "
        f"elsewhere, into {tmp_path}"
    )
    assert said["manual"].startswith("tfds:imagenet2012 cannot be prepared in")
    assert "Manual directory" in said["manual"]


def test_a_missing_tensorflow_is_said_before_anything_is_downloaded(python, tmp_path):
    said = python("hide_tensorflow()\nanswer = sentence()", tmp_path)
    assert said == "tfds:cats_vs_dogs needs TensorFlow to prepare it: pip install 'cnnjax[tfds]'"
    assert not list(tmp_path.rglob("*.zip*"))


def test_a_class_that_is_not_there_and_a_truncated_file(python, tfrecord):
    (file,) = tfrecord.glob("cats_vs_dogs/*/*.tfrecord-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    try:
        said = python("hide_tensorflow()\nanswer = [sentence(), sentence(classes=('cat', 'dgo'))]", tfrecord)
    finally:
        file.write_bytes(whole)
    assert f"the file {file} is damaged" in said[0]
    assert said[1] == "unknown class 'dgo': did you mean dog?"
