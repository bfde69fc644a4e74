"""What `status` and `inspect` print of a store, as JSON values and as text.

facts = inspect_store(Path("corpus.store"))       plain JSON values
print("\\n".join(inspect_lines(facts)))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sm_pipeline.pages.distributions import quantiles
from sm_store import Store
from sm_store.fields import CATEGORIES
from sm_store.ledger import REASONS
from sm_store.paths import RECIPE
from sm_store.status import status

GIGABYTE = 1e9
MOST_COMMON = 8  # values of a catalog column that `inspect` names


def store_status(path: Path, with_rejects: bool = False) -> dict[str, Any]:
    """What is done, missing and rejected.

    Raises:
        StoreError: no store there, or a damaged one.
    """
    store = Store.open(path)
    facts = status(store)
    if with_rejects:
        listed = [{"id": each.id, "reason": each.reason, "detail": each.detail} for each in store.rejects()]
        facts["rejected_utterances"] = listed
    return facts


def status_lines(facts: Mapping[str, Any]) -> list[str]:
    """`store_status` as lines of text."""
    shards = facts["shards"]
    planned = shards["planned"] if shards["planned"] is not None else "?"
    state = "finished" if facts["finished"] else f"not finished: run the same {_maker(facts)} again"
    lines = [
        f"{facts['path']}: {state}",
        f"  shards    {shards['done']} of {planned}"
        + (f", missing {_few(shards['missing'])}" if shards["missing"] else "")
        + (f", and {shards['retried']} of what was retried" if shards["retried"] else ""),
        *(f"  merged    {_origin(each)}" for each in facts["merged"]),
        f"  records   {facts['records']}, {facts['hours']:.2f} hours, {facts['bytes'] / GIGABYTE:.3f} GB",
        f"  rejected  {facts['rejected']}",
    ]
    if facts["error"] is not None:
        lost = ", ".join(f"{name} {value:.2%}" for name, value in facts["error"].items())
        lines.append(f"  int8      relative error of a record's features: {lost}")
    lines += [f"    {number:6d}  {reason}: {REASONS.get(reason, '')}" for reason, number in facts["rejects"].items()]
    for name, target in facts["targets"].items():
        missing = f", missing {_few(target['missing'])}: run embed" if target["missing"] else ""
        lines.append(f"  targets   {name} ({target['kind']}) from {target['llm']}: {target['done']} shards{missing}")
    return lines


def _maker(facts: Mapping[str, Any]) -> str:
    """The command that creates and finishes a store."""
    if facts["merged"]:
        return "merge command"
    return "extract command" if (Path(facts["path"]) / RECIPE).is_file() else "extract or export command"


def _origin(merged: Mapping[str, Any]) -> str:
    """A merged store, described by the manifest it was extracted from."""
    split, shards = merged["split"] or "all splits", merged["plan"].get("shards", "?")
    return f"manifest {merged['manifest_sha256'][:12]}, {split}, {shards} shards"


def reject_lines(facts: Mapping[str, Any]) -> list[str]:
    """The rejected utterances, one per line."""
    return [f"{each['id']}\t{each['reason']}\t{each['detail']}" for each in facts["rejected_utterances"]]


def inspect_store(path: Path) -> dict[str, Any]:
    """Identity, lengths, fields and target sets.

    Raises:
        StoreError: no store there, or a damaged one.
    """
    return inspect_opened(Store.open(path))


def inspect_opened(store: Store) -> dict[str, Any]:
    """`inspect_store` for an open store."""
    table = store.columns(["duration", *CATEGORIES])
    facts = status(store)
    facts["identity"] = store.identity.to_json()
    facts["seconds"] = quantiles(table.column("duration").to_numpy())
    facts["frames_per_record"] = quantiles(store.frames)
    facts["fields"] = {name: _values(table.column(name)) for name in CATEGORIES}
    for name in store.target_names:
        facts["targets"][name] |= _target(store, name)
    return facts


def inspect_lines(facts: Mapping[str, Any]) -> list[str]:
    """`inspect_store` as lines of text."""
    identity = facts["identity"]
    encoder = identity["encoder"]
    revision = f"@{encoder['revision'][:12]}" if encoder.get("revision") else ""
    lines = [
        *status_lines(facts),
        f"  encoder   {encoder.get('id')}{revision}, layer {encoder.get('layer')} ({encoder.get('tap')}), "
        f"width {encoder['width']}",
        f"  features  {identity['dtype']}, {identity['frame_rate']:g} a second "
        f"(mean of {identity['average']}), as {identity['layout']}, compression {identity['compression'] or 'none'}",
        f"  seconds   {_in_a_row(facts['seconds'])}",
        f"  frames    {_in_a_row(facts['frames_per_record'])}",
    ]
    for name, values in facts["fields"].items():
        if values["distinct"]:
            common = ", ".join(f"{value} {number}" for value, number in values["most_common"].items())
            more = f" and {values['distinct'] - MOST_COMMON} more" if values["distinct"] > MOST_COMMON else ""
            lines.append(f"  {name:9} {common}{more}")
    for name, target in facts["targets"].items():
        pad = f"pad {target['pad_token']!r} ({target['pad_id']})"
        lines.append(
            f"  target    {name}: {target['vocabulary']} x {target['width']}, {pad}, "
            f"mean square {target['table_scale']:.3g}, tokens {_in_a_row(target['tokens_per_record'])}, "
            f"without target {target['untargeted']}"
        )
    return lines + ([f"  page      {facts['html']}"] if "html" in facts else [])


def _target(store: Store, name: str) -> dict[str, Any]:
    spec = store.targets(name).spec
    facts: dict[str, Any] = {
        "revision": spec.revision,
        "vocabulary": spec.vocabulary,
        "width": spec.width,
        "pad_token": spec.pad_token,
        "pad_id": spec.pad_id,
        "table_scale": spec.table_scale,
    }
    complete = store.done_shards() <= store.done_shards(name)
    counts = store.token_counts(name) if complete else np.zeros(0, np.int64)
    return {**facts, "tokens_per_record": quantiles(counts), "untargeted": int((counts == 0).sum())}


def _values(column: Any) -> dict[str, Any]:
    counted = pa.Table.from_struct_array(column.drop_null().value_counts())
    first = counted.sort_by([("counts", "descending"), ("values", "ascending")]).slice(0, MOST_COMMON).to_pylist()
    return {"distinct": len(counted), "most_common": {item["values"]: item["counts"] for item in first}}


def _in_a_row(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items()) or "none"


def _few(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:MOST_COMMON]))
    return f"{shown} and {len(numbers) - MOST_COMMON} more" if len(numbers) > MOST_COMMON else shown
