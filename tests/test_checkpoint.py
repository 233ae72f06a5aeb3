"""Checkpoints: what is kept, that it comes back bit for bit, and that damage is noticed."""

import gc
import re
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers
from cnnjax.train.checkpoint import Checkpoints
from cnnjax.train.state import TrainState, create_state

# Orbax leaves unretrieved tasks behind when it meets a missing file; Python reports them when it collects garbage.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


def state(step: int, name: str = "adam", shape: tuple[int, ...] = (64, 64)) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"dense": {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.zeros(3)}}
    made = create_state(params, {"norm": {"mean": jnp.ones(3)}}, optimizers.create(name, 1e-3), ema=True)
    return made._replace(step=jnp.asarray(step, jnp.int32))


ZEROS = metrics.zeros(("loss",))


def row(epoch: int, accuracy: float, loss: float) -> metrics.EpochMetrics:
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 0.1 + 0.2, "valid_accuracy": accuracy, "valid_loss": loss}


def save(folder: Path, rows: list[metrics.EpochMetrics]) -> None:
    with Checkpoints(folder) as checkpoints:
        for n in range(1, len(rows) + 1):
            checkpoints.save(state(10 * n), ZEROS, rows[:n])


def same(a: TrainState, b: TrainState) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    )


ROWS = [row(1, 0.5, 1.0), row(2, 0.6, 0.4), row(3, 0.7, 0.4), row(4, 0.5, 0.4), row(5, 0.9, 0.8)]


@pytest.fixture
def saved(tmp_path):
    save(tmp_path / "checkpoints", ROWS)
    return tmp_path / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_two_latest_and_the_best_are_kept_and_come_back_bit_for_bit(saved):
    """Best is the lowest validation loss; of epochs 2, 3 and 4, which share it, the one with the highest accuracy."""
    assert names(saved) == ["30", "40", "50"]
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == "50" and checkpoints.step == 50
        latest, sums, history = checkpoints.load(state(0), ZEROS)
        assert same(latest, state(50)) and history == ROWS and sums["count"] == 0
        best, of = checkpoints.load_best(state(0), history)
        assert same(best, state(30)) and of == ROWS[2]


@pytest.mark.parametrize("name", ["lr [0.1]", "a?b*", "{0} %s 100%"])
def test_folders_that_are_called_like_patterns(tmp_path, name):
    save(tmp_path / name / "checkpoints", ROWS[:1])
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        assert same(checkpoints.load(state(0), ZEROS)[0], state(10))


def test_a_file_called_like_a_checkpoint_is_nobodys(saved):
    (saved / "99").write_text("notes")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == "50"
        checkpoints.save(state(60), ZEROS, [*ROWS, row(6, 0.1, 9.0)])
    assert names(saved) == ["30", "50", "60", "99"]


