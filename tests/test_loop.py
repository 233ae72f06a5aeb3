"""fit: what a run leaves behind, that stopping and cutting do not change it, and every bad input as one sentence."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import formats
from cnnjax.cli.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.lazy_images import Pictures, count_colours
from cnnjax.errors import Preempted, UserError
from cnnjax.train import metrics, run_dir
from cnnjax.train.loop import Progress, fit

SIDE, SIZE, EPOCHS = 16, 36, 3
COLUMNS = {
    "epoch", "step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "images_per_second", "seconds"
}  # fmt: skip


def pictures(seed: int, size: int = SIZE) -> Split:
    """Two classes, one a little redder."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 2).astype(np.int32)
    images = rng.integers(0, 200, (size, SIDE, SIDE, 3))
    images[..., 0] += 30 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels)


DATA = Dataset(pictures(0), pictures(1, 22), lambda: pictures(2, 22), ("cat", "dog"))
CONFIG = Config(
    data=DataConfig(side=SIDE, per_class=SIZE // 2, eval_per_class=11),
    augment=AugmentConfig(enabled=True),
    model=ModelConfig(width=0.1),
    train=TrainConfig(epochs=EPOCHS, batch_size=8, steps_per_epoch=6, parallel="jit", calls_per_epoch=2),
)


def change(config: Config, part: str, **values) -> Config:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def numbers(history: list[dict]) -> list[dict]:
    """Rows without what a clock says."""
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in history]


def weights(result) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.network.params)]


def same(a, b) -> bool:
    equal = all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))
    return equal and numbers(a.history) == numbers(b.history) and a.test == b.test


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted: its folder, its result, and what it reported."""
    folder, seen = tmp_path_factory.mktemp("whole") / "run", []
    return folder, fit(CONFIG, DATA, folder, on_progress=lambda *told: seen.append(told)), seen


def interrupt_after(steps: int) -> Progress:
    def stop(done: int, total: int, latest: dict) -> None:
        if done >= steps:
            raise KeyboardInterrupt

    return stop


def follow(seen: list[int]) -> Progress:
    return lambda done, total, latest: seen.append(done)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same run stopped by Ctrl-C within its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, DATA, folder, on_progress=interrupt_after(7))
    return folder


def test_what_a_run_leaves_behind(whole):
    folder, result, _ = whole
    assert [set(row) for row in result.history] == [COLUMNS] * EPOCHS
    assert [(row["epoch"], row["step"]) for row in result.history] == [(1, 6), (2, 12), (3, 18)]
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.history
    assert json.loads((folder / "test.json").read_text()) == result.test
    assert result.test["count"] == 22 and 0 <= result.test["accuracy"] <= 1
    assert json.loads((folder / "config.json").read_text())["train"]["epochs"] == EPOCHS
    loaded = formats.load(folder / "weights.safetensors")
    assert loaded.class_names == ("cat", "dog") and loaded.side == SIDE and loaded.digest == result.network.digest


def test_a_run_is_a_network_before_it_ends(whole, tmp_path):
    """Its folder, and that of a checkpoint, are read as the network that will be kept."""
    folder, result, _ = whole
    shutil.copytree(folder, tmp_path / "run")
    assert formats.load(tmp_path / "run").digest == result.network.digest
    (tmp_path / "run" / "weights.safetensors").unlink()
    best = formats.load(tmp_path / "run")
    assert best.digest == result.network.digest and best.class_names == ("cat", "dog")
    assert best.made["row"] == max(result.history, key=metrics.rank)
    jax.tree.map(np.testing.assert_array_equal, best.cleaning, result.network.cleaning)


def test_the_test_split_is_judged_by_the_best_epoch(whole):
    """The kept network, asked directly, gives the validation accuracy of the best epoch and the test metrics."""
    _, result, _ = whole
    best = max(result.history, key=lambda row: (row["valid_accuracy"], -row["valid_loss"], row["epoch"]))
    for split, loss, accuracy in (
        (DATA.valid, best["valid_loss"], best["valid_accuracy"]),
        (DATA.load_test(), result.test["loss"], result.test["accuracy"]),
    ):
        images = jax.numpy.asarray(split.images, jax.numpy.float32) / 255.0
        z = np.asarray(result.network.forward(result.network.params, images)[0], np.float64)[:, 0]
        np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp(z)) - split.labels * z), rtol=1e-5)
        np.testing.assert_allclose(accuracy, np.mean((z > 0) == split.labels))


def test_progress_is_told_after_every_call(whole):
    _, result, seen = whole
    assert [done for done, _, _ in seen] == [3, 6, 6, 9, 12, 12, 15, 18, 18] and {total for _, total, _ in seen} == {18}
    assert seen[-1][2] == result.history[-1]


def test_interrupted_and_resumed_is_the_uninterrupted_run_bit_for_bit(whole, interrupted, tmp_path, capsys):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:  # a line past the checkpoint
        file.write('{"epoch": 2}\n')
    resumed = fit(CONFIG, DATA, folder, resume=True)
    assert "epoch 3/3" in capsys.readouterr().err
    assert same(resumed, whole[1]) and len(resumed.history) == EPOCHS
    assert numbers([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]) == numbers(
        whole[1].history
    )


WITHIN = change(CONFIG, "train", calls_per_epoch=3, checkpoint_steps=2)


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_a_run_stopped_within_an_epoch_goes_on_there_bit_for_bit(whole, tmp_path):
    """With calls of two steps, later of three: none may reach over the end of the epoch."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(WITHIN, DATA, folder, on_progress=interrupt_after(10))
    assert checkpoints(folder) == {"6", "8-partial"}
    seen = []
    resumed = fit(change(WITHIN, "train", calls_per_epoch=2), DATA, folder, resume=True, on_progress=follow(seen))
    assert seen[0] == 9 and same(resumed, whole[1])


