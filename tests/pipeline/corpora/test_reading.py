"""Tables and lists of corpora: what is read, and that errors name the line."""

from __future__ import annotations

import gzip

import pytest

from sm_pipeline.corpora.found import Skipped
from sm_pipeline.corpora.reading import OddRow, Row, json_rows, lines, table, usable
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
    path = write_text(tmp_path / "j.json", '[{"a": 1}, 2]')
    assert list(json_rows(path)) == [Row({"a": 1}, f"{path}: item 1"), Skipped("not a JSON object", f"{path}: item 2")]
    with pytest.raises(ManifestError, match=r"t.tsv:1: .*keep each row on one line"):
        list(table(write_text(tmp_path / "t.tsv", "a\rb\tc\n"), needs=()))
    for text in ('{"a":' * 50_000, '{"a"'):
        path = write_text(tmp_path / "j.json", text)
        assert list(json_rows(path)) == [Skipped("not a JSON object", f"{path}:1")]
    (tmp_path / "big").write_bytes(b"x" * (2**24 + 2))
    with pytest.raises(ManifestError, match="big:1: longer than"):
        list(lines(tmp_path / "big"))


def test_a_torn_row_and_a_byte_that_is_not_utf8_cost_one_row(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"a\tb\n1\t2\n3\r\t4\n\xff\t6\n7\t8\n")
    first, torn, odd, last = table(path, needs=("a",))
    assert torn == Skipped("not a row of a table", f"{path}:3")
    assert [dict(row.values) for row in (first, odd, last)] == [
        {"a": "1", "b": "2"},
        {"a": "\udcff", "b": "6"},
        {"a": "7", "b": "8"},
    ]


def test_one_odd_row_is_skipped_and_the_others_are_used(tmp_path):
    path = write_text(tmp_path / "t.tsv", "a\tb\n1\t2\n3\n4\tx\n5\t6\n")

    def use(row: Row) -> Skipped:
        return Skipped(f"seen {row.seconds('b'):g}", row.where)

    assert [(each.reason, each.where.rpartition(":")[2]) for each in usable(table(path, ("a",)), use)] == [
        ("seen 2", "2"),
        ("another number of columns", "3"),
        ("b is not a number", "4"),
        ("seen 6", "5"),
    ]
    with pytest.raises(OddRow, match="b is not a number"):
        Row({"b": True}, "here").seconds("b")