def test_runs_that_share_a_thread_do_not_read_while_another_writes(tmp_path, monkeypatch):
    """Orbax numbers the running operation: a load beside a save made it write before its folder was there."""
    busy: list[str] = []
    beside: list[list[str]] = []

    def watched(name):
        function = getattr(ocp, name)

        def call(*arguments):
            beside.append(busy.copy())
            busy.append(name)
            time.sleep(0.05)
            try:
                return function(*arguments)
            finally:
                busy.remove(name)

        return call

    save(tmp_path / "a", ROWS[:1])
    for name in ("save", "load"):
        monkeypatch.setattr(ocp, name, watched(name))
    with (
        ThreadPoolExecutor(1) as thread,
        Checkpoints(tmp_path / "a", thread) as first,
        Checkpoints(tmp_path / "b", thread) as second,
    ):
        for step in range(10, 60, 10):
            second.save(state(step), ZEROS, [row(step // 10, 0.5, 1.0)])
            assert same(first.load(state(0), ZEROS)[0], state(10))
    assert beside == [[]] * 10


def test_a_checkpoint_within_an_epoch_holds_its_sums(saved):
    sums = ZEROS | {"loss": jnp.asarray([0.1, 0.0], jnp.float32), "finite": jnp.asarray(4, jnp.int32)}
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state(54), sums, ROWS)
    assert names(saved) == ["30", "50", "54-partial"]
    with Checkpoints(saved) as checkpoints:
        found, found_sums, history = checkpoints.load(state(0), ZEROS)
        assert same(found, state(54)) and history == ROWS and checkpoints.step == 54
        assert np.array_equal(found_sums["loss"], sums["loss"]) and found_sums["finite"] == 4
        # The end of the epoch comes after all of its steps.
        checkpoints.save(state(60), sums, ROWS)
        checkpoints.save(state(60), ZEROS, [*ROWS, row(6, 0.5, 0.9)])
        checkpoints.wait()
        assert checkpoints.latest == "60" and names(saved) == ["30", "60", "60-partial"]


def test_a_loss_that_is_not_a_number_is_never_better():
    rows = [row(1, 0.5, 1.0), row(2, 0.5, float("nan")), row(3, 0.5, float("inf"))]
    assert metrics.best(rows)["epoch"] == 1 and metrics.epochs_without_improvement(rows) == 2


def test_saving_goes_on_while_the_state_is_donated(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda a: a + jnp.ones((), a.dtype), s), donate_argnums=0)
    now, rows, expected = jax.tree.map(jnp.copy, state(0)), [], []
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for epoch in range(1, 4):
            now = now._replace(step=jnp.asarray(10 * epoch, jnp.int32))
            rows, expected = [*rows, row(epoch, epoch / 10, 1.0)], [*expected, jax.tree.map(np.array, now)]
            checkpoints.save(now, ZEROS, rows)
            now = advance(now)
        for name, one in zip(("20", "30"), expected[1:], strict=True):
            assert same(checkpoints.load(state(0), ZEROS, name)[0], one)


def damages(data: bytes) -> dict[str, bytes | None]:
    """What can happen to a file; None: it is gone."""
    found: dict[str, bytes | None] = {"deleted": None, "longer": data + b"\n"}
    if data:  # one of Orbax's files is empty
        found |= {"empty": b"", "truncated": data[: len(data) // 2], "one byte short": data[:-1]}
        for place in (0, len(data) // 2, len(data) - 1):
            flipped = bytearray(data)
            flipped[place] ^= 1
            found[f"byte {place} flipped"] = bytes(flipped)
    return found


def test_every_damage_to_every_file_is_noticed_and_the_one_before_takes_its_place(saved, caplog):
    files = [path for path in (saved / "50").rglob("*") if path.is_file()]
    assert {"manifest.json", "_METADATA", "manifest.ocdbt"} <= {path.name for path in files} and len(files) > 8
    for path in files:
        sound = path.read_bytes()
        for what, data in damages(sound).items():
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            caplog.clear()
            with Checkpoints(saved) as checkpoints:
                assert checkpoints.latest == "40", f"{path}: {what}"
                found, _, history = checkpoints.load(state(0), ZEROS)
            assert same(found, state(40)) and history == ROWS[:4]
            [said] = [record.getMessage() for record in caplog.records if record.name.startswith("cnnjax")]
            assert re.fullmatch(rf"the checkpoint {saved / '50'} is damaged \(.*\): it is skipped", said)
            assert path.name in said
            path.write_bytes(sound)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == "50"


def test_a_damaged_best_leaves_the_next_best(saved):
    (saved / "30" / "manifest.json").unlink()
    with Checkpoints(saved) as checkpoints:
        found, of = checkpoints.load_best(state(0), ROWS)
        assert same(found, state(40)) and of == ROWS[3]
        checkpoints.save(state(60), ZEROS, [*ROWS, row(6, 0.5, 0.9)])
    assert names(saved) == ["40", "50", "60"]


def test_a_damaged_one_is_written_anew(saved):
    (saved / "50" / "manifest.json").write_text("")
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state(50), ZEROS, ROWS)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == "50" and same(checkpoints.load(state(0), ZEROS)[0], state(50))


def test_when_none_is_left_it_says_so(saved):
    for path in saved.rglob("manifest.json"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"every checkpoint in {saved} is damaged: start over in an empty run_dir"):
        Checkpoints(saved)


def test_damage_after_opening_is_noticed(saved):
    with Checkpoints(saved) as checkpoints:
        for path in (saved / "50" / "orbax" / "state").rglob("d/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        with pytest.raises(UserError, match=f"{saved / '50'} (is damaged|cannot be read) .*resume the run again"):
            checkpoints.load(state(0), ZEROS)


@pytest.mark.parametrize(
    ("like", "odd"), [(state(0, "sgd"), "opt_state"), (state(0, shape=(64, 32)), r"'kernel'\] float32\[64, (32|64)\]")]
)
def test_a_checkpoint_of_something_else_is_one_sentence(saved, like, odd):
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(UserError, match=f"optimizer or metrics .*{odd}"),
    ):
        checkpoints.load(like, ZEROS)


def test_a_foreign_folder_is_one_sentence(tmp_path):
    from orbax.checkpoint import v1 as ocp

    ocp.save(tmp_path / "other" / "7", {"x": jnp.zeros(3)})
    with pytest.raises(UserError, match="every checkpoint in .* is damaged"):
        Checkpoints(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot hold checkpoints \(file: File exists\)"):
        Checkpoints(tmp_path / "file")


def test_what_a_kill_leaves_is_never_offered(saved):
    shutil.copytree(saved / "50", saved / "unfinished")
    shutil.copytree(saved / "30", saved / "removed")
    (saved / "notes.txt").write_text("mine")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == "50" and names(saved) == ["30", "40", "50", "notes.txt"]


def test_a_full_disk_keeps_the_last_good_one_and_says_so(saved):
    """Files may not grow over 8 KB, which the state does: the system refuses as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    sentence = (
        rf"{saved / '60'} could not be saved \(File too large\): the last good checkpoint is {saved / '50'}; "
        "fix the cause, then resume the run"
    )
    rows = [*ROWS, row(6, 0.5, 0.9)]
    try:
        with pytest.raises(UserError, match=sentence), Checkpoints(saved) as checkpoints:
            checkpoints.save(state(60), ZEROS, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Checkpoints(saved) as checkpoints:
        assert names(saved) == ["30", "40", "50"] and same(checkpoints.load(state(0), ZEROS)[0], state(50))
        checkpoints.save(state(60), ZEROS, rows)
    assert names(saved) == ["30", "50", "60"]


def test_parameters_that_are_not_finite_are_not_kept(saved):
    bad = state(60)
    bad.params["dense"]["bias"] = bad.params["dense"]["bias"].at[1].set(jnp.nan)
    sentence = "60 could not be saved .* not finite: lower the learning rate"
    with pytest.raises(UserError, match=sentence), Checkpoints(saved) as checkpoints:
        checkpoints.save(bad, ZEROS, [*ROWS, row(6, 0.5, float("nan"))])
    assert names(saved) == ["30", "40", "50"]
