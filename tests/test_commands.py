"""The commands as a user runs them, on tiny images: what they write, what they print, and what they refuse."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import random_networks
from flax import nnx
from PIL import Image

from cnnjax import data, formats
from cnnjax.cli import build, main
from cnnjax.cli import train as cli_train
from cnnjax.cli import transfer as cli_transfer
from cnnjax.cli.check import check
from cnnjax.cli.config import Config, DataConfig, MixConfig, ModelConfig, OptimizerConfig, TrainConfig
from cnnjax.cli.config_json import from_dict
from cnnjax.cli.presets import PRESETS
from cnnjax.data.augment import Augment
from cnnjax.errors import UserError
from cnnjax.train import optimizers, run_dir, schedules

pytestmark = pytest.mark.usefixtures("quickly_compiled")
NAMES = ("axe", "shovel")


def call(*arguments: object) -> int:
    """The exit code of `cnnjax` with these arguments."""
    with pytest.raises(SystemExit) as stop:
        main.main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with a folder of noise per class, one a little redder."""
    root, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir()
        for i in range(14):
            pixels = noise.integers(0, 200, (32, 32, 3))
            pixels[..., 0] += 40 * (name == NAMES[1])
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def flags(images) -> list[str]:
    return [
        "debug", "--data.source", f"folder:{images}", "--data.per-class", "8", "--data.eval-per-class", "3",
        "--model.width-multiplier", "0.25", "--train.strategy", "jit",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory) -> Path:
    """A finished run with everything switched on."""
    folder = tmp_path_factory.mktemp("runs") / "everything"
    extra = [
        "--optimizer.name", "adamw", "--optimizer.clip-norm", "1", "--optimizer.schedule", "one-cycle",
        "--loss.label-smoothing", "0.1", "--mix.mixup", "0.2", "--train.ema", "0.5", "--train.top-k", "1",
        "--train.tensorboard", "--train.profile", "1", "--train.epochs", "3",
    ]  # fmt: skip
    assert call("train", *flags, *extra, "--run", folder) == 0
    return folder


