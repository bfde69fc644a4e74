from __future__ import annotations

import pytest

from sm_store import Reject, Store, StoreCorrupt, StoreError, ledger
from tests.store import building

REJECTS = [
    Reject("a", "too_short", "0.03 s"),
    Reject("ü/2", "audio_missing", 'name "with quotes"\nand a line'),
    Reject("c", "too_short", ""),
]


def test_round_trip():
    data = ledger.encode(REJECTS)
    assert ledger.decode(data, "x.jsonl") == REJECTS
    assert data.count(b"\n") == len(REJECTS)
    assert ledger.encode([]) == b"" and ledger.decode(b"", "x") == []


def test_counts_by_reason_most_frequent_first():
    assert list(ledger.count(REJECTS).items()) == [("too_short", 2), ("audio_missing", 1)]


def test_reasons_are_a_closed_list():
    with pytest.raises(StoreError, match="reject 'a': unknown reason 'because'"):
        ledger.encode([Reject("a", "because", "")])
    assert all(reason.isidentifier() and text for reason, text in ledger.REASONS.items())


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"id": "a"}', b"\xff", b"null"])
def test_damaged_lines_are_named(line):
    data = ledger.encode(REJECTS[:1]) + line + b"\n"
    with pytest.raises(StoreCorrupt, match=r"^x\.jsonl:2: not a ledger line"):
        ledger.decode(data, "x.jsonl")


def test_a_store_s_ledger_is_checked_when_read(store, tmp_path):
    path = tmp_path / "s.store" / "ledger" / "00001.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x.wav", b"y.wav"))
    assert len(Store.open(tmp_path / "s.store")) == 15
    with pytest.raises(StoreCorrupt, match=r"00001\.jsonl: bytes differ"):
        Store.open(tmp_path / "s.store").rejects()
    path.unlink()
    with pytest.raises(StoreCorrupt, match=r"00001\.jsonl: missing"):
        Store.open(tmp_path / "s.store").rejects()


def test_rejects_come_in_shard_order(store):
    assert store.rejects() == [reject for shard in range(3) for reject in building.rejects(shard)]
