"""The only code in the store package that writes: temporary name, fsync, rename, fsync of the folder. A reader sees
either nothing or the whole thing, and after a power cut what was renamed is what was written.

    write_file(store / "store.json", data)                 one small file, replaced at once

    with staged(store / "shards" / "00007") as stage:      a folder, or (folder=False) one large file
        with stage.create("features/c/0/0") as out:
            out.write(rows)
    # here every file and folder is on disk, then .00007.tmp-* was renamed to 00007

    with locked(store, "shard-00007"):                     one writer; a second one gets StoreBusy
        ...

A crash leaves `.NAME.tmp-*` files behind; the next writer of NAME, who holds its lock, removes them. Locks
are `flock`s: they vanish with the process that held them, however it ended.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c
import numpy as np

from sm_store.errors import RUN_VERIFY, StoreBusy, StoreCorrupt, StoreError, StoreFormatError
from sm_store.paths import LOCKS
from sm_store.space import writing
from sm_store.system import advise

_SYNCS_AT_ONCE = 8
_LARGE = 64 * 1024  # bytes worth handing to another thread
_QUEUED = 8  # pieces of at least that size
_SENT = 4 * 1024 * 1024  # bytes handed to the disk at a time, while the next are made
_MOST_PIECES = 512  # half of Linux's IOV_MAX


def checksum(data: Any, start: int = 0) -> int:
    """crc32c of a buffer (bytes or a C-contiguous array), continuing from `start`."""
    if isinstance(data, np.ndarray):
        return int(google_crc32c.extend(start, data.reshape(-1).view(np.uint8))) if data.size else start
    return int(google_crc32c.extend(start, bytes(data)))


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished file must look like: its size in bytes and its crc32c."""

    size: int
    crc32c: int

    def difference(self, size: int | None, crc32c: int | None = None) -> str | None:
        """How a file of this size (None: there is none) and, if known, this crc32c differs; None: it does not."""
        if size is None:
            return "missing"
        if size != self.size:
            return f"{size} bytes where {self.size} were written"
        return None if crc32c in (None, self.crc32c) else "bytes differ from what was written (crc32c)"

    def require(self, path: Path, mapped: bool = False) -> np.ndarray:
        """The bytes of a file, (size,) uint8, after their number and crc32c were checked.

        Args:
            mapped: map the file instead of reading it into memory.

        Raises:
            StoreCorrupt: missing or different. StoreFormatError: it cannot be read.
        """
        data = np.empty(0, np.uint8)
        try:
            problem = self.difference(path.stat().st_size)
            if problem is None:
                data = np.memmap(path, np.uint8, "r") if mapped and self.size else np.fromfile(path, np.uint8)
                problem = self.difference(data.size, checksum(data))
        except (FileNotFoundError, NotADirectoryError):
            problem = self.difference(None)
        except OSError as error:
            raise StoreFormatError(f"{path}: cannot be read ({error.strerror})") from None
        if problem is not None:
            raise StoreCorrupt(f"{path}: {problem}; {RUN_VERIFY}")
        return data


class DurableFile:
    """A new file being written: counts its bytes and their crc32c, and is on disk when closed.

    A thread writes while the next buffers are made and their checksums computed, so a buffer must not change until
    the file is closed.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.crc32c = 0
        self._writer: ThreadPoolExecutor | None = None
        self._queued: deque[Future[None]] = deque()
        self._pieces: list[memoryview] = []  # not yet handed to the writer
        self._held = 0  # bytes of them
        self._sent = 0  # bytes already passed to the disk
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes | np.ndarray) -> int:
        """Append a buffer (bytes or a C-contiguous array); returns the buffer's own crc32c."""
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        self.crc32c = checksum(array, self.crc32c)
        self.size += len(array)
        self._pieces.append(array.data)
        self._held += len(array)
        if self._held >= _LARGE:
            self._queue()
        return checksum(array)

    def close(self) -> Written:
        """Flush to disk and close; returns what the file must look like from now on."""
        fd = self._fd
        try:
            self._drain()
            os.fsync(fd)
        finally:
            self._fd = -1
            os.close(fd)
        return Written(self.size, self.crc32c)

    def _queue(self) -> None:
        """Pass the pending pieces to the writing thread, which is at most _QUEUED of them behind."""
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "writer")
        if len(self._queued) == _QUEUED:
            self._queued.popleft().result()
        self._queued.append(self._writer.submit(self._write, self._pieces, self.size))
        self._pieces, self._held = [], 0

    def _write(self, pieces: list[memoryview], end: int) -> None:
        """Write pieces that end at byte `end` of the file; write-back starts before the fsync.

        (POSIX_FADV_DONTNEED only starts the write-back of dirty pages; they stay in the page cache.)
        """
        _write_all(self._fd, pieces)
        ready = (end - self._sent) // _SENT * _SENT  # its last pages may be written to again
        if ready:
            advise(self._fd, self._sent, ready, "DONTNEED")
            self._sent += ready

    def _drain(self) -> None:
        """Wait until everything so far is written; raises the error of a write that failed."""
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        while self._queued:
            self._queued.popleft().result()
        pieces, self._pieces = self._pieces, []
        _write_all(self._fd, pieces)

    def abandon(self) -> None:
        """Close the file, whose contents no longer matter."""
        self._pieces = []
        if self._fd >= 0:
            with suppress(OSError):
                self._drain()
            os.close(self._fd)
            self._fd = -1


