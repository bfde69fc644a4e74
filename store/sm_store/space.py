"""Room on a disk: checked before work that needs it, and said plainly where it runs out.

require_space(Path("corpus.store"), 177_000_000_000, "the features")      StoreError, while nothing is written
with writing(path):
    os.writev(...)              "No space left on device" becomes RunFailed: which file, and what to do
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm_store.errors import RunFailed, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room for `needed` bytes below `folder`, which need not exist yet.

    Raises:
        StoreError: it has not.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise StoreError(
            f"{folder}: {what} takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on its disk; "
            "free some, or choose another disk"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is written to `path` while the block runs: a full disk or quota is an error that names it.

    Raises:
        RunFailed: no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RunFailed(
            f"{path}: {str(error.strerror).lower()}; free some and run the same command again: what is committed stays"
        ) from error