@pytest.mark.parametrize(
    ("when", "kept"), [(8, {"6", "8-partial"}), (12, {"6", "12-partial"}), (18, {"12", "18-partial"})]
)
def test_sigterm_saves_after_the_running_call(whole, tmp_path, when, kept):
    """Within an epoch, at the end of one before it is judged, at the end of the run."""
    folder, config, before = (
        tmp_path / "run",
        change(WITHIN, "train", checkpoint_steps=0),
        signal.getsignal(signal.SIGTERM),
    )

    def terminate(done: int, total: int, latest: dict) -> None:
        if done == when:
            for _ in range(2):  # a scheduler may tell a process twice
                os.kill(os.getpid(), signal.SIGTERM)

    sentence = f"stopped by SIGTERM: {folder} keeps all {when} steps; run the same command again to go on .*--resume"
    with pytest.raises(Preempted, match=sentence):
        fit(config, DATA, folder, on_progress=terminate)
    assert signal.getsignal(signal.SIGTERM) == before
    assert kept <= checkpoints(folder) and same(fit(config, DATA, folder, resume=True), whole[1])


def test_sigterm_in_a_run_that_can_finish(whole, tmp_path):
    """What comes while the test split is judged is obeyed when all is written."""

    def terminate() -> Split:
        os.kill(os.getpid(), signal.SIGTERM)
        return DATA.load_test()

    with pytest.raises(Preempted):
        fit(CONFIG, dataclasses.replace(DATA, load_test=terminate), tmp_path / "run")
    assert run_dir.finished(tmp_path / "run", CONFIG) is not None
    assert same(fit(CONFIG, DATA, tmp_path / "run", resume=True), whole[1])


def test_a_longer_run_killed_at_its_end_is_not_taken_for_finished(whole, tmp_path):
    """The shorter run's weights and test.json are there, and all rows of the longer one."""

    def stop() -> Split:
        raise KeyboardInterrupt

    fit(change(CONFIG, "train", epochs=1), DATA, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, dataclasses.replace(DATA, load_test=stop), tmp_path / "run", resume=True)
    assert same(fit(CONFIG, DATA, tmp_path / "run", resume=True), whole[1])


def test_neither_the_cut_into_calls_nor_more_epochs_later_change_a_run(whole, tmp_path):
    shorter = change(CONFIG, "train", epochs=2, calls_per_epoch=6)
    assert len(fit(shorter, DATA, tmp_path / "run").history) == 2
    longer = change(CONFIG, "train", calls_per_epoch=1)
    assert same(fit(longer, DATA, tmp_path / "run", resume=True), whole[1])


