"""From what a corpus yields to a manifest: ids made unique, audio relative to a root, everything counted.

    build("fleurs", fleurs.utterances, Path("/data/de_de"), Path("/data/de_de/manifest.jsonl"), None)
        audio "audio/train/1.wav": OUT's folder holds all audio, so nothing more is needed
    build("fleurs", fleurs.utterances, Path("/data/de_de"), Path("/home/me/fleurs.jsonl"), None)
        audio "audio/train/1.wav", and the summary says that readers need --audio-root /data/de_de

Where audio lies outside PATH (links that lead elsewhere, absolute paths in a list), the root is the common
folder of all of it. Paths are written with links resolved, since what reads the manifest follows them too. The
same corpus gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sm_pipeline.config import MAX_SECONDS
from sm_pipeline.console import Progress, progress
from sm_pipeline.corpora.found import Embedded, Found, Skipped, sharded
from sm_pipeline.manifest import MAX_ID_CHARACTERS, NOT_UTF8, Utterance, problem_of, write_manifest
from sm_store.durable import write_file
from sm_store.errors import ManifestError, SampleError

REPEATED = "there twice"
IMPOSSIBLE = "a value that a manifest cannot have"
NO_SPLIT = "no split"
FILES_IN_FOLDER = 1000  # of audio written beside a manifest
Utterances = Callable[[Path, str | None], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split: utterances, those among them whose length is not known, and hours of the others."""

    utterances: int
    unknown: int
    hours: float


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What was written.

    Attributes:
        manifest: the file. audio_root: what `extract` needs as --audio-root; None: nothing.
        too_long: utterances longer than what `extract` takes by default. longest: seconds of the longest one.
        splits: by train, dev, test or the corpus's own name, in the order of the corpus.
        skipped: rows by reason, and where the first of each is.
    """

    kind: str
    manifest: Path
    audio_root: Path | None
    splits: dict[str, SplitSummary]
    skipped: dict[str, tuple[int, str]]
    too_long: int = 0
    longest: float = 0.0

    @property
    def utterances(self) -> int:
        return sum(each.utterances for each in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        known = any(each.unknown < each.utterances for each in self.splits.values())
        return {
            "kind": self.kind,
            "manifest": str(self.manifest),
            "audio_root": None if self.audio_root is None else str(self.audio_root),
            "utterances": self.utterances,
            "hours": sum(each.hours for each in self.splits.values()) if known else None,
            "too_long": self.too_long,
            "without_duration": sum(each.unknown for each in self.splits.values()),
            "splits": {
                name: {"utterances": each.utterances, "hours": each.hours if each.unknown < each.utterances else None}
                for name, each in self.splits.items()
            },
            "skipped": {reason: {"rows": rows, "first": first} for reason, (rows, first) in self.skipped.items()},
        }

    def in_words(self) -> str:
        facts = self.to_json()
        hours = "unknown hours" if facts["hours"] is None else f"{facts['hours']:.2f} hours"
        if facts["hours"] is not None and facts["without_duration"]:
            hours += f" and {facts['without_duration']} of unknown length"
        words = [f"{self.manifest}: {self.utterances} utterances, {hours}"]
        words += [f"  {name:10} {each.utterances:8}" for name, each in self.splits.items() if name != NO_SPLIT]
        words += [f"skipped {rows}: {reason} (first: {first})" for reason, (rows, first) in self.skipped.items()]
        if self.too_long:
            words.append(
                f"{self.too_long} are longer than {MAX_SECONDS:g} s: extract rejects them, unless its --max-seconds is "
                f"higher (the longest has {self.longest:.1f} s)"
            )
        if self.audio_root is not None:
            words.append(f"audio lies elsewhere: give extract and plan --audio-root {self.audio_root}")
        return "\n".join(words)


def build(kind: str, utterances: Utterances, path: Path, out: Path, split: str | None) -> ManifestSummary:
    """Write the manifest of a corpus; see `make_manifest`."""
    path, out = Path(os.path.abspath(path)), Path(os.path.abspath(out))
    if not path.exists() and not sharded(path):
        raise ManifestError(f"{path}: no such file or folder; give the corpus on disk")
    if out.is_dir():
        raise ManifestError(f"{out}: a folder; name the manifest to write, such as {out / 'manifest.jsonl'}")
    collected = _Collected(out)
    with progress(None, f"reading {kind}", "rows") as shown:
        for found in utterances(path, split):
            collected.add(found)
            shown.advance()
    if not collected.utterances:
        raise ManifestError(f"{path}: no utterance of it can be used{_counts(collected.skipped)}")
    base, audio_root = _root([each.audio for each in collected.utterances], path, out)
    with progress(len(collected.utterances), f"writing {out.name}", "utterances") as shown:
        write_manifest(out, _relative_to(base, collected.utterances, shown))
    lengths = [each.duration for each in collected.utterances if each.duration is not None]
    return ManifestSummary(
        kind,
        out,
        audio_root,
        _by_split(collected.utterances),
        collected.skipped,
        too_long=sum(length > MAX_SECONDS for length in lengths),
        longest=max(lengths, default=0.0),
    )


@dataclass(slots=True)
class _Collected:
    """What came out of a corpus so far; audio as real paths."""

    out: Path
    utterances: list[Utterance] = field(default_factory=list)
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)  # and a hash of what the id stands for
    _folders: dict[str, str] = field(default_factory=dict)
    _written: dict[str, str] = field(default_factory=dict)  # path of each embedded file by its name

    def add(self, found: Found) -> None:
        if isinstance(found, Skipped):
            self._skip(found)
            return
        try:
            utterance = self._stored(found) if isinstance(found, Embedded) else found
            self._keep(utterance, self._real(utterance.audio))
        except SampleError as error:
            self._skip(Skipped(error.reason, found.where if isinstance(found, Embedded) else ""))
        except ValueError:  # a NUL in a path
            self._skip(Skipped(IMPOSSIBLE, f"audio {utterance.audio[:60]!r}"))

    def _skip(self, skipped: Skipped) -> None:
        rows, first = self.skipped.get(skipped.reason, (0, skipped.where))
        self.skipped[skipped.reason] = (rows + 1, first)

    def _keep(self, utterance: Utterance, audio: str) -> None:
        """Under its id, or the id with a number where another utterance has it already."""
        kept = replace(utterance, audio=audio)
        problem = problem_of(kept)
        if problem is not None:
            reason = "not UTF-8" if problem == NOT_UTF8 else IMPOSSIBLE
            self._skip(Skipped(reason, f"utterance {str(kept.id)[:60]!r} of {audio}: {problem}"))
            return
        meant = hash((audio, utterance.offset, utterance.text, utterance.question))
        name, number = utterance.id, 1
        while name in self._ids:
            if self._ids[name] == meant:
                self._skip(Skipped(REPEATED, utterance.id))
                return
            number += 1
            name = f"{utterance.id}-{number}"
        if len(name) > MAX_ID_CHARACTERS:
            self._skip(Skipped(IMPOSSIBLE, f"id {name[:60]!r}, numbered, has {len(name)} characters"))
            return
        self._ids[name] = meant
        self.utterances.append(replace(kept, id=name))

    def _stored(self, found: Embedded) -> Utterance:
        name = found.utterance.audio
        if name not in self._written:
            folder = self.out.parent / f"{self.out.stem}.audio" / f"{len(self._written) // FILES_IN_FOLDER:04d}"
            write_file(folder / name, found.content())
            self._written[name] = str(folder / name)
        return replace(found.utterance, audio=self._written[name])

    def _real(self, audio: str) -> str:
        """With links resolved; a folder only once, since each component costs a system call."""
        folder, name = os.path.split(audio)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        return os.path.realpath(real) if os.path.islink(real) else real


def _root(audio: Iterable[str], path: Path, out: Path) -> tuple[str, Path | None]:
    """The folder that audio is relative to, as a real path, and as --audio-root where it is not OUT's."""
    folders = {os.path.dirname(each) for each in audio}
    corpus = path if path.is_dir() else path.parent
    for folder in (out.parent, corpus):
        real = os.path.realpath(folder)
        if all(each == real or each.startswith(os.path.join(real, "")) for each in folders):
            return real, None if folder == out.parent else folder
    together = os.path.commonpath(folders)
    return together, Path(together)


def _relative_to(base: str, utterances: Iterable[Utterance], shown: Progress) -> Iterator[Utterance]:
    for each in utterances:
        yield replace(each, audio=os.path.relpath(each.audio, base))
        shown.advance()


def _by_split(utterances: Iterable[Utterance]) -> dict[str, SplitSummary]:
    lengths: dict[str, list[float | None]] = {}
    for each in utterances:
        lengths.setdefault(each.split or NO_SPLIT, []).append(each.duration)
    return {
        name: SplitSummary(len(all_of), all_of.count(None), sum(length or 0.0 for length in all_of) / 3600)
        for name, all_of in lengths.items()
    }


def _counts(skipped: dict[str, tuple[int, str]]) -> str:
    counts = "; ".join(f"{rows} rows: {reason} (first: {first})" for reason, (rows, first) in skipped.items())
    return f": {counts}" if counts else ": its lists are empty; is it unpacked completely?"
