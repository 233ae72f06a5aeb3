"""fit: what a run leaves behind, that stopping and dividing do not change it, and every bad input as one sentence."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from PIL import Image

from cnnjax import Network, formats, losses, models, runtime
from cnnjax.data import Augment, mixup
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit
from cnnjax.data.lazy_images import LazyImages, channel_histogram
from cnnjax.data.normalize import identity
from cnnjax.errors import Preempted, UserError
from cnnjax.train import fit as train_fit
from cnnjax.train import metrics, network_fits, optimizers, run_dir
from cnnjax.train.loop import defaults
from cnnjax.train.plan import Options, Plan
from cnnjax.train.progress import OnProgress

# Programs that run a few times.

SIDE, SIZE, EPOCHS = 16, 36, 3
COLUMNS = {
    "epoch", "step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "images_per_second", "seconds"
}  # fmt: skip


def images_and_labels(seed: int, size: int = SIZE) -> ArraySplit:
    """Two classes, one a little redder."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 2).astype(np.int32)
    images = rng.integers(0, 200, (size, SIDE, SIDE, 3))
    images[..., 0] += 30 * labels[:, None, None]
    return ArraySplit(images.astype(np.uint8), labels)


DATA = Dataset(images_and_labels(0), images_and_labels(1, 22), lambda: images_and_labels(2, 22), ("cat", "dog"))
OPTIONS = {
    "augment": Augment(),
    "epochs": EPOCHS,
    "batch_size": 8,
    "steps_per_epoch": 6,
    "strategy": "jit",
}


def fit(folder: Path | None, dataset=DATA, tx: optax.GradientTransformation | None = None, **changes):
    """A run of the small network; `changes` are arguments of `train.fit`."""
    model = models.create(
        "small-cnn", num_classes=1, image_size=SIDE, width_multiplier=0.1, seed=changes.get("seed", 0)
    )
    tx = tx or optimizers.create("adam", 1e-3)
    changes.setdefault("on_progress", lambda *_: None)
    return train_fit(Network.create(model, dataset), dataset, tx, run_dir=folder, **OPTIONS | changes)


def numbers(history: list[dict]) -> list[dict]:
    """Rows without what a clock says."""
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in history]


def with_test(load) -> Dataset:
    """The data set with another test split."""
    return DATA.replace(test=load)


def weights(result) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.network.params)]


