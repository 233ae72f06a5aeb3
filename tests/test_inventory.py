"""What a run was given: the files of its images, and what has changed when it is resumed."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import from_arrays, from_folder
from cnnjax.data.inventory import Inventory
from cnnjax.data.splits import Selection, split_dataset
from cnnjax.errors import UserError
from cnnjax.train import run_data, run_dir

COLORS = {"cat": "red", "dog": "blue"}


def fill(root, count, first=0, classes=COLORS):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            color = (number, 0, 200 if COLORS.get(name) == "blue" else 0)
            Image.new("RGB", (9, 9), color).save(root / name / f"{number}.bmp")


def load(root, **others):
    return from_folder(root, image_size=8, valid=3, test=3, cache=False, **others)


def same(a, b):
    splits = [(getattr(a, name), getattr(b, name)) for name in ("train", "valid", "test")]
    return all(np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels) for x, y in splits)


@pytest.fixture
def begun(tmp_path):
    """A folder of images, the data set of it, and the folder of a run that was given this data set."""
    fill(tmp_path / "images", 10)
    dataset = load(tmp_path / "images")
    run_data.keep(tmp_path / "run", dataset.class_names, dataset)
    return tmp_path / "images", dataset, tmp_path / "run"


def test_images_that_are_added_are_counted_and_not_used(begun):
    root, dataset, run = begun
    fill(root, 5, first=10)
    fill(root, 5, classes=("bird",))
    (root / "notes.txt").touch()
    again = load(root, inventory=run_data.read_inventory(run))
    assert same(dataset, again) and again.class_names == ("cat", "dog")
    assert again.provenance["found"].endswith("20 images that the run was begun with; 15 others are not used")
    run_data.check(run, again.class_names, again)
    without = load(root, classes=("cat", "dog"))
    assert not same(dataset, without)
    with pytest.raises(UserError, match=r"other images \(10 images were added, 0 are missing or have changed\)"):
        run_data.check(run, without.class_names, without)


def test_a_moved_folder_is_the_same(begun, tmp_path):
    root, dataset, run = begun
    assert len(dataset.test) == 6  # before it moves
    root.rename(tmp_path / "elsewhere")
    again = load(tmp_path / "elsewhere", inventory=run_data.read_inventory(run))
    assert same(dataset, again)
    run_data.check(run, again.class_names, again)


def rename(root):
    (root / "cat").rename(root / "zebra")


def delete(root):
    for number in range(5):
        (root / "dog" / f"{number}.bmp").unlink()


def replace(root):
    Image.new("RGB", (9, 9)).save(root / "dog" / "3.bmp", "PNG")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (rename, "10 are missing (cat/0.bmp, cat/1.bmp, cat/2.bmp, …), all of class 'cat' among them"),
        (delete, "5 are missing (dog/0.bmp, dog/1.bmp, dog/2.bmp, …); restore them"),
        (replace, "1 have another size (dog/3.bmp)"),
    ],
)
def test_what_is_missing_or_changed_is_named(begun, change, sentence):
    root, _, run = begun
    change(root)
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(root, inventory=run_data.read_inventory(run))


def test_names_that_are_not_utf8_survive(tmp_path):
    fill(tmp_path / "images", 10)
    os.rename(tmp_path / "images" / "cat" / "3.bmp", os.fsencode(tmp_path / "images" / "cat") + b"/k\xe4tzchen\n.bmp")
    dataset = load(tmp_path / "images")
    assert Inventory.from_json(json.loads(json.dumps(dataset.inventory.as_json()))) == dataset.inventory
    run_data.keep(tmp_path, dataset.class_names, dataset)
    assert same(dataset, load(tmp_path / "images", inventory=run_data.read_inventory(tmp_path)))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda images, labels: (images, labels), None),
        (lambda images, labels: (images[:-10], labels[:-10]), "18 training images, and now there are 12"),
        (lambda images, labels: (255 - images, labels), "what they show has changed"),
        (lambda images, labels: (images, 1 - labels), "other labels of the training images"),
    ],
)
def test_arrays_that_have_changed_are_said(tmp_path, change, sentence):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    labels = np.arange(30) % 2
    dataset = from_arrays(images, labels)
    run_data.keep(tmp_path, ("a", "b"), dataset)
    assert json.loads((tmp_path / "data.json").read_text())["source"] == "arrays"
    again = from_arrays(*change(images, labels))
    if sentence is None:
        run_data.check(tmp_path, ("a", "b"), again)
        with pytest.raises(UserError, match="begun with the classes a, b, and now there are b, a"):
            run_data.check(tmp_path, ("b", "a"), again)
        return
    with pytest.raises(UserError, match=sentence):
        run_data.check(tmp_path, ("a", "b"), again)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": {"train": 3}}', "\0"])
def test_a_damaged_list_is_one_sentence(tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read as the list of a run's data"):
        run_data.read_inventory(tmp_path)
    with pytest.raises(UserError, match="list of a run's images cannot be read"):
        Inventory.from_json({"train": {"cat": 3}})


def test_a_folder_may_be_written_in_another_way_when_a_run_goes_on(tmp_path):
    before, after = ({"data": {"source": f"folder:{path}", "seed": 0}} for path in ("photos/", "/home/me/photos"))
    run_dir.prepare(tmp_path, before, False)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError, match=r"started with data\.source=folder:photos/"):
        run_dir.prepare(tmp_path, after, True)
    (tmp_path / "data.json").touch()
    run_dir.prepare(tmp_path, after, True)
    with pytest.raises(UserError, match=r"data\.source"):
        run_dir.prepare(tmp_path, {"data": {"source": "procedural"}}, True)


@pytest.mark.parametrize("share", [0.2, 20])
def test_a_split_by_names_does_not_move_when_images_are_added(share):
    def draw(count, seed=0):
        pools = {"train": {name: [f"{name}/{i}.jpg" for i in range(count)] for name in ("cat", "dog")}}
        chosen = Selection(None, share, share, seed, True, "name")
        samples = split_dataset(pools, chosen, "images")
        # Spare images belong to a split, too: they take the place of broken ones.
        return {
            split: {c for sample in classes.values() for c in sample.candidates} for split, classes in samples.items()
        }

    few, many = draw(200), draw(300)
    assert all(few[split] <= many[split] for split in few)
    assert sum(map(len, many.values())) == 600 == len(set.union(*many.values()))
    assert all(
        abs(len(many[split]) - expected) < 40 for split, expected in (("train", 360), ("valid", 120), ("test", 120))
    )
    assert draw(200) == few != draw(200, seed=1)


def test_a_split_by_names_takes_numbers_and_own_splits():
    def draw(pools, **options):
        samples = split_dataset(pools, Selection(split_by="name", **options), "images")
        return {split: {name: s.wanted for name, s in classes.items()} for split, classes in samples.items()}

    names = [f"{i}.jpg" for i in range(100)]
    pools = {"train": {"cat": names, "dog": names}, "test": {"cat": names[:30], "dog": names[:20]}}
    assert draw(pools, per_class=9, valid=5, test=0.5) == {
        "train": {"cat": 9, "dog": 9}, "valid": {"cat": 5, "dog": 5}, "test": {"cat": 30, "dog": 20}
    }  # fmt: skip
    with pytest.raises(UserError, match="of the 100 images of class 'cat' to the split train, where 99 are needed"):
        draw(pools, per_class=99)
    assert draw(pools, per_class=99, adapt=True)["train"]["cat"] > 60
    with pytest.raises(UserError, match="to the split valid, where 1 are needed"):
        draw({"train": {"cat": names[:1], "dog": names[:1]}}, adapt=True)
    with pytest.raises(UserError, match="leave no images for training"):
        draw(pools, valid=0.5, test=0.5) and draw({"train": pools["train"]}, valid=0.5, test=0.5)


def test_a_list_without_training_images_is_one_sentence():
    with pytest.raises(UserError, match="names none for training: restore it, or start over"):
        Inventory.from_json({"valid": {"cat": [["1.png", 3]]}})
