"""The main job on tiny numbers, as a user runs it: interrupted, continued, found finished, and with bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import random_networks
from PIL import Image as PIL

from cnnjax import Network, formats
from cnnjax.article import run
from cnnjax.cli import command_line
from cnnjax.cli.article import article
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import recipes

ROOT = Path(__file__).parents[1]
STAGES = 9
# A shell that starts the tests in the background lets them, and all their child processes, ignore Ctrl-C.
WITH_INTERRUPT = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A narrow VGG16 with random weights and the class names that the article draws."""
    names = ("cat", *recipes.CLASSES)
    model = random_networks.model(
        "vgg16", num_classes=len(names), image_size=32, width_multiplier=0.0625, dense_units=16
    )
    normalizer = normalize.fit_normalizer("mean", np.full((2, 32, 32, 3), 128, np.uint8))
    path = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    formats.save(path, Network.create(model, normalizer=normalizer, class_names=names))
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / "article.py"), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1"}


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def small(weights, tmp_path_factory) -> list[str]:
    out = tmp_path_factory.mktemp("runs") / "article"
    return [
        "--out", str(out), "--weights", str(weights), "--image-size", "32", "--per-class", "12",
        "--eval-per-class", "6", "--plain-epochs", "3", "--augmented-epochs", "3",
        "--filters-recipe", "quick", "--filters-image-size", "48",
        "--classes-recipe", "quick", "--article-steps", "4", "--filters-steps", "8", "--classes-steps", "8",
    ]  # fmt: skip


@pytest.mark.slow
def test_interrupted_resumed_and_found_finished(small):
    out = Path(small[1])
    job = subprocess.Popen(
        [sys.executable, "-c", WITH_INTERRUPT, *command(*small)[1:]],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    seen = []
    for line in job.stdout:
        seen.append(line)
        if "Train with augmentation" in line:
            job.send_signal(signal.SIGINT)
            break
    printed = job.communicate(timeout=300)[1]
    assert job.returncode == 130, printed
    assert "Traceback" not in printed and "run the same command again" in printed
    assert (out / "plain" / "stage.json").exists() and not (out / "augmented" / "stage.json").exists()

    again = run_script(*small)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already done") == 2
    assert "left for all stages" in again.stdout
    assert again.stdout.strip().endswith(str(out / "index.html"))

    finished = run_script(*small)
    assert finished.returncode == 0 and finished.stdout.count("already done") == STAGES

    page = (out / "index.html").read_text()
    history = json.loads((out / "augmented" / "stage.json").read_text())["result"]["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for words in ("73", "81", "138,357,544", "5,681,345", "block5_conv3", "tennis ball"):
        assert words in page
    with PIL.open(out / "filters" / "ascent.gif") as film:
        assert film.n_frames > 4
    drawn = list((out / "filters" / "images").glob("*.png"))
    shapes = [4, 8, 8, 8, 8]  # block1 has only four channels at this width
    assert len(drawn) == sum(shapes) and len(list((out / "classes" / "images").glob("*.png"))) == len(recipes.CLASSES)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--image", "nowhere.jpg"], "there is no image nowhere.jpg"),
        (["--filters-recipe", "articel-filters"], "did you mean article-filters"),
        (["--classes-recipe", "quick", "--classes-steps", "1"], "--classes-steps 1 is too few for recipe 'quick'"),
        (["--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["--per-class", "0"], "--per-class 0 leaves nothing to train with"),
        (["--augmented-epochs", "0"], "--augmented-epochs 0 leaves nothing"),
    ],
)
def test_bad_input(flags, sentence, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = [] if flags[0] == "--weights" else ["--weights", str(weights)]
    with pytest.raises(SystemExit) as stop:
        command_line.main(article, [*known, *flags])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1 and said.startswith("error: ") and sentence in said


@pytest.mark.parametrize("name", ["vgg11", "small-cnn", "resnet18"])
def test_a_network_that_the_article_cannot_show_is_refused_before_work_begins(name, tmp_path, capsys):
    formats.save(tmp_path / "w.safetensors", random_networks.network(name, 32, width_multiplier=0.05))
    with pytest.raises(SystemExit) as stop:
        command_line.main(article, ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.count("\n") == 1, said.err
    assert "the article needs a VGG with five blocks, such as vgg16" in said.err
    assert not said.out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"image_size": (32, 64)}, "32×64 with 3 channels"), ({"channels": 1, "kind": "none"}, "32×32 with 1 channel:")],
)
def test_a_network_of_oblong_or_grey_images_is_refused_before_work_begins(options, words):
    with pytest.raises(UserError, match=f"takes images of {words}.* the article needs one for square RGB images"):
        run.check(random_networks.network("vgg16", width_multiplier=0.05, **options))


def test_the_script_says_in_one_sentence_what_is_wrong():
    done = run_script("--image-siz", "64")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert "did you mean --image-size" in done.stderr


def test_where_the_weights_come_from():
    said = run._describe_training(formats.load_bundled("vgg16"))
    assert said.startswith("VGG16, trained on ImageNet (ILSVRC-2014) for the convolutions (Karen Simonyan")
    assert "CC BY 4.0" in said and "for the dense layers from 40 epochs with batches of 32 on the source proced" in said
    said = run._describe_training(formats.load_bundled("vgg16-mini"))
    assert said.startswith("12 epochs of adam with batches of 32 on the source procedural (version 3 of the renderer)")
    assert said.endswith("1000 images of each class and seed 0, in 12 min 56 s")
    model = random_networks.model("small-cnn", image_size=16, width_multiplier=0.05)
    assert run._describe_training(Network.create(model, normalizer=normalize.identity())) == ""
