"""EuroParl-ST (mllp.upv.es/europarl-st): speeches with transcripts and translations, cut by times.

    v1.1/en/
        audios/en.20080924.31.3-243.m4a
        de/train/segments.lst       en.20080924.31.3-243 0.0 7.32        speech, begin and end in seconds
        de/train/segments.en        one line per segment, its transcript
        de/train/segments.de        and its translation
        de/train/speeches.lst  speeches.en  speeches.de  ...             whole speeches; not used

PATH: v1.1, a spoken language or a pair (v1.1/en/de). libsndfile cannot decode m4a: convert it first, into
audios/ or a folder beside it whose name begins with audios. A segment is an offset and a duration in its
speech. The pairs of one language cut the same speeches, so the ids name the pair: en-de/SPEECH/0.0-7.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sm_pipeline.corpora.found import (
    NO_AUDIO,
    NO_TEXT,
    UNDECODABLE,
    AudioFiles,
    Found,
    Skipped,
    choose,
    files,
    split_of,
)
from sm_pipeline.corpora.reading import lines
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

LIST = "segments.lst"


@dataclass(frozen=True, slots=True)
class _Part:
    """SOURCE/TARGET/SPLIT of the corpus, and the folders with the speeches."""

    folder: Path

    @property
    def pair(self) -> tuple[str, str]:
        return self.folder.parents[1].name, self.folder.parent.name

    def audio(self) -> list[Path]:
        return sorted(each for each in self.folder.parents[1].glob("audios*") if each.is_dir())


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    parts = [_Part(each.absolute().parent) for each in files(path, lambda name: name == LIST)] if path.is_dir() else []
    if not parts:
        raise ManifestError(f"{path}: no {LIST} below it; give the folder v1.1, or one like v1.1/en/de")
    chosen = choose(sorted({part.folder.name for part in parts}), split, path)
    audio = AudioFiles()
    for part in parts:
        if part.folder.name in chosen:
            _check_decodable(part, audio)
            yield from _segments(part, audio)


def _check_decodable(part: _Part, audio: AudioFiles) -> None:
    folders = part.audio()
    if any(audio.listing(folder) for folder in folders):
        return
    for folder in folders:
        if any(each.suffix[1:] in UNDECODABLE for each in folder.iterdir()):
            raise ManifestError(
                f"{folder}: only .m4a, which cannot be decoded; convert it: "
                f'for f in {folder}/*.m4a; do ffmpeg -i "$f" -ac 1 -ar 16000 "${{f%.m4a}}.flac"; done'
            )
    raise ManifestError(f"{part.folder.parents[1]}: no audios/ with speeches; unpack the audio there")


def _segments(part: _Part, audio: AudioFiles) -> Iterator[Found]:
    source, target = part.pair
    folders = part.audio()
    segments = list(lines(part.folder / LIST))
    transcripts = _texts(part, source, len(segments))
    translated = _texts(part, target, len(segments))
    for (where, line), text, translation in zip(segments, transcripts, translated, strict=True):
        speech, begin, end = _times(line, where)
        file = audio.find(folders, speech)
        if not text or not translation or file is None:
            yield Skipped(NO_AUDIO if text and translation else NO_TEXT, where)
            continue
        yield Utterance(
            id=f"{source}-{target}/{speech}/{begin}-{end}",
            audio=file,
            text=text,
            offset=begin,
            duration=round(end - begin, 6),
            lang=source,
            split=split_of(part.folder.name) or part.folder.name,
            corpus="europarl-st",
            translation={target: translation},
        )


def _texts(part: _Part, language: str, expected: int) -> list[str]:
    """One text a segment, blank lines included."""
    path = part.folder / f"segments.{language}"
    try:
        texts = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text; copy the file again") from error
    if texts[-1] == "":
        texts.pop()
    if len(texts) != expected:
        raise ManifestError(f"{path}:{len(texts)}: ends here, and {LIST} has {expected} lines; copy both files again")
    return [text.strip() for text in texts]


def _times(line: str, where: str) -> tuple[str, float, float]:
    try:
        speech, begin, end = line.split()
        times = float(begin), float(end)
    except ValueError as error:
        raise ManifestError(f"{where}: not SPEECH BEGIN END but {line[:60]!r}; copy the file again") from error
    if not 0 <= times[0] < times[1]:
        raise ManifestError(f"{where}: from {begin} to {end} s is no segment; copy the file again")
    return speech, *times
