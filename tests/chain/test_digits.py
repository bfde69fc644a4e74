"""`jobs/digits`: connected digits out of a clone of FSDD, here a small one of tones, and the run on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sm_pipeline.manifest import read_manifest
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.config_file import load_config
from tests.speechmapper.tiny import save_llm

DIGITS = Path(__file__).parents[2] / "jobs/digits"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("ann", "bob", "cleo")
RATE = 8_000
SMALL = ("--train", "24", "--dev", "3", "--test", "3", "--held-out", "cleo")


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory) -> Path:
    """Seven recordings of each digit by each speaker: a tone whose pitch tells all three, between quiet noise."""
    folder = tmp_path_factory.mktemp("fsdd")
    (folder / "recordings").mkdir()
    for speaker in range(len(SPEAKERS)):
        for digit in range(10):
            for number in range(7):
                at = np.arange(2000 + 100 * number) / RATE
                wave = 0.3 * np.sin(2 * np.pi * pitch(speaker, digit, number) * at)
                wave[:160] = 1e-3 * np.random.default_rng(0).standard_normal(160)
                path = folder / "recordings" / f"{digit}_{SPEAKERS[speaker]}_{number}.wav"
                soundfile.write(path, wave, RATE, subtype="PCM_16")
    return folder


def pitch(speaker: int, digit: int, number: int) -> int:
    return 500 + 1000 * speaker + 100 * digit + 10 * number


def make(fsdd: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DIGITS / "make_corpus.py", "--fsdd", fsdd, "--out", out, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def heard(path: Path) -> list[int]:
    """The pitches of an utterance, one per digit."""
    wave, rate = soundfile.read(path)
    assert rate == RATE
    loud = np.flatnonzero(np.abs(wave) > 0.05)
    words = np.split(loud, np.flatnonzero(np.diff(loud) > 250) + 1)  # pauses are longer than 50 ms
    found = []
    for word in words:
        spectrum = np.abs(np.fft.rfft(wave[word[0] : word[-1]], n=8 * RATE))
        found.append(10 * round(spectrum.argmax() / 80))
    return found


@pytest.fixture(scope="module")
def corpus(fsdd, tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    done = make(fsdd, out, *SMALL)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert {name: counts[name] for name in ("train", "dev", "test")} == {"train": 24, "dev": 3, "test": 3}
    return read_manifest(out / "manifest.jsonl")


def test_utterances_say_their_text_by_their_speaker_and_splits_share_no_recording(corpus):
    used: dict[str, set[tuple[str, int, int]]] = {"train": set(), "dev": set(), "test": set()}
    for utterance in corpus.utterances:
        assert utterance.id == f"{utterance.split}-{utterance.id.split('-')[1]}-{utterance.speaker}"
        path = corpus.audio_path(utterance)
        assert utterance.duration == soundfile.info(path).duration
        pitches = heard(path)
        speaker = SPEAKERS.index(utterance.speaker)
        digits = [(value - 500 - 1000 * speaker) // 100 for value in pitches]
        assert " ".join(WORDS[digit] for digit in digits) == utterance.text
        assert 3 <= len(digits) <= 7
        used[utterance.split] |= {(utterance.speaker, value) for value in pitches}
    assert {speaker for speaker, _ in used["test"]} == {"cleo"}
    assert {speaker for speaker, _ in used["train"]} == {speaker for speaker, _ in used["dev"]} == {"ann", "bob"}
    assert not used["train"] & used["dev"]
    assert {value % 100 // 10 for _, value in used["dev"]} <= set(range(5))


def test_pauses_are_no_digital_silence(corpus):
    wave, _ = soundfile.read(corpus.audio_path(corpus.utterances[0]))
    runs = np.split(wave, np.flatnonzero(wave) + 1)
    assert max(map(len, runs)) < 0.05 * RATE


def test_the_same_arguments_give_the_same_corpus_and_another_seed_another(corpus, fsdd, tmp_path):
    for seed, same in (("0", True), ("1", False)):
        make(fsdd, tmp_path / seed, *SMALL, "--seed", seed)
        again = read_manifest(tmp_path / seed / "manifest.jsonl")
        assert (again.sha256 == corpus.sha256) is same
    first = corpus.utterances[0]
    assert (tmp_path / "0" / first.audio).read_bytes() == corpus.audio_path(first).read_bytes()


def test_what_is_no_clone_is_refused_in_one_line(fsdd, tmp_path):
    for folder, arguments, message in (
        (tmp_path, SMALL, "no recordings like 7_george_12.wav"),
        (fsdd, ("--held-out", "zoe"), "choose one of the speakers ann, bob, cleo"),
    ):
        done = make(folder, tmp_path / "out", *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_the_settings_are_those_that_were_measured():
    settings = yaml.safe_load((DIGITS / "digits.yaml").read_text())
    one = load_config("stage1", Stage1Config, [("digits.yaml", settings["stage1"])])
    assert (one.schedule.steps, one.data.max_utterances, one.optimizer.lr) == (900, 24, 4e-4)
    two = load_config("stage2", Stage2Config, [("digits.yaml", settings["stage2"])])
    assert (two.tuning.sigma, two.schedule.steps) == (0.9, 60)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_run_ends_with_an_evaluation_of_each_recipe_and_continues(fsdd, tmp_path):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DIGITS_ENCODER": "tiny-seamless",
        "DIGITS_LAYER": "1",
        "DIGITS_STEPS": "2",
        "DIGITS_LLM": str(save_llm(tmp_path / "llm")),
        "DIGITS_CORPUS": " ".join(SMALL),
    }
    command = ["bash", DIGITS / "run.sh", fsdd, tmp_path / "out"]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    evaluations = sorted(path.name for path in (tmp_path / "out/eval").iterdir())
    assert evaluations == sorted(
        f"{recipe}-{read}-{split}"
        for recipe in ("best", "paper")
        for read in ("stage1-nearest", "stage1-llm", "stage2-llm")
        for split in ("dev", "test")
    )
    for name in evaluations:
        metrics = json.loads((tmp_path / "out/eval" / name / "metrics.json").read_text())
        assert metrics["utterances"] == 3 and metrics["wer"] >= 0
    assert (tmp_path / "out/report.html").stat().st_size > 1000
