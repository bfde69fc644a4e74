"""Stores at any fsspec URL, read through a bounded cache on this machine.

    Store.open("s3://bucket/corpus.store")

    s3://bucket/corpus.store/store.json, catalog/, targets/NAME/table.npy, ...   copied to CACHE/store/ when opened
                            /shards/00007.tar                                   copied to CACHE/data/ when first read

What is small is mirrored, and only what changed is fetched again. A shard file is fetched whole, must have the size
and crc32c that the catalog promises, and is named by them in the cache, so that another version is another file.
Beyond the bound, the files unused for longest are removed (files being fetched come on top). Processes on one machine
share the cache; a store is never written to through it. Credentials and the like are fsspec's own (its configuration
files and environment).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from sm_store import durable
from sm_store.durable import Written
from sm_store.errors import RUN_VERIFY, ConfigError, StoreBusy, StoreCorrupt, StoreError, StoreMissing
from sm_store.extras import missing_extra
from sm_store.identity import canonical
from sm_store.paths import STORE, is_shard_data
from sm_store.reading.files import OpenFile, ShardFiles

CACHE = "SPEECHMAPPER_CACHE"  # environment: the folder of all stores' caches
CACHE_GB = "SPEECHMAPPER_CACHE_GB"  # environment: bound of one store's cached shard files
_DEFAULT_GB = 50.0
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_PIECE = 8 * 1024 * 1024
_AT_ONCE = 16


def url_of(path: str | Path) -> str | None:
    """The URL that `path` is, also when pathlib has taken one of its slashes; None for a folder here."""
    text = str(path)
    scheme = _URL.match(text)
    if scheme is None or "://" in text:
        return text if scheme else None
    return text.replace(":/", ":///" if scheme[1] in ("file", "local") else "://", 1)


def local_folder(path: str | Path) -> Path:
    """The folder at `path`, for those who write or read it in place. Raises StoreError for a URL."""
    url = url_of(path)
    if url is not None:
        raise StoreError(f"{url}: a store at a URL is only read (sm-train, sm-eval, status, inspect, export); copy it")
    return Path(path)


@dataclass(frozen=True, slots=True)
class Cache:
    """Where shard files of remote stores are kept, and how many bytes of each store at most."""

    folder: Path
    most_bytes: int

    @classmethod
    def default(cls) -> Cache:
        """From the environment variables. Raises ConfigError."""
        folder = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "speechmapper")
        text = os.environ.get(CACHE_GB) or str(_DEFAULT_GB)
        try:
            most = float(text)
            if not 0 < most < float("inf"):
                raise ValueError(text)
        except ValueError:
            raise ConfigError(f"{CACHE_GB}={text}: give a positive number of gigabytes") from None
        return cls(Path(folder).expanduser(), int(most * 1e9))


class RemoteFiles(ShardFiles):
    """A remote store's data files, fetched when first needed; `root` is the mirror of its small files."""

    at_hand = False

    def __init__(self, url: str, cache: Cache) -> None:
        self.url = url.rstrip("/")
        self._cache = cache
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.url)[-60:].strip("-")
        self._folder = cache.folder / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"
        super().__init__(self._folder / "store")
        self._sizes = self._mirror()

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.url, self._cache)

    def sizes(self, files: Sequence[str]) -> list[int | None]:
        """As listed when the store was opened."""
        return [self._sizes.get(file) for file in files]

    def where(self, file: str) -> str:
        return f"{self.url}/{file}" if file else self.url

    def prepare(self, files: Mapping[str, Written]) -> None:
        """Fetch what is not in the cache, several at once."""
        missing = [(file, promised) for file, promised in files.items() if not self._cached(file, promised).is_file()]
        if len(missing) > 1:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for done in [pool.submit(self._fetch, *each) for each in missing]:
                    done.result()

    def get(self, file: str, promised: Written) -> OpenFile:
        """The open file. It is kept open by its user alone, so that what goes from the cache goes from the disk.

        Raises:
            StoreCorrupt: the remote file is not what was written. StoreError: it cannot be fetched.
        """
        path = self._cached(file, promised)
        while True:
            try:
                opened = OpenFile(path)
            except FileNotFoundError:
                self._fetch(file, promised)
            else:
                if os.fstat(opened.fd).st_size == promised.size:
                    os.utime(opened.fd)
                    return opened
                path.unlink(missing_ok=True)

    def _cached(self, file: str, promised: Written) -> Path:
        return self._folder / "data" / f"{promised.crc32c:08x}-{promised.size}-{file.replace('/', ',')}"

    def _fetch(self, file: str, promised: Written) -> None:
        path = self._cached(file, promised)
        if promised.size > self._cache.most_bytes:
            raise ConfigError(f"{CACHE_GB}: {self.where(file)} alone takes {promised.size / 1e9:.3f} GB; give more")
        with durable.locked(self._folder, f"{promised.crc32c:08x}", wait=True):
            if path.is_file():
                return
            self._make_room(promised.size)
            found = self._copy(file, path)
            problem = promised.difference(found.size, found.crc32c)
            if problem is not None:
                durable.remove(path)
                raise StoreCorrupt(f"{self.where(file)}: {problem}; {RUN_VERIFY} on the machine that has the store")

    def _make_room(self, size: int) -> None:
        """Remove what was unused for longest until `size` more bytes are within the bound."""
        with durable.locked(self._folder, "room", wait=True):
            self._remove_abandoned()
            kept = [(entry.stat(), entry) for entry in (self._folder / "data").glob("[!.]*")]
            total = sum(stat.st_size for stat, _ in kept) + size
            for stat, entry in sorted(kept, key=lambda each: each[0].st_mtime_ns):
                if total <= self._cache.most_bytes:
                    break
                durable.remove(entry)
                total -= stat.st_size

    def _remove_abandoned(self) -> None:
        """Remove partly fetched files of killed processes; a live process holds the file's lock."""
        for entry in (self._folder / "data").glob(".*"):
            with suppress(StoreBusy), durable.locked(self._folder, entry.name[1:9]):
                entry.unlink(missing_ok=True)

    def _copy(self, file: str, path: Path) -> Written:
        """Copy a remote file, piece by piece."""
        with durable.staged(path, folder=False) as stage, stage.create("") as out:
            for piece in self._pieces(file):
                out.write(piece)
        return stage.files[""]

    def _pieces(self, file: str) -> Iterator[bytes]:
        with _store_errors(self.where(file)):
            fs, base = fsspec.core.url_to_fs(self.url)  # a process that was forked gets another one
            with fs.open(f"{base}/{file}", "rb") as source:
                while piece := source.read(_PIECE):
                    yield piece

    # -- the mirror --------------------------------------------------------------------------------------

    def _mirror(self) -> dict[str, int]:
        """Bring the small files up to date; returns the size of every remote file by its path."""
        with durable.locked(self._folder, "mirror", wait=True):
            listing = self._listing()
            small = {file: _token(info) for file, info in listing.items() if not is_shard_data(file)}
            state = self._folder / "mirror.json"
            have = _read_state(state)
            current = {
                file for file, token in small.items() if have.get(file) == token and (self.root / file).is_file()
            }
            if have != small or current != set(small):
                # Files that are about to change are forgotten first: a mirror that was stopped is brought up again.
                durable.write_file(state, canonical({file: small[file] for file in sorted(current)}))
                for gone in sorted(set(have) - set(small)):
                    durable.remove(self.root / gone)
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    fetched = [pool.submit(self._copy, file, self.root / file) for file in sorted(set(small) - current)]
                    for done in fetched:
                        done.result()
                durable.write_file(state, canonical(small))
        return {file: int(info["size"]) for file, info in listing.items()}

    def _listing(self) -> dict[str, Mapping[str, Any]]:
        """Every remote file by its path below the store, without what readers never look at."""
        with _store_errors(self.url):
            fs, base = fsspec.core.url_to_fs(self.url)
            fs.invalidate_cache(base)
            found = fs.find(base, detail=True)
        listing = {}
        for path, info in found.items():
            file = path.removeprefix(base).lstrip("/")
            parts = PurePosixPath(file).parts
            if not path.startswith(base) or ".." in parts or not isinstance(info.get("size"), int):
                raise StoreError(f"{self.url}: lists {path!r}, outside itself or without a size; copy the store first")
            if not any(part.startswith(".") for part in parts):
                listing[file] = info
        if STORE not in listing:
            raise StoreMissing(f"{self.url}: no store there ({STORE} is missing)")
        return listing


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    """Errors of a file system as one of ours that names the URL."""
    try:
        yield
    except FileNotFoundError:
        raise StoreMissing(f"{what}: nothing there") from None
    except StoreError:
        raise
    except ImportError as error:  # fsspec's own, which names the package but no extra
        missing = missing_extra(error.__cause__) if isinstance(error.__cause__, ModuleNotFoundError) else None
        raise StoreError(f"{what}: {missing or error}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{what}: cannot be read ({error})") from error


def _token(info: Mapping[str, Any]) -> str:
    """Stands for one version of a remote file: everything its file system reports."""
    reported = sorted((name, str(value)) for name, value in info.items())
    return hashlib.sha256(canonical(reported)).hexdigest()[:32]


def _read_state(path: Path) -> dict[str, str]:
    try:
        state = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(file): str(token) for file, token in state.items()} if isinstance(state, dict) else {}