def same(a, b) -> bool:
    equal = all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))
    return equal and numbers(a.history) == numbers(b.history) and a.test == b.test


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted: its folder, its result, and what it reported."""
    folder, seen = tmp_path_factory.mktemp("whole") / "run", []
    return folder, fit(folder, on_progress=lambda *told: seen.append(told), weights_every_epochs=3), seen


def interrupt_after(steps: int) -> OnProgress:
    def stop(done: int, total: int, latest: dict) -> None:
        if done >= steps:
            raise KeyboardInterrupt

    return stop


def follow(seen: list[int]) -> OnProgress:
    return lambda done, total, latest: seen.append(done)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same run stopped by Ctrl-C within its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, on_progress=interrupt_after(7))
    return folder


def test_what_a_run_leaves_behind(whole):
    folder, result, _ = whole
    assert [set(row) for row in result.history] == [COLUMNS] * EPOCHS
    assert [(row["epoch"], row["step"]) for row in result.history] == [(1, 6), (2, 12), (3, 18)]
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.history
    assert json.loads((folder / "test.json").read_text()) == result.test
    assert result.test["count"] == 22 and 0 <= result.test["accuracy"] <= 1
    assert json.loads((folder / "config.json").read_text())["epochs"] == EPOCHS
    loaded = formats.load(folder / "weights.safetensors")
    assert (
        loaded.class_names == ("cat", "dog")
        and loaded.image_size == (SIDE, SIDE)
        and loaded.digest == result.network.digest
    )


def test_weights_of_epochs_are_kept(whole, tmp_path):
    folder, result, _ = whole
    kept = {path.stem: formats.load(path) for path in (folder / "weights").iterdir()}
    assert set(kept) == {"epoch-0000", f"epoch-{EPOCHS:04d}"}
    start = models.create("small-cnn", num_classes=1, image_size=SIDE, width_multiplier=0.1)
    jax.tree.map(np.testing.assert_array_equal, kept["epoch-0000"].params, models.split(start)[1])
    last = kept[f"epoch-{EPOCHS:04d}"]
    assert last.provenance["valid_loss"] == result.history[-1]["valid_loss"] and last.class_names == ("cat", "dog")
    if metrics.best(result.history)["epoch"] == EPOCHS:
        assert last.digest == result.network.digest
    with pytest.raises(UserError, match="weights_every_epochs need a run_dir"):
        fit(None, weights_every_epochs=1)


def test_a_run_is_a_network_before_it_ends(whole, tmp_path):
    """Its folder, and that of a checkpoint, are read as the network that will be kept."""
    folder, result, _ = whole
    shutil.copytree(folder, tmp_path / "run")
    assert formats.load(tmp_path / "run").digest == result.network.digest
    (tmp_path / "run" / "weights.safetensors").unlink()
    best = formats.load(tmp_path / "run")
    assert best.digest == result.network.digest and best.class_names == ("cat", "dog")
    assert best.provenance["row"] == max(result.history, key=metrics.selection_key)
    jax.tree.map(np.testing.assert_array_equal, best.normalizer, result.network.normalizer)


def test_the_test_split_is_judged_by_the_best_epoch(whole):
    """The kept network, asked directly, gives the validation accuracy of the best epoch and the test metrics."""
    _, result, _ = whole
    best = max(result.history, key=lambda row: (row["valid_accuracy"], -row["valid_loss"], row["epoch"]))
    for split, loss, accuracy in (
        (DATA.valid, best["valid_loss"], best["valid_accuracy"]),
        (DATA.test, result.test["loss"], result.test["accuracy"]),
    ):
        images = jax.numpy.asarray(split.images, jax.numpy.float32) / 255.0
        z = np.asarray(result.network(images)[0], np.float64)[:, 0]
        np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp(z)) - split.labels * z), rtol=1e-5)
        np.testing.assert_allclose(accuracy, np.mean((z > 0) == split.labels))


def test_progress_is_told_after_every_call(whole):
    _, result, seen = whole
    assert [done for done, _, _ in seen] == [*range(1, 7), *range(6, 13), *range(12, 19), 18] and {
        total for _, total, _ in seen
    } == {18}
    assert seen[-1][2] == result.history[-1]


def test_interrupted_and_resumed_is_the_uninterrupted_run_bit_for_bit(whole, interrupted, tmp_path, capsys):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:  # a line past the checkpoint
        file.write('{"epoch": 2}\n')
    resumed = fit(folder, resume=True, on_progress=None)
    assert "epoch 3/3: loss " in capsys.readouterr().err
    assert same(resumed, whole[1]) and len(resumed.history) == EPOCHS
    assert numbers([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]) == numbers(
        whole[1].history
    )


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_a_run_stopped_within_an_epoch_goes_on_there_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, checkpoint_every_steps=2, on_progress=interrupt_after(10))
    assert checkpoints(folder) == {"6", "8-partial"}
    seen = []
    resumed = fit(folder, checkpoint_every_steps=2, resume=True, on_progress=follow(seen))
    assert seen[0] == 9 and same(resumed, whole[1])


@pytest.mark.slow
def test_calls_of_several_steps_agree_bit_for_bit_however_an_epoch_is_divided(tmp_path):
    """With calls of two steps, later of three, and of one: none may reach over the end of the epoch."""
    expected = fit(None, dispatches_per_epoch=1)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", dispatches_per_epoch=3, checkpoint_every_steps=2, on_progress=interrupt_after(10))
    assert checkpoints(tmp_path / "run") == {"6", "8-partial"}
    seen = []
    options = {"checkpoint_every_steps": 2, "resume": True}
    resumed = fit(tmp_path / "run", dispatches_per_epoch=2, on_progress=follow(seen), **options)
    assert seen[0] == 9 and same(resumed, expected) and same(fit(None, dispatches_per_epoch=6), expected)


@pytest.mark.parametrize(
    ("when", "kept"), [(8, {"6", "8-partial"}), (12, {"6", "12-partial"}), (18, {"12", "18-partial"})]
)
def test_sigterm_saves_after_the_running_call(whole, tmp_path, when, kept):
    """Within an epoch, at the end of one before it is judged, at the end of the run."""
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)

    def terminate(done: int, total: int, latest: dict) -> None:
        if done == when:
            for _ in range(2):  # a scheduler may tell a process twice
                os.kill(os.getpid(), signal.SIGTERM)

    sentence = f"stopped by SIGTERM: {folder} keeps all {when} steps: continue with resume=True"
    with pytest.raises(Preempted, match=sentence):
        fit(folder, checkpoint_every_steps=0, on_progress=terminate)
    assert signal.getsignal(signal.SIGTERM) == before
    assert kept <= checkpoints(folder) and same(fit(folder, resume=True), whole[1])


def test_sigterm_in_a_run_that_can_finish(whole, tmp_path):
    """What comes while the test split is judged is obeyed when all is written."""

    def terminate() -> ArraySplit:
        os.kill(os.getpid(), signal.SIGTERM)
        return DATA.test

    with pytest.raises(Preempted):
        fit(tmp_path / "run", with_test(terminate))
    assert run_dir.finished(tmp_path / "run", EPOCHS, 0) is not None
    assert same(fit(tmp_path / "run", resume=True), whole[1])


def test_a_longer_run_killed_at_its_end_is_not_taken_for_finished(whole, tmp_path):
    """The shorter run's weights and test.json are there, and all rows of the longer one."""

    def stop() -> ArraySplit:
        raise KeyboardInterrupt

    fit(tmp_path / "run", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", with_test(stop), resume=True)
    assert same(fit(tmp_path / "run", resume=True), whole[1])


def test_more_epochs_later_do_not_change_a_run(whole, tmp_path):
    assert len(fit(tmp_path / "run", epochs=2).history) == 2
    assert same(fit(tmp_path / "run", resume=True), whole[1])


def test_eight_devices_train_the_same_run(whole, tmp_path):
    """Begun as pmap, ended as mesh."""
    fit(tmp_path / "run", epochs=1, strategy="pmap")
    result = fit(tmp_path / "run", strategy="mesh", resume=True)
    for row, one in zip(result.history, whole[1].history, strict=True):
        np.testing.assert_allclose(row["valid_loss"], one["valid_loss"], rtol=1e-4)
    for a, b in zip(weights(result), weights(whole[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """The same data set, encoded in files."""

    def encode(name: str, split: ArraySplit) -> ArraySplit:
        root = tmp_path_factory.mktemp(name)
        for number, pixels in enumerate(split.images):
            Image.fromarray(pixels).save(root / f"{number}.png")
        names = np.array([f"{number}.png".encode() for number in range(len(split.labels))])
        return LazySplit(LazyImages(name, root.__truediv__, names, channel_histogram(split.images), SIDE), split.labels)

    train, valid, test = (encode(*item) for item in (("a", DATA.train), ("b", DATA.valid), ("c", DATA.test)))
    return DATA.replace(train=train, valid=valid, test=lambda: test)


def test_a_streamed_run_is_the_resident_one_bit_for_bit(whole, streamed, tmp_path):
    assert same(fit(tmp_path / "run", streamed), whole[1])


def test_a_run_goes_on_from_any_epoch_with_the_other_feed(whole, interrupted, streamed, tmp_path):
    """Begun resident, stopped within its second epoch; gone on streamed, with a worker, stopped; ended resident."""
    folder = shutil.copytree(interrupted, tmp_path / "run")

    def stop(done: int, total: int, latest: dict) -> None:
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, streamed, resume=True, on_progress=stop, workers=1)
    assert not multiprocessing.active_children()
    assert same(fit(folder, resume=True), whole[1])


def test_a_finished_run_is_returned_at_once(whole):
    folder, result, _ = whole

    def never() -> ArraySplit:
        raise AssertionError("the test split was touched twice")

    again = fit(folder, with_test(never), resume=True)
    assert same(again, result) and again.history == result.history


def test_a_run_in_the_folder_is_not_overwritten(whole, interrupted):
    with pytest.raises(UserError, match=f"{whole[0]} holds a finished run: continue it with resume=True"):
        fit(whole[0])
    with pytest.raises(UserError, match="holds an unfinished run: .*resume=True, or choose another run_dir"):
        fit(interrupted)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"augment": None}, r"augment=Augment\(.*\) and cannot be resumed with None"),
        ({"batch_size": 4}, "batch_size=8 and cannot be resumed with 4"),
        ({"seed": 2}, "seed=0 and cannot be resumed with 2"),
        ({"epochs": 2}, "epochs=3 and cannot be resumed with 2"),
        ({"ema": 0.9}, "ema=None and cannot be resumed with 0.9"),
        ({"precision": "bfloat16"}, "precision=float32 and cannot be resumed with bfloat16"),
    ],
)
def test_resuming_with_other_settings_is_one_sentence(interrupted, changes, sentence):
    with pytest.raises(UserError, match=f"{interrupted} was started with {sentence}: .*another run_dir"):
        fit(interrupted, resume=True, **changes)


