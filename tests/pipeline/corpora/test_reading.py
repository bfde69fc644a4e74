"""Tables and lists of corpora: what is read, and that errors name the line."""

from __future__ import annotations

import gzip

import pytest

from sm_pipeline.corpora.reading import json_rows, lines, table
from sm_store.errors import ManifestError
from tests.pipeline.corpora.manifests import write_text


def test_lines_and_tables(tmp_path):
    path = write_text(tmp_path / "t.tsv", '\ufeffa\tb\r\n\r\n1\t"2\r\n')
    (row,) = table(path, needs=("a",))
    assert (row.where, dict(row.values)) == (f"{path}:3", {"a": "1", "b": '"2'})
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"x\n"))
    assert list(lines(tmp_path / "t.gz")) == [(f"{tmp_path}/t.gz:1", "x")]
    for text in ('[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}\n'):
        assert [row["a"] for row in json_rows(write_text(tmp_path / "j.json", text))] == [1, 2]
    with pytest.raises(ManifestError, match=r"j.json: item 2: a JSON int, not an object"):
        list(json_rows(write_text(tmp_path / "j.json", '[{"a": 1}, 2]')))
    with pytest.raises(ManifestError, match=r"t.tsv:1: .*keep each row on one line"):
        list(table(write_text(tmp_path / "t.tsv", "a\rb\tc\n"), needs=()))
    with pytest.raises(ManifestError, match=r"j.json:1: (not JSON|nested too deeply)"):
        list(json_rows(write_text(tmp_path / "j.json", '{"a":' * 50_000)))
    (tmp_path / "big").write_bytes(b"x" * (2**24 + 2))
    with pytest.raises(ManifestError, match="big:1: longer than"):
        list(lines(tmp_path / "big"))
