"""Where each file of a store is: the list of files in FORMAT.md, as functions.

    paths.part(7)                 catalog/00007.parquet
    paths.part(7, "llama")        targets/llama/catalog/00007.parquet
    root / paths.ledger(7)        the path of a shard's rejects in the store at `root`

Paths are strings relative to the store's folder, with forward slashes: catalog parts list them in this form, and
they can be joined to a folder or to a URL. `target` is the name of a target set; None stands for the features.
"""

from __future__ import annotations

import re

STORE = "store.json"
RECIPE = "extract.json"  # how to extract the store again
REPAIR = "repair.json"  # what an unfinished repair has discarded
LOCKS = ".locks"
SHARDS, CATALOG, LEDGER, TARGETS = "shards", "catalog", "ledger", "targets"
FOLDERS = (SHARDS, TARGETS, CATALOG, LEDGER)  # those of an empty store

GROUP = "zarr.json"  # makes a folder a Zarr v3 group
GROUPS = (GROUP, f"{SHARDS}/{GROUP}", f"{TARGETS}/{GROUP}")  # those of a store without shards and target sets

# Below a target set's folder, as target.json lists them.
SPEC = "target.json"
TABLE = "table.npy"
TOKENIZER = "tokenizer"

_SHARD_DATA = re.compile(rf"({TARGETS}/[^/]+/)?{SHARDS}/.+")
_OF_A_SHARD = re.compile(rf"({SHARDS}|{LEDGER}|{TARGETS})(/[A-Za-z0-9._-]+)+")


def shard_name(shard: int) -> str:
    """A shard's number in at least five digits."""
    return f"{shard:05d}"


def target_folder(target: str) -> str:
    """The folder of a target set."""
    return f"{TARGETS}/{target}"


def target_spec(target: str) -> str:
    """The document that describes a target set."""
    return f"{target_folder(target)}/{SPEC}"


def shards_folder(target: str | None = None) -> str:
    """The folder of the shards' data."""
    return _below(target, SHARDS)


def shard_folder(shard: int, target: str | None = None) -> str:
    """A shard's Zarr group."""
    return f"{shards_folder(target)}/{shard_name(shard)}"


def shard_tar(shard: int, target: str | None = None) -> str:
    """A shard's tar."""
    return f"{shard_folder(shard, target)}.tar"


def catalog_folder(target: str | None = None) -> str:
    """The folder of the catalog's parts."""
    return _below(target, CATALOG)


def part(shard: int, target: str | None = None) -> str:
    """A shard's catalog part; its existence means that the shard is committed."""
    return f"{catalog_folder(target)}/{shard_name(shard)}.parquet"


def part_seal(shard: int, target: str | None = None) -> str:
    """Size and crc32c of a catalog part. Tools that open the folder skip names that begin with `_`."""
    return f"{catalog_folder(target)}/_{shard_name(shard)}.crc32c"


def index(target: str | None = None) -> str:
    """The numbers of many catalog parts in one file."""
    return f"{catalog_folder(target)}/_index.arrow"


def index_seal(target: str | None = None) -> str:
    """Size and crc32c of the index."""
    return f"{catalog_folder(target)}/_index.crc32c"


def ledger(shard: int, target: str | None = None) -> str:
    """A shard's rejects; of a target set that was added after extraction, the records without a target."""
    return f"{_below(target, LEDGER)}/{shard_name(shard)}.jsonl"


def shard_lock(shard: int) -> str:
    """The name of the lock that a shard's writer holds, below `.locks`."""
    return f"shard-{shard_name(shard)}"


def is_shard_data(path: str) -> bool:
    """Whether a file holds rows of a shard: these are large, and all others are small."""
    return _SHARD_DATA.fullmatch(path) is not None


def is_file_of_a_shard(path: str) -> bool:
    """Whether a catalog part may list this path: inside the store, in a folder where shards have files."""
    return _OF_A_SHARD.fullmatch(path) is not None and ".." not in path.split("/")


def _below(target: str | None, folder: str) -> str:
    return folder if target is None else f"{target_folder(target)}/{folder}"