def test_a_run_on_the_older_renderers_images_is_not_continued_on_others(tmp_path):
    def settings(source, **rendering):
        return {"data": {"source": source, **rendering}, "train": {"epochs": 3}}

    for source in ("procedural", "folder:photos"):
        run_dir.prepare(tmp_path / source, settings(source), resume=False)  # as before there was a choice
        (tmp_path / source / "checkpoints" / "6").mkdir(parents=True)
    run_dir.prepare(tmp_path / "folder:photos", settings("folder:photos", rendering=4), resume=True)
    with pytest.raises(UserError, match="data.rendering=3 and cannot be resumed with 4"):
        run_dir.prepare(tmp_path / "procedural", settings("procedural", rendering=4), resume=True)
    run_dir.prepare(tmp_path / "procedural", settings("procedural", rendering=3), resume=True)


def test_recorded_settings_of_the_caller_are_compared_too(tmp_path):
    settings = {"model": {"width": 0.1}, "optimizer": {"schedule": "cosine"}, "train": {"epochs": 3, "strategy": "jit"}}
    run_dir.prepare(tmp_path, settings, resume=False)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    run_dir.prepare(tmp_path, settings | {"train": {"epochs": 3, "strategy": "mesh", "remat": True}}, resume=True)
    with pytest.raises(UserError, match="model.width=0.1 and cannot be resumed with 0.2"):
        run_dir.prepare(tmp_path, settings | {"model": {"width": 0.2}}, resume=True)
    with pytest.raises(UserError, match="train.epochs=3 and cannot be resumed with 4"):  # the schedule would stretch
        run_dir.prepare(tmp_path, settings | {"train": {"epochs": 4}}, resume=True)


