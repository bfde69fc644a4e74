"""FLEURS (huggingface.co/datasets/google/fleurs): the FLORES sentences read aloud in 102 languages.

    de_de/
        train.tsv  dev.tsv  test.tsv                          no line of names:
            1304<tab>10000284708658466567.wav<tab>"Er kam."<tab>er kam<tab>e r | k a m |<tab>145920<tab>MALE
            sentence, file, raw transcription, transcription, characters, samples at 16 kHz, gender
        audio/train/10000284708658466567.wav                  (train/*.wav where the archives lay beside the tables)

lhotse downloads it as metadata/de_de/train.tsv beside de_de/train/*.wav, and that is read, too.

PATH: a language's folder or one above it. The text is the raw transcription, with case and punctuation. A
sentence is read by several people, so ids are made of the language's folder and the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, folders, stem_of
from sm_pipeline.corpora.reading import Row, table, usable
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SPLITS = ("train", "dev", "test")
COLUMNS = ("sentence", "file", "raw", "normal", "characters", "samples", "gender")
METADATA = "metadata"
RATE = 16_000  # Hz, that `samples` counts


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    beside = path.absolute().parent / METADATA / path.absolute().name  # of a language's folder with audio alone
    languages = folders(path, 2, lambda folder: bool(_present(folder))) or folders(
        beside, 0, lambda f: bool(_present(f))
    )
    if not languages:
        raise ManifestError(f"{path}: no train.tsv, dev.tsv or test.tsv; give a folder like de_de")
    chosen = choose((name for folder in languages for name in _present(folder)), split, path)
    for folder in languages:
        for name in _present(folder):
            if name in chosen:
                yield from _split(folder, name)


def _present(folder: Path) -> list[str]:
    return [name for name in SPLITS if (folder / f"{name}.tsv").is_file()]


def _split(folder: Path, split: str) -> Iterator[Found]:
    audio = AudioFiles()
    language = folder.absolute().name
    places = [folder]
    if folder.absolute().parent.name == METADATA:
        places.append(folder.absolute().parents[1] / language)
    candidates = [each / part for each in places for part in (f"audio/{split}", split)]

    def reading(row: Row) -> Found:
        stem, text = stem_of(row["file"]), row.text("raw", "normal")
        samples = row.seconds("samples")
        file = audio.find(candidates, stem)
        if not text or file is None:
            return Skipped(NO_AUDIO if text else NO_TEXT, row.where)
        return Utterance(
            id=f"{language}-{stem}",
            audio=file,
            text=text,
            duration=None if samples is None else samples / RATE,
            lang=tag_or_name(language),
            split=split,
            corpus="fleurs",
        )

    yield from usable(table(folder / f"{split}.tsv", needs=(), header=COLUMNS), reading)
