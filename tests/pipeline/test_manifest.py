"""Manifests: good lines in full, bad lines named by file and line."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from sm_pipeline import manifest
from sm_pipeline.manifest import (
    MAX_LINE_BYTES,
    Utterance,
    format_line,
    read_manifest,
    write_manifest,
)
from sm_store.errors import LONGEST_MESSAGE, ManifestError
from tests.speech import write_lines

GOOD = {"id": "u1", "audio": "a.wav", "text": "hello"}


def manifest_of(folder: Path, *lines: object) -> Path:
    """A manifest of raw bytes, text or objects, a good line first."""
    path = folder / "m.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in (GOOD, *lines)]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def refusal(path: Path, **settings) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_every_field_arrives(tmp_path):
    line = {
        "id": "é-1",
        "audio": "sub/a b.wav",
        "text": " He hoped. ",
        "offset": 1,
        "duration": 2.5,
        "lang": "en",
        "speaker": "s",
        "split": "train",
        "corpus": "c",
        "translation": {"de": "Er hoffte."},
        "question": "q?",
        "answer": "a",
        "unknown": {"nested": [1, None]},
    }
    manifest = read_manifest(write_lines(tmp_path / "m.jsonl", [line]))
    (utterance,) = manifest.utterances
    del line["unknown"]
    assert {name: getattr(utterance, name) for name in line} == line
    assert manifest.audio_path(utterance) == tmp_path / "sub/a b.wav"
    assert manifest.sha256 == hashlib.sha256((tmp_path / "m.jsonl").read_bytes()).hexdigest()
    fields = utterance.fields(2.25)
    assert (fields.text, fields.duration, fields.translation) == (" He hoped. ", 2.25, {"de": "Er hoffte."})
    assert (fields.question, fields.answer, fields.corpus, fields.split) == ("q?", "a", "c", "train")


def test_what_is_absent_or_null_is_none(tmp_path):
    (utterance,) = read_manifest(write_lines(tmp_path / "m.jsonl", [GOOD | {"lang": None}])).utterances
    assert utterance == Utterance("u1", "a.wav", "hello")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n  \n"])
def test_line_endings_and_blank_lines(tmp_path, ending):
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + ending + json.dumps(GOOD | {"id": "u2"}).encode())
    assert [utterance.id for utterance in read_manifest(path).utterances] == ["u1", "u2"]


def test_written_manifests_read_back_and_are_stable(tmp_path):
    utterances = (
        Utterance("a", "a.wav", "déjà vu", duration=1.5, translation={"fr": "déjà"}, sha256="0a" * 32),
        Utterance("b", "x/b.wav", "", offset=0.0, split="dev"),
    )
    write_manifest(tmp_path / "m.jsonl", utterances)
    assert read_manifest(tmp_path / "m.jsonl").utterances == utterances
    assert (tmp_path / "m.jsonl").read_bytes() == b"".join(map(format_line, utterances))
    assert "é".encode() in format_line(utterances[0])
    assert b"null" not in format_line(utterances[1])


def test_splits_are_chosen_in_order(tmp_path):
    lines = [GOOD | {"id": f"u{n}", "split": ("train", "dev")[n % 2]} for n in range(5)]
    manifest = read_manifest(write_lines(tmp_path / "m.jsonl", lines))
    assert [utterance.id for utterance in manifest.select("dev")] == ["u1", "u3"]
    assert manifest.select(None) == manifest.utterances
    with pytest.raises(ManifestError, match=r"no utterance of split 'test'.*dev, train"):
        manifest.select("test")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{nope", "not JSON"),
        (b"", None),
        (b"[1, 2]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b"{} trailing", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": "a\x00b", "audio": "a", "text": ""}', "NUL"),
        (b'\xef\xbb\xbf{"id": "u2"}', "byte order mark"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": "u2", "audio": "a.wav", "text": "t", "duration": ' + b"9" * 5000 + b"}", "not JSON"),
        ({"audio": "a.wav", "text": "t"}, "no 'id'"),
        ({"id": "u2", "text": "t"}, "no 'audio'"),
        ({"id": "u2", "audio": "a.wav"}, "no 'text'"),
        (GOOD | {"id": None}, "no 'id'"),
        (GOOD | {"id": 7}, "id is 7, not a string"),
        (GOOD | {"id": " "}, "blank"),
        (GOOD | {"id": "a\nb"}, "control characters"),
        (GOOD | {"id": "x" * 256}, "at most 255"),
        (GOOD, "already on line 1"),
        (GOOD | {"id": "u2", "text": ["t"]}, "text is ['t']"),
        (GOOD | {"id": "u2", "text": "\ud800"}, "surrogate"),
        (GOOD | {"id": "u2", "lang": 3}, "lang is 3"),
        (GOOD | {"id": "u2", "duration": "2.5"}, "duration is '2.5', not a number"),
        (GOOD | {"id": "u2", "duration": True}, "not a number"),
        (GOOD | {"id": "u2", "duration": float("nan")}, "duration is nan"),
        (GOOD | {"id": "u2", "duration": -1}, "duration is -1"),
        (GOOD | {"id": "u2", "duration": float("inf")}, "duration is inf"),
        (GOOD | {"id": "u2", "duration": 1e300}, "duration is 1e+300"),
        (GOOD | {"id": "u2", "offset": -0.5}, "offset is -0.5"),
        (GOOD | {"id": "u2", "offset": float("nan")}, "offset is nan"),
        (GOOD | {"id": "u2", "translation": "Hallo"}, "translation is 'Hallo'"),
        (GOOD | {"id": "u2", "translation": {"de": 1}}, "de is 1"),
        (GOOD | {"id": "u2", "sha256": "abc"}, "sha256 is 'abc'; give 64 hexadecimal digits"),
        (GOOD | {"id": "u2", "sha256": 7}, "sha256 is 7"),
        (GOOD | {"id": "u2", "audio": "a\x00b"}, "control characters"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, said):
    path = manifest_of(tmp_path, line)
    if said is None:
        assert len(read_manifest(path).utterances) == 1
        return
    message = refusal(path)
    assert message.startswith(f"{path}:2: ")
    assert said in message


@pytest.mark.parametrize("key", [*GOOD, "offset", "translation", "nonsense"])
def test_a_long_value_is_not_repeated_in_full(tmp_path, key):
    for value in ("\u2028x" * 20_000, ["x"] * 50_000, {"\x00" * 50_000: 1}, 10**4000):
        with pytest.raises(ManifestError) as caught:
            read_manifest(manifest_of(tmp_path, GOOD | {key: value}, GOOD))
        assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_byte_order_mark_on_the_first_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert refusal(path).startswith(f"{path}:1: begins with a byte order mark")


@pytest.mark.parametrize(
    "audio",
    [
        "/etc/passwd",
        "../other/a.wav",
        "sub/../../a.wav",
        "link/a.wav",
        "leaf.wav",
        "http://host/a.wav",
        "s3://bucket/a.wav",
        "pipe:cat a.wav",
        "file:a.wav",
        "sox a.wav -t wav - |",
        "..",
        "sub/",
        ".",
    ],
)
def test_audio_stays_in_the_folder(tmp_path, audio):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.wav").touch()
    (corpus / "link").symlink_to(tmp_path / "other")
    (corpus / "leaf.wav").symlink_to(tmp_path / "other" / "a.wav")
    message = refusal(manifest_of(corpus, GOOD | {"id": "u2", "audio": audio}))
    assert f"{corpus}/m.jsonl:2: audio {audio!r}" in message
    assert "outside" in message or "URL" in message or "folder" in message


def test_links_and_dots_inside_the_folder_are_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    names = ["link/a.wav", "real/../real/a.wav", "loop.wav", "missing/x.wav", "12:30 talk.wav", "..a.wav"]
    lines = [GOOD | {"id": f"u{n}", "audio": name} for n, name in enumerate(names)]
    assert len(read_manifest(write_lines(tmp_path / "m.jsonl", lines)).utterances) == len(names)


def test_files_of_a_folder_without_links_are_not_asked_about_one_by_one(tmp_path, monkeypatch):
    asked = []
    real = os.path.islink
    monkeypatch.setattr(manifest.os.path, "islink", lambda path: asked.append(path) or real(path))
    corpus = tmp_path / "corpus"
    (corpus / "wav").mkdir(parents=True)
    lines = [GOOD | {"id": f"u{n}", "audio": f"wav/{n}.wav"} for n in range(300)]
    assert len(read_manifest(write_lines(corpus / "m.jsonl", lines)).utterances) == 300
    assert len(asked) == manifest.ASKED_SINGLY
    (tmp_path / "a.wav").touch()
    (corpus / "wav/299.wav").symlink_to(tmp_path / "a.wav")  # the last line, long after the folder was listed
    assert f"{corpus}/m.jsonl:300: audio 'wav/299.wav' is outside" in refusal(corpus / "m.jsonl")


def test_a_manifest_in_a_linked_folder(tmp_path):
    (tmp_path / "real").mkdir()
    write_lines(tmp_path / "real" / "m.jsonl", [GOOD])
    (tmp_path / "link").symlink_to("real")
    assert read_manifest(tmp_path / "link" / "m.jsonl").root == tmp_path / "link"


def test_audio_root_moves_the_fence(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    inside = write_lines(tmp_path / "lists" / "m.jsonl", [GOOD, GOOD | {"id": "u2", "audio": str(audio / "b.wav")}])
    manifest = read_manifest(inside, audio_root=audio)
    assert [manifest.audio_path(each) for each in manifest.utterances] == [audio / "a.wav", audio / "b.wav"]
    outside = write_lines(tmp_path / "lists" / "n.jsonl", [GOOD | {"audio": "../lists/m.jsonl"}])
    assert "outside" in refusal(outside, audio_root=audio)
    assert "no such folder" in refusal(inside, audio_root=tmp_path / "nope")


def test_files_that_are_no_manifest(tmp_path):
    assert "no such manifest" in refusal(tmp_path / "nope.jsonl")
    assert "not a plain file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo.jsonl")
    assert "not a plain file" in refusal(tmp_path / "fifo.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b" \n\n")
    assert "empty" in refusal(tmp_path / "empty.jsonl")


def test_a_huge_line_is_refused_without_reading_it_all(tmp_path):
    path = tmp_path / "m.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(GOOD).encode() + b"\n")
        file.truncate(4 * 2**30)  # sparse: four gigabytes without a line break
    began = time.monotonic()
    assert refusal(path).startswith(f"{path}:2: longer than {MAX_LINE_BYTES} bytes")
    assert time.monotonic() - began < 2


def test_unreadable_manifests_are_bad_input(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "m.jsonl", [GOOD])

    def refuse(*_arguments, **_settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so the refusal is made
    assert "Permission denied" in refusal(path)