def test_a_run_shows_itself(run):
    for name in ("weights.safetensors", "config.json", "test.json", "checkpoints"):
        assert (run / name).exists()
    assert (run / "curves.png").stat().st_size > 10_000
    assert list((run / "tensorboard").glob("events*")) and list((run / "profile").rglob("*.xplane.pb"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["valid_top1"] == row["valid_accuracy"] for row in rows)
    config = from_dict(Config, json.loads((run / "config.json").read_text()))
    assert config.mix.mixup == 0.2 and config.train.ema == 0.5 and config.run == str(run)
    assert json.loads((run / "test.json").read_text())["count"] == 6


def test_what_is_printed(flags, tmp_path, capsys):
    assert call("train", *flags, "--run", tmp_path / "run") == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and "valid accuracy" in lines[0] and "images/s" in lines[0]
    assert "the best of 2 epochs is number" in said.out and "the test accuracy is" in said.out
    last = said.out.strip().splitlines()[-1]
    assert last.startswith(f"wrote {tmp_path / 'run' / 'weights.safetensors'}, ") and "curves.png" in last


def test_a_folder_in_use_and_how_to_go_on(flags, tmp_path, capsys):
    folder = tmp_path / "run"
    assert call("train", *flags, "--run", folder, "--resume") == 2
    assert f"there is no run to resume in {folder}" in capsys.readouterr().err
    assert call("train", *flags, "--run", folder, "--train.epochs", "1") == 0
    weights = (folder / "weights.safetensors").read_bytes()
    capsys.readouterr()
    for extra, sentence in (
        ([], f"{folder} holds a finished run: continue it with --resume, or choose another --run"),
        ([], "--fresh deletes it"),
        (["--resume", "--train.batch-size", "4"], "--train.batch-size 8 and cannot be resumed with 4"),
        (["--resume", "--fresh"], "give one of them"),
    ):
        assert call("train", *flags, "--run", folder, "--train.epochs", "1", *extra) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert call("train", *flags, "--run", folder, "--train.epochs", "1", "--resume") == 0
    assert (folder / "weights.safetensors").read_bytes() == weights
    (folder / "notes.txt").write_text("mine")
    assert call("train", *flags, "--run", folder, "--train.epochs", "1", "--train.seed", "1", "--fresh") == 0
    assert (folder / "weights.safetensors").read_bytes() != weights and (folder / "notes.txt").exists()


def test_a_run_goes_on_with_what_it_was_given(run, flags, images, tmp_path, capsys):
    root, start, folder = tmp_path / "images", tmp_path / "start.safetensors", tmp_path / "run"
    shutil.copytree(images, root)
    shutil.copy(run / "weights.safetensors", start)
    flags = [*flags, "--train.init-from", start, "--run", folder]
    flags[2] = f"folder:{root}/../images"
    assert call("train", *flags, "--train.epochs", "1") == 0
    given = json.loads((folder / "data.json").read_text())
    start.unlink()
    root.rename(tmp_path / "moved")
    flags[2] = f"folder:{tmp_path / 'moved'}"
    for name in NAMES:
        shutil.copytree(images / name, tmp_path / "moved" / name / "more")
    capsys.readouterr()
    assert call("train", *flags, "--train.epochs", "2", "--resume") == 0
    assert "28 images that the run was begun with; 28 others are not used" in capsys.readouterr().out
    assert json.loads((folder / "data.json").read_text()) == given
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert formats.load(folder).provenance["init_from"]["weights"] == str(start)
    (tmp_path / "moved" / NAMES[0]).rename(tmp_path / "moved" / "zebra")
    assert call("train", *flags, "--train.epochs", "3", "--resume") == 2
    said = capsys.readouterr().err
    assert f"14 are missing ({NAMES[0]}/0.png" in said and said.count("\n") == 1


def test_an_unfinished_run_of_the_first_edition_cannot_be_continued(flags, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "checkpoints" / "10").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"data": {"side": 32}, "train": {"start": ""}}))
    assert call("train", *flags, "--run", folder, "--resume") == 2
    assert "was begun by an older version of cnnjax" in capsys.readouterr().err


def test_seeds_are_repetitions(flags, tmp_path, capsys):
    folder = tmp_path / "runs"
    assert call("train", *flags, "--run", folder, "--train.epochs", "1", "--seeds", "3", "5") == 0
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["test accuracy at the lowest loss"]
    tests = {s: json.loads((folder / f"seed-{s}" / "test.json").read_text())["accuracy"] for s in "35"}
    assert found["seeds"] == tests and found["mean"] == pytest.approx(sum(tests.values()) / 2)
    assert f"wrote {folder / 'summary.json'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (
            ["--optimizer.schedule", "warmup", "--optimizer.warmup-steps", "500"],
            "--optimizer.warmup-steps 500 is too long for a run of 4 steps",
        ),
        (["--optimizer.warmup-steps", "3"], "'constant' has no warm-up, but --optimizer.warmup-steps 3"),
        (["--optimizer.weight-decay", "0.1"], "adam has no weight decay, but --optimizer.weight-decay 0.1"),
        (["--optimizer.name", "lion", "--optimizer.nesterov"], "--optimizer.nesterov is an option of"),
        (["--train.batch-size", "3", "--train.microbatches", "2"], "--train.microbatches 2 does not divide"),
        (["--train.freeze", "conv_9"], "did you mean conv_"),
        (["--data.classes", "axe", "shovle"], "did you mean shovel"),
        (["--train.init-from", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--data.source", "folder:nowhere"], "there is no folder nowhere"),
        (["--augment.no-enabled", "--augment.rotation", "5"], "--augment.rotation has no effect without augmentation"),
    ],
)
def test_settings_that_do_not_fit_name_their_flags(flags, extra, sentence, tmp_path, capsys):
    assert call("train", *flags, *extra, "--run", tmp_path / "run") == 2
    said = capsys.readouterr().err
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and sentence in sentences[0], said
    assert not (tmp_path / "run").exists()


