"""Stages run once, again if their inputs change, and again if they were interrupted."""

import json

import pytest

from cnnjax.article.stage_cache import StageCache, duration
from cnnjax.errors import UserError
from cnnjax.files import make_folder

PLAN = {"first": 1.0, "second": 3.0}


def _job(folder, calls, first=1, fresh=False, fail=False):
    def second(path):
        calls.append("second")
        if fail:
            raise KeyboardInterrupt
        (path / "file.txt").write_text("made")
        return {"value": 2}

    stages = StageCache(folder, PLAN, fresh=fresh)
    stages.run("first", "The first", {"n": first}, lambda path: calls.append("first") or {"value": first})
    return stages.run("second", "The second", {}, second)


def test_a_finished_stage_is_read_back(tmp_path, capsys):
    calls = []
    assert _job(tmp_path, calls) == _job(tmp_path, calls) == {"value": 2}
    assert calls == ["first", "second"]
    said = capsys.readouterr().out
    assert "[1/2] The first; about 4 s left for all stages" in said
    assert "[2/2] The second: already done" in said


def test_changed_inputs_remake_a_stage_and_those_after_it(tmp_path):
    calls = []
    _job(tmp_path, calls)
    (tmp_path / "second" / "stale.png").touch()
    _job(tmp_path, calls, first=7)
    assert calls == ["first", "second"] * 2
    assert not (tmp_path / "second" / "stale.png").exists()


def test_an_interrupted_stage_is_repeated_and_its_time_counted(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        _job(tmp_path, calls, fail=True)
    assert not (tmp_path / "second" / "stage.json").exists()
    spent = json.loads((tmp_path / "second" / "spent.json").read_text())["seconds"]
    _job(tmp_path, calls)
    assert calls == ["first", "second", "second"]
    assert json.loads((tmp_path / "second" / "stage.json").read_text())["seconds"] >= spent > 0


def test_an_interrupted_stage_with_other_inputs_starts_over(tmp_path):
    """Otherwise files of both would be in one folder, and the record would say that all are of the new inputs."""
    with pytest.raises(KeyboardInterrupt):
        _job(tmp_path, [], fail=True)
    (tmp_path / "second" / "half.png").touch()
    with pytest.raises(KeyboardInterrupt):
        _job(tmp_path, [], fail=True)
    assert (tmp_path / "second" / "half.png").exists()  # the same inputs: what is there is used
    _job(tmp_path, [], first=7)
    assert not (tmp_path / "second" / "half.png").exists()


def test_fresh_starts_over(tmp_path):
    calls = []
    _job(tmp_path, calls)
    _job(tmp_path, calls, fresh=True)
    assert calls == ["first", "second"] * 2


def test_a_damaged_record_counts_as_unfinished(tmp_path):
    calls = []
    _job(tmp_path, calls)
    (tmp_path / "first" / "stage.json").write_text("{")
    _job(tmp_path, calls)
    assert calls == ["first", "second", "first"]


def test_any_flipped_bit_in_a_record_is_noticed(tmp_path, caplog):
    """A digit of an accuracy among them; bytes that are no text, and names of fields, were tracebacks."""
    calls = []
    _job(tmp_path, calls)
    record = tmp_path / "first" / "stage.json"
    contents = record.read_bytes()
    for place in range(len(contents)):
        damaged = bytearray(contents)
        damaged[place] ^= 1 << (place % 8)
        record.write_bytes(damaged)
        calls.clear()
        caplog.clear()
        _job(tmp_path, calls)
        if calls:
            assert calls[0] == "first" and "this stage is run again" in caplog.text
        else:  # other white space, or 1E-05 for 1e-05
            assert json.loads(damaged) == json.loads(contents)


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"sha256": 5}', '{"fingerprint": "a", "result": {}}'])
def test_a_record_of_another_kind_counts_as_unfinished(tmp_path, text):
    calls = []
    _job(tmp_path, calls)
    (tmp_path / "first" / "stage.json").write_text(text)
    _job(tmp_path, calls)
    assert calls[2:] == ["first"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file.*choose another folder"):
        make_folder(tmp_path / "file" / "run")


def test_duration():
    assert [duration(s) for s in (4.4, 95, 3600)] == ["4 s", "1 min 35 s", "60 min 00 s"]
