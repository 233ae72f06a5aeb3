"""What a run records of its origin is what it was given, whatever its settings and earlier runs say."""

from pathlib import Path

import numpy as np
import optax
import pytest
import random_networks

from cnnjax import data, losses
from cnnjax.data.dataset import as_dataset
from cnnjax.data.inventory import Inventory
from cnnjax.errors import UserError
from cnnjax.train import run_dir
from cnnjax.train.loop import defaults
from cnnjax.train.plan import Options, Plan

IMAGES = random_networks.images((16, 16, 3), 12)
OWN = data.from_arrays(IMAGES, np.arange(12) % 2, valid=4, test=4)
FILES = Inventory.from_json({split: {"cat": [["1.png", 9]]} for split in ("train", "valid", "test")})
FOLDER = {"source": "folder:photos", "found": "2 classes"}


def plan(dataset=OWN, notes=None, **options):
    network = random_networks.network("small-cnn", 16, ("0", "1"), width_multiplier=0.05)
    network = network.replace(provenance=notes or {})
    return Plan(network, as_dataset(dataset), optax.sgd(1e-2), Options(**defaults() | options))


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_a_replaced_split_is_no_longer_the_folders(name):
    of_folder = OWN.replace(provenance=FOLDER, inventory=FILES)
    replaced = of_folder.replace(**{name: OWN.test})
    assigned = OWN.replace(provenance=FOLDER, inventory=FILES)
    setattr(assigned, name, OWN.test)
    for dataset in (replaced, assigned):
        assert dataset.provenance == {"source": "custom", "replaced": [name], "made from": FOLDER}
        assert dataset.inventory is None and getattr(dataset, name) is OWN.test
    assert of_folder.provenance == FOLDER and of_folder.inventory is FILES
    twice = replaced.replace(train=OWN.train, valid=OWN.valid)
    assert set(twice.provenance["replaced"]) == {name, "train", "valid"} and twice.provenance["made from"] == FOLDER
    assert of_folder.replace(train=OWN.train, provenance={"source": "mine"}).provenance == {"source": "mine"}
    assert of_folder.replace(class_names=("b", "a")).provenance == FOLDER


def test_an_object_that_passes_on_anothers_attributes_says_nothing_of_its_own_splits():
    class Wrapper:
        def __init__(self, inner):
            self.inner, self.train, self.valid, self.test = inner, OWN.train, OWN.valid, OWN.test

        def __getattr__(self, name):
            return getattr(self.inner, name)

    assert as_dataset(Wrapper(OWN.replace(provenance=FOLDER))).provenance == {"source": "custom"}


@pytest.mark.parametrize(
    "told, source, recorded",
    [
        ({"source": "procedural", "per_class": 1000, "normalization": "zca"}, "arrays",
         {"source": "arrays", "normalization": "zca"}),
        ({"source": "procedural"}, "folder:x", {"source": "folder:x"}),
        ({"source": "folder:y"}, "folder:x", {"source": "folder:x"}),
        ({"source": "folder:../{here}/x", "seed": 3}, "folder:x", {"source": "folder:../{here}/x", "seed": 3}),
        ({"source": "hub:a/b", "seed": 3}, "hub:a/b@main", {"source": "hub:a/b", "seed": 3}),
        ({"seed": 3}, "arrays", {"seed": 3}),
        ("photos", "arrays", "photos"),
    ],
)  # fmt: skip
def test_settings_name_the_source_that_was_used(told, source, recorded):
    def here(value):
        if isinstance(value, dict) and "source" in value:
            return value | {"source": value["source"].format(here=Path.cwd().name)}
        return value

    dataset = OWN.replace(provenance={"source": source})
    assert plan(dataset, config={"data": here(told), "epochs": 3}).settings == {"data": here(recorded), "epochs": 3}


def test_what_an_earlier_run_reached_is_not_claimed_by_the_next_one():
    notes = {"test": {"loss": 0.1, "count": 4}, "data": FOLDER, "best": {"epoch": 3}, "init_from": {"weights": "a"}}
    begun = plan(notes=notes)
    assert begun.network.provenance == {"init_from": {"digest": begun.network.digest, "provenance": notes}}
    for plain in ({"from": "Keras' HDF5 file", "file": "w.h5"}, {"base": "0123"}, {}):
        assert plan(notes=plain).network.provenance == plain


@pytest.mark.parametrize("provenance", [{"source": Path("x")}, {"loss": np.float32(3)}, {"a": {1, 2}}])
def test_what_json_cannot_hold_is_refused_before_any_work(provenance):
    with pytest.raises(UserError, match="a data set's provenance cannot be kept as JSON"):
        OWN.replace(provenance=provenance)
    for name in ("config", "provenance"):
        with pytest.raises(UserError, match=f"^{name} cannot be kept as JSON"):
            plan(**{name: provenance})


def test_a_provenance_that_is_no_dict():
    class Own:
        train, valid, test, provenance = OWN.train, OWN.valid, OWN.test, "photos"

    with pytest.raises(UserError, match="the data set's provenance must be a dict, such as .*, and not str"):
        as_dataset(Own())


def test_a_function_is_recorded_by_its_name_and_not_by_its_place_in_memory(tmp_path):
    def mine(logits, labels, activations):
        return losses.cross_entropy()(logits, labels, activations)

    settings = plan(loss=mine).settings
    assert settings["loss"].endswith("<locals>.mine>") and " at 0x" not in settings["loss"]
    run_dir.prepare(tmp_path, dict(settings) | {"loss": repr(mine)}, resume=False)  # as it was recorded before
    (tmp_path / "weights.safetensors").touch()
    run_dir.prepare(tmp_path, settings, resume=True)
    with pytest.raises(UserError, match="was started with loss="):
        run_dir.prepare(tmp_path, dict(settings) | {"loss": "<function other>"}, resume=True)


def test_a_run_on_other_weights_features_is_not_resumed(tmp_path):
    settings = {"epochs": 3, "base": {"weights": "a.h5", "digest": "12"}}
    run_dir.prepare(tmp_path, settings, resume=False)
    (tmp_path / "weights.safetensors").touch()
    run_dir.prepare(tmp_path, {"epochs": 3, "base": {"weights": "moved/a.h5", "digest": "12"}}, resume=True)
    with pytest.raises(UserError, match="was begun with other weights, moved/a.h5: pass those, or choose another"):
        run_dir.prepare(tmp_path, {"epochs": 3, "base": {"weights": "b.h5", "digest": "34"}}, resume=True)
    run_dir.prepare(tmp_path, {"epochs": 3}, resume=True)
