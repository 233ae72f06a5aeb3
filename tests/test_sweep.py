"""Sweeps: runs of one program are what each is alone, also stopped and resumed; tables against NumPy; refusals."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import Network, formats, train
from cnnjax.cli import build, groups, main
from cnnjax.cli import sweep as cli_sweep
from cnnjax.cli.config import Config
from cnnjax.cli.config_json import from_dict
from cnnjax.data.dataset import ArraySplit, Dataset
from cnnjax.errors import Diverged, Preempted, UserError
from cnnjax.train import Member, fit_members, loop, optimizers, schedules, stack, state, strategy, sweeps
from cnnjax.train import members as members_

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE, STEPS = 8, 3


def split(seed: int, size: int = 24) -> ArraySplit:
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 2).astype(np.int32)
    images = rng.integers(0, 200, (size, SIDE, SIDE, 3)) + 40 * labels[:, None, None, None]
    return ArraySplit(images.astype(np.uint8), labels)


DATA = Dataset(split(0), split(1, 10), lambda: split(2, 10), ("cat", "dog"))
OPTIONS = {"epochs": 2, "batch_size": 8, "steps_per_epoch": STEPS, "strategy": "jit", "on_progress": lambda *_: None}


class Small(nnx.Module):
    """Convolution, running statistics, dropout, two logits."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv, self.norm = nnx.Conv(3, 4, (3, 3), 2, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.dropout, self.dense = nnx.Dropout(0.2), nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(nnx.relu(self.norm(self.conv(x)))).reshape(len(x), -1))


def network(seed: int) -> Network:
    return Network.create(Small(nnx.Rngs(seed)), DATA)


def optimizer(learning_rate, weight_decay) -> optax.GradientTransformation:
    """SGD, which does not make large steps of rounding errors as Adam does; the schedule's peak is swept."""
    schedule = schedules.scale(schedules.create("warmup-cosine", 1.0, 2 * STEPS, 2), learning_rate)
    return optimizers.create("sgd", schedule, weight_decay=weight_decay, clip_norm=1.0)


POINTS = ((0.02, 0.01, 0), (0.1, 0.01, 1), (0.1, 0.001, 2))


def members(root: Path | None = None) -> list[Member]:
    found = []
    for number, (rate, decay, seed) in enumerate(POINTS):
        folder = None if root is None else root / f"run-{number}"
        values = {"learning_rate": rate, "weight_decay": decay}
        found.append(Member(network(seed), values, seed, folder, {"seed": seed, **values}))
    return found


def fit_alone(member: Member, **changes):
    rate, decay = member.hyperparams["learning_rate"], member.hyperparams["weight_decay"]
    schedule = schedules.create("warmup-cosine", rate, 2 * STEPS, 2)
    tx = optimizers.create("sgd", schedule, weight_decay=decay, clip_norm=1.0)
    own = {"seed": member.seed, "run_dir": member.run_dir, "config": member.config}
    return train.fit(member.network, DATA, tx, **OPTIONS | own | changes)


def arrays(result) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((result.network.params, result.network.model_state))]


def numbers(result) -> list[list[float]]:
    rows = [
        [row[name] for name in sorted(row) if name not in ("seconds", "images_per_second")] for row in result.history
    ]
    return [*rows, [result.test["loss"], result.test["accuracy"]]]


def assert_close(one, other, atol=1e-5) -> None:
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=0)
    np.testing.assert_allclose(numbers(one)[0], numbers(other)[0], atol=atol, rtol=0)
    np.testing.assert_allclose(numbers(one)[-1], numbers(other)[-1], atol=atol, rtol=0)


