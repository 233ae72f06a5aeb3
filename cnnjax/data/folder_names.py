"""What the names of folders and files say: the split that a folder holds, the class that a file belongs to."""

import re

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SPLITS = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# Words that may stand beside a split's in the name of its folder: training_set, test1, seg_train, val_images.
_NEUTRAL = {
    "set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split", "folder", "seg",
    "resized", "small", "full", "part",
}  # fmt: skip
# Folders of images without labels, which archives contain beside their splits.
UNLABELLED = {
    "pred",
    "predict",
    "prediction",
    "predictions",
    "single",
    "unlabeled",
    "unlabelled",
    "submission",
    "unsup",
}
# Folders of masks and boxes, which published sets have beside their images.
ANNOTATIONS = {
    "annotation",
    "annotations",
    "labels",
    "masks",
    "trimaps",
    "xmls",
    "bbox",
    "segmentation",
    "segmentations",
}
# What cameras and programs begin the names of files with.
_NOT_LABELS = {
    "img", "image", "images", "dsc", "dscn", "dscf", "pxl", "mvimg", "photo", "picture", "pic", "frame", "screenshot",
    "untitled", "file", "scan", "sample", "test", "train", "valid", "val", "download", "unnamed", "wp",
}  # fmt: skip
_NUMBERED = (
    re.compile(r"^(?P<label>.+?)(?:[._\-\s(]+\d+\)?)+$"),  # cat.12, cat_12, cat (12), n02085620_12, cat_3_12
    re.compile(r"^(?P<label>[^\d]+?)[._\-\s]*\d+$"),  # cat12
    re.compile(r"^\d+[._\-\s]+(?P<label>[^\d]+)$"),  # 12_cat
)


def is_unlabelled(name: str) -> bool:
    """Whether a folder of this name holds images to be predicted, without labels."""
    return bool(set(re.split(r"[^a-z]+", name.lower())) & UNLABELLED)


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds: "train", "valid", "test", or None."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 and all(word in _SPLITS or word in _NEUTRAL for word in words) else None


def label_in(stem: str) -> str | None:
    """The label in the name of a file, without its ending: cat of cat.12, n02085620 of n02085620_12, or None."""
    for pattern in _NUMBERED:
        if match := pattern.match(stem):
            label = match["label"].strip(" ._-")
            is_number = label.isdigit() and len(label) > 3  # a year, or a number of the file
            return label if label and label.lower() not in _NOT_LABELS and not is_number else None
    return None
