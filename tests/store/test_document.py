"""The store's JSON documents: what is refused, and in which words."""

from __future__ import annotations

import os

import pytest

from sm_store import (
    Store,
    StoreCorrupt,
    StoreFormatError,
    StoreMissing,
    document,
)
from sm_store.verify import verify
from tests.store import building


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("identity"),
        lambda data: data.pop("targets"),
        lambda data: data.update(targets=[]),
        lambda data: data.update(identity={"encoder": []}),
        lambda data: data["identity"].update(encoder=7),
        lambda data: data["targets"].update({"../x": data["targets"]["llm"]}),
        lambda data: data["targets"].update({"other": data["targets"]["llm"]}),
        lambda data: data["targets"]["llm"].update(geometry={"kernels": 3}),
    ],
)
def test_well_sealed_nonsense_is_a_format_error(tmp_path, edit):
    building.build(tmp_path / "s", shards=1)
    path = tmp_path / "s" / "store.json"
    data = document.read(path)
    edit(data)
    path.write_bytes(document.encode(data))
    with pytest.raises(StoreFormatError, match=r"store\.json"):
        Store.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", StoreFormatError, "not a document"),
        (b"{", StoreFormatError, "not a document"),
        (b"[]", StoreFormatError, "not a document"),
        (b'{"format": "zip"}', StoreFormatError, "not a document"),
        (
            b'{"format": "speechmapper-store", "version": 99}',
            StoreFormatError,
            "version 99; this release",
        ),
        (b'{"format": "speechmapper-store", "version": 1}', StoreCorrupt, "edited or damaged"),
        (b"[" * 100_000, StoreFormatError, "not a document"),
    ],
)
def test_foreign_and_older_documents(tmp_path, content, error, message):
    building.build(tmp_path / "s", kind=None)
    (tmp_path / "s" / "store.json").write_bytes(content)
    with pytest.raises(error, match=message):
        Store.open(tmp_path / "s")
    with pytest.raises(error, match=message):
        verify(tmp_path / "s")


def test_no_store_there(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreMissing, match="no store there"):
            Store.open(path)


def test_names_of_files_that_are_no_utf8(tmp_path):
    body = {"manifest": os.fsdecode(b"/data/\xe4/m.jsonl"), "text": "\u00e4 \u2028"}
    (tmp_path / "d.json").write_bytes(document.encode(body))
    assert document.read(tmp_path / "d.json") == body
    (tmp_path / "d.json").read_text(encoding="utf-8")
