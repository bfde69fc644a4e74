"""Manifests: JSONL, one utterance per line, checked completely before any work begins.

    corpus/manifest.jsonl
        {"id": "u1", "audio": "wav/u1.flac", "text": "He hoped.", "duration": 2.41, "split": "train"}
        {"id": "u2", "audio": "wav/talk.flac", "text": "So there.", "offset": 12.5, "duration": 1.2}

    manifest = read_manifest(Path("corpus/manifest.jsonl"))
    manifest.utterances[1].offset        12.5
    manifest.audio_path(manifest.utterances[1])      corpus/wav/talk.flac, which is inside corpus/

The first bad line ends the reading with `FILE:LINE: what is wrong; what to do`. Audio stays inside the
manifest's folder (or `--audio-root`), symbolic links included. Whether a file exists and is sound is not
checked here: at extraction a missing or broken file is one rejected sample. Keys that are not known are
ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sm_store.durable import write_file
from sm_store.errors import ManifestError
from sm_store.fields import FIELDS, TEXTS, Fields

_REQUIRED = ("id", "audio", "text")
MAX_LINE_BYTES = 2**20
MAX_ID_CHARACTERS = 255
ASKED_SINGLY = 64  # files of a folder, before it is listed
MAX_SECONDS = 7 * 24 * 3600.0  # beyond a week a duration or offset is a mistake of units
NOT_UTF8 = "text that is not UTF-8; correct it or remove it"
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(pipe|file|data|http|https|ftp|s3|gs|hf):")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest, valid.

    Attributes:
        id: unique in the manifest.
        audio: path relative to the manifest's folder (or `--audio-root`).
        text: the transcript as given.
        offset: where the utterance begins in the file, seconds; None: the file is the utterance.
        duration: its length in seconds, None where the manifest does not say.
        translation: text by language code.
        sha256: of the audio file's bytes, in hexadecimal digits; a file with another one is rejected.
    """

    id: str
    audio: str
    text: str
    offset: float | None = None
    duration: float | None = None
    lang: str | None = None
    speaker: str | None = None
    split: str | None = None
    corpus: str | None = None
    question: str | None = None
    answer: str | None = None
    translation: Mapping[str, str] | None = None
    sha256: str | None = None

    @property
    def segment(self) -> tuple[str, float | None, float | None, str | None]:
        """Its audio: utterances with the same, such as questions about one document, have the same features."""
        return self.audio, self.offset, self.duration, self.sha256

    def fields(self, seconds: float) -> Fields:
        """What goes into the store's catalog, with the seconds of audio really read."""
        return Fields(**{name: getattr(self, name) for name in FIELDS} | {"duration": seconds})


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read.

    Attributes:
        path: the file. root: the folder audio paths are relative to, and stay inside of.
        utterances: in the order of the file. sha256: of the file's bytes.
    """

    path: Path
    root: Path
    utterances: tuple[Utterance, ...]
    sha256: str

    def audio_path(self, utterance: Utterance) -> Path:
        return self.root / utterance.audio

    def select(self, split: str | None) -> tuple[Utterance, ...]:
        """The utterances of a split, or all.

        Raises:
            ManifestError: no utterance has that split.
        """
        if split is None:
            return self.utterances
        chosen = tuple(utterance for utterance in self.utterances if utterance.split == split)
        if not chosen:
            present = sorted({utterance.split for utterance in self.utterances if utterance.split is not None})
            raise ManifestError(
                f"{self.path}: no utterance of split {split!r}; "
                f"--split can be {', '.join(present) or 'left out: there are no splits'}"
            )
        return chosen


def read_manifest(path: Path, audio_root: Path | None = None) -> Manifest:
    """Read and check a manifest.

    Args:
        audio_root: the folder audio paths are relative to and must stay inside of; the manifest's own by
        default.

    Raises:
        ManifestError: a file that is missing or empty, or the first bad line (`FILE:LINE: ...`).
    """
    if not path.is_file():
        problem = "not a plain file" if path.exists() else "no such manifest"
        raise ManifestError(f"{path}: {problem}; give a JSONL file with one utterance per line")
    root = audio_root if audio_root is not None else path.parent
    if not root.is_dir():
        raise ManifestError(f"--audio-root {root}: no such folder; name the one audio paths are relative to")
    digest = hashlib.sha256()
    folder = AudioFolder(root)
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    for number, raw in _lines(path):
        digest.update(raw)
        if not raw.strip():
            continue
        try:
            utterance = parse_line(raw)
            folder.check(utterance.audio)
            if utterance.id in line_of:
                raise _Bad(f"id {utterance.id!r} is already on line {line_of[utterance.id]}; make ids unique")
        except _Bad as bad:
            raise ManifestError(f"{path}:{number}: {bad}") from bad.__cause__
        line_of[utterance.id] = number
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{path}: empty; a manifest has at least one line")
    return Manifest(path, root, tuple(utterances), digest.hexdigest())


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, atomically; the same utterances give the same bytes."""
    write_file(path, b"".join(format_line(utterance) for utterance in utterances))


