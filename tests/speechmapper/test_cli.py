"""The command lines: cheap help, one line for an error, exit codes, JSON alone on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sm_store.errors import ConfigError
from sm_store.version import __version__
from speechmapper import SpeechMapper
from speechmapper.cli import app as speechmapper_app
from speechmapper.config_file import to_yaml
from speechmapper.eval.cli import app as eval_app
from speechmapper.train.cli import app as train_app
from tests import speech
from tests.speechmapper.tiny import stage1_config

HEAVY = ("torch", "transformers", "accelerate", "jiwer", "soundfile")
HELP = {
    "speechmapper.train.cli": ([], ["stage1"], ["stage2"], ["sweep", "stage1"]),
    "speechmapper.eval.cli": ([], ["asr"], ["score"], ["eet"]),
    "speechmapper.cli": ([], ["transcribe"], ["translate"], ["ask"]),
}


def in_process(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """The command as a console script would run it."""
    code = f"import sys; from {module} import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", HELP)
def test_help_loads_nothing_heavy_and_is_quick(module):
    commands = [[*command, "--help"] for command in HELP[module]]
    code = f"""
import sys
from typer.testing import CliRunner
from {module} import app
for command in {commands!r}:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "Usage" in result.output, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("name", "app"), [("sm-train", train_app), ("sm-eval", eval_app), ("speechmapper", speechmapper_app)]
)
def test_version(name, app):
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, f"{name} {__version__}")


SWEEP = ("sweep", "stage1", "--store", "none", "--out", "o")
SEARCHING = ("--beam", "--hotwords", "--hotword-weight")  # how a CTC projector is read
# --task, --languages: what is asked; --batch: how many at once; --cascade: rows that speech is compared with
ANSWERING = (
    *("--batch", "--device", "--head", "--languages", "--llm", "--manifest", "--max-new-tokens", "--store", "--task"),
    *("--cascade", "--degrade", "--encoder", "--llm-dtype", "--overwrite", "--processes", "--quantize"),
    "--wordings",  # how much results depend on the prompt
)
# --by: parts of the corpus; --comet, --judge: models that score
SCORING = ("--by", "--comet", "--comet-env", "--judge", "--normalizer", "--json")
# --format: subtitles and times; --out: of several files, where one stream could not hold them
USING = ("--device", "--encoder", "--format", "--json", "--llm", "--model", "--out")
MEASURING = ("--json", "--normalizer", "--out", "--split")
TRAINING = ("--config", "--json", "--out", "--preset", "--processes", "--resume", "--set", "--split", "--target")


