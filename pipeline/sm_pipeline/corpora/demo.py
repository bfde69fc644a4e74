"""A small spoken corpus with exact transcripts, synthesised in a minute: what the demo and many tests run on.

    OUT/manifest.jsonl    {"id": "train-00000", "audio": "audio/train-00000.flac", "text": "the old farmer ...",
                           "duration": 2.41, "lang": "en", "speaker": "en-us+m3", "split": "train"}
    OUT/audio/*.flac      16 kHz, mono, 16 bit

Sentences come from a small grammar with a closed vocabulary, so that words repeat and sentences do not: every
sentence is drawn once, and the three splits share none. All voices speak in all splits. The command gives the same
bytes for the same arguments; within a process that has spoken before, espeak-ng's state changes them slightly.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from sm_pipeline.console import progress
from sm_pipeline.corpora.espeak import SAMPLE_RATE, EspeakVoice, synthesise
from sm_store.errors import InputError

DEFAULT_UTTERANCES = 1500
MIN_UTTERANCES = 10
HELD_OUT = 0.06  # share of the utterances in each of dev and test
SPLITS = ("train", "dev", "test")

VOICES = ("en-us+m1", "en-us+m3", "en-us+m7", "en-us+m5", "en-us+f1", "en-us+f4")
SPEEDS = (150, 165, 180)  # words per minute
PITCHES = (40, 50, 60)  # espeak-ng's scale, 0 to 100

# One line a slot; `|` separates its alternatives, an empty one leaves the slot out.
GRAMMAR = (
    "the|my|our|every",
    "old|young|small|happy|quiet|tired",
    "farmer|teacher|doctor|child|sister|horse|king|captain",
    "found|carried|watched|painted|followed|opened|sold|bought",
    "the|a|one",
    "red|heavy|little|broken|yellow|new",
    "letter|table|bridge|apple|picture|house|hammer|basket",
    "|today|last week|after lunch|in the snow|with a smile",
)


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """One line of the corpus before it is spoken."""

    id: str
    split: str
    text: str
    voice: EspeakVoice


def write_demo_corpus(out: Path, utterances: int = DEFAULT_UTTERANCES, seed: int = 0) -> dict[str, float]:
    """Synthesise the corpus into `out`.

    Args:
        out: a new or empty folder, or one that holds an earlier demo corpus (its manifest is replaced last).
        utterances: how many in all; 6 % each for dev and test.
        seed: of sentences and voices.

    Returns:
        utterances of each split, and `hours` of audio.

    Raises:
        InputError: too few utterances, or `out` is not a folder.
    """
    if utterances < MIN_UTTERANCES:
        raise InputError(f"--utterances {utterances}: give at least {MIN_UTTERANCES}")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder; name a new one")
    (out / "audio").mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.jsonl"
    manifest.unlink(missing_ok=True)
    counts: dict[str, float] = dict.fromkeys(SPLITS, 0)
    seconds = 0.0
    lines: list[str] = []
    with progress(utterances, "speaking", "utterances") as bar:
        for sentence in sentences(utterances, seed):
            samples = synthesise(sentence.text, sentence.voice)
            lines.append(json.dumps(_write(out, sentence, samples)))
            counts[sentence.split] += 1
            seconds += len(samples) / SAMPLE_RATE
            bar.advance(1)
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {**counts, "hours": seconds / 3600}


def _write(out: Path, sentence: SpokenSentence, samples: np.ndarray) -> dict[str, object]:
    """Write the audio; return the manifest line."""
    audio = f"audio/{sentence.id}.flac"
    flac = io.BytesIO()  # written in Python, whose errors say why
    soundfile.write(flac, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    (out / audio).write_bytes(flac.getvalue())
    return {
        "id": sentence.id,
        "audio": audio,
        "text": sentence.text,
        "duration": round(len(samples) / SAMPLE_RATE, 4),
        "lang": "en",
        "speaker": sentence.voice.name,
        "split": sentence.split,
        "corpus": "demo",
    }


def sentences(utterances: int, seed: int) -> Iterator[SpokenSentence]:
    """The corpus as text: distinct sentences, split by split, each with its voice."""
    random = Random(seed)
    held_out = max(1, round(utterances * HELD_OUT))
    sizes = {"train": utterances - 2 * held_out, "dev": held_out, "test": held_out}
    texts: dict[str, None] = {}
    while len(texts) < utterances:
        texts[draw_sentence(random)] = None
    remaining = iter(texts)
    for split, size in sizes.items():
        for index in range(size):
            voice = EspeakVoice(random.choice(VOICES), random.choice(SPEEDS), random.choice(PITCHES))
            yield SpokenSentence(f"{split}-{index:05d}", split, next(remaining), voice)


def draw_sentence(random: Random) -> str:
    """One sentence of the grammar."""
    return " ".join(word for slot in GRAMMAR if (word := random.choice(slot.split("|"))))