def format_line(utterance: Utterance) -> bytes:
    """One manifest line, newline included; what is None is left out."""
    entries = ((item.name, getattr(utterance, item.name)) for item in fields(utterance))
    data = {name: dict(value) if isinstance(value, Mapping) else value for name, value in entries if value is not None}
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def problem_of(utterance: Utterance) -> str | None:
    """What a reader of a manifest with this utterance would refuse, and the remedy; None: nothing."""
    try:
        line = format_line(utterance)
        parse_line(line)
    except _Bad as bad:
        return str(bad)
    except UnicodeEncodeError:  # half a surrogate pair, which also stands for a byte that is not UTF-8
        return NOT_UTF8
    except ValueError as error:  # NaN, which JSON cannot say
        return f"{error}; correct it or remove it"
    return None if len(line) <= MAX_LINE_BYTES else f"a line longer than {MAX_LINE_BYTES} bytes; remove it"


class _Bad(Exception):
    """What is wrong with a line, and the remedy; the caller adds file and line."""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    with file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise ManifestError(
                    f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes; write one utterance per line"
                )
            yield number, raw


def parse_line(raw: bytes) -> Utterance:
    """One line as an utterance; the audio path is not checked here.

    Raises:
        _Bad: what is wrong, without file and line.
    """
    data = _parse_object(raw)
    known: dict[str, Any] = {name: _text(data, name) for name in _REQUIRED}
    for name in ("id", "audio"):
        if not known[name].strip() or _CONTROL.search(known[name]):
            raise _Bad(f"{name} {known[name][:40]!r} is blank or has control characters; give a plain one")
    if len(known["id"]) > MAX_ID_CHARACTERS:
        raise _Bad(f"id of {len(known['id'])} characters; use at most {MAX_ID_CHARACTERS}")
    values: dict[str, Any] = {
        name: _CHECKS[kind.type](data, name) for name, kind in FIELDS.items() if name not in known
    }
    return Utterance(**known, **values, offset=_seconds(data, "offset"), sha256=_sha256(data))


def _parse_object(raw: bytes) -> dict[str, Any]:
    if raw.startswith(_BOM):
        raise _Bad("begins with a byte order mark; save the file as UTF-8 without one")
    if b"\0" in raw:
        raise _Bad("holds a NUL byte; save the file as UTF-8 text")
    try:
        data = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Bad(f"not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise _Bad("nested too deeply; an utterance is a flat JSON object") from error
    except ValueError as error:
        raise _Bad(f"not JSON ({error}); write one JSON object per line") from error
    if not isinstance(data, dict):
        raise _Bad(f"a JSON {type(data).__name__}, not an object; write one object per line")
    return data


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        raise _Bad(f"no {name!r}; every utterance needs id, audio and text")
    if not isinstance(value, str):
        raise _Bad(f"{name} is {_shown(value)}, not a string; put it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Bad(f"{name} has half a surrogate pair; write whole characters") from error
    return value


def _optional_text(data: dict[str, Any], name: str) -> str | None:
    return None if data.get(name) is None else _text(data, name)


def _seconds(data: dict[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Bad(f"{name} is {_shown(value)}, not a number; give seconds")
    if not 0 <= value <= MAX_SECONDS or not math.isfinite(value):
        raise _Bad(f"{name} is {_shown(value)}; give seconds from 0 to {MAX_SECONDS:.0f}")
    return float(value)


def _sha256(data: dict[str, Any]) -> str | None:
    if data.get("sha256") is None:
        return None
    value = _text(data, "sha256").lower()
    if not _SHA256.fullmatch(value):
        raise _Bad(f"sha256 is {_shown(value)}; give 64 hexadecimal digits")
    return value


def _texts(data: dict[str, Any], name: str) -> dict[str, str] | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _Bad(f'{name} is {_shown(value)}, not an object; write {{"de": "..."}}')
    return {language: _text(value, language) for language in value}


_CHECKS: dict[Any, Callable[[dict[str, Any], str], Any]] = {str: _optional_text, float: _seconds, TEXTS: _texts}


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}..."


class AudioFolder:
    """Checks audio paths: local, and inside `root` after following symbolic links.

    Whether a file is a link costs a system call. A folder that many lines name is listed instead, and where it holds no
    link at all, none of its files is asked about (link names are not compared: case may not matter to a file system).
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._inside = os.path.join(self._root, "")
        self._shown = str(root)
        self._folders: dict[str, _Folder] = {}  # by its path as given

    def check(self, audio: str) -> None:
        """Raises _Bad where the path is not inside the folder."""
        if _REMOTE.match(audio) or audio.rstrip().endswith("|"):
            raise _Bad(f"audio {audio[:80]!r} is a URL or a command; copy the audio to disk and give its path")
        folder, name = os.path.split(os.path.join(self._root, audio))
        if name in ("", ".", ".."):
            raise _Bad(f"audio {audio[:80]!r} is a folder; name a file")
        found = self._folders.get(folder)
        if found is None:
            found = self._folders[folder] = _Folder(os.path.realpath(folder))
        real = os.path.join(found.real, name)
        if found.may_link() and os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(self._inside):
            raise _Bad(
                f"audio {audio[:80]!r} is outside {self._shown}; move it inside, or name the folder that "
                "holds all audio with --audio-root"
            )


class _Folder:
    """A folder of audio: its real path, and whether a file in it may be a link."""

    def __init__(self, real: str) -> None:
        self.real = real
        self._asked = 0
        self._links: bool | None = None  # not known yet

    def may_link(self) -> bool:
        if self._links is None:
            self._asked += 1
            if self._asked > ASKED_SINGLY:
                self._links = _holds_links(self.real)
        return self._links is not False


def _holds_links(folder: str) -> bool:
    """Whether anything in a folder is a link, or it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_symlink() for entry in entries)
    except FileNotFoundError:
        return False
    except OSError:
        return True
