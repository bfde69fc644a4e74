"""Kept results are read as far as they can be."""

from __future__ import annotations

from speechmapper.eval.kept_lines import read_kept


def test_only_whole_lines_are_read(tmp_path):
    path = tmp_path / "kept.jsonl"
    assert read_kept(path, {"score": float}) == []
    path.write_bytes(
        b'{"sha256": "a", "score": 0.5, "id": "x\xe2\x80\xa8y"}\n[1]\n{"sha256": "b"}\n{"sha256": "c", "score": "1"}\n'
        b'{"sha256": "d", "score": true}\n\xff\n{"sha256": "e", "sco'
    )
    assert read_kept(path, {"sha256": str, "score": float}) == [{"sha256": "a", "score": 0.5, "id": "x\u2028y"}]
    path.unlink()
    path.mkdir()
    assert read_kept(path, {"score": float}) == []
