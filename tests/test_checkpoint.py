"""Checkpoints: what is kept, that it comes back bit for bit, and that damage is noticed."""

import gc
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import OptimizerConfig
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizer
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.step import TrainState, create_state

# Orbax leaves unretrieved tasks behind when it meets a missing file; Python reports them when it collects garbage.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


def state(step: int, name: str = "adam", shape: tuple[int, ...] = (64, 64)) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"dense": {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.zeros(3)}}
    made = create_state(params, optimizer.create(OptimizerConfig(name=name), 10))
    return made._replace(step=jnp.asarray(step, jnp.int32))


def row(epoch: int, accuracy: float, loss: float) -> metrics.Row:
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 0.1 + 0.2, "valid_accuracy": accuracy, "valid_loss": loss}


def save(folder: Path, rows: list[metrics.Row]) -> None:
    with Checkpoints(folder) as checkpoints:
        for n in range(1, len(rows) + 1):
            checkpoints.save(state(10 * n), rows[:n])


def same(a: TrainState, b: TrainState) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    )


ROWS = [row(1, 0.5, 1.0), row(2, 0.6, 0.4), row(3, 0.7, 0.4), row(4, 0.5, 0.4), row(5, 0.9, 0.8)]


@pytest.fixture
def saved(tmp_path):
    save(tmp_path / "checkpoints", ROWS)
    return tmp_path / "checkpoints"


def test_latest_and_best_are_kept_and_come_back_bit_for_bit(saved):
    """Best is the lowest validation loss; of epochs 2, 3 and 4, which share it, the one with the highest accuracy."""
    assert sorted(path.name for path in saved.iterdir()) == ["30", "50"]
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == 50
        latest, history = checkpoints.load(state(0))
        assert same(latest, state(50)) and history == ROWS
        assert same(checkpoints.load_best(state(0), history), state(30))


def test_a_loss_that_is_not_a_number_is_never_better():
    rows = [row(1, 0.5, 1.0), row(2, 0.5, float("nan")), row(3, 0.5, float("inf"))]
    assert metrics.best(rows)["epoch"] == 1 and metrics.epochs_without_gain(rows) == 2


def test_saving_goes_on_while_the_state_is_donated(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda a: a + jnp.ones((), a.dtype), s), donate_argnums=0)
    now, rows = jax.tree.map(jnp.copy, state(0)), []
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for epoch in range(1, 4):
            rows = [*rows, row(epoch, epoch / 10, 1.0)]
            checkpoints.save(now, rows)
            now = advance(now)
        found, _ = checkpoints.load(state(0))
    assert same(found, advance(advance(state(0))))


def test_every_flipped_byte_of_the_data_is_noticed(saved):
    """One byte in each of the latest checkpoint's data files; Orbax itself restores such bytes without a word."""
    files = [path for path in (saved / "50" / "state").rglob("*") if path.is_file() and path.stat().st_size > 8000]
    assert files
    for path in files:
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[len(sound) // 2] ^= 1
        path.write_bytes(damaged)
        with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match=f"{saved / '50'} .*--fresh"):
            checkpoints.load(state(0))
        path.write_bytes(sound)


def test_a_changed_history_is_noticed(saved):
    path = saved / "50" / "_CHECKPOINT_METADATA"
    text = path.read_text()
    assert "0.6" in text
    path.write_text(text.replace("0.6", "0.9"))
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match=r"is damaged \(history"):
        checkpoints.load(state(0))


def test_a_missing_file_is_noticed(saved):
    for path in (saved / "50" / "state" / "d").iterdir():
        path.unlink()
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match=f"{saved / '50'} cannot be read"):
        checkpoints.load(state(0))


@pytest.mark.parametrize(
    ("like", "odd"), [(state(0, "sgd"), "opt_state"), (state(0, shape=(64, 32)), r"'kernel'\] float32\[64, (32|64)\]")]
)
def test_a_checkpoint_of_something_else_is_one_sentence(saved, like, odd):
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match=f"another network or optimizer .*{odd}"):
        checkpoints.load(like)


def test_a_foreign_folder_is_one_sentence(tmp_path):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(tmp_path / "other") as foreign:
        foreign.save_checkpointables(7, {"state": {"x": jnp.zeros(3)}})
    with Checkpoints(tmp_path / "other") as checkpoints, pytest.raises(UserError, match="is not one of cnnjax"):
        checkpoints.load(state(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot hold checkpoints"):
        Checkpoints(tmp_path / "file")


def test_an_unfinished_save_is_ignored_and_cleaned_up(saved):
    left = saved / "60.orbax-checkpoint-tmp"
    left.mkdir()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == 50
        # Orbax cleans up in a thread of its own.
        deadline = time.monotonic() + 30
        while left.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not left.exists()


def test_metrics_file_holds_the_history(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for one in ROWS:
        metrics.append(path, one)
    assert metrics.read(path) == ROWS
    metrics.rewrite(path, ROWS[:2])
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]
    path.write_text("{not json\n")
    with pytest.raises(UserError, match="cannot be read as a run's metrics"):
        metrics.read(path)
