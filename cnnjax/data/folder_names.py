"""What the names of folders and files say: the split that a folder holds, the class that a file belongs to."""

import re
from collections.abc import Iterable

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
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
# The only one of these that is as often the name of a class.
_AMBIGUOUS = {"single"}
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
    "untitled", "file", "scan", "sample", "test", "train", "valid", "val", "download", "unnamed", "wp", "dji", "gopr",
    "cimg", "imgp", "hpim", "sam", "dcim", "vlcsnap", "snapshot", "capture", "received", "fb", "snapchat", "whatsapp",
    "screen", "shot", "at", "on",
}  # fmt: skip
_CAMERA = re.compile(r"^[A-Za-z]\d{6,}$")  # P1010001, G0010001
_NUMBERED = (
    re.compile(r"^(?P<label>.+?)(?:[._\-\s(]+\d+\)?)+$"),  # cat.12, cat_12, cat (12), n02085620_12, cat_3_12
    re.compile(r"^(?P<label>[^\d]+?)[._\-\s]*\d+$"),  # cat12
    re.compile(r"^\d+[._\-\s]+(?P<label>[^\d]+)$"),  # 12_cat
)


def is_unlabelled(name: str) -> bool:
    """Whether a folder of this name holds images to be predicted, without labels."""
    return bool(set(re.split(r"[^a-z]+", name.lower())) & UNLABELLED)


def is_never_a_class(name: str) -> bool:
    """Whether a folder of this name holds images without labels, even where nothing says that there are splits."""
    words = {word for word in re.split(r"[^a-z]+", name.lower()) if word}
    return bool(words & UNLABELLED) and words <= (UNLABELLED - _AMBIGUOUS) | _NEUTRAL


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds: "train", "valid", "test", or None."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 and all(word in _SPLITS or word in _NEUTRAL for word in words) else None


def split_beside(name: str) -> tuple[str, str] | None:
    """The split that a name tells beside something else, and what else it says.

    ("train", "alphabet") of alphabet_train, ("test", "b") of testB; None of a name that says only one of these.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    splits = {_SPLITS[word] for word in words if word in _SPLITS}
    rest = [word for word in words if word not in _SPLITS and word not in _NEUTRAL]
    return (splits.pop(), " ".join(rest)) if len(splits) == 1 and rest else None


def splits_by_rest(names: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """What names say beside a split, where they say it of several splits: {"alphabet": {"train": […], "test": […]}}."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if told := split_beside(name):
            found.setdefault(told[1], {}).setdefault(told[0], []).append(name)
    return {rest: splits for rest, splits in found.items() if len(splits) > 1}


def label_in(stem: str) -> str | None:
    """The label in the name of a file, without its ending: cat of cat.12, n02085620 of n02085620_12, or None."""
    if _CAMERA.match(stem):
        return None
    for pattern in _NUMBERED:
        if match := pattern.match(stem):
            label = match["label"].strip(" ._-")
            is_number = label.isdigit() and len(label) > 3  # a year, or a number of the file
            words = [word for word in re.split(r"[\W\d_]+", label.lower()) if word]
            is_usual = bool(words) and all(word in _NOT_LABELS for word in words)
            return label if label and not is_usual and not is_number else None
    return None
