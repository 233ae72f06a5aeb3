"""Metrics, their exact sums under a mask, and a run's history."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.train import metrics

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LAWS = settings(max_examples=15, deadline=None)


def test_accuracy():
    logits = jnp.asarray([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0], [0.0, 0.0, 9.0]])
    assert metrics.accuracy(logits, jnp.asarray([1, 1, 2])).tolist() == [1, 0, 1]
    mixed = jnp.asarray([[0.4, 0.6, 0.0], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]])
    assert metrics.accuracy(logits, mixed).tolist() == [1, 0, 1]
    binary = jnp.asarray([[0.5], [-0.5], [0.5], [0.0]])
    assert metrics.accuracy(binary, jnp.asarray([1, 0, 0, 0])).tolist() == [1, 1, 0, 1]
    assert metrics.accuracy(binary[:2], jnp.asarray([[0.3, 0.7], [0.2, 0.8]])).tolist() == [1, 0]


@LAWS
@given(st.integers(0, 999), st.integers(1, 4))
def test_top_k_is_the_rank_of_the_label(seed, k):
    classes = 3
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(5, classes)).astype(np.float32), generator.integers(0, classes, 5)
    if k > classes:
        with pytest.raises(UserError, match=rf"top_k\({k}\) needs a model of at least {k} logits"):
            metrics.top_k(k)(jnp.asarray(logits), jnp.asarray(labels))
        return
    rank = (logits > logits[np.arange(5), labels][:, None]).sum(1)
    found = metrics.top_k(k)(jnp.asarray(logits), jnp.asarray(labels))
    assert np.array_equal(found, rank < k)
    one_hot = jnp.asarray(np.eye(classes, dtype=np.float32)[labels])
    assert np.array_equal(metrics.top_k(k)(jnp.asarray(logits), one_hot), found)


def test_top_1_is_accuracy_even_with_ties():
    logits, labels = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), jnp.asarray([0, 1, 1, 1])
    assert np.array_equal(metrics.top_k(1)(logits, labels), metrics.accuracy(logits, labels))
    assert np.array_equal(metrics.top_k(1)(logits[:, :1], labels), metrics.accuracy(logits[:, :1], labels))
    assert metrics.top_k(3) == metrics.top_k(3)
    assert hash(metrics.top_k(3)) == hash(metrics.top_k(3))
    with pytest.raises(UserError, match="k must be at least 1"):
        metrics.top_k(0)


@pytest.mark.parametrize("outputs", [1, 5])
def test_means_are_exact_under_a_mask(outputs):
    """As the first edition's: sums of a batch in float32, means against float64; masked examples never count."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(8, outputs)).astype(np.float32)
    labels = generator.integers(0, max(outputs, 2), 8)
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)
    logits[~mask] = np.nan
    values = {
        "loss": losses.cross_entropy()(jnp.asarray(logits), jnp.asarray(labels), {}),
        "accuracy": metrics.accuracy(jnp.asarray(logits), jnp.asarray(labels)),
        "mine": jnp.asarray(labels + 0.5, jnp.float32),
        "integers": jnp.asarray(labels, jnp.int32),
        "booleans": jnp.asarray(labels == 0),
    }
    sums = metrics.batch_sums(values, jnp.asarray(mask))
    total = metrics.add(metrics.add(metrics.zeros(values), sums), sums)
    means = metrics.compute(total)
    kept = logits[mask].astype(np.float64)
    if outputs == 1:
        chosen = kept[:, 0] > 0
        expected = np.log1p(np.exp(np.where(labels[mask] == 1, -kept[:, 0], kept[:, 0])))
    else:
        chosen = kept.argmax(1)
        expected = np.log(np.exp(kept).sum(1)) - kept[np.arange(len(kept)), labels[mask]]
    assert means["loss"] == pytest.approx(expected.mean(), rel=1e-6)
    assert means["accuracy"] == (chosen == labels[mask]).mean()
    assert means["mine"] == pytest.approx((labels[mask] + 0.5).mean(), rel=1e-6)
    assert means["integers"] == pytest.approx(labels[mask].mean(), rel=1e-12)
    assert means["booleans"] == pytest.approx((labels[mask] == 0).mean(), rel=1e-12)
    assert set(means) == {"loss", "accuracy", "mine", "integers", "booleans"}
    assert int(total["count"]) == 2 * mask.sum()


def test_counts_stay_exact_beyond_float32():
    @jax.jit(static_argnums=2)
    def repeat(sums, batch, times):
        return jax.lax.fori_loop(0, times, lambda _, sums: metrics.add(sums, batch), sums)

    def batch(correct, count):
        return {
            "loss": jnp.asarray(0.1, jnp.float32),
            "accuracy": jnp.asarray(correct, jnp.float32),
            "count": jnp.asarray(count, jnp.int32),
        }

    sums = repeat(metrics.zeros(), batch(2**20, 2**20), 40)
    sums = repeat(sums, batch(1, 2), 1001)
    correct, count = 40 * 2**20 + 1001, 40 * 2**20 + 2002
    assert int(sums["count"]) == count
    assert metrics.compute(sums)["accuracy"] == correct / count
    # A sum of many equal numbers does not drift either.
    assert metrics.compute(sums)["loss"] * count == pytest.approx(1041 * float(np.float32(0.1)), rel=1e-12)


