"""Reading a threshold back: the file or its folder, of this table only, and no torch for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sm_store.errors import ConfigError
from speechmapper.measure.threshold import read_threshold

FOUND = {
    "threshold": {"relative_mse": 0.07, "mse": 0.001, "last_passing": 0.05, "first_failing": 0.1},
    "llm": {"id": "some-llm"},
    "table_sha256": "ab" * 32,
}


def written(folder, **changes):
    (folder / "eet.json").write_text(json.dumps({**FOUND, **changes}))
    return folder / "eet.json"


def test_the_file_or_its_folder(tmp_path):
    file = written(tmp_path)
    threshold = read_threshold(tmp_path)
    assert threshold == read_threshold(file)
    assert (threshold.llm, threshold.table_sha256) == ("some-llm", "ab" * 32)
    assert (threshold.relative_mse, threshold.mse, threshold.failed) == (0.07, 0.001, True)


def test_a_lower_bound_is_told_apart(tmp_path):
    written(tmp_path, threshold={**FOUND["threshold"], "first_failing": None})
    assert not read_threshold(tmp_path).failed


def test_another_table_is_refused(world, tmp_path):
    spec = world.store.targets("tiny").spec
    written(tmp_path, table_sha256=spec.table_sha256)
    read_threshold(tmp_path).require_table(spec)
    written(tmp_path)
    with pytest.raises(ConfigError, match=r"eet\.json: this is the threshold of some-llm.*not that of target set tiny"):
        read_threshold(tmp_path).require_table(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": None},
        {"threshold": {"relative_mse": 0.1}},
        {"threshold": {**FOUND["threshold"], "relative_mse": "0.1"}},
        {"threshold": {**FOUND["threshold"], "relative_mse": -1}},
        {"threshold": {**FOUND["threshold"], "mse": float("nan")}},
        {"threshold": {**FOUND["threshold"], "mse": True}},
        {"llm": "some-llm"},
        {"llm": {"id": ""}},
        {"table_sha256": None},
    ],
)
def test_what_is_not_a_threshold_is_bad_input(changes, tmp_path):
    written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=r"eet\.json: not an eet\.json of `sm-eval eet`"):
        read_threshold(tmp_path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"eet\.json: cannot be read \(No such file"):
        read_threshold(tmp_path)
    (tmp_path / "eet.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_threshold(tmp_path)
    (tmp_path / "eet.json").write_text("[1]")
    with pytest.raises(ConfigError, match="not an"):
        read_threshold(tmp_path)


def test_no_torch_is_needed():
    code = (
        "import sys, speechmapper.measure.threshold; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
