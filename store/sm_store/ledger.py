"""The reject ledger: every utterance that is not in the store, with a reason code and one line of explanation.

    ledger/00007.jsonl     {"detail": "wav/12.flac: no such file", "id": "12", "reason": "audio_missing"}

One file per shard, written before the shard's commit mark: an utterance is in the catalog or in the ledger,
never both, never neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sm_store import paths
from sm_store.catalog import PartInfo
from sm_store.errors import RUN_VERIFY, StoreCorrupt, StoreError
from sm_store.identity import canonical
from sm_store.records import Reject

REASONS: dict[str, str] = {
    "audio_missing": "the audio file does not exist or is not a plain file",
    "audio_unreadable": "the audio file is damaged, empty or cannot be read",
    "audio_format": "not a supported audio format, by its first bytes",
    "audio_not_finite": "the audio holds NaN or infinite samples",
    "shorter_than_promised": "less audio than the manifest says",
    "longer_than_promised": "more audio than the manifest says, and no offset",
    "checksum_mismatch": "the audio file is not the one the manifest describes",
    "too_short": "too few frames for one projector vector",
    "too_long": "longer than --max-seconds",
    "text_empty": "nothing is left of the text after normalisation",
    "text_too_long": "more tokens than projector vectors leave room for",
    "features_not_finite": "the encoder gave NaN, infinite or overflowing features",
    "decode_timeout": "decoding did not end in time",
    "worker_failed": "the process that worked on it died",
}


def encode(rejects: Sequence[Reject]) -> bytes:
    """The ledger file of a shard.

    Raises:
        StoreError: a reason that is not in REASONS.
    """
    lines = []
    for reject in rejects:
        if reject.reason not in REASONS:
            raise StoreError(f"reject {reject.id!r}: unknown reason {reject.reason!r}; see sm_store.ledger.REASONS")
        lines.append(canonical({"id": reject.id, "reason": reject.reason, "detail": reject.detail}) + b"\n")
    return b"".join(lines)


def decode(data: bytes, what: str) -> list[Reject]:
    """The rejects of a ledger file.

    Raises:
        StoreCorrupt: names the file (`what`) and line.
    """
    rejects = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry = json.loads(line)
            rejects.append(Reject(str(entry["id"]), str(entry["reason"]), str(entry["detail"])))
        except (ValueError, TypeError, KeyError):
            raise StoreCorrupt(f"{what}:{number}: not a ledger line; {RUN_VERIFY}") from None
    return rejects


def read(root: Path, part: PartInfo, target: str | None = None) -> list[Reject]:
    """The rejects of a committed shard. Raises StoreCorrupt where the file is not what was written."""
    path = paths.ledger(part.shard, target)
    if path not in part.files:
        raise StoreCorrupt(f"{root / path}: not listed in the catalog; {RUN_VERIFY}")
    return decode(part.files[path].require(root / path).tobytes(), str(root / path))


def count(rejects: Iterable[Reject]) -> dict[str, int]:
    """Rejects by reason, most frequent first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())
