"""The race to keras-vis' activations: when a target is reached, the port against NumPy, the command on tiny images."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import race
import tiny
import visualization
from contenders import ours_filters
from race import Look

from cnnjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = Path(__file__).parents[1]
needs_keras = pytest.mark.skipif(not (find_spec("tensorflow") and find_spec("keras")), reason="needs the extra `peers`")

PORT = """
import sys
sys.path[:0] = [{tests!r}, {contenders!r}]
import keras_vis as port, numpy as np, tensorflow as tf
from oracles import keras_vis as oracle

p = oracle.parameters(12)

def maps(x):
    for number in "12":
        x = x / 255 if number == "1" else x
        x = tf.nn.relu(tf.nn.conv2d(x, p["kernel_" + number], 1, "SAME") + p["bias_" + number])
        x = tf.nn.max_pool2d(x, 2, 2, "VALID") if number == "1" else x
    return x

generator = np.random.default_rng(1)
image = port.seed_image(generator, 12)
assert abs(image.mean() - 127.5) < 1e-3 and abs(image.std() - 12.75) < 1e-3
step = port.stepper(maps, False)
for tv in (0.0, 10.0):
    ours = port.minimize(step, image.astype(np.float64), 3, 6, tv, 0, generator)
    theirs = oracle.minimize(p, image, "conv_2", 3, 6, tv)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    assert not np.allclose(ours, oracle.minimize(p, image, "conv_2", 3, 6, tv, norm="l2"), rtol=1e-2)
    np.testing.assert_array_equal(port.deprocess(ours), oracle.deprocess(theirs))

def once(image, offset):
    x = tf.constant(image[None], tf.float64)
    numbers = tf.constant(np.inf, tf.float64), x, tf.constant(3), tf.constant(1.0, tf.float64), tf.constant(offset)
    return step(x, tf.zeros_like(x), *numbers)[0].numpy()

