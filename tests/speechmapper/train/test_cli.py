"""`sm-train`: what its options become, and what it prints; tests/speechmapper/test_cli.py has the rules of all four."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sm_store.errors import RunFailed
from speechmapper.config_file import to_yaml
from speechmapper.train.cli import app
from speechmapper.train.run import Outcome
from tests.speechmapper.tiny import stage1_config

OUTCOME = Outcome(7, True, "done", 1, {"loss": 0.123456, "dev_wer": 0.5}, 12.5)


@pytest.fixture
def requests(monkeypatch):
    """Requests that the commands make; nothing is trained."""
    seen = []
    monkeypatch.setattr("speechmapper.train.stage1.train_stage1", lambda given: seen.append(given) or OUTCOME)
    monkeypatch.setattr("speechmapper.train.stage2.train_stage2", lambda given: seen.append(given) or OUTCOME)
    monkeypatch.setattr("speechmapper.train.sweep.sweep_stage1", lambda given: seen.append(given) or [])
    monkeypatch.setattr(
        "speechmapper.train.cli.run_processes", lambda _program, count, line: seen.append((count, line))
    )
    return seen


def call(*arguments: object):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


STAGE2 = ("stage2", "--store", "s", "--projector", "p", "--llm", "l", "--out", "o")


def test_options_of_stage1_become_a_request(requests, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml("stage1", stage1_config()))
    flags = ("--target", "t", "--split", "x", "--config", file, "--set", "seed=5", "--set", "seed=6", "--resume")
    call("stage1", "--store", "s", "--out", "o", *flags)
    (request,) = requests
    assert (str(request.store[0]), str(request.out), request.target, request.split) == ("s", "o", "t", "x")
    assert request.resume and request.config == stage1_config(seed=6)


def test_a_store_may_be_given_several_times(requests):
    call(*STAGE2, "--store", "t")
    call("stage1", "--store", "s", "--store", "t", "--out", "o")
    call("sweep", "stage1", "--store", "s", "--store", "t", "--out", "o", "--alpha", "5")
    assert [[str(path) for path in request.store] for request in requests] == [["s", "t"]] * 3


def test_task_and_sigma_are_settings_that_set_overrides(requests):
    call(*STAGE2, "--task", "st", "--sigma", "0.5")
    call(*STAGE2, "--sigma", "0.5", "--set", "tuning.sigma=0.25")
    call(*STAGE2)
    tunings = [(request.config.tuning.task, request.config.tuning.sigma) for request in requests]
    assert tunings == [("st", 0.5), ("asr", 0.25), ("asr", 0.9)]
    assert (str(requests[0].projector), requests[0].llm) == ("p", "l")


def test_languages_are_a_setting_also_norwegian(requests):
    call(*STAGE2, "--task", "st", "--languages", "de, no")
    assert requests[0].config.tuning.languages == ("de", "no")
    assert CliRunner().invoke(app, [*STAGE2, "--languages", " ,"]).exit_code == 2


def test_alphas_of_a_sweep_are_numbers(requests):
    call("sweep", "stage1", "--store", "s", "--out", "o", "--alpha", "5,7.5", "--preset", "demo", "--json")
    assert [(each.name, each.config.objective.alpha) for each in requests[0].variants] == [
        ("alpha-5", 5.0),
        ("alpha-7.5", 7.5),
    ]
    bad = CliRunner().invoke(app, ["sweep", "stage1", "--store", "s", "--out", "o", "--alpha", "5,x"])
    assert bad.exit_code == 2


def test_alpha_and_vary_of_a_sweep_are_one_product(requests):
    flags = ("--vary", "model.strides=[2,2],[2,1]", "--vary", "seed=1,2", "--llm", "l")
    call("sweep", "stage1", "--store", "s", "--out", "o", "--alpha", "5", *flags)
    assert [each.name for each in requests[0].variants] == [
        "alpha-5_strides-2x2_seed-1",
        "alpha-5_strides-2x2_seed-2",
        "alpha-5_strides-2x1_seed-1",
        "alpha-5_strides-2x1_seed-2",
    ]
    assert requests[0].llm == "l"


@pytest.mark.parametrize("command", [("stage1", "--store", "s", "--out", "o"), STAGE2])
def test_several_processes_are_started_instead_of_training_here(requests, command):
    call(*command, "--processes", "3")
    ((count, _),) = requests
    assert count == 3


def test_a_person_reads_one_line_and_a_program_one_object(requests):
    assert call("stage1", "--store", "s", "--out", "o") == "done: 7 steps, 1 skipped, loss 0.1235, dev_wer 0.5; o\n"
    printed = json.loads(call("stage1", "--store", "s", "--out", "o", "--json"))
    figures = {"loss": 0.123456, "dev_wer": 0.5}
    expected = {"out": "o", "step": 7, "finished": True, "ended": "done", "skipped": 1, "figures": figures}
    expected["seconds"] = 12.5
    assert printed == expected


def test_only_the_main_process_prints(requests, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call("stage1", "--store", "s", "--out", "o", "--json") == ""


def test_a_sweep_with_a_failed_run_ends_with_exit_code_1_after_its_table(requests, monkeypatch):
    row = {"run": "seed-1", "step": 3, "finished": False, "ended": "20 steps ...", "figures": {}}
    monkeypatch.setattr("speechmapper.train.sweep.sweep_stage1", lambda given: [{**row, "seconds": 1, "parameters": 2}])
    done = CliRunner().invoke(app, ["sweep", "stage1", "--store", "s", "--out", "o", "--vary", "seed=1"])
    assert isinstance(done.exception, RunFailed) and "seed-1" in done.stdout


def test_keys_lists_every_setting():
    shown = CliRunner().invoke(app, ["keys"])
    assert shown.exit_code == 0 and "schedule.warmup" in shown.output
    data = json.loads(CliRunner().invoke(app, ["keys", "--json"]).output)
    assert data["stage2"]["schedule.warmup"]["default"] == 0
