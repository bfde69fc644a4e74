"""LibriSQA (huggingface.co/datasets/ZihanZhao/LibriSQA): questions about LibriSpeech utterances.

    librisqa/
        LibriSQA-PartI/LibriSQA-PartI-train.json  LibriSQA-PartI-test.json
            {"speech_path": ".../100-121669-0000.flac", "text": "TOM THE PIPER'S SON", "duration": 14.1,
             "question": "Who is ...?", "answer": "Tom is ..."}
        LibriSQA-PartII/LibriSQA-PartII-train.json  LibriSQA-PartII-test.json
            {"speech_path": ..., "text": ..., "duration": ..., "question_and_option": "Who ...? A. ... B. ...",
             "answer": "A", "answer_and_analysis": "A. Because ..."}
        LibriSpeech/train-clean-360/...  test-clean/...       or a link to it

PATH: a folder with both in it. Of `speech_path` only the utterance's name counts. Both parts ask about the
same utterances, so ids begin with the part: I/100-121669-0000. Of part II, the question has the options in it
and the answer is the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sm_pipeline.corpora.found import (
    NO_AUDIO,
    NO_TEXT,
    AudioFiles,
    Found,
    Skipped,
    choose,
    files,
    folders,
    split_of,
    stem_of,
)
from sm_pipeline.corpora.reading import OddRow, Row, json_rows, usable
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

NAME = re.compile(r"LibriSQA.*\.jsonl?")
PART = re.compile(r"Part(I{1,2})")
SUBSET = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
UTTERANCE = re.compile(r"(\d+)-(\d+)-\d+")
NO_ANSWER = "no question or answer"


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    lists = list(files(path, lambda name: NAME.fullmatch(name) is not None)) if path.is_dir() else []
    if not lists:
        raise ManifestError(f"{path}: no LibriSQA-Part*.json below it; give a folder with LibriSQA and LibriSpeech")
    speech = folders(path, 3, lambda folder: SUBSET.fullmatch(folder.absolute().name) is not None)
    if not speech:
        raise ManifestError(f"{path}: no LibriSpeech (train-clean-360, test-clean) below it; put it (or a link) there")
    chosen = choose([each.stem for each in lists], split, path)
    audio = AudioFiles()
    for each in lists:
        if each.stem in chosen:
            yield from usable(json_rows(each), partial(_question, name=each.stem, speech=speech, audio=audio))


def _question(row: Row, name: str, speech: list[Path], audio: AudioFiles) -> Found:
    stem = stem_of(row.text("speech_path"))
    match = UTTERANCE.fullmatch(stem)
    if match is None:
        raise OddRow("speech_path is no LibriSpeech utterance")
    file = audio.find([folder / match[1] / match[2] for folder in speech], stem)
    question, answer = row.text("question", "question_and_option"), row.text("answer")
    if file is None or not row.text("text") or not question or not answer:
        missing = NO_AUDIO if file is None else NO_ANSWER
        return Skipped(missing if row.text("text") else NO_TEXT, row.where)
    part = PART.search(name)
    return Utterance(
        id=f"{part[1]}/{stem}" if part else stem,
        audio=file,
        text=row.text("text"),
        duration=row.seconds("duration"),
        lang="en",
        speaker=match[1],
        split=split_of(name),
        corpus="librisqa",
        question=question,
        answer=answer,
    )