def test_other_mistakes_are_said_before_that_the_folder_holds_a_run(run, flags, capsys):
    for extra, sentence in (
        (["--data.source", "folder:nowhere"], "there is no folder nowhere"),
        (["--data.source", "procedural", "--data.classes", "axe", "shovle"], "did you mean shovel"),
        (["--data.source", "procedural", "--data.per-class", "0"], "--data.per-class 0 needs images in files"),
        (["--train.init-from", "nowhere.safetensors"], "there is no weights file nowhere.safetensors"),
        (["--train.init-from", "nowhere"], "unknown weights 'nowhere'"),
    ):
        assert call("train", *flags, *extra, "--run", run) == 2
        assert sentence in capsys.readouterr().err
    assert (run / "weights.safetensors").exists()


@pytest.mark.parametrize(("steps", "expected"), [(1, 0), (2, 1), (400, 100), (501, 500)])
def test_the_warmup_of_a_preset_is_shortened_for_a_run_that_is_too_short(steps, expected):
    for name in ("cnn", "vgg16-mini"):
        usual = PRESETS[name]
        short = dataclasses.replace(usual.train, epochs=1, steps_per_epoch=steps)
        config = cli_train.for_files(name, dataclasses.replace(usual, train=short))
        check(config)
        if name == "cnn":
            assert build._warmup_steps(config, steps) == expected
    rendered = dataclasses.replace(PRESETS["vgg16-mini"].data, per_class=8)
    few = dataclasses.replace(PRESETS["vgg16-mini"], data=rendered)
    assert build.rendered_steps(few) == 12 * 3 and cli_train.for_files("vgg16-mini", few).optimizer.warmup_steps is None


def test_another_schedule_drops_the_warmup_of_the_preset():
    optimizer = dataclasses.replace(PRESETS["cnn"].optimizer, schedule="cosine")
    config = dataclasses.replace(PRESETS["cnn"], optimizer=optimizer)
    check(cli_train.for_files("cnn", config))
    with pytest.raises(UserError, match="has no warm-up"):
        given = dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, warmup_steps=7))
        check(cli_train.for_files("cnn", given))


def test_of_a_single_seed_no_deviation_is_printed():
    summary = {"validation accuracy at the end": {"mean": 0.5, "deviation": 0.0, "seeds": {"0": 0.5}}}
    assert cli_train._table(summary).split() == ["validation", "accuracy", "at", "the", "end", "50.0", "%"]


@pytest.mark.parametrize("few", [0, 5])
def test_transfer_takes_no_larger_batches_than_there_are_images(few):
    epochs = dict.fromkeys(("head", "fine-tune", "small-cnn"), 1)
    given = DataConfig(source="folder:x", per_class=few)
    plan = {0: cli_transfer._configs(formats.load_bundled(), given, 0, Path("x"), epochs)}
    images = data.from_arrays(np.zeros((16, 8, 8, 3), np.uint8), np.arange(16) % 2, valid=0.2, test=0.2)
    assert len(images.train) == 10
    if few:
        cli_transfer._check_batches(plan, images)
        return
    with pytest.raises(UserError, match="32 images a step, and there are 10 for training: use --data.per-class 5"):
        cli_transfer._check_batches(plan, images)


def test_a_refusal_deletes_only_a_folder_that_it_made(tmp_path):
    def refused(folder, *names):
        with pytest.raises(UserError), run_dir.withdrawn_if_refused(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                (folder / name).touch()
            raise UserError("no")

    refused(tmp_path / "a" / "b", "config.json")
    assert not (tmp_path / "a").exists()
    refused(tmp_path / "a", "config.json", "notes.txt")
    assert (tmp_path / "a" / "config.json").exists()
    (tmp_path / "c").mkdir()
    refused(tmp_path / "c", "config.json")
    assert (tmp_path / "c" / "config.json").exists()


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--model.width-multiplier", "0.5"], "has --model.width-multiplier 0.25, and this run 0.5"),
        (["--model.name", "vgg11"], "has --model.name small-cnn, and this run vgg11"),
    ],
)
def test_weights_that_do_not_fit_the_run(run, flags, extra, sentence, tmp_path, capsys):
    folder = tmp_path / "run"
    assert call("train", *flags, *extra, "--train.init-from", run, "--run", folder) == 2
    assert sentence in capsys.readouterr().err