def flip_a_byte(checkpoint: Path) -> None:
    path = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(whole, tmp_path, caplog):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, on_progress=interrupt_after(13))
    flip_a_byte(folder / "checkpoints" / "12")
    seen = []
    assert same(fit(folder, resume=True, on_progress=follow(seen)), whole[1]) and seen[0] == 7
    assert f"the checkpoint {folder / 'checkpoints' / '12'} is damaged" in caplog.text


def test_better_weights_are_not_overwritten_when_their_checkpoint_is_damaged(tmp_path, caplog):
    # It learns that all are dogs and is judged by cats: the longer, the worse.
    train, valid = (ArraySplit(s.images, np.full_like(s.labels, n)) for s, n in ((DATA.train, 1), (DATA.valid, 0)))
    data, folder = DATA.replace(train=train, valid=valid), tmp_path / "run"
    first = fit(folder, data, epochs=2)
    assert first.test["epoch"] == 1
    flip_a_byte(folder / "checkpoints" / "6")
    second = fit(folder, data, epochs=3, resume=True)
    assert second.test == first.test and second.network.digest == first.network.digest
    assert formats.load(folder).provenance["best"]["epoch"] == 1
    (folder / "weights.safetensors").unlink()
    caplog.clear()
    third = fit(folder, data, epochs=4, resume=True)
    assert third.test["epoch"] == formats.load(folder).provenance["best"]["epoch"] > 1
    assert "epoch 1 was better than epoch" in caplog.text and "its checkpoint is damaged" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", "{"),
        ("metrics.jsonl", '{"epoch": 2}\n'),
        ("test.json", ""),
        ("test.json", "[1, 2]"),
        ("test.json", None),
    ],
)
def test_damaged_results_are_written_again_from_the_checkpoints(whole, tmp_path, name, text):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    if text is None:
        path.mkdir()
        with pytest.raises(UserError, match=r"test\.json is no file of a run .*: remove it"):
            fit(tmp_path / "run", resume=True)
        return
    path.write_text(text)
    again = fit(tmp_path / "run", resume=True)
    assert same(again, whole[1]) and again.test == whole[1].test
    assert path.read_bytes() == (whole[0] / name).read_bytes()
    path.write_text(text)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        fit(tmp_path / "run", resume=True)


