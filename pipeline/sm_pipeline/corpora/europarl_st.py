"""EuroParl-ST (mllp.upv.es/europarl-st): speeches with transcripts and translations, cut by times.

    v1.1/en/
        audios/en.20080924.31.3-243.m4a
        de/train/segments.lst       en.20080924.31.3-243 0.0 7.32        speech, begin and end in seconds
        de/train/segments.en        one line per segment, its transcript
        de/train/segments.de        and its translation
        de/train/speakers.lst       one line per segment or per speech, its speaker, or SPEECH SPEAKER
        de/train/speeches.lst  speeches.en  speeches.de  ...             whole speeches; not used

PATH: v1.1, a spoken language or a pair (v1.1/en/de). libsndfile cannot decode m4a: convert it first, into
audios/ or a folder beside it whose name begins with audios. A segment is an offset and a duration in its
speech. train-noisy is taken only with `--split train-noisy`. The pairs of one language cut the same speeches, so the
ids name the pair: en-de/SPEECH/0.0-7.32.
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
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

LIST = "segments.lst"
NOISY = "noisy"  # train-noisy: segments whose alignment the filter doubted
NO_TIMES = "not SPEECH BEGIN END"
NO_LENGTH = "a segment of no length"


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
    names = sorted({part.folder.name for part in parts})
    chosen = choose([name for name in names if NOISY not in name or name == split], split, path)
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
    speakers = _speakers(part, [line.partition(" ")[0] for _, line in segments])
    for (where, line), text, translation in zip(segments, transcripts, translated, strict=True):
        times = _times(line)
        if times is None or not 0 <= times[1] < times[2]:
            yield Skipped(NO_TIMES if times is None else NO_LENGTH, where)
            continue
        speech, begin, end = times
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
            lang=tag_or_name(source),
            speaker=speakers.get(speech),
            split=part.folder.name if NOISY in part.folder.name else split_of(part.folder.name) or part.folder.name,
            corpus="europarl-st",
            translation={tag_or_name(target) or target: translation},
        )


def _texts(part: _Part, language: str, expected: int) -> list[str]:
    """One text a segment, blank lines included."""
    path = part.folder / f"segments.{language}"
    try:
        texts = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")  # as in `reading.lines`
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); copy the file again") from error
    if texts[-1] == "":
        texts.pop()
    if len(texts) != expected:
        raise ManifestError(f"{path}:{len(texts)}: ends here, and {LIST} has {expected} lines; copy both files again")
    return [text.strip() for text in texts]


def _times(line: str) -> tuple[str, float, float] | None:
    """Speech, begin and end; None for a line of another form."""
    try:
        speech, begin, end = line.split()
        return speech, float(begin), float(end)
    except ValueError:
        return None


def _speakers(part: _Part, speeches: list[str]) -> dict[str, str]:
    """Speaker of each speech, where the corpus says so in one of the forms that are known."""
    path = part.folder / "speakers.lst"
    if not path.is_file():
        return {}
    rows = [line.split() for _, line in lines(path)]
    if all(len(row) > 1 and row[0] in speeches for row in rows):
        return {row[0]: row[1] for row in rows}
    listed = part.folder / "speeches.lst"
    whole = [line.split()[0] for _, line in lines(listed)] if listed.is_file() else []
    for names in (speeches, whole):
        if len(names) == len(rows):
            return {name: " ".join(row) for name, row in zip(names, rows, strict=True)}
    return {}
