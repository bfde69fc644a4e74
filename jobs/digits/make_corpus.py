"""Connected digits out of single ones: a corpus of real speech, made from a clone of the Free Spoken Digit Dataset.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset
    python jobs/digits/make_corpus.py --fsdd free-spoken-digit-dataset --out digits/corpus

    FSDD/recordings/7_george_12.wav      one digit, 8 kHz: DIGIT_SPEAKER_NUMBER
    OUT/manifest.jsonl                   {"id": "train-0000-jackson", "audio": "audio/train-0000-jackson.flac",
                                          "text": "six zero one eight", "duration": 2.35, "lang": "en", ...}
    OUT/audio/*.flac                     8 kHz, mono, 16 bit

An utterance is three to seven digits of one speaker, each any of that speaker's recordings, with pauses between them.
`train` and `dev` have the same speakers and share no recording: dev uses those that FSDD keeps for testing (numbers 0
to 4), train the others. `test` is the held-out speaker, all recordings. The same arguments give the same corpus.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import soundfile

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")
TEST_RECORDINGS = 5  # FSDD: numbers 0 to 4 of each speaker and digit are for testing
DIGITS = (3, 7)  # per utterance, at least and at most
PAUSE_SECONDS = (0.05, 0.25)  # between digits
SILENT_WINDOW = 80  # samples, 10 ms: the quietest of a recording is what its pauses sound like

Recordings = Mapping[int, Sequence[Path]]  # of one speaker, by digit


def refuse(problem: str) -> NoReturn:
    """End with one line, as our commands do for bad input."""
    sys.stderr.write(f"error: {problem}\n")
    sys.exit(2)


def find_recordings(fsdd: Path) -> dict[str, dict[int, dict[int, Path]]]:
    """The recordings of a clone: speaker -> digit -> number -> file."""
    folder = fsdd / "recordings" if (fsdd / "recordings").is_dir() else fsdd
    found: dict[str, dict[int, dict[int, Path]]] = {}
    for path in sorted(folder.glob("*.wav")):
        if match := NAME.fullmatch(path.name):
            digit, speaker, number = match.groups()
            found.setdefault(speaker, {}).setdefault(int(digit), {})[int(number)] = path
    if not found:
        refuse(f"--fsdd {fsdd}: no recordings like 7_george_12.wav; name a clone of free-spoken-digit-dataset")
    for speaker, digits in found.items():
        if missing := sorted(set(range(len(WORDS))) - digits.keys()):
            refuse(f"--fsdd {fsdd}: {speaker} has no recording of {missing[0]}; clone it again")
    return found


def chosen(digits: Mapping[int, Mapping[int, Path]], split: str) -> Recordings:
    """The recordings of a speaker that a split may use, by digit."""
    parts = {
        "train": lambda number: number >= TEST_RECORDINGS,
        "dev": lambda number: number < TEST_RECORDINGS,
        "test": lambda number: True,
    }
    found = {digit: [path for number, path in files.items() if parts[split](number)] for digit, files in digits.items()}
    for digit, files in found.items():
        if not files:
            refuse(f"no recording of digit {digit} is left for {split}; clone the dataset again")
    return found


def connect(recordings: Recordings, digits: Sequence[int], random: np.random.Generator) -> tuple[np.ndarray, int]:
    """One utterance, (samples,) float32, and its rate: recordings drawn at random, with pauses between them."""
    pieces, rate = [], 0
    for position, digit in enumerate(digits):
        path = recordings[digit][int(random.integers(len(recordings[digit])))]
        wave, its_rate = soundfile.read(path, dtype="float32")
        if rate not in (0, its_rate) or wave.ndim > 1:
            refuse(f"{path}: {its_rate} Hz, {wave.ndim} channels; FSDD is mono and of one rate")
        rate = its_rate
        if position:
            pieces.append(pause(wave, round(random.uniform(*PAUSE_SECONDS) * rate), random))
        pieces.append(wave)
    return np.concatenate(pieces), rate


def pause(wave: np.ndarray, samples: int, random: np.random.Generator) -> np.ndarray:
    """Noise as loud as the quietest 10 ms of a recording: digital silence would mark the ends of words."""
    windows = wave[: len(wave) // SILENT_WINDOW * SILENT_WINDOW].reshape(-1, SILENT_WINDOW)
    quietest = np.sqrt(np.square(windows).mean(axis=1).min()) if len(windows) else 0.0
    return (quietest * random.standard_normal(samples)).astype(np.float32)


def write_corpus(fsdd: Path, out: Path, held_out: str, sizes: Mapping[str, int], seed: int) -> dict[str, float]:
    """Write the corpus; returns the utterances of each split and the hours."""
    speakers = find_recordings(fsdd)
    if held_out not in speakers or len(speakers) < 2:
        refuse(f"--held-out {held_out}: choose one of the speakers {', '.join(sorted(speakers))}, of two or more")
    (out / "audio").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    lines: list[dict[str, object]] = []
    for split, size in sizes.items():
        names = [held_out] if split == "test" else sorted(speakers.keys() - {held_out})
        usable = {name: chosen(speakers[name], split) for name in names}
        for number in range(size):
            speaker = names[int(random.integers(len(names)))]
            digits = random.integers(len(WORDS), size=int(random.integers(DIGITS[0], DIGITS[1] + 1))).tolist()
            wave, rate = connect(usable[speaker], digits, random)
            lines.append(write_utterance(out, f"{split}-{number:04d}-{speaker}", wave, rate))
            lines[-1] |= {"text": " ".join(WORDS[digit] for digit in digits), "speaker": speaker, "split": split}
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    counts = {split: float(size) for split, size in sizes.items()}
    return {**counts, "hours": sum(float(str(line["duration"])) for line in lines) / 3600}


def write_utterance(out: Path, id_: str, wave: np.ndarray, rate: int) -> dict[str, object]:
    """Write the audio; return the start of its manifest line."""
    audio = f"audio/{id_}.flac"
    soundfile.write(out / audio, wave, rate, format="FLAC", subtype="PCM_16")
    return {"id": id_, "audio": audio, "duration": len(wave) / rate, "lang": "en", "corpus": "fsdd-connected"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Connected digits out of the Free Spoken Digit Dataset.")
    parser.add_argument("--fsdd", type=Path, required=True, help="clone of free-spoken-digit-dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: manifest.jsonl and audio/")
    parser.add_argument("--held-out", default="george", help="speaker of the test split alone [default: george]")
    parser.add_argument("--seed", type=int, default=0)
    for split, size in {"train": 1000, "dev": 60, "test": 200}.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"utterances of {split} [default: {size}]")
    given = parser.parse_args()
    sizes = {split: getattr(given, split) for split in ("train", "dev", "test")}
    sys.stdout.write(json.dumps(write_corpus(given.fsdd, given.out, given.held_out, sizes, given.seed)) + "\n")


if __name__ == "__main__":
    main()
