"""`jobs/paper`: its plan, what is skipped when it is run again, and all of it on the demo corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import sm_pipeline.cli
import speechmapper.eval.cli
import speechmapper.train.cli
from tests.speechmapper.tiny import save_llm

PAPER = Path(__file__).parents[2] / "jobs/paper"
COMMANDS = {
    "sm-pipeline": sm_pipeline.cli.app,
    "sm-train": speechmapper.train.cli.app,
    "sm-eval": speechmapper.eval.cli.app,
}


def call(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, PAPER / "paper.py", *arguments]
    environment = {**os.environ, "PATH": path, "COLUMNS": "140"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def modules(monkeypatch) -> tuple[Any, Any]:
    """plan.py and paper.py, which lie beside each other and belong to no package."""
    monkeypatch.syspath_prepend(str(PAPER))
    import paper
    import plan

    return plan, paper


@pytest.fixture
def steps(modules, tmp_path) -> list[Any]:
    plan, _ = modules
    return plan.plan(plan.read_config(PAPER / "paper.yaml"), tmp_path)


def parse(command: list[str]) -> None:
    """Parse a command as typed, without running it."""
    context = typer.main.get_command(COMMANDS[command[0]]).make_context(command[0], command[1:])
    while hasattr(context.command, "resolve_command"):
        words = [*context._protected_args, *context.args]
        name, found, rest = context.command.resolve_command(context, words)
        context = found.make_context(name, rest, parent=context)


def test_the_plan_names_every_part_and_runs_nothing(tmp_path):
    done = call("--work", tmp_path / "work", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("llama: stage 1, alpha 5, 7, 9", "eurollm: stage 2, asr, sigma 0, 0.5, 0.8, 0.9", "tables and page"):
        assert words in done.stdout
    assert "288" in done.stdout  # three alphas of four days
    assert "librispeech at corpora/LibriSpeech (MISSING)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_figure_of_the_plan_has_a_source(steps):
    for name in ("paper.yaml", "small.yaml"):
        rates = yaml.safe_load((PAPER / name).read_text())["rates"]
        assert all(rate["source"] for rate in rates.values())
    corpora = yaml.safe_load((PAPER / "paper.yaml").read_text())["corpora"]
    assert all("source" in corpus for corpus in corpora.values() if "hours" in corpus)
    assert {step.kind for step in steps} - {""} <= yaml.safe_load((PAPER / "paper.yaml").read_text())["rates"].keys()


def test_each_step_comes_after_those_it_uses_and_writes_an_output_of_its_own(steps):
    seen: set[str] = set()
    for step in steps:
        assert set(step.after) <= seen and step.name not in seen
        seen.add(step.name)
    outputs = [step.output for step in steps if not step.name.startswith(("embed/", "score/"))]
    assert len(set(outputs)) == len(outputs)
    trained = [step for step in steps if step.name == "stage2/llama/st"]
    assert trained[0].after == ("choose/llama", "embed/europarl-st/llama", "embed/covost2/llama")
    measured = {step.name for step in steps if step.name.startswith("eval/eurollm/")}
    assert len(measured) == 5 * 8 + 2 + 2  # stage 1 and four sigmas on all sets; each specialist on its own two
    assert {"eval/eurollm/asr-sigma-0.9/st-covost2", "eval/eurollm/sqa/sqa-librisqa"} <= measured


def test_every_command_is_one_of_ours_as_it_is_typed_now(steps):
    for step in steps:
        if step.command[0] in COMMANDS:
            parse(step.command)
        else:
            assert Path(step.command[1]).is_file()


def test_launchers_replace_the_start_of_commands(modules, tmp_path):
    plan, _ = modules
    config = plan.read_config(PAPER / "paper.yaml")
    config["launch"] = {"extract": "sbatch --wait jobs/slurm/extract.sbatch", "train": 'env "SM_TRAIN= " sbatch'}
    commands = {step.name: step.command for step in plan.plan(config, tmp_path)}
    assert commands["extract/fleurs"][:3] == ["sbatch", "--wait", "jobs/slurm/extract.sbatch"]
    assert commands["stage1/llama"][:5] == ["env", "SM_TRAIN= ", "sbatch", "sweep", "stage1"]
    assert commands["stage2/llama/st"][:4] == ["env", "SM_TRAIN= ", "sbatch", "stage2"]


def test_a_wrong_configuration_is_refused_in_one_line(tmp_path):
    for change, message in (
        ({"stage1": None, "stages": {}}, "missing or unknown: stage1, stages"),
        ({"choose": {"corpora": ["dreams"], "split": "dev"}}, "corpus dreams is used but not listed"),
    ):
        config = yaml.safe_load((PAPER / "small.yaml").read_text()) | change
        (tmp_path / "c.yaml").write_text(
            yaml.safe_dump({key: value for key, value in config.items() if value is not None})
        )
        done = call("--config", tmp_path / "c.yaml", "--work", tmp_path)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    for arguments, message in (
        (("--config", tmp_path / "none.yaml"), "cannot be read"),
        (("--only", "dance"), "no step of that name"),
        (("--only", "report", "--config", PAPER / "small.yaml"), "which is not done"),
    ):
        done = call("--work", tmp_path, *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_step_runs_once_and_again_when_it_or_what_it_used_has_changed(modules, tmp_path):
    plan, paper = modules

    def step(name: str, text: str, *after: str) -> Any:
        code = f"import sys; open(sys.argv[1], 'a').write({text!r})"
        return plan.Step(name, "", [sys.executable, "-c", code, str(tmp_path / name)], tmp_path / name, after)

    def run(*steps: Any) -> str:
        paper.run(steps, tmp_path, ["*"])
        return (tmp_path / "one").read_text() + (tmp_path / "two").read_text()

    one, two = step("one", "a"), step("two", "b", "one")
    assert run(one, two) == "ab"
    assert run(one, two) == "ab"  # both are done
    changed = [step("one", "A"), two]
    assert paper.all_finished(changed, tmp_path) == {}
    assert run(*changed) == "aAbb"  # another command, and what uses it
    assert list(paper.all_finished(changed, tmp_path)) == ["one", "two"]
    (tmp_path / "two").unlink()
    assert run(step("one", "A"), two) == "aAb"  # an output that is gone
    assert paper.finished(two, tmp_path)["seconds"] >= 0


def test_a_step_that_fails_ends_the_run_with_its_exit_code_and_leaves_no_mark(modules, tmp_path, capsys):
    plan, paper = modules
    bad = plan.Step("bad", "", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    never = plan.Step("never", "", [sys.executable, "-c", "1/0"], tmp_path, ("bad",))
    with pytest.raises(SystemExit) as ended:
        paper.run([bad, never], tmp_path, ["*"])
    assert ended.value.code == 3 and "bad has not ended well (exit code 3)" in capsys.readouterr().err
    assert paper.finished(bad, tmp_path) is None


def test_a_training_that_was_stopped_and_saved_is_not_done(modules, tmp_path):
    _, paper = modules
    sweep, run = tmp_path / "sweep.json", tmp_path / "run/projector/config.json"
    run.parent.mkdir(parents=True)
    for path, text in (
        (sweep, '[{"finished": true}, {"finished": %s}]'),
        (run, '{"trained_for": {"training": {"finished": %s}}}'),
    ):
        assert not paper.complete(path)
        for answer in ("false", "true"):
            path.write_text(text % answer)
            assert paper.complete(path) is (answer == "true")


@pytest.mark.parametrize("saves", [True, False])
def test_a_signal_reaches_the_command_and_ends_the_run(tmp_path, saves):
    out = tmp_path / "out"
    save = f"open({str(out)!r}, 'w')" if saves else "0"
    code = f"import signal, sys; signal.signal(15, lambda *_: ({save}, sys.exit(0))); print('on', flush=True); "
    driver = (
        f"import sys; sys.path.insert(0, {str(PAPER)!r}); from pathlib import Path; import paper, plan; "
        f"code = {code + 'signal.pause()'!r}; out = Path({str(out)!r}); "
        "steps = [plan.Step(name, '', [sys.executable, '-c', code], out) for name in ('long', 'next')]; "
        f"paper.run(steps, Path({str(tmp_path)!r}), ['*'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "on\n"
    process.terminate()
    more, errors = process.communicate(timeout=60)
    assert more == "" and process.returncode == 1 and "the same command continues" in errors
    assert out.exists() is (tmp_path / "steps/long.json").exists() is saves


def test_figures_are_by_rate_until_a_step_is_done_and_unknown_ones_say_so(modules, tmp_path):
    plan, paper = modules
    rates = {
        "extract": {"x_realtime": 100, "gb_per_hour_of_audio": 0.2},
        "stage1": {"hours_per_run": 5, "gb_per_run": 3},
        "evaluate": {"x_realtime": None},
    }
    extract = plan.Step("e", "", [], tmp_path / "e", kind="extract", audio=960.0)
    assert (paper.hours(extract, None, rates), paper.gigabytes(extract, rates)) == (9.6, 192.0)
    sweep = plan.Step("s", "", [], tmp_path / "s", kind="stage1", runs=3)
    assert (paper.hours(sweep, None, rates), paper.gigabytes(sweep, rates)) == (15.0, 9.0)
    unknown = plan.Step("u", "", [], tmp_path / "u", kind="evaluate", audio=5.0)
    assert paper.hours(unknown, None, rates) is None
    texts = [paper.shown(each) for each in ([9.6, 300.2], [1.25, None], [0.0, None], [0.0], [0.001])]
    assert texts == ["310", "1.2 + ?", "?", "-", "< 0.01"]
    done = plan.Step("d", "", [sys.executable, "-c", "pass"], tmp_path, kind="stage1")
    paper.run([done], tmp_path, ["*"])
    assert paper.hours(done, paper.finished(done, tmp_path), rates) < 1


def test_hours_are_those_of_the_manifest_once_it_is_there(modules, tmp_path):
    plan, _ = modules
    corpus = plan.Corpus("c", {"hours": 7.0}, tmp_path / "c.jsonl", tmp_path)
    assert corpus.hours == 7.0
    corpus.manifest.write_text('{"duration": 1800}\n{"duration": 5400.0}\n')
    assert corpus.hours == 2.0
    corpus.manifest.write_text('{"id": "a"}\n')
    assert corpus.hours == 7.0


def test_the_run_with_the_lowest_mean_error_is_linked(tmp_path):
    for alpha, rates in {"alpha-5": (0.3, 0.5), "alpha-7": (0.1, 0.6), "alpha-9": (0.2, 0.9)}.items():
        (tmp_path / "stage1" / alpha).mkdir(parents=True)
        for number, rate in enumerate(rates):
            (tmp_path / "ood" / alpha / f"c{number}").mkdir(parents=True)
            (tmp_path / "ood" / alpha / f"c{number}" / "metrics.json").write_text(json.dumps({"wer": rate}))
    (tmp_path / "chosen").symlink_to("stage1/alpha-9")
    command = [sys.executable, PAPER / "choose.py", tmp_path / "ood", tmp_path / "stage1", tmp_path / "chosen"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert os.readlink(tmp_path / "chosen") == "stage1/alpha-7"
    assert done.stdout == "alpha-7 is chosen; mean WER: alpha-5 0.4000, alpha-7 0.3500, alpha-9 0.5500\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_corpus_goes_through_every_step_and_a_second_run_does_nothing(tmp_path):
    config = yaml.safe_load((PAPER / "small.yaml").read_text())
    config["llms"]["smollm2"]["model"] = str(save_llm(tmp_path / "llm"))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--config", tmp_path / "small.yaml", "--work", tmp_path]
    done = call(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    for run in ("stage1", "asr-sigma-0", "asr-sigma-0.9"):
        metrics = json.loads((tmp_path / "smollm2/eval" / run / "asr-demo/metrics.json").read_text())
        assert metrics["utterances"] == 4 and metrics["wer"] >= 0
    assert (tmp_path / "smollm2/chosen").resolve().name in ("alpha-5", "alpha-9")
    assert (tmp_path / "report.html").stat().st_size > 1000
    again = call(*arguments)
    assert again.returncode == 0 and again.stderr == ""
    listed = call(*arguments, "--commands").stdout.splitlines()
    assert len(listed) == len(list((tmp_path / "steps").iterdir())) == 12
    shown = call(*arguments, "--dry-run").stdout
    [total] = [line.split() for line in shown.splitlines() if " all " in line]
    assert total.count(str(len(listed))) == 2  # commands, and those that are done
