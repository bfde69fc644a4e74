"""Predictions on disk: written as a whole, read line by line."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError, IdentityMismatch
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.predictions import PredictionLog, read_predictions, write_predictions


def test_bad_predictions_are_named_by_line(tmp_path):
    with pytest.raises(ConfigError, match=r"predictions\.jsonl: no predictions there; run `sm-eval asr"):
        read_predictions(tmp_path)
    good = '{"id": "a", "reference": "x", "output": "y"}\n'
    for bad in ("not json\n", '{"id": "b", "reference": "x"}\n', "[1]\n", '{"reference": 1, "output": "y"}\n'):
        (tmp_path / "predictions.jsonl").write_text(good + bad)
        with pytest.raises(ConfigError, match=r"predictions\.jsonl:2: not a prediction"):
            read_predictions(tmp_path)


def test_out_that_cannot_be_written_is_bad_input(world, stage1_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        predict(PredictRequest(stage1_run, tmp_path / "file", world.path))


def test_what_is_written_is_read_again(tmp_path):
    lines = [
        {"id": "a", "prompt": None, "reference": "größer\n音", "output": ""},
        {"id": "b", "prompt": "p", "reference": "x", "output": "y\tz", "relative_mse": 0.5, "positions": 3},
    ]
    write_predictions(tmp_path / "new", lines, {"task": "asr"})
    assert read_predictions(tmp_path / "new") == (lines, {"task": "asr"})
    write_predictions(tmp_path / "new", lines[:1], {"task": "st"})
    assert read_predictions(tmp_path / "new") == (lines[:1], {"task": "st"})


def test_without_about_there_is_nothing_to_say_about_them(tmp_path):
    write_predictions(tmp_path, [{"reference": "x", "output": "y"}], {"task": "asr"})
    (tmp_path / "about.json").unlink()
    assert read_predictions(tmp_path)[1] == {}


def test_bytes_that_are_no_text_are_no_predictions(tmp_path):
    (tmp_path / "predictions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no predictions there"):
        read_predictions(tmp_path)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path, mark):
    """`str.splitlines` knows ten more ends of lines, which texts may hold."""
    lines = [{"id": "a", "reference": f"the{mark}dog", "output": f"a{mark}b"}, {"reference": "x", "output": mark}]
    write_predictions(tmp_path, lines, {"task": "asr", "run": f"a{mark}b"})
    assert read_predictions(tmp_path) == (lines, {"task": "asr", "run": f"a{mark}b"})


def test_an_empty_file_holds_no_predictions(tmp_path):
    write_predictions(tmp_path, [], {})
    with pytest.raises(ConfigError, match=r"predictions\.jsonl: no predictions in it"):
        read_predictions(tmp_path)


@pytest.mark.parametrize("contents", [b"[]", b'{"task": "as', b"\xff\xfe\x00", b"1", b"null", b"", b"[" * 100_000])
def test_an_about_file_that_is_no_object_is_named(tmp_path, contents):
    write_predictions(tmp_path, [{"reference": "x", "output": "y"}], {})
    (tmp_path / "about.json").write_bytes(contents)
    with pytest.raises(ConfigError, match=r"about\.json: not what an evaluation has written"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    "figures", [{"relative_mse": 0.5}, {"relative_mse": "a", "positions": 1}, {"relative_mse": 1, "positions": -1}]
)
def test_a_distance_without_its_positions_is_no_prediction(tmp_path, figures):
    write_predictions(tmp_path, [{"reference": "x", "output": "y", **figures}], {})
    with pytest.raises(ConfigError, match=r"predictions\.jsonl:1: not a prediction"):
        read_predictions(tmp_path)


ABOUT = {"task": "asr", "run": {"sizes": (1, 2)}}
LINES = [{"id": name, "reference": name, "output": name.upper()} for name in ("a", "b", "b", "c")]
ITEMS = {"a": 1, "b": 2, "c": 1}


def test_an_interrupted_evaluation_keeps_the_lines_of_whole_utterances(tmp_path):
    """Stopped in the middle of a line, with one of the two lines of `b`."""
    log = PredictionLog.open(tmp_path, ABOUT, ITEMS)
    log.append([LINES[3]])
    log.append([LINES[1]])
    unfinished = {"task": "asr", "run": {"sizes": [1, 2]}, "complete": False}
    assert read_predictions(tmp_path) == ([LINES[3], LINES[1]], unfinished)
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"id": "a", "refer')
    again = PredictionLog.open(tmp_path, ABOUT, ITEMS)
    assert (again.kept, again.finished) == ([LINES[3]], False)
    assert read_predictions(tmp_path)[0] == [LINES[3]]
    again.append([LINES[1], LINES[2]])
    again.append([LINES[0]])
    assert again.finish({"rejected": 0}) == LINES
    assert read_predictions(tmp_path) == (LINES, {"task": "asr", "run": {"sizes": [1, 2]}, "rejected": 0})
    done = PredictionLog.open(tmp_path, ABOUT, ITEMS)
    assert (done.kept, done.finished) == (LINES, True)
    assert not PredictionLog.open(tmp_path, ABOUT, ITEMS, overwrite=True).kept


def test_an_unfinished_evaluation_with_other_settings_is_refused_and_a_finished_one_replaced(tmp_path, capsys):
    PredictionLog.open(tmp_path, ABOUT, ITEMS).append([LINES[0]])
    with pytest.raises(
        IdentityMismatch, match=r"unfinished predictions \(--overwrite begins anew\).*task: .*asr.* != .*st"
    ):
        PredictionLog.open(tmp_path, {**ABOUT, "task": "st"}, ITEMS)
    PredictionLog.open(tmp_path, ABOUT, ITEMS).finish({"rejected": 2, "versions": {"torch": "1"}})
    assert PredictionLog.open(tmp_path, {**ABOUT, "task": "st"}, ITEMS).kept == []
    assert "replaces predictions with other settings (task: " in capsys.readouterr().err
