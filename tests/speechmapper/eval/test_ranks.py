"""Evaluations of several processes: the same predictions as one, written by the main one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechmapper.eval.ranks import Ranks

ROOT = Path(__file__).parents[3]


def evaluated(run, store, out: Path, *more: str) -> subprocess.CompletedProcess:
    flags = ["asr", str(run), "--store", str(store), "--out", str(out), "--batch", "2", "--json", *more]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "RANK", "WORLD"))}
    return subprocess.run(
        [sys.executable, "-m", "speechmapper.eval.cli", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**kept, "OMP_NUM_THREADS": "1"},
        timeout=200,
    )


def lines_of(out: Path) -> list[dict]:
    lines = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_predictions_of_one(world, stage2_run, tmp_path, processes):
    """Of three, one has fewer batches than the others."""
    more = ("--llm", str(world.llm_folder), "--max-new-tokens", "4")
    one = evaluated(stage2_run, world.path, tmp_path / "one", *more)
    many = evaluated(stage2_run, world.path, tmp_path / "many", *more, "--processes", str(processes))
    assert (one.returncode, many.returncode) == (0, 0), many.stderr
    assert json.loads(many.stdout) == json.loads(one.stdout)
    assert lines_of(tmp_path / "many") == lines_of(tmp_path / "one")
    assert (tmp_path / "many" / "about.json").read_bytes() == (tmp_path / "one" / "about.json").read_bytes()
    lines = (tmp_path / "many" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "many" / "predictions.jsonl").write_text("".join(lines[:-1]))
    again = evaluated(stage2_run, world.path, tmp_path / "many", *more, "--processes", str(processes))
    assert again.returncode == 0 and lines_of(tmp_path / "many") == lines_of(tmp_path / "one")


def test_bad_input_of_several_processes_is_one_line(world, tmp_path):
    done = evaluated(tmp_path / "none", world.path, tmp_path / "out", "--processes", "2")
    assert done.returncode == 2 and done.stderr.count("no projector/config.json there") == 1, done.stderr


def test_one_process_exchanges_nothing():
    ranks = Ranks()
    assert (ranks.is_main, ranks.each(3), ranks.of_main("a"), ranks.device("auto")) == (True, [3], "a", "auto")
    assert list(range(5))[ranks.share] == [0, 1, 2, 3, 4] and list(range(5))[Ranks(1, 3).share] == [1, 4]
