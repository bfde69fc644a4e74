"""A store's data files, each checked for the size that was written before anything is read from it.

files = ShardFiles(root)                    of a local store; `remote.RemoteFiles` of one at a URL
files.sizes(["shards/00007.tar"])           [104857600], None where it is missing
os.preadv(files.get(file, promised).fd, ...)
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sm_store.durable import Written
from sm_store.errors import RUN_VERIFY, StoreCorrupt

_OPEN_FILES = 256


class OpenFile:
    """A file descriptor that is closed when its last user is gone."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class ShardFiles:
    """Data files in a folder, opened when needed, the most recently used kept open."""

    at_hand = True  # nothing to prepare

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardFiles, (self.root,)

    def sizes(self, files: Sequence[str]) -> list[int | None]:
        """Size in bytes of each file, None where it is missing."""
        return sizes_of([self.root / file for file in files])

    def where(self, file: str) -> str:
        """A file's path or URL, for messages."""
        return str(self.root / file)

    def prepare(self, files: Mapping[str, Written]) -> None:
        """Announce files that are about to be read; local files need no preparation."""

    def get(self, file: str, promised: Written) -> OpenFile:
        """The open file, after its size was checked. Raises StoreCorrupt."""
        with self._lock:
            found = self._open.get(file)
            if found is not None:
                self._open.move_to_end(file)
                return found
            opened = self._check(file, promised)
            self._open[file] = opened
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return opened

    def _check(self, file: str, promised: Written) -> OpenFile:
        path = self.root / file
        try:
            opened = OpenFile(path)
            problem = promised.difference(os.fstat(opened.fd).st_size)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            problem = promised.difference(None)
        if problem is not None:
            raise StoreCorrupt(f"{path}: {problem}; {RUN_VERIFY}")
        return opened


def sizes_of(paths: Sequence[Path]) -> list[int | None]:
    """Size in bytes of each file, None where it is missing."""
    found: list[int | None] = []
    for path in paths:
        try:
            found.append(path.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            found.append(None)
    return found
