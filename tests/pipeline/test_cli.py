"""The commands that make stores, as a user types them: help without torch, flags that do not fit, JSON on stdout."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sm_pipeline.cli import app
from sm_pipeline.corpora import KINDS
from sm_store.errors import RunFailed
from sm_store.version import __version__
from tests.speech import write_corpus

COMMANDS = (
    "demo-corpus", "manifest", "plan", "extract", "embed",
    "status", "inspect", "verify", "repair", "retry", "export", "merge",
)  # fmt: skip
HEAVY = ("torch", "transformers", "soundfile", "matplotlib", "jinja2")


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sm_pipeline.cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_of_every_command_loads_nothing_heavy():
    code = f"""
import sys
from typer.testing import CliRunner
from sm_pipeline.cli import app
for command in {COMMANDS!r}:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_commands_and_their_order():
    listed = CliRunner().invoke(app, ["--help"]).output.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.strip().splitlines()] == list(COMMANDS)


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, f"sm-pipeline {__version__}")


def test_every_kind_of_corpus_is_in_the_help():
    shown = " ".join(CliRunner().invoke(app, ["manifest", "--help"]).output.split())
    assert all(kind in shown for kind in KINDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("extract", "m.jsonl", "--store", "s", "--pad-token", "x"), "--pad-token: needs --llm"),
        (("extract", "m.jsonl", "--store", "s", "--average", "0"), "--average 0: give 1 or more"),
        (("plan", "m.jsonl", "--rate", "3", "--measure"), "--rate: leave it out with --measure"),
        (("plan", "m.jsonl", "--rate", "nan"), "--rate nan: give hours of audio"),
        (("manifest", "switchboard", ".", "out.jsonl"), "switchboard: no such kind of corpus"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(tmp_path, arguments, words):
    refused = run(*arguments, code=2)
    assert words in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_plan_reports_as_one_json_object(tiny_corpus):
    facts = json.loads(run("plan", tiny_corpus, "--encoder", "tiny-seamless", "--json").stdout)
    assert facts["utterances"] > 0 and facts["shards"] == 1


def test_extract_embed_and_a_run_with_too_many_rejects(tmp_path, tiny_corpus, tiny_llm):
    few = tmp_path / "few.jsonl"
    lines = tiny_corpus.read_text().splitlines()[:3]
    lost = {**json.loads(lines[0]), "id": "lost", "audio": "nowhere.flac"}
    few.write_text("\n".join([*lines, json.dumps(lost)]) + "\n")
    flags = ("extract", few, "--store", tmp_path / "s", "--encoder", "tiny-seamless", "--device", "cpu",
             "--audio-root", tiny_corpus.parent)  # fmt: skip
    summary = json.loads(run(*flags, "--json").stdout)
    assert (summary["written"], summary["rejected"]) == (3, 1)
    failed = run(*flags, "--max-rejects", 0, code=1)
    assert "--max-rejects allows 0" in failed.stderr
    embedded = run("embed", "--store", tmp_path / "s", "--llm", tiny_llm, "--pad-token", "</s>")
    assert "3" in embedded.stdout


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_names_and_locales_that_are_not_utf8(tmp_path, encoding):
    """A byte 0xE4 in every path, and a terminal that cannot show it."""
    corpus = write_corpus(tmp_path / "corpus", 2).parent
    folder = corpus.rename(tmp_path / os.fsdecode(b"\xe4"))
    locale = {
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": f"{encoding}:strict",
    }
    for arguments in (
        [
            "extract",
            folder / "manifest.jsonl",
            "--store",
            folder / "s",
            "--encoder",
            "tiny-seamless",
            "--device",
            "cpu",
        ],
        ["status", folder / "s"],
        ["status", folder / "s", "--json"],
        ["retry", folder / "s"],
    ):
        line = [sys.executable, "-m", "sm_pipeline.cli", *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, check=False, env={**os.environ, **locale})
        assert done.returncode == 0, done.stderr
        shown = [b"/\\udce4"] if "--json" in arguments else [b"/\\udce4", b"/?/"]  # click's own words in plain ASCII
        assert any(each in done.stdout for each in shown)


def test_a_full_disk_while_the_demo_corpus_is_written(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = CliRunner().invoke(app, ["demo-corpus", str(tmp_path / "out"), "--utterances", "30"])
    assert isinstance(result.exception, RunFailed)
    assert f"{tmp_path / 'out'}: no space left on device; free some" in str(result.exception)