@dataclass(slots=True)
class Stage:
    """A folder or file under its temporary name; `files` says what was written, by path below it.

    Everything is flushed to disk together at the end: flushing one small file after the other would wait for
    the disk each time.
    """

    path: Path
    files: dict[str, Written] = field(default_factory=dict)
    _open: list[DurableFile] = field(default_factory=list)

    @contextmanager
    def create(self, name: str) -> Iterator[DurableFile]:
        """A new file at the relative path `name` ("" = the stage itself is the file)."""
        target = self.path / PurePosixPath(name) if name else self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        out = DurableFile(target)
        self._open.append(out)
        yield out
        self.files[name] = Written(out.size, out.crc32c)

    def add(self, name: str, data: bytes) -> None:
        """Write a small file at once."""
        with self.create(name) as out:
            out.write(data)

    def sync(self) -> None:
        """Everything written so far is on disk, folders included."""
        folders = [Path(folder) for folder, _, _ in os.walk(self.path)]
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
            for tasks in ([out.close for out in self._open], [partial(sync_folder, path) for path in folders]):
                for done in [pool.submit(task) for task in tasks]:
                    done.result()

    def abandon(self) -> None:
        """Close what is open and remove everything."""
        for out in self._open:
            out.abandon()
        _discard(self.path)


@contextmanager
def staged(final: Path, folder: bool = True) -> Iterator[Stage]:
    """Build `final` under a temporary name beside it and rename it into place when the block ends without an error.

    What is already at `final` is replaced: call this only while holding the lock of its shard.
    """
    with writing(final):
        make_folder(final.parent)
        remove_leftovers(final)
        stage = Stage(_temporary(final))
        if folder:
            stage.path.mkdir()
        try:
            yield stage
            stage.sync()
            _replace(stage.path, final)
        except BaseException:
            stage.abandon()
            raise


def write_file(path: Path, data: bytes) -> Written:
    """Replace one file by `data`, atomically and durably. One writer of a path at a time."""
    with writing(path):
        make_folder(path.parent)
        remove_leftovers(path)
        temporary = _temporary(path)
        out = DurableFile(temporary)
        try:
            out.write(data)
            written = out.close()
            os.rename(temporary, path)
        except BaseException:
            out.abandon()
            _discard(temporary)
            raise
        sync_folder(path.parent)
    return written


def make_folder(path: Path) -> None:
    """Create a folder, and what is missing above it, durably.

    Raises:
        StoreFormatError: a file is there, or a link to nothing.
    """
    if not path.is_dir():
        make_folder(path.parent)
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError:
            what = "a link to nothing" if path.is_symlink() else "a file"
            raise StoreFormatError(f"{path}: {what} is there; remove it, or choose another folder") from None
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or folder durably; a missing path is no error."""
    if path.is_dir() and not path.is_symlink():
        grave = _temporary(path)
        os.rename(path, grave)
        sync_folder(path.parent)
        shutil.rmtree(grave)
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def move_files(source: Path, target: Path) -> None:
    """Move every file below the folder `source` to its place below `target`, one rename each; remove `source`."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        final = target / path.relative_to(source)
        make_folder(final.parent)
        _replace(path, final)
    remove(source)


def sync_folder(path: Path) -> None:
    """fsync of a folder's entries."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def leftovers(path: Path) -> list[Path]:
    """Temporary files and folders that crashed writers of `path` left beside it."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.tmp-*")) if path.parent.is_dir() else []


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is what a crashed writer left."""
    return name.startswith(".") and ".tmp-" in name


def remove_leftovers(path: Path) -> None:
    """Remove what a crashed writer of `path` left; the caller holds the lock."""
    for old in leftovers(path):
        _discard(old)


@contextmanager
def locked(root: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Hold the writers' lock `name` of the store at `root`; `wait` until it is free, or refuse at once.

    Raises:
        StoreBusy: another process (or thread) holds it, and `wait` is off.
    """
    folder = root / LOCKS
    make_folder(folder)
    path = folder / name
    with writing(path):
        fd = _acquire(path, f"{root}: {name}", fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        # Unlinked while held: whoever opened the old file finds in _acquire that it is no longer the path's.
        path.unlink(missing_ok=True)
        os.close(fd)


def _acquire(path: Path, what: str, how: int) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, how)
            if _same_file(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise StoreBusy(f"{what} is being written by another process; wait for it to end") from None
        except OSError as error:
            os.close(fd)
            raise StoreError(
                f"{path}: cannot be locked ({error.strerror}); a store is written to file systems that have flock: "
                "write it to a local disk, or mount the network's with locks"
            ) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _write_all(fd: int, pieces: list[memoryview]) -> None:
    for start in range(0, len(pieces), _MOST_PIECES):
        part = pieces[start : start + _MOST_PIECES]
        done = os.writev(fd, part)
        if done < sum(map(len, part)):
            rest = memoryview(b"".join(part))
            while done < len(rest):
                done += os.write(fd, rest[done:])


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def _replace(source: Path, final: Path) -> None:
    if final.is_dir() and not final.is_symlink():
        remove(final)
    os.rename(source, final)
    sync_folder(final.parent)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
