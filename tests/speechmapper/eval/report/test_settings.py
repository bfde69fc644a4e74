"""What differs between runs."""

from __future__ import annotations

import pytest

from speechmapper.eval.report.settings import (
    Setting,
    condition_of,
    differing,
    flattened,
    noise_of,
    setting_text,
)
from tests.speechmapper.eval.report.made import evaluation


def made(**about):
    return evaluation(about={"task": "asr", **about})


def test_nested_settings_have_flat_names():
    about = {"head": "rows", "run": {"training": {"seed": 1}, "empty": {}, "list": [1, "a"]}, "llm": None}
    assert flattened(about) == {
        "head": "rows",
        "run.training.seed": 1,
        "run.empty": "{}",
        "run.list": '[1, "a"]',
        "llm": None,
    }


def test_nesting_without_end_is_text():
    deep: dict = {}
    for _ in range(60):
        deep = {"a": deep}
    assert len(flattened(deep)) == 1


def test_settings_that_differ_and_what_varies_with_them():
    runs = [
        made(head="rows", llm="small", run={"training": {"alpha": 5.0}, "target": {"vocabulary": 10}}),
        made(head="rows", llm="large", run={"training": {"alpha": 7.0}, "target": {"vocabulary": 20}}),
        made(head="rows", llm="large", run={"training": {"alpha": 9.0}, "target": {"vocabulary": 20}}),
    ]
    size, alpha = differing(runs)
    assert size == Setting("run.target.vocabulary", ("llm",), (10, 20, 20))
    assert alpha == Setting("run.training.alpha", (), (5.0, 7.0, 9.0))
    assert size.numeric and alpha.numeric


def test_what_a_run_does_not_have_is_none():
    (setting,) = differing([made(head="rows"), made()])
    assert setting == Setting("head", (), ("rows", None)) and not setting.numeric
    (setting,) = differing([made(seed=1), made(seed=2), made()])
    assert setting.values == (1, 2, None) and setting.numeric


def test_one_number_and_absence_is_no_axis():
    (setting,) = differing([made(seed=1), made()])
    assert not setting.numeric
    (setting,) = differing([made(trim=True), made(trim=False)])
    assert not setting.numeric


@pytest.mark.parametrize(
    "about",
    [
        {"versions": {"torch": "3"}},
        {"rejected": 4},
        {"source": "other"},
        {"run": {"encoder": {"weights_sha256": "b"}}},
        {"condition": {"degrade": "noise=0dB"}},
        {"run": {"target": {"table_scale": 0.1}}},
    ],
)
def test_versions_checksums_paths_and_counts_are_no_settings(about):
    assert differing([made(), made(**about)]) == []


@pytest.mark.parametrize(
    ("condition", "text", "noise"),
    [
        (None, "", None),
        ("noise=10dB", "noise=10dB", ("noise", 10.0)),
        ({"degrade": "babble=-2.5dB,seed=3", "seed": 3, "steps": []}, "babble=-2.5dB,seed=3", ("babble", -2.5)),
        ("noise=10dB,speed=1.1", "noise=10dB,speed=1.1", None),
        ("codec=opus8k", "codec=opus8k", None),
        ({"steps": 2}, '{"steps": 2}', None),
        (["noise=1dB"], '["noise=1dB"]', None),
    ],
)
def test_conditions(condition, text, noise):
    about = {} if condition is None else {"condition": condition}
    assert condition_of(about) == text
    assert noise_of(about) == noise


def test_values_as_text():
    assert [setting_text(value) for value in (None, "a", 1.5, True)] == ["none", "a", "1.5", "true"]