def test_when_the_only_checkpoint_is_damaged_it_is_one_sentence(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    flip_a_byte(folder / "checkpoints" / "6")
    with pytest.raises(UserError, match=f"every checkpoint in {folder / 'checkpoints'} is damaged: start over"):
        fit(folder, resume=True)


def test_a_full_disk_stops_the_run_with_one_sentence(whole, tmp_path, monkeypatch):
    folder, usage = tmp_path / "run", shutil.disk_usage

    def almost_full(path: Path):
        return usage(path)._replace(free=1000) if (folder / "checkpoints" / "6").exists() else usage(path)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", almost_full)
        sentence = (
            rf"12 could not be saved \(No space left on device\): the last good .* is {folder / 'checkpoints' / '6'};"
        )
        with pytest.raises(UserError, match=sentence):
            fit(folder)
    assert checkpoints(folder) == {"6"} and same(fit(folder, resume=True), whole[1])


def test_a_history_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(path: Path, row: dict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnjax.train.metrics.append", full)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left on device\): free some space"):
        fit(tmp_path)


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path / 'file' / 'run'} cannot be written"):
        fit(tmp_path / "file" / "run")
    for changes, sentence in (
        ({"batch_size": 40}, "batch_size=40 is larger than the 36 training images"),
        ({"batch_size": 12, "strategy": "auto"}, "batch_size=12 cannot be divided evenly among 8 devices: use 8 or 16"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"microbatches": 0}, "microbatches=0 must be at least 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0 must be at least 1, or None"),
        ({"ema": 1.0}, r"ema=1.0 must be in \[0, 1\)"),
        ({"freeze": ("conv_9",)}, "unknown layer to freeze 'conv_9': did you mean conv_"),
        ({"strategy": "pmpa"}, "unknown strategy 'pmpa': did you mean pmap"),
    ):
        with pytest.raises(UserError, match=sentence):
            fit(tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="dispatches_per_epoch=4 does not divide the epoch's 6 steps: use 3"):
        fit(tmp_path / "calls", dispatches_per_epoch=4)
    with pytest.raises(UserError, match="tensorboard, profile_steps and weights_every_epochs need a run_dir"):
        fit(None, tensorboard=True)
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(UserError, match="pip install"):
        fit(tmp_path / "events", tensorboard=True)


def test_damaged_settings_are_one_sentence(tmp_path):
    run_dir.prepare(tmp_path, {"seed": 0}, resume=False)
    run_dir.prepare(tmp_path, {"seed": 1}, resume=False)  # nothing is lost before the first checkpoint
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="run's settings"):
            run_dir.prepare(tmp_path, {"seed": 0}, resume=True)


def test_early_stopping_callbacks_and_tensorboard(tmp_path):
    """With no learning to speak of the validation loss stays where it is, and patience runs out."""
    rows = []
    options = {"augment": None, "epochs": 6, "early_stopping_patience": 2, "tensorboard": True}
    result = fit(tmp_path / "run", tx=optax.sgd(1e-30), callbacks=[rows.append], **options)
    assert len(result.history) == 3 and rows == result.history
    assert fit(tmp_path / "run", tx=optax.sgd(1e-30), resume=True, **options).history == result.history
    assert [path for path in (tmp_path / "run" / "tensorboard").iterdir() if "tfevents" in path.name]