def test_training_starts_from_the_weights_of_a_run(run, flags, tmp_path):
    frozen = ["--train.freeze", "conv_1", "conv_2", "--model.dropout", "0"]
    folder = tmp_path / "run"
    assert call("train", *flags, *frozen, "--train.init-from", run, "--run", folder, "--train.epochs", "1") == 0
    before, after = (formats.load(place / "weights.safetensors") for place in (run, folder))
    for name in after.params:
        same = bool(np.all(np.asarray(before.params[name]["kernel"]) == np.asarray(after.params[name]["kernel"])))
        assert same == (name in ("conv_1", "conv_2")), name
    assert np.array_equal(before.normalizer.mean, after.normalizer.mean)
    assert after.config["dropout"] == 0 and after.provenance["init_from"]["digest"] == before.digest


def test_a_run_is_looked_into_exported_and_used(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("visualize", "feature-maps", "--weights", run, "--channels", "0", "1", "--out", out) == 0
    assert (out / "feature-maps.png").exists()
    filters = ["--layer", "conv_2", "--channels", "0", "1", "--recipe", "quick"]
    assert call("visualize", "filters", *filters, "--weights", run, "--out", out) == 0
    assert {"conv_2.png", "conv_2-0.png", "conv_2-0.json"} <= {path.name for path in out.iterdir()}
    assert call("export", run, "--to", "cnnjax", "--out", out / "copy.safetensors") == 0
    assert formats.load(out / "copy.safetensors").digest == formats.load(run).digest
    assert call("classify", images / "axe", "--weights", out / "copy.safetensors", "--out", out) == 0
    assert len((out / "classify.csv").read_text().splitlines()) == 1 + 14 * 2
    said = capsys.readouterr().out
    for name in ("feature-maps.png", "conv_2.png", "copy.safetensors", "classify.csv", "classify.png"):
        assert f"{out / name}" in said
    assert call("classify", images / "nowhere.png", "--weights", run, "--out", out) == 2
    assert call("visualize", "filters", "--layer", "conv_9", "--weights", run, "--out", out) == 2
    assert "unknown layer 'conv_9': did you mean conv_" in capsys.readouterr().err


def test_the_contact_sheet(tmp_path, monkeypatch, capsys):
    """Of grey images, since compiling the real ones takes long."""
    monkeypatch.setattr(
        "cnnjax.procedural.render", lambda _, keys, size, version: np.full((len(keys), size, size, 3), 90, "u1")
    )
    out = tmp_path / "sheets" / "sheet.png"
    flags = ["--classes", "cat", "--count", "3", "--columns", "2", "--image-size", "16"]
    assert call("contact-sheet", *flags, "--out", out) == 0
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 20 + 2 * 4, 8 * 10 + 2 * 20, 3)
    grey = (pixels == 90).all(axis=-1)[:, 80:]
    assert grey.sum() == 3 * 16 * 16 and grey[4:20, :16].all()
    capsys.readouterr()
    assert call("contact-sheet", *flags, "--out", tmp_path / "a\n\x1b[31mb.png") == 0
    assert r"a\n\x1b[31mb.png" in capsys.readouterr().out


# From a config to objects


def test_every_name_of_an_optimizer_and_of_a_schedule_is_a_choice():
    for part, names in (("name", optimizers.OPTIMIZERS), ("schedule", schedules.SCHEDULES)):
        for name in names:
            check(dataclasses.replace(Config(), optimizer=OptimizerConfig(**{part: name})))
        with pytest.raises(UserError):
            from_dict(OptimizerConfig, {part: "other"})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name):
    check(PRESETS[name])


