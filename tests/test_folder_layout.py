"""Arrangements of image folders, as archives come: what is a class, what is a split, and what is asked about."""

import os
import re

import pytest
from PIL import Image

from cnnjax.classify import find_images
from cnnjax.cli import build
from cnnjax.cli.config import DataConfig
from cnnjax.data import from_folder
from cnnjax.data.folder_layout import find_layout
from cnnjax.data.folder_names import label_in, split_of
from cnnjax.errors import UserError

COUNT = 3


def make(root, *files):
    """Empty files with these paths; {} stands for the numbers of three."""
    for file in files:
        for number in range(COUNT if "{}" in file else 1):
            path = root / file.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def found(root, classes=()):
    """Split -> class -> number of images, and where the labels are from."""
    layout = find_layout(root, classes)
    return {split: {name: len(some) for name, some in files.items()} for split, files in layout.splits.items()}, layout


BOTH = {"cat": COUNT, "dog": COUNT}
ALL = {"train": BOTH, "valid": BOTH, "test": BOTH}


def arranged(train, valid, test):
    return [f"{split}/{name}/{{}}.jpg" for split in (train, valid, test) for name in ("cat", "dog")]


LAYOUTS = {
    "a folder for each class": (["cat/{}.jpg", "dog/{}.jpg"], {"train": BOTH}),
    "Kaggle's competition": (["train/cat.{}.jpg", "train/dog.{}.jpg", "test1/{}.jpg"], {"train": BOTH}),
    "Kaggle's competition, unzipped twice": (
        ["dogs-vs-cats/train/train/cat.{}.jpg", "dogs-vs-cats/train/train/dog.{}.jpg", "dogs-vs-cats/test/test/{}.jpg"],
        {"train": BOTH},
    ),
    "Kaggle's competition, without the test images": (["train/cat.{}.jpg", "train/dog.{}.jpg"], {"train": BOTH}),
    "PetImages": (["PetImages/cat/{}.jpg", "PetImages/dog/{}.jpg", "readme.txt"], {"train": BOTH}),
    "two spare levels": (["a/b/cat/{}.jpg", "a/b/dog/{}.jpg"], {"train": BOTH}),
    "filtered": (["cats_and_dogs/" + file for file in arranged("train", "validation", "test")], ALL),
    "training, val, testing": (arranged("training", "val", "testing"), ALL),
    "sets": (arranged("training_set", "validation_set", "test_set"), ALL),
    "sets within themselves": (
        [f"{split}/{split}/{name}/{{}}.jpg" for split in ("training_set", "test_set") for name in ("cat", "dog")],
        {"train": BOTH, "test": BOTH},
    ),
    "Intel's scenes": (
        [*(f"seg_{s}/seg_{s}/{n}/{{}}.jpg" for s in ("train", "test") for n in ("cat", "dog")),
         "seg_pred/seg_pred/{}.jpg"],
        {"train": BOTH, "test": BOTH},
    ),
    "capital letters": (arranged("Train", "Valid", "Test"), ALL),
    "eval": (arranged("train", "eval", "test"), ALL),
    "test images of one folder": (
        ["train/cat/{}.jpg", "train/dog/{}.jpg", "test/unknown/{}.jpg"],
        {"train": BOTH},
    ),
    "labelled files in every split": (
        [f"{split}/{name}_{{}}.png" for split in ("train", "val", "test") for name in ("cat", "dog")],
        ALL,
    ),
    "splits within classes": (
        [f"{name}/{split}/{{}}.jpg" for name in ("cat", "dog") for split in ("train", "val", "test")],
        ALL,
    ),
    "labelled files alone": (["cat_{}.jpg", "dog_{}.jpg"], {"train": BOTH}),
    "labelled files in images": (["images/cat_{}.jpg", "images/dog_{}.jpg", "annotations/list.txt"], {"train": BOTH}),
    "Oxford's pets": (
        ["images/cat_{}.jpg", "images/dog_{}.jpg", "annotations/trimaps/cat_{}.png", "annotations/xmls/cat_1.xml"],
        {"train": BOTH},
    ),
    "a prediction beside": (
        ["training_set/cat/{}.jpg", "training_set/dog/{}.jpg", "single_prediction/cat_or_dog_{}.jpg"],
        {"train": BOTH},
    ),
    "a copy within": (["cat/{}.jpg", "dog/{}.jpg", "images/cat/{}.jpg", "images/dog/{}.jpg"], {"train": BOTH}),
    "a copy of the splits within": (
        ["set/train/cat/{}.jpg", "set/train/dog/{}.jpg", "set/set/train/cat/{}.jpg", "set/set/train/dog/{}.jpg",
         "set/__MACOSX/set/train/cat/._{}.jpg"],
        {"train": BOTH},
    ),
    "classes that are called as splits, in folders of splits": (
        ["train/bus/{}.jpg", "train/train/{}.jpg", "test/bus/{}.jpg", "test/train/{}.jpg"],
        {split: {"bus": COUNT, "train": COUNT} for split in ("train", "test")},
    ),
    "folders without images beside": (
        ["birds/images/cat/{}.jpg", "birds/images/dog/{}.jpg", "birds/attributes/{}.txt", "segmentations/cat/{}.png"],
        {"train": BOTH},
    ),
    "labels beside images": (["images/cat/{}.jpg", "images/dog/{}.jpg", "labels/cat/{}.txt"], {"train": BOTH}),
    "an empty split": (["train/cat/{}.jpg", "train/dog/{}.jpg", "valid/list.csv"], {"train": BOTH}),
    "tiny ImageNet": (
        ["train/cat/images/{}.JPEG", "train/dog/images/{}.JPEG", "val/images/val_{}.JPEG", "val/annotations.txt"],
        {"train": BOTH},
    ),
    "ImageNet's competition": (
        ["ILSVRC/Data/CLS-LOC/train/cat/cat_{}.JPEG", "ILSVRC/Data/CLS-LOC/train/dog/dog_{}.JPEG",
         "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{}.JPEG", "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_{}.JPEG",
         "ILSVRC/Annotations/CLS-LOC/train/cat/cat_{}.xml", "ILSVRC/ImageSets/CLS-LOC/train_cls.txt"],
        {"train": BOTH},
    ),
    "splits with another name before them": (
        [*(f"asl_train/asl_train/{n}/{n}{{}}.jpg" for n in ("cat", "dog")), "asl_test/asl_test/cat_test.jpg"],
        {"train": BOTH},
    ),
    "splits with another name and spaces": (
        [f"my dataset {split}/{name}/{{}}.jpg" for split in ("train", "test") for name in ("cat", "dog")],
        {"train": BOTH, "test": BOTH},
    ),
    "a hold-out": (
        [f"{split}/{name}/{{}}.jpg" for split in ("train", "holdout") for name in ("cat", "dog")],
        {"train": BOTH, "test": BOTH},
    ),
    "five spare levels": (["a/b/c/d/e/cat/{}.jpg", "a/b/c/d/e/dog/{}.jpg"], {"train": BOTH}),
    "masks beside the images of each class": (
        [f"{name}/{kind}/{{}}.png" for name in ("cat", "dog") for kind in ("images", "masks")],
        {"train": BOTH},
    ),
    "masks among the images of each class": (
        ["cat/{}.png", "cat/{}_mask.png", "dog/{}.png", "dog/{}_mask.png", "dog/0_mask_1.png"],
        {"train": BOTH},
    ),
    "a class of masks": (["with_mask/{}.png", "no_mask/{}.png"], {"train": {"no_mask": COUNT, "with_mask": COUNT}}),
    "predictions beside classes": (["cat/{}.png", "dog/{}.png", "predictions/{}.png"], {"train": BOTH}),
    "numbered folders within classes": (
        [f"{name}/{number:03}/{{}}.png" for name in ("cat", "dog") for number in range(2)],
        {"train": {"cat": 2 * COUNT, "dog": 2 * COUNT}},
    ),
    "hidden and system folders": (
        ["cat/{}.jpg", "dog/{}.jpg", ".git/x/{}.jpg", "__MACOSX/cat/._{}.jpg", "@eaDir/{}.jpg",
         "cat/.ipynb_checkpoints/{}.jpg"],
        {"train": BOTH},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrangements_of_archives(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    assert found(make(tmp_path, *files))[0] == expected


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    make(tmp_path / "elsewhere", "{}.jpg")
    make(tmp_path / "set", "dog/{}.jpg")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set" / "dog")
    assert found(tmp_path / "set")[0] == {"train": BOTH}


def test_links_back_and_links_to_one_folder(tmp_path):
    make(tmp_path, "set/cat/{}.jpg", "set/dog/{}.jpg")
    (tmp_path / "set" / "cat" / "up").symlink_to("..")
    assert found(tmp_path / "set")[0] == {"train": BOTH}
    (tmp_path / "set" / "pig").symlink_to(tmp_path / "set" / "cat")
    with pytest.raises(UserError, match="cat and pig in .* are links to one folder"):
        find_layout(tmp_path / "set")


def test_what_was_found_is_said(tmp_path):
    make(
        tmp_path, "train/cat.{}.jpg", "train/dog.{}.jpg", "test1/{}.jpg", "sample.csv", "train/notes.txt", "train/b.TXT"
    )
    sentence = found(tmp_path)[1].describe()
    assert sentence == (
        "2 classes, 6 images; labels from file names; 3 images in test1 are not used: they have no labels; "
        "not read: 2 .txt, 1 .csv"
    )
    make(tmp_path / "own", *arranged("train", "val", "test"))
    assert (
        "18 images; labels from folders; splits of its own: train 6, valid 6, test 6"
        in found(tmp_path / "own")[1].describe()
    )


REFUSED = {
    "classes beside splits": (["car/{}.jpg", "plane/{}.jpg", "train/steam/{}.jpg", "train/diesel/{}.jpg"],
                              "folders of splits (train) beside folders of images (car, plane)"),
    "a class that could be a split": (["car/{}.jpg", "plane/{}.jpg", "train/{}.jpg"], "(`classes`)"),
    "two folders for one split": (
        [f"{split}/{name}/{{}}.jpg" for split in ("train", "valid", "val") for name in ("cat", "dog")],
        "more than one folder for the split valid: val",
    ),
    "two folders for training": (
        ["train/cat/{}.jpg", "train/dog/{}.jpg", "Train/cat/{}.jpg", "Train/dog/{}.jpg"],
        "more than one folder for the split train: ",
    ),
    "no training": (["test/cat/{}.jpg", "test/dog/{}.jpg", "val/dog/{}.jpg"], "no folder for training"),
    "other files in folders of the same names": (
        ["cat/{}.jpg", "dog/{}.jpg", "more/cat/new{}.jpg", "more/dog/new{}.jpg"], "merge them or move one away"),
    "names that differ in case only": (["Cat/{}.jpg", "cat/{}.jpg", "dog/{}.jpg"], "differ in case only"),
    "a copy of a class": (["cat/{}.jpg", "cat copy/{}.jpg", "dog/{}.jpg"], "the folder cat copy in"),
    "a numbered copy within splits": (
        ["train/cat/{}.jpg", "train/cat (1)/{}.jpg", "train/dog/{}.jpg"], "(1) in"),
    "one name without a label": (
        ["cat.{}.jpg", "dog.{}.jpg", "pig.{}.jpg", "cow.{}.jpg", "readme.jpg"],
        "13 images, 1 of them without a label in the name, such as 'readme.jpg'"),
    "a split within one class": (["cat/train/{}.jpg", "dog/{}.jpg"], "dog has none"),
    "one set in several versions": (
        [f"{kind}/{name}/{{}}.jpg" for kind in ("color", "grey") for name in ("cat", "dog")],
        "the folders color and grey in"),
    "one set from several places": (
        [f"{place}/images/{name}/{{}}.jpg" for place in ("amazon", "webcam") for name in ("cat", "dog")],
        "both hold folders called cat, dog: if these are the classes, give amazon alone"),
    "folds": ([f"fold{i}/{n}/{{}}.jpg" for i in (1, 2) for n in ("0", "1")], "the folders fold1 and fold2 in"),
    "splits in another language": (
        [f"{split}/{name}/{{}}.jpg" for split in ("entrenamiento", "prueba") for name in ("cat", "dog")],
        "both hold folders called cat, dog"),
    "versions within a split": (
        [f"train/{kind}/{name}/{{}}.jpg" for kind in ("color", "grey") for name in ("cat", "dog")],
        "both hold folders called cat, dog"),
    "splits in the names of classes": (
        [f"{split}_{name}/{{}}.jpg" for split in ("train", "test") for name in ("cat", "dog")],
        "the folders test_cat and train_cat in"),
    "splits before a letter": (
        [f"{split}{name}/{{}}.jpg" for split in ("train", "test") for name in "AB"], "testA and trainA"),
    "splits in the labels of files": (
        [f"{split}_{name}_{{}}.jpg" for split in ("train", "test") for name in ("cat", "dog")],
        "are called test_cat and train_cat, as splits of one class"),
    "labels that differ in case only": (["Cat.{}.jpg", "cat.1{}.jpg", "dog.{}.jpg"], "differ in case only: rename"),
    "a messenger's names": ([f"WhatsApp Image 2020-01-0{i} at 10.10.0{{}}.jpeg" for i in (1, 2)], "holds no folders"),
    "several cameras' names": (["DJI_{}.JPG", "GOPR000{}.JPG", "P101000{}.JPG", "G001000{}.JPG"], "holds no folders"),
    "cars without labels": (
        ["cars_train/cars_train/{}.jpg", "cars_test/cars_test/{}.jpg"], "holds no folders and no labels"),
    "no labels": (["train/{}.jpg"], "holds no folders and no labels in the names of its files"),
    "a camera's names": (["IMG_{}.jpg", "DSC_{}.jpg"], "holds no folders"),
    "nothing": (["readme.txt"], "holds no folders"),
}  # fmt: skip


@pytest.mark.parametrize("layout", REFUSED)
def test_one_sentence_asks(tmp_path, layout):
    files, sentence = REFUSED[layout]
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        find_layout(make(tmp_path, *files))
    assert "\n" not in str(caught.value)


COPIES = (
    "cat - Copy", "cat - Copy (2)", "cat copy", "cat copy 2", "cat (copy)", "cat (another copy)", "cat (3rd copy)",
    "cat (1)", "cat(2)", "Copy of cat", "Copy (2) of cat", "cat - Kopie", "cat (Kopie)", "Cat - copie", "cat_copy",
    "Kopie von cat",
)  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_file_managers_are_asked_about(tmp_path, copy):
    make(tmp_path, "cat/{}.jpg", f"{copy}/{{}}.jpg", "dog/{}.jpg")
    sentence = f"the folder {copy} in {tmp_path} is called as a copy of cat: merge them or move one away, or name the"
    with pytest.raises(UserError, match=re.escape(sentence)):
        find_layout(tmp_path)
    assert copy in found(tmp_path, ("cat", copy))[0]["train"], "named, it is one"


def test_names_that_are_no_copies(tmp_path):
    names = ("photocopy", "copy", "hard copy", "cat", "cat 2", "dog (1)")
    make(tmp_path, *(f"{name}/{{}}.jpg" for name in names))
    assert found(tmp_path)[0] == {"train": dict.fromkeys(names, COUNT)}


def test_classes_that_are_named_are_not_asked_about(tmp_path):
    make(tmp_path, *(f"{kind}/{name}/{{}}.jpg" for kind in ("color", "grey") for name in ("cat", "dog")))
    names = ("color", "grey")
    assert found(tmp_path, names)[0] == {"train": dict.fromkeys(names, 2 * COUNT)}
    make(
        tmp_path / "other", *(f"asl_{split}/{name}/{{}}.jpg" for split in ("train", "test") for name in ("cat", "dog"))
    )
    assert found(tmp_path / "other", ("dog", "cat"))[0] == {"train": BOTH, "test": BOTH}


def test_only_the_named_classes_need_splits(tmp_path):
    splits = [f"{name}/{split}/{{}}.jpg" for name in ("cat", "dog") for split in ("train", "test")]
    make(tmp_path, *splits, "misc/{}.jpg")
    with pytest.raises(UserError, match="misc has none"):
        found(tmp_path)
    splits, layout = found(tmp_path, ("cat", "dog"))
    assert splits == {"train": BOTH, "test": BOTH} and layout.unused == {"misc": COUNT}


def test_what_is_left_out_beside_images_is_counted(tmp_path):
    make(tmp_path, "cat/images/{}.png", "cat/masks/{}.png", "dog/{}.png", "dog/{}_mask.png", "cow/{}.png")
    sentence = found(tmp_path)[1].describe()
    assert sentence.endswith("not read: 3 in folders called masks, 3 masks of other images")
    assert len(find_images([tmp_path])) == 3 * COUNT


def test_names_of_splits_are_classes_only_when_asked_for(tmp_path):
    make(tmp_path, "car/{}.jpg", "plane/{}.jpg", "train/{}.jpg")
    names = ("car", "plane", "train")
    assert found(tmp_path, names)[0] == {"train": dict.fromkeys(names, COUNT)}


def test_a_folder_that_cannot_be_entered_is_named(tmp_path, monkeypatch):
    make(tmp_path, "cat/{}.jpg", "dog/{}.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"dog cannot be read \(Permission denied\): check its permissions"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("stem", "label"),
    [("cat.0", "cat"), ("dog_12", "dog"), ("cat (3)", "cat"), ("n02085620_10074", "n02085620"), ("cat0001", "cat"),
     ("american_pit_bull_terrier_7", "american_pit_bull_terrier"), ("12_cat", "cat"), ("cat_3_12", "cat"),
     ("12", None), ("IMG_1234", None), ("DSC00012", None), ("20240131_120000", None), ("cat", None)],
)  # fmt: skip
def test_labels_in_names(stem, label):
    assert label_in(stem) == label


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training_Set", "train"), ("test1", "test"), ("val-images", "valid"), ("dev", "valid"),
     ("seg_test", "test"), ("cat", None), ("trainer", None), ("train_station", None), ("train_test", None)],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_training_and_classify_see_the_same_files(tmp_path):
    for name, color in (("cat", "red"), ("dog", "blue")):
        (tmp_path / name / "more").mkdir(parents=True)
        for number, ending in enumerate(("jpg", "TIF", "png", "webp", "avif")):
            Image.new("RGB", (9, 9), color).save(tmp_path / name / f"{number}.{ending}")
        Image.new("RGB", (9, 9), color).save(tmp_path / name / "more" / "5.png")
        Image.new("RGB", (9, 9), color).save(tmp_path / name / "._6.png")
    dataset = from_folder(tmp_path, image_size=8, valid=1, test=1, cache=False)
    assert len(dataset.train) == 8 and len(find_images([tmp_path])) == 12 and dataset.skipped == ()


def test_the_command_says_what_it_uses(tmp_path):
    for number in range(20):
        for name, color in (("cat", "red"), ("dog", "blue")):
            (tmp_path / "train").mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), color).save(tmp_path / "train" / f"{name}.{number}.png")
    config = DataConfig(source=f"folder:{tmp_path}", image_size=8, cache=False)
    dataset = build.dataset(config)
    assert build.describe(config, dataset) == (
        f"folder:{tmp_path}: 2 classes, 40 images; labels from file names; 24 images for training and 8 images for "
        "validation, because there are not 1000 a class for training and 500 a class for validation"
    )
    asked = DataConfig(source=f"folder:{tmp_path}", image_size=8, per_class=5, eval_per_class=2, cache=False)
    assert build.describe(asked, build.dataset(asked)).endswith("10 images for training and 4 images for validation")
    assert build.describe(DataConfig(), dataset) == ""


