"""VoxPopuli (github.com/facebookresearch/voxpopuli): speeches of the European Parliament with transcripts.

As its own scripts write it, and as it lies on the Hugging Face Hub once its archives are unpacked:

    transcribed_data/en/                                    data/en/
        asr_train.tsv  asr_dev.tsv  asr_test.tsv                asr_train.tsv  asr_dev.tsv  asr_test.tsv
        2009/20090112-0900-PLENARY-3-en_20090112-...ogg         train/train_part_0/20090112-...wav

    id             raw_text            normalized_text    speaker_id  split  gender
    20090112-0...  The next item is    the next item is   4328        train  male

PATH: a language's folder or one above it. The text is `raw_text`, with case and punctuation; where it is
empty, `normalized_text`. The corpus does not say how long its files are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, folders
from sm_pipeline.corpora.reading import Row, table, usable
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SPLITS = ("train", "dev", "test")
NOBODY = ("", "None", "none")


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    languages = folders(path, 3, lambda folder: bool(_present(folder)))
    if not languages:
        if any(folders(path, 2, lambda folder: folder.absolute().name == "raw_audios")):
            raise ManifestError(
                f"{path}: raw_audios alone, recordings of whole sessions; cut them with voxpopuli.get_asr_data first"
            )
        raise ManifestError(f"{path}: no asr_train.tsv, asr_dev.tsv or asr_test.tsv; give a folder like data/en")
    chosen = choose((name for folder in languages for name in _present(folder)), split, path)
    for folder in languages:
        for name in _present(folder):
            if name in chosen:
                yield from _table(folder, name)


def _present(folder: Path) -> list[str]:
    return [name for name in SPLITS if (folder / f"asr_{name}.tsv").is_file()]


def _table(folder: Path, split: str) -> Iterator[Found]:
    audio = AudioFiles()
    parts = [folder / split, *sorted(part for part in (folder / split).glob("*") if part.is_dir())]

    def speech(row: Row) -> Found:
        name = row["id"]
        text = row.text("raw_text", "normalized_text")
        file = audio.find([folder / name[:4], *parts], name)
        if not text or file is None:
            return Skipped(NO_AUDIO if text else NO_TEXT, row.where)
        return Utterance(
            id=name,
            audio=file,
            text=text,
            lang=tag_or_name(folder.absolute().name),
            speaker=None if row["speaker_id"] in NOBODY else row["speaker_id"],
            split=split,
            corpus="voxpopuli",
        )

    rows = table(folder / f"asr_{split}.tsv", needs=("id", "raw_text", "normalized_text", "speaker_id"))
    yield from usable(rows, speech)
