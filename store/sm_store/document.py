"""The store's JSON documents (store.json, target.json): format name, version, and a checksum over the rest.

    {"crc32c": 1203, "format": "speechmapper-store", "identity": {...}, "targets": {...}, "version": 1}

The checksum is the crc32c of the document's canonical form (sorted keys, no spaces, UTF-8) without that key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sm_store.durable import checksum, write_file
from sm_store.errors import ConfigError, SpeechMapperError, StoreCorrupt, StoreFormatError, StoreMissing
from sm_store.identity import Identity, canonical, utf8
from sm_store.paths import STORE
from sm_store.records import TargetSpec

FORMAT = "speechmapper-store"
FORMAT_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = {"features", "features.scales", "json"}


def encode(body: Mapping[str, Any]) -> bytes:
    """The file of a document."""
    full = {**body, "format": FORMAT, "version": FORMAT_VERSION}
    sealed = {**full, "crc32c": checksum(canonical(full))}
    text = json.dumps(sealed, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return utf8(text) + b"\n"


def read(path: Path) -> dict[str, Any]:
    """A document's contents, as given to `encode`.

    Raises:
        StoreMissing: no such file. StoreFormatError: not of this format or version. StoreCorrupt: edited.
    """
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreMissing(f"{path.parent}: no store there ({path.name} is missing)") from None
    except (ValueError, RecursionError, OSError):
        raise StoreFormatError(f"{path}: not a document of a SpeechMapper store") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StoreFormatError(f"{path}: not a document of a SpeechMapper store")
    if data.get("version") != FORMAT_VERSION:
        found = data.get("version")
        raise StoreFormatError(f"{path}: format version {found!r}; this release reads {FORMAT_VERSION}")
    body = {key: value for key, value in data.items() if key not in ("format", "version", "crc32c")}
    try:
        untouched = raw == encode(body)
    except (ValueError, RecursionError):
        untouched = False
    if not untouched:
        raise StoreCorrupt(f"{path}: edited or damaged (crc32c); restore it or extract again")
    return body


def read_store(root: Path) -> tuple[Identity, dict[str, TargetSpec]]:
    """store.json: the identity, and the target sets by name.

    Raises:
        StoreMissing, StoreFormatError, StoreCorrupt: as `read`.
    """
    path = root / STORE
    data = read(path)
    try:
        specs = {name: TargetSpec.from_json(entry) for name, entry in data["targets"].items()}
        for name, spec in specs.items():
            check_target_name(name)
            if spec.name != name:
                raise StoreFormatError(f"target set {spec.name!r} under the name {name!r}")
        return Identity.from_json(data["identity"]), specs
    except (KeyError, TypeError, ValueError, AttributeError, SpeechMapperError) as error:
        raise StoreFormatError(f"{path}: {error}") from None


def write_store(root: Path, identity: Identity, specs: Mapping[str, TargetSpec]) -> None:
    """Replace store.json; the caller holds the store's lock."""
    body = {"identity": identity.to_json(), "targets": {name: spec.to_json() for name, spec in specs.items()}}
    write_file(root / STORE, encode(body))


def check_target_name(name: str) -> None:
    """Raises ConfigError where `name` cannot be a target set's."""
    if not _NAME.fullmatch(name) or name in _RESERVED or name.endswith((".npy", ".tokens", ".json")):
        raise ConfigError(f"target set name {name!r}: use letters, digits, '.', '_', '-' (64 at most)")
