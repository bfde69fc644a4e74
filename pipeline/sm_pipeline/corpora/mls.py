"""Multilingual LibriSpeech (openslr.org/94): read books in eight languages, as flac or opus.

    mls_german/   (or mls_german_opus/)
        train/transcripts.txt                            10148_10119_000000<tab>er öffnete die tür
        train/audio/10148/10119/10148_10119_000000.flac
        dev/  test/

PATH: a language's folder or one above it. `segments.txt` has times in the books that were cut, not the
lengths of the files, so no durations are taken from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, folders
from sm_pipeline.corpora.reading import OddRow, Row, table, usable
from sm_pipeline.languages import language_tag
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SPLITS = ("train", "dev", "test")
LIST = "transcripts.txt"


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    languages = folders(path, 2, lambda folder: bool(_present(folder)))
    if not languages:
        raise ManifestError(f"{path}: no train/{LIST}, dev/{LIST} or test/{LIST}; give a folder like mls_german")
    chosen = choose((name for folder in languages for name in _present(folder)), split, path)
    for folder in languages:
        for name in _present(folder):
            if name in chosen:
                yield from _split(folder, name)


def _present(folder: Path) -> list[str]:
    return [name for name in SPLITS if (folder / name / LIST).is_file()]


def _tag(word: str) -> str | None:
    """The tag of a language's name; `mls` and `opus` are codes of languages too, and none here."""
    return language_tag(word) if len(word) > len("opus") else None


def _split(folder: Path, split: str) -> Iterator[Found]:
    audio = AudioFiles()
    lang = next((tag for word in folder.absolute().name.split("_") if (tag := _tag(word)) is not None), None)

    def passage(row: Row) -> Found:
        name, text = row["id"], row.text("text")
        speaker, _, rest = name.partition("_")
        book, _, number = rest.partition("_")
        if not number:
            raise OddRow("an id that is not SPEAKER_BOOK_NUMBER")
        file = audio.find([folder / split / "audio" / speaker / book], name)
        if not text or file is None:
            return Skipped(NO_AUDIO if text else NO_TEXT, row.where)
        return Utterance(name, file, text, lang=lang, speaker=speaker, split=split, corpus="mls")

    yield from usable(table(folder / split / LIST, needs=(), header=("id", "text")), passage)
