"""The list of settings: none is missing, each has help, defaults are those that a run takes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from speechmapper import config_help
from speechmapper.config_file import STAGES, load_stage1, load_stage2, to_yaml


def leaves(data: dict, path: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in data.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


@pytest.mark.parametrize(("stage", "load"), [("stage1", load_stage1), ("stage2", load_stage2)])
def test_every_setting_of_the_configuration_file_is_listed_with_its_default(stage, load):
    written = leaves(yaml.safe_load(to_yaml(stage, load(None, None, [])))[stage])
    assert {key: each.default for key, each in config_help.settings(stage).items()} == written
    assert len(written) > 40


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_has_help(stage):
    short = [key for key, each in config_help.settings(stage).items() if len(each.help.split()) < 3]
    assert short == []


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_printed_can_be_set(stage):
    load = {"stage1": load_stage1, "stage2": load_stage2}[stage]
    given = [f"{key}={config_help._shown(each.default)}" for key, each in config_help.settings(stage).items()]
    assert load(None, None, given) == STAGES[stage]()


def test_the_list_in_words_and_as_json():
    words, data = config_help.in_words(), config_help.to_json()
    assert json.loads(json.dumps(data)) == data
    for stage, settings in data.items():
        part = words[words.index(f"{stage}  ") :]
        for key, each in settings.items():
            assert f"  {key} " in part
            assert each.keys() == {"type", "default", "help"}
    assert max(map(len, words.splitlines())) <= 130
    assert data["stage1"]["optimizer.lr"] == {"type": "float", "default": 1e-4, "help": "largest learning rate (paper)"}
    assert "\n  optimizer.lr                      5e-05             largest learning rate (paper)\n" in words


def test_help_is_the_comment_on_the_line_of_a_field():
    comments = config_help._comments(Example)
    assert comments == {"near": "how near # it is", "far": "how far"}


@dataclasses.dataclass
class Example:
    """An example."""

    near: str = "#"  # how near # it is
    # not help of a field
    far: tuple[int, ...] = (
        1,
        2,
    )  # how far
    silent: int = 0
