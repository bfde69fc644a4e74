"""What is done, missing and rejected in a store, as JSON values: the data behind `sm-pipeline status`.

status(Store.open("corpus.store"))
{"path": ..., "shards": {"done": 7, "planned": 8, "missing": [5], "retried": 0}, "records": 6912, "hours": 11.3,
 "bytes": 1.6e9, "rejects": {"text_too_long": 3}, "targets": {"smollm2": {"done": 7, "kind": "dense"}}}
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sm_store import ledger
from sm_store.store import Store


def status(store: Store) -> dict[str, Any]:
    """Counts of shards, records, hours, bytes and rejects of an open store, and of its target sets."""
    parts = store.parts
    there = [part.shard for part in parts]
    planned = store.identity.plan.get("shards")
    done = [shard for shard in there if not isinstance(planned, int) or shard < planned]
    missing = sorted(set(range(planned)) - set(done)) if isinstance(planned, int) else []
    durations = store.columns(["duration"]).column("duration").to_numpy()
    rejects = store.rejects()
    return {
        "path": store.path,
        "layout": store.identity.layout,
        "dtype": store.identity.dtype,
        "compression": store.identity.compression,
        "error": _error(store),
        "encoder": dict(store.identity.encoder),
        "shards": {"done": len(done), "planned": planned, "missing": missing, "retried": len(there) - len(done)},
        "merged": store.identity.plan.get("merged", []),
        "finished": not missing,
        "records": len(store),
        "hours": float(np.sum(durations)) / 3600,
        "frames": int(store.frames.sum()),
        "bytes": sum(entry.size for part in parts for entry in part.files.values()),
        "rejected": len(rejects),
        "rejects": ledger.count(rejects),
        "targets": {name: _target(store, name, set(there)) for name in store.target_names},
    }


def _error(store: Store) -> dict[str, float] | None:
    """What int8 lost: the records' relative errors; None where nothing is lost."""
    if not store.identity.quantized or not len(store):
        return None
    errors = store.columns(["error"]).column("error").to_numpy()
    return {"median": float(np.median(errors)), "worst": float(errors.max())}


def _target(store: Store, name: str, features: set[int]) -> dict[str, Any]:
    spec = store.targets(name).spec
    done = store.done_shards(name) & features
    return {"llm": spec.llm, "kind": spec.kind, "done": len(done), "missing": sorted(features - done)}
