"""Small corpora for tests: tones and noise, or texts spoken by espeak-ng, as audio files with a manifest."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from sm_pipeline.corpora.espeak import EspeakVoice, synthesise

TEXTS = (
    "The old dog.",
    "A bird sang",
    "by the river,",
    "and we slept;",
    "it was late",
    "Nobody came!",
    "the end",
    "or so",
)
FORMATS = ("wav", "flac", "ogg", "mp3")
RATES = (16_000, 8_000, 22_050, 44_100)


def tone(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A sweep with noise, (samples,) float32 in -1..1."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * rate)) / rate
    pitch = 200 + 150 * np.sin(2 * np.pi * (0.7 + 0.1 * seed) * at)
    sweep = np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return (0.3 * sweep + 0.05 * rng.standard_normal(len(at))).astype(np.float32)


@cache
def spoken(text: str, voice: str = "en-us+m3") -> np.ndarray:
    """A text as espeak-ng says it, (samples,) float32 at 16 kHz. Read only."""
    samples = synthesise(text, EspeakVoice(voice))
    samples.setflags(write=False)
    return samples


def spoken_items(count: int, seconds_each: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Numbered items, one every so many seconds, (samples,) at 16 kHz; and the first and last sample of each."""
    step = round(seconds_each * 16_000)
    samples = np.zeros(count * step, np.float32)
    places = []
    for number in range(count):
        item = spoken(f"this is item number {number + 1}")
        first = number * step + (number * 7919) % (step - len(item))
        samples[first : first + len(item)] = item
        places.append((first, first + len(item)))
    return samples, places


def write_audio(path: Path, seconds: float = 2.0, rate: int = 16_000, seed: int = 0, **settings: Any) -> Path:
    """One audio file, its format by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, seed), rate, **settings)
    return path


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A manifest of these objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_corpus(folder: Path, utterances: int = 8, durations: bool = True, is_spoken: bool = False) -> Path:
    """A corpus in several formats and rates, splits included; returns its manifest.

    Args:
        is_spoken: its texts are spoken; else they are tones of other lengths.
    """
    lines = []
    for number in range(utterances):
        seconds = 1.5 + 0.25 * (number * 3 % 7)
        name = f"audio/u{number}.{FORMATS[number % len(FORMATS)]}"
        rate = RATES[number % len(RATES)]
        path = write_audio(folder / name, seconds, rate, seed=number)
        if is_spoken:
            samples = soxr.resample(spoken(TEXTS[number % len(TEXTS)]), 16_000, rate)
            seconds = len(samples) / rate
            soundfile.write(path, samples, rate)
        line = {"id": f"u{number}", "audio": name, "text": TEXTS[number % len(TEXTS)], "lang": "en"}
        line["split"] = ("train", "train", "dev", "test")[number % 4]
        lines.append(line | ({"duration": seconds} if durations else {}))
    return write_lines(folder / "manifest.jsonl", lines)


def librispeech_seconds(utterances: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of LibriSpeech's training set, (utterances,): most 12 to 16 s, a long tail of short ones."""
    rng = np.random.default_rng(seed)
    most = rng.random(utterances) < 0.7
    seconds = np.where(most, rng.normal(14, 1.5, utterances), rng.uniform(1.5, 14, utterances))
    return np.clip(seconds, 1.2, 35.0)


def audio_paths(manifest: Path) -> dict[str, str]:
    """Path of each utterance of a manifest by its id."""
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return {line["id"]: str(manifest.parent / line["audio"]) for line in lines}