def test_a_run_shows_itself(whole, tmp_path):
    """Curves, and a trace where one is wanted."""
    with Image.open(whole[0] / "curves.png") as curves:
        assert curves.width > 400
    fit(tmp_path / "run", epochs=1, profile_steps=2)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_other_metrics_are_reported_beside_accuracy():
    def confidence(logits, labels):
        return jax.numpy.abs(logits[:, 0])

    result = fit(None, epochs=1, metrics={"confidence": confidence})
    assert result.history[0].keys() == COLUMNS | {"train_confidence", "valid_confidence"}
    images = jax.numpy.asarray(DATA.test.images, jax.numpy.float32) / 255.0
    assert result.test["confidence"] == pytest.approx(np.abs(result.network(images)[0]).mean(), rel=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_step_however_an_epoch_is_divided(tmp_path):
    tx, named = optax.sgd(optax.linear_schedule(0.0, 1e3, 40)), set()
    for calls in (0, 2, 1):
        folder = tmp_path / str(calls)
        with pytest.raises(UserError) as stop:
            fit(folder, tx=tx, augment=None, steps_per_epoch=4, dispatches_per_epoch=calls)
        found = re.fullmatch(
            r"the training loss is no longer finite in step (\d+) \(epoch 2\): lower the learning rate; "
            rf"the last good checkpoint is {folder / 'checkpoints' / '4'}",
            str(stop.value),
        )
        named.add(found[1])
        assert checkpoints(folder) == {"4"}
    assert len(named) == 1


def test_clear_deletes_the_run_and_nothing_else(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    run_dir.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    run_dir.clear(tmp_path / "nowhere")


def test_the_first_report_of_a_run_has_no_numbers_yet(whole):
    """The first call is then still running; a loss of 0 would be that of no image."""
    reports = [latest for _, _, latest in whole[2]]
    assert reports[0] == {} and all(latest["train_loss"] > 0.1 for latest in reports[1:])
    assert all(latest["images_per_second"] > 0 for latest in reports[1:])


def test_weights_from_before_training_stay_when_the_first_epoch_is_resumed(whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        fit(
            folder,
            weights_every_epochs=3,
            on_progress=lambda done, *_: os.kill(os.getpid(), signal.SIGTERM) if done == 3 else None,
        )
    assert checkpoints(folder) == {"3-partial"}
    assert same(fit(folder, resume=True, weights_every_epochs=3), whole[1])
    first = [formats.load(place / "weights" / "epoch-0000.safetensors").params for place in (folder, whole[0])]
    for one, other in zip(*map(jax.tree.leaves, first), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_of_a_callback_is_its_own(tmp_path):
    def post(row):
        raise ConnectionError("no network")

    with pytest.raises(ConnectionError, match="no network"):
        fit(tmp_path / "run", callbacks=[post])


def test_mixing_is_a_setting_of_the_run(interrupted):
    with pytest.raises(UserError, match=r"was started with mix=None and cannot be resumed with Mixup\("):
        fit(interrupted, resume=True, mix=mixup())


def test_frozen_layers_have_neither_gradients_nor_optimizer_state(monkeypatch):
    """Adam with one small layer trained needs little more than the parameters, not four times as much."""
    model = models.create("small-cnn", num_classes=1, image_size=SIDE, width_multiplier=1.0)
    network = Network.create(model, DATA)
    weight = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
    monkeypatch.setattr(runtime, "free_memory", lambda: 2 * weight)
    frozen = ("conv_1", "conv_2", "conv_3", "conv_4", "dense_1", "dense_2")
    options = {**OPTIONS, "batch_size": 2, "steps_per_epoch": 1, "remat": True}
    with pytest.raises(UserError, match="memory|GiB|MiB"):
        Plan(network, DATA, optax.adam(1e-3), Options(**defaults() | options)).check_memory()
    Plan(network, DATA, optax.adam(1e-3), Options(**defaults() | options | {"freeze": frozen})).check_memory()


class Pair(nnx.Module):
    """Returns its logits and an embedding, as networks of other packages do."""

    def __init__(self, rngs: nnx.Rngs):
        self.dense, self.head = nnx.Linear(SIDE * SIDE * 3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        embedding = self.dense(x.reshape(len(x), -1))
        return self.head(embedding), embedding


def test_a_network_whose_output_is_not_logits_has_no_accuracy_and_is_resumed(tmp_path):
    network = Network.create(Pair(nnx.Rngs(0)), DATA)
    assert network.class_names == ()
    plain = losses.cross_entropy()
    loss = losses.Loss(lambda outputs, labels, activations: plain(outputs[0], labels, activations))
    options = OPTIONS | {"loss": loss, "epochs": 2, "on_progress": lambda *_: None, "config": {}}
    whole = train_fit(network, DATA, optax.sgd(1e-3), run_dir=tmp_path / "whole", **options)
    assert "valid_accuracy" not in whole.history[0]
    with pytest.raises(KeyboardInterrupt):
        train_fit(
            network, DATA, optax.sgd(1e-3), run_dir=tmp_path / "run", **options | {"on_progress": interrupt_after(8)}
        )
    resumed = train_fit(network, DATA, optax.sgd(1e-3), run_dir=tmp_path / "run", resume=True, **options)
    assert same(resumed, whole)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6", ignore_errors=True)
    (tmp_path / "run" / "weights.safetensors").unlink()
    assert formats.load(tmp_path / "run", model=Pair(nnx.Rngs(1))).class_names == ()


def test_damaged_weights_of_a_finished_run_are_written_again(whole, tmp_path, caplog):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "weights.safetensors").write_bytes(b"damaged")
    assert same(fit(folder, resume=True), whole[1]) and "written again from the checkpoints" in caplog.text
    assert formats.load(folder).digest == whole[1].network.digest
    (folder / "weights.safetensors").write_bytes(b"damaged")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="weights.safetensors"):
        fit(folder, resume=True)


def test_a_warm_up_of_a_quarter_of_the_run_depends_on_the_epochs(tmp_path):
    def settings(steps, epochs, in_epoch=0):
        chosen = {"epochs": epochs, "steps_per_epoch": in_epoch}
        return {"optimizer": {"schedule": "warmup", "warmup_steps": steps}, "train": chosen}

    for steps in (None, 5):
        run_dir.prepare(tmp_path / str(steps), settings(steps, 3), resume=False)
        (tmp_path / str(steps) / "checkpoints" / "6").mkdir(parents=True)
    run_dir.prepare(tmp_path / "5", settings(5, 4), resume=True)
    with pytest.raises(UserError, match="train.epochs=3 and cannot be resumed with 4"):
        run_dir.prepare(tmp_path / "None", settings(None, 4), resume=True)
    run_dir.prepare(tmp_path / "long", settings(None, 3, 700), resume=False)  # 500 steps in both
    (tmp_path / "long" / "checkpoints" / "6").mkdir(parents=True)
    run_dir.prepare(tmp_path / "long", settings(None, 4, 700), resume=True)


def named(count: int, names: tuple[str, ...]) -> Network:
    model = models.create("small-cnn", num_classes=count, image_size=SIDE, width_multiplier=0.1)
    return Network.create(model, normalizer=identity(), class_names=names or None)


def flat(side: int) -> Network:
    model = tiny.Flat((side, side), num_classes=2, rngs=nnx.Rngs(0))
    return Network.create(model, normalizer=identity(), image_size=side, channels=3)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (named(3, ("a", "b", "c")), r"has 3 classes \(a, b, c\), and the data set 2 classes \(cat, dog\): .*new_head="),
        (named(3, ()), r"has 3 classes \(class 0, class 1, class 2\), and the data set 2 classes"),
        (flat(8), r"does not take images of the shape \(batch, 16, 16, 3\)"),
    ],
)
def test_a_network_of_other_classes_or_images_is_one_sentence(network, sentence):
    with pytest.raises(UserError, match=sentence):
        train_fit(network, DATA, optax.sgd(1e-3), **OPTIONS)


def test_classes_that_nobody_named_and_losses_of_ones_own_are_no_mistake():
    split, embedding = DATA.train, named(3, ())
    network_fits.check_fits(embedding, split, DATA.class_names, lambda logits, labels, activations: logits[:, 0])
    network_fits.check_fits(embedding, split, ("0", "1"), losses.cross_entropy(0.1))
    with pytest.raises(UserError, match="make one for these"):
        network_fits.check_fits(named(1, ()), split, ("0", "1", "2"), losses.cross_entropy(0.1))