@pytest.fixture(scope="module")
def alone():
    return [fit_alone(member) for member in members()]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A stack on three of the eight devices, whose folders are kept."""
    root = tmp_path_factory.mktemp("stacked")
    return root, fit_members(members(root), DATA, optimizer, stacked=True, **OPTIONS)


def test_a_stack_gives_what_each_run_gives_alone(alone, together):
    for one, other in zip(alone, together[1], strict=True):
        assert_close(one, other)
    assert not np.allclose(arrays(alone[1])[-1], arrays(alone[2])[-1], atol=1e-3)


def test_one_program_called_in_turn_gives_it_too(alone, capsys):
    options = OPTIONS | {"on_progress": None}
    for one, other in zip(alone, fit_members(members(), DATA, optimizer, stacked=False, **options), strict=True):
        assert_close(one, other, atol=1e-6)
    begun = [line.partition(" epoch ")[0] for line in capsys.readouterr().err.splitlines() if " epoch 1/" in line]
    assert begun == [f"run {i}:" for i in range(1, len(alone) + 1)]


def test_a_stack_is_divided_among_devices_without_communication():
    assert [strategy.stack_strategy(n).devices for n in (1, 3, 8, 9, 16)] == [1, 3, 8, 5, 8]
    many = strategy.stack_strategy(9)
    assert strategy.stacked_size(many, 9) == 10
    placed = strategy.stack(many, [np.full(2, i) for i in range(9)])
    assert placed.shape == (10, 2) and len(placed.sharding.device_set) == 5
    np.testing.assert_array_equal(placed[:, 0], [*range(9), 8])


def test_the_stacks_program_has_no_collectives():
    plan = stack.Plan(network(0), DATA, optimizer(0.1, 0.1), loop.Options(**loop.defaults() | OPTIONS), optimizer)
    way, run = strategy.stack_strategy(8), plan.network
    begun = jax.eval_shape(lambda: state.create_state(run.params, run.model_state, plan.tx))
    values = {name: jax.ShapeDtypeStruct((), np.float32) for name in ("learning_rate", "weight_decay")}
    lowered = strategy.lower_stack_step(way, plan.step_config, begun, run.normalizer, plan.train_split, 8, 8, values)
    text = lowered.as_text()
    assert "manual_computation" in text  # what each device does by itself
    assert not any(name in text for name in ("all_reduce", "all_gather", "all_to_all", "collective"))


def test_every_run_has_its_usual_folder(together):
    root, results = together
    for number, result in enumerate(results):
        folder = root / f"run-{number}"
        for name in ("config.json", "metrics.jsonl", "curves.png", "checkpoints", "weights.safetensors", "test.json"):
            assert (folder / name).exists()
        assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.history
        found = formats.load(folder / "weights.safetensors", model=network(0).model())
        assert found.digest == result.network.digest


def test_finished_runs_are_read_and_a_run_alone_reads_them(together):
    root, results = together
    again = fit_members(members(root), DATA, optimizer, stacked=True, resume=True, **OPTIONS)
    assert [numbers(one) for one in again] == [numbers(one) for one in results]
    assert numbers(fit_alone(members(root)[1], resume=True)) == numbers(results[1])


def stop_after(count: int):
    seen = []

    def stop(*_):
        seen.append(1)
        if len(seen) == count:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("uneven", [False, True])
def test_resumed_bit_for_bit_and_from_different_steps_as_closely_as_other_programs_round(together, tmp_path, uneven):
    """Stopped within the second epoch. Uneven: run 1 has gone on alone, and run 2 has lost all but its first step."""
    changes = {"checkpoint_every_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        # The reports: three steps, an epoch of three runs, one step more.
        stop = {"on_progress": stop_after(8)}
        fit_members(members(tmp_path), DATA, optimizer, stacked=True, **OPTIONS | changes | stop)
    steps = [
        max(int(p.name.split("-")[0]) for p in (tmp_path / f"run-{i}" / "checkpoints").iterdir()) for i in range(3)
    ]
    assert len(set(steps)) == 1 and STEPS <= steps[0] < 2 * STEPS
    if uneven:
        with pytest.raises(KeyboardInterrupt):
            fit_members(
                members(tmp_path)[1:2], DATA, optimizer, stacked=True, resume=True,
                **OPTIONS | changes | {"on_progress": stop_after(2)},
            )  # fmt: skip
        for path in (tmp_path / "run-2" / "checkpoints").iterdir():
            if path.name != str(STEPS):
                path.rename(tmp_path / path.name)
    resumed = fit_members(members(tmp_path), DATA, optimizer, stacked=True, resume=True, **OPTIONS | changes)
    for one, other in zip(together[1], resumed, strict=True):
        for a, b in zip(arrays(one), arrays(other), strict=True):
            # Runs that are behind catch up in a smaller stack, which is another program.
            np.testing.assert_allclose(a, b, rtol=1e-5 if uneven else 0, atol=1e-6 if uneven else 0)
        assert uneven or numbers(one) == numbers(other)


def test_a_diverged_run_does_not_end_the_others(alone):
    bad = Member(network(0), {"learning_rate": 1e38, "weight_decay": 1e3}, 0)
    for stacked in (True, False):
        found = fit_members([members()[1], bad], DATA, optimizer, stacked=stacked, **OPTIONS)
        assert isinstance(found[1], Diverged) and "no longer finite" in str(found[1])
        assert_close(found[0], alone[1])


def test_sigterm_saves_all_runs(tmp_path, monkeypatch):
    class Watch:
        def __enter__(self):
            return lambda: True

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(stack.preemption, "watch_sigterm", lambda _: Watch())
    with pytest.raises(Preempted, match="resume=True"):
        fit_members(members(tmp_path), DATA, optimizer, stacked=True, **OPTIONS)
    assert all((tmp_path / f"run-{i}" / "checkpoints" / "1-partial").exists() for i in range(3))


def test_the_table_is_numpys(tmp_path):
    rates, seeds = (0.02, 0.1), (0, 1)
    found = train.sweep(
        network, DATA, lambda learning_rate: optimizer(learning_rate, 0.01), over={"learning_rate": rates}, seeds=seeds,
        run_dir=tmp_path, stacked=True, **OPTIONS,
    )  # fmt: skip
    rows = json.loads((tmp_path / "sweep.json").read_text())["combinations"]
    means = []
    for rate, row in zip(rates, rows, strict=True):
        losses = []
        for seed in seeds:
            lines = (tmp_path / f"learning_rate-{rate}" / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
            losses.append(min(json.loads(line)["valid_loss"] for line in lines))
        numbers = row["metrics"]["validation loss at its lowest"]
        assert row["values"] == {"learning_rate": rate}
        assert numbers["mean"] == pytest.approx(np.mean(losses))
        assert numbers["deviation"] == pytest.approx(np.std(losses, ddof=1))
        means.append(np.mean(losses))
    assert [row["best"] for row in rows] == [mean == min(means) for mean in means]
    assert found.best().values["learning_rate"] == rates[int(np.argmin(means))]
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("learning_rate,seed,") and [line.split(",")[:2] for line in lines[1:]] == [
        ["0.02", "0"], ["0.02", "1"], ["0.1", "0"], ["0.1", "1"]
    ]  # fmt: skip
    assert (tmp_path / "sweep.md").read_text().count("\n") == 4 and f"{min(means):.4f} ±" in found.text()
    assert (tmp_path / "sweep.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"over": {"learning_rate": [0.1, 0.1]}}, "learning_rate has the value 0.1 twice: give each value once"),
        ({"over": {"learning_rate": []}}, "learning_rate has no values: give one or more"),
        ({"over": {"learning_rate": ["fast"]}}, "learning_rate='fast' is not a finite number"),
        ({"seeds": [1, 1]}, "seeds has the value 1 twice"),
        ({"epoch": 3}, "unknown option 'epoch': did you mean epochs"),
    ],
)
def test_refusals(changes, said):
    arguments = {"over": {"learning_rate": [0.1]}, **changes}
    with pytest.raises(UserError, match=said):
        train.sweep(network, DATA, lambda learning_rate: optimizer(learning_rate, 0.01), **arguments)


def test_other_models_need_another_program():
    class Wide(Small):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.conv = nnx.Conv(3, 4, (5, 5), 2, rngs=rngs)

    other = Member(Network.create(Wide(nnx.Rngs(0)), DATA), dict(members()[0].hyperparams), 3)
    with pytest.raises(UserError, match="models of other layers or shapes"):
        fit_members([members()[0], other], DATA, optimizer, **OPTIONS)


CLI_FIELDS = [
    (["optimizer.learning-rate", "1e-4", "3e-4"], {"optimizer.learning-rate": [1e-4, 3e-4]}),
    (["--train.batch_size", "16", "32"], {"train.batch-size": [16, 32]}),
    (["train.freeze", "block1,block2", "block1"], {"train.freeze": [("block1", "block2"), ("block1",)]}),
    (["data.image-size", "64", "64,48"], {"data.image-size": [64, (64, 48)]}),
    (["optimizer.weight-decay", "none", "0.1"], {"optimizer.weight-decay": [None, 0.1]}),
    (["augment.enabled", "true", "false"], {"augment.enabled": [True, False]}),
    (["train.microbatches", "1", "2"], {"train.microbatches": [1, 2]}),  # with BatchNorm results depend on it
    (["data.rendering", "3", "4"], {"data.rendering": [3, 4]}),
]


@pytest.mark.parametrize(("words", "expected"), CLI_FIELDS)
def test_fields_and_values_of_the_command_line(words, expected):
    found = cli_sweep.parse([words])
    assert found == expected
    for values in sweeps.grid(found):
        cli_sweep.with_values(Config(), values)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ([["optimizer.learning-rat", "1"]], "did you mean 'optimizer.learning-rate'"),
        ([["optimizer.learning-rate", "fast"]], "does not accept 'fast': give a number"),
        ([["optimizer.name", "adam", "adma"]], "does not accept 'adma': give one of adam, adamw"),
        ([["run", "here"]], "--over run cannot be swept, because it is where the runs are written"),
        ([["train.workers", "1"]], "unknown field to sweep 'train.workers'"),
        ([["learning-rate", "1"]], "unknown field to sweep 'learning-rate': did you mean 'optimizer.learning-rate'?"),
        ([["data.workers", "1", "2"]], "results do not depend on it"),
        ([["train.seed", "1"]], "use --seeds"),
        ([["optimizer.momentum"]], "has no values"),
        ([["optimizer.momentum", "0.5"], ["optimizer.momentum", "0.9"]], "is given twice"),
        ([[]], "--over names no field"),
    ],
)
def test_the_command_line_refuses(over, said):
    with pytest.raises(UserError, match=said):
        cli_sweep.parse(over)


def test_what_one_program_can_serve():
    base = Config()
    changes = [
        {"optimizer.learning-rate": 1e-4}, {"optimizer.learning-rate": 1e-3}, {"model.width-multiplier": 0.5},
        {"optimizer.clip-norm": 1.0}, {"optimizer.clip-norm": 2.0},
    ]  # fmt: skip
    runs = {Path(str(i)): cli_sweep.with_values(base, change) for i, change in enumerate(changes)}
    seeds = {Path(f"seed-{i}"): groups.with_place(base, Path(f"seed-{i}"), i) for i in range(2)}
    found = [[str(place) for place in group] for group in groups.divide({**runs, **seeds})]
    assert found == [["0", "1", "seed-0", "seed-1"], ["2"], ["3", "4"]]


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "lion"])
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_numbers_given_to_a_program_are_the_configs(name, schedule):
    """The optimizer with traced numbers updates as that of the config, for each schedule's first and later steps."""
    values = {"optimizer.name": name, "optimizer.schedule": schedule, "optimizer.learning-rate": 0.03}
    values |= {"optimizer.weight-decay": 0.1, "optimizer.clip-norm": 0.5}
    config = cli_sweep.with_values(Config(), values)
    if name != "adamw" and schedule not in ("constant", "one-cycle"):
        return  # what the schedule does is the same for each
    params, gradient = ({"k": {"kernel": jnp.full((2, 3), value, jnp.float32)}} for value in (1.0, 0.7))
    numbers = {key: jnp.float32(value) for key, value in build.hyperparams(config).items()}

    def updates(**given):
        tx = optimizers.with_standard_promotion(build.optimizer(config, 20, **given))
        state, found = tx.init(params), []
        for _ in range(3):
            update, state = tx.update(gradient, state, params)
            found.append(update["k"]["kernel"])
        return found

    traced = jax.eval_shape(lambda given: updates(**given), numbers)
    assert [leaf.shape for leaf in traced] == [(2, 3)] * 3
    for one, other in zip(updates(), updates(**numbers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main.main([str(argument) for argument in arguments])
    return stop.value.code


def test_the_command(tmp_path, capsys):
    """Two programs, one of them for two learning rates; then everything is there already, also for other commands."""
    flags = ["sweep", "debug", "--run", tmp_path, "--data.image-size", "16", "--data.per-class", "8"]
    flags += ["--data.eval-per-class", "4", "--train.epochs", "1", "--train.batch-size", "8", "--train.strategy", "jit"]
    flags += ["--over", "optimizer.learning-rate", "1e-3", "1e-2", "--seeds", "0", "1"]
    assert call(*flags, "--model.width-multiplier", "0.1") == 0
    said = capsys.readouterr().out
    assert "the lowest validation loss has optimizer.learning-rate 0.0" in said and "sweep.png" in said
    rows = json.loads((tmp_path / "sweep.json").read_text())["combinations"]
    assert [row["values"] for row in rows] == [{"optimizer.learning-rate": rate} for rate in (1e-3, 1e-2)]
    place = tmp_path / "optimizer.learning-rate-0.01" / "seed-1"
    test = json.loads((place / "test.json").read_text())
    assert rows[1]["metrics"]["test accuracy at the lowest loss"]["seeds"]["1"] == test["accuracy"]
    config = from_dict(Config, json.loads((place / "config.json").read_text()))
    assert config.optimizer.learning_rate == 0.01 and config.train.seed == 1 and config.run == str(place)
    assert call(*flags, "--model.width-multiplier", "0.1", "--resume") == 0
    assert json.loads((tmp_path / "sweep.json").read_text())["combinations"] == rows
    assert call(*flags, "--model.width-multiplier", "0.1") == 2
    assert "--resume" in capsys.readouterr().err
    alone = ["train", "debug", *flags[4:-7], "--run", place, "--optimizer.learning-rate", "1e-2", "--train.seed", "1"]
    assert call(*alone, "--model.width-multiplier", "0.1", "--resume") == 0


def test_the_commands_help(capsys):
    assert call("sweep", "--help") == 0
    said = capsys.readouterr().out
    assert "cnnjax sweep cnn --over optimizer.learning-rate 1e-4" in said and "--seeds 0 1 2" in said
    assert max(map(len, said.splitlines())) <= 80
    assert call("sweep", "debug") == 2
    assert "--over is missing" in capsys.readouterr().err


@pytest.mark.parametrize("every", [1, 0])
def test_parameters_that_overflow_end_their_own_run_alone(alone, tmp_path, every):
    """Also where they are noticed by a checkpoint, before the loss is looked at."""
    bad = members(tmp_path)[0]
    bad = dataclasses.replace(bad, hyperparams={"learning_rate": 1e38, "weight_decay": 1e3}, config={"seed": 0})
    for stacked in (True, False):
        folders = [tmp_path / f"{stacked}-{every}-{number}" for number in range(2)]
        pair = [
            dataclasses.replace(one, run_dir=folder) for one, folder in zip((members()[1], bad), folders, strict=True)
        ]
        found = fit_members(pair, DATA, optimizer, stacked=stacked, checkpoint_every_steps=every, **OPTIONS)
        assert isinstance(found[1], Diverged)
        assert_close(found[0], alone[1])


def test_groups_of_one_set_of_images_are_given_those_of_the_first_that_has_begun(monkeypatch):
    """A new group may come first: with the folder's present images the older runs could not go on."""
    runs = {
        Path(f"run-{name}"): from_dict(Config, {"optimizer": {"name": name}, "data": {"source": "folder:photos"}})
        for name in ("sgd", "adam")
    }
    asked = []
    monkeypatch.setattr(groups, "given_to", lambda folders, resume: asked.append(list(folders)))
    monkeypatch.setattr(groups, "_load", lambda config, inventory: DATA)
    monkeypatch.setattr(groups, "_fit_group", lambda group, *_: [Diverged("so large")] * len(group))
    monkeypatch.setattr(groups, "_report", lambda *_: None)
    groups.fit_all(runs, resume=True)
    assert asked == [list(runs)]


def test_a_run_that_diverges_alone_in_its_group_does_not_end_the_others(monkeypatch):
    runs = {Path(name): from_dict(Config, {"optimizer": {"name": name}}) for name in ("sgd", "adam")}

    def fit(config, *_, resume):
        if config.optimizer.name == "sgd":
            raise Diverged("so large")
        return done

    done = loop.Result([], network(0), {})
    monkeypatch.setattr(groups, "_load", lambda config, inventory: DATA)
    monkeypatch.setattr(groups, "_report", lambda *_: None)
    monkeypatch.setattr(build, "fit", fit)
    found = groups.fit_all(runs, resume=False)
    assert isinstance(found[Path("sgd")], Diverged) and found[Path("adam")] is done
    with pytest.raises(Diverged, match="so large"):
        groups.fit_all({Path("sgd"): runs[Path("sgd")]}, resume=False)


def test_a_stack_takes_batches_that_the_devices_could_not_divide():
    """It divides networks among them."""
    options = OPTIONS | {"strategy": "auto", "batch_size": 12, "steps_per_epoch": 1, "epochs": 1}
    found = fit_members(members()[:2], DATA, optimizer, stacked=True, **options)
    assert jax.device_count() == 8 and [len(result.history) for result in found] == [1, 1]


def test_a_sweep_is_not_resumed_with_other_settings(tmp_path, monkeypatch):
    """Each run's config.json has what `fit` records, beside the swept numbers."""
    trained = []
    monkeypatch.setattr(sweeps, "fit_members", lambda members, dataset, optimizer, **options: [
        loop.prepare(members_._plan(one, dataset, optimizer, {n: v for n, v in options.items() if n != "stacked"}, 0),
                     one.run_dir) or trained.append(one) or Diverged("so large") for one in members])  # fmt: skip
    sweep = partial(train.sweep, network, DATA, optimizer, over={"learning_rate": [0.1], "weight_decay": [0.0]})
    sweep(run_dir=tmp_path, **OPTIONS)
    folder = trained[0].run_dir
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["hyperparams"] == {"learning_rate": 0.1, "weight_decay": 0.0} and recorded["batch_size"] == 8
    (folder / "checkpoints" / "3").mkdir(parents=True)
    sweep(run_dir=tmp_path, resume=True, **OPTIONS)
    with pytest.raises(UserError, match="was started with batch_size=8 and cannot be resumed with 4"):
        sweep(run_dir=tmp_path, resume=True, **OPTIONS | {"batch_size": 4})