def test_images_of_classes_in_splits_that_are_in_none_are_counted(tmp_path):
    names = [f"{name}/{split}/{{}}.jpg" for name in ("cat", "dog") for split in ("train", "val")]
    splits, layout = found(make(tmp_path, *names, "cat/{}.jpg", "cat/extra/{}.jpg"))
    assert splits == {"train": BOTH, "valid": BOTH}
    assert "not read: 6 images of cat in no split" in layout.describe()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ["cat/train/{}.jpg", "cat/val/{}.jpg", "dog/train/{}.jpg"],
            r"class 'dog' is in .*\*/train but not in .*\*/val: add or remove it",
        ),
        (
            ["cat/train/{}.jpg", "cat/val/{}.jpg", "dog/train/{}.jpg", "dog/val/list.csv"],
            "the folder of class 'dog', .*dog/val, holds no images",
        ),
    ],
)
def test_a_class_without_one_of_the_splits_in_it_is_named_with_the_split(tmp_path, files, sentence):
    with pytest.raises(UserError, match=sentence):
        from_folder(make(tmp_path, *files), image_size=8, cache=False)


def test_links_that_lead_in_a_circle_are_files_that_cannot_be_read(tmp_path):
    make(tmp_path, "cat/{}.jpg", "dog/{}.jpg")
    (tmp_path / "cat" / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "fish").symlink_to("fish")
    splits, _ = found(tmp_path)
    assert splits["train"] == {"cat": COUNT + 1, "dog": COUNT}  # named when it is read, as a broken image is
