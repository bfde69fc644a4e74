"""What a store was made from, and how: written once, compared whenever the store is opened for more work.

    mine = Identity(encoder={"id": "facebook/seamless-m4t-v2-large", ..., "width": 1024}, manifest_sha256="9f..")
    store.identity.require_same(mine, "corpus.store")
    # IdentityMismatch: corpus.store: made with other settings (found != requested): encoder.layer: 24 != 18; ...

`packages` (library versions) is recorded and shown, never compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sm_store.codec import codec_of
from sm_store.dtypes import NUMPY
from sm_store.errors import ConfigError, IdentityMismatch, StoreFormatError
from sm_store.int8 import NAME as INT8

LAYOUTS = ("zarr", "webdataset")
FEATURE_FIELDS = ("encoder", "average", "frame_rate", "front_end")  # what decides a feature's meaning
_INFORMATION = frozenset({"packages"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that decides the bytes of a store's features.

    Attributes:
        encoder: id, revision, weights_sha256, family, layer, tap, width (JSON values; `width` is needed).
        average: frames averaged into one.
        frame_rate: stored frames per second, after averaging.
        dtype: float16, bfloat16 or float32.
        compression: None; a lossless codec by name; `int8`, where features lose precision and targets do not.
        layout: zarr or webdataset.
        front_end: the audio front end, as the encoder describes it.
        normalizer: version of the text normalisation.
        manifest_sha256: of the manifest the store is made from; `split`: the part of it that was extracted.
        plan: the shard plan: `shards` (how many) and the rule by which utterances are divided into them.
        packages: versions of libraries, for information.
    """

    encoder: Mapping[str, Any]
    average: int = 2
    frame_rate: float = 25.0
    dtype: str = "float16"
    compression: str | None = None
    layout: str = "zarr"
    front_end: Mapping[str, Any] = field(default_factory=dict)
    normalizer: str = "mms-1"
    manifest_sha256: str = ""
    split: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"store layout {self.layout!r}: choose {' or '.join(LAYOUTS)}")
        if self.dtype not in NUMPY:
            raise ConfigError(f"store dtype {self.dtype!r}: choose one of {', '.join(NUMPY)}")
        codec_of(self.compression, NUMPY[self.dtype].itemsize)
        width = self.encoder.get("width")
        if not isinstance(width, int) or width < 1:
            raise ConfigError(f"store identity: encoder.width must be a positive integer, not {width!r}")

    @property
    def width(self) -> int:
        """D, the width of the features."""
        return int(self.encoder["width"])

    @property
    def quantized(self) -> bool:
        """Whether the features are stored as int8 with one scale per frame."""
        return self.compression == INT8

    def to_json(self) -> dict[str, Any]:
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        plain: dict[str, Any] = json.loads(json.dumps(data, default=dict))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """Raises StoreFormatError where a key is missing or unknown."""
        names = {item.name for item in fields(cls)}
        wrong = sorted(names.symmetric_difference(data))
        if wrong:
            raise StoreFormatError(f"store identity: missing or unknown keys {wrong}")
        try:
            return cls(**data)
        except (ConfigError, AttributeError) as error:
            raise StoreFormatError(f"store identity: {error}") from None

    def diff(self, other: Identity) -> list[str]:
        """One line "field: mine != theirs" for each difference that matters."""
        return diff_json(self.to_json(), other.to_json(), ignore=_INFORMATION)

    def require_same(self, other: Identity, what: str) -> None:
        """Raises IdentityMismatch with the whole difference in one line; `what` names the store."""
        require_same(self.diff(other), what)

    def sha256(self) -> str:
        """Fingerprint of what is compared."""
        data = {key: value for key, value in self.to_json().items() if key not in _INFORMATION}
        return hashlib.sha256(canonical(data)).hexdigest()


def feature_meaning(made: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the meaning of features, out of an identity as JSON; not the precision they were computed in."""
    meaning = {name: made.get(name) for name in FEATURE_FIELDS}
    encoder = dict(meaning["encoder"] or {})
    encoder.pop("compute_dtype", None)
    return {**meaning, "encoder": encoder}


def require_same(differences: list[str], what: str) -> None:
    """Raises IdentityMismatch naming `what` if there are differences."""
    if differences:
        remedy = "use the same settings or another folder"
        diff = "; ".join(differences)
        raise IdentityMismatch(f"{what}: made with other settings (found != requested): {diff}; {remedy}")


def diff_json(ours: Mapping[str, Any], theirs: Mapping[str, Any], ignore: frozenset[str] = frozenset()) -> list[str]:
    """ "key.path: ours != theirs" for each leaf that differs between two JSON objects."""
    left, right = dict(_leaves(ours, "", ignore)), dict(_leaves(theirs, "", ignore))
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if left.get(key, _ABSENT) != right.get(key, _ABSENT):
            lines.append(f"{key}: {_show(left.get(key, _ABSENT))} != {_show(right.get(key, _ABSENT))}")
    return lines


def canonical(data: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return utf8(text)


def utf8(json_text: str) -> bytes:
    """JSON as UTF-8. A byte of a file's name that is no UTF-8 is half a surrogate pair in Python: it is written as JSON
    escapes it (`\\udce4`), and read back as the same name."""
    return json_text.encode("utf-8", "backslashreplace")


_ABSENT = object()


def _leaves(data: Mapping[str, Any], prefix: str, ignore: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if key in ignore and not prefix:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.", ignore)
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