def leaves(name, command):
    """The commands under a name, by path."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(name, command)]
    return [leaf for each in inner.values() for leaf in leaves(f"{name} {each.name}", each)]


def test_flags_do_not_multiply():
    """A new flag is a decision: add it here with its reason in the change."""
    flags = {}
    for app in (train_app, eval_app, speechmapper_app):
        import typer

        for name, command in typer.main.get_command(app).commands.items():
            for path, each in leaves(name, command):
                flags[path] = sorted(
                    option for param in each.params for option in param.opts if option.startswith("--")
                )
    assert flags == {
        "stage1": sorted({*TRAINING, "--store"}),
        "stage2": sorted({*TRAINING, "--store", "--projector", "--languages", "--llm", "--task", "--sigma"}),
        "sweep stage1": sorted({*TRAINING, "--store", "--alpha", "--vary", "--llm"}),
        "sweep stage2": sorted({*TRAINING, "--store", "--projector", "--llm", "--task", "--sigma", "--vary"}),
        **dict.fromkeys(("asr", "st", "sqa"), sorted({*MEASURING, *SEARCHING, *ANSWERING, *SCORING})),
        "keys": ["--json"],
        "score": sorted({*SCORING, "--device", "--entities", "--train-store"}),
        "compare": ["--json", "--normalizer"],
        "report": ["--html", "--json", "--latex", "--manifest", "--markdown", "--random", "--seed", "--worst"],
        "eet": [
            "--batch",
            "--device",
            "--json",
            "--levels",
            "--llm",
            "--out",
            "--quantize",
            "--seeds",
            "--split",
            "--store",
            "--texts",
            "--utterances",
        ],
        "transcribe": sorted({*SEARCHING, *USING}),
        "translate": sorted({*USING, "--to"}),
        "ask": sorted({*USING, "--question"}),
    }


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (
            "speechmapper.train.cli",
            ["stage1", "--store", "none", "--out", "o", "--set", "data.frame=1"],
            "unknown key data.frame; did you mean frames?",
        ),
        ("speechmapper.train.cli", ["stage1", "--store", "none", "--out", "o"], "none"),
        ("speechmapper.train.cli", [*SWEEP], "--vary: name at least one setting"),
        ("speechmapper.train.cli", [*SWEEP, "--vary", "optimizer.lrr=1"], "--vary optimizer.lrr: unknown key"),
        ("speechmapper.train.cli", [*SWEEP, "--vary", "optimizer.lr=1,-1"], "--vary optimizer.lr=-1: "),
        ("speechmapper.train.cli", [*SWEEP, "--vary", "seed=1", "--vary", "seed=2"], "--vary seed: given twice"),
        (
            "speechmapper.train.cli",
            ["stage2", "--store", "s", "--projector", "p", "--llm", "l", "--out", "o", "--sigma", "7"],
            "tuning.sigma 7.0",
        ),
        ("speechmapper.eval.cli", ["asr", "none", "--store", "s", "--out", "o"], "none"),
        ("speechmapper.eval.cli", ["score", "none"], "no predictions there"),
        ("speechmapper.eval.cli", ["eet", "--llm", "none", "--out", "o"], "--llm none: no such preset or folder"),
        ("speechmapper.eval.cli", ["eet", "--llm", "none", "--out", "o", "--levels", "0,x"], "--levels 0,x: 'x'"),
        ("speechmapper.eval.cli", ["eet", "--llm", "none", "--out", "o", "--texts", "none"], "--texts none"),
        ("speechmapper.cli", ["transcribe", "a.wav", "--model", "none"], "none"),
        ("speechmapper.cli", ["ask", "a.wav", "--model", "none", "--question", " "], "--question: it is empty"),
        ("speechmapper.cli", ["transcribe", "a", "b", "--model", "m", "--format", "srt"], "name a folder for several"),
        ("speechmapper.cli", ["transcribe", "x/a.wav", "y/a.mp3", "--model", "m", "--out", "o"], "would both be a.txt"),
        ("speechmapper.cli", ["transcribe", "a", "--model", "m", "--out", "o", "--json"], "leave out --out"),
        (
            "speechmapper.cli",
            ["transcribe", "a", "--model", "m", "--hotwords", "none"],
            "--hotwords none: cannot be read",
        ),
        (
            "speechmapper.eval.cli",
            ["asr", "r", "--store", "s", "--out", "o", "--hotwords", "n"],
            "--hotwords n: cannot",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(module, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = in_process(module, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_training_and_evaluation_end_to_end_with_json(world, tmp_path):
    """The commands as a user types them, in this process; stdout holds one JSON object and nothing else."""
    config = tmp_path / "mine.yaml"
    config.write_text(to_yaml("stage1", stage1_config(schedule={"steps": 2, "warmup": 0})))
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    store = ["--store", str(world.path)]

    def told(app, *arguments):
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout)

    trained = told(train_app, "stage1", *store, "--out", run, "--config", str(config), "--set", "seed=3")
    assert (trained["step"], trained["finished"], trained["out"]) == (2, True, run)
    metrics = told(eval_app, "asr", run, *store, "--out", out)
    assert told(eval_app, "score", out) == metrics
    llm = ["--llm", str(world.llm_folder)]
    settings = ["schedule.steps=1", "run.trackers=[]", "run.eval_utterances=0", "data.micro_batches=2"]
    small = [word for setting in settings for word in ("--set", setting)]
    tuned = told(train_app, "stage2", *store, "--projector", run, *llm, "--out", f"{run}2", "--task", "asr", *small)
    assert tuned["finished"]
    assert "wer" in told(eval_app, "asr", f"{run}2", *store, *llm, "--out", out, "--max-new-tokens", "3")


def test_subtitles_json_and_files_per_recording(chain, tmp_path):
    paths = list(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values())[:2]
    flags = ["--model", str(chain / "stage1"), "--device", "cpu"]
    answers = json.loads(
        CliRunner().invoke(speechmapper_app, ["transcribe", *paths, *flags, "--format", "json"]).stdout
    )
    assert list(answers) == paths
    [segment] = answers[paths[0]]["segments"]
    assert segment["text"] == answers[paths[0]]["text"] != "" and 0 <= segment["start"] < segment["end"] < 3
    shown = CliRunner().invoke(speechmapper_app, ["transcribe", paths[0], *flags, "--format", "vtt"]).stdout
    assert shown.startswith("WEBVTT\n\n00:00:00.") and segment["text"][:20] in shown
    done = CliRunner().invoke(
        speechmapper_app, ["transcribe", *paths, "none.wav", *flags, "--format", "srt", "--out", str(tmp_path / "subs")]
    )
    assert (done.exit_code, done.stdout) == (1, "") and "error: none.wav: audio missing" in done.stderr
    names = [f"{Path(path).stem}.srt" for path in paths]
    assert sorted(path.name for path in (tmp_path / "subs").iterdir()) == sorted(names)
    assert (tmp_path / "subs" / names[0]).read_text().startswith("1\n00:00:00,")


def test_translations_and_questions(chain):
    path = next(iter(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values()))
    flags = ["--model", str(chain / "stage2"), "--device", "cpu"]
    mapper = SpeechMapper.from_pretrained(chain / "stage2", device="cpu")
    translated = CliRunner().invoke(speechmapper_app, ["translate", path, *flags, "--to", "fr"], catch_exceptions=False)
    asked = CliRunner().invoke(speechmapper_app, ["ask", path, *flags, "--question", "Who?"], catch_exceptions=False)
    assert translated.stdout == f"{mapper.translate(path, to='fr')}\n"
    assert asked.stdout == f"{mapper.ask(path, 'Who?')}\n"
    without = CliRunner().invoke(
        speechmapper_app, ["translate", path, "--model", str(chain / "stage1"), "--device", "cpu", "--to", "fr"]
    )
    assert isinstance(without.exception, ConfigError) and "needs an LLM" in str(without.exception)


def test_each_file_is_decoded_once(chain, monkeypatch):
    from speechmapper import audio_features

    paths = list(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values())
    decoded = []
    read = audio_features.read_audio
    monkeypatch.setattr(
        audio_features, "read_audio", lambda path, *more: decoded.append(str(path)) or read(path, *more)
    )
    flags = ["--model", str(chain / "stage1"), "--device", "cpu"]
    done = CliRunner().invoke(speechmapper_app, ["transcribe", *paths, paths[0], *flags], catch_exceptions=False)
    assert decoded == paths and len(done.stdout.splitlines()) == len(paths) + 1
