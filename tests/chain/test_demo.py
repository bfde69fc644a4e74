"""`make demo` from end to end, with few utterances and steps: the script, its results file and its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechmapper.saved_projector import load_projector

SCRIPT = Path(__file__).parents[2] / "jobs/demo/run.sh"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # eight commands, each loading its models
SMALL = {"DEMO_UTTERANCES": "40", "DEMO_STEPS": "2"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """The demo's folder, and what it printed on stdout."""
    out = tmp_path_factory.mktemp("demo") / "out"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(SCRIPT), str(out)]
    done = subprocess.run(
        command, env={**os.environ, **SMALL, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_results_have_the_keys_of_the_contract(demo):
    results = json.loads((demo[0] / "results.json").read_text())
    assert results["extract"]["hours"] > 0.01
    assert results["extract"]["x_realtime"] > 1
    assert results["stage1"]["relative_mse"] > 0
    for name, folder in (("baseline", "untrained"), ("stage1", "stage1"), ("stage2", "stage2")):
        measured = json.loads((demo[0] / "eval" / folder / "metrics.json").read_text())
        assert results[name]["wer"] == measured["wer"] >= 0
        assert measured["utterances"] == results["utterances"] == 2
    for reached, kind in ((results, ""), (results["paper"], "-paper")):
        read = json.loads((demo[0] / "eval" / f"stage1{kind}-llm" / "metrics.json").read_text())
        assert reached["stage1"]["llm_wer"] == read["wer"] and read["readout"] == "generation"
        assert reached["stage2"]["wer"] >= 0


def test_both_objectives_are_trained_and_given_to_the_llm_by_their_own_heads(demo):
    heads = {name: load_projector(demo[0] / name).config.head for name in ("stage1", "stage2", "stage1-paper")}
    assert heads == {"stage1": "rows", "stage2": "rows", "stage1-paper": "vectors"}
    trained = load_projector(demo[0] / "stage2").config.trained_for["training"]["objective"]
    assert trained["name"] == "ctc-embedding"


def test_the_table_shows_the_results(demo):
    results = json.loads((demo[0] / "results.json").read_text())
    rows = [line for line in demo[1].splitlines() if "│" in line]
    for reached, objective in ((results, "ours"), (results["paper"], "paper")):
        for stage, reader, wer in (
            ("stage 1", "nearest token", reached["stage1"]["wer"]),
            ("stage 1", "frozen LLM", reached["stage1"]["llm_wer"]),
            ("stage 2", "frozen LLM", reached["stage2"]["wer"]),
        ):
            (row,) = [line for line in rows if stage in line and objective in line and reader in line]
            assert f"{wer:.3f}" in row
    assert f"{results['baseline']['wer']:.3f}" in next(line for line in rows if "untrained" in line)