np.testing.assert_allclose(once(image, [2, -1]), once(np.roll(image, (2, -1), (0, 1)), [0, 0]), rtol=1e-12)
"""


def run(*command, timeout):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=timeout)


def test_the_recipe_takes_all_its_passes_to_its_end_and_those_up_to_the_best_to_its_highest():
    looks = [Look(3.0, 30, {0: 5.0}), Look(2.0, 20, {0: 4.0}), Look(30.0, 30, {1: 1.0}), Look(20.0, 20, {1: 6.0})]
    assert race.targets(looks, 2) == {"end": [4.0, 6.0], "highest": [5.0, 6.0]}
    assert race.drawn(looks, 2, "end") == race.Result(55.0, [50, 50], [4.0, 6.0])
    assert race.drawn(looks, 2, "highest") == race.Result(53.0, [30, 50], [5.0, 6.0])


def test_ours_takes_until_the_last_filter_has_met_its_target():
    looks = [Look(1.0, 10, {0: 5.0, 1: 1.0}), Look(2.0, 10, {0: 3.0, 1: 7.0}), Look(4.0, 5, {0: 9.0, 1: 2.0})]
    assert race.climbed(looks, [4.0, 6.0]) == race.Result(3.0, [10, 20], [5.0, 7.0])
    assert race.climbed(looks, [4.0, 8.0]) == race.Result(7.0, [10, 25], [5.0, 2.0]), "not reached: all of its time"


def test_rows_count_who_reached_what_and_compare_steps():
    port = [Look(3.0, 30, {0: 5.0}), Look(2.0, 20, {0: 4.0}), Look(3.0, 30, {1: 0.0}), Look(2.0, 20, {1: 0.0})]
    ours = [Look(1.0, 10, {0: 4.5, 1: 0.0}), Look(1.0, 10, {0: 4.8, 1: 0.0})]
    work = {"layer": "block1_conv2", "channels": [3, 4]}
    rows = race.rows(work, [{"keras-vis port": port, "cnnjax": ours}], {"keras-vis port": 9.0, "cnnjax": 8.0})
    end, highest = rows[:2], rows[2:]
    assert [(r.who, r.reached, r.dead, r.median, r.ratio) for r in end] == [
        ("keras-vis port", 1, 1, 10.0, 10.0),
        ("cnnjax", 1, 1, 1.0, 1.0),
    ]
    assert [(r.reached, r.median) for r in highest] == [(1, 6.0), (0, 2.0)]
    assert [r.step_seconds for r in end] == [10 / 100, 2 / 40]
    assert end[0].step_ratio == pytest.approx(2.0)


def test_networks_that_differ_do_not_race():
    maps = np.random.default_rng(0).random((4, 4, 3))
    race.check_agreement({"cnnjax": maps, "keras-vis port": maps * 1.0005})
    with pytest.raises(UserError, match="keras-vis port's activations of one image differ from cnnjax's by"):
        race.check_agreement({"cnnjax": maps, "keras-vis port": maps * 1.002})
    with pytest.raises(UserError, match="differ"):
        race.check_agreement({"cnnjax": maps, "keras-vis port": maps * np.nan})


def test_ours_stops_once_every_target_was_reached():
    network, channels = tiny.network(), [0, 3]
    everything = list(ours_filters.climb(network, "conv_2", channels, [np.inf, np.inf], 45))
    assert [taken for taken, _, _ in everything] == [10, 20, 30, 40, 45]
    rising = np.maximum.accumulate([goals for _, goals, _ in everything])
    targets = rising[1]
    assert (rising[0] < targets).any()
    stopped = list(ours_filters.climb(network, "conv_2", channels, targets, 45))
    assert [taken for taken, _, _ in stopped] == [10, 20]
    for (_, goals, images), (_, same, others) in zip(stopped, everything, strict=False):
        np.testing.assert_array_equal(goals, same)
        np.testing.assert_array_equal(images, others)
    shown = jnp.asarray(stopped[-1][2]).astype(jnp.float32)
    maps = network(shown / 255)[1]["conv_2"]
    np.testing.assert_allclose(stopped[-1][1], [maps[i, ..., k].mean() for i, k in enumerate(channels)], rtol=1e-5)


@needs_keras
def test_the_port_is_keras_vis():
    script = PORT.format(tests=str(ROOT / "tests"), contenders=str(ROOT / "benchmarks" / "contenders"))
    done = run("-c", script, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@needs_keras
def test_visualization_as_a_user_runs_it(tmp_path):
    out = tmp_path / "results" / "visualization.json"
    command = [
        ROOT / "benchmarks" / "visualization.py",
        "--layers",
        "block1_conv2",
        "--filters",
        "1",
        "--image-size",
        "32",
    ]
    done = run(*command, "--steps", "3", "2", "--who", "cnnjax", "keras-vis port", "--out", out, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}" in done.stdout
    results = json.loads(out.read_text())
    found = {(row["workload"], row["who"], row["filters"], row["dead"]) for row in results["rows"]}
    assert found == {
        (f"block1_conv2, {target}", who, 1, 0) for target in race.TARGETS for who in ("cnnjax", "keras-vis port")
    }
    assert all(np.isfinite(row["median"]) and row["step_seconds"] > 0 for row in results["rows"])
    assert results["steps"] == [3, 2] and results["channels"] == {"block1_conv2": [0]} and results["image_size"] == 32
    assert out.with_suffix(".png").stat().st_size > 5000


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"layers": ("block9_conv1",)}, "unknown layer 'block9_conv1': did you mean"),
        ({"layers": ("block1_pool",)}, "unknown layer 'block1_pool': did you mean"),
        ({"who": ("keras",)}, "unknown contender 'keras': did you mean"),
        ({"filters": 0}, "--steps, --filters and --rounds must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence):
    mini = ROOT / "cnnjax" / "weights" / "vgg16-mini.safetensors"
    with pytest.raises(UserError, match=sentence):
        visualization.visualization(weights=mini, **flags)