@LAWS
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_sums_are_as_good_as_in_float64(values):
    sums = metrics.zeros(())
    for value in values:
        sums = metrics.add(sums, {"loss": jnp.asarray(value, jnp.float32), "count": jnp.asarray(1, jnp.int32)})
    scale = max(sum(map(abs, values)), 1e-30)
    assert abs(metrics.compute(sums)["loss"] * len(values) - math.fsum(values)) <= 1e-10 * scale


def test_finite_counts_the_batches_before_the_first_bad_loss():
    sums = metrics.zeros(("hit",))
    for value in (1.0, 2.0, math.nan, 1.0, math.inf):
        batch = {"loss": jnp.asarray(value, jnp.float32), "hit": jnp.asarray(1.0), "count": jnp.asarray(1, jnp.int32)}
        sums = metrics.add(sums, batch)
    assert int(sums["finite"]) == 2
    assert not math.isfinite(metrics.compute(sums)["loss"])
    assert metrics.compute(sums)["hit"] == 1
    infinite = metrics.add(metrics.zeros(()), {"loss": jnp.asarray(math.inf), "count": jnp.asarray(1, jnp.int32)})
    assert int(infinite["finite"]) == 0
    assert not math.isfinite(metrics.compute(infinite)["loss"])


def test_no_examples():
    assert metrics.compute(metrics.zeros(("a",))) == {"loss": 0.0, "a": 0.0}
    assert list(metrics.zeros(("loss", "a"))) == ["loss", "a", "count", "finite"]


def test_errors_are_one_sentence():
    with pytest.raises(UserError, match="a metric cannot be called 'count'"):
        metrics.zeros(("count",))
    with pytest.raises(UserError, match=r"'top' returned values of shape \(\) for 4 examples"):
        metrics.batch_sums({"loss": jnp.zeros(4), "top": jnp.zeros(())}, jnp.ones(4, bool))


def row(epoch: int, accuracy: float, loss: float) -> metrics.EpochMetrics:
    return {"epoch": epoch, "step": 10 * epoch, "valid_accuracy": accuracy, "valid_loss": loss}


def test_the_best_epoch():
    rows = [row(1, 0.5, 1.0), row(2, 0.9, 0.5), row(3, 0.8, 0.5), row(4, 0.9, 0.5), row(5, 1.0, math.nan)]
    assert metrics.best(rows)["epoch"] == 4  # the lower loss, then the accuracy, then the later epoch
    assert metrics.epochs_without_improvement(rows) == 3
    assert metrics.epochs_without_improvement([]) == 0
    assert metrics.best([row(1, 0.5, math.nan), row(2, 0.5, math.inf)])["epoch"] == 2
    assert metrics.best([{"epoch": 1, "valid_loss": 1.0}, {"epoch": 2, "valid_loss": 0.9}])["epoch"] == 2


def test_a_single_seed_has_no_deviation():
    one, two = metrics.mean_std({3: 0.5}), metrics.mean_std({0: 0.5, 1: 0.52})
    assert [metrics.describe_mean_std(found, True) for found in (one, two)] == ["50.0 %", "51.0 ± 1.4 %"]
    assert [metrics.describe_mean_std(found, False) for found in (one, two)] == ["0.5000", "0.5100 ± 0.0141"]


def test_mean_std():
    assert metrics.mean_std({3: 0.5}) == {"mean": 0.5, "deviation": 0.0, "seeds": {"3": 0.5}}
    found = metrics.mean_std({0: 1.0, 1: 3.0})
    assert found == {"mean": 2.0, "deviation": pytest.approx(math.sqrt(2)), "seeds": {"0": 1.0, "1": 3.0}}


def test_history_in_a_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [row(1, 0.5, 1.0), row(2, 0.25, 0.75)]
    for one in rows:
        metrics.append(path, one)
    assert metrics.read(path) == rows
    metrics.rewrite(path, rows[:1])
    assert metrics.read(path) == rows[:1]
    assert json.loads(path.read_text()) == rows[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as a run's metrics"):
        metrics.read(path)
    with pytest.raises(UserError, match="cannot be read as a run's metrics"):
        metrics.read(tmp_path / "none.jsonl")


def test_tensorboard(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with metrics.tensorboard(tmp_path / "run" / "tensorboard", first_step=5) as write:
        write(row(1, 0.5, 1.0))
        (path,) = (tmp_path / "run" / "tensorboard").iterdir()
        data, found = path.read_bytes(), {}  # read before it is closed: a killed run keeps its epochs
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert found == {("valid_accuracy", 10): 0.5, ("valid_loss", 10): 1.0}