def test_options_of_fit():
    config = Config(
        mix=MixConfig(cutmix=1.0),
        train=TrainConfig(top_k=(1, 5), steps_per_epoch=7, ema=0.9, profile=2),
        data=DataConfig(source="folder:x", workers=3),
    )
    options = build.fit_options(config)
    assert options["mix"] == data.cutmix(1.0) and options["augment"] is None and options["ema"] == 0.9
    assert options["metrics"].keys() == {"top1", "top5"} and options["steps_per_epoch"] == 7
    assert options["workers"] == 3 and options["profile_steps"] == 2
    assert build.fit_options(Config())["workers"] == 0  # no data, or a CPU
    plain = build.fit_options(PRESETS["debug"])
    assert plain["augment"] == Augment() and plain["mix"] is None and plain["ema"] is None
    assert plain["steps_per_epoch"] is None and plain["metrics"] == {}


@pytest.mark.parametrize(("count", "logits"), [(2, 1), (3, 3)])
@pytest.mark.parametrize("name", ["small-cnn", "vgg11"])
def test_two_classes_have_one_logit(name, count, logits):
    config = ModelConfig(name=name, width_multiplier=0.05, dense_units=7)
    made = nnx.eval_shape(lambda: build.model(config, count, (32, 40), 1, seed=0)).config()
    assert made["num_classes"] == logits and made["channels"] == 1 and tuple(made["image_size"]) == (32, 40)
    assert made.get("dense_units") in (None, 7)


# Transfer


@pytest.mark.slow
@pytest.mark.parametrize("bundled", [False, True])
def test_transfer_from_a_folder_of_images(images, tmp_path, capsys, bundled):
    """With a narrow VGG11; and with the VGG16 of the package, on images of half its size."""
    flags = ["--run", tmp_path / "run", "--data.source", f"folder:{images}", "--data.image-size", "32"]
    base = formats.load_bundled() if bundled else random_networks.network("vgg11", width_multiplier=0.05)
    if not bundled:
        formats.save(tmp_path / "vgg11.safetensors", base)
        flags += ["--weights", tmp_path / "vgg11.safetensors"]
    flags += ["--data.per-class", "8", "--data.eval-per-class", "3", "--seeds", "4"]
    flags += ["--head-epochs", "2", "--fine-tune-epochs", "1", "--small-epochs", "1"]
    assert call("transfer", *flags) == 0
    assert "wrote" in capsys.readouterr().out and (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    place = tmp_path / "run" / "seed-4"
    assert summary.keys() == {path.name for path in place.iterdir()}
    for name, found in summary.items():
        test = json.loads((place / name / "test.json").read_text())
        assert test["count"] == 6 and found["test accuracy"]["seeds"] == {"4": test["accuracy"]}
    tuned = formats.load(place / "fine-tune" / "weights.safetensors")
    assert tuned.image_size == (32, 32) and tuned.class_names == NAMES
    assert same(tuned.normalizer, base.normalizer)
    moved = {name for name in tuned.params if not same(tuned.params[name], base.params.get(name))}
    assert moved == {name for name in tuned.params if name.startswith(("block5", "fc", "predictions"))}
    assert call("transfer", *flags, "--resume") == 0
    assert "features of" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def same(a, b) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--seeds"], "--seeds names no seed"),
        (["--resume", "--fresh"], "give one of them"),
        (["--head-epochs", "0"], "--head-epochs 0 must be at least 1"),
        (["--seeds", "0", "99999999999"], "--seeds 99,999,999,999 is no seed of its own"),
        (["--data.side", "64"], "--data.side is called --data.image-size now"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_transfer_refuses(extra, sentence, tmp_path, capsys):
    assert call("transfer", "--run", tmp_path / "run", *extra) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1, said


def test_transfer_needs_a_vgg(run, tmp_path, capsys):
    assert call("transfer", "--weights", run, "--run", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "to train this one on with other classes use cnnjax train cnn" in said
    assert f"--train.init-from {run}, with its --model.name" in said