def test_eight_devices_train_the_same_run(whole, tmp_path):
    """Begun as pmap, ended as mesh."""
    fit(change(CONFIG, "train", epochs=1, parallel="pmap"), DATA, tmp_path / "run")
    result = fit(change(CONFIG, "train", parallel="mesh"), DATA, tmp_path / "run", resume=True)
    for row, one in zip(result.history, whole[1].history, strict=True):
        np.testing.assert_allclose(row["valid_loss"], one["valid_loss"], rtol=1e-4)
    for a, b in zip(weights(result), weights(whole[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """The same data set, encoded in files."""

    def encode(name: str, split: Split) -> Split:
        root = tmp_path_factory.mktemp(name)
        for number, pixels in enumerate(split.images):
            Image.fromarray(pixels).save(root / f"{number}.png")
        names = np.array([f"{number}.png".encode() for number in range(len(split.labels))])
        return Split(Pictures(name, root.__truediv__, names, count_colours(split.images), SIDE), split.labels)

    train, valid, test = (encode(*item) for item in (("a", DATA.train), ("b", DATA.valid), ("c", DATA.load_test())))
    return dataclasses.replace(DATA, train=train, valid=valid, load_test=lambda: test)


def test_a_streamed_run_is_the_resident_one_bit_for_bit(whole, streamed, tmp_path):
    assert same(fit(CONFIG, streamed, tmp_path / "run"), whole[1])


def test_a_run_goes_on_from_any_epoch_with_the_other_feed(whole, interrupted, streamed, tmp_path):
    """Begun resident, stopped within its second epoch; gone on streamed, with a worker, stopped; ended resident."""
    folder = shutil.copytree(interrupted, tmp_path / "run")

    def stop(done: int, total: int, latest: dict) -> None:
        if done > 12:
            raise KeyboardInterrupt

    config = change(CONFIG, "data", workers=1)
    with pytest.raises(KeyboardInterrupt):
        fit(config, streamed, folder, resume=True, on_progress=stop)
    assert not multiprocessing.active_children()
    assert same(fit(CONFIG, DATA, folder, resume=True), whole[1])


def test_a_finished_run_is_returned_at_once(whole):
    folder, result, _ = whole

    def never() -> Split:
        raise AssertionError("the test split was touched twice")

    again = fit(CONFIG, dataclasses.replace(DATA, load_test=never), folder, resume=True)
    assert same(again, result) and again.history == result.history


def test_a_run_in_the_folder_is_not_overwritten(whole, interrupted):
    with pytest.raises(UserError, match=f"{whole[0]} holds a finished run: add --resume"):
        fit(CONFIG, DATA, whole[0])
    with pytest.raises(UserError, match="holds an unfinished run: add --resume .* --fresh .* another --run"):
        fit(CONFIG, DATA, interrupted)


@pytest.mark.parametrize(
    ("part", "values", "sentence"),
    [
        ("model", {"width": 0.2}, "--model.width 0.1 and cannot be resumed with 0.2"),
        ("data", {"seed": 1}, "--data.seed 0 and cannot be resumed with 1"),
        ("augment", {"enabled": False}, "--augment.enabled True and cannot be resumed with False"),
        ("optimizer", {"learning_rate": 0.1}, "--optimizer.learning-rate 0.001 and cannot be resumed with 0.1"),
        ("train", {"batch_size": 4}, "--train.batch-size 8 and cannot be resumed with 4"),
        ("train", {"seed": 2}, "--train.seed 0 and cannot be resumed with 2"),
        ("train", {"epochs": 2}, "--train.epochs 3 and cannot be resumed with 2"),
    ],
)
def test_resuming_with_another_config_is_one_sentence(interrupted, part, values, sentence):
    with pytest.raises(UserError, match=f"{interrupted} was started with {sentence}: .*--fresh"):
        fit(change(CONFIG, part, **values), DATA, interrupted, resume=True)


def test_epochs_of_a_schedule_cannot_grow(tmp_path):
    config = change(CONFIG, "optimizer", schedule="cosine")
    run_dir.prepare(tmp_path, config, resume=False)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    with pytest.raises(UserError, match="--train.epochs 3 and cannot be resumed with 4"):
        run_dir.prepare(tmp_path, change(config, "train", epochs=4), resume=True)


def flip_a_byte(checkpoint: Path) -> None:
    path = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(whole, tmp_path, caplog):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, DATA, folder, on_progress=interrupt_after(13))
    flip_a_byte(folder / "checkpoints" / "12")
    seen = []
    assert same(fit(CONFIG, DATA, folder, resume=True, on_progress=follow(seen)), whole[1]) and seen[0] == 9
    assert f"the checkpoint {folder / 'checkpoints' / '12'} is damaged" in caplog.text


def test_when_the_only_checkpoint_is_damaged_it_is_one_sentence(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    flip_a_byte(folder / "checkpoints" / "6")
    with pytest.raises(UserError, match=f"no checkpoint in {folder / 'checkpoints'} is whole: start over with --fresh"):
        fit(CONFIG, DATA, folder, resume=True)


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
            fit(CONFIG, DATA, folder)
    assert checkpoints(folder) == {"6"} and same(fit(CONFIG, DATA, folder, resume=True), whole[1])


def test_a_history_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(path: Path, row: dict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnjax.train.metrics.append", full)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left on device\): make room"):
        fit(CONFIG, DATA, tmp_path)


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path / 'file' / 'run'} cannot be written .* another folder with --run"):
        fit(CONFIG, DATA, tmp_path / "file" / "run")
    with pytest.raises(UserError, match="--train.batch-size 40 is larger than the 36 training pictures"):
        fit(change(CONFIG, "train", batch_size=40), DATA, tmp_path / "run")
    with pytest.raises(UserError, match="--train.batch-size 12 cannot be shared out evenly to 8 devices: use 8 or 16"):
        fit(change(CONFIG, "train", batch_size=12, parallel="auto"), DATA, tmp_path / "run")
    with pytest.raises(UserError, match="--train.calls-per-epoch 4 does not divide the epoch's 6 steps: use 3"):
        fit(change(CONFIG, "train", calls_per_epoch=4), DATA, tmp_path / "calls")
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install"):
        fit(change(CONFIG, "train", tensorboard=True), DATA, tmp_path / "events")


def test_a_damaged_config_is_one_sentence(tmp_path):
    run_dir.prepare(tmp_path, CONFIG, resume=False)
    run_dir.prepare(
        tmp_path, change(CONFIG, "train", seed=1), resume=False
    )  # nothing is lost before the first checkpoint
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="run's config"):
            run_dir.prepare(tmp_path, CONFIG, resume=True)


def test_early_stopping_and_tensorboard(tmp_path):
    """With no learning to speak of the validation loss stays where it is, and patience runs out."""
    config = change(change(CONFIG, "augment", enabled=False), "optimizer", name="sgd", learning_rate=1e-30)
    config = change(config, "train", epochs=6, early_stopping=2, tensorboard=True)
    result = fit(config, DATA, tmp_path / "run")
    assert len(result.history) == 3
    assert fit(config, DATA, tmp_path / "run", resume=True).history == result.history
    assert [path for path in (tmp_path / "run" / "tensorboard").iterdir() if "tfevents" in path.name]


def test_a_loss_that_blows_up_names_the_step_however_an_epoch_is_cut(tmp_path):
    config = change(change(CONFIG, "augment", enabled=False), "train", steps_per_epoch=4)
    config = change(config, "optimizer", name="sgd", learning_rate=1e3, schedule="warmup", warmup=40)
    seen = []
    for calls in (4, 2, 1):
        folder = tmp_path / str(calls)
        with pytest.raises(UserError) as stop:
            fit(change(config, "train", calls_per_epoch=calls), DATA, folder, on_progress=follow(seen))
        bad = max(seen) + 1  # with calls of one step, which come first, the first bad step is the one not reported
        assert re.fullmatch(
            rf"the training loss is no longer finite in step {bad} \(epoch 2\): lower --optimizer.learning-rate "
            rf"\(it is 1000.0\); the last good checkpoint is {folder / 'checkpoints' / '4'}",
            str(stop.value),
        )
        assert checkpoints(folder) == {"4"}


def test_fresh_deletes_the_run_and_nothing_else(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    run_dir.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    run_dir.clear(tmp_path / "nowhere")
