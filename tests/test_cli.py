"""Bad input on the command line: one sentence, exit code 2."""

import pytest

from cnnjax.cli import command_line
from cnnjax.cli.config import PRESETS, Config, as_dict, from_dict
from cnnjax.errors import Preempted, UserError


def _train(preset: str, config: Config, *, resume: bool = False) -> None:
    """Train.

    Args:
        resume: Go on.
    """
    print(preset, config.train.epochs, resume)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cnx"], "unknown preset 'cnx': did you mean cnn"),
        (["--train.epochs", "3"], "the first argument is the preset"),
        (["cnn", "--train.epoch", "3"], "unknown flag '--train.epoch': did you mean --train.epochs"),
        (["cnn", "--train.epochs", "abc"], "--train.epochs: invalid literal for int() with base 10: 'abc'"),
        (["cnn", "--train.batch-size", "0"], "--train.batch-size 0 must be at least 1"),
        (["cnn", "--data.source", "imagefolder"], "unknown data source 'imagefolder'"),
        (["cnn", "--data.feed", "stream"], "--data.feed stream needs pictures in files, which procedural has not"),
        (["cnn", "--data.workers", "-1"], "--data.workers -1 is negative: use 0 for threads"),
        (["cnn", "--model.name", "resnet"], "'resnet'"),
        (["cnn", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.startswith("error: ") and expected in said.err
    assert said.err.count("\n") == 1 and said.out == ""


def test_overrides_reach_the_config(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["cnn", "--train.epochs", "7", "--resume"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "cnn 7 True\n"


def test_help_tells_what_the_runtime_set(capsys, monkeypatch):
    monkeypatch.setattr("cnnjax.runtime.changes", ["one flag", "one cache"])
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["cnn", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "--train.epochs" in said
    assert said.endswith("runtime: one flag; one cache; CNNJAX_RUNTIME=off leaves all as it was\n")


def test_an_error_of_the_run_is_one_sentence(capsys):
    def fail(*, where: str = "here") -> None:
        """Fail."""
        raise UserError(f"no such folder {where}: make it")

    with pytest.raises(SystemExit) as stop:
        command_line.main({"fail": fail}, ["fail", "--where", "there"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such folder there: make it\n"
    with pytest.raises(SystemExit) as stop:
        command_line.main({"fail": fail}, ["fial"])
    assert stop.value.code == 2
    assert "did you mean fail" in capsys.readouterr().err


def test_interrupt_exits_130(capsys):
    def interrupted() -> None:
        """Be interrupted."""
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command_line.main(interrupted, [])
    assert stop.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_preempted_exits_0(capsys):
    def stopped() -> None:
        """Be preempted."""
        raise Preempted("stopped by SIGTERM: go on with --resume")

    with pytest.raises(SystemExit) as stop:
        command_line.main(stopped, [])
    assert stop.value.code == 0
    assert capsys.readouterr().err == "\nstopped by SIGTERM: go on with --resume\n"


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name):
    import json

    assert from_dict(Config, json.loads(json.dumps(as_dict(PRESETS[name])))) == PRESETS[name]


def test_unknown_field_is_named():
    with pytest.raises(UserError, match="unknown field of DataConfig 'sid'"):
        from_dict(Config, {"data": {"sid": 3}})
